"""What maintenance removes and what it keeps, at its limits and between equals."""

from __future__ import annotations

import json
import math
import os
import stat
import time
from pathlib import Path

import pytest

from sessionstore import SessionStore, Settings
from sessionstore.maintenance import sessions_to_remove, warn_of

NOW_MS = 1_774_000_000_000


@pytest.mark.promise("MAINT1")
def test_an_entry_as_old_as_the_limit_stays() -> None:
    """Only entries older than the limit are pruned; one of exactly that age is not."""
    settings = Settings(prune_after_ms=1000, max_entries=10)
    sessions = [("same", NOW_MS - 1000.0), ("older", NOW_MS - 1001.0)]
    assert sessions_to_remove(sessions, now_ms=NOW_MS, settings=settings, active_session=None) == (["older"], [])


@pytest.mark.promise("MAINT1")
def test_of_equally_new_entries_the_earlier_in_the_file_stays() -> None:
    """Where several entries have the same time, the cap removes those that come later in the file."""
    settings = Settings(max_entries=2)
    sessions = [(key, float(NOW_MS)) for key in "abcd"]
    assert sessions_to_remove(sessions, now_ms=NOW_MS, settings=settings, active_session=None) == ([], ["c", "d"])


@pytest.mark.promise("MAINT1")
def test_entries_that_are_never_removed_count_for_the_cap() -> None:
    """The active session and entries without a time take room of the cap and leave less for the others."""
    settings = Settings(max_entries=3)
    sessions = [("active", 1.0), ("timeless", math.nan), ("new", NOW_MS + 0.0), ("newer", NOW_MS + 1.0)]
    removed = sessions_to_remove(sessions, now_ms=NOW_MS, settings=settings, active_session="active")
    assert removed == ([], ["new"])


@pytest.mark.promise("MAINT1", "KEY1")
def test_a_session_is_as_old_as_its_newest_spelling(store_path: Path) -> None:
    """A session with an old and a new spelling is not pruned, and one whose spelling says it is active neither."""
    now_ms = time.time_ns() // 1_000_000
    store_path.write_bytes(b'{"A": {"updatedAt": 1}, "a": {"updatedAt": %d}, "b": {"updatedAt": 1}}' % now_ms)
    store = SessionStore(store_path, Settings(maintenance_mode="enforce"))
    store.update(lambda draft: draft.update({"c": {}}), active_session=" B ")
    assert set(store.load()) == {"a", "b", "c"}


@pytest.mark.promise("MAINT2")
@pytest.mark.parametrize("over", [0, 1])
def test_a_backup_is_made_of_a_file_over_the_limit_with_its_mode(store_path: Path, over: int) -> None:
    """A file of exactly the limit is not backed up; a larger one is, and its copy may be read by the same people."""
    raw = b'{"a": {"updatedAt": %d}}' % (time.time_ns() // 1_000_000)
    store_path.write_bytes(raw)
    os.chmod(store_path, 0o640)
    store = SessionStore(store_path, Settings(maintenance_mode="enforce", rotate_bytes=len(raw) - over))
    store.update(lambda draft: draft.update({"b": {}}))
    copies = list(store_path.parent.glob("*.bak.*"))
    assert [(copy.read_bytes(), stat.S_IMODE(copy.stat().st_mode)) for copy in copies] == [(raw, 0o640)] * over


@pytest.mark.promise("MAINT1")
@pytest.mark.parametrize(("mode", "warnings"), [("off", 0), ("warn", 1), ("enforce", 0)])
def test_only_the_mode_warn_warns(store_path: Path, caplog: pytest.LogCaptureFixture, mode: str, warnings: int) -> None:
    """`warn` says once a minute what is due and removes nothing; the other modes say nothing."""
    store_path.write_bytes(b'{"a": {"updatedAt": 1}}')
    store = SessionStore(store_path, Settings(maintenance_mode=mode))  # type: ignore[arg-type]  # the three of them
    for key in "xyz":
        with store.edit() as draft:
            draft[key] = {}
    assert len([record for record in caplog.records if "maintenance is due" in record.message]) == warnings
    assert ("a" in store.load()) == (mode != "enforce")


@pytest.mark.promise("MAINT1", "WRITE6")
def test_what_maintenance_leaves_is_written_if_only_the_order_differs(store_path: Path) -> None:
    """A save in another order is a change, also where maintenance undoes all else that it brought."""
    store = SessionStore(store_path, Settings(maintenance_mode="enforce"))
    store.save({"a": {"n": 0}, "b": {"n": 0}})
    store.save({"b": {"n": 0}, "old": {"updatedAt": 1}, "a": {"n": 0}})
    assert list(json.loads(store_path.read_bytes())) == ["b", "a"]
    writes = store.stats().writes
    store.save({"b": {"n": 0}, "a": {"n": 0}, "old": {"updatedAt": 1}})
    assert store.stats().writes == writes


@pytest.mark.parametrize(
    ("counts", "prune_after_ms", "said"),
    [
        ((1, 0), 2_592_000_000, "would remove 1 entry older than 30 days."),
        ((2, 1), 86_400_000, "would remove 2 entries older than 1 day; remove 1 entry beyond the newest 1,500."),
        ((1200, 0), 129_600_000, "would remove 1,200 entries older than 1.5 days."),
        ((1, 0), 86_399_999, "would remove 1 entry older than 86,399,999 ms."),
    ],
)
def test_what_is_due_is_said_in_the_units_of_people(
    counts: tuple[int, int], prune_after_ms: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One entry is an entry, and a limit of days is told in days."""
    settings = Settings(prune_after_ms=prune_after_ms, max_entries=1500)
    warn_of("sessions.json", pruned=counts[0], capped=counts[1], rotated_bytes=None, settings=settings)
    assert said in caplog.text
