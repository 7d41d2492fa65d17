"""TinyDB with its default JSON storage, one document per session."""

from __future__ import annotations

import os

import tinydb


class Adapter:
    """See `storecheck.peers.protocol`. TinyDB's documentation advises against several processes."""

    promises = ()

    def __init__(self, root: str) -> None:
        self._db = tinydb.TinyDB(os.path.join(root, "tiny.json"))
        self._key = tinydb.where("key")

    def load(self) -> dict[str, str]:
        """Everything: TinyDB reads the file each time."""
        return {document["key"]: document["version"] for document in self._db.all()}

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""
        found: list[str] = []

        def change(document: dict[str, str]) -> None:
            found.append(document["version"])
            document["version"] = version

        if not self._db.update(change, self._key == session):
            self._db.insert({"key": session, "version": version})
        return found[0] if found else None

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""
        self._db.truncate()
        self._db.insert_multiple({"key": key, "version": version} for key, version in sessions.items())

    def close(self) -> None:
        """Close the file."""
        self._db.close()
