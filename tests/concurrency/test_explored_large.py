"""Schedules of small programs on a store file of several chunks.

Goal: what is read, compared and written in parts is still read, compared and written as a whole. Method: as for the
small races, with few schedules, since a run copies and parses megabytes; one file is kept whole by the caches, one is
over their limit and over the size that is compared twice.
"""

from __future__ import annotations

import pytest

from models.mutants import mutant_by_id
from models.mutants.interleaving import race_id
from models.searches import LARGE_RACES, Race
from sessionstore.content import CHUNK_BYTES
from sessionstore.store import MAX_COMPARED_TWICE_BYTES
from storecheck import PreemptionBounded, RandomSchedules
from storecheck.drawing import verify
from storecheck.explore import explore
from storecheck.pytest_plugin import Evidence

BOUNDED_EXECUTIONS = 12
RANDOM_EXECUTIONS = 12
RANDOM_SEED = 1


@pytest.mark.parametrize(
    "race",
    [
        pytest.param(race, id=race_id(race.name), marks=pytest.mark.promise(*race.promises))
        for race in LARGE_RACES.values()
    ],
)
def test_a_race_over_several_chunks(race: Race, evidence: Evidence) -> None:
    """No schedule that is run breaks a promise of the race."""
    for strategy in (RandomSchedules(executions=RANDOM_EXECUTIONS, seed=RANDOM_SEED), PreemptionBounded(1)):
        result = verify(
            race.program,
            strategy=strategy,
            check=race.check(),
            check_path=race.check_path,
            max_executions=BOUNDED_EXECUTIONS,
        )
        assert result.cut_runs == 0
        evidence.add(schedules=result.executions, histories=result.executions)


def test_the_files_are_as_large_as_they_have_to_be() -> None:
    """Several chunks, and one file that is over every limit."""
    sizes = [len(race.program.files["sessions.json"]) for race in LARGE_RACES.values()]
    assert min(sizes) > 2 * CHUNK_BYTES
    assert max(sizes) > MAX_COMPARED_TWICE_BYTES


@pytest.mark.mutant("B77k", promise="SNAP2")
def test_a_comparison_that_ends_early_is_found(evidence: Evidence) -> None:
    """A base that differs only far behind is taken for current by the planted bug, and an update is lost."""
    race, transform = LARGE_RACES["several chunks, oversized"], mutant_by_id("B77k").transform
    found = explore(
        race.program,
        strategy=RandomSchedules(executions=RANDOM_EXECUTIONS, seed=RANDOM_SEED),
        check=race.check(transform),
        transform=transform,
        minimise=False,
    )
    assert found.failure is not None, found
    evidence.add(schedules=found.executions, histories=found.executions)
