"""sqlite3 of the standard library, one row per session, write-ahead log, synchronous=FULL."""

from __future__ import annotations

import os
import sqlite3


class Adapter:
    """See `storecheck.peers.protocol`."""

    promises = ("updates", "reads", "kills", "errors", "power")
    not_simulated = "SQLite makes its system calls in C"

    def __init__(self, root: str) -> None:
        self._db = sqlite3.connect(os.path.join(root, "store.sqlite"), timeout=60, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS sessions (key TEXT PRIMARY KEY, version TEXT NOT NULL)")

    def load(self) -> dict[str, str]:
        """Everything."""
        return dict(self._db.execute("SELECT key, version FROM sessions"))

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            row = self._db.execute("SELECT version FROM sessions WHERE key = ?", (session,)).fetchone()
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?)", (session, version))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return None if row is None else row[0]

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM sessions")
        self._db.executemany("INSERT INTO sessions VALUES (?, ?)", sessions.items())
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the database; its log is merged into it."""
        self._db.close()
