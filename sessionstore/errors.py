"""What can go wrong, as exceptions that callers already know how to catch.

Every error of the store is a `StoreError` and also the built-in error of its kind (`ValueError`, `TimeoutError`,
…). Each says what happened, with which value, and what to do next; each survives pickling, so that it can cross a
process boundary. Errors of the disk (`OSError`) are raised as the system reported them.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any


def command_for(path: str) -> str:
    """The command on this store as a shell takes it, for messages that say what to do next."""
    import shlex

    return f"sessionstore --store {shlex.quote(path)}"


class StoreError(Exception):
    """Base of every error that the store raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle their `args`, the finished message; these are built from fields instead.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(kind: type[StoreError], args: tuple[object, ...], fields: dict[str, object]) -> StoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class CorruptStoreError(StoreError, ValueError):
    """The file is not a JSON object of objects. Nothing was written and nothing will be until it is repaired.

    Attributes:
        path: the store file.
        offset: byte offset of the first thing that is wrong.
        reason: what is wrong there.
    """

    path: str
    offset: int
    reason: str

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(
            f"{path}: {reason} (at byte {offset}). Nothing was changed. Restore the file from a backup, or run "
            f"`{command_for(path)} doctor --repair` to set the bytes aside and keep what can be read."
        )
        self.path = path
        self.offset = offset
        self.reason = reason


class LockTimeoutError(StoreError, TimeoutError):
    """Another writer held the lock for the whole timeout. Nothing was written.

    Attributes:
        path: the store file.
        waited_s: how long this call waited, in seconds.
        holder_pid: the process that held the lock, or None when the system does not tell.
    """

    path: str
    waited_s: float
    holder_pid: int | None

    def __init__(self, path: str, waited_s: float, holder_pid: int | None) -> None:
        holder = "another writer" if holder_pid is None else f"process {holder_pid}"
        super().__init__(
            f"{path}: waited {waited_s:.3f} s for the write lock, held by {holder}. Nothing was written. Try again, or "
            f"wait longer: --lock-timeout of the command, Settings(lock_timeout_s=...) in code."
        )
        self.path = path
        self.waited_s = waited_s
        self.holder_pid = holder_pid


class ReentrantUpdateError(StoreError, RuntimeError):
    """A thread or task that is editing a file tried to write the same file again, which would wait for itself.

    Attributes:
        path: the store file.
    """

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path}: this thread or task is already editing this file; a second write inside it would wait for "
            f"itself. Make the change through the draft that you hold."
        )
        self.path = path


class ConflictError(StoreError):
    """A program that does not take the lock changed the file during the update. Nothing was written.

    Attributes:
        path: the store file.
    """

    path: str

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path}: changed during this update by a program that does not take {os.path.basename(path)}.flock. "
            f"Nothing was written. Run the update again."
        )
        self.path = path


class UnstorableValueError(StoreError, TypeError):
    """A value cannot be stored as JSON. Nothing was written.

    Attributes:
        session_key: the session whose entry holds the value.
        value_path: where inside the entry, as a subscript expression such as `["a"][0]`; empty for the entry itself.
    """

    session_key: str
    value_path: str

    def __init__(self, session_key: str, value_path: str, reason: str) -> None:
        super().__init__(f"session {session_key!r}, entry{value_path}: {reason}. Nothing was written.")
        self.session_key = session_key
        self.value_path = value_path


class UnknownOutcomeError(StoreError, OSError):
    """The new content is in place, but the disk failed before it was known to be durable.

    After a power loss the file may hold the old or the new content. Read it again before relying on either.

    Attributes:
        path: the store file.
    """

    path: str

    def __reduce__(self) -> tuple[Any, ...]:
        # An OSError keeps errno, strerror and filename apart from `args`; only its own constructor sets them.
        return (_rebuild_unknown_outcome, (self.path, self.errno, self.strerror))

    def __init__(self, path: str, cause: OSError) -> None:
        number = _errno.EIO if cause.errno is None else cause.errno
        super().__init__(
            number,
            f"outcome unknown: the file was replaced, but making that durable failed "
            f"({cause.strerror or cause}). Read the file again before relying on the old or the new content",
            path,
        )
        self.path = path


def _rebuild_unknown_outcome(path: str, number: int, text: str) -> UnknownOutcomeError:
    error = UnknownOutcomeError.__new__(UnknownOutcomeError, number, text, path)
    OSError.__init__(error, number, text, path)
    error.path = path
    return error
