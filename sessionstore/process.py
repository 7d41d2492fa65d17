"""What the stores of one process share, in one object: caches, warnings already given, lock queues.

Everything else in the package is either a value or belongs to one `SessionStore`, so replacing `PROCESS` gives a
process that has just started. A forked child gets a new one by itself: it inherits memory, but neither the locks nor
the right to trust what another process cached.
"""

from __future__ import annotations

import os

from sessionstore import lock
from sessionstore.cache import Cache
from sessionstore.mutex import Mutex

MAX_IDLE_LOCKS = 128
MAX_REMEMBERED_WARNINGS = 4096
"""Paths remembered as warned about. A process with more large stores is told no more, rather than told again."""


class Process:
    """State of one process. Its `mutex` guards all but the lock queues, which have their own."""

    def __init__(self) -> None:
        self.mutex = Mutex()
        self.cache = Cache()
        self.warned_paths: set[str] = set()
        self.warned_variables: set[str] = set()
        self.warned_strays: set[str] = set()  # temporary files that could not be removed
        self.swept_ns: dict[str, int] = {}  # when temporary files were looked for, by path
        self.warned_ns: dict[str, int] = {}  # when maintenance that is due was warned of, by path
        self._path_locks: dict[str, lock.PathLock] = {}

    def path_lock(self, path: str) -> lock.PathLock:
        """The queue that all writers of `path` in this process share."""
        with self.mutex:
            found = self._path_locks.pop(path, None)
            if found is None:
                self._forget_idle_locks()
                found = lock.PathLock()
            self._path_locks[path] = found
            return found

    def _forget_idle_locks(self) -> None:
        if len(self._path_locks) < MAX_IDLE_LOCKS:
            return
        # A writer that was handed its queue but has not entered it yet would be alone in it: so only the older half,
        # which no one asked for lately.
        for path in list(self._path_locks)[: MAX_IDLE_LOCKS // 2]:
            if self._path_locks[path].is_idle():
                del self._path_locks[path]

    def first_time(self, seen: set[str], key: str) -> bool:
        """Whether `key` is new to `seen`; it is added. Of several threads, one is first."""
        with self.mutex:
            if key in seen or len(seen) >= MAX_REMEMBERED_WARNINGS:
                return False
            seen.add(key)
            return True

    def close_after_fork(self) -> None:
        """In a forked child, on the parent's state."""
        for path_lock in self._path_locks.values():
            path_lock.close_after_fork()


PROCESS = Process()


def reset() -> None:
    """Start afresh, as a new process would: nothing cached, nothing warned about, no lock held.

    For programs that end one life and begin another, and for tests. Locks that are held stay held by their holders.
    """
    global PROCESS  # noqa: PLW0603 - the one object that is meant to be replaced
    PROCESS = Process()


def _after_fork_in_child() -> None:
    global PROCESS  # noqa: PLW0603
    inherited = PROCESS
    PROCESS = Process()
    inherited.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
