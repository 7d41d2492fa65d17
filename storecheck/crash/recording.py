"""Records what a function does to the disk of a simulated machine.

A `SerialProcess` runs without schedule: its calls are executed at once. That is all that recording one writer, failing
its calls one by one and recovering thousands of crash states need, and many times faster than a scheduled run. Several
processes are recorded from a scheduled run (`runner.Runner.run(trace=True)`).
"""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Callable
from types import ModuleType
from typing import Final, TypeVar

from storecheck.machine import Machine, Process
from storecheck.schedule.executor import NEVER_NS, Executor, Task, Wait
from storecheck.schedule.strategies import PrefixChooser
from storecheck.syscalls import ImageOptions, NotSimulated, ProcessImage, Recorder
from storecheck.syscalls.context import MAIN_IDENT, Enter

from .states import Recording
from .trees import Disk

T = TypeVar("T")

BOOT_TAKES_NS: Final = 60_000_000_000
"""How long a machine is off after a power loss. File stamps from before are old then."""


class WaitsForEverError(RuntimeError):
    """A process that runs alone waits for something that only another one could do."""


class _SerialExecutor(Executor):
    """Lets time pass when the only process waits for it."""

    def block(self, wait: Wait, *, deadline_ns: int = NEVER_NS, sleeps: bool = False) -> bool:  # noqa: ARG002
        """Jump to the end of the wait; False, because nobody ends it earlier."""
        if deadline_ns == NEVER_NS:
            raise WaitsForEverError(f"the process waits for {wait.describe()}, and no other process runs")
        self.machine.monotonic_ns = max(self.machine.monotonic_ns, deadline_ns)
        return False


class SerialProcess:
    """Code under test in a process image of its own. Every `run` is a new process; imports happen once.

    Args:
        modules: names of the modules to load; `self.modules` holds them by name.
        options: how to load them, such as with a planted bug.
    """

    def __init__(self, *modules: str, options: ImageOptions | None = None) -> None:
        self.image = ProcessImage(options)
        self.modules: dict[str, ModuleType] = {name: self.image.load(name) for name in modules}
        self.image.seal()

    def run(
        self,
        machine: Machine,
        body: Callable[[Process], T],
        *,
        enter: Enter | None = None,
        recorder: Recorder | None = None,
    ) -> T:
        """Run `body` as a new process of `machine`; whatever it raises comes out.

        Its descriptors and locks are freed at the end, as the kernel does. Garbage in cycles is not collected
        before: what it closes, it would close at another call in each run.

        Args:
            machine: the computer, which keeps what the process does.
            body: called with the kernel's record of the process.
            enter: asked before each call; may return a fault, or True to have the recorder told.
            recorder: told after each call for which `enter` returned something.

        Raises:
            NotSimulated: the code reached for something that the machine does not do.
        """
        executor = _SerialExecutor(machine, PrefixChooser(b""))
        member = executor.add_process(f"P{len(machine.processes) + 1}", self.image.activate)
        executor.current = Task(index=0, member=member, name=member.name, ident=MAIN_IDENT, body=_nothing)
        context = self.image.context
        self.image.begin(executor, member, recorder)
        if enter is None:
            enter = _go_ahead
        context.enter = context.enter_unnoticed = enter
        collects = gc.isenabled()
        gc.disable()
        try:
            # In an empty context: context variables are state of a process, too.
            result = contextvars.Context().run(body, member.process)
        finally:
            self.image.finish()
            machine.end_process(member.process)
            if collects:
                gc.enable()
        if executor.refused:
            raise NotSimulated(executor.refused[0])
        return result


def _nothing() -> None:
    """The body of the only thread is called directly."""


def _go_ahead(_name: str, _arguments: tuple[object, ...] = ()) -> object:
    """Nobody else runs, and nothing goes wrong."""
    return None


def record(machine: Machine, act: Callable[[], None]) -> Recording:
    """What `act`, by running processes on the machine, does to its disk."""
    disk = Disk.of(machine)
    machine.trace = []
    try:
        act()
        return Recording(disk=disk, events=tuple(machine.trace), owner=(machine.parameters.uid, machine.parameters.gid))
    finally:
        machine.trace = None
