"""diskcache: a cache on SQLite; `transact` makes several calls one."""

from __future__ import annotations

import os

import diskcache


class Adapter:
    """See `storecheck.peers.protocol`."""

    promises = ("updates", "reads", "kills", "errors")
    not_simulated = "diskcache stores in SQLite, which makes its system calls in C"

    def __init__(self, root: str) -> None:
        self._cache = diskcache.Cache(os.path.join(root, "cache"), timeout=60)

    def load(self) -> dict[str, str]:
        """Everything, in one transaction."""
        with self._cache.transact(retry=True):
            return {key: self._cache[key] for key in self._cache.iterkeys()}

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        with self._cache.transact(retry=True):
            before: str | None = self._cache.get(session)
            self._cache[session] = version
        return before

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        with self._cache.transact(retry=True):
            self._cache.clear(retry=True)
            for key, version in sessions.items():
                self._cache[key] = version

    def close(self) -> None:
        """Close the database."""
        self._cache.close()
