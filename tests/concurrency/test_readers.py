"""Readers without the lock, while another process publishes generation after generation.

Goal: WRITE2. Every block of every entry carries its generation, so a mixture of two states cannot look whole.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sessionstore import SessionStore
from storecheck.pytest_plugin import Evidence
from tests.concurrency.children import READERS, generation_writer, reader
from tests.concurrency.crew import Crew
from tests.concurrency.payload import SETTINGS, SIZES, generation_of, stamped_generation, stamped_store

FITS_BYTES = 16_000_000
OVERSIZED_BYTES = 300_000
"""Limits of the readers' caches: what fits is kept whole, what does not only with its positions."""


@pytest.mark.promise("WRITE2", "CACHE6")
@pytest.mark.parametrize(("size", "generations"), [("2 KB", 150), ("220 KB", 60), ("7.6 MB", 4)], ids=list(SIZES))
def test_readers_see_whole_states_in_their_order(
    children: Crew, store_path: Path, evidence: Evidence, size: str, generations: int
) -> None:
    """WRITE2, CACHE6: whatever way a reader reads, it finds one whole generation, and never an older one again."""
    entries = SIZES[size]
    path = str(store_path)
    SessionStore(path, SETTINGS).save(stamped_store(entries, 0))
    limit_bytes = OVERSIZED_BYTES if size == "7.6 MB" else FITS_BYTES
    readers = [children.start(reader, path, entries, how, limit_bytes) for how in READERS]
    writer = children.start(generation_writer, path, entries, generations)
    for child in (*readers, writer):
        child.expect("ready")
    for child in (*readers, writer):
        child.tell("go")
    assert writer.result() == generations
    for child in readers:
        child.tell("stop")
    for child in readers:
        reads, newest = child.result()
        assert newest == generations, f"{newest} after the last generation, {generations}, had been acknowledged"
        evidence.add(steps=reads, histories=1)


@pytest.mark.promise("WRITE2")
def test_a_version_that_is_open_never_changes(store_path: Path) -> None:
    """WRITE2: a reader that opened the file before a save finds all of the old state, however late it reads."""
    entries = SIZES["220 KB"]
    store = SessionStore(store_path, SETTINGS)
    old = store.save(stamped_store(entries, 1)).raw
    descriptor = os.open(store_path, os.O_RDONLY)
    try:
        half = os.read(descriptor, len(old or b"") // 2)
        store.save(stamped_store(entries, 2))
        rest = os.read(descriptor, len(old or b""))
    finally:
        os.close(descriptor)
    assert half + rest == old


def test_the_check_of_states_refuses_mixtures() -> None:
    """A block of another generation, an entry of another generation and a missing entry are each noticed."""
    whole = stamped_store(3, 7)
    assert generation_of(whole, entries=3) == 7
    torn = stamped_store(3, 7)
    torn["agent:main:1"]["blocks"][20] = stamped_store(3, 8)["agent:main:1"]["blocks"][20]
    mixed = whole | {"agent:main:2": stamped_store(3, 8)["agent:main:2"]}
    short = {key: whole[key] for key in list(whole)[:2]}
    for bad in (torn, mixed, short):
        with pytest.raises(AssertionError, match=r"generation|entries"):
            generation_of(bad, entries=3)
    with pytest.raises(AssertionError, match="generation=8"):
        stamped_generation(1, torn["agent:main:1"])
