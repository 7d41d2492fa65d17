"""Beginnings that schedules have in common: a branch comes out as if it had been run from the start.

Goal: copying a run and going on from there never changes a schedule. Method: searches of programs that use threads,
sleeps, kills, files of all kinds and locks are run with and without, and everything a check may look at is compared;
and a copied machine is compared with the first, attribute by attribute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from storecheck import MachineParameters, Operation, PreemptionBounded, ProcessProgram, Program
from storecheck.explore import _Trunks, explore
from storecheck.machine import LOCK_EX, Inode, Machine, OpenFile, Process, Waiter
from storecheck.machine.copying import copy_of
from storecheck.machine.inode import RecordLock
from storecheck.machine.kernel import nobody_waits
from storecheck.runner import Execution, Runner
from storecheck.schedule.executor import Member, Task
from storecheck.schedule.remembering import NotDeterministic
from storecheck.schedule.strategies import PrefixChooser
from storecheck.schedule.trunk import Trunk
from storecheck.syscalls import Context
from storecheck.syscalls.posix import FileLockWait
from tests.storecheck.test_remembering import PROGRAMS

SCHEDULES = 90
"""Fewer than `EXECUTIONS_PER_CHECK`, so that all but the first are branches where they can be."""


def count_branches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Where the trunk of each branch stood, and whether it was used up."""
    branches: list[tuple[int, bool]] = []
    run_branch = Runner.run_branch

    def counted(self: Runner, trunk: Trunk, chooser: PrefixChooser, *, last: bool, **options: Any) -> Execution:
        branches.append((trunk.at, last))
        return run_branch(self, trunk, chooser, last=last, **options)

    monkeypatch.setattr(Runner, "run_branch", counted)
    return branches


def from_the_start(program: Program, bound: int, executions: int) -> Iterator[Execution]:
    """The first runs of a search with at most `bound` preemptions, each executed in full."""
    search, runner = PreemptionBounded(bound).search(program), Runner(program)
    with runner.collecting():
        for _ in range(executions):
            chooser = search.next_chooser()
            if chooser is None:
                return
            execution = runner.run(chooser)
            search.executed(execution.choices)
            yield execution


@pytest.mark.parametrize("step_ns", [0, 1_000])
@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_branch_comes_out_as_if_run_from_the_start(name: str, step_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations with their stamps, steps and results, files, clock, ends and preemptions are the same."""
    program = replace(PROGRAMS[name], machine=replace(PROGRAMS[name].machine, step_ns=step_ns))
    branches = count_branches(monkeypatch)
    seen: list[tuple[object, ...]] = []

    def note(execution: Execution) -> None:
        seen.append((execution.outcome(), execution.preemptions))

    found = explore(program, strategy=PreemptionBounded(2), check=note, max_executions=SCHEDULES, minimise=False)
    executions = found.executions - (found.failure is not None)
    assert len(seen) == executions
    for execution, outcome in zip(from_the_start(program, 2, executions), seen, strict=True):
        assert (execution.outcome(), execution.preemptions) == outcome
    if name == "buffers":
        assert not branches  # its answers are not remembered
    elif executions == SCHEDULES:
        assert len(branches) > executions // 2
        assert len({at for at, _ in branches}) > 3


def test_what_a_check_does_to_a_result_is_not_done_to_those_of_branches() -> None:
    """Operations that ended before a branch leaves have results of their own in it."""

    def spoil(execution: Execution) -> str | None:
        for record in execution.operations:
            if isinstance(record.result, dict):
                if "spoilt" in record.result:
                    return "it was spoilt in another run"
                record.result["spoilt"] = True
        return None

    update = Operation("add", {"key": "a"})
    processes = tuple(ProcessProgram(operations=each) for each in ((Operation("load"), update), (update,), (update,)))
    program = replace(PROGRAMS["store"], processes=processes)
    found = explore(program, strategy=PreemptionBounded(2), check=spoil, max_executions=SCHEDULES)
    assert found.failure is None, found.failure


def test_branches_at_forks_use_up_what_was_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a thread that waits lets others run, each of the others goes on from the same copy, the last in it."""
    program = replace(PROGRAMS["kills"], kills=0, processes=PROGRAMS["kills"].processes * 2)
    branches = count_branches(monkeypatch)
    explore(program, strategy=PreemptionBounded(0), max_executions=SCHEDULES)
    assert {last for _, last in branches} == {True, False}


def test_a_branch_that_comes_out_otherwise_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """One branch in a hundred is executed in full and compared: a copy that forgot something is an error."""

    def forgetful(machine: Machine) -> tuple[Machine, Any]:
        copy, waiters = copy_of(machine)
        copy.monotonic_ns += 1
        return copy, waiters

    monkeypatch.setattr("storecheck.schedule.executor.copy_of", forgetful)
    with pytest.raises(NotDeterministic, match="ends otherwise"):
        explore(PROGRAMS["store"], strategy=PreemptionBounded(2), max_executions=250)


def test_a_trunk_is_of_no_use_when_modules_were_imported_since() -> None:
    """Code that is executed again does not import them again: it would do something else than is remembered."""
    runner = Runner(PROGRAMS["store"])
    with runner.collecting():
        line = bytes(runner.run(PrefixChooser(()), remember="yes").choices)
        trunk = runner.trunk()
        assert trunk is not None
        assert runner.grow(trunk, line, 1)
        assert runner.grow(trunk, line, 2)
        runner._images[0].load("colorsys")
        assert not runner.grow(trunk, line, 3)


def test_a_trunk_at_a_fork_is_of_no_use_when_modules_were_imported_since() -> None:
    """The copy was made before, and the run that is to go on from it would not import them."""
    runner = Runner(PROGRAMS["store"])
    trunks = _Trunks(runner)
    chooser = PrefixChooser((0,), line=b"\0")
    with runner.collecting():
        runner.run(PrefixChooser(()), remember="yes")
        for is_there in (True, False):
            trunk = runner.trunk()
            assert trunk is not None
            trunks._at_forks[b""] = trunk, 1
            if not is_there:
                runner._images[0].load("stringprep")  # another than above: images are used again
            found = trunks.beginning_of(chooser)
            assert (found is not None and found[0] is trunk) is is_there


def busy_machine() -> Machine:
    """A machine on which everything there is exists and is in some state that is not the first."""
    machine = Machine(MachineParameters(disk_bytes=10_000), {"d/a": b"content", "d/b": b"other"})
    one, two = machine.new_process(), machine.new_process()
    for number, process in enumerate((one, two)):
        opened = machine.open(process, "d/a", os.O_RDWR)
        machine.read(process, opened, 3 + number)
        request = machine.flock(process, opened, LOCK_EX)
        assert (request is None) == (number == 0)
        record = machine.record_lock(process, machine.open(process, "d/b", os.O_RDWR), LOCK_EX, start=number, size=5)
        assert (record is None) == (number == 0)
        for waiter in (request, record):
            if waiter is not None:
                waiter.granted = waiter.abandoned = True
    new = machine.open(one, "d/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    machine.write(one, machine.duplicate(one, new), b"written")
    machine.symlink(two, "a", "d/link")
    machine.mkdir(two, "d/deep", 0o700)
    gone = machine.open(two, "d/gone", os.O_CREAT | os.O_RDWR)
    machine.unlink(two, "d/gone")
    machine.duplicate(two, gone)
    machine.rename(one, "d/new", "d/newer")
    one.cwd = machine.mount.entries["d"]
    one.umask, one.random_drawn = 0o77, 3
    one.inheritable.add(new)
    machine.opened(one, new).inode.private_to = one
    machine.unlink(one, "b")
    machine.existing(two, "d/a")
    two.alive = False
    machine.step, machine.monotonic_ns, machine.wall_offset_ns = 17, machine.monotonic_ns + 5, 6
    machine.on_wake = lambda waiter: None
    return machine


MUTABLE = (Inode, Process, OpenFile, RecordLock, Waiter, Machine, list, dict, set, bytearray)


def state_of(thing: object) -> dict[Any, Any] | None:
    """What a mutable thing consists of; None if it cannot change."""
    if isinstance(thing, dict):
        return dict(thing)
    if isinstance(thing, list):
        return dict(enumerate(thing))
    if isinstance(thing, set | bytearray):
        return {"all": frozenset(thing) if isinstance(thing, set) else bytes(thing)}
    if isinstance(thing, Machine):
        return dict(vars(thing))
    if isinstance(thing, MUTABLE):
        return {name: getattr(thing, name) for name in vars(type(thing))["__slots__"]}
    return None


def compare(first: object, second: object, pairs: dict[int, object], path: str) -> None:
    """The two consist of the same, and share nothing that can change; places of one thing are places of one thing."""
    before = state_of(first)
    if before is None:
        assert first == second, path
        return
    if id(first) in pairs:
        assert pairs[id(first)] is second, path
        return
    assert first is not second, path
    assert type(first) is type(second), path
    pairs[id(first)] = second
    after = state_of(second)
    assert after is not None
    assert before.keys() == after.keys(), path
    for name, member in before.items():
        if name not in {"on_wake", "task"}:
            compare(member, after[name], pairs, f"{path}.{name}")


def test_a_copied_machine_is_the_same_and_shares_nothing_that_changes() -> None:
    """Every attribute of every inode, descriptor, lock, request and process is there, and no object of the first."""
    machine = busy_machine()
    copy, waiters = copy_of(machine)
    compare(machine, copy, {}, "machine")
    assert copy.on_wake is nobody_waits
    assert len(waiters) == 2
    for first, second in waiters.items():
        assert (second.inode.serial, second.exclusive, second.task) == (first.inode.serial, first.exclusive, None)
        queues = [*second.inode.flock_queue, *second.inode.record_queue]
        assert second in queues


def test_a_copied_machine_goes_its_own_way() -> None:
    """What is done to the copy is not done to the first machine, and the other way round."""
    machine = busy_machine()
    files = machine.files()
    copy, _ = copy_of(machine)
    copy.write(copy.processes[0], min(copy.processes[0].descriptors), b"only here")
    copy.end_process(copy.processes[0])
    assert machine.files() == files
    machine.unlink(machine.processes[0], "a")
    assert "d/a" in copy.files()


def test_a_machine_that_keeps_a_trace_is_not_copied() -> None:
    """A trace belongs to one run."""
    machine = Machine()
    machine.trace = []
    with pytest.raises(AssertionError):
        copy_of(machine)


def test_a_dead_thread_waits_for_nothing_in_a_copy() -> None:
    """What it waited for when its process was killed is on neither machine any more."""
    machine = Machine(files={"a": b""})
    one, two = machine.new_process(), machine.new_process()
    machine.flock(one, machine.open(one, "a", os.O_RDWR), LOCK_EX)
    waiter = machine.flock(two, machine.open(two, "a", os.O_RDWR), LOCK_EX)
    assert waiter is not None
    member = Member(name="P2", process=two, activate=lambda task, before: None)
    task = Task(index=0, member=member, name="P2", ident=1, body=lambda: None)
    task.dead, task.waiting = True, FileLockWait(Context(), waiter)
    assert task.copy(member, {}).waiting is None


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_searches_run_the_same_schedules_in_the_same_order(bound: int) -> None:
    """The order of a bounded search: fewer preemptions first, of those the earliest, depth first where it is free."""
    program = PROGRAMS["filelock"]
    choices = [execution.choices for execution in from_the_start(program, bound, 40)]
    assert len(set(choices)) == len(choices)
    found: list[tuple[int, ...]] = []

    def note(execution: Execution) -> None:
        found.append(execution.choices)

    explore(program, strategy=PreemptionBounded(bound), check=note, max_executions=len(choices))
    assert found == choices
