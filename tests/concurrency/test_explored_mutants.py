"""Planted bugs that need an interleaving are found within a stated number of executions; the real store passes.

Goal: to know that the searches look where it matters, and how long they take. Method: for each bug the search of its
race is run with the bug, then without it for as many executions. `python -m benchmarks.exploring` prints how many
executions each strategy takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pytest

from models.mutants import mutant_by_id
from models.mutants.interleaving import INTERLEAVING_MUTANTS, RACE_OF
from models.searches import RACES
from storecheck import Dpor, Exhausted, MachineParameters, PreemptionBounded, RandomSchedules
from storecheck.explore import explore
from storecheck.pytest_plugin import Evidence

SEED: Final = 1

BOUNDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("B04", "B63i"), 120),
    **dict.fromkeys(("B07", "B46i", "B49i", "B54i", "B58"), 60),
}
"""Executions of PCT and random walks within which a bug is found."""

BOUND_OF_THE_OTHERS: Final = 20

BOUNDED: Final[Mapping[str, int]] = {"B54j": 60, "B71i": 20}
"""The same for schedules with at most one preemption: these two want one exact moment and nothing else."""


DPOR_EXECUTIONS: Final = 20


@pytest.mark.parametrize(
    "mutant_id",
    [
        pytest.param(
            mutant_id, id=mutant_id, marks=pytest.mark.mutant(mutant_id, promise=mutant_by_id(mutant_id).promise)
        )
        for mutant_id in RACE_OF
    ],
)
def test_a_bug_is_found_within_its_bound_and_the_real_store_passes(mutant_id: str, evidence: Evidence) -> None:
    """With the bug some schedule of the search fails; without it, none of as many does."""
    race, transform = RACES[RACE_OF[mutant_id]], mutant_by_id(mutant_id).transform
    bound = BOUNDED.get(mutant_id) or BOUNDS.get(mutant_id, BOUND_OF_THE_OTHERS)
    strategy = PreemptionBounded(1) if mutant_id in BOUNDED else RandomSchedules(executions=bound, seed=SEED)
    killed = explore(
        race.program,
        strategy=strategy,
        check=race.check(transform),
        transform=transform,
        max_executions=bound,
        minimise=False,
    )
    assert killed.failure is not None, f"{mutant_id} survived {killed.verdict} of {race.name!r}"
    real = explore(race.program, strategy=strategy, check=race.check(), max_executions=bound)
    assert real.failure is None, real
    assert real.executions == bound or killed.executions <= real.executions
    evidence.add(schedules=killed.executions + real.executions, histories=killed.executions + real.executions)


def test_the_reduction_finds_what_only_the_order_of_operations_shows() -> None:
    """That a reader stays behind is wrong only if it began after the writer was over: DPOR keeps that order, too."""
    race, transform = RACES["a file that appears"], mutant_by_id("B71i").transform
    program = replace(race.program, machine=MachineParameters(step_ns=0, time_choice="all"))
    killed = explore(program, strategy=Dpor(), check=race.check(transform), transform=transform, minimise=False)
    assert killed.failure is not None
    assert killed.executions <= DPOR_EXECUTIONS
    real = explore(program, strategy=Dpor(), check=race.check())
    assert real.failure is None
    assert isinstance(real.verdict, Exhausted)


def test_there_are_more_than_twenty_bugs_that_need_an_interleaving() -> None:
    """Without any preemption most of them stay hidden: it is the schedules that find them."""
    assert len(INTERLEAVING_MUTANTS) > 20
    hidden = 0
    for mutant in INTERLEAVING_MUTANTS:
        if mutant.id not in RACE_OF:
            continue  # over a large file: `test_explored_large`
        race = RACES[RACE_OF[mutant.id]]
        found = explore(
            race.program,
            strategy=PreemptionBounded(0),
            check=race.check(mutant.transform),
            transform=mutant.transform,
            max_executions=20,
            minimise=False,
        )
        hidden += found.failure is None
    assert hidden >= 20
