"""Schedules of small programs on one store file, on a simulated machine.

Goal: every promise about processes and threads that meet at one file holds in each schedule that is run, and a failure
comes back as the smallest program, with the fewest preemptions, as lanes. Method: for each race of `models.searches`
all schedules without a preemption, those with one up to a limit, and PCT mixed with random walks from one seed. What
was exhausted and what was sampled is recorded with the test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.mutants.interleaving import race_id
from models.searches import RACES, Race
from storecheck import Execution, Exhausted, PreemptionBounded, RandomSchedules, Sampled
from storecheck.counterexample import digest_of, import_path
from storecheck.drawing import verify
from storecheck.explore import explore
from storecheck.pytest_plugin import Evidence

BOUNDED_EXECUTIONS = 260
"""Schedules with at most one preemption; a third of the races are exhausted by so many."""

RANDOM_EXECUTIONS = 80
RANDOM_SEED = 1

races = pytest.mark.parametrize(
    "race",
    [pytest.param(race, id=race_id(race.name), marks=pytest.mark.promise(*race.promises)) for race in RACES.values()],
)


@races
def test_a_race_is_run_through(race: Race, evidence: Evidence, record_property: Callable[[str, object], None]) -> None:
    """No schedule that is run breaks a promise of the race."""
    for strategy in (
        PreemptionBounded(0),
        RandomSchedules(executions=RANDOM_EXECUTIONS, seed=RANDOM_SEED),
        PreemptionBounded(1),
    ):
        result = verify(
            race.program,
            strategy=strategy,
            check=race.check(),
            check_path=race.check_path,
            max_executions=BOUNDED_EXECUTIONS,
            shrink_program=True,
        )
        assert result.cut_runs == 0, "a run that is cut off shows nothing: raise max_steps"
        record_property("search", str(result.verdict))
        evidence.add(schedules=result.executions, histories=result.executions)


@races
def test_a_race_names_its_check(race: Race) -> None:
    """A failing race is told with the ordering that decides, and judged anew by its replays: both need the check."""
    assert import_path(race.check_path) == race.check()


@pytest.mark.parametrize("name", ["a cache and a writer", "a foreign rename", "a file that appears"])
def test_a_small_race_is_exhausted_within_one_preemption(name: str) -> None:
    """For small programs the claim is that every schedule with at most one preemption was run."""
    race = RACES[name]
    verdict = explore(race.program, strategy=PreemptionBounded(1), check=race.check()).verdict
    assert isinstance(verdict, Exhausted)
    assert verdict.bound == "1 preemption"


@pytest.mark.parametrize("strategy", [PreemptionBounded(1), RandomSchedules(executions=40, seed=RANDOM_SEED)])
@pytest.mark.parametrize("name", ["three writers", "threads of one process", "a killed writer", "names in one process"])
def test_the_same_tree_gives_the_same_runs(name: str, strategy: PreemptionBounded | RandomSchedules) -> None:
    """Two searches run the same schedules, step by step, to the same histories and files."""

    def run() -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []

        def note(execution: Execution) -> None:
            seen.append((digest_of(execution), execution.steps))

        result = explore(RACES[name].program, strategy=strategy, check=note, max_executions=40)
        assert isinstance(result.verdict, Sampled)
        return seen

    first = run()
    # Another program in between: what it leaves in the process images must not show.
    explore(RACES["a foreign rename"].program, strategy=PreemptionBounded(0))
    assert run() == first


@pytest.mark.promise("SNAP1")
@pytest.mark.parametrize("name", ["a foreign rename", "a foreign rewrite in place"])
def test_what_a_foreign_program_writes_is_lost_only_between_the_last_look_and_the_rename(
    name: str, evidence: Evidence
) -> None:
    """The one window that no store can close exists, and the exact check tells it from every other loss."""
    race = RACES[name]
    lost = 0

    def count_losses(execution: Execution) -> str | None:
        nonlocal lost
        answers = {record.operation.name: record for record in execution.operations if record.process == 0}
        added = answers["add"]
        overtaken = added.outcome == "returned" and added.result == 1
        if overtaken and b'"n": 1' in execution.files()["sessions.json"]:
            foreign = next(record for record in execution.operations if record.process == 1)
            lost += foreign.invoked_at > added.invoked_at
        return race.check()(execution)

    result = explore(race.program, strategy=PreemptionBounded(1), check=count_losses)
    assert result.failure is None, result
    assert isinstance(result.verdict, Exhausted)
    evidence.add(schedules=result.executions, histories=result.executions)
    # Nine system calls or fewer lie between the look at a small file and its rename.
    assert 1 <= lost <= 9
