"""pickleDB: the file is loaded into memory, changed there, and saved whole."""

from __future__ import annotations

import asyncio
import os

from pickledb import PickleDB


class Adapter:
    """See `storecheck.peers.protocol`. pickleDB's documentation says nothing of several processes."""

    promises = ("reads", "kills", "errors")
    not_simulated = "pickleDB runs an asyncio loop with worker threads, which wait in the real system"

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "pickle.json")
        self._db = PickleDB(self._path)

    def load(self) -> dict[str, str]:
        """Everything, from the file."""
        return asyncio.run(self._load(is_there=os.path.exists(self._path)))

    async def _load(self, *, is_there: bool) -> dict[str, str]:
        if is_there:
            await self._db.load()
        return {key: await self._db.get(key) for key in await self._db.all()}

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        is_there = os.path.exists(self._path)

        async def change() -> str | None:
            before = (await self._load(is_there=is_there)).get(session)
            await self._db.set(session, version)
            await self._db.save()
            return before

        return asyncio.run(change())

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""

        async def change() -> None:
            await self._db.purge()
            for key, version in sessions.items():
                await self._db.set(key, version)
            await self._db.save()

        asyncio.run(change())

    def close(self) -> None:
        """Nothing stays open."""
