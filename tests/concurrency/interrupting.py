"""KeyboardInterrupt at a chosen point of the store's own code.

Python runs signal handlers between instructions of the main thread: when a call has returned, when a function begins
and when a loop goes round. `interrupted_at` counts these moments in the frames of `sessionstore` alone, by tracing,
and raises at the n-th. So every gap between two calls is tried, in the order of execution. Calls of other libraries and
of the modules that only compute are not divided further: they hold nothing that would have to be given back. The
standard library's `threading` does, where the lock uses it: it is written in Python, and can be divided too.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import sessionstore
from sessionstore import SessionStore, Snapshot
from tests.concurrency.children import replacing
from tests.concurrency.crew import Channel
from tests.concurrency.payload import SETTINGS

_STORE_DIRECTORY = os.path.dirname(sessionstore.__file__)

ACTING_MODULES = ("store", "lock", "files", "cache", "process")
"""Modules that take, hold or give back something. The others only compute, and computing is slow to trace."""

MAX_POINTS = 5000
"""A write has some hundreds; far more mean that it does not end."""

OLD: dict[str, dict[str, Any]] = {"agent:main:a": {"n": 1}, "agent:main:b": {"n": 1}}
NEW: dict[str, dict[str, Any]] = {"agent:main:a": {"n": 2}, "agent:main:b": {"n": 1}, "agent:main:c": {"n": 1}}


@functools.cache
def _moments(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which a signal handler may run: those that follow a call or a jump back."""
    found: set[int] = set()
    previous = ""
    for instruction in dis.get_instructions(code):
        if previous.startswith(("CALL", "JUMP_BACKWARD")):
            found.add(instruction.offset)
        previous = instruction.opname
    return frozenset(found)


class Interruption:
    """Counts the moments, and raises KeyboardInterrupt at one of them. `where` says where that was, once it was."""

    def __init__(self, number: int, modules: tuple[str, ...]) -> None:
        self._number = number
        self._files = {
            threading.__file__ if module == "threading" else os.path.join(_STORE_DIRECTORY, f"{module}.py")
            for module in modules
        }
        self._seen = 0
        self.where = ""

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """The trace function; see `sys.settrace`."""
        if frame.f_code.co_filename not in self._files or _is_finalizing(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "call" or (event == "opcode" and frame.f_lasti in _moments(frame.f_code)):
            self._seen += 1
            if self._seen == self._number:
                file = os.path.basename(frame.f_code.co_filename)
                self.where = f"{file}:{frame.f_lineno} in {frame.f_code.co_name}, {event} {frame.f_lasti}"
                raise KeyboardInterrupt(self.where)
        return self.trace


def _is_finalizing(frame: FrameType | None) -> bool:
    # Python itself swallows whatever is raised inside a finalizer.
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def interrupted_at(number: int, *, modules: tuple[str, ...]) -> Iterator[Interruption]:
    """Raise KeyboardInterrupt at the `number`-th moment of these modules' code, in this thread."""
    interruption = Interruption(number, modules)
    before = sys.gettrace()
    sys.settrace(interruption.trace)
    try:
        yield interruption
    finally:
        sys.settrace(before)


class Attempt:
    """One write, tried again and again on a file that is put back before each try."""

    def __init__(self, path: str, kind: str) -> None:
        self.kind = kind
        self.store = SessionStore(path, SETTINGS)
        self.base: Snapshot | None = None

    def prepare(self) -> None:
        """Put the file into its old state."""
        self.store.save(OLD)
        self.base = self.store.load() if self.kind == "update with base" else None

    def write(self) -> None:
        """Bring the file into its new state."""
        if self.kind == "save":
            self.store.save(NEW)
        elif self.kind == "edit":
            with self.store.edit() as draft:
                draft.update(NEW)
        else:
            self.store.update(replacing(NEW), base=self.base)

    def state(self) -> str:
        """Which of the two states the file is in, both past the cache and with it."""
        sessions = dict(self.store.load(skip_cache=True))
        assert dict(self.store.load()) == sessions, "the cache says something else than the file"
        assert sessions in (OLD, NEW), f"neither the old nor the new content: {sessions!r}"
        return "new" if sessions == NEW else "old"


def interrupted_writer(channel: Channel, path: str, kind: str, modules: tuple[str, ...]) -> list[str]:
    """Interrupt a write at its first moment, at its second, and so on; talk to the test before and after each.

    Returns the state that was found after each interruption.
    """
    attempt = Attempt(path, kind)
    attempt.prepare()
    attempt.write()  # what is imported late is there from now on
    found: list[str] = []
    for number in range(1, MAX_POINTS):
        attempt.prepare()
        channel.say("prepared")
        channel.hear()
        try:
            with interrupted_at(number, modules=modules) as interruption:
                attempt.write()
        except KeyboardInterrupt:
            assert interruption.where, "an interruption that nobody asked for"
        else:
            assert not interruption.where, f"an interruption was swallowed: {interruption.where}"
            channel.say("")
            return found
        channel.say(interruption.where)
        channel.hear()
        try:
            found.append(attempt.state())
        except AssertionError as error:
            raise AssertionError(f"after an interruption at {interruption.where}: {error}") from None
        channel.say("looked")
        channel.hear()
    raise AssertionError(f"a write still went on after {MAX_POINTS} moments")


def signalled_writer(channel: Channel, path: str, signals: int) -> tuple[int, int]:
    """Write while a timer sends real signals whose handler raises KeyboardInterrupt, later and later into the write.

    Returns how many of them interrupted a write, and how many descriptors are open at the end more than before.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    attempt = Attempt(path, "update")
    attempt.prepare()
    signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    before = len(os.listdir("/proc/self/fd"))
    for number in range(signals):
        attempt.prepare()
        try:
            # A write takes about a millisecond: delays from 10 us to 3 ms hit all of it, in steps that nobody chose.
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + 3e-3 * number / signals)
            attempt.write()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
        attempt.state()
        channel.say("interrupted or not")
        channel.hear()
    return interrupted, len(os.listdir("/proc/self/fd")) - before
