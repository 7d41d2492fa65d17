"""A store of many chunks, larger than the limit: the paths that a small file never takes.

Goal: whatever mixture of bases, foreign versions and reads comes before, an update finds and leaves exactly the right
content, and one whose version is known parses nothing. Method: random walks over a file of about 400 KB with a limit
of a few kilobytes, against a dict.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionstore import Draft, SessionStore, Settings, Snapshot
from sessionstore.content import CHUNK_BYTES
from sessionstore.process import PROCESS

ENTRIES = 40
LIMITS = Settings(object_cache_max_bytes=4000, maintenance_mode="off")


def large_content() -> dict[str, Any]:
    """About 400 KB in entries of different sizes."""
    sizes = random.Random(7)
    return {f"s{n}": {"n": n, "pad": chr(97 + n % 26) * sizes.randrange(5000, 15_000)} for n in range(ENTRIES)}


def rewritten(path: Path, sessions: dict[str, Any]) -> None:
    """What another program does: a new file under the same name."""
    other = path.with_name("other")
    other.write_text(json.dumps(sessions, indent=2), encoding="utf-8")
    os.replace(other, path)


def setting(key: str, entry: dict[str, Any]) -> Callable[[Draft], None]:
    """A mutator that writes one entry."""
    return lambda draft: draft.update({key: entry})


def counting(number: int) -> Callable[[Draft], None]:
    """A mutator that changes one field of one entry."""
    return lambda draft: draft[f"s{3 * number}"].update(n=number)


steps = st.lists(
    st.tuples(
        st.sampled_from(["update", "update base", "update old base", "load", "read", "foreign", "other process"]),
        st.integers(0, ENTRIES - 1),
        st.sampled_from([0, 1, 7, 3000, 30_000]),
    ),
    min_size=2,
    max_size=12,
)


@pytest.mark.promise("SNAP3", "SNAP5", "CACHE3", "CACHE6")
@given(steps=steps)
@settings(max_examples=40)
def test_a_large_store_is_exact_after_any_mixture_of_bases_and_foreign_versions(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    """Oversized: every read and update sees the newest content, and leaves exactly it with its own change."""
    path = tmp_path_factory.mktemp("large") / "sessions.json"
    store, expected = SessionStore(path, LIMITS), large_content()
    bases: list[Snapshot] = [store.save(expected)]
    assert bases[0].content is not None
    assert len(bases[0].content.chunks) > 3
    for number, (step, place, size) in enumerate(steps):
        key = f"s{place}"
        entry = {"n": number, "pad": "x" * size}
        if step.startswith("update"):
            base = {"update": None, "update base": bases[-1], "update old base": bases[0]}[step]
            bases.append(store.update(setting(key, entry), base=base).snapshot)
            expected[key] = entry
        elif step == "foreign":
            expected[key] = entry
            rewritten(path, expected)
        elif step == "other process":
            expected[key] = entry
            SessionStore(path, Settings(maintenance_mode="off", cache_ttl_ms=0)).update(setting(key, entry))
        elif step == "load":
            bases.append(store.load())
        else:
            assert store.read(key) == expected[key]
        PROCESS.cache.check()
        assert PROCESS.cache.held_bytes <= LIMITS.object_cache_max_bytes
        assert json.loads(path.read_bytes()) == expected
    assert dict(store.load()) == expected
    for base in bases:
        assert base.content is not None
        assert max(map(len, base.content.chunks)) <= CHUNK_BYTES


@pytest.mark.promise("SNAP4", "CACHE3")
def test_updates_of_a_large_store_that_no_one_else_changes_parse_nothing(store_path: Path) -> None:
    """With a chain of bases, or with none but the positions kept, an oversized file is parsed once."""
    store = SessionStore(store_path, LIMITS)
    base = store.save(large_content())
    for number in range(12):
        done = store.update(counting(number), base=base if number % 3 else None)
        assert done.reused == bool(number % 3)
        base = done.snapshot
        assert store.load()[f"s{3 * number}"]["n"] == number
    assert store.stats().parses == 0
    assert store.stats().writes == 12  # the save, and all updates but the one that sets what is there
    assert store.stats().snapshot_reuses == 8


@pytest.mark.promise("CACHE6", "SNAP2")
@pytest.mark.parametrize("verb", ["load", "update", "update base"])
def test_a_rewrite_of_a_large_store_to_the_same_size_is_seen(store_path: Path, verb: str) -> None:
    """Same size, but entries are elsewhere in it: the bytes decide, for loads and for updates."""
    sessions = large_content()
    store = SessionStore(store_path, LIMITS)
    base = store.save(sessions)
    sessions["s5"]["pad"] += "!" * 100
    sessions["s6"]["pad"] = sessions["s6"]["pad"][100:]
    rewritten(store_path, sessions)
    if verb == "load":
        assert dict(store.load()) == sessions
    else:
        done = store.update(counting(1), base=base if verb == "update base" else None)
        assert not done.reused
        sessions["s3"]["n"] = 1
        assert json.loads(store_path.read_bytes()) == sessions


@pytest.mark.promise("SNAP2", "CACHE6")
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_change_in_one_end_of_a_large_file_is_seen(store_path: Path, place: str) -> None:
    """SNAP2, CACHE6: bases and positions are proven by all chunks, also where only the first or last one differs."""
    store = SessionStore(store_path, LIMITS)
    base = store.save(large_content())
    store.load()
    old = store_path.read_bytes()
    before, after = (b'"s0"', b'"t0"') if place == "first" else (b'"s39"', b'"t39"')
    new = old.replace(before, after)
    assert len(new) == len(old)
    assert new != old
    with open(store_path, "r+b") as file:
        file.write(new)
    expected = json.loads(new)
    assert list(store.load()) == list(expected)
    assert store.read(after.decode().strip('"')) is not None
    done = store.update(setting("s5", {"n": -1}), base=base)
    assert not done.reused
    assert json.loads(store_path.read_bytes()) == {**expected, "s5": {"n": -1}}
