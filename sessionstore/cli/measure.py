"""How long the operations take on this machine, this disk and this store.

Works on a copy in a directory of its own on the same file system, so the store itself is only read. All operations
take turns in every round, because a disk has good and bad moments; medians are compared. Not a benchmark against other
stores: see `benchmarks/`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sessionstore.cli.scratch import build_store
from sessionstore.cli.terminal import Progress
from sessionstore.draft import Draft
from sessionstore.files import RACY_WINDOW_NS, OpenFile
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot, parse
from sessionstore.store import SessionStore

SYNTHETIC_STORE_BYTES = 900_000  # within the default limit of the object cache, so that "as cached" is cached
SYNTHETIC_PAYLOAD_BYTES = 2048
RAW_WRITE = "raw: write + fdatasync + replace"

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class Timing:
    """One operation: all rounds, in milliseconds."""

    operation: str
    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rounds_ms)


def copy_of_store(path: str, directory: str) -> tuple[str, int]:
    """A copy of the store's content in `directory`, or a made-up store if there is none; returns its path and size.

    Raises:
        OSError, StoreError: the store cannot be read.
    """
    copy = os.path.join(directory, "sessions.json")
    try:
        with OpenFile(path) as file:
            content, _ = file.read()
        parse(path, content)  # names this file if it is corrupt, not the copy
    except FileNotFoundError:
        made = build_store(copy, size_bytes=SYNTHETIC_STORE_BYTES, payload_bytes=SYNTHETIC_PAYLOAD_BYTES)
        return copy, 0 if made.raw is None else len(made.raw)
    with open(copy, "xb") as file_copy:
        file_copy.writelines(content.chunks)
    return copy, content.size_bytes


def measure(copy: str, settings: Settings, *, rounds: int) -> list[Timing]:
    """Time every operation `rounds` times on the store at `copy`, which is changed."""
    turns = dict(_turns(copy, replace(settings, maintenance_mode="off")))
    measured: dict[str, list[float]] = {name: [] for name in turns}
    with Progress("measuring, rounds") as progress:
        for number in range(rounds + 1):
            for name, turn in turns.items():
                elapsed_ms = turn(number)
                if number:  # the first round warms up
                    measured[name].append(elapsed_ms)
            progress.show(number, rounds)
    return [Timing(name, tuple(times)) for name, times in measured.items()]


def _turns(copy: str, settings: Settings) -> Iterator[tuple[str, Callable[[int], float]]]:
    """Each operation as a function of the round's number that returns milliseconds."""
    warm = SessionStore(copy, settings)
    cold = SessionStore(copy, settings)
    snapshot = warm.load()
    keys = tuple(snapshot)
    base: list[Snapshot] = [snapshot]

    def key_of(number: int) -> str:
        return keys[number % len(keys)] if keys else "measured"

    def touch(number: int) -> Callable[[Draft], None]:
        def mutate(draft: Draft) -> None:
            entry = draft[key_of(number)] if keys else {}
            entry["sessionstoreMeasure"] = time.perf_counter_ns()
            draft[key_of(number)] = entry

        return mutate

    def update_with_base(number: int) -> None:
        base[0] = warm.update(touch(number), base=base[0]).snapshot

    def update_without_base(number: int) -> None:
        base[0] = warm.update(touch(number)).snapshot

    def read_one(number: int) -> None:
        warm.read(key_of(number))

    def settled(work: Callable[[], object]) -> float:
        # Right after a write nothing is served by stat alone: the file could change again under the same stamps.
        time.sleep(2 * RACY_WINDOW_NS / 1e9)
        warm.load()
        return _timed(work)

    yield "load, past the caches", lambda _number: _timed(lambda: cold.load(skip_cache=True))
    yield "load, as cached", lambda _number: settled(warm.load)
    yield "read one entry, as cached", lambda number: settled(lambda: read_one(number))
    yield "update one entry, with base", lambda number: _timed(lambda: update_with_base(number))
    yield "update one entry, without base", lambda number: _timed(lambda: update_without_base(number))
    yield RAW_WRITE, lambda _number: _raw_write(copy + ".raw", base[0].raw or b"{}")


def _timed(work: Callable[[], object]) -> float:
    began_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began_ns) / 1e6


def _raw_write(path: str, raw: bytes) -> float:
    """What the disk needs for a durable replacement by the same number of bytes, whoever does it."""
    temporary = path + ".tmp"

    def write() -> None:
        descriptor = os.open(temporary, _CREATE, 0o600)
        try:
            rest = memoryview(raw)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            _sync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)

    return _timed(write)
