"""SIGKILL during a save, at every system call of it and in the middle of a large write.

Goal: WRITE4 and LOCK2. A child stops before the n-th call that reaches the system and is killed there, for n = 1, 2, …
until the save needs no n-th call. The next process must find the old or the new content, get the lock with its
first try, and sweep what the killed one left.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from sessionstore import LockTimeoutError, SessionStore, Settings
from storecheck.pytest_plugin import Evidence
from tests.concurrency.children import endless_saver, paused_saver, replacing, successor
from tests.concurrency.crew import Child, ChildFailedError, Crew, wait_until
from tests.concurrency.payload import SETTINGS, SIZES, generation_of, stamped_store

MAX_CALLS = 200
"""A save needs about thirty system calls; far more mean that it does not end."""

KILLS = 3


def temporary_files(path: Path) -> list[str]:
    """Names of files beside the store and its lock file."""
    return sorted(set(os.listdir(path.parent)) - {path.name, f"{path.name}.flock"})


def kill_in_mid_save(saver: Child, path: Path) -> None:
    """Let an endless writer go, and kill it while it has a temporary file."""
    saver.expect("ready")
    saver.tell("go")
    wait_until(lambda: is_stopped_in_mid_save(saver, path), what="the writer is in the middle of a save")
    saver.kill()
    assert len(temporary_files(path)) == 1


def is_stopped_in_mid_save(saver: Child, path: Path) -> bool:
    """Whether the writer now stands still while its temporary file is there; otherwise it goes on."""
    if not temporary_files(path):
        return False
    os.kill(saver.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(saver.pid).status() == psutil.STATUS_STOPPED, what="the writer stands still")
    if temporary_files(path):
        return True
    os.kill(saver.pid, signal.SIGCONT)
    return False


@pytest.mark.promise("WRITE4", "LOCK2", "WRITE2")
@pytest.mark.parametrize("exists", [True, False], ids=["existing file", "new file"])
def test_killed_before_any_system_call(children: Crew, tmp_path: Path, evidence: Evidence, *, exists: bool) -> None:
    """WRITE4, LOCK2: wherever it is killed, the content is whole, the lock free at once, and the next writer sweeps."""
    old, new = stamped_store(2, 1), stamped_store(2, 2)
    stray = 0
    outcomes: list[str] = []
    for number in range(1, MAX_CALLS):
        path = tmp_path / str(number) / "sessions.json"
        path.parent.mkdir()
        if exists:
            SessionStore(path, SETTINGS).save(old)
        saver = children.start(paused_saver, str(path), new, number)
        call = saver.heard()
        if call == "saved":
            break
        saver.kill()
        stray += bool(temporary_files(path))
        found = SessionStore(path, SETTINGS).load(skip_cache=True) if path.exists() else None
        outcome = "none" if found is None else str(generation_of(found, entries=2))
        outcomes.append(outcome)
        assert outcome in ({"1", "2"} if exists else {"none", "2"}), f"killed before call {number}, {call}"
        assert children.start(successor, str(path)).result(), f"killed before call {number}, {call}: nothing written"
        assert temporary_files(path) == [], f"killed before call {number}, {call}: not swept"
    else:
        pytest.fail(f"a save still went on after {MAX_CALLS} system calls")
    # The points were what they should be: some before and some after the rename, some with a temporary file.
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome == "2")
    assert len(set(outcomes)) == 2
    assert stray > 0
    evidence.add(steps=len(outcomes), histories=len(outcomes))


@pytest.mark.promise("WRITE4", "LOCK2", "WRITE2")
def test_killed_in_the_middle_of_large_writes(children: Crew, store_path: Path, evidence: Evidence) -> None:
    """WRITE4, LOCK2: a 7.6 MB save that dies as soon as its temporary file is there leaves a whole generation."""
    entries = SIZES["7.6 MB"]
    store = SessionStore(store_path, SETTINGS)
    store.save(stamped_store(entries, 0))
    for _ in range(KILLS):
        kill_in_mid_save(children.start(endless_saver, str(store_path), entries), store_path)
        generation_of(store.load(skip_cache=True), entries=entries)
        assert children.start(successor, str(store_path)).result()
        assert temporary_files(store_path) == []
        store.update(lambda draft: draft.pop("agent:main:successor"))
    evidence.add(steps=KILLS, histories=KILLS)


@pytest.mark.promise("WRITE4", "LOCK2")
def test_a_living_writers_temporary_file_is_never_touched(children: Crew, store_path: Path) -> None:
    """WRITE4: while a writer is in the middle of its save, neither failing writers nor readers remove its file."""
    new = stamped_store(2, 2)
    SessionStore(store_path, SETTINGS).save(stamped_store(2, 1))
    saver = children.start(paused_saver, str(store_path), new, "replace")
    assert saver.heard() == "replace"
    temporary = temporary_files(store_path)
    assert len(temporary) == 1
    hasty = Settings(maintenance_mode="off", lock_timeout_s=0.05)
    for attempt in (hasty, Settings(maintenance_mode="off", lock_timeout_s=0.0)):
        # In processes of their own: only the first write of a process sweeps.
        with pytest.raises(ChildFailedError) as caught:
            children.start(successor, str(store_path), attempt).result()
        assert isinstance(caught.value.error, LockTimeoutError)
        assert generation_of(SessionStore(store_path, attempt).load(), entries=2) == 1
    assert temporary_files(store_path) == temporary
    saver.tell("go on")
    saver.expect("saved")
    assert generation_of(SessionStore(store_path, SETTINGS).load(), entries=2) == 2


@pytest.mark.promise("WRITE4")
def test_files_that_only_look_alike_are_not_swept(children: Crew, store_path: Path) -> None:
    """WRITE4: a write removes and overwrites temporary files of this store only, not those of anybody else."""
    decoys = [
        "sessions.json.tmp",
        "sessions.json.0b4d1b9e-6a3e-4a55-9d0c-6f2f3d6f9a11.tmp",
        ".sessions.json.tmp",
        "sessions.json~",
        "sessions.json.lock",
        "sessions.json.bak.1774000000000",
        ".other.json.sessionstore-00112233445566ff.tmp",
        "notes.tmp",
    ]
    for name in decoys:
        store_path.with_name(name).write_text(f"mine: {name}")
    stray = store_path.with_name(".sessions.json.sessionstore-00112233445566ff.tmp")
    stray.write_bytes(b"{")
    SessionStore(store_path, SETTINGS).update(replacing({"a": {}}))
    assert children.start(successor, str(store_path)).result()
    assert {name: store_path.with_name(name).read_text() for name in decoys} == {
        name: f"mine: {name}" for name in decoys
    }
    assert not stray.exists()
