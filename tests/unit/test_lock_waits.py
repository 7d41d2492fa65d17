"""Waits for the lock that are given up, taken over, or cannot be made: what is left of them, and who may go on."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest

from sessionstore import LockTimeoutError, SessionStore, Settings, lock, process
from tests.concurrency.crew import wait_until

WAIT_S = 60.0
PATIENT = Settings(maintenance_mode="off", lock_timeout_s=WAIT_S)
HASTY = Settings(maintenance_mode="off", lock_timeout_s=0.05)
ONE_TRY = Settings(maintenance_mode="off", lock_timeout_s=0.0)


class ForeignHolder:
    """Holds the lock as another process would: through an open file of its own."""

    def __init__(self, store_path: Path) -> None:
        self.descriptor = os.open(f"{store_path}.flock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def release(self) -> None:
        """Let the lock go."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def take_again(self) -> None:
        """Take it back; whoever waits before this one goes first."""
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)


@pytest.fixture
def holder(store_path: Path) -> Iterator[ForeignHolder]:
    """Another holder of the store's lock."""
    holder = ForeignHolder(store_path)
    yield holder
    os.close(holder.descriptor)


def waiting_threads() -> list[int]:
    """Threads of this process that wait in the kernel's queue. `threading` does not know them."""
    code = lock._KernelWait._wait.__code__
    return [number for number, frame in sys._current_frames().items() if code in _codes(frame)]


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def open_locks(store_path: Path) -> int:
    """How many descriptors of this process are open on the lock file."""
    wanted = os.stat(f"{store_path}.flock")
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that lists the directory
            continue
        found += os.path.samestat(status, wanted)
    return found


@pytest.mark.promise("LOCK2", "LOCK5")
def test_a_wait_that_was_given_up_lets_the_lock_go_when_it_comes(store_path: Path, holder: ForeignHolder) -> None:
    """Writers that timed out leave one thread at most, and when that gets the lock it frees it and closes its file."""
    for _ in range(3):
        with pytest.raises(LockTimeoutError):
            SessionStore(store_path, HASTY).save({"late": {}})
        assert len(waiting_threads()) == 1
    holder.release()
    wait_until(lambda: not waiting_threads(), what="the thread has ended")
    assert open_locks(store_path) == 1
    holder.take_again()
    assert not store_path.exists()


@pytest.mark.promise("LOCK2", "LOCK3")
def test_a_writer_takes_over_the_wait_of_one_that_timed_out(
    store_path: Path, holder: ForeignHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next writer of the process inherits the place in the kernel's queue and gets the lock through it."""
    with pytest.raises(LockTimeoutError):
        SessionStore(store_path, HASTY).save({"late": {}})
    joined = threading.Event()
    real = lock._KernelWait.take_into

    def take_into(wait: lock._KernelWait, taker: lock.WriteLock, timeout_s: float) -> bool:
        joined.set()
        return real(wait, taker, timeout_s)

    monkeypatch.setattr(lock._KernelWait, "take_into", take_into)
    writer = threading.Thread(target=SessionStore(store_path, PATIENT).save, args=({"next": {}},))
    writer.start()
    assert joined.wait(WAIT_S)
    assert len(waiting_threads()) == 1
    holder.release()
    writer.join(WAIT_S)
    assert list(SessionStore(store_path).load()) == ["next"]
    assert open_locks(store_path) == 1
    SessionStore(store_path, ONE_TRY).save({})


@pytest.mark.promise("LOCK1")
def test_a_process_without_another_thread_waits_by_polling(
    store_path: Path, holder: ForeignHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no thread can be started the lock is waited for all the same, within its timeout, and held when taken."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(lock._KernelWait, "start", refuse)
    with pytest.raises(LockTimeoutError):
        SessionStore(store_path, HASTY).save({"late": {}})
    holder.release()
    SessionStore(store_path, HASTY).save({"next": {}})
    assert list(SessionStore(store_path).load()) == ["next"]


@pytest.mark.promise("LOCK1")
def test_a_system_without_flock_is_excluded_by_filelock(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not know flock, `filelock` does the work instead of the write failing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        taken: list[lock.WriteLock] = []

        def acquire(writer: lock.WriteLock) -> None:
            taken.append(writer)

        patch.setattr(lock.WriteLock, "_acquire_filelock", acquire)
        SessionStore(store_path, ONE_TRY).save({"a": {}})
    assert len(taken) == 1
    assert list(SessionStore(store_path).load()) == ["a"]


@pytest.mark.promise("LOCK1")
def test_a_lock_file_that_is_a_symbolic_link_is_refused(store_path: Path, tmp_path: Path) -> None:
    """A link in the place of the lock file is neither followed nor replaced, and nothing is written."""
    elsewhere = tmp_path / "elsewhere"
    os.symlink(elsewhere, f"{store_path}.flock")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        SessionStore(store_path, ONE_TRY).save({"a": {}})
    assert not elsewhere.exists()
    assert not store_path.exists()


@pytest.mark.promise("LOCK1", "WRITE8")
@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o660, 0o660), (0o755, 0o644)])
def test_who_may_write_the_store_may_lock_it(store_path: Path, mode: int, expected: int) -> None:
    """A new lock file has the store's mode, without the right to execute it; before there is a store, 0600."""
    mask = os.umask(0)
    try:
        store_path.write_bytes(b"{}")
        os.chmod(store_path, mode)
        SessionStore(store_path, ONE_TRY).update(lambda draft: draft.update({"a": {}}))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(f"{store_path}.flock").st_mode) == expected


@pytest.mark.promise("LOCK1", "LOCK4")
def test_a_lock_that_is_held_is_not_forgotten_among_many(tmp_path: Path) -> None:
    """After more files than a process remembers locks of, a nested write of the first one still raises at once."""
    first = SessionStore(tmp_path / "first.json", ONE_TRY)
    held = process.PROCESS.path_lock(first.path)
    with first.edit() as draft:
        for number in range(2 * process.MAX_IDLE_LOCKS):
            process.PROCESS.path_lock(str(tmp_path / f"{number}.json"))
        assert process.PROCESS.path_lock(first.path) is held
        assert len(process.PROCESS._path_locks) <= process.MAX_IDLE_LOCKS
        draft["a"] = {}
    assert list(first.load()) == ["a"]


@pytest.mark.promise("LOCK2")
def test_the_error_of_a_timeout_says_how_long_it_was(store_path: Path, holder: ForeignHolder) -> None:
    """`waited_s` is what the call waited, in seconds, and the message says the same."""
    started_s = time.monotonic()
    with pytest.raises(LockTimeoutError) as caught:
        SessionStore(store_path, HASTY).save({})
    assert HASTY.lock_timeout_s <= caught.value.waited_s <= time.monotonic() - started_s
    assert f"{caught.value.waited_s:.3f} s" in str(caught.value)
    assert caught.value.holder_pid in {os.getpid(), None}


@pytest.mark.promise("LOCK2")
def test_only_who_holds_this_lock_is_named(
    store_path: Path, tmp_path: Path, holder: ForeignHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all locks that the system lists, waiters, other kinds and other files are not taken for the holder."""
    lock_path = f"{store_path}.flock"
    status = os.stat(lock_path)
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    lines = [
        f"1: POSIX  ADVISORY  READ 11 {inode} 0 EOF",
        f"2: FLOCK  ADVISORY  WRITE 12 {inode}9 0 EOF",
        f"3: -> FLOCK  ADVISORY  WRITE 13 {inode} 0 EOF",
        f"3: FLOCK  ADVISORY  WRITE 0 {inode} 0 EOF",
    ]
    listed = tmp_path / "locks"
    real = open
    monkeypatch.setattr("builtins.open", lambda _, **options: real(listed, **options))
    listed.write_text("\n".join(lines))
    assert lock.holder_pid(lock_path) is None
    listed.write_text("\n".join([*lines, f"4: FLOCK  ADVISORY  WRITE 14 {inode} 0 EOF"]))
    assert lock.holder_pid(lock_path) == 14


@pytest.mark.promise("LOCK3")
def test_threads_get_the_lock_in_the_order_in_which_they_asked(store_path: Path) -> None:
    """The queue inside a process is first in, first out."""
    store = SessionStore(store_path, PATIENT)
    queue = process.PROCESS.path_lock(str(store_path)).turns
    order: list[int] = []
    threads = [threading.Thread(target=store.update, args=(lambda _, n=n: order.append(n),)) for n in range(4)]
    with store.edit():
        for number, thread in enumerate(threads):
            thread.start()
            end = time.monotonic() + WAIT_S
            while len(queue) <= number:
                assert time.monotonic() < end
                time.sleep(0.001)
    for thread in threads:
        thread.join(WAIT_S)
    assert order == [0, 1, 2, 3]


@pytest.mark.promise("LOCK2")
def test_the_timeout_is_for_both_queues_together(
    store_path: Path, holder: ForeignHolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was waited for other threads is not granted again for other processes."""
    granted: list[float] = []

    def take_into(_wait: lock._KernelWait, _taker: lock.WriteLock, timeout_s: float) -> bool:
        granted.append(timeout_s)
        return False

    monkeypatch.setattr(lock._KernelWait, "take_into", take_into)
    writer = lock.WriteLock(str(store_path), lock.PathLock(), timeout_s=5.0)
    writer._started_ns -= 4_000_000_000  # waited for its turn
    with pytest.raises(LockTimeoutError):
        writer.acquire()
    assert [timeout_s <= 1.0 for timeout_s in granted] == [True]
