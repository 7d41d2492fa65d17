"""The write lock, seen from other processes: who may write, who waits, and what ends a wait.

Goal: LOCK1 and LOCK2. Holders are real processes; the foreign ones use `filelock`, as other programs do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from sessionstore import Draft, LockTimeoutError, SessionStore, Settings
from tests.concurrency.children import editor, foreign_holder, single_writer
from tests.concurrency.crew import WAIT_S, Crew, lock_waiters, wait_until
from tests.concurrency.payload import SETTINGS

HOUR_NS = 3_600_000_000_000


WRITES: dict[str, Callable[[SessionStore], object]] = {
    "update": lambda store: store.update(Draft.clear),
    "save": lambda store: store.save({}),
    "edit": lambda store: store.edit().__enter__(),
}


@pytest.fixture
def lock_path(store_path: Path) -> str:
    """The lock file of the store."""
    return f"{store_path}.flock"


def store_with_timeout(path: Path, timeout_s: float) -> SessionStore:
    """A store that gives up after that long."""
    return SessionStore(path, Settings(maintenance_mode="off", lock_timeout_s=timeout_s))


def state_of(path: Path) -> tuple[bytes, int, int]:
    """Content and identity of a file."""
    status = os.stat(path)
    return path.read_bytes(), status.st_ino, status.st_mtime_ns


@pytest.mark.promise("LOCK1", "LOCK2")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("timeout_s", [0.0, 0.15])
def test_a_foreign_holder_keeps_every_writer_out(
    children: Crew, store_path: Path, lock_path: str, write: str, timeout_s: float
) -> None:
    """LOCK1, LOCK2: while filelock holds `<file>.flock` nothing is written, and the error says who does."""
    SessionStore(store_path, SETTINGS).save({"a": {"n": 1}})
    before = state_of(store_path)
    holder = children.start(foreign_holder, lock_path)
    holder.expect("held")
    store = store_with_timeout(store_path, timeout_s)
    with pytest.raises(LockTimeoutError) as caught:
        WRITES[write](store)
    assert (caught.value.path, caught.value.holder_pid) == (str(store_path), holder.pid)
    assert timeout_s <= caught.value.waited_s < WAIT_S
    assert state_of(store_path) == before
    holder.tell("let go")
    holder.expect("free")
    store.save({})
    assert store_path.read_bytes() == b"{}"


@pytest.mark.promise("LOCK1")
def test_an_edit_keeps_filelock_out(children: Crew, store_path: Path, lock_path: str) -> None:
    """LOCK1: while an edit goes on in one process, filelock in another cannot take the lock, and then it can."""
    holder = children.start(editor, str(store_path), "k")
    holder.expect("held")
    foreign = filelock.FileLock(lock_path)
    with pytest.raises(filelock.Timeout):
        foreign.acquire(timeout=0)
    holder.tell("end")
    holder.expect("free")
    with foreign.acquire(timeout=0):
        assert SessionStore(store_path, SETTINGS).load()["k"] == {"by": holder.pid}


@pytest.mark.promise("LOCK1")
@pytest.mark.parametrize("write", ["update", "edit"])
def test_the_lock_is_held_while_a_mutator_works(store_path: Path, lock_path: str, write: str) -> None:
    """LOCK1: from before the mutator sees the content until it is published, nobody else gets the lock."""
    store = SessionStore(store_path, SETTINGS)

    def mutator(draft: Draft) -> None:
        draft["k"] = {}
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(lock_path).acquire(timeout=0)

    if write == "update":
        store.update(mutator)
    else:
        with store.edit() as draft:
            mutator(draft)
    assert list(store.load()) == ["k"]


@pytest.mark.promise("LOCK1", "WRITE1", "SNAP1", "SNAP2")
def test_a_waiting_update_starts_from_what_the_holder_wrote(children: Crew, store_path: Path, lock_path: str) -> None:
    """LOCK1, WRITE1, SNAP1, SNAP2: an update that had to wait reads after its wait, whatever base it was given."""
    store = SessionStore(store_path, SETTINGS)
    base = store.save({"a": {"n": 1}})
    for kept in (None, base):
        SessionStore(store_path, SETTINGS).save({"a": {"n": 1}})
        holder = children.start(editor, str(store_path), "holder")
        holder.expect("held")
        done: list[bool] = []

        def update(kept: object = kept, done: list[bool] = done) -> None:
            done.append(store.update(lambda draft: draft.update({"mine": {}}), base=kept).written)  # type: ignore[arg-type]

        waiting = threading.Thread(target=update, daemon=True)
        waiting.start()
        wait_until(lambda: lock_waiters(lock_path) == 1, what="the update waits for the lock")
        holder.tell("end")
        holder.expect("free")
        waiting.join(WAIT_S)
        assert done == [True], "the update failed or still waits"
        assert set(SessionStore(store_path, SETTINGS).load()) == {"a", "holder", "mine"}


@pytest.mark.promise("LOCK2")
@pytest.mark.parametrize("holder_kind", ["foreign", "store"])
def test_a_slow_holder_keeps_its_lock(children: Crew, store_path: Path, lock_path: str, holder_kind: str) -> None:
    """LOCK2: however old the lock is, and however often others give up, it stays with its living holder."""
    SessionStore(store_path, SETTINGS).save({"a": {"n": 1}})
    if holder_kind == "foreign":
        holder = children.start(foreign_holder, lock_path)
    else:
        holder = children.start(editor, str(store_path), "slow")
    holder.expect("held")
    # As if it had been held since an hour ago.
    hour_ago_ns = time.time_ns() - HOUR_NS
    os.utime(lock_path, ns=(hour_ago_ns, hour_ago_ns))
    before = state_of(store_path)
    lock_inode = os.stat(lock_path).st_ino
    for timeout_s in (0.0, 0.05, 0.1):
        with pytest.raises(LockTimeoutError):
            store_with_timeout(store_path, timeout_s).update(lambda draft: draft.update({"thief": {}}))
    assert state_of(store_path) == before
    assert os.stat(lock_path).st_ino == lock_inode, "the lock file was replaced"
    holder.tell("end")
    holder.expect("free")
    expected = {"a", "slow"} if holder_kind == "store" else {"a"}
    assert set(SessionStore(store_path, SETTINGS).load()) == expected


@pytest.mark.promise("LOCK2")
@pytest.mark.parametrize("holder_kind", ["foreign", "store"])
def test_the_lock_of_a_dead_holder_is_free_at_once(
    children: Crew, store_path: Path, lock_path: str, holder_kind: str
) -> None:
    """LOCK2: after SIGKILL of the holder the next writer gets the lock with its first try."""
    SessionStore(store_path, SETTINGS).save({"a": {"n": 1}})
    if holder_kind == "foreign":
        holder = children.start(foreign_holder, lock_path)
    else:
        holder = children.start(editor, str(store_path), "dead")
    holder.expect("held")
    holder.kill()
    store_with_timeout(store_path, 0.0).update(lambda draft: draft.update({"next": {}}))
    assert set(SessionStore(store_path, SETTINGS).load()) == {"a", "next"}


@pytest.mark.promise("LOCK1")
def test_the_lock_file_stays_and_holds_nothing(children: Crew, store_path: Path, lock_path: str) -> None:
    """LOCK1: writes of several processes leave one and the same empty lock file behind."""
    SessionStore(store_path, SETTINGS).save({})
    first = os.stat(lock_path)
    children.race([(single_writer, (str(store_path), f"k{number}", WAIT_S)) for number in range(3)])
    after = os.stat(lock_path)
    assert (after.st_ino, after.st_size, after.st_nlink) == (first.st_ino, 0, 1)


@pytest.mark.promise("LOCK1")
def test_another_programs_lock_file_is_left_alone(store_path: Path) -> None:
    """LOCK1: `<file>.lock` belongs to a protocol that is not ours: it neither stops a write nor is it touched."""
    foreign = store_path.with_name("sessions.json.lock")
    foreign.write_text('{"pid": 1, "createdAt": "2026-11-22T00:00:00.000Z"}')
    before = state_of(foreign)
    store_with_timeout(store_path, 0.0).update(lambda draft: draft.update({"k": {}}))
    assert state_of(foreign) == before


@pytest.mark.promise("LOCK1")
def test_a_lock_file_that_was_replaced_while_waiting_excludes_no_less(
    children: Crew, store_path: Path, lock_path: str
) -> None:
    """LOCK1: who waited for a lock file that a foreign cleaner unlinked meanwhile takes the lock on the new one."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": 1}})
    old_holder = children.start(foreign_holder, lock_path)
    old_holder.expect("held")
    updated: list[bool] = []

    def update() -> None:
        updated.append(store.update(lambda draft: draft.update({"mine": {}})).written)

    waiting = threading.Thread(target=update, daemon=True)
    waiting.start()
    wait_until(lambda: lock_waiters(lock_path) == 1, what="the update waits for the lock")
    os.unlink(lock_path)
    new_holder = children.start(foreign_holder, lock_path)
    new_holder.expect("held")
    old_holder.tell("let go")
    old_holder.expect("free")
    wait_until(lambda: lock_waiters(lock_path) == 1, what="the update waits for the new lock file")
    assert not updated, "an update went on although another process held the lock"
    new_holder.tell("let go")
    new_holder.expect("free")
    waiting.join(WAIT_S)
    assert updated == [True], "the update failed or still waits"
