"""One file under many names, in several processes.

Goal: CACHE8, and with it WRITE1: the original system lost 180 of 400 updates when a directory was a symbolic link.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from sessionstore import SessionStore, Settings
from storecheck.pytest_plugin import Evidence
from tests.concurrency.children import TALLY, working_elsewhere, writer
from tests.concurrency.crew import Crew
from tests.concurrency.payload import SETTINGS
from tests.concurrency.test_writers import Racer, check_linearizable

COUNT = 25


def aliases_of(path: Path) -> dict[str, str]:
    """Other spellings of `path`, whose directory must exist; the links are made."""
    home, elsewhere = path.parent, path.parent.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "home").symlink_to(home)
    (elsewhere / "store.json").symlink_to(path)
    (elsewhere / "again.json").symlink_to("store.json")
    return {
        "dots": os.path.join(home, "..", ".", home.name, path.name),
        "linked directory": str(elsewhere / "home" / path.name),
        "linked file": str(elsewhere / "store.json"),
        "link to a link": str(elsewhere / "again.json"),
    }


@pytest.fixture
def home_path(tmp_path: Path) -> Path:
    """Where a store file may be created, in a directory beside which there is room."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "sessions.json"


@pytest.mark.promise("CACHE8", "WRITE1", "LOCK1")
@pytest.mark.parametrize("exists", [True, False], ids=["existing file", "new file"])
def test_writers_under_different_names_lose_nothing(
    children: Crew, home_path: Path, evidence: Evidence, *, exists: bool
) -> None:
    """CACHE8, WRITE1: processes that spell the path differently, some relative, exclude each other all the same."""
    if exists:
        SessionStore(home_path, SETTINGS).save({})
    spellings = aliases_of(home_path)
    racers: list[Racer] = [
        (writer, (spelling, name, COUNT, number % 2 == 0)) for number, (name, spelling) in enumerate(spellings.items())
    ]
    racers.append((working_elsewhere, (str(home_path.parent), home_path.name, "relative", COUNT)))
    increments = [done for mine in children.race(racers) for done in mine]
    check_linearizable(increments)
    final = SessionStore(home_path, SETTINGS).load()[TALLY]["tokens"]
    assert sorted(final) == sorted(increment.token for increment in increments)
    # The links are still links, and there is one lock file, next to the file itself.
    assert [name for name, spelling in spellings.items() if os.path.islink(spelling)] == [
        "linked file",
        "link to a link",
    ]
    locks = sorted(home_path.parent.parent.rglob("*.flock"))
    assert [str(lock) for lock in locks] == [f"{home_path}.flock"]
    evidence.add(steps=len(increments), histories=1)


@pytest.mark.promise("CACHE8", "WARN1")
def test_one_record_and_one_warning_for_all_names(home_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CACHE8, WARN1: whatever the file is called, a process keeps one record of it and warns once."""
    small = SessionStore(home_path, Settings(maintenance_mode="off"))
    small.save({"a": {"n": 1}})
    held = small.stats()
    spellings = [str(home_path), *aliases_of(home_path).values()]
    for spelling in spellings:
        store = SessionStore(spelling, Settings(maintenance_mode="off"))
        assert store.load()["a"] == {"n": 1}
        now = store.stats()
        assert (now.cached_paths, now.cached_bytes) == (held.cached_paths, held.cached_bytes)
    with caplog.at_level(logging.WARNING, "sessionstore"):
        for spelling in spellings:
            SessionStore(spelling, Settings(maintenance_mode="off", object_cache_max_bytes=5)).load()
    assert [getattr(record, "store_path", None) for record in caplog.records] == [str(home_path)]
