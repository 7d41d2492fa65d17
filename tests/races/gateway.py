"""What takes part in races: a gateway on the store, other programs on the same file, and what each of them does.

Sessions of the race are named `race:…` and hold one version each, a text that no two writes share; everything else in
the file is filler that nobody may damage. An entry repeats its version all over its text, so that a mixture of two
shows. All adapters speak `storecheck.linearizability.versioned_map`: get, set, remove, load, save.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import filelock

from sessionstore import Draft, SessionStore, Settings, Snapshot
from storecheck import Operation
from storecheck.program import Json

FILE = "sessions.json"
PREFIX = "race:"
SESSIONS = tuple(f"{PREFIX}{number}" for number in range(4))
LOCK_TIMEOUT_S = 90.0
"""Longer than any race: a writer that is not served within it has starved, and that is reported."""

REPEATS = 12


def entry_of(version: str) -> dict[str, Any]:
    """The entry that carries a version."""
    return {"sessionId": version, "text": f"<{version}>" * REPEATS}


def version_of(entry: Mapping[str, Any] | None) -> str | None:
    """The version that an entry carries; a text that says so if it is a mixture."""
    if entry is None:
        return None
    version = str(entry.get("sessionId"))
    return version if entry == entry_of(version) else f"mixture {entry!r}"


def versions_of(sessions: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The versions of the race's sessions."""
    return {key: version_of(sessions[key]) for key in sessions if key.startswith(PREFIX)}


class Gateway:
    """A process that serves sessions from the store, half of its updates starting from what it read last."""

    def __init__(self, root: str, *, durable_reads: bool = False) -> None:
        settings = Settings(lock_timeout_s=LOCK_TIMEOUT_S)
        self._store = SessionStore(os.path.join(root, FILE), settings)
        self._skip_cache = durable_reads
        self._own = threading.local()
        self._counted = {"bases reused": 0, "bases outdated": 0, "another's version found": 0, "looks that saw news": 0}

    def get(self, session: str) -> str | None:
        """One session."""
        found = version_of(self._store.read(session))
        self._note_news({session: found})
        return found

    def load(self) -> dict[str, str | None]:
        """All sessions; the snapshot becomes the base of a later update."""
        self._own.base = self._store.load(skip_cache=self._skip_cache)
        found = versions_of(self._own.base)
        self._note_news(found)
        return found

    def _note_news(self, found: Mapping[str, str | None]) -> None:
        """Count a look at which a session is not what this thread saw there last."""
        seen = self._own.__dict__.setdefault("seen", {})
        self._counted["looks that saw news"] += any(seen.get(key, found[key]) != found[key] for key in found)
        seen.update(found)

    def set(self, session: str, version: str) -> str | None:
        """Set one session and return what was there."""

        def change(draft: Draft) -> str | None:
            found = version_of(draft.get(session))
            draft[session] = entry_of(version)
            return found

        return self._update(change, version)

    def remove(self, session: str) -> str | None:
        """Remove one session and return what was there."""

        def change(draft: Draft) -> str | None:
            return version_of(draft.pop(session, None))

        return self._update(change, "")

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        self._store.save({key: entry_of(version) for key, version in sessions.items()})

    def _update(self, change: Any, version: str) -> str | None:
        base: Snapshot | None = getattr(self._own, "base", None)
        done = self._store.update(change, base=base)
        self._own.base = done.snapshot
        if base is not None:
            self._counted["bases reused" if done.reused else "bases outdated"] += 1
        found: str | None = done.result
        if found is not None and found.partition("/")[0] != version.partition("/")[0]:
            self._counted["another's version found"] += 1
        return found

    def close(self) -> None:
        """Nothing is asked of the store after this."""
        self._store.close()

    def counters(self) -> dict[str, int]:
        """What this process met."""
        return dict(self._counted)


class LockingProgram:
    """Another program, which knows nothing of the store but its lock: json and `filelock`."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, FILE)
        self._lock = filelock.FileLock(f"{self._path}.flock", timeout=LOCK_TIMEOUT_S, poll_interval=0.001)

    def get(self, session: str) -> str | None:
        """One session."""
        return version_of(self._read().get(session))

    def set(self, session: str, version: str) -> str | None:
        """Set one session and return what was there."""
        with self._lock:
            sessions = self._read()
            found = version_of(sessions.get(session))
            sessions[session] = entry_of(version)
            self._replace(json.dumps(sessions))
        return found

    def _read(self) -> dict[str, Any]:
        with open(self._path, encoding="utf-8") as stream:
            content: dict[str, Any] = json.load(stream)
        return content

    def _replace(self, content: str) -> None:
        beside = f"{self._path}.{os.getpid()}"
        with open(beside, "w", encoding="utf-8") as stream:
            stream.write(content)
        os.replace(beside, self._path)


class LocklessWriter(LockingProgram):
    """A program that replaces the whole file whenever it likes, keeping size and times as `cp -p` does."""

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything, without any lock."""
        times = os.stat(self._path)
        beside = f"{self._path}.{os.getpid()}"
        with open(beside, "w", encoding="utf-8") as stream:
            stream.write(json.dumps({key: entry_of(version) for key, version in sessions.items()}))
        os.utime(beside, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(beside, self._path)


# What they do. Versions are "P<process>/<thread>.<number>", of who wrote them.


def saving(versions: Mapping[str, str]) -> Operation:
    """The operation that replaces everything by these versions."""
    sessions: dict[str, Json] = dict(versions)
    return Operation("save", {"sessions": sessions})


def _source(worker: int, thread: int, seed: int) -> random.Random:
    return random.Random(f"{seed} {worker} {thread}")


def gateway(worker: int, thread: int, seed: int, *, operations: int = 30, removes: bool = True) -> Iterator[Operation]:
    """Reads and updates of a few sessions that all processes share."""
    source = _source(worker, thread, seed)
    for number in range(operations):
        session = source.choice(SESSIONS)
        kind = source.random()
        if kind < 0.25:
            yield Operation("get", {"session": session})
        elif kind < 0.32 and removes:
            yield Operation("remove", {"session": session})
        else:
            yield Operation("set", {"session": session, "version": f"P{worker + 1}/{thread}.{number}"})


def contended(worker: int, thread: int, seed: int) -> Iterator[Operation]:
    """Updates of one session, as fast as they go."""
    for number in range(15):
        yield Operation("set", {"session": SESSIONS[0], "version": f"P{worker + 1}/{thread}.{seed}.{number}"})


def few(worker: int, thread: int, seed: int) -> Iterator[Operation]:
    """The same, for stores of which one update takes long."""
    return gateway(worker, thread, seed, operations=8)


def some(worker: int, thread: int, seed: int) -> Iterator[Operation]:
    """The same, in between."""
    return gateway(worker, thread, seed, operations=15, removes=False)


def whole(worker: int, thread: int, seed: int) -> Iterator[Operation]:
    """Loads and saves of everything among updates with and without a base."""
    source = _source(worker, thread, seed)
    for number in range(20):
        version = f"P{worker + 1}/{thread}.{number}"
        kind = source.random()
        if kind < 0.4:
            yield Operation("load")
        elif kind < 0.5:
            kept = source.sample(SESSIONS, 2)
            yield saving({session: f"{version}.{session}" for session in kept})
        else:
            yield Operation("set", {"session": source.choice(SESSIONS), "version": version})


def readers(worker: int, thread: int, seed: int) -> Iterator[Operation]:
    """Looks at everything, again and again, from the cache if that is allowed."""
    source = _source(worker, thread, seed)
    for _ in range(400):
        yield Operation("load") if source.random() < 0.5 else Operation("get", {"session": source.choice(SESSIONS)})


def replacements(worker: int, thread: int, seed: int) -> Iterator[Operation]:
    """Whole files, all of one size."""
    for number in range(400):
        version = f"P{worker + 1}/{thread}.{seed:04}.{number:04}"
        yield saving(dict.fromkeys(SESSIONS, version))
