"""A store of sessions in one JSON file that many processes read and write.

    store = SessionStore("sessions.json")
    snapshot = store.load()
    with store.edit(base=snapshot) as draft:
        draft["agent:main:main"] = {"sessionId": "…", "updatedAt": 1774000000000}

Bounded caches, durable writes, no lost updates. The file is the truth; everything else saves work.
"""

from __future__ import annotations

from sessionstore.aio import AsyncSessionStore
from sessionstore.draft import Draft
from sessionstore.errors import (
    ConflictError,
    CorruptStoreError,
    LockTimeoutError,
    ReentrantUpdateError,
    StoreError,
    UnknownOutcomeError,
    UnstorableValueError,
)
from sessionstore.functions import (
    LoadedStore,
    clear_session_store_caches,
    load_session_store,
    save_session_store,
    update_session_store,
)
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot
from sessionstore.store import SessionStore, Stats, Updated

__all__ = [
    "AsyncSessionStore",
    "ConflictError",
    "CorruptStoreError",
    "Draft",
    "LoadedStore",
    "LockTimeoutError",
    "ReentrantUpdateError",
    "SessionStore",
    "Settings",
    "Snapshot",
    "Stats",
    "StoreError",
    "UnknownOutcomeError",
    "UnstorableValueError",
    "Updated",
    "clear_session_store_caches",
    "load_session_store",
    "save_session_store",
    "update_session_store",
]
