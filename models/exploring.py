"""The store as simulated processes use it: adapters for `storecheck.program`.

`Sessions` is a process that works on one store file, with operations small enough that a specification can follow
them; `FileLockHolder` is a program that keeps to the same lock by other means; `Foreign` is one that keeps to none.
What they promise is in `models.searches`. Kept light: this module is executed anew inside every simulated process, and
what hangs on its globals is put back before every run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import filelock

from sessionstore import Draft, ReentrantUpdateError, SessionStore, Settings, Snapshot, UnknownOutcomeError, process
from sessionstore.lock import LOCK_SUFFIX
from storecheck.adapters import Files

FILE = "sessions.json"
"""The store file, below the directory that adapters are given."""

LINK, LINKED_DIRECTORY = "link.json", "linked"
SPELLINGS = (FILE, LINK, f"{LINKED_DIRECTORY}/{FILE}", f"{LINKED_DIRECTORY}/../{FILE}")
"""Names of the one file, if a process was asked to make the links."""

Entry: TypeAlias = dict[str, Any]
Contents: TypeAlias = dict[str, Entry]
Base = Literal["none", "last", "loaded"]
"""Which snapshot an update is given: none, that of the process's last update, or that of its last load."""


# Otherwise each warning of each run goes to standard error.
logging.getLogger("sessionstore").addHandler(logging.NullHandler())


def reset_image() -> None:
    """A process that begins knows nothing of the one before."""
    process.reset()


class MutatorFailedError(Exception):
    """Raised on purpose by a mutator."""


class ExclusionError(Exception):
    """Two writers were inside the lock at once."""


class Sessions:
    """A process that works on the store file.

    Results are JSON values. Parameters are fields of `Settings`; `links` makes the aliases of `SPELLINGS`.
    """

    def __init__(self, root: str, *, links: bool = False, **settings: Any) -> None:
        self._root = root
        self._settings = Settings(**settings)
        self._stores: dict[str, SessionStore] = {}
        self._bases: dict[Base, Snapshot] = {}
        self._handed_over: Contents = {}
        if links:
            for target, name in ((FILE, LINK), (".", LINKED_DIRECTORY)):
                # The other processes make them, too.
                with contextlib.suppress(FileExistsError):
                    os.symlink(target, os.path.join(root, name))

    def outcome_of(self, error: Exception) -> Literal["raised", "unknown"]:
        """Whether the failed operation is known to have had no effect."""
        return "unknown" if isinstance(error, UnknownOutcomeError) else "raised"

    def _store(self, by: str) -> SessionStore:
        store = self._stores.get(by)
        if store is None:
            store = self._stores[by] = SessionStore(os.path.join(self._root, by), self._settings)
        return store

    # Reading

    def load(self, by: str = FILE, skip_cache: bool = False) -> Contents:
        """All sessions; the snapshot is the base "loaded" from now on."""
        snapshot = self._bases["loaded"] = self._store(by).load(skip_cache=skip_cache)
        return {key: snapshot[key] for key in snapshot}

    def read(self, key: str, by: str = FILE) -> Entry | None:
        """One session."""
        return self._store(by).read(key)

    # Writing

    def _update(self, mutator: Callable[[Draft], Any], base: Base, by: str) -> Any:
        done = self._store(by).update(mutator, base=self._bases.get(base))
        self._bases["last"] = done.snapshot
        return done.result

    def add(self, key: str, base: Base = "none", by: str = FILE) -> int:
        """Increase a session's number; returns what it is then."""
        return int(self._update(lambda draft: _increase(draft, key), base, by))

    def append(self, key: str, token: str, base: Base = "none", by: str = FILE) -> list[str]:
        """Append to a session's log; returns all of it."""

        def extend(draft: Draft) -> list[str]:
            log: list[str] = draft.setdefault(key, {}).setdefault("log", [])
            log.append(token)
            return list(log)

        return list(self._update(extend, base, by))

    def delete(self, key: str, base: Base = "none", by: str = FILE) -> bool:
        """Remove a session; returns whether it was there."""
        return bool(self._update(lambda draft: draft.pop(key, None) is not None, base, by))

    def look(self, key: str, base: Base = "none", by: str = FILE) -> Entry | None:
        """An update that changes nothing; returns the session it saw. Complains if that wrote the file."""

        def change_and_revert(draft: Draft) -> Entry | None:
            if key not in draft:
                return None
            entry = draft[key]
            seen = copy.deepcopy(entry)
            entry["half done"] = True
            del entry["half done"]
            return seen

        done = self._store(by).update(change_and_revert, base=self._bases.get(base))
        if done.written:
            raise AssertionError("an update that changes nothing has written the file")
        return done.result

    def save(self, sessions: Contents, by: str = FILE) -> None:
        """Replace everything."""
        self._bases["last"] = self._store(by).save(sessions)

    def reuse(self, key: str, by: str = FILE) -> int:
        """Load, then increase with that base; complains if an update whose base still matched has parsed anything."""
        store = self._store(by)
        base = store.load()
        parses = store.stats().parses
        done = store.update(lambda draft: _increase(draft, key), base=base)
        if done.reused and store.stats().parses != parses:
            raise AssertionError("an update whose base still matched has parsed the file")
        return done.result

    def guarded(self, key: str, by: str = FILE) -> int:
        """Increase by `edit`, with a mark on disk that two writers inside the lock cannot both set."""
        mark = os.path.join(self._root, "inside")
        with self._store(by).edit() as draft:
            try:
                os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                raise ExclusionError("two writers are inside the lock") from None
            result = _increase(draft, key)
            os.unlink(mark)
        return result

    def slow(self, key: str, seconds: float, by: str = FILE) -> int:
        """Increase by a mutator that takes its time."""

        def increase_slowly(draft: Draft) -> int:
            result = _increase(draft, key)
            time.sleep(seconds)
            return result

        return int(self._update(increase_slowly, "none", by))

    def fail(self, key: str, base: Base = "none", by: str = FILE) -> None:
        """An update whose mutator raises halfway."""

        def increase_and_fail(draft: Draft) -> None:
            _increase(draft, key)
            raise MutatorFailedError("as asked for")

        self._update(increase_and_fail, base, by)

    def nested(self, key: str, by: str = FILE, inner_by: str = FILE) -> int:
        """Increase, and try the same inside the mutator, which has to be refused."""

        def increase_twice(draft: Draft) -> int:
            result = _increase(draft, key)
            try:
                self.add(key, by=inner_by)
            except ReentrantUpdateError:
                return result
            raise AssertionError("an update inside an update went through")

        return int(self._update(increase_twice, "none", by))

    # What a program does meanwhile

    def save_own(self, sessions: Contents) -> None:
        """Replace everything by an object that this process keeps."""
        self._handed_over = copy.deepcopy(sessions)
        self._store(FILE).save(self._handed_over)

    def scribble(self, key: str, number: int) -> None:
        """Another thread changes the object that `save_own` has handed over."""
        self._handed_over.get(key, {})["n"] = number

    def limit(self, object_cache_max_bytes: int) -> None:
        """From now on with another limit."""
        self._settings = Settings(object_cache_max_bytes=object_cache_max_bytes)
        self._stores.clear()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


def _increase(draft: Draft, key: str) -> int:
    entry = draft.setdefault(key, {"n": 0})
    entry["n"] = number = int(entry.get("n", 0)) + 1
    return number


class FileLockHolder:
    """A program that changes the file by hand, but takes the lock with an unmodified `filelock.FileLock`.

    The store's settings mean nothing to it; a program of processes hands them to all.
    """

    def __init__(self, root: str, **_: Any) -> None:
        self._path = os.path.join(root, FILE)

    def add(self, key: str) -> int:
        """As `Sessions.add`."""
        with filelock.FileLock(self._path + LOCK_SUFFIX, timeout=60):
            with open(self._path, encoding="utf-8") as file:
                sessions: Contents = json.load(file)
            entry = sessions.setdefault(key, {"n": 0})
            entry["n"] = number = int(entry.get("n", 0)) + 1
            temporary = f"{self._path}.{os.getpid()}.byhand"
            with open(temporary, "x", encoding="utf-8") as file:
                json.dump(sessions, file)
            os.replace(temporary, self._path)
        return number


class Administrator(Sessions):
    """A process that works on the store file, and sets the clock."""

    def set_wall_clock(self, delta_s: float) -> None:
        """Move the wall clock."""
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + round(delta_s * 1e9))


class Foreign(Files):
    """A program that does as it likes with the file. The store's settings mean nothing to it."""

    def __init__(self, root: str, **_: Any) -> None:
        super().__init__(root)

    def restore(self, name: str, content: str, mtime_ns: int) -> None:
        """Put a copy with an old modification time in the file's place, as `cp -p` and `mv` do."""
        temporary = self._path(f"{name}.{os.getpid()}.old")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
        os.utime(temporary, ns=(mtime_ns, mtime_ns))
        os.replace(temporary, self._path(name))
