"""Histories: what every process asked of a store, what it was told, and when.

Each process appends its invocations and responses to a file of its own, one JSON object a line, one `write` each,
before the operation starts and after it ends; `merge` puts the files of a run together. Stamps come from the machine's
shared monotonic clock, or are step numbers when the run was simulated: only their order counts. A process killed before
a response leaves an operation that may or may not have happened, and perhaps a torn last line: both are kept and shown.
Whether a history is correct is not decided here: see `linearizability`.

Equal stamps order nothing: an invocation and a response with the same stamp count as overlapping, also within one
task. A clock too coarse can therefore hide a violation, but never invent one.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# Bound here, once: recording must stay outside whatever is put in the place of `os.write` for the code under test.
from os import O_APPEND, O_CLOEXEC, O_CREAT, O_EXCL, O_WRONLY, PathLike, fspath, getpid
from os import close as _close
from os import open as _open
from os import write as _write
from pathlib import Path
from time import monotonic_ns
from typing import Literal, TypeAlias

FORMAT = "storecheck-history"
VERSION = 1

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Outcome: TypeAlias = Literal["returned", "raised", "unknown"]


class HistoryError(ValueError):
    """A history that cannot be trusted: malformed, contradictory, or recorded by the wrong process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked and what was answered: everything a specification may look at.

    `returned` carries a result. `raised` carries an error and promises that the operation had no effect. `unknown`
    promises nothing: the caller was killed, timed out, or was told that the outcome is not known, and the operation may
    take effect at any moment after its invocation, or never.
    """

    name: str
    argument: Json = None
    outcome: Outcome = "returned"
    result: Json = None
    error: str | None = None

    def __str__(self) -> str:
        arguments = self.argument if isinstance(self.argument, (list, tuple)) else (self.argument,)
        shown = "" if self.argument is None else ", ".join(_short(argument) for argument in arguments)
        if self.outcome == "returned":
            return f"{self.name}({shown}) -> {_short(self.result)}"
        return f"{self.name}({shown}) {self.outcome}{f': {self.error}' if self.error else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one task, with its stamps: nanoseconds of the shared monotonic clock, or simulated step numbers.

    `responded_at` is None if no response was recorded. `identifier` is unique within the file it was recorded in.
    """

    process: str
    task: str
    identifier: int
    call: Call
    invoked_at: int
    responded_at: int | None = None

    def __str__(self) -> str:
        until = "?" if self.responded_at is None else str(self.responded_at)
        return f"{self.process}/{self.task} {self.call} [{self.invoked_at}..{until}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TornTail:
    """The unfinished last line of one file, left by a process that was killed while it recorded."""

    source: str
    line: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Every operation of one run, ordered by invocation, and the torn tails of the files it was merged from."""

    operations: tuple[Operation, ...]
    torn: tuple[TornTail, ...] = ()

    @property
    def pending(self) -> tuple[Operation, ...]:
        """The operations whose outcome is unknown."""
        return tuple(operation for operation in self.operations if operation.call.outcome == "unknown")

    def lines(self) -> Iterator[str]:
        """The history in its file format, without line ends, ordered by stamp: `parse` reads it back.

        Operations are numbered anew, so that histories merged from several files stay apart.
        """
        yield _encode(_HEADER)
        events: list[tuple[int, int, dict[str, Json]]] = []
        for number, operation in enumerate(self.operations):
            events.append((operation.invoked_at, 0, _invocation(operation, number)))
            if operation.responded_at is not None:
                events.append((operation.responded_at, 1, _response(operation, operation.responded_at, number)))
        events.sort(key=lambda event: event[:2])
        for _, _, event in events:
            yield _encode(event)


class Recorder:
    """Records what one process does, as it does it.

    `append` receives one encoded line at a time, its line end included. Several threads may share a recorder if
    `append` allows it; a forked child may not, and is refused, because its parent's numbers are not its own.
    """

    __slots__ = ("_append", "_clock", "_numbers", "_pid", "_process")

    def __init__(
        self, append: Callable[[bytes], object], *, process: str, clock: Callable[[], int] = monotonic_ns
    ) -> None:
        self._append = append
        self._clock = clock
        self._numbers = itertools.count()
        self._pid = getpid()
        self._process = process
        append(_HEADER_LINE)

    def invoke(self, name: str, argument: Json = None, *, task: str | None = None) -> int:
        """Record that an operation is about to start, and return its number. `task` defaults to the thread's name."""
        at = self._clock()
        number = next(self._numbers)
        self._put(
            {
                "event": "invoke",
                "at": at,
                "process": self._process,
                "id": number,
                "task": threading.current_thread().name if task is None else task,
                "operation": name,
                "argument": argument,
            }
        )
        return number

    def returned(self, number: int, result: Json = None) -> None:
        """Record that operation `number` returned `result`."""
        at = self._clock()
        self._put({"event": "returned", "at": at, "process": self._process, "id": number, "result": result})

    def raised(self, number: int, error: str) -> None:
        """Record that operation `number` failed and had no effect."""
        at = self._clock()
        self._put({"event": "raised", "at": at, "process": self._process, "id": number, "error": error})

    def unknown(self, number: int, error: str) -> None:
        """Record that operation `number` ended without telling whether it took effect."""
        at = self._clock()
        self._put({"event": "unknown", "at": at, "process": self._process, "id": number, "error": error})

    def _put(self, event: dict[str, Json]) -> None:
        if getpid() != self._pid:
            raise HistoryError(
                f"the recorder of process {self._process} (pid {self._pid}) was used by pid {getpid()}, "
                "a fork of it. Open a recorder with a file of its own in the child."
            )
        self._append(_encode(event).encode("ascii") + b"\n")


class FileRecorder(Recorder):
    """A recorder that appends to a new file, one system call for each event: a kill loses at most the last line.

    The kernel has every event before the operation goes on. Nothing is synced: kills are survived, power loss is not.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(
        self, path: str | PathLike[str], *, process: str | None = None, clock: Callable[[], int] = monotonic_ns
    ) -> None:
        """Create `path`. `process` defaults to the pid.

        Raises:
            FileExistsError: `path` exists. Two recorders in one file would mix up their operations.
        """
        self.path = fspath(path)
        self._descriptor = _open(self.path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0o600)
        super().__init__(self._write_line, process=str(getpid()) if process is None else process, clock=clock)

    def _write_line(self, line: bytes) -> None:
        written = _write(self._descriptor, line)
        if written != len(line):
            raise HistoryError(
                f"{self.path}: only {written} of {len(line)} bytes of an event were written. Free space on that disk."
            )

    def close(self) -> None:
        """Close the file. Operations without a response stay unknown."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _close(descriptor)

    def __enter__(self) -> FileRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def merge(paths: Iterable[str | PathLike[str]]) -> History:
    """Read the files of one run into one history.

    Raises:
        HistoryError: a file is malformed anywhere but in a torn last line, or contradicts itself. Names file and line.
    """
    operations: list[Operation] = []
    torn: list[TornTail] = []
    for path in paths:
        part = parse(Path(path).read_bytes(), source=fspath(path))
        operations += part.operations
        torn += part.torn
    return _ordered(operations, torn)


def parse(content: bytes, *, source: str) -> History:
    """Read one file's content. `source` names it in errors.

    Raises:
        HistoryError: as `merge`.
    """
    *lines, tail = content.split(b"\n")
    reader = _Reader(source)
    for line in lines:
        reader.take(_decode(line, source=source, number=reader.line + 1))
    torn: tuple[TornTail, ...] = ()
    if tail:
        try:
            last = json.loads(tail)
        except ValueError:
            torn = (TornTail(source=source, line=reader.line + 1, size_bytes=len(tail)),)
        else:
            reader.take(last)
    elif not lines:
        torn = (TornTail(source=source, line=1, size_bytes=0),)
    if not reader.line and not torn:
        raise HistoryError(f"{source}: no header. Give a file written by storecheck's recorder.")
    return _ordered(reader.operations(), torn)


class _Reader:
    """Matches the responses of one file with its invocations."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.line = 0
        self._invoked: dict[tuple[str, int], dict[str, object]] = {}
        self._responded: dict[tuple[str, int], dict[str, object]] = {}

    def take(self, event: object) -> None:
        self.line += 1
        if not isinstance(event, dict):
            raise self._error("is not an object")
        if "format" in event:
            if event != _HEADER:
                raise self._error(f"has an unknown header {event!r}; this version reads {_HEADER!r}")
            return
        if self.line == 1:
            raise self._error(f"is not the header {_HEADER!r}")
        kind = event.get("event")
        if kind not in _FIELDS:
            raise self._error(f"has the unknown event {kind!r}")
        for field, types in _FIELDS[kind].items():
            if field not in event or not isinstance(event[field], types) or isinstance(event[field], bool):
                raise self._error(f"has no valid {field!r}: {event.get(field)!r}")
        key = (event["process"], event["id"])
        if kind == "invoke":
            if key in self._invoked:
                raise self._error(f"invokes operation {key[1]} of process {key[0]} again")
            self._invoked[key] = event
            return
        self._respond(key, event)

    def _respond(self, key: tuple[str, int], event: dict[str, object]) -> None:
        if key not in self._invoked:
            raise self._error(f"answers operation {key[1]} of process {key[0]}, which was never invoked")
        if key in self._responded:
            raise self._error(f"answers operation {key[1]} of process {key[0]} again")
        invoked_at = self._invoked[key]["at"]
        assert isinstance(invoked_at, int) and isinstance(event["at"], int)
        if event["at"] < invoked_at:
            raise self._error(f"answers operation {key[1]} of process {key[0]} at {event['at']}, before {invoked_at}")
        self._responded[key] = event

    def _error(self, problem: str) -> HistoryError:
        return HistoryError(f"{self.source}:{self.line} {problem}.")

    def operations(self) -> Iterator[Operation]:
        for key, invoked in self._invoked.items():
            yield _operation(invoked, self._responded.get(key))


def _operation(invoked: Mapping[str, object], responded: Mapping[str, object] | None) -> Operation:
    # `take` has checked these types; what JSON gives for argument and result is Json by construction.
    fields = {**(responded or {}), **{name: invoked[name] for name in ("process", "task", "id", "operation")}}
    call = Call(
        name=str(fields["operation"]),
        argument=invoked.get("argument"),  # type: ignore[arg-type]
        outcome="unknown" if responded is None else responded["event"],  # type: ignore[arg-type]
        result=None if responded is None else responded.get("result"),  # type: ignore[arg-type]
        error=None if responded is None else responded.get("error"),  # type: ignore[arg-type]
    )
    return Operation(
        process=str(fields["process"]),
        task=str(fields["task"]),
        identifier=fields["id"],  # type: ignore[arg-type]
        call=call,
        invoked_at=invoked["at"],  # type: ignore[arg-type]
        responded_at=None if responded is None else responded["at"],  # type: ignore[arg-type]
    )


def _ordered(operations: Iterable[Operation], torn: Iterable[TornTail]) -> History:
    return History(operations=tuple(sorted(operations, key=lambda each: each.invoked_at)), torn=tuple(torn))


def _invocation(operation: Operation, number: int) -> dict[str, Json]:
    return {
        "event": "invoke",
        "at": operation.invoked_at,
        "process": operation.process,
        "id": number,
        "task": operation.task,
        "operation": operation.call.name,
        "argument": operation.call.argument,
    }


def _response(operation: Operation, responded_at: int, number: int) -> dict[str, Json]:
    call = operation.call
    event: dict[str, Json] = {
        "event": call.outcome,
        "at": responded_at,
        "process": operation.process,
        "id": number,
    }
    if call.outcome == "returned":
        return {**event, "result": call.result}
    return {**event, "error": call.error or ""}


def _decode(line: bytes, *, source: str, number: int) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise HistoryError(f"{source}:{number} is not JSON ({error}), and not a torn last line.") from error


_SHOWN_CHARACTERS = 60
_SHARED_FIELDS: dict[str, tuple[type, ...]] = {"at": (int,), "process": (str,), "id": (int,)}
_FIELDS: dict[object, dict[str, tuple[type, ...]]] = {
    "invoke": {**_SHARED_FIELDS, "task": (str,), "operation": (str,)},
    "returned": _SHARED_FIELDS,
    "raised": {**_SHARED_FIELDS, "error": (str,)},
    "unknown": {**_SHARED_FIELDS, "error": (str,)},
}
_HEADER: dict[str, Json] = {"format": FORMAT, "version": VERSION}
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_HEADER_LINE = _encode(_HEADER).encode("ascii") + b"\n"


def _short(value: Json) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[: _SHOWN_CHARACTERS - 1]}…"


# --- histories that others recorded -------------------------------------------------------------------------------

_JEPSEN_LINE = re.compile(
    r"jepsen\.util[\s:-]*(?P<process>\d+)\s+:(?P<kind>invoke|ok|fail|info)\s+:(?P<name>[^\s,}]+)[ \t]*(?P<rest>.*)$"
)
_EDN_TOKEN = re.compile(
    r"""[\s,]*(?: (?P<string>"(?:\\.|[^"\\])*") | (?P<open>\#?[\[({]) | (?P<close>[\])}])
               | (?P<atom>[^\s,\[\](){}"]+) )""",
    re.VERBOSE,
)
_EDN_CONSTANTS: dict[str, Json] = {"nil": None, "true": True, "false": False}
_EDN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def from_jepsen_edn_lines(lines: Iterable[str], *, source: str = "jepsen log") -> History:
    """Read a Jepsen log of a register, or a history of EDN maps, one event a line. Line numbers are the stamps.

    Both `INFO  jepsen.util - 0  :invoke  :cas  [4 2]` and `{:process 0, :type :invoke, :f :cas, :value [4 2]}` are
    understood; lines that are no event, and the nemesis, are passed over. `:info`, and an operation without an answer,
    is unknown for ever. `:fail` did not happen, with one exception: a compare-and-swap that fails with its own
    arguments, rather than an error, says that it found another value, and so returned False.

    Raises:
        HistoryError: an event cannot be read, answers nothing, or there is no event at all. Names the line.
    """

    def result(event: Mapping[str, Json]) -> Json:
        return event["value"] if event["f"] == "read" else None

    return _foreign(lines, source=source, argument=lambda event: event["value"], result=result)


def from_porcupine_kv_lines(lines: Iterable[str], *, source: str = "key-value log") -> History:
    """Read a key-value log in porcupine's format, such as `{:process 0, :type :ok, :f :get, :key "0", :value "x"}`.

    Arguments become `[key]` for get and `[key, value]` for put and append, as `linearizability.KEY_VALUE` wants them;
    what get returns for an absent key, nil, becomes the empty string. Otherwise as `from_jepsen_edn_lines`.
    """

    def argument(event: Mapping[str, Json]) -> Json:
        if "key" not in event:
            raise HistoryError("has no :key")
        return [event["key"]] if event["f"] == "get" else [event["key"], event["value"]]

    def result(event: Mapping[str, Json]) -> Json:
        return (event["value"] or "") if event["f"] == "get" else None

    return _foreign(lines, source=source, argument=argument, result=result)


def _foreign(
    lines: Iterable[str],
    *,
    source: str,
    argument: Callable[[Mapping[str, Json]], Json],
    result: Callable[[Mapping[str, Json]], Json],
) -> History:
    invoked: list[tuple[int, str, Mapping[str, Json]]] = []
    answers: dict[int, tuple[int, Call]] = {}
    open_by_process: dict[str, int] = {}
    arguments: list[Json] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = _foreign_event(line)
            if event is None:
                continue
            process = str(event["process"])
            if event["type"] == "invoke":
                open_by_process[process] = len(invoked)
                arguments.append(argument(event))
                invoked.append((number, process, event))
                continue
            index = _answered(event, open_by_process.pop(process, None), invoked)
            answers[index] = (number, _foreign_answer(event, arguments[index], result))
        except HistoryError as error:
            raise HistoryError(f"{source}:{number} {error}: {line.strip()!r}") from error
    if not invoked:
        raise HistoryError(f"{source}: no operation found. Expected lines such as {_EXPECTED_LINE!r}.")
    operations = []
    for index, (number, process, event) in enumerate(invoked):
        unanswered = Call(name=str(event["f"]), argument=arguments[index], outcome="unknown")
        responded_at, call = answers.get(index, (None, unanswered))
        operations.append(
            Operation(
                process=process,
                task=process,
                identifier=index,
                call=call,
                invoked_at=number,
                responded_at=responded_at,
            )
        )
    return _ordered(operations, ())


def _answered(
    event: Mapping[str, Json], index: int | None, invoked: Sequence[tuple[int, str, Mapping[str, Json]]]
) -> int:
    if index is None or invoked[index][2]["f"] != event["f"]:
        raise HistoryError(f"answers {event['f']!r} of process {event['process']}, which has no such operation open")
    return index


_EXPECTED_LINE = "INFO  jepsen.util - 0\t:invoke\t:read\tnil"


def _foreign_answer(event: Mapping[str, Json], argument: Json, result: Callable[[Mapping[str, Json]], Json]) -> Call:
    name, kind, error = str(event["f"]), event["type"], event.get("error")
    if kind == "ok":
        return Call(name=name, argument=argument, result=True if name == "cas" else result(event))
    if kind == "fail" and name == "cas" and error is None and event["value"] == argument:
        return Call(name=name, argument=argument, result=False)
    said = str(event["value"] if error is None else error)
    return Call(name=name, argument=argument, outcome="unknown" if kind == "info" else "raised", error=said)


def _foreign_event(line: str) -> Mapping[str, Json] | None:
    """One event as a mapping with at least process, type, f and value; None for a line that is no client's event."""
    logged = _JEPSEN_LINE.search(line)
    if logged:
        value = _read_edn(logged["rest"])[0] if logged["rest"].strip() else None
        return {"process": int(logged["process"]), "type": logged["kind"], "f": logged["name"], "value": value}
    start = line.find("{:")
    if start < 0:
        return None
    entries, _ = _read_edn(line[start:])
    assert isinstance(entries, Mapping)
    event = {key.removeprefix(":"): value for key, value in entries.items()}
    if not isinstance(event.get("process"), int):
        return None
    for field in ("type", "f"):
        value = event.get(field)
        if not isinstance(value, str):
            raise HistoryError(f"has no :{field}")
        event[field] = value.removeprefix(":")
    if event["type"] not in ("invoke", "ok", "fail", "info"):
        raise HistoryError(f"has the unknown :type {event['type']!r}")
    return {"value": None, **event}


def _read_edn(text: str, position: int = 0) -> tuple[Json, int]:
    """The first EDN value at `position`, and where it ends. Keywords keep their colon; keys are made strings."""
    token = _EDN_TOKEN.match(text, position)
    if token is None or token["close"]:
        raise HistoryError("has an unreadable value")
    position = token.end()
    if token["string"] is not None:
        unescaped = re.sub(r"\\(.)", lambda escape: _EDN_ESCAPES.get(escape[1], escape[1]), token["string"][1:-1])
        return unescaped, position
    if token["atom"] is not None:
        return _edn_atom(token["atom"]), position
    items: list[Json] = []
    while True:
        closing = _EDN_TOKEN.match(text, position)
        if closing is None:
            raise HistoryError("ends inside a value")
        if closing["close"]:
            break
        item, position = _read_edn(text, position)
        items.append(item)
    if token["open"] == "{":
        if len(items) % 2:
            raise HistoryError("has a map with a key without a value")
        return {str(key): value for key, value in zip(items[::2], items[1::2], strict=True)}, closing.end()
    return items, closing.end()


def _edn_atom(atom: str) -> Json:
    if atom in _EDN_CONSTANTS:
        return _EDN_CONSTANTS[atom]
    try:
        return int(atom.removesuffix("N"))
    except ValueError:
        pass
    try:
        return float(atom.removesuffix("M"))
    except ValueError:
        return atom
