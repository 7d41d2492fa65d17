"""sessionstore as one of the peers, in the four forms that are told apart in the tables.

With default limits a 7.6 MB file is oversized: the store keeps positions, no bytes. With raised limits it keeps the
bytes. Each form updates either in a chain (every update gets the previous update's snapshot as its base, as a gateway
does) or without a base.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.peers import Entry, Peer, Sessions, add_one
from benchmarks.stores import indented

RAISED_LIMIT_BYTES = 64 * 1024 * 1024
FILE_NAME = "sessions.json"


class SessionStorePeer(Peer):
    """sessionstore with default limits; each update is based on the snapshot of the one before it."""

    name: ClassVar[str] = "sessionstore"
    durability: ClassVar[str] = "fsync of file and directory"
    limit_bytes: ClassVar[int | None] = None
    chained: ClassVar[bool] = True

    def __init__(self, directory: str) -> None:
        from sessionstore import SessionStore, Settings

        # Default maintenance warns at every write of a store this large: that is measured, a terminal is not.
        logging.getLogger("sessionstore").addHandler(logging.NullHandler())
        # Explicit settings: the figures must not depend on the environment of whoever runs this.
        settings = (
            Settings()
            if self.limit_bytes is None
            else Settings(object_cache_max_bytes=self.limit_bytes, serialized_cache_max_bytes=self.limit_bytes)
        )
        self._store = SessionStore(os.path.join(directory, FILE_NAME), settings)
        self._base = self._store.load() if self.chained else None

    @staticmethod
    def create(directory: str, sessions: Sessions) -> None:
        """Put the file there as the store would have written it."""
        Path(directory, FILE_NAME).write_bytes(indented(sessions))

    def load_all(self) -> Mapping[str, Entry]:
        """Read the file and decode every entry; nothing comes from a cache."""
        return dict(self._store.load(skip_cache=True).items())

    def read_one(self, key: str) -> Entry | None:
        """One entry through the cache, which answers only after it has asked the file system."""
        return self._store.read(key)

    def increment(self, key: str, fields: Sequence[str]) -> None:
        """One durable update."""
        done = self._store.update(lambda draft: add_one(draft[key], fields), base=self._base)
        if self.chained:
            self._base = done.snapshot

    def close(self) -> None:
        """Let go of the file and the snapshot."""
        self._base = None
        self._store.close()


class WithoutBase(SessionStorePeer):
    """Default limits, no base: the store is told nothing about what the caller has seen."""

    name = "sessionstore, no base"
    chained = False


class RaisedLimits(SessionStorePeer):
    """Limits above the file's size, so that its bytes stay in memory; chained."""

    name = "sessionstore, limits raised"
    limit_bytes = RAISED_LIMIT_BYTES


class RaisedLimitsWithoutBase(SessionStorePeer):
    """Limits above the file's size, no base."""

    name = "sessionstore, limits raised, no base"
    limit_bytes = RAISED_LIMIT_BYTES
    chained = False


class OnDemand(SessionStorePeer):
    """Loads as a gateway does: the file is read and checked, an entry is decoded when somebody asks for it."""

    name = "sessionstore, entries on demand"
    chained = False

    def load_all(self) -> Mapping[str, Entry]:
        """A snapshot; nothing comes from a cache and nothing is decoded."""
        return self._store.load(skip_cache=True)
