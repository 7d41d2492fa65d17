"""One failure in one run of a `SerialProcess`."""

from __future__ import annotations

import errno as errno_names
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from storecheck.crash.changes import SyncFailed
from storecheck.machine import Machine
from storecheck.machine.inode import DIRECTORY, Inode
from storecheck.schedule import Fault

Kind = Literal["errno", "short", "interrupt before", "interrupt after", "handler raises"]

CHANGES_OF_NAMES: Final = ("mkdir", "rename", "replace", "link")
LOOK_UPS: Final = (*CHANGES_OF_NAMES, "open", "stat", "lstat", "readlink", "unlink", "scandir", "listdir")
WRITES: Final = ("write", "writev", "pwrite", "fsync", "fdatasync", "close")
READS: Final = ("read", "pread", "readv", "fstat", "fchmod", "fchown")
SLOW_CALLS: Final = ("open", "read", "write", "writev", "fsync", "close", "flock", "sleep")

CALLS_OF: Final[dict[str, tuple[str, ...]]] = {
    "ENOSPC": ("create", *CHANGES_OF_NAMES, "write", "writev", "pwrite", "fsync", "fdatasync"),
    "EDQUOT": ("create", *CHANGES_OF_NAMES, *WRITES),
    "EIO": (*LOOK_UPS, *WRITES, *READS),
    "EACCES": LOOK_UPS,
    "EMFILE": ("open", "scandir", "listdir"),
    "ENOLCK": ("lock",),
    "EXDEV": ("rename", "replace"),
    "EBUSY": ("rename", "replace"),
    "EPERM": ("fchmod", "fchown", "link"),
    "EINVAL": ("fsync of a directory",),
}
"""Calls that each error can befall, from the manual pages of Linux. `create` is an open that makes a file, `lock` a
flock that does not unlock, `fsync of a directory` what it says."""


class HandlerRaisedError(Exception):
    """Raised by a signal handler: the call it interrupted returned EINTR, and Python does not retry it (PEP 475)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What goes wrong, at whichever call.

    Attributes:
        kind: `errno` the call fails with `error`; `short` a write takes a part; `interrupt before` and `interrupt
            after` KeyboardInterrupt comes before the call is made or when it has taken effect; `handler raises` a
            signal handler raises out of a call that can block.
        error: name of the error.
        for_ever: it stays: every later call that it can befall fails, too.
    """

    kind: Kind
    error: str = ""
    for_ever: bool = False

    def __str__(self) -> str:
        return f"{self.error or self.kind}{', for ever' if self.for_ever else ''}"

    def befalls(self, kinds: frozenset[str]) -> bool:
        """Whether it can happen to a call that is all of these kinds."""
        if self.kind == "errno":
            return not kinds.isdisjoint(CALLS_OF[self.error])
        if self.kind == "short":
            return not kinds.isdisjoint(("write", "pwrite", "writev"))
        if self.kind == "handler raises":
            return not kinds.isdisjoint(SLOW_CALLS)
        return True


def failure(text: str) -> Failure:
    """The failure that shows as `text`."""
    return next(known for known in FAILURES if str(known) == text)


FAILURES: Final = (
    *(Failure(kind="errno", error=error) for error in CALLS_OF),
    *(Failure(kind="errno", error=error, for_ever=True) for error in CALLS_OF),
    Failure(kind="short"),
    Failure(kind="short", for_ever=True),
    Failure(kind="interrupt before"),
    Failure(kind="interrupt after"),
    Failure(kind="handler raises"),
)
"""Every failure there is, errors also as lasting ones."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One call that was made to fail."""

    name: str
    arguments: tuple[object, ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{len(item)} bytes" if isinstance(item, bytes) else repr(item) for item in self.arguments)
        return f"{self.name}({shown})"


class Injector:
    """Lets the n-th call that a failure can befall fail. Give it to `SerialProcess.run` as `enter` and `recorder`.

    Attributes:
        failure: what happens.
        at: to which call, counted from 1 among those it can befall.
        hits: the calls that failed.
    """

    def __init__(self, failure: Failure, *, at: int) -> None:
        self.failure = failure
        self.at = at
        self.hits: list[Hit] = []
        self.armed = True
        self._machine: Machine | None = None
        self._calls = 0
        self._after: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.failure} at call {self.at}: {self.hits[0] if self.hits else 'not reached'}"

    def attach(self, machine: Machine) -> None:
        """The machine on which the calls will be made."""
        self._machine = machine

    def disarm(self) -> None:
        """From now on nothing fails any more."""
        self.armed = False

    def hit(self, *names: str) -> bool:
        """Whether a call of one of these names was made to fail."""
        return any(hit.name in names for hit in self.hits)

    def enter(self, name: str, arguments: tuple[object, ...] = ()) -> object:
        """Called before each call; raises, or says that the call is special, if this is one that fails."""
        if not self.armed or not self.failure.befalls(self._kinds(name, arguments)):
            return None
        self._calls += 1
        if self._calls != self.at and not (self.failure.for_ever and self._calls > self.at):
            return None
        self.hits.append(Hit(name, arguments))
        return self._fail(name, arguments)

    def _fail(self, name: str, arguments: tuple[object, ...]) -> object:
        kind = self.failure.kind
        if kind == "interrupt before":
            raise KeyboardInterrupt
        if kind == "interrupt after":
            self._after = KeyboardInterrupt()
            return True
        if kind == "handler raises":
            return self._fail_with(name, HandlerRaisedError(f"signal during {name}()"))
        if kind == "short":
            return Fault(process=0, call=0, kind="short", taken_bytes=max(1, _size(arguments[1]) // 2))
        number: int = getattr(errno_names, self.failure.error)
        first = arguments[0] if arguments and isinstance(arguments[0], str) else None
        error = OSError(number, os.strerror(number)) if first is None else OSError(number, os.strerror(number), first)
        if name in ("fsync", "fdatasync"):
            self._note_failed_sync(arguments)
        return self._fail_with(name, error)

    def _fail_with(self, name: str, error: Exception) -> object:
        if name != "close":
            raise error
        # close(2): the descriptor is gone whatever it reports.
        self._after = error
        return True

    def call_ended(self, **_call: object) -> None:
        """Called when a special call is over, whatever came of it."""
        after, self._after = self._after, None
        if after is not None:
            raise after

    def _kinds(self, name: str, arguments: tuple[object, ...]) -> frozenset[str]:
        kinds = {name}
        if name == "open" and isinstance(arguments[1], int) and arguments[1] & os.O_CREAT:
            kinds.add("create")
        if name == "flock" and arguments[1] != UNLOCK:
            kinds.add("lock")
        if name == "fsync" and self._is_directory(arguments[0]):
            kinds.add("fsync of a directory")
        return frozenset(kinds)

    def _is_directory(self, descriptor: object) -> bool:
        inode = self._inode(descriptor)
        return inode is not None and inode.kind == DIRECTORY

    def _inode(self, descriptor: object) -> Inode | None:
        assert self._machine is not None
        opened = self._machine.processes[-1].descriptors.get(descriptor)  # type: ignore[call-overload]
        return None if opened is None else opened.inode

    def _note_failed_sync(self, arguments: tuple[object, ...]) -> None:
        assert self._machine is not None
        inode = self._inode(arguments[0])
        if self._machine.trace is not None and inode is not None:
            process = self._machine.processes[-1]
            self._machine.trace.append(SyncFailed(step=self._machine.step, process=process.index, serial=inode.serial))


UNLOCK: Final = 8


def _size(written: Any) -> int:
    """Bytes in what a write call was given: a buffer, or several."""
    buffers: Iterable[bytes] = written if isinstance(written, list | tuple) else [written]
    return sum(memoryview(buffer).nbytes for buffer in buffers)
