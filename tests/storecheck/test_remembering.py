"""What is remembered of processes: a schedule comes out as if all code had been executed, or the search stops.

Goal: leaving code out never changes a run, and a program for which it could is refused. Method: the same schedules are
run with and without memory and everything a check may look at is compared, for programs that use threads, sleeps,
kills, files of all kinds and locks; and programs that are not deterministic are searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from storecheck import MachineParameters, Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.explore import EXECUTIONS_PER_CHECK, explore
from storecheck.machine.disk import READ
from storecheck.program import ProcessProgram
from storecheck.runner import Execution, Remember, Runner
from storecheck.schedule import Strategy, remembering
from storecheck.schedule.remembering import BLOCK, NOTICED, Memory, NotDeterministic, Request, Site
from storecheck.schedule.strategies import PrefixChooser
from tests.storecheck import outside_state

SUBJECTS = "tests.storecheck.subjects"
OWN_SUBJECTS = "tests.storecheck.remembered_subjects"
FILES = "storecheck.adapters:Files"

SCHEDULES = 24


def own(adapter: str, *processes: tuple[str, ...]) -> Program:
    """A program of this module's subjects; each process does the operations of these names."""
    return Program(
        adapter=f"{OWN_SUBJECTS}:{adapter}",
        files={"counter": b"0"},
        processes=tuple(process(*map(Operation, names)) for names in processes),
        shared=("tests.storecheck.outside_state",),
    )


ADD = Operation("add")
UPDATE = Operation("add", {"key": "a"})

PROGRAMS = {
    "store": Program(
        adapter="models.exploring:Sessions",
        files={"sessions.json": b'{"a": {"n": 0}}'},
        processes=(process(UPDATE, UPDATE), process(UPDATE, Operation("load")), process(UPDATE)),
    ),
    "store with a short timeout": Program(
        adapter="models.exploring:Sessions",
        parameters={"lock_timeout_s": 0.0002},
        files={"sessions.json": b'{"a": {"n": 0}}'},
        processes=(process(UPDATE, UPDATE),) * 3,
        machine=MachineParameters(time_choice="all"),
    ),
    "filelock": Program(
        adapter=f"{SUBJECTS}:FilelockCounter", files={"counter": b"0"}, processes=(process(ADD, ADD),) * 2
    ),
    "threads": Program(adapter=f"{SUBJECTS}:Threads", processes=(process(Operation("all_of_it")),) * 2),
    "threads with operations": Program(
        adapter="storecheck.adapters:LockedCounter",
        files={"counter": b"0"},
        processes=(ProcessProgram(operations=(ADD,), threads=((ADD,), (ADD,))), process(ADD)),
    ),
    "deadlocks": Program(
        adapter=f"{SUBJECTS}:ThreadLocks",
        processes=(
            ProcessProgram(
                operations=(Operation("both", {"first": 0, "second": 1}),),
                threads=((Operation("both", {"first": 1, "second": 0}),),),
            ),
        ),
    ),
    "timeouts of locks": Program(
        # Whoever waits is woken, finds that another one was quicker, and waits for the rest of its time.
        adapter=f"{SUBJECTS}:ThreadLocks",
        processes=(
            ProcessProgram(
                operations=(Operation("hold", {"seconds": 0.5}),),
                threads=((Operation("hold", {"seconds": 0.5}),), (Operation("give_up", {"timeout": 0.7}),)),
            ),
        ),
    ),
    "globals": Program(adapter=f"{SUBJECTS}:Globals", processes=(process(Operation("first_time")),) * 2),
    "finally and kills": Program(
        adapter=f"{SUBJECTS}:Finally", files={"log": b""}, processes=(process(Operation("work")),) * 2, kills=1
    ),
    "finalizers": Program(adapter=f"{SUBJECTS}:Finalizer", processes=(process(Operation("leave")),) * 2),
    "kills": Program(
        adapter="storecheck.adapters:LockedCounter",
        files={"counter": b"0"},
        processes=(process(ADD, ADD),) * 2,
        kills=2,
    ),
    "all points": Program(
        adapter="storecheck.adapters:RenamingCounter",
        files={"counter": b"0"},
        processes=(process(ADD),) * 2,
        machine=MachineParameters(points="all"),
    ),
    "a closed file": own("Told", ("lock_closed", "add"), ("lock_closed", "add")),
    "sleeps and clocks": Program(
        adapter=FILES,
        processes=(
            process(Operation("sleep", {"seconds": 1}), Operation("set_wall_clock", {"delta_s": -5})),
            process(Operation("replace", {"name": "f", "content": "x"}), Operation("sleep", {"seconds": 0.5})),
            process(Operation("read", {"name": "f"}), Operation("touch", {"name": "f", "mtime_ns": 5})),
        ),
    ),
    "buffers": own("Told", ("add", "scatter"), ("add",)),
}


def schedules(program: Program, strategy: Strategy, *, remember: bool) -> Iterator[Execution]:
    """Runs of one search; with memory, one in seven executes all code and compares."""
    runner, search = Runner(program), strategy.search(program)
    with runner.collecting():
        for number in range(SCHEDULES):
            chooser = search.next_chooser()
            if chooser is None:
                return
            mode: Remember = "no" if not remember else "check" if number % 7 == 3 else "yes"
            execution = runner.run(chooser, remember=mode)
            search.executed(execution.choices)
            yield execution


@pytest.mark.parametrize(
    "strategy", [PreemptionBounded(2), RandomSchedules(executions=SCHEDULES, seed=5)], ids=["bounded", "random"]
)
@pytest.mark.parametrize("step_ns", [0, 1_000])
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_schedule_comes_out_as_if_all_code_had_been_executed(name: str, step_ns: int, strategy: Strategy) -> None:
    """Operations with their stamps, steps and results, files, clock and ends are the same with and without memory."""
    program = replace(PROGRAMS[name], machine=replace(PROGRAMS[name].machine, step_ns=step_ns))
    pairs = zip(schedules(program, strategy, remember=True), schedules(program, strategy, remember=False), strict=True)
    for with_memory, in_full in pairs:
        assert with_memory.outcome() == in_full.outcome()
        assert with_memory.preemptions == in_full.preemptions
        assert (with_memory.deadlock is None) == (in_full.deadlock is None)


def test_code_is_not_executed_where_nothing_new_happens_to_it() -> None:
    """The second run of a schedule executes nothing, and still has the operations and their results."""
    outside_state.EXECUTED.clear()
    runner = Runner(own("Told", ("add", "add"), ("add",)))
    first = runner.run(PrefixChooser(b""), remember="yes")
    assert outside_state.EXECUTED == ["add"] * 3
    second = runner.run(PrefixChooser(b""), remember="yes")
    assert outside_state.EXECUTED == ["add"] * 3
    assert [record.result for record in second.operations] == [1, 2, 3]
    assert second.outcome() == first.outcome()


def test_what_each_process_knows_serves_in_any_order() -> None:
    """Code is executed only for answers that its process never got, in whatever order the processes get them."""
    runner = Runner(own("Told", ("add",), ("add",)))
    runner.run(PrefixChooser(b""), remember="yes")
    outside_state.EXECUTED.clear()
    # The second process goes first: it reads 0 where it read 1.
    other = runner.run(PrefixChooser(bytes([1] * 5)), remember="yes")
    assert len(outside_state.EXECUTED) == 2
    outside_state.EXECUTED.clear()
    # Both read 0 now. Each has read it before, although never in the same run.
    mixed = runner.run(PrefixChooser(bytes([0, 0, 0, 1, 1, 1])), remember="yes")
    assert outside_state.EXECUTED == []
    assert [sorted(record.result for record in run.operations) for run in (other, mixed)] == [[1, 2], [1, 1]]


def test_a_process_with_answers_in_its_arguments_is_executed_every_time() -> None:
    """What a call writes into a buffer is not remembered, so its process is executed in full."""
    runner = Runner(own("Told", ("scatter",)))
    outside_state.EXECUTED.clear()
    results = [runner.run(PrefixChooser(b""), remember="yes").operations[0].result for _ in range(3)]
    assert results == ["0"] * 3
    assert outside_state.EXECUTED == ["scatter"] * 3


@pytest.mark.parametrize(("share_min", "last"), [(0.01, "yes"), (0.99, "no")])
def test_a_search_that_meets_new_answers_all_the_time_stops_remembering(
    share_min: float, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fewer processes are known than makes remembering worth its while, memory is given up."""
    modes: list[Remember] = []
    run = Runner.run

    def noting(self: Runner, chooser: PrefixChooser, *, remember: Remember = "no", **options: object) -> Execution:
        modes.append(remember)
        return run(self, chooser, remember=remember, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "run", noting)
    monkeypatch.setattr("storecheck.explore.KNOWN_SHARE_MIN", share_min)
    # Every call moves the clock, so that most schedules show a process times that it has not seen.
    explore(own("Told", *[("watch",)] * 3), strategy=RandomSchedules(executions=3 * EXECUTIONS_PER_CHECK))
    assert modes[: 2 * EXECUTIONS_PER_CHECK].count("check") == 2
    assert modes[-1] == last


def test_a_full_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room is executed every time, and comes out the same."""
    monkeypatch.setattr(remembering, "MOMENTS_MAX", 36)
    test_a_schedule_comes_out_as_if_all_code_had_been_executed("store", 0, PreemptionBounded(2))


@pytest.mark.parametrize("operation", ["other_call", "other_argument", "other_result"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_program_that_is_not_deterministic_is_refused(operation: str, processes: int) -> None:
    """A call, an argument or a result that differs after the same answers ends the search, and says where."""
    outside_state.EXECUTED.clear()
    program = own("Unsteady", *[(operation, operation)] * processes)
    with pytest.raises(NotDeterministic, match=r"P\d is not deterministic: after the same answers it first came to"):
        explore(program, strategy=RandomSchedules(executions=3 * EXECUTIONS_PER_CHECK, seed=1))


def test_a_failure_is_executed_in_full_before_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that fails only in memory is an error of the verifier or of the program, and no finding."""

    def flattered(self: remembering.Ending) -> remembering.Ending:
        return remembering.Ending(self.outcome, result=-1, error=self.error)

    def check(execution: Execution) -> str | None:
        return "negative" if any(record.result == -1 for record in execution.operations) else None

    monkeypatch.setattr(remembering.Ending, "copy", flattered)
    with pytest.raises(NotDeterministic):
        explore(own("Told", ("add",)), strategy=RandomSchedules(executions=3), check=check)


def test_memory_and_what_needs_all_code_exclude_each_other() -> None:
    """Faults, a recorder or a step log listen to every call: asked for both, the runner says so."""

    class Log:
        def step_begins(self, task: int, name: str) -> list[tuple[tuple[object, ...], int]]:
            raise AssertionError((task, name, READ))

    with pytest.raises(ValueError, match="remember='no'"):
        Runner(own("Told", ("add",))).run(PrefixChooser(b""), step_log=Log(), remember="yes")


def test_a_call_that_is_made_often_is_one_request_unless_its_arguments_are_of_other_kinds() -> None:
    """What is equal need not be the same to a call: `read(3, 1)` answers, `read(3, 1.0)` is a TypeError."""
    site = Site("read", lambda *arguments: arguments, kind=NOTICED)
    memory = Memory(moments_max=10)
    request = memory.request(site, (3, 1))
    assert memory.request(site, (3, 1)) is request
    for other in ((3, 1.0), (3, True), (3, 2)):
        made = memory.request(site, other)
        assert made is not request
        assert list(map(type, made.complete()())) == list(map(type, other))
    memory.clear()
    assert memory.request(site, (3, 1)) is not request


def test_requests_end_where_moments_do() -> None:
    """A full memory keeps no more requests either."""
    site = Site("read", lambda *arguments: arguments, kind=NOTICED)
    memory = Memory(moments_max=0)
    assert memory.request(site, (3,)) is not memory.request(site, (3,))


def test_a_wait_is_the_same_only_with_the_same_timeout() -> None:
    """Else a process that waits longer each time would pass for deterministic."""
    first, longer, again = (Request(BLOCK, "wait", timeout_ns=timeout_ns) for timeout_ns in (1, 2, 1))
    assert first.same_as(again)
    assert not first.same_as(longer)
