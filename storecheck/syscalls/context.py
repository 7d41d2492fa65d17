"""Where the system calls of one simulated process lead at this moment.

Every intercepted function of a process image holds the image's one `Context`. During a run it points to the machine,
the kernel's record of the process and the executor; outside a run (while modules are imported) to an empty machine
that nobody schedules; after the process has ended, nowhere: calls then only unwind the frames that make them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, Final, Protocol, cast

from storecheck.machine import Machine, Process
from storecheck.schedule.executor import NEVER_NS, Executor, Member, ProcessKilled, Task, Wait
from storecheck.schedule.faults import Fault
from storecheck.schedule.remembering import DEPENDS, NOTICED, SILENT, UNNOTICED, Recollection, Site

MAIN_IDENT: Final = 0x51A0_0001
"""`threading.get_ident()` of the main thread of every simulated process; further threads count up."""

Enter = Callable[[str, tuple[object, ...]], object]


class Recorder(Protocol):
    """Told of every intercepted call when a run is shown to people."""

    def call_ended(
        self, *, context: Context, name: str, arguments: tuple[object, ...], result: object, error: BaseException | None
    ) -> None: ...


def _boot(name: str, arguments: tuple[object, ...] = ()) -> object:
    """While modules are imported: no schedule, no faults."""
    return None


def _ended(name: str, arguments: tuple[object, ...] = ()) -> object:
    """After the end of the process."""
    raise ProcessKilled


class Context:
    """See the module. One per process image, for all its runs."""

    __slots__ = (
        "boot_machine",
        "enter",
        "enter_unnoticed",
        "environment",
        "executor",
        "ident",
        "locals",
        "machine",
        "member",
        "memory",
        "next_ident",
        "process",
        "recorder",
        "sentinels",
    )

    def __init__(self) -> None:
        self.boot_machine = Machine()
        self.machine: Machine = self.boot_machine
        self.process: Process = self.boot_machine.new_process()
        self.executor: Executor | None = None
        self.member: Member | None = None
        self.recorder: Recorder | None = None
        self.memory: Recollection | None = None
        self.enter: Enter = _boot
        self.enter_unnoticed: Enter = _boot
        self.ident = MAIN_IDENT
        self.next_ident = MAIN_IDENT + 1
        self.locals: list[object] = []
        self.sentinels: dict[int, object] = {}
        self.environment: dict[bytes, bytes] = {}

    def begin(
        self,
        executor: Executor,
        member: Member,
        recorder: Recorder | None,
        memory: Recollection | None = None,
    ) -> None:
        """From now on calls reach this process of this run, through its memory if it has one."""
        self.machine = executor.machine
        self.process = member.process
        self.executor = executor
        self.member = member
        self.recorder = recorder
        self.memory = memory
        self.enter = executor.enter
        self.enter_unnoticed = executor.enter_unnoticed
        self.ident = MAIN_IDENT
        self.next_ident = MAIN_IDENT + 1
        self.sentinels.clear()

    def end(self) -> None:
        """The process has ended: its remaining frames may only unwind."""
        self.memory = None
        self.enter = self.enter_unnoticed = _ended

    def idle(self) -> None:
        """The run is over: importing is possible again."""
        self.machine = self.boot_machine
        self.process = self.boot_machine.processes[0]
        self.executor = None
        self.member = None
        self.recorder = None
        self.memory = None
        self.enter = self.enter_unnoticed = _boot
        self.ident = MAIN_IDENT

    def is_unwinding(self) -> bool:
        """Whether the process has ended or the run is over: its frames then only unwind, and nothing they do counts."""
        return self.enter is _ended or (self.executor is not None and self.executor.over)

    def running(self) -> tuple[Executor, Member]:
        """The run and the process; an error outside a run."""
        if self.executor is None or self.member is None:
            raise RuntimeError("this call is possible only while a simulated process runs, not while it is imported")
        return self.executor, self.member

    def task(self) -> Task | None:
        """The thread that runs, or None outside a run."""
        return None if self.executor is None else self.executor.current

    def block(self, wait: Wait, *, deadline_ns: int = NEVER_NS, sleeps: bool = False) -> bool:
        """Wait as the running thread; False if the time ran out."""
        executor, _ = self.running()
        return executor.block(wait, deadline_ns=deadline_ns, sleeps=sleeps)

    # Threads of the process, and what they do to each other

    def live_threads(self) -> int:
        """How many threads the process has; 1 outside a run."""
        if self.memory is not None:
            return self.memory.live_threads()
        return 1 if self.member is None else self.member.live

    def lock_point(self, name: str) -> None:
        """A thread takes or frees a lock that others of its process may want."""
        if self.memory is not None:
            self.memory.lock_point(name)
        elif self.executor is not None:
            self.executor.enter_lock(name)

    def wait_for(self, wait: Wait, timeout_ns: int) -> bool:
        """Wait for a lock of the process; False if the time ran out. See `Executor.deadline_of` for `timeout_ns`."""
        if self.memory is not None:
            return self.memory.wait_for(wait, timeout_ns)
        executor, _ = self.running()
        return executor.block(wait, deadline_ns=executor.deadline_of(timeout_ns))

    def wake(self, task: Task) -> None:
        """What another thread waited for has come."""
        if self.memory is not None:
            self.memory.wake(task)
        elif self.executor is not None:
            self.executor.wake(task)

    def start_thread(self, body: Callable[[], None], *, ident: int) -> None:
        """A new thread of the process."""
        if self.memory is not None:
            self.memory.start_thread(body, ident=ident)
        else:
            executor, member = self.running()
            executor.add_task(member, body, ident=ident)

    def end_process(self) -> None:
        """The process is through with its operations."""
        if self.memory is not None:
            self.memory.process_ends()
        else:
            executor, member = self.running()
            executor.end_process(member)

    def refuse(self, what: str) -> None:
        """Note that the code under test reached for something that is not simulated: the run is then no evidence."""
        if self.executor is not None:
            self.executor.refused.append(what)

    def special(
        self,
        marker: object,
        name: str,
        call: Callable[..., object],
        arguments: tuple[object, ...],
        options: dict[str, object],
    ) -> object:
        """A call with a fault, or one that is recorded."""
        result: object = None
        error: BaseException | None = None
        try:
            if isinstance(marker, Fault):
                if marker.kind == "errno" and name == "close":
                    # close(2): the descriptor is gone whatever it reports.
                    call(*arguments, **options)
                arguments = _faulted(marker, name, arguments)
            result = call(*arguments, **options)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self.recorder is not None and not isinstance(error, ProcessKilled):
                self.recorder.call_ended(context=self, name=name, arguments=arguments, result=result, error=error)
        return result


def _faulted(fault: Fault, name: str, arguments: tuple[object, ...]) -> tuple[object, ...]:
    if fault.kind == "errno":
        number = fault.error_number()
        path = arguments[0] if arguments and isinstance(arguments[0], str | bytes) else None
        if path is None:
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), path)
    if fault.kind == "interrupt":
        raise KeyboardInterrupt
    if fault.kind == "short" and name in ("write", "pwrite"):
        content = arguments[1]
        assert isinstance(content, bytes | bytearray | memoryview)
        return (arguments[0], bytes(content)[: fault.taken_bytes], *arguments[2:])
    if fault.kind == "short" and name == "writev":
        buffers = cast("Iterable[bytes | bytearray | memoryview]", arguments[1])
        return (arguments[0], [b"".join(map(bytes, buffers))[: fault.taken_bytes]])
    return arguments


def noticed(
    context: Context,
    name: str,
    call: Callable[..., Any],
    *,
    decode: Callable[[Any], object] | None = None,
    remembered: bool = True,
) -> Callable[..., Any]:
    """The intercepted form of a call that other processes can notice.

    `call` returns a plain value, of which `decode` makes what the code gets. A call that does more for the code than
    answering it must not be `remembered`.
    """
    site = Site(name, call, kind=NOTICED, decode=decode, remembered=remembered)
    whole = _decoding(call, decode)

    def intercepted(*arguments: object, **options: object) -> object:
        memory = context.memory
        if memory is not None:
            return memory.ask(site, arguments, options)
        marker = context.enter(name, arguments)
        if marker is None:
            return whole(*arguments, **options)
        return context.special(marker, name, whole, arguments, options)

    intercepted.__name__ = intercepted.__qualname__ = name
    return intercepted


def unnoticed(
    context: Context, name: str, call: Callable[..., Any], *, decode: Callable[[Any], object] | None = None
) -> Callable[..., Any]:
    """The intercepted form of a call that no other process can notice."""
    site = Site(name, call, kind=UNNOTICED, decode=decode)
    whole = _decoding(call, decode)

    def intercepted(*arguments: object, **options: object) -> object:
        memory = context.memory
        if memory is not None:
            return memory.ask(site, arguments, options)
        marker = context.enter_unnoticed(name, arguments)
        if marker is None:
            return whole(*arguments, **options)
        return context.special(marker, name, whole, arguments, options)

    intercepted.__name__ = intercepted.__qualname__ = name
    return intercepted


def noticed_if_shared(
    context: Context,
    name: str,
    call: Callable[..., Any],
    shared: Callable[[Context, object], bool],
    *,
    decode: Callable[[Any], object] | None = None,
    remembered: bool = True,
) -> Callable[..., Any]:
    """The intercepted form of a call on a descriptor, noticed or not depending on what the descriptor is."""
    depends = functools.partial(shared, context)
    site = Site(name, call, kind=DEPENDS, shared=depends, decode=decode, remembered=remembered)
    whole = _decoding(call, decode)

    def intercepted(descriptor: object, *arguments: object, **options: object) -> object:
        memory = context.memory
        if memory is not None:
            return memory.ask(site, (descriptor, *arguments), options)
        enter = context.enter if shared(context, descriptor) else context.enter_unnoticed
        marker = enter(name, (descriptor, *arguments))
        if marker is None:
            return whole(descriptor, *arguments, **options)
        return context.special(marker, name, whole, (descriptor, *arguments), options)

    intercepted.__name__ = intercepted.__qualname__ = name
    return intercepted


def silent(context: Context, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Something that the interception itself asks the machine for the code, beside its calls; no step."""
    site = Site(name, call, kind=SILENT)

    def asked(*arguments: object) -> object:
        memory = context.memory
        return call(*arguments) if memory is None else memory.ask(site, arguments, {})

    return asked


def as_built_in(space: dict[str, Any]) -> None:
    """Make the functions of a simulated module bind as those written in C do: not at all.

    `class Clock: now = time.monotonic` works with the real module; a function written in Python would become a method.
    """
    for name, value in space.items():
        if isinstance(value, FunctionType):
            space[name] = staticmethod(value)


def _decoding(call: Callable[..., Any], decode: Callable[[Any], object] | None) -> Callable[..., Any]:
    if decode is None:
        return call
    return lambda *arguments, **options: decode(call(*arguments, **options))


def content_is_shared(context: Context, descriptor: object) -> bool:
    """Whether anybody but the running thread can see the content behind the descriptor."""
    opened = context.process.descriptors.get(descriptor)  # type: ignore[call-overload]
    if opened is None or opened.inode.private_to is not context.process:
        return True
    return context.member is not None and context.member.live > 1


def close_is_noticed(context: Context, descriptor: object) -> bool:
    """Whether closing the descriptor frees a lock, an inode number, or room."""
    opened = context.process.descriptors.get(descriptor)  # type: ignore[call-overload]
    if opened is None:
        return False
    inode = opened.inode
    return opened.flock != 0 or bool(inode.record_locks) or inode.links == 0
