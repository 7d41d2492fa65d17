"""A real process that is led, step by step, through what the simulation did.

Runs in a child. It loads the same adapter through the same interception as the simulation, but behind the calls is a
`RealDisk`. Before each call it looks at the next step of the script: the thread, the call and its arguments must be
those; then the real call is made, and its answer must be the script's too. When the steps at hand are used up it
reports and waits for more, so other processes act exactly between the calls where they did in the simulation. The first
difference ends the run and is reported with both sides. Threads inside the process are the simulation's: what is real
here are processes, descriptors, files and locks between processes.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from greenlet import getcurrent

from storecheck.machine.disk import Footprint
from storecheck.processes.disk import RealDisk
from storecheck.processes.script import UNFINISHED, plain_answer, plain_argument
from storecheck.program import Program
from storecheck.runner import RUNS_PER_COLLECTION, OperationRecord, Runner, _Run
from storecheck.schedule import Fault
from storecheck.schedule.executor import Executor, Task, Wait
from storecheck.syscalls import Context, Transform

WAIT_S: Final = 60.0
"""For one message of the other side. Everything here takes microseconds; the rest is room for a loaded machine."""

SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Errand:
    """What a child is for.

    Attributes:
        program: the program, of which this child is one process.
        process: which.
        base: the real directory that stands for the root.
        transform: a planted bug, or None.
    """

    program: Program
    process: int
    base: str
    transform: Transform | None


class _Led(Executor):
    """An executor whose every step is that of the script."""

    def __init__(self, disk: RealDisk, more: Callable[[], list[Any] | None], finished: Callable[[str], None]) -> None:
        super().__init__(disk, _NoChooser(), step_log=self)
        self._disk = disk
        self._more = more
        self._finished = finished
        self._steps: list[Any] = []
        self._next_step = 0
        self._pending: dict[Task, Any] = {}
        self.divergence = ""

    def run(self) -> None:
        """The whole run; what is left open is closed, and locks are free, before anybody hears of its end."""
        try:
            super().run()
        finally:
            for process in self._disk.processes:
                self._disk.end_process(process)
        if self.refused and not self.divergence:
            self.divergence = self.refused[0]
        self._finished(self.divergence)

    # The script

    def _peek(self) -> Any:
        """The next step that a thread takes, or None if there is none; the kernel's own steps are done on the way."""
        while True:
            if self._next_step >= len(self._steps):
                steps = self._more()
                if steps is None:
                    return None
                self._steps, self._next_step = steps, 0
            step = self._steps[self._next_step]
            if step[1] != "grant":
                return step
            self._next_step += 1
            if not self._disk.try_again(self.members[0].tasks[step[0]]):
                self.divergence = "the simulation gave it the lock that it waits for; the kernel says another holds it"
                return None

    def _take(self, task: Task, kind: str, name: str = "", arguments: tuple[object, ...] = ()) -> Any:
        """The next step, which must be this one."""
        while True:
            step = self._peek()
            if step is None:
                self._to_hub_for_good()
            number = task.member.tasks.index(task)
            if step[0] == number or getcurrent() is not task.greenlet:
                break
            if step[0] >= len(task.member.tasks):
                self.diverge(f"thread {step[0]} has not been started here; this is {kind} {name} of thread {number}")
            self._switch_to(task.member.tasks[step[0]])
        self._next_step += 1
        if step[1] != kind or step[2] != name:
            self.diverge(f"expected {step[1]} {step[2]}{_shown(step[3])}, came to {kind} {name}{_shown(arguments)}")
        if step[3] != arguments:
            self.diverge(f"{name}: expected arguments {_shown(step[3])}, called with {_shown(arguments)}")
        return step

    def diverge(self, what: str) -> None:
        """Reality and simulation differ: the run is over."""
        self.divergence = self.divergence or what
        self._to_hub_for_good()

    # What the interception layer and the base class ask

    def enter(self, name: str, arguments: tuple[object, ...] = ()) -> object:
        """A call begins."""
        task = self.current
        if task is None or getcurrent() is not task.greenlet:
            self._refuse_stranger(name)
        step = self._take(task, "call", name, tuple(plain_argument(each) for each in arguments))
        self.steps += 1
        task.member.calls += 1
        self._pending[task] = step
        self._disk.dictated = step[4]
        self._disk.dictated_serial = step[8]
        self._disk.monotonic_ns, self._disk.wall_offset_ns = step[6]
        fault = step[7]
        if fault is None:
            return True
        kind, error, taken_bytes = fault
        return Fault(process=0, call=0, kind=kind, error=error, taken_bytes=taken_bytes)

    enter_unnoticed = enter

    def enter_lock(self, name: str) -> None:
        """A step that is no system call."""
        task = self.current
        if task is None or getcurrent() is not task.greenlet:
            self._refuse_stranger(name)
        self._take(task, name)

    def step_begins(self, task: int, name: str) -> Footprint:
        """A thread starts or goes on."""
        here = self.tasks[task]
        self._take(here, name)
        return []

    def block(self, wait: Wait, *, deadline_ns: int = 0, sleeps: bool = False) -> bool:  # noqa: ARG002 - the script knows
        """The running thread has to wait."""
        task = self.current
        assert task is not None
        step = self._pending.get(task)
        if step is not None and not step[5]:
            self.diverge(f"{step[2]} has to wait for {wait.describe()}; in the simulation it did not")
        return super().block(wait)

    def _pick(self, arrived: Task | None) -> Task | None:  # noqa: ARG002 - the script knows who is next
        step = self._peek()
        if step is None:
            return None
        tasks = self.members[0].tasks
        number: int = step[0]
        if number >= len(tasks):
            self.divergence = self.divergence or f"thread {number} has not been started here"
            return None
        return tasks[number]

    def call_ended(
        self,
        *,
        context: Context,  # noqa: ARG002 - as `Recorder` has it
        name: str,
        arguments: tuple[object, ...],  # noqa: ARG002 - as `Recorder` has it
        result: object,
        error: BaseException | None,
    ) -> None:
        """A call ended: the answers must agree."""
        assert self.current is not None
        step = self._pending.pop(self.current)
        expected, answer = step[4], plain_answer(result, error)
        if expected[0] == UNFINISHED:
            self.diverge(f"{name} answered {_shown(answer)}; in the simulation it never ended")
        elif expected != answer:
            self.diverge(
                f"{name}{_shown(step[3])}: the simulation answers {_shown(expected)}, reality {_shown(answer)}"
            )


class _NoChooser:
    """Nothing is chosen here."""

    every_step = True

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:  # noqa: ARG002
        """Never called: `_Led` overrides every place where it would be."""
        raise AssertionError("a led process makes no choices")


@dataclass(frozen=True, slots=True)
class Led:
    """What came of one run in one process.

    Attributes:
        operations: with their real outcomes.
        divergence: where reality went another way than the simulation, or "".
        met_inodes: (serial of the simulated inode, number of the real one) of every `stat`.
    """

    operations: list[OperationRecord]
    divergence: str
    met_inodes: list[tuple[int, int]]


class LedRunner(Runner):
    """Runs one process of a program as often as it is told to."""

    def __init__(self, errand: Errand) -> None:
        alone = replace(errand.program, processes=(errand.program.processes[errand.process],))
        super().__init__(alone, transform=errand.transform)
        self._errand = errand

    def follow(self, more: Callable[[], list[Any] | None], finished: Callable[[Led], None]) -> None:
        """One run. `finished` is called when it is over, before the image is made ready for the next."""
        disk = RealDisk(self.program.machine, self._errand.base)
        for _ in range(self._errand.process):
            # Only so that this process gets the number, and with it the random seed, that it has in the simulation.
            disk.new_process()
        executor = _Led(
            disk, more, lambda divergence: finished(Led(run.operations, divergence, sorted(disk.met_inodes)))
        )
        run = _Run(executor)
        self.runs += 1
        if self.runs % RUNS_PER_COLLECTION == 0:
            self._collect_garbage()
        os.umask(self.program.machine.umask)
        self._start_processes(executor, run, executor, "no")
        self._execute(executor)


def limit_silence(pipe: Any) -> None:
    """Let every `recv_bytes` of this pipe fail with BlockingIOError after `WAIT_S`: one system call, unlike `poll`."""
    with socket.fromfd(pipe.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as copy:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(WAIT_S), 0))


def serve(pipe: Any, errand: Errand) -> None:
    """The life of a child: load, then run after run, until the other side is gone."""
    runner = LedRunner(errand)
    _become(errand.program, errand.base)
    pipe.send_bytes(marshal.dumps(("ready", os.getpid())))
    with runner.collecting():
        while True:
            service = _Service(pipe)
            runner.follow(service.more, service.finished)
            if not service.close():
                return


class _Service:
    """One run, from the first portion to the message that there are no more.

    The image is put back after the last step was reported: it happens while other processes still work.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._heard: list[Any] = []
        self._ended = False
        self.led: Led | None = None

    def more(self) -> list[Any] | None:
        """The next steps; None if there are no more."""
        if self._ended:
            return None
        if self._heard:
            self._pipe.send_bytes(_DONE)
        return None if self._hear_end() else self._heard[-1][1]

    def finished(self, led: Led) -> None:
        """Report the end of the run, as far as it was asked for."""
        self.led = led
        if self._ended:
            self._tell_over()
        else:
            # The other side counts portions: this one came to its last step, or did not come to its end.
            self._pipe.send_bytes(marshal.dumps(("diverged", led.divergence)) if led.divergence else _DONE)

    def close(self) -> bool:
        """Wait for the end if it was not told yet; False if the other side is gone."""
        if not self._ended:
            self._hear_end()
            self._tell_over()
        return self._heard[-1] is not None

    def _hear_end(self) -> bool:
        message = _receive(self._pipe)
        self._heard.append(message)
        self._ended = message is None or message[0] == "end"
        return self._ended

    def _tell_over(self) -> None:
        led = self.led
        assert led is not None
        if self._heard[-1] is not None:
            shown = [(r.thread, r.outcome, r.result, r.error, r.message) for r in led.operations]
            self._pipe.send_bytes(marshal.dumps(("over", shown, led.divergence, led.met_inodes)))


_DONE: Final = marshal.dumps(("done",))


def _receive(pipe: Any) -> Any:
    """The next message; None if the other side is gone. An idle child waits as long as its parent lives."""
    try:
        return marshal.loads(pipe.recv_bytes())  # noqa: S302 - from the parent that started this process
    except (EOFError, ConnectionResetError):
        return None


def _become(program: Program, base: str) -> None:
    """Take the user that the program's processes run as, if this process may, and that user gets at all it needs.

    Python, this package and the directory may be below a directory that only root can enter, as `/root` or what pytest
    makes for its tests.

    Otherwise calls that the simulation refuses for want of permission succeed here, and show as differences.
    """
    machine = program.machine
    if os.geteuid() == 0 and machine.uid != 0:
        os.setegid(machine.gid)
        os.seteuid(machine.uid)
        if not all(os.access(needed, os.R_OK, effective_ids=True) for needed in (os.__file__, __file__, base)):
            os.seteuid(0)
            os.setegid(0)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


__all__ = ["WAIT_S", "Errand", "Led", "LedRunner", "serve"]
