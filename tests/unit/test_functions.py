"""The three functions of the original system: what they spare, and what they do to the base that they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionstore import (
    Draft,
    SessionStore,
    clear_session_store_caches,
    load_session_store,
    save_session_store,
    update_session_store,
)
from sessionstore import snapshot as snapshots


def count_up(draft: Draft) -> None:
    """Add one."""
    draft["a"]["n"] += 1


@pytest.mark.promise("SNAP3")
def test_a_base_is_brought_up_to_date(store_path: Path) -> None:
    """After an update the base holds what is on disk: new sessions, no deleted ones, none of the caller's edits."""
    save_session_store(store_path, {"a": {"n": 1}, "b": {"n": 1}})
    base = load_session_store(store_path)
    base["a"]["n"] = 99
    base["mine"] = {}

    def mutator(draft: Draft) -> str:
        del draft["b"]
        draft["c"] = {"n": 2}
        return "done"

    assert update_session_store(store_path, mutator, base_store=base) == "done"
    assert base == {"a": {"n": 1}, "c": {"n": 2}} == load_session_store(store_path)


@pytest.mark.promise("SNAP4")
def test_one_base_serves_any_number_of_updates(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of updates with one base parses nothing, also when the store is too large to be cached."""
    monkeypatch.setenv("OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES", "1")
    monkeypatch.setenv("OPENCLAW_SESSION_CACHE_TTL_MS", "0")
    save_session_store(store_path, {"a": {"n": 0}})
    base = load_session_store(store_path)

    def refuse(*_: object) -> None:
        raise AssertionError("the file was parsed although the base is what it holds")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_Parser", refuse)
        for number in range(1, 4):
            update_session_store(store_path, count_up, base_store=base)
            assert base == {"a": {"n": number}}


@pytest.mark.promise("SNAP3")
def test_any_other_mapping_is_no_base(store_path: Path) -> None:
    """A plain dict as a base spares nothing, reaches nothing and is not touched."""
    save_session_store(store_path, {"a": {"n": 1}})
    base = {"a": {"n": 5}, "b": {}}
    update_session_store(store_path, lambda draft: draft["a"].update(m=1), base_store=base)
    assert base == {"a": {"n": 5}, "b": {}}
    assert load_session_store(store_path) == {"a": {"n": 1, "m": 1}}


@pytest.mark.promise("CACHE5")
def test_clearing_the_caches_leaves_nothing_of_any_file(store_path: Path) -> None:
    """After `clear_session_store_caches` the process holds no path and no byte."""
    save_session_store(store_path, {"a": {}})
    load_session_store(store_path)
    assert SessionStore(store_path).stats().cached_paths
    clear_session_store_caches()
    stats = SessionStore(store_path).stats()
    assert (stats.cached_paths, stats.cached_bytes) == (0, 0)
