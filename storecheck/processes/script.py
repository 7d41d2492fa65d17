"""A simulated run written down call by call, so that real processes can be led through it.

`record` runs a program in the simulation and notes every step in the order it was executed: which thread of which
process made which call with which arguments, what it answered, whether it had to wait, where time stood. The steps of
one process, in that order, are all that a real child needs to do the same on a real disk and to tell at which call
reality answers differently. Plain tuples, because they cross a pipe some hundred times a second.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from storecheck.machine import Machine, Waiter
from storecheck.machine.disk import Footprint
from storecheck.program import Program
from storecheck.runner import Execution, Runner
from storecheck.schedule import Fault, Policy
from storecheck.schedule.executor import KILL, Chooser, Executor, Task
from storecheck.schedule.faults import PendingCall
from storecheck.schedule.remembering import said_of_itself
from storecheck.syscalls import Context
from storecheck.syscalls.posix import Listing

POINTS: Final = frozenset({"start", "resume", "lock", "unlock", "operation", "exit"})
"""Steps of `StepLog` that are no system calls."""

UNFINISHED: Final = "unfinished"
"""Kind of the answer of a call that never returned: its process waited for ever, or was killed while it waited."""


@dataclass(slots=True)
class Step:
    """One step of one thread.

    Attributes:
        task: index of the thread in the run.
        kind: "call", or what `StepLog` calls the step ("start", "resume", "lock", "unlock", "operation", "exit"), or
            "kill", or "grant": the kernel gives the thread the lock that it waits for, before it runs again.
        name: of the call.
        arguments: of the call, as plain values.
        answer: (kind, value): see `plain_answer`.
        waits: the call had to wait; a "resume" of the same thread follows, unless it waits for ever.
        clock: monotonic time and offset of the wall clock, nanoseconds, when the call ended.
        fault: what was made to go wrong.
        serial: of the inode that the answer of a `stat` tells of, or 0. Unlike its number, it never returns.
    """

    task: int
    kind: str
    name: str = ""
    arguments: tuple[object, ...] = ()
    answer: tuple[str, Any] = (UNFINISHED, None)
    waits: bool = False
    clock: tuple[int, int] = (0, 0)
    fault: Fault | None = None
    serial: int = 0


@dataclass(slots=True, kw_only=True)
class Script:
    """A simulated run, and its steps.

    Attributes:
        execution: what the simulation says came of it.
        steps: (process, thread of the process, step), in the order of execution.
    """

    execution: Execution
    steps: list[tuple[int, int, Step]]

    def portions(self) -> Iterator[tuple[int, list[tuple[object, ...]]]]:
        """Steps in a row of one process, as they are sent to it: (process, steps)."""
        portion: list[tuple[object, ...]] = []
        current = -1
        for process, thread, step in self.steps:
            if process != current and portion:
                yield current, portion
                portion = []
            current = process
            portion.append(_sent(thread, step))
        if portion:
            yield current, portion


def _sent(thread: int, step: Step) -> tuple[object, ...]:
    fault = step.fault
    sent = None if fault is None else (fault.kind, fault.error, fault.taken_bytes)
    return (thread, step.kind, step.name, step.arguments, step.answer, step.waits, step.clock, sent, step.serial)


def plain_argument(argument: object) -> object:
    """An argument as a value that crosses a pipe and can be compared."""
    if argument is None or isinstance(argument, bool | int | float | str | bytes):
        return argument
    if isinstance(argument, bytearray | memoryview):
        return bytes(argument)
    if isinstance(argument, tuple | list):
        return tuple(plain_argument(each) for each in argument)
    said = said_of_itself(argument)
    return type(argument).__name__ if said is None else said


def plain_answer(result: object, error: BaseException | None) -> tuple[str, Any]:
    """What a call answered as (kind, value): "value", "stat", "names", "errno", "raised" or "object"."""
    if isinstance(error, OSError) and error.errno is not None:
        return "errno", error.errno
    if error is not None:
        return "raised", type(error).__name__
    if result is None or isinstance(result, bool | int | float | str | bytes):
        return "value", result
    if isinstance(result, os.stat_result):
        status = result
        return "stat", (
            status.st_mode, status.st_ino, status.st_nlink, status.st_uid, status.st_gid, status.st_size,
            status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        )  # fmt: skip
    if isinstance(result, Listing):
        return "names", [entry.name for entry in copy.copy(result._entries)]  # noqa: SLF001 - looked at, not used up
    if isinstance(result, list | tuple) and all(isinstance(each, str | bytes | int) for each in result):
        return "names", list(result)
    return "object", type(result).__name__


@dataclass(slots=True)
class _Scribe:
    """Policy, step log and recorder of a run in one: together they see every step as it begins and ends."""

    faults: Policy | None
    steps: list[Step] = field(default_factory=list)
    executor: Executor | None = None
    _pending: dict[int, Step] = field(default_factory=dict)
    _footprint: Footprint = field(default_factory=list)

    def __call__(self, pending: PendingCall) -> Fault | None:
        """A call begins: whether anybody else can notice it or not."""
        fault = None if self.faults is None else self.faults(pending)
        if fault is not None and fault.kind == "kill":
            self.steps.append(Step(pending.task, "kill"))
            return fault
        step = Step(
            pending.task, "call", pending.name, tuple(plain_argument(each) for each in pending.arguments), fault=fault
        )
        self._pending[pending.task] = step
        self.steps.append(step)
        return fault

    def step_begins(self, task: int, name: str) -> Footprint:
        """What is no call: threads start, wake up, and take locks of their process."""
        if name in POINTS:
            self.steps.append(Step(task, name))
            if name == "resume" and task in self._pending:
                self._pending[task].waits = True
        self._footprint.clear()
        return self._footprint

    def call_ended(
        self,
        *,
        context: Context,
        name: str,  # noqa: ARG002 - as `Recorder` has it
        arguments: tuple[object, ...],  # noqa: ARG002 - as `Recorder` has it
        result: object,
        error: BaseException | None,
    ) -> None:
        """A call ended."""
        executor, _ = context.running()
        if self.executor is None:
            self.executor = executor
            self._listen_to(context.machine)
        assert executor.current is not None
        step = self._pending.pop(executor.current.index)
        step.answer = plain_answer(result, error)
        if step.answer[0] == "stat":
            step.serial = _serial_of(context.machine, step.answer[1][1])
        step.clock = (context.machine.monotonic_ns, context.machine.wall_offset_ns)

    def _listen_to(self, machine: Machine) -> None:
        """A lock belongs to the next in the queue from the moment it is freed, not from when that thread runs."""
        wake = machine.on_wake

        def granted(waiter: Waiter) -> None:
            if isinstance(waiter.task, Task):
                self.steps.append(Step(waiter.task.index, "grant"))
            wake(waiter)

        machine.on_wake = granted

    def kill(self, task: int) -> None:
        """The schedule kills the process of this thread here."""
        self.steps.append(Step(task, "kill"))

    def by_process(self, program: Program) -> list[tuple[int, int, Step]]:
        """The steps with process and thread."""
        tasks: list[Task] = [] if self.executor is None else self.executor.tasks
        owners = [(task.member.process.index, task.member.tasks.index(task)) for task in tasks]
        owners = owners or [(index, 0) for index in range(len(program.processes))]
        for step in self._pending.values():
            step.waits = True
        return [(*owners[step.task], step) for step in self.steps]


def _serial_of(machine: Machine, number: int) -> int:
    """The serial of the inode that has this number now, or 0 if it is no file."""
    pending = [machine.root]
    while pending:
        inode = pending.pop()
        if inode.number == number:
            return inode.serial
        pending.extend(inode.entries.values())
    opened = (each.inode for process in machine.processes for each in process.descriptors.values())
    return next((inode.serial for inode in opened if inode.number == number), 0)


class _NotingKills:
    """A chooser that tells the scribe of its kills."""

    def __init__(self, chooser: Chooser, scribe: _Scribe) -> None:
        self.every_step = chooser.every_step
        self._chooser = chooser
        self._scribe = scribe

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        """As the chooser chooses."""
        choice = self._chooser.choose(runnable, sleeping, current, killable)
        if choice >= KILL:
            self._scribe.kill(choice - KILL)
        return choice


def record(runner: Runner, chooser: Chooser, *, faults: Policy | None = None) -> Script:
    """Run the program once in the simulation and write down every step."""
    scribe = _Scribe(faults)
    execution = runner.run(_NotingKills(chooser, scribe), policy=scribe, recorder=scribe, step_log=scribe)
    return Script(execution=execution, steps=scribe.by_process(runner.program))


__all__ = ["POINTS", "UNFINISHED", "Script", "Step", "plain_answer", "plain_argument", "record"]
