"""What a store's adapter looks like, so that the contract can be checked on it.

An adapter is a class named by import path, `package.module:Class`. Sessions are named by the verifier; each holds one
version, a text that no two writes share::

    import json, os, filelock

    class Adapter:
        promises = ("updates", "reads", "kills", "errors")        # what the store says of itself, of `PROMISES`

        def __init__(self, root):                                 # open: a directory of its own
            self._path = os.path.join(root, "store.json")
            self._lock = filelock.FileLock(f"{self._path}.lock")

        def load(self):                                           # everything, from the disk: {session: version}
            with open(self._path, encoding="utf-8") as stream:
                return json.load(stream)

        def update(self, session, version):                       # set one session, return what was there or None
            with self._lock:
                sessions = self.load()
                before, sessions[session] = sessions.get(session), version
                self._write(sessions)
            return before

        def save(self, sessions):                                 # replace everything
            with self._lock:
                self._write(sessions)

        def _write(self, sessions):
            with open(f"{self._path}.new", "w", encoding="utf-8") as stream:
                json.dump(sessions, stream)
            os.replace(f"{self._path}.new", self._path)

        def close(self):
            self._lock.release()

The class may say `not_simulated = "why"` if the store does its input and output in C: then real processes race, and
nothing is searched but the disks that a power loss may leave. `refuses` names exceptions by which it declines an
operation that then had no effect. The first files are made by `save`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

PromiseName = Literal["updates", "reads", "kills", "errors", "power"]


class Adapter(Protocol):
    """See the module."""

    def load(self) -> dict[str, str]:
        """Every session's version, from the disk."""

    def update(self, session: str, version: str) -> str | None:
        """Set one session; the version that was there."""

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""

    def close(self) -> None:
        """No more calls."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing that every store of sessions might promise."""

    name: PromiseName
    text: str


PROMISES: Final[Mapping[str, Promise]] = {
    "updates": Promise("updates", "updates by several processes happen one at a time; no acknowledged one is lost"),
    "reads": Promise("reads", "a reader beside a writer sees a whole published state, and no error"),
    "kills": Promise("kills", "SIGKILL at any call leaves the old or the new state, and the next writer can go on"),
    "errors": Promise("errors", "a failing system call is reported, and leaves the old or the new state"),
    "power": Promise(
        "power", "what a call that returned wrote survives power loss; before that, the old or the new state"
    ),
}


def adapter_promises(factory: object) -> tuple[str, ...]:
    """What the adapter says that its store promises."""
    return tuple(getattr(factory, "promises", ()))
