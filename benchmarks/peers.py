"""The stores that are measured, each through its documented interface, behind one small interface of ours.

Every peer keeps the same sessions and offers the same four acts: load everything, read one entry *fresh* (another
process may have written since), increment fields of one entry, close. What a peer promises about durability and
concurrent writers differs and is printed beside its figures; nothing here adds a lock or an fsync that its
documentation does not ask for. Libraries are imported when a peer is used, so that one peer's modules do not count
as another's memory.
"""

# ruff: noqa: D102, ARG002  -- the methods are documented once, at Peer, and the raw limit has no keys

import asyncio
import json
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeAlias, cast

from benchmarks.stores import indented

Entry: TypeAlias = dict[str, object]
Sessions: TypeAlias = dict[str, Entry]

SQLITE_BUSY_TIMEOUT_S = 30.0


class Peer(ABC):
    """One way of keeping sessions on disk. `Peer(directory)` opens what `Peer.create(directory, sessions)` made.

    Attributes:
        name: as printed.
        durability: what its documentation promises for a finished update.
    """

    name: ClassVar[str]
    durability: ClassVar[str]

    @abstractmethod
    def __init__(self, directory: str) -> None:
        """Open what `create` put into `directory`."""

    @staticmethod
    @abstractmethod
    def create(directory: str, sessions: Sessions) -> None:
        """Put `sessions` into the empty `directory`."""

    @abstractmethod
    def load_all(self) -> Mapping[str, Entry]:
        """All sessions as they are on disk now."""

    @abstractmethod
    def read_one(self, key: str) -> Entry | None:
        """One session as it is on disk now, or None."""

    @abstractmethod
    def increment(self, key: str, fields: Sequence[str]) -> None:
        """Add 1 to each of `fields` (missing counts as 0) of the session `key`, in one update."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and memory."""


def add_one(entry: Entry, fields: Sequence[str]) -> None:
    """The change that every peer makes to an entry."""
    for field in fields:
        entry[field] = cast("int", entry.get(field, 0)) + 1


class JsonWithFilelock(Peer):
    """What a careful person writes by hand: json, a lock file, a temporary file, fsync, replace.

    The file is written compactly, which is faster than indentation: the baseline gets its best form.
    """

    name = "json + filelock + fsync"
    durability = "fsync"

    def __init__(self, directory: str) -> None:
        from filelock import FileLock

        self._path = os.path.join(directory, "sessions.json")
        self._lock = FileLock(self._path + ".lock")

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        Path(directory, "sessions.json").write_text(_compact(sessions), encoding="utf-8")

    def load_all(self) -> Sessions:
        with open(self._path, encoding="utf-8") as file:
            return cast("Sessions", json.load(file))

    def read_one(self, key: str) -> Entry | None:
        return self.load_all().get(key)

    def increment(self, key: str, fields: Sequence[str]) -> None:
        with self._lock:
            sessions = self.load_all()
            add_one(sessions[key], fields)
            temporary_path = f"{self._path}.tmp"
            with open(temporary_path, "w", encoding="utf-8") as file:
                file.write(_compact(sessions))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary_path, self._path)

    def close(self) -> None:
        self._lock.release(force=True)


class TinyDb(Peer):
    """TinyDB with its default JSON storage: one document per session, found by its `key` field."""

    name = "TinyDB"
    durability = "fsync, in place: not atomic"

    def __init__(self, directory: str) -> None:
        import tinydb

        self._db = tinydb.TinyDB(os.path.join(directory, "tiny.json"), encoding="utf-8", ensure_ascii=False)
        self._key = tinydb.where("key")

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        import tinydb

        with tinydb.TinyDB(os.path.join(directory, "tiny.json"), encoding="utf-8", ensure_ascii=False) as db:
            db.insert_multiple({"key": key, **entry} for key, entry in sessions.items())

    def load_all(self) -> Sessions:
        return {cast("str", document["key"]): _without_key(document) for document in self._db.all()}

    def read_one(self, key: str) -> Entry | None:
        # get() reads the file each time: TinyDB's query cache serves search() only.
        document = self._db.get(self._key == key)
        return _without_key(cast("Entry", document)) if document is not None else None

    def increment(self, key: str, fields: Sequence[str]) -> None:
        self._db.update(lambda document: add_one(cast("Entry", document), fields), self._key == key)

    def close(self) -> None:
        self._db.close()


class PickleDb(Peer):
    """pickleDB: the file is loaded into memory, changed there, and saved whole.

    Reading one entry fresh means loading again; its `get` alone is a dictionary lookup that never sees another writer.
    Through its async interface, because the synchronous one starts an event loop for every single call.
    """

    name = "pickleDB"
    durability = "none"

    def __init__(self, directory: str) -> None:
        from pickledb import PickleDB

        self._db = PickleDB(os.path.join(directory, "pickle.json"))

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        from pickledb import PickleDB

        db = PickleDB(os.path.join(directory, "pickle.json"))

        async def fill() -> None:
            for key, entry in sessions.items():
                await db.set(key, entry)
            await db.save()

        asyncio.run(fill())

    def load_all(self) -> Sessions:
        async def load() -> Sessions:
            await self._db.load()
            return {key: await self._db.get(key) for key in await self._db.all()}

        return asyncio.run(load())

    def read_one(self, key: str) -> Entry | None:
        async def read() -> Entry | None:
            await self._db.load()
            return cast("Entry | None", await self._db.get(key))

        return asyncio.run(read())

    def increment(self, key: str, fields: Sequence[str]) -> None:
        async def update() -> None:
            await self._db.load()
            entry = cast("Entry", await self._db.get(key))
            add_one(entry, fields)
            await self._db.set(key, entry)
            await self._db.save()

        asyncio.run(update())

    def close(self) -> None:
        self._db.purge()


class DiskCache(Peer):
    """diskcache without eviction; an update is one `transact` block, which its documentation calls atomic."""

    name = "diskcache"
    durability = "WAL, synchronous NORMAL: survives a crash, not power loss"

    def __init__(self, directory: str) -> None:
        import diskcache

        self._cache = diskcache.Cache(os.path.join(directory, "cache"), eviction_policy="none")

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        import diskcache

        with diskcache.Cache(os.path.join(directory, "cache"), eviction_policy="none") as cache, cache.transact():
            for key, entry in sessions.items():
                cache[key] = entry

    def load_all(self) -> Sessions:
        return {cast("str", key): cast("Entry", self._cache[key]) for key in self._cache}

    def read_one(self, key: str) -> Entry | None:
        return cast("Entry | None", self._cache.get(key))

    def increment(self, key: str, fields: Sequence[str]) -> None:
        with self._cache.transact(retry=True):
            entry = cast("Entry", self._cache[key])
            add_one(entry, fields)
            self._cache[key] = entry

    def close(self) -> None:
        self._cache.close()


class SqliteWal(Peer):
    """sqlite3 in WAL mode with synchronous=FULL: one row per session, the entry as JSON text."""

    name = "sqlite3 WAL FULL"
    durability = "fsync"

    def __init__(self, directory: str) -> None:
        self._connection = _sqlite_connection(directory)

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        connection = _sqlite_connection(directory)
        connection.execute("CREATE TABLE sessions (key TEXT PRIMARY KEY, entry TEXT NOT NULL)")
        connection.execute("BEGIN IMMEDIATE")
        rows = ((key, _compact(entry)) for key, entry in sessions.items())
        connection.executemany("INSERT INTO sessions VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        connection.close()

    def load_all(self) -> Sessions:
        return {key: json.loads(text) for key, text in self._connection.execute("SELECT key, entry FROM sessions")}

    def read_one(self, key: str) -> Entry | None:
        row = self._connection.execute("SELECT entry FROM sessions WHERE key = ?", (key,)).fetchone()
        return cast("Entry", json.loads(row[0])) if row is not None else None

    def increment(self, key: str, fields: Sequence[str]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            entry = cast("Entry", self.read_one(key))
            add_one(entry, fields)
            self._connection.execute("UPDATE sessions SET entry = ? WHERE key = ?", (_compact(entry), key))
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._connection.close()


class RawLimit(Peer):
    """Not a store: what the disk takes to replace a file of the same bytes durably, and nothing else.

    Open, write, fdatasync, close, rename. No lock, no decoding, no directory fsync. Whoever gets below it does not
    write.
    """

    name = "raw limit"
    durability = "fdatasync"

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "sessions.json")
        self._content = Path(self._path).read_bytes()

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        Path(directory, "sessions.json").write_bytes(indented(sessions))

    def increment(self, key: str, fields: Sequence[str]) -> None:
        """Write the same bytes again: `key` and `fields` do not matter to the disk."""
        temporary_path = f"{self._path}.tmp"
        descriptor = os.open(temporary_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if os.write(descriptor, self._content) != len(self._content):
                raise OSError(f"short write of {len(self._content)} bytes to {temporary_path}")
            _sync_content(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary_path, self._path)

    def load_all(self) -> Sessions:
        """Only the read: nothing is decoded, so there is nothing to return."""
        Path(self._path).read_bytes()
        return {}

    def read_one(self, key: str) -> Entry | None:
        """Only the read, as `load_all`."""
        Path(self._path).read_bytes()
        return None

    def close(self) -> None:
        self._content = b""


# macOS has no fdatasync.
_sync_content = getattr(os, "fdatasync", os.fsync)


def _sqlite_connection(directory: str) -> sqlite3.Connection:
    path = os.path.join(directory, "sessions.sqlite3")
    connection = sqlite3.connect(path, timeout=SQLITE_BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _without_key(document: Entry) -> Entry:
    return {name: value for name, value in document.items() if name != "key"}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
