"""What a base may and may not do: promises SNAP1 to SNAP6, step by step, with two processes on one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionstore import SessionStore, Settings, load_session_store, update_session_store
from tests.stateful.world import SETTLE_NS, World

QUIET: dict[str, Any] = {"maintenance_mode": "off"}
LIMITS = {"kept": 1_000_000, "oversized": 150, "cache off": 0}


@pytest.fixture
def two() -> Iterator[World]:
    """Processes on one directory: two at work, and a third for what happens meanwhile."""
    world = World(images=3)
    yield world
    world.close()


def add(key: str) -> Any:
    """A mutator that adds a session; returns the keys that it found."""

    def mutator(draft: Any) -> list[str]:
        found = list(draft)
        draft[key] = {"n": 1}
        return found

    return mutator


SESSIONS = {f"k{number}": {"n": number, "text": "x" * 50} for number in range(4)}


@pytest.mark.promise("SNAP1", "SNAP5")
@pytest.mark.parametrize("limit_bytes", LIMITS.values(), ids=list(LIMITS))
def test_an_old_base_overwrites_nothing(two: World, limit_bytes: int) -> None:
    """SNAP1, SNAP5: the mutator sees, and the file keeps, what another process wrote after the base was loaded."""
    mine = two.store(0, two.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    other = two.store(1, two.path(), **QUIET)
    mine.save(SESSIONS)
    base = mine.load()
    other.update(add("other"))
    done = mine.update(add("mine"), base=base)
    assert (done.reused, "other" in done.result) == (False, True)
    assert set(json.loads(two.content(two.path()) or b"")) == {*SESSIONS, "other", "mine"}


@pytest.mark.promise("SNAP2", "SNAP1")
@pytest.mark.parametrize("limit_bytes", LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize("difference", ["value", "layout", "key order", "spelling"])
def test_a_base_is_reused_only_if_every_byte_is_equal(two: World, limit_bytes: int, difference: str) -> None:
    """SNAP2, SNAP1: files that mean the same, or look the same to stat, are another version all the same."""
    old = json.dumps(SESSIONS, indent=2).encode()
    new = {
        "value": old.replace(b'"n": 1', b'"n": 8'),
        "layout": old.replace(b'"n": 1', b'"n" :1'),
        "key order": json.dumps(dict(reversed(SESSIONS.items())), indent=2).encode(),
        "spelling": old.replace(b'"k1"', b'"K1"'),
    }[difference]
    assert len(new) == len(old)
    assert new != old
    store = two.store(0, two.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    two.path().write_bytes(old)
    two.advance(SETTLE_NS)
    base = store.load()
    before = os.stat(two.path())
    with open(two.path(), "r+b") as file:
        file.write(new)
    os.utime(two.path(), ns=(before.st_mtime_ns, before.st_mtime_ns))
    done = store.update(add("mine"), base=base)
    assert not done.reused
    written = two.content(two.path()) or b""
    assert json.loads(written) == {**json.loads(new), "mine": {"n": 1}}
    kept = new.removesuffix(b"\n}")
    assert written.startswith(kept), "an untouched entry lost its bytes"


@pytest.mark.promise("SNAP2", "CACHE6")
@pytest.mark.parametrize("limit_bytes", LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize(
    "layout",
    [lambda old: json.dumps(json.loads(old)).encode(), lambda old: old.replace(b'\n  "k1"', b'"k1"').ljust(len(old))],
    ids=["another size", "same size"],
)
def test_another_layout_of_the_same_content_is_read_anew(
    two: World, limit_bytes: int, layout: Callable[[bytes], bytes]
) -> None:
    """SNAP2, CACHE6: positions that were kept of one layout are not used for another, whatever it means."""
    store = two.store(0, two.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    store.save(SESSIONS)
    two.advance(SETTLE_NS)
    store.load()
    old = two.content(two.path()) or b""
    two.path().write_bytes(layout(old))
    assert two.content(two.path()) != old
    assert dict(store.load()) == SESSIONS
    two.advance(SETTLE_NS)
    assert [store.read(key) for key in SESSIONS] == list(SESSIONS.values())
    store.update(add("mine"), base=store.load())
    assert json.loads(two.content(two.path()) or b"") == {**SESSIONS, "mine": {"n": 1}}


@pytest.mark.promise("SNAP3")
@pytest.mark.parametrize("changed_meanwhile", [False, True])
def test_edits_of_a_base_never_reach_the_file(store_path: Path, *, changed_meanwhile: bool) -> None:
    """SNAP3: neither those of a loaded dict nor those of what a snapshot returned."""
    store = SessionStore(store_path, Settings(**QUIET))
    store.save(SESSIONS)
    loaded = load_session_store(store_path)
    loaded["k1"]["n"] = "edited"
    loaded["added"] = {"n": "edited"}
    del loaded["k2"]
    expected = {**SESSIONS, "mine": {"n": 1}}
    if changed_meanwhile:
        store.update(add("other"))
        expected = {**SESSIONS, "other": {"n": 1}, "mine": {"n": 1}}
    update_session_store(store_path, add("mine"), base_store=loaded)
    assert json.loads(store_path.read_bytes()) == dict(loaded) == expected
    base = store.load()
    base["k1"]["n"] = "edited"
    store.update(add("last"), base=base)
    assert json.loads(store_path.read_bytes()) == {**expected, "last": {"n": 1}}


@pytest.mark.promise("SNAP3")
@pytest.mark.parametrize("limit_bytes", LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize("stale", [False, True])
def test_a_base_changes_nothing_but_the_cost(two: World, limit_bytes: int, *, stale: bool) -> None:
    """SNAP3: two processes do the same, one with bases and one without: same files, results and caches."""
    outcomes = []
    for number in range(2):
        path = two.path(f"{number}.json")
        store = two.store(number, path, object_cache_max_bytes=limit_bytes, **QUIET)
        store.save(SESSIONS)
        base = store.load()
        if stale:
            two.store(2, path, **QUIET).update(add("other"))
        done = store.update(add("mine"), base=base if number else None)
        stats = store.stats()
        outcomes.append((two.content(path), done.result, done.written, stats.cached_bytes, stats.cached_paths))
    assert outcomes[0] == outcomes[1]


@pytest.mark.promise("SNAP4")
@pytest.mark.parametrize("limit_bytes", LIMITS.values(), ids=list(LIMITS))
def test_a_chain_of_updates_parses_nothing(two: World, limit_bytes: int) -> None:
    """SNAP4: an update from the snapshot of the one before finds its base on disk, and parses nothing."""
    store = two.store(0, two.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    store.save(SESSIONS)
    base = store.load()
    parses = store.stats().parses
    for number in range(5):
        done = store.update(add(f"more{number}"), base=base)
        assert done.reused
        base = done.snapshot
    assert (store.stats().parses, store.stats().snapshot_reuses) == (parses, 5)
    assert dict(base) == json.loads(two.content(two.path()) or b"")


@pytest.mark.promise("SNAP6", "LOCK2")
@pytest.mark.parametrize("limit_bytes", LIMITS.values(), ids=list(LIMITS))
def test_a_mutator_that_raises_leaves_no_trace(two: World, limit_bytes: int) -> None:
    """SNAP6: not in the file, the cache or the base, and the next process gets the lock with its first try."""
    store = two.store(0, two.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    store.save(SESSIONS)
    base = store.load()
    before = (two.content(two.path()), os.stat(two.path()).st_ino, store.stats().cached_bytes)

    def mutator(draft: Any) -> None:
        draft["k1"]["n"] = "half"
        draft["half"] = {}
        del draft["k2"]
        raise LookupError("on purpose")

    for given in (base, None):
        with pytest.raises(LookupError, match="on purpose"):
            store.update(mutator, base=given)
        assert (two.content(two.path()), os.stat(two.path()).st_ino, store.stats().cached_bytes) == before
        assert dict(store.load()) == dict(base) == SESSIONS
    two.store(1, two.path(), lock_timeout_s=0.0, **QUIET).update(add("next"))
