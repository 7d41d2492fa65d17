"""Stores and directories that exist only while a measurement runs."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sessionstore import process
from sessionstore.cli.terminal import Progress
from sessionstore.draft import Draft
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot
from sessionstore.store import SessionStore

FIRST_UPDATE_MS = 1_774_000_000_000
_BATCH_ENTRIES = 256
_ENTRY_FRAME_BYTES = 380  # of an entry without its payload, measured; only the progress depends on it
_WORDS = ("agent", "review", "status", "reply", "summary", "Überblick", "морозно", "指示", "🧵", "thread", "deploy")


@contextlib.contextmanager
def scratch_directory(parent: str | None = None) -> Iterator[str]:
    """A new directory, removed at the end also if the program is ended by SIGTERM.

    Args:
        parent: where to make it, so that it is on the file system in question; None means the system's place.
    """
    with _sigterm_unwinds():
        directory = tempfile.mkdtemp(prefix=".sessionstore-measure-", dir=parent)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def entry_of(number: int, payload_bytes: int) -> dict[str, Any]:
    """An entry like a gateway's, with a text of `payload_bytes` that is unlike any other entry's."""
    draw = random.Random(number)  # noqa: S311 - the same store in every run
    words: list[str] = []
    size = 0
    while size < payload_bytes:
        word = f"{draw.choice(_WORDS)}-{number}"
        words.append(word)
        size += len(word.encode()) + 1
    text = " ".join(words).encode()[:payload_bytes].decode(errors="ignore")
    return {
        "sessionId": f"{draw.getrandbits(128):032x}",
        "updatedAt": FIRST_UPDATE_MS + number,
        "label": f"session {number}",
        "model": "opus-4",
        "totalTokens": draw.randrange(1_000_000),
        "deliveryContext": {"channel": "telegram", "to": f"chat:{draw.randrange(10**9)}", "accountId": "default"},
        "skillsSnapshot": {"prompt": text},
    }


def build_store(path: str, *, size_bytes: int, payload_bytes: int) -> Snapshot:
    """Create a store of at least `size_bytes` at `path` by the store's own writes; returns its content.

    In batches, so that building takes no more memory than what is measured afterwards.
    """
    settings = Settings(maintenance_mode="off", cache_ttl_ms=0)
    store = SessionStore(path, settings)
    expected = size_bytes // (payload_bytes + _ENTRY_FRAME_BYTES) + 1
    snapshot: Snapshot | None = None
    have_bytes = done = 0
    with Progress("building the store, entries") as progress:
        while snapshot is None or have_bytes < size_bytes:
            left = (size_bytes - have_bytes) // (payload_bytes + _ENTRY_FRAME_BYTES) + 1
            batch = range(done, done + min(_BATCH_ENTRIES, left))

            def add(draft: Draft, batch: range = batch) -> None:
                for number in batch:
                    draft[f"agent:main:{number:06d}"] = entry_of(number, payload_bytes)

            snapshot = store.update(add, base=snapshot).snapshot
            have_bytes = size_of(path)
            done = batch.stop
            progress.show(done, expected)
    store.close()
    process.reset()
    return snapshot


def size_of(path: str) -> int:
    """Bytes of the file."""
    return os.stat(path).st_size
