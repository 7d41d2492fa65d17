"""Power loss at every moment of many histories of the store: nothing that was acknowledged may be lost or torn.

Goal: WRITE3 in four models of a file system. Method: histories run in the simulated machine, all states that a power
loss may leave with at most one cut (two in deeper profiles) are enumerated, each distinct tree is booted, opened by a
fresh process, saved to and compared; the states of that second save are judged again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.crashes import (
    FILE,
    SCENARIOS,
    Recovery,
    Scenario,
    Step,
    StepKind,
    expected_sessions,
    record_scenario,
    store_bytes,
    store_file,
    store_process,
)
from storecheck.crash import MODELS, CrashState, Entry, Oracle, Recording, crash_states
from storecheck.crash.publications import number_publications
from storecheck.crash.recovery import CrashReport, check
from storecheck.crash.trees import Disk
from storecheck.program import Operation, Program, process
from storecheck.pytest_plugin import Evidence
from storecheck.runner import Runner
from storecheck.schedule import PreemptionBounded, RandomSchedules
from tests.crash.depth import cuts, cuts_of_many
from tests.crash.telling import hold, hold_recovery, hold_schedule, recovery_after


def count(evidence: Evidence, report: CrashReport) -> None:
    """Count the states of a report."""
    evidence.add(crash_states=report.states)


@pytest.mark.promise("WRITE3")
@pytest.mark.promise("WRITE8")
@pytest.mark.promise("MAINT2")
@pytest.mark.promise("READ2")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_crash_state_of_a_history_recovers(scenario: Scenario, evidence: Evidence) -> None:
    """WRITE3: after power loss at any moment a whole version is there, none older than the last acknowledged."""
    recording, oracle = record_scenario(scenario)
    report = check(recording, oracle, cuts=cuts(), recover=Recovery(scenario, store_process()))
    count(evidence, report)
    hold(report, scenario, oracle)


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("scenario", SCENARIOS[:3], ids=lambda scenario: scenario.name)
def test_every_legal_state_is_whole(scenario: Scenario, evidence: Evidence) -> None:
    """WRITE3: the same with any number of cuts, that is for every state that a model allows."""
    recording, oracle = record_scenario(scenario)
    report = check(recording, oracle, cuts=None)
    count(evidence, report)
    hold(report, scenario, oracle)


def check_recoveries(scenario: Scenario) -> CrashReport:
    """Judge the crash states of the first save after each crash, once per distinct tree."""
    recording, oracle = record_scenario(scenario)
    total = CrashReport()
    seen = set()
    failing: list[tuple[CrashReport, CrashState]] = []
    for model in MODELS:
        for state in crash_states(recording, model, cuts=cuts_of_many()):
            tree = frozenset(state.tree.items())
            if tree in seen or oracle.judge(state) is not None:
                continue
            seen.add(tree)
            again = check(*recovery_after(scenario, state, store_process()), cuts=cuts_of_many())
            total.states += again.states
            failing += [(again, state)] if again.failures else []
    total.recoveries = len(seen)
    if failing:
        # Told is a first loss as late as can be, on the strongest file system: one before anything was done says less.
        strongest = [each for each in failing if each[1].model == failing[0][1].model]
        hold_recovery(*strongest[-1], scenario=scenario, oracle=oracle)
    return total


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("scenario", [SCENARIOS[0], SCENARIOS[2]], ids=lambda scenario: scenario.name)
def test_power_loss_during_recovery_recovers(scenario: Scenario, evidence: Evidence) -> None:
    """WRITE3: a second power loss, during the first save after the first, leaves the old or the new content."""
    count(evidence, check_recoveries(scenario))


# Drawn histories

STEP_KINDS: tuple[StepKind, ...] = (
    "save", "update", "update with base", "edit", "remove", "no change", "load", "read",
)  # fmt: skip
STEPS = st.builds(
    Step,
    kind=st.sampled_from(STEP_KINDS),
    sessions=st.integers(0, 4),
    size_bytes=st.sampled_from([0, 50, 4_096, 20_000]),
)
PROCESSES = st.lists(st.lists(STEPS, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple)
SETTINGS: st.SearchStrategy[Mapping[str, int | float | str]] = st.fixed_dictionaries(
    {},
    optional={
        "object_cache_max_bytes": st.sampled_from([0, 2_000]),
        "cache_ttl_ms": st.just(0),
        "maintenance_mode": st.sampled_from(["enforce", "off"]),
        "rotate_bytes": st.sampled_from([0, 3_000]),
    },
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Histories over one file: new or there before, in place or behind a link, small or larger than the cache."""
    processes = draw(PROCESSES)
    limits = draw(SETTINGS)
    kind = draw(st.sampled_from(["existing", "new", "new directories", "link", "corrupt"]))
    mode = draw(st.sampled_from([0o600, 0o644, 0o660]))
    existing = store_file(sessions=draw(st.integers(0, 4)), size_bytes=draw(st.sampled_from([50, 9_000])), mode=mode)
    if kind == "new":
        return Scenario(name=kind, processes=processes, settings=limits)
    if kind == "new directories":
        return Scenario(name=kind, processes=processes, settings=limits, file="a/b/sessions.json")
    if kind == "link":
        tree = {"link.json": Entry("symlink", mode=0o777, target=FILE), FILE: existing}
        return Scenario(name=kind, processes=processes, settings=limits, given="link.json", tree=tree)
    if kind == "corrupt":
        torn = dataclasses.replace(existing, content=existing.content[:-1] + b"\0")
        repair = (Step(kind="repair"),)
        return Scenario(name=kind, processes=(repair, *processes), settings=limits, tree={FILE: torn})
    return Scenario(name=kind, processes=processes, settings=limits, tree={FILE: existing})


@pytest.mark.promise("WRITE3")
@pytest.mark.promise("WRITE8")
@pytest.mark.promise("MAINT2")
@given(scenario=scenarios())
def test_every_crash_state_of_a_drawn_history_recovers(scenario: Scenario, evidence: Evidence) -> None:
    """WRITE3: whatever the history, every state with at most one cut is a whole version that is recent enough."""
    recording, oracle = record_scenario(scenario)
    report = check(recording, oracle, cuts=cuts(), recover=Recovery(scenario, store_process()))
    evidence.add(histories=1)
    count(evidence, report)
    hold(report, scenario, oracle)


# Several writers


def writers(directory: str, *, kills: int = 0) -> Program:
    """Two processes that count in one file, which is there before unless its directory is not."""
    return Program(
        adapter="tests.crash.adapter:Writer",
        parameters={"directory": directory, "size_bytes": 5_000},
        processes=(
            process(Operation("add", {"key": "a"}), Operation("add", {"key": "a"})),
            process(Operation("add", {"key": "b"})),
        ),
        files={} if directory else {FILE: store_bytes(sessions=1)},
        kills=kills,
    )


MAX_SCHEDULES = 60
KEYS = ("a", "b", "c")


def counts_in(content: bytes | None) -> dict[str, int]:
    """The counters of all writers in one version."""
    sessions = expected_sessions(None if content is None else Entry("file", content)) or {}
    return {key: sessions[key]["count"] for key in KEYS if key in sessions}


def sum_of_all_adds_is_kept(recording: Recording, versions: list[bytes | None]) -> None:
    """The versions count up one by one: no writer built on an older one."""
    assert [sum(counts_in(content).values()) for content in versions] == list(range(len(versions))), recording.marks()


def check_schedules(program: Program, strategy: PreemptionBounded | RandomSchedules, evidence: Evidence) -> None:
    """Judge the crash states of the program's runs under a search's schedules."""
    directory = program.parameters["directory"]
    file = "/".join(filter(None, (str(directory), FILE)))
    runner = Runner(program)
    disk = Disk.of(runner.new_machine())
    search = strategy.search(program)
    for _ in range(MAX_SCHEDULES):
        chooser = search.next_chooser()
        if chooser is None:
            break
        execution = runner.run(chooser, trace=True)
        search.executed(execution.choices)
        assert execution.deadlock is None
        assert execution.trace is not None
        recording, versions = number_publications(Recording(disk=disk, events=tuple(execution.trace)), name=FILE)
        sum_of_all_adds_is_kept(recording, versions)
        oracle = Oracle(path=f"store/{file}", versions=versions, marks=recording.marks())
        report = check(recording, oracle, cuts=cuts_of_many())
        evidence.add(schedules=1)
        count(evidence, report)
        hold_schedule(report, program, execution.choices, file=file)


@pytest.mark.promise("WRITE3")
@pytest.mark.promise("WRITE1")
@pytest.mark.parametrize("directory", ["", "new/er"], ids=["existing file", "new directories"])
@pytest.mark.parametrize("kills", [0, 1], ids=["nobody killed", "one killed"])
@pytest.mark.parametrize(
    "strategy", [PreemptionBounded(1), RandomSchedules(executions=20)], ids=["1 preemption", "random"]
)
def test_crash_states_of_concurrent_writers_recover(
    strategy: PreemptionBounded | RandomSchedules, directory: str, kills: int, evidence: Evidence
) -> None:
    """WRITE3: with several writers under any schedule, one perhaps killed, power loss keeps what was acknowledged."""
    check_schedules(writers(directory, kills=kills), strategy, evidence)


@st.composite
def drawn_writers(draw: st.DrawFn) -> Program:
    """Two or three processes with one to three additions each, into a file that is there or not."""
    directory = draw(st.sampled_from(["", "new/er"]))
    adds = st.sampled_from(KEYS).map(lambda key: Operation("add", {"key": key}))
    lives = draw(st.lists(st.lists(adds, min_size=1, max_size=3), min_size=2, max_size=3))
    return Program(
        adapter="tests.crash.adapter:Writer",
        parameters={"directory": directory, "size_bytes": draw(st.sampled_from([0, 5_000]))},
        processes=tuple(process(*life) for life in lives),
        files={} if directory else {FILE: store_bytes(sessions=draw(st.integers(0, 2)))},
        kills=draw(st.integers(0, 1)),
    )


@pytest.mark.promise("WRITE3")
@pytest.mark.promise("WRITE1")
@given(program=drawn_writers(), seed=st.integers(0, 2**32))
def test_crash_states_of_drawn_writers_recover(program: Program, seed: int, evidence: Evidence) -> None:
    """WRITE3: the same for writers and schedules that are drawn together."""
    check_schedules(program, RandomSchedules(executions=2, seed=seed), evidence)
    evidence.add(histories=1)
