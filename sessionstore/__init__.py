"""A store of sessions in one JSON file that many processes read and write.

    store = SessionStore("sessions.json")
    snapshot = store.load()
    with store.edit(base=snapshot) as draft:
        draft["agent:main:main"] = {"sessionId": "…", "updatedAt": 1774000000000}

Bounded caches, durable writes, no lost updates. The file is the truth; everything else saves work.

The names below are imported when they are first used (PEP 562): a program that only asks for the state of a store, as
`sessionstore status --json` does, starts without asyncio and the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "AsyncSessionStore": "aio",
    "ConflictError": "errors",
    "CorruptStoreError": "errors",
    "Draft": "draft",
    "LoadedStore": "functions",
    "LockTimeoutError": "errors",
    "ReentrantUpdateError": "errors",
    "SessionStore": "store",
    "Settings": "settings",
    "Snapshot": "snapshot",
    "Stats": "store",
    "StoreError": "errors",
    "UnknownOutcomeError": "errors",
    "UnstorableValueError": "errors",
    "Updated": "store",
    "clear_session_store_caches": "functions",
    "load_session_store": "functions",
    "save_session_store": "functions",
    "update_session_store": "functions",
}


if not TYPE_CHECKING:  # a type checker that saw this function would accept any name

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # A module of a package is an attribute of it once imported. Taken from there, so that an instance of the
        # package that is no longer the one in `sys.modules` stays with its own modules.
        module = globals().get(home) or importlib.import_module(f"{__name__}.{home}")
        value: object = getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
