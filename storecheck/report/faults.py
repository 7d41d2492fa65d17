"""Failing calls: what a program did when one of its system calls failed, told call by call.

A `CallLog` stands before an injector and notes each call of one operation: what it was, where in the code under test it
was made, what came of it. With what was looked at afterwards that is a `RecordedFault`; `crash_of_fault` tells it as a
run that was cut short: the calls with the one that failed, what there was before and after, and every other call of
the operation failing in the same way. Judges nothing: whoever makes calls fail knows what must hold afterwards.
"""

from __future__ import annotations

import errno as errno_names
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from storecheck.faults import Failure, Injector
from storecheck.machine import MOUNT, Machine
from storecheck.machine.inode import Process
from storecheck.report.document import Aftermath, Crash, CrashCell, CrashOperation, CrashRow, Cut, CutKind
from storecheck.report.points import Places

TEMPORARY: Final = "the temporary file"
MAX_CALLS_SHOWN: Final = 60
MAX_TEXT_CHARACTERS: Final = 160

_QUIET: Final = frozenset(
    {"monotonic_ns", "monotonic", "time_ns", "time", "getpid", "lseek", "urandom", "access", "fstat", "stat", "lstat"}
)
"""Calls that ask and change nothing: shown only where they fail."""

_VERBS: Final[Mapping[str, str]] = {
    "replace": "rename", "fdatasync": "fsync", "pwrite": "write", "writev": "write", "pread": "read", "readv": "read",
    "fchmod": "chmod", "fchown": "chown", "listdir": "list", "scandir": "list",
}  # fmt: skip
_UNLOCK: Final = 8


@dataclass(slots=True, kw_only=True)
class MadeCall:
    """One system call.

    Attributes:
        name: as Python has it.
        verb, what: for people.
        place: line of the code under test, `path:line`, or empty.
        events: what it did to the disk, `first` up to and not including `last`, by index in the machine's trace.
        error: what it raised, or empty.
        injected: that was an injected failure.
    """

    name: str
    verb: str
    what: str
    place: str
    events: range = range(0)
    error: str = ""
    injected: bool = False


class CallLog:
    """Stands before an injector, and notes every call that is made while it is armed.

    Give it to `SerialProcess.run` as `enter` and `recorder` in the injector's place.

    Attributes:
        calls: in order.
        sources: text of the code under test, by path.
    """

    def __init__(self, injector: Injector, machine: Machine, places: Places) -> None:
        self.calls: list[MadeCall] = []
        self.sources = places.sources
        self._injector = injector
        self._machine = machine
        self._places = places
        self._special: list[bool] = []

    def enter(self, name: str, arguments: tuple[object, ...] = ()) -> object:
        """As `Injector.enter`; every call is special, so that its end is told, too."""
        if not self._injector.armed:
            return self._injector.enter(name, arguments)
        call = self.begin(name, arguments, descriptor_paths(self._machine.processes[-1]))
        hits = len(self._injector.hits)
        try:
            marker = self._injector.enter(name, arguments)
        except BaseException as error:
            call.error, call.injected = shown_error(error), True
            self.ended(call)
            raise
        call.injected = len(self._injector.hits) > hits
        self._special.append(marker is not None)
        return True if marker is None else marker

    def call_ended(self, *, error: BaseException | None, **told: object) -> None:
        """After every call; what the injector raises then is the call's error."""
        if not self._special:
            return
        call = self.calls[-1]
        call.error = "" if error is None else shown_error(error)
        self.ended(call)
        if self._special.pop():
            try:
                self._injector.call_ended(error=error, **told)
            except BaseException as raised:
                call.error = shown_error(raised)
                raise

    def begin(self, name: str, arguments: Sequence[object], paths: Mapping[object, str]) -> MadeCall:
        """Note a call that is about to be made."""
        stack = self._places.stack(sys._getframe(1))  # noqa: SLF001 - the documented way to the caller's frame
        verb, what = shown_call(name, arguments, paths)
        call = MadeCall(name=name, verb=verb, what=what, place=str(stack[-1]) if stack else "")
        call.events = range(self._events(), self._events())
        self.calls.append(call)
        return call

    def ended(self, call: MadeCall) -> None:
        """Note that a call is over."""
        call.events = range(call.events.start, self._events())

    def _events(self) -> int:
        return len(self._machine.trace or ())


def descriptor_paths(process: Process) -> dict[object, str]:
    """What each descriptor of a simulated process leads to."""
    return {number: opened.path for number, opened in process.descriptors.items()}


def shown_call(name: str, arguments: Sequence[object], paths: Mapping[object, str]) -> tuple[str, str]:
    """A call for people: what it does, and to what."""
    verb = _VERBS.get(name, name)
    shown = [_shown_argument(each, paths) for each in arguments]
    target = shown[0] if shown else ""
    if name == "flock" and len(arguments) > 1 and isinstance(arguments[1], int):
        return ("unlock" if arguments[1] & _UNLOCK else "lock"), target
    if verb in ("rename", "link") and len(shown) > 1:
        return verb, f"{target} to {shown[1]}"
    if verb == "write" and len(arguments) > 1:
        return verb, f"{_size(arguments[1]):,} B to {target}"
    if verb == "chmod" and len(arguments) > 1 and isinstance(arguments[1], int):
        return verb, f"{target} to {arguments[1]:o}"
    if verb == "open" and len(arguments) > 1 and isinstance(arguments[1], int) and arguments[1] & os.O_EXCL:
        return "create", target
    return verb, target


def shown_path(path: object) -> str:
    """A path below the directory of the run; temporary files, whose names are random, are called what they are."""
    text = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    text = text.removeprefix(f"{MOUNT}/")
    text = "the directory" if text == MOUNT else text
    return TEMPORARY if re.search(r"[0-9a-f]{8,}.*\.tmp$", text) else text


def _shown_argument(argument: object, paths: Mapping[object, str]) -> str:
    if isinstance(argument, int) and argument in paths:
        return shown_path(paths[argument])
    return shown_path(argument) if isinstance(argument, str | bytes | os.PathLike) else repr(argument)


def _size(written: Any) -> int:
    buffers = written if isinstance(written, list | tuple) else [written]
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def shown_error(error: BaseException) -> str:
    """An exception on one line; random parts of names say nothing."""
    text = re.sub(r"\.?[\w.-]*[0-9a-f]{8,}[\w.-]*\.tmp", TEMPORARY, str(error).replace(f"{MOUNT}/", ""))
    return _cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_TEXT_CHARACTERS else f"{text[: MAX_TEXT_CHARACTERS - 1]}…"


def shown_failure(failure: Failure) -> str:
    """A failure in words, such as `ENOSPC: No space left on device, once`."""
    if failure.kind == "errno":
        text = f"{failure.error}: {os.strerror(getattr(errno_names, failure.error))}"
    else:
        text = {
            "short": "only half of it is taken",
            "interrupt before": "KeyboardInterrupt before the call",
            "interrupt after": "KeyboardInterrupt after the call",
            "handler raises": "a signal handler raises",
        }[failure.kind]
    if failure.kind in ("errno", "short"):
        text += ", and whenever it could from then on" if failure.for_ever else ", once"
    return text


# What was recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The same operation with a call failing: which one, in which way, what came of it, and what is wrong with that.

    `how` is the way in a few words, see `column_of`.
    """

    call: str
    failure: Failure
    how: str
    came: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFault:
    """An operation, one call of which was made to fail, and what is wrong afterwards.

    Attributes:
        operation: what was done, such as `save()`.
        file: the file that it is about.
        failure: how the call failed.
        at: which one, counted from 1 among those that it could befall.
        calls: the operation's calls.
        ended: how the operation ended: `returned`, `raised …` or `exited …`.
        aftermath: what was looked at; at least one with a problem, unless the problem shows after a power loss.
        sources: text of the code under test, by path.
        trials: makes the calls of the same operation fail one after the other, in this way and its like.
        how: how the call failed, if `shown_failure` does not say it.
    """

    operation: str
    file: str
    failure: Failure
    at: int
    calls: tuple[MadeCall, ...]
    ended: str
    aftermath: tuple[Aftermath, ...]
    sources: Mapping[str, list[str]]
    trials: Callable[[], Sequence[Trial]] = field(default=tuple)
    how: str = ""

    @property
    def failed(self) -> MadeCall:
        """The call that failed first."""
        return next(call for call in self.calls if call.injected)

    @property
    def shown(self) -> str:
        """How it failed, in words."""
        return self.how or shown_failure(self.failure)

    @property
    def problem(self) -> Aftermath | None:
        """The first thing that is wrong."""
        return next((each for each in self.aftermath if each.problem), None)


# Telling it


def crash_of_fault(fault: RecordedFault) -> Crash:
    """The calls, the one that failed, what there was before and after, and all calls failing in the same way."""
    operations = tuple(operations_of(fault))
    trials = fault.trials()
    columns = tuple(dict.fromkeys(trial.how for trial in trials))
    return Crash(
        file=fault.file,
        model="",
        operations=operations,
        cuts=(cut_of(fault),),
        recovered="",
        wanted="",
        aftermath=fault.aftermath,
        columns=columns,
        grid=tuple(_grid(fault, trials, columns)),
        states=len(trials),
        broken=sum(bool(trial.problem) for trial in trials),
    )


def shown_calls(fault: RecordedFault) -> list[tuple[int, MadeCall]]:
    """The calls worth showing, numbered; if they are too many, those around the failing one."""
    shown = [call for call in fault.calls if call.injected or call.error or call.name not in _QUIET]
    at = next(index for index, call in enumerate(shown) if call.injected)
    first = max(0, min(at - MAX_CALLS_SHOWN // 2, len(shown) - MAX_CALLS_SHOWN))
    return list(enumerate(shown, start=1))[first : first + MAX_CALLS_SHOWN]


def operations_of(fault: RecordedFault) -> Iterator[CrashOperation]:
    """The calls, and last how the operation ended."""
    number = 0
    for number, call in shown_calls(fault):
        yield CrashOperation(
            number=number, verb=call.verb, what=call.what, persisted="",
            note=f"✕ {call.error or fault.shown}" if call.injected else call.error,
            source=call.place,
        )  # fmt: skip
    verb, _, what = fault.ended.partition(" ")
    problem = next((each.problem for each in fault.aftermath if each.what == fault.operation), "")
    yield CrashOperation(
        number=number + 1, verb={"returned": "return", "raised": "raise", "exited": "exit"}.get(verb, verb),
        what=what or "success", persisted="", note=f"✕ {problem}" if problem else "", source="",
    )  # fmt: skip


def cut_of(fault: RecordedFault) -> Cut:
    """Where the call failed."""
    number = next(number for number, call in shown_calls(fault) if call.injected)
    kind: CutKind = "failing call" if fault.failure.kind in ("errno", "short") else "interrupt"
    return Cut(after=number, kind=kind, text=fault.shown, lost=())


def column_of(failure: Failure) -> str:
    """What stands above the runs in which a call fails in this way."""
    if failure.kind == "errno":
        return f"{failure.error}, {'for ever' if failure.for_ever else 'once'}"
    return str(failure)


def _grid(fault: RecordedFault, trials: Sequence[Trial], columns: Sequence[str]) -> Iterator[CrashRow]:
    by_call: dict[str, dict[str, CrashCell]] = {}
    for trial in trials:
        here = trial.failure == fault.failure and trial.call == call_name(fault.calls)
        cell = CrashCell(text=trial.problem or trial.came, allowed="broken" if trial.problem else "allowed", here=here)
        by_call.setdefault(trial.call, {})[trial.how] = cell
    nothing = CrashCell(text="-", allowed="impossible", here=False)
    for call, cells in by_call.items():
        yield CrashRow(after=call, cells=tuple(cells.get(column, nothing) for column in columns))


def call_name(calls: Sequence[MadeCall]) -> str:
    """The call that failed: what it does and, if it is made several times, which time; the same in every trial."""
    failed = next(call for call in calls if call.injected)
    alike = [call for call in calls if (call.verb, call.what) == (failed.verb, failed.what)]
    time = alike.index(failed) + 1
    return f"{failed.verb} {failed.what}".rstrip() + (f" ({time})" if time > 1 else "")
