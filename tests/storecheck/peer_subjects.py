"""Stores with one known bug each, as adapters: small enough that every schedule can be searched."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Callable


class Unlocked:
    """Replaces whole files by rename, without a lock."""

    promises: tuple[str, ...] = ("updates", "reads", "kills", "errors")

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "store.json")

    def load(self) -> dict[str, str]:
        """Everything."""
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            sessions: dict[str, str] = json.loads(os.read(descriptor, 65536))
        finally:
            os.close(descriptor)
        return sessions

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        sessions = self.load()
        before = sessions.get(session)
        sessions[session] = version
        self._write(sessions)
        return before

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        self._write(sessions)

    def _write(self, sessions: dict[str, str]) -> None:
        beside = f"{self._path}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, json.dumps(sessions).encode())
        finally:
            os.close(descriptor)
        os.replace(beside, self._path)

    def close(self) -> None:
        """Nothing stays open."""


class Locked(Unlocked):
    """The same under a flock: correct."""

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        descriptor = os.open(f"{self._path}.flock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return super().update(session, version)
        finally:
            os.close(descriptor)


class Durable(Locked):
    """The same, synced: file before the rename, directory after it."""

    promises = ("updates", "reads", "kills", "errors", "power")
    syncs_directory = True

    def _write(self, sessions: dict[str, str]) -> None:
        beside = f"{self._path}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, json.dumps(sessions).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(beside, self._path)
        if self.syncs_directory:
            directory = os.open(os.path.dirname(self._path), os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


class ForgetsTheDirectory(Durable):
    """Syncs the file only: the rename may be lost after the update was acknowledged."""

    syncs_directory = False


class NotDurableInC(Locked):
    """As if it were in C: nothing can be simulated."""

    promises = ("power",)
    not_simulated = "it says so"


class InPlace(Locked):
    """Writes over the file where it is: readers see it empty."""

    def _write(self, sessions: dict[str, str]) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, json.dumps(sessions).encode())
        finally:
            os.close(descriptor)


class StaleLock(Unlocked):
    """Its lock is a file that exists: whoever is killed holds it for ever."""

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        lock = f"{self._path}.lock"
        for _ in range(3):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
                break
        else:
            raise TimeoutError(lock)
        try:
            return super().update(session, version)
        finally:
            os.unlink(lock)


class Swallows(Locked):
    """Hides that it could not write."""

    def _write(self, sessions: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            super()._write(sessions)


class UnlockedInC(Unlocked):
    """Whole files without a lock, as if in C: it promises nothing of two writers."""

    promises = ("reads",)
    not_simulated = "it says so"


class LiesInC(UnlockedInC):
    """Its writer does not know what it replaced."""

    def update(self, session: str, version: str) -> str | None:
        """Set one session, and say something else."""
        super().update(session, version)
        return "never there"


class Owned(Unlocked):
    """Believes that it is alone from the moment it is opened: what others write is overwritten by its next update."""

    promises = ("kills",)
    not_simulated = "it says so"

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._sessions = self.load() if os.path.exists(self._path) else {}

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        before = self._sessions.get(session)
        self._sessions[session] = version
        self._write(self._sessions)
        return before


class SwallowsPwrite(Locked):
    """Hides that a write at a place failed, and replaces the file by what there is then."""

    def _write(self, sessions: dict[str, str]) -> None:
        beside = f"{self._path}.{os.getpid()}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, json.dumps(sessions).encode(), 0)
        finally:
            os.close(descriptor)
        os.replace(beside, self._path)


class TriesAgain(Locked):
    """An update that fails is done once more; that of a lock that was given up by a failing close, too."""

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        before = self.load().get(session)
        with contextlib.suppress(OSError):
            super().update(session, version)
            return before
        super().update(session, version)
        return before


class NeverEnds(Locked):
    """Waits for ever for a disk that failed once."""

    def _write(self, sessions: dict[str, str]) -> None:
        try:
            super()._write(sessions)
        except OSError:
            while True:
                os.stat(self._path)


class NeverComesBack(Locked):
    """Waits for ever in each update."""

    def update(self, session: str, version: str) -> str | None:
        """Wait."""
        while True:
            os.stat(self._path)


def _counter() -> Callable[[], int]:
    numbers = itertools.count()
    return lambda: next(numbers)


next_number = _counter()
"""Nobody can put it back: it is in no module, but closed over."""


class Unsteady(Locked):
    """Looks elsewhere each time."""

    def load(self) -> dict[str, str]:
        """Everything."""
        os.access(f"{self._path}{next_number()}", os.R_OK)
        return super().load()


class OpensMore(Locked):
    """Makes a file when it is opened."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        os.close(os.open(os.path.join(root, "opened"), os.O_RDWR | os.O_CREAT, 0o600))


class WritesNothing(Unlocked):
    """Its updates ask the system for nothing."""

    def update(self, session: str, version: str) -> str | None:
        """Forget it."""
        return None


class WaitsForItself(Locked):
    """Keeps a lock of its first update, and waits for it in the second."""

    def update(self, session: str, version: str) -> str | None:
        """Set one session, and keep the lock."""
        descriptor = os.open(f"{self._path}.kept", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return super().update(session, version)


class FailsInC(NotDurableInC):
    """Does not do what is asked of it."""

    def update(self, session: str, version: str) -> str | None:
        """Refuse."""
        raise RuntimeError(f"{session} is not set to {version}")


class NeverEndsInC(NotDurableInC):
    """Waits for ever for nothing."""

    def update(self, session: str, version: str) -> str | None:
        """Wait."""
        os.read(os.pipe()[0], 1)
        return super().update(session, version)
