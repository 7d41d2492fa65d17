"""The store as three functions, for callers of the system that this one descends from.

Thin forms of `SessionStore` with the environment's settings: same file, same lock, same caches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sessionstore import process
from sessionstore.snapshot import Snapshot
from sessionstore.store import Mutator, SessionStore, T


class LoadedStore(dict[str, dict[str, Any]]):
    """A store as a plain dict of its own, which remembers the snapshot that it was made from.

    Editing it changes nothing but itself.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self.snapshot = snapshot

    def refresh(self, snapshot: Snapshot) -> None:
        """Become `snapshot`."""
        self.clear()
        self.update(snapshot)
        self.snapshot = snapshot


def load_session_store(path: str | os.PathLike[str], *, skip_cache: bool = False) -> LoadedStore:
    """All sessions as a dict that belongs to the caller; empty if there is no file. Errors as `SessionStore.load`."""
    return LoadedStore(SessionStore(path).load(skip_cache=skip_cache))


def save_session_store(path: str | os.PathLike[str], sessions: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the whole content. Errors as `SessionStore.save`."""
    SessionStore(path).save(sessions)


def update_session_store(
    path: str | os.PathLike[str], mutator: Mutator[T], *, base_store: Mapping[str, dict[str, Any]] | None = None
) -> T:
    """Apply `mutator` to the newest content; returns what it returned. Errors as `SessionStore.update`.

    Args:
        path: the store file.
        mutator: edits the draft that it is given.
        base_store: what `load_session_store` returned. It spares the parsing if the file has not changed, and is
            brought up to date, so that one of them serves any number of updates; edits of it never reach the file. Any
            other mapping remembers no snapshot and spares nothing.
    """
    base = base_store.snapshot if isinstance(base_store, LoadedStore) else None
    done = SessionStore(path).update(mutator, base=base)
    if isinstance(base_store, LoadedStore):
        base_store.refresh(done.snapshot)
    return done.result


def clear_session_store_caches() -> None:
    """Free what this process caches of any store file. Locks and warnings given stay as they are."""
    with process.PROCESS.mutex:
        process.PROCESS.cache.clear()
