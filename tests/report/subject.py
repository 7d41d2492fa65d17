"""The store as the examples of reports run it, with a sequential model of it.

`Gateway` works like the programs that share the file; `SessionsModel` says what it should do. Runs inside simulated
processes, so it imports nothing but what it needs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

from models.mutants import mutant_by_id
from sessionstore import SessionStore, Settings
from storecheck.program import Json, Operation
from storecheck.report.orders import ModelCheck

FILE = "sessions.json"


class Gateway:
    """One process's handle on the shared store."""

    def __init__(self, root: str, **settings: Any) -> None:
        self._store = SessionStore(os.path.join(root, FILE), Settings(**settings))
        self._base: Any = None

    def load(self) -> dict[str, Any]:
        """Everything, kept as a base for `set_from_base`."""
        self._base = self._store.load()
        return {key: dict(self._base[key]) for key in self._base}

    def read(self, key: str) -> dict[str, Any] | None:
        """One session."""
        return self._store.read(key)

    def set(self, key: str, field: str, value: Json) -> None:
        """Set one field of a session."""
        self._store.update(lambda draft: draft.setdefault(key, {}).__setitem__(field, value))

    def set_from_base(self, key: str, field: str, value: Json) -> None:
        """The same, starting from what was loaded."""
        self._store.update(lambda draft: draft.setdefault(key, {}).__setitem__(field, value), base=self._base)

    def save(self, sessions: dict[str, Any]) -> None:
        """Replace everything."""
        self._store.save(sessions)

    def remove(self, key: str) -> None:
        """Remove one session."""
        self._store.update(lambda draft: draft.pop(key, None))


class SessionsModel:
    """A dict."""

    def begin(self, files: Mapping[str, bytes]) -> Json:
        """The sessions in the file."""
        return self.stored(files)

    def stored(self, files: Mapping[str, bytes]) -> Json:
        """The same."""
        try:
            return cast("Json", json.loads(files.get(FILE) or b"{}"))
        except ValueError:
            return f"not JSON: {files[FILE]!r}"

    def apply(self, state: Json, operation: Operation) -> tuple[Json, Json]:
        """What each method of `Gateway` does to a dict."""
        sessions = dict(cast("dict[str, dict[str, Json]]", state))
        arguments = cast("dict[str, Any]", operation.arguments)
        if operation.name == "load":
            return state, state
        if operation.name == "read":
            return state, cast("Json", sessions.get(arguments["key"]))
        if operation.name == "remove":
            sessions.pop(arguments["key"], None)
        elif operation.name == "save":
            sessions = arguments["sessions"]
        else:
            entry = {**sessions.get(arguments["key"], {}), arguments["field"]: arguments["value"]}
            sessions[arguments["key"]] = entry
        return cast("Json", sessions), None


explained = ModelCheck(SessionsModel())
"""The check: some sequential order explains the run."""


def planted(mutant_id: str) -> Callable[[str, str], str]:
    """The transform that plants a bug."""
    return mutant_by_id(mutant_id).transform
