"""What runs of `models.exploring` have to satisfy, and the races that are searched for schedules that do not.

A history of a whole store is checked for linearizability: every load, read, update and save together, the file's
content at the end being one more load. A program that writes without the lock may do so in the one window that no
store can close, between the last look at the target and the rename; then the order of what was on disk is taken from
the trace, and each operation is checked against it exactly: see `_Versions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from models.exploring import FILE, SPELLINGS
from storecheck import Execution, MachineParameters, Operation, OperationRecord, ProcessProgram, Program, Replay, Runner
from storecheck import process as process_of
from storecheck.history import Call, History
from storecheck.history import Operation as Recorded
from storecheck.linearizability import Specification, check
from storecheck.machine.events import Created, DiskEvent, Marked, Renamed, Synced, Truncated, Unlinked, Written
from storecheck.program import Json
from storecheck.schedule import FaultPlan
from storecheck.syscalls import Transform

SESSIONS: Final = "models.exploring:Sessions"
FILELOCK: Final = "models.exploring:FileLockHolder"
FOREIGN: Final = "models.exploring:Foreign"
ADMINISTRATOR: Final = "models.exploring:Administrator"

# --- specification ----------------------------------------------------------------------------------------------

State: TypeAlias = "tuple[tuple[str, str], ...]"
"""Sessions and the text of their entries, sorted by key. The order of sessions in the file is not part of it."""

_PASS_TIME = frozenset({"sleep", "limit", "scribble", "touch", "set_wall_clock"})
_READ_ONLY = frozenset({"load", "read", "look", *_PASS_TIME})
_BLIND = frozenset({"save", "save_own", "replace", "rewrite", "restore", "remove"})


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def state_of(sessions: Mapping[str, Any]) -> State:
    """The state in which a store has these sessions."""
    return tuple(sorted((key, _text(entry)) for key, entry in sessions.items()))


def _parsed(content: str) -> Mapping[str, Any] | None:
    try:
        sessions = json.loads(content)
    except ValueError:
        return None
    return sessions if isinstance(sessions, dict) else None


def _with_entry(state: State, key: str, entry: object) -> State:
    return tuple(sorted({**dict(state), key: _text(entry)}.items()))


def _number_increased(state: State, key: str) -> tuple[State, int]:
    entry = json.loads(dict(state).get(key, "{}"))
    entry["n"] = number = int(entry.get("n", 0)) + 1
    return _with_entry(state, key, entry), number


def _appended(state: State, key: str, token: str) -> tuple[State, list[str]]:
    entry = json.loads(dict(state).get(key, "{}"))
    log = entry["log"] = [*entry.get("log", ()), token]
    return _with_entry(state, key, entry), log


def _after(state: State, call: Call) -> tuple[State, object]:  # noqa: C901 - one line for each operation
    """What the call leaves behind, and what it has to return."""
    argument: Any = call.argument
    key = argument.get("key", "")
    match call.name:
        case "load":
            return state, {name: json.loads(entry) for name, entry in state}
        case "read" if "name" in argument:
            return state, call.result if _is_content(call.result, state) else ()
        case "read" | "look":
            return state, json.loads(dict(state).get(key, "null"))
        case "add" | "reuse" | "guarded" | "slow" | "nested":
            return _number_increased(state, key)
        case "append":
            return _appended(state, key, argument["token"])
        case "delete":
            return tuple(item for item in state if item[0] != key), key in dict(state)
        case "save" | "save_own":
            return state_of(argument["sessions"]), None
        case "replace" | "rewrite" | "restore":
            return state_of(_parsed(argument["content"]) or {}), None
        case "remove":
            return (), None
        case name if name in _PASS_TIME:
            return state, None
        case name:
            raise ValueError(f"{name} is not an operation that the specification knows. Add it to `_after`.")


def _is_content(text: object, state: State) -> bool:
    """Whether a program that reads the file by itself may have read this; None if it found no file."""
    sessions = _parsed(text) if isinstance(text, str) else {}
    return sessions is not None and state_of(sessions) == state


def step(state: State, call: Call) -> Sequence[State]:
    """What one operation may leave behind: nothing, if its result does not fit."""
    after, result = _after(state, call)
    return (after,) if call.outcome == "unknown" or call.result == result else ()


def whole_store(initial: Mapping[str, Any]) -> Specification[State]:
    """A store file as one object, for every operation of the adapters."""
    return Specification(
        name="a store of sessions",
        initial=state_of(initial),
        step=step,
        read_only=lambda call: call.name in _READ_ONLY,
        blind=lambda call: call.name in _BLIND,
    )


# --- what every run has to satisfy ------------------------------------------------------------------------------

_CONFLICTS = frozenset({"add", "append", "delete", "look", "reuse", "guarded", "slow", "nested"})


def _permitted_errors(record: OperationRecord, program: Program) -> frozenset[str]:
    name = record.operation.name
    permitted = {"MutatorFailedError"} if name == "fail" else set()
    if "lock_timeout_s" in program.parameters:
        permitted.add("LockTimeoutError")
    foreign = [part for part in program.processes if part.adapter == FOREIGN]
    if foreign and name in _CONFLICTS:
        permitted.add("ConflictError")
    if any(operation.name == "rewrite" for part in foreign for operation in part.operations):
        permitted.add("CorruptStoreError")
    return frozenset(permitted)


def _wrong_outcome(execution: Execution) -> str | None:
    for record in execution.operations:
        answered = record.responded_at is not None
        if not answered and execution.ends[record.process] != "killed":
            return f"{record} never came back"
        if answered and record.outcome == "returned" and record.operation.name == "fail":
            return f"{record}: the mutator's exception was swallowed"
        if answered and record.outcome != "returned":
            permitted = _permitted_errors(record, execution.program)
            if record.outcome == "unknown" or record.error not in permitted:
                return str(record)
    return None


def _left_behind(execution: Execution) -> list[str]:
    return [name for name in execution.files() if name.endswith(".tmp") and ".sessionstore-" in name]


def _whole_history(execution: Execution) -> History:
    """The history, with the file at the end as one more load."""
    history = execution.history()
    stored = execution.files().get(FILE)
    end = 1 + max(
        (stamp for each in execution.operations for stamp in (each.invoked_at, each.responded_at or 0)), default=0
    )
    last = Recorded(
        process="the end",
        task="",
        identifier=len(history.operations),
        call=Call(
            name="load", argument={}, result=None if stored is None else _parsed(stored.decode("utf-8", "replace"))
        ),
        invoked_at=end,
        responded_at=end + 1,
    )
    if stored is None:
        last = replace(last, call=replace(last.call, result={}))
    return History(operations=(*history.operations, last))


@dataclass(frozen=True, slots=True)
class StorePromises:
    """The check of a run: None, or what is wrong with it.

    Attributes:
        transform: the planted bug of the search, if any: a suspicious run is executed once more with a trace.
        sweeps: the last process writes when all others are over, so it has to sweep what they left if killed.
    """

    transform: Transform | None = None
    sweeps: bool = False

    def __call__(self, execution: Execution) -> str | None:
        """Look at one run."""
        wrong = _wrong_outcome(execution)
        if wrong is not None:
            return wrong
        stray = _left_behind(execution)
        swept = self.sweeps and execution.ends[-1] != "killed"
        if stray and (swept or "killed" not in execution.ends):
            return f"left behind: {', '.join(stray)}"
        if any(content for name, content in execution.files().items() if name.endswith(".flock")):
            return "something was written into the lock file"
        program = execution.program
        initial = _parsed(program.files.get(FILE, b"{}").decode()) or {}
        verdict = check(_whole_history(execution), whole_store(initial))
        if verdict.status == "ok":
            return None
        if any(part.adapter == FOREIGN for part in program.processes):
            return self._beyond_the_window(execution)
        return str(verdict)

    def _beyond_the_window(self, execution: Execution) -> str | None:
        runner = Runner(execution.program, transform=self.transform)
        chooser = Replay(execution.choices).search(execution.program).next_chooser()
        assert chooser is not None
        traced = runner.run(chooser, policy=FaultPlan(execution.faults), trace=True)
        return _Versions(traced).problem()


as_promised = StorePromises()
"""For counterexamples, which name their check by import path."""

as_promised_and_swept = StorePromises(sweeps=True)
"""The same for races that end with a sweep."""


# --- the exact check, for programs with writers that ignore the lock --------------------------------------------


@dataclass(frozen=True, slots=True)
class _Version:
    """What the store file held from event `at` on; `based_on` is what it held when the new content was synced."""

    at: int
    process: int
    state: State | None
    based_on: State | None


class _Versions:
    """Everything that was on disk, in order, and what each operation made of it.

    A change by a writer that ignores the lock, made before an update synced its temporary file, has to be in what the
    update publishes, or the update has to fail: that is what its last look is for. One that comes later may be lost.
    Reads have to return what the file held at some moment between call and answer.
    """

    def __init__(self, execution: Execution) -> None:
        assert execution.trace is not None
        self._execution = execution
        self._trace = execution.trace
        self._foreign = {index for index, part in enumerate(execution.program.processes) if part.adapter == FOREIGN}
        self._initial = execution.program.files.get(FILE, b"")
        self._content: dict[int, bytearray] = {}
        self._synced: dict[int, State | None] = {}
        self._current: int | None = None
        self._missing = FILE not in execution.program.files
        self._began: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._doing: dict[int, int] = {}
        self.published: list[tuple[int, _Version]] = []
        self.versions = [_Version(-1, -1, self._state(), None)]
        for at, event in enumerate(self._trace):
            self._follow(at, event)

    def _bytes(self, serial: int) -> bytearray:
        # A file that was not created in this run is the initial one.
        return self._content.setdefault(serial, bytearray(self._initial))

    def _state(self) -> State | None:
        if self._missing:
            return ()
        content = self._initial if self._current is None else bytes(self._bytes(self._current))
        sessions = _parsed(content.decode("utf-8", "replace"))
        return None if sessions is None else state_of(sessions)

    def _is_store_file(self, serial: int) -> bool:
        return not self._missing and (
            serial == self._current or (self._current is None and serial not in self._content)
        )

    def _follow(self, at: int, event: DiskEvent) -> None:
        if isinstance(event, Marked):
            self._mark(at, event)
        elif isinstance(event, Created):
            self._content[event.serial] = bytearray()
            if event.name == FILE:
                self._show(at, event, event.serial)
        elif isinstance(event, Written | Truncated):
            was_store_file = self._is_store_file(event.serial)
            self._write(event)
            if was_store_file:
                self._show(at, event, event.serial)
        elif isinstance(event, Synced):
            self._synced[event.serial] = self._state()
        elif isinstance(event, Renamed):
            if event.name == FILE:
                self._show(at, event, event.serial)
        elif isinstance(event, Unlinked) and event.name == FILE:
            self._missing = True
            self._current = None
            self.versions.append(_Version(at, event.process, (), None))

    def _mark(self, at: int, event: Marked) -> None:
        word, _, identifier = event.label.partition(" ")
        if word == "begin":
            self._began[int(identifier)] = at
            self._doing[event.process] = int(identifier)
        else:
            self._ended[int(identifier)] = at

    def _write(self, event: Written | Truncated) -> None:
        content = self._bytes(event.serial)
        if isinstance(event, Truncated):
            del content[event.size :]
            content.extend(bytes(event.size - len(content)))
        else:
            content.extend(bytes(max(0, event.offset - len(content))))
            content[event.offset : event.offset + len(event.content)] = event.content

    def _show(self, at: int, event: DiskEvent, serial: int) -> None:
        self._missing = False
        self._current = serial
        version = _Version(at, event.process, self._state(), self._synced.get(serial))
        self.versions.append(version)
        if event.process not in self._foreign:
            self.published.append((self._doing[event.process], version))

    def problem(self) -> str | None:
        """The first operation that does not fit what was on disk."""
        history = self._execution.history()
        wrote = set()
        for number, version in self.published:
            wrote.add(number)
            record = self._execution.operations[number]
            if record.outcome == "raised":
                return f"{record}, but it published a version"
            if version.based_on is None:
                return f"{record} replaced content that cannot be read"
            if step(version.based_on, history.operations[number].call) != (version.state,):
                return (
                    f"{record} published {version.state}, but {version.based_on} was on disk when it synced its "
                    "temporary file"
                )
        for number, record in enumerate(self._execution.operations):
            is_write = record.process in self._foreign and record.operation.name != "read"
            if record.outcome == "returned" and number not in wrote and not is_write:
                seen = list(self._during(self._began[number], self._ended[number]))
                if record.process in self._foreign and None in seen:
                    continue  # it reads what a foreign program has spoilt
                if not any(state is not None and step(state, history.operations[number].call) for state in seen):
                    return f"{record}, but the file held {' then '.join(map(str, seen))} meanwhile"
        return None

    def _during(self, began: int, ended: int) -> Iterator[State | None]:
        for version, following in zip(self.versions, (*self.versions[1:], None), strict=True):
            if version.at <= ended and (following is None or following.at >= began):
                yield version.state


# --- races ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A small program, and the promises that its schedules may break."""

    name: str
    promises: tuple[str, ...]
    program: Program
    sweeps: bool = False

    def check(self, transform: Transform | None = None) -> StorePromises:
        """What every run has to satisfy."""
        return StorePromises(transform, self.sweeps)

    @property
    def check_path(self) -> str:
        """Where a counterexample of this race finds its check: without it, no ordering is searched for."""
        return f"{__name__}:{'as_promised_and_swept' if self.sweeps else 'as_promised'}"


ONE: Final = b'{\n  "a": {\n    "n": 0\n  }\n}'
TWO: Final = b'{\n  "a": {\n    "n": 0\n  },\n  "b": {\n    "n": 0\n  }\n}'
_SETTLED_S: Final = 10.0
"""After so long a sleep, time stamps from before it can be trusted on every file system."""


def _do(operation: str, /, **arguments: Json) -> Operation:
    return Operation(operation, arguments)


def _add(key: str = "a", **arguments: Json) -> Operation:
    return _do("add", key=key, **arguments)


def _append(key: str, token: str) -> Operation:
    return _do("append", key=key, token=token)


def _file(number: int, *, key: str = "a") -> str:
    return json.dumps({key: {"n": number}}, indent=2)


def _race(
    name: str,
    promises: str,
    /,
    *processes: ProcessProgram,
    stored: bytes | None = ONE,
    machine: MachineParameters | None = None,
    kills: int = 0,
    sweeps: bool = False,
    **parameters: Json,
) -> Race:
    program = Program(
        adapter=SESSIONS,
        processes=processes,
        files={} if stored is None else {FILE: stored},
        parameters=parameters,
        machine=machine or MachineParameters(),
        kills=kills,
    )
    return Race(name=name, promises=tuple(promises.split()), program=program, sweeps=sweeps)


def _threads(*threads: tuple[Operation, ...], then: tuple[Operation, ...] = ()) -> ProcessProgram:
    return ProcessProgram(operations=then, threads=threads)


_LARGE: Final = json.dumps({key: {"n": 0, "text": "x" * 10} for key in "ab"}, indent=2).encode()
_LARGE_REWRITTEN: Final[Json] = {"a": {"n": 0, "text": "x" * 9}, "bb": {"n": 0, "text": "x" * 10}}
_LARGE_LIMIT_BYTES: Final = 80
"""Less than `_LARGE` has, more than the positions of its entries cost."""

_COARSE = MachineParameters(stamp_granularity_ns=4_000_000)
_LINK, _LINKED, _DOTTED = SPELLINGS[1:]

RACES: Final[Mapping[str, Race]] = {
    race.name: race
    for race in (
        _race("two writers", "WRITE1 LOCK1", process_of(_add()), process_of(_add())),
        _race("three writers", "WRITE1 LOCK1", *(process_of(_append("a", name)) for name in "xyz")),
        _race(
            "a chain and a writer",
            "SNAP1 SNAP3 SNAP5 WRITE1",
            process_of(_add(), _add(base="last")),
            process_of(_do("load"), _add(base="loaded")),
        ),
        _race(
            "a base and a rewrite of its size",
            "SNAP1 SNAP2",
            process_of(_do("load"), _add("a", base="loaded")),
            process_of(_do("save", sessions={"a": {"n": 1}})),
        ),
        _race("inside the lock", "LOCK1", process_of(_do("guarded", key="a")), process_of(_do("guarded", key="b"))),
        _race(
            "inside the lock, again and again",
            "LOCK1 WRITE1",
            process_of(_do("guarded", key="a"), _do("guarded", key="a")),
            process_of(_do("guarded", key="b")),
            process_of(_do("guarded", key="c")),
        ),
        _race(
            "a writer and readers",
            "WRITE2 CACHE6 CACHE9",
            process_of(_add(), _do("save", sessions={"b": {"n": 7}})),
            process_of(_do("load"), _do("read", key="a")),
            process_of(_do("read", name=FILE), _do("read", name=FILE), adapter=FOREIGN),
        ),
        _race(
            "a cache and a writer",
            "CACHE6",
            process_of(_do("sleep", seconds=_SETTLED_S), _do("load"), _do("load")),
            process_of(_do("sleep", seconds=_SETTLED_S), _add()),
        ),
        _race(
            "own content and two other versions of its size",
            "CACHE6",
            process_of(_do("save", sessions={"a": {"n": 1}}), _do("load"), _do("load")),
            process_of(_do("save", sessions={"a": {"n": 2}}), _do("save", sessions={"a": {"n": 3}})),
            machine=_COARSE,
        ),
        _race(
            "own content, two other versions and an update",
            "WRITE1 SNAP3",
            process_of(_do("save", sessions={"a": {"n": 1}}), _add()),
            process_of(_do("save", sessions={"a": {"n": 2}}), _do("save", sessions={"a": {"n": 3}})),
            machine=_COARSE,
        ),
        _race("a file that appears", "CACHE6", process_of(_do("load"), _do("load")), process_of(_add()), stored=None),
        _race(
            "an old copy put in place",
            "CACHE6",
            process_of(_do("sleep", seconds=_SETTLED_S), _do("load"), _do("load"), _do("load")),
            process_of(
                _do("sleep", seconds=_SETTLED_S),
                _do("restore", name=FILE, content=_file(5), mtime_ns=1_767_225_600_000_000_000 - 10**9),
                adapter=FOREIGN,
            ),
            machine=MachineParameters(stamp_granularity_ns=1_000_000_000),
        ),
        _race(
            "a clock set back",
            "CACHE6",
            process_of(_do("sleep", seconds=_SETTLED_S), _do("load"), _do("load")),
            process_of(
                _do("sleep", seconds=_SETTLED_S),
                # The second in which the file was written comes again, and with it the file's stamps.
                _do("set_wall_clock", delta_s=-_SETTLED_S),
                _do("rewrite", name=FILE, content=_file(5), truncate=False),
                adapter=FOREIGN,
            ),
            machine=MachineParameters(stamp_granularity_ns=1_000_000_000),
        ),
        _race(
            "a clock set forward and back",
            "CACHE6 SNAP1",
            process_of(_do("load"), _add(base="loaded"), _do("load")),
            process_of(
                _do("set_wall_clock", delta_s=_SETTLED_S),
                _do("rewrite", name=FILE, content=_file(5), truncate=False),
                _do("set_wall_clock", delta_s=-_SETTLED_S),
                adapter=FOREIGN,
            ),
            machine=_COARSE,
        ),
        _race(
            "a clock set back and a time to live",
            "CACHE6 SNAP1",
            process_of(_do("load"), _do("sleep", seconds=1.5), _do("load"), _add(base="loaded")),
            process_of(_do("set_wall_clock", delta_s=-3600.0), _add(), adapter=ADMINISTRATOR),
            cache_ttl_ms=1_000,
        ),
        _race(
            "a time to live that ends",
            "CACHE6 SNAP1",
            process_of(_do("load"), _do("sleep", seconds=1.5), _do("load"), _add(base="loaded")),
            process_of(_add()),
            cache_ttl_ms=1_000,
        ),
        _race(
            "a limit crossed by another",
            "CACHE6 SNAP1",
            process_of(_do("load"), _do("load"), _add(base="loaded")),
            process_of(_append("long", "x" * 40)),
            object_cache_max_bytes=50,
        ),
        _race(
            "a limit lowered",
            "CACHE6",
            process_of(_do("load"), _do("limit", object_cache_max_bytes=34), _do("read", key="a"), _do("load")),
            process_of(_add()),
        ),
        _race(
            "oversized, with bases",
            "SNAP1 SNAP2 SNAP4 SNAP5",
            process_of(_do("reuse", key="a"), _do("reuse", key="a")),
            process_of(_do("save", sessions=_LARGE_REWRITTEN)),
            stored=_LARGE,
            object_cache_max_bytes=_LARGE_LIMIT_BYTES,
        ),
        _race(
            "oversized, and a rewrite of its size",
            "CACHE6 SNAP2",
            process_of(_do("load"), _do("load"), _do("read", key="b"), _append("b", "x")),
            process_of(_do("save", sessions=_LARGE_REWRITTEN)),
            stored=_LARGE,
            object_cache_max_bytes=_LARGE_LIMIT_BYTES,
        ),
        _race(
            "a foreign rename",
            "SNAP1 CACHE6",
            process_of(_do("load"), _add(base="loaded"), _do("load")),
            process_of(_do("replace", name=FILE, content=_file(5)), adapter=FOREIGN),
            machine=_COARSE,
        ),
        _race(
            "a foreign rewrite in place",
            "SNAP1 CACHE6",
            process_of(_do("load"), _add(base="loaded"), _do("load")),
            process_of(_do("rewrite", name=FILE, content=_file(5), truncate=False), adapter=FOREIGN),
            machine=MachineParameters(stamp_granularity_ns=2_000_000_000),
        ),
        _race(
            "threads of one process",
            "WRITE1 LOCK1",
            _threads((_add(),), (_do("guarded", key="b"),)),
            process_of(_do("guarded", key="b")),
        ),
        _race(
            "a reader beside a writing thread",
            "CACHE6 CACHE9",
            _threads(
                (_do("sleep", seconds=_SETTLED_S), _do("load"), _add()),
                (_do("sleep", seconds=_SETTLED_S + 1), _do("load"), _do("load", skip_cache=True)),
            ),
        ),
        _race(
            "an object changed while it is saved",
            "CACHE7",
            _threads((_do("save_own", sessions={"a": {"n": 1}}),), (_do("scribble", key="a", number=2),)),
            process_of(_add()),
        ),
        _race(
            "names of one file",
            "CACHE8 LOCK1",
            process_of(_do("guarded", key="a", by=_LINK)),
            process_of(_do("guarded", key="a", by=_LINKED)),
            stored=None,
            links=True,
        ),
        _race(
            "names in one process",
            "CACHE8 WRITE1",
            _threads((_add(by=_LINK), _do("load", by=_DOTTED)), (_add(by=_DOTTED),)),
            process_of(_add()),
            links=True,
        ),
        _race("a killed writer", "WRITE4 LOCK2", process_of(_add()), process_of(_add()), kills=1),
        _race(
            "what killed writers leave behind",
            "WRITE4",
            process_of(_add()),
            process_of(_do("sleep", seconds=1), _add()),
            machine=MachineParameters(time_choice="none"),
            kills=1,
            sweeps=True,
        ),
        _race(
            "a killed holder and two heirs",
            "LOCK1 LOCK2",
            process_of(_do("guarded", key="c")),
            process_of(_add()),
            process_of(_add()),
            kills=1,
        ),
        _race(
            "filelock beside the store",
            "LOCK1 WRITE1",
            process_of(_add(), _do("load")),
            process_of(_add(), adapter=FILELOCK),
        ),
        _race(
            "a writer that does not wait",
            "LOCK1 LOCK2 WRITE4",
            process_of(_add()),
            process_of(_add(), _add()),
            lock_timeout_s=0.0,
        ),
        _race(
            "a slow holder",
            "LOCK2",
            process_of(_do("slow", key="a", seconds=3)),
            process_of(_do("sleep", seconds=2), _add()),
        ),
        _race(
            "time that is over",
            "LOCK2",
            process_of(_do("slow", key="a", seconds=2)),
            process_of(_add(), _add()),
            machine=MachineParameters(time_choice="all"),
            lock_timeout_s=1.0,
        ),
        _race(
            "an update inside an update",
            "LOCK4",
            process_of(_do("nested", key="a", inner_by=_DOTTED)),
            process_of(_add()),
            links=True,
        ),
        _race(
            "a mutator that raises",
            "SNAP6",
            process_of(_do("load"), _do("fail", key="a", base="loaded"), _add(base="loaded")),
            process_of(_add()),
        ),
        _race(
            "no change beside a change",
            "WRITE6",
            process_of(_do("save", sessions={"a": {"n": 1}}), _do("save", sessions={"a": {"n": 1}})),
            process_of(_do("save", sessions={"a": {"n": 2}}), _do("look", key="a")),
        ),
        _race(
            "the first save",
            "WRITE1 CACHE6",
            process_of(_do("load"), _add(), _do("load")),
            process_of(_do("delete", key="a"), _add()),
            stored=None,
        ),
    )
}


# --- large files ------------------------------------------------------------------------------------------------

_PARTS: Final = 11
_PART_BYTES: Final = 100_000


def _in_parts(parts: int) -> bytes:
    """A store file of so many sessions, each longer than the chunks in which files are read and compared."""
    texts = {f"part {number}": f"{number:09} " * (_PART_BYTES // 10) for number in range(parts)}
    sessions = {key: {"n": 0, "text": text} for key, text in texts.items()} | {"z": {"n": 0}}
    return json.dumps(sessions, indent=2).encode()


LARGE_RACES: Final[Mapping[str, Race]] = {
    race.name: race
    for race in (
        _race(
            "several chunks, held",
            "SNAP1 SNAP2 SNAP5 CACHE6 WRITE1",
            process_of(_do("load"), _add("z", base="loaded"), _do("read", key="part 1")),
            process_of(_add("part 1"), _add("z", base="last")),
            stored=_in_parts(3),
        ),
        _race(
            "several chunks, oversized",
            "SNAP1 SNAP2 SNAP5 CACHE6 WRITE1",
            # The change of the other process keeps the size, and lies behind what is compared at a time.
            process_of(_do("load"), _add("z", base="loaded"), _do("read", key="z")),
            process_of(_add("z")),
            stored=_in_parts(_PARTS),
        ),
        _race(
            "several chunks, rewritten in place",
            "SNAP1 CACHE6",
            process_of(_do("load"), _add("z", base="loaded"), _do("load")),
            process_of(
                _do("rewrite", name=FILE, content=_in_parts(3).replace(b'"n": 0', b'"n": 5').decode(), truncate=False),
                adapter=FOREIGN,
            ),
            stored=_in_parts(3),
            machine=_COARSE,
        ),
    )
}
"""Races over files of several chunks: a run costs many times one of `RACES`."""
