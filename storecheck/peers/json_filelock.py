"""json + filelock: the usual recipe. A lock, the whole file read, changed, and replaced by rename."""

from __future__ import annotations

import json
import os
import tempfile

import filelock


class Adapter:
    """See `storecheck.peers.protocol`."""

    promises = ("updates", "reads", "kills", "errors")
    refuses = ("Timeout",)

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "store.json")
        self._lock = filelock.FileLock(f"{self._path}.lock", timeout=60)

    def load(self) -> dict[str, str]:
        """Everything."""
        with open(self._path, encoding="utf-8") as stream:
            sessions: dict[str, str] = json.load(stream)
        return sessions

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        with self._lock:
            sessions = self.load()
            before = sessions.get(session)
            sessions[session] = version
            self._write(sessions)
        return before

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        with self._lock:
            self._write(sessions)

    def _write(self, sessions: dict[str, str]) -> None:
        descriptor, beside = tempfile.mkstemp(dir=os.path.dirname(self._path))
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(sessions, stream)
        os.replace(beside, self._path)

    def close(self) -> None:
        """Nothing stays open."""
        self._lock.release()
