"""What a gateway does to its store, as values.

A *change* is what a mutator does: a frozen value that is called with any mutable mapping of sessions, a draft of the
store or a sheet of the specification, and returns the mutator's result. An *operation* is one call on the store.
Sequences of operations are the workloads: the reply path, heartbeats, the cron sweep, maintenance, the operator at
the command line, and the editor that knows nothing of locks. Nothing here depends on Hypothesis, draws at random or
reads a clock, so the same workload runs in a state machine, in a race of real processes and in a benchmark.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Literal

from models.specification import DAY_MS, Entry, normalise, updated_at

Change = Callable[[MutableMapping[str, Entry]], object]
Sessions = Mapping[str, Entry]

HEARTBEAT_REPEAT_MS = DAY_MS
"""A heartbeat text is not sent and not written again within this time, as in the original system."""

CRON_KEEP_MS = 7 * DAY_MS
CRON_PREFIX = "cron:"


class MutatorFailedError(Exception):
    """Raised on purpose by a mutator."""


# --- changes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nothing:
    """Look at everything, change nothing; returns how many sessions there are."""

    def __call__(self, draft: MutableMapping[str, Entry]) -> int:
        """Apply it to the draft."""
        return len([draft[key] for key in draft])


@dataclass(frozen=True, slots=True)
class PutEntry:
    """Set the whole entry; the value is copied, so that one change can be applied many times."""

    key: str
    entry: Entry

    def __call__(self, draft: MutableMapping[str, Entry]) -> None:
        """Apply it to the draft."""
        draft[self.key] = copy.deepcopy(self.entry)


@dataclass(frozen=True, slots=True)
class SetField:
    """Set one field of a session, which is created if it is not there."""

    key: str
    field: str
    value: object

    def __call__(self, draft: MutableMapping[str, Entry]) -> object:
        """Apply it to the draft."""
        if self.key not in draft:
            draft[self.key] = {}
        entry = draft[self.key]
        before = copy.deepcopy(entry.get(self.field))
        entry[self.field] = copy.deepcopy(self.value)
        return before


@dataclass(frozen=True, slots=True)
class DropField:
    """Remove one field, if session and field exist; returns whether they did."""

    key: str
    field: str

    def __call__(self, draft: MutableMapping[str, Entry]) -> bool:
        """Apply it to the draft."""
        if self.key not in draft or self.field not in draft[self.key]:
            return False
        del draft[self.key][self.field]
        return True


@dataclass(frozen=True, slots=True)
class RemoveEntry:
    """Remove a session under all its spellings; returns whether it was there."""

    key: str

    def __call__(self, draft: MutableMapping[str, Entry]) -> bool:
        """Apply it to the draft."""
        return draft.pop(self.key, None) is not None


@dataclass(frozen=True, slots=True)
class ReassignEntry:
    """Assign a copy of a session's own value to it: nothing to write, however its key is spelled in the file."""

    key: str

    def __call__(self, draft: MutableMapping[str, Entry]) -> bool:
        """Apply it to the draft."""
        if self.key not in draft:
            return False
        draft[self.key] = copy.deepcopy(draft[self.key])
        return True


@dataclass(frozen=True, slots=True)
class EditAndRevert:
    """Change a session in place and change it back: nothing to write."""

    key: str

    def __call__(self, draft: MutableMapping[str, Entry]) -> bool:
        """Apply it to the draft."""
        if self.key not in draft:
            return False
        entry = draft[self.key]
        entry["half-done"] = {"never": "stored"}
        del entry["half-done"]
        return True


@dataclass(frozen=True, slots=True)
class Together:
    """Several changes by one mutator; returns their results."""

    changes: tuple[Change, ...]

    def __call__(self, draft: MutableMapping[str, Entry]) -> list[object]:
        """Apply it to the draft."""
        return [change(draft) for change in self.changes]


@dataclass(frozen=True, slots=True)
class FailAfter:
    """Make the changes, then raise `MutatorFailedError`."""

    changes: tuple[Change, ...]

    def __call__(self, draft: MutableMapping[str, Entry]) -> None:
        """Apply it to the draft."""
        for change in self.changes:
            change(draft)
        raise MutatorFailedError("raised by the workload's mutator, on purpose")


@dataclass(frozen=True, slots=True)
class RecordReply:
    """After a reply: move the session to the front, remember where it was delivered, count its tokens."""

    key: str
    session_id: str
    now_ms: int
    channel: str
    to: str
    tokens: int

    def __call__(self, draft: MutableMapping[str, Entry]) -> int:
        """Apply it to the draft."""
        entry: Entry = draft.get(self.key) or {"sessionId": self.session_id}
        before = entry.get("totalTokens")
        total = (before if isinstance(before, int) else 0) + self.tokens
        entry["updatedAt"] = self.now_ms
        entry["deliveryContext"] = {"channel": self.channel, "to": self.to}
        entry["lastChannel"] = self.channel
        entry["lastTo"] = self.to
        entry["totalTokens"] = total
        draft[self.key] = entry
        return total


@dataclass(frozen=True, slots=True)
class RecordHeartbeat:
    """Remember a heartbeat, unless the same text was recorded less than a day ago; returns whether it is new."""

    key: str
    text: str
    now_ms: int

    def __call__(self, draft: MutableMapping[str, Entry]) -> bool:
        """Apply it to the draft."""
        if self.key not in draft:
            return False
        entry = draft[self.key]
        sent_at = entry.get("lastHeartbeatSentAt")
        if (
            entry.get("lastHeartbeatText") == self.text
            and isinstance(sent_at, int)
            and self.now_ms - sent_at < HEARTBEAT_REPEAT_MS
        ):
            return False
        entry["lastHeartbeatText"] = self.text
        entry["lastHeartbeatSentAt"] = self.now_ms
        return True


@dataclass(frozen=True, slots=True)
class SweepCron:
    """Remove the sessions of cron jobs that have been silent for `CRON_KEEP_MS`; returns their names."""

    now_ms: int

    def __call__(self, draft: MutableMapping[str, Entry]) -> list[str]:
        """Apply it to the draft."""
        stale = []
        for key in list(draft):
            stamp = updated_at(draft[key])
            if normalise(key).startswith(CRON_PREFIX) and stamp is not None and stamp < self.now_ms - CRON_KEEP_MS:
                stale.append(normalise(key))
        for name in stale:
            del draft[name]
        return sorted(stale)


# --- operations -------------------------------------------------------------------------------------------------

Base = Literal["none", "newest", "oldest"]
Manner = Literal["rename", "in-place", "in-place, old times", "rename, old times", "delete and create", "delete"]
MANNERS: tuple[Manner, ...] = (
    "rename",
    "in-place",
    "in-place, old times",
    "rename, old times",
    "delete and create",
    "delete",
)


@dataclass(frozen=True, slots=True)
class Load:
    """Load everything and keep the snapshot as a base for later updates."""

    skip_cache: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """Read one session."""

    key: str


@dataclass(frozen=True, slots=True)
class Update:
    """Run a change on the newest content, reusing the newest or the oldest snapshot at hand, or none."""

    change: Change
    base: Base = "none"
    active_session: str | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """Replace everything."""

    sessions: Sessions
    active_session: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignRewrite:
    """A program that knows nothing of the store puts other bytes in the file."""

    content: bytes
    manner: Manner


Operation = Load | Read | Update | Save | ForeignRewrite


def reply_path(
    *, keys: Iterable[str], now_ms: int, session_id: str, channel: str = "telegram", to: str = "chat:1"
) -> tuple[Operation, ...]:
    """One reply per key: load, look the session up, then record the delivery with the loaded snapshot as base."""
    operations: list[Operation] = []
    for number, key in enumerate(keys):
        reply = RecordReply(
            key=key, session_id=session_id, now_ms=now_ms + number, channel=channel, to=to, tokens=100 + number
        )
        operations += [Load(), Read(key), Update(reply, base="newest", active_session=key)]
    return tuple(operations)


def heartbeats(*, key: str, texts: Iterable[str], now_ms: int, every_ms: int) -> tuple[Operation, ...]:
    """A heartbeat every `every_ms`; a text repeated within a day leaves the file alone."""
    return tuple(
        Update(RecordHeartbeat(key=key, text=text, now_ms=now_ms + number * every_ms), base="newest")
        for number, text in enumerate(texts)
    )


def cron_sweep(*, now_ms: int) -> tuple[Operation, ...]:
    """The nightly sweep, and a second one that finds nothing to do."""
    return (Load(), Update(SweepCron(now_ms=now_ms), base="newest"), Update(SweepCron(now_ms=now_ms), base="newest"))


def maintenance(*, key: str) -> tuple[Operation, ...]:
    """A rewrite of everything by a caller that changes nothing: only maintenance can make it a write."""
    return (Load(skip_cache=True), Update(ReassignEntry(key), active_session=key))


def operator_session(*, key: str, entry: Entry) -> tuple[Operation, ...]:
    """What `list`, `show`, `set`, `show`, `remove` at the command line amount to: no base, no cache to start from."""
    return (
        Load(skip_cache=True),
        Read(key),
        Update(PutEntry(key, entry)),
        Read(key),
        Update(RemoveEntry(key)),
    )


def foreign_editor(*, content: bytes, manner: Manner) -> tuple[Operation, ...]:
    """Someone else's program replaces the file between a load and an update that starts from it."""
    return (
        Load(),
        ForeignRewrite(content=content, manner=manner),
        Read("agent:main:main"),
        Update(SetField("agent:main:main", "label", "after the editor"), base="oldest"),
    )


# --- running them on a real file --------------------------------------------------------------------------------


def rewrite(path: str | os.PathLike[str], *, content: bytes, manner: Manner) -> None:
    """Change the file as a foreign program would: without the lock, in the given manner.

    `old times` restores the modification time that the file had before, as `touch -r` and `cp -p` do.
    """
    if manner == "delete":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    try:
        status: os.stat_result | None = os.stat(path)
    except FileNotFoundError:
        status = None
    if manner == "delete and create" and status is not None:
        os.unlink(path)
    if manner.startswith("rename"):
        beside = f"{os.fspath(path)}.editor"
        with open(beside, "wb") as stream:
            stream.write(content)
        _restore_times(beside, status if manner.endswith("old times") else None)
        os.replace(beside, path)
        return
    with open(path, "r+b" if status is not None and manner.startswith("in-place") else "wb") as stream:
        stream.write(content)
        stream.truncate()
    _restore_times(path, status if manner.endswith("old times") else None)


def _restore_times(path: str | os.PathLike[str], status: os.stat_result | None) -> None:
    if status is not None:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def run(
    store: Any, path: str | os.PathLike[str], operations: Iterable[Operation]
) -> Iterator[tuple[Operation, object]]:
    """Perform the operations on a store and its file, one by one; yields each with what the call returned.

    Snapshots are yielded as plain dicts. Bases are chosen among the snapshots that this run has seen. Errors are the
    caller's.
    """
    snapshots: list[Any] = []
    for operation in operations:
        match operation:
            case Load(skip_cache=skip_cache):
                snapshots.append(store.load(skip_cache=skip_cache))
                yield operation, {key: snapshots[-1][key] for key in snapshots[-1]}
            case Read(key=key):
                yield operation, store.read(key)
            case Update(change=change, base=base, active_session=active_session):
                chosen = None if base == "none" or not snapshots else snapshots[-1 if base == "newest" else 0]
                done = store.update(change, base=chosen, active_session=active_session)
                snapshots.append(done.snapshot)
                yield operation, done.result
            case Save(sessions=sessions, active_session=active_session):
                snapshots.append(store.save(sessions, active_session=active_session))
                yield operation, None
            case ForeignRewrite(content=content, manner=manner):
                rewrite(path, content=content, manner=manner)
                yield operation, None
