"""The store as `storecheck.program` runs it: one process that increases its own counter in the shared file."""

from __future__ import annotations

import os

from sessionstore import Draft, SessionStore


class Writer:
    """Each writer has a session of its own; all are in one file."""

    def __init__(self, root: str, *, directory: str = "", size_bytes: int = 0) -> None:
        self._store = SessionStore(os.path.join(root, directory, "sessions.json"))
        self._text = "x" * size_bytes

    def add(self, key: str) -> int:
        """Increase the counter of one session; returns what it is then."""

        def increase(draft: Draft) -> int:
            entry = draft.setdefault(key, {"count": 0, "text": self._text})
            entry["count"] += 1
            count: int = entry["count"]
            return count

        return self._store.update(increase).result
