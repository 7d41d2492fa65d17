"""Django's file sessions: one file per session, replaced by rename, without a lock."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings  # type: ignore[import-untyped]
from django.contrib.sessions.backends.file import SessionStore  # type: ignore[import-untyped]

if not settings.configured:
    settings.configure(SECRET_KEY="storecheck", USE_TZ=True)  # noqa: S106 - signs nothing that matters


class Adapter:
    """See `storecheck.peers.protocol`. Django promises whole files, and no more of concurrent requests."""

    promises = ("reads", "kills")

    def __init__(self, root: str) -> None:
        self._root = root
        # The backend remembers its directory in its class.
        self._store: Any = type("Store", (SessionStore,), {"_storage_path": root})

    def _prefix(self) -> str:
        prefix: str = settings.SESSION_COOKIE_NAME
        return prefix

    def load(self) -> dict[str, str]:
        """Everything: Django itself looks at one session at a time."""
        prefix = self._prefix()
        keys = [name[len(prefix) :] for name in os.listdir(self._root) if name.startswith(prefix)]
        found = {key: self._store(key).get("version") for key in keys if "_out_" not in key}
        return {key: version for key, version in found.items() if version is not None}

    def update(self, session: str, version: str) -> str | None:
        """Set one session, as a request does."""
        store = self._store(session)
        before: str | None = store.get("version")
        if store.session_key is None:
            store = self._created(session)
        store["version"] = version
        store.save()
        return before

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        for key in self.load():
            self._store(key).delete()
        for key, version in sessions.items():
            store = self._created(key)
            store["version"] = version
            store.save()

    def _created(self, session: str) -> Any:
        """An empty session of that name; Django by itself draws a name for each new one."""
        self._store(session).save(must_create=True)
        return self._store(session)

    def close(self) -> None:
        """Nothing stays open."""
