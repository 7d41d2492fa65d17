"""Load and update, many times over, while watching the memory.

The workload on which the original system's memory grew to 1.2 GB. Each cycle loads the store and updates one entry of
it. With `reuse_loaded` the update is given what was loaded as its base, and the next cycle goes on from the snapshot
that the update returned, as the reply path of a gateway does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sessionstore.cli.memory import memory_now
from sessionstore.cli.scratch import FIRST_UPDATE_MS, size_of
from sessionstore.draft import Draft
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot
from sessionstore.store import SessionStore

SETTLED_CYCLE = 10
"""From here on memory must not grow: the allocators have seen every size they will be asked for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the table: memory and file size after `cycle`, and the time since the first cycle began."""

    cycle: int
    rss_bytes: int
    heap_bytes: int | None
    external_bytes: int | None
    store_bytes: int
    elapsed_ms: float


def run_cycles(
    path: str, settings: Settings, *, cycles: int, sample_every: int, unique_touches: int, reuse_loaded: bool
) -> Iterator[Sample]:
    """Run the cycles; yields a sample before the first, after every `sample_every`th and after the last."""
    store = SessionStore(path, settings)
    began_ns = time.perf_counter_ns()
    yield _sample(path, 0, began_ns)
    touched: tuple[str, ...] = ()
    snapshot: Snapshot | None = None
    for cycle in range(1, cycles + 1):
        if snapshot is None or not reuse_loaded:
            snapshot = store.load()
        if not touched:
            touched = tuple(key for key, _ in zip(snapshot, range(unique_touches), strict=False))
        key = touched[(cycle - 1) % len(touched)]
        snapshot = _touch(store, key, cycle, base=snapshot if reuse_loaded else None)
        if cycle % sample_every == 0 or cycle == cycles:
            yield _sample(path, cycle, began_ns)
    store.close()


def _touch(store: SessionStore, key: str, cycle: int, *, base: Snapshot | None) -> Snapshot:
    def touch(draft: Draft) -> None:
        entry = draft[key]
        entry["updatedAt"] = FIRST_UPDATE_MS + 1_000_000 + cycle
        entry["label"] = f"touched in cycle {cycle}"

    return store.update(touch, base=base).snapshot


def _sample(path: str, cycle: int, began_ns: int) -> Sample:
    memory = memory_now()
    elapsed_ms = (time.perf_counter_ns() - began_ns) / 1e6
    return Sample(cycle, memory.rss_bytes, memory.heap_bytes, memory.external_bytes, size_of(path), elapsed_ms)


def growth_bytes(samples: list[Sample]) -> int | None:
    """How far memory rose above what it was at `SETTLED_CYCLE`; None if there is no sample from then and from later."""
    settled = next((sample for sample in samples if sample.cycle >= SETTLED_CYCLE), None)
    later = [sample.rss_bytes for sample in samples if settled is not None and sample.cycle > settled.cycle]
    return None if settled is None or not later else max(0, max(later) - settled.rss_bytes)
