"""The write lock: one writer at a time per file, over threads, tasks and processes.

Two queues in a row. Inside a process, writers of one file form a first-in-first-out queue here; the head of it takes
an advisory `flock` on `<store file>.flock`, waiting in the kernel's own queue, which is fair where polling is not
(measured with 8 writers: Jain index 0.999 against 0.217). A wait in the kernel cannot be given a time limit, so a
thread of ours does the waiting and the caller stops listening when its time is over.

The lock file is never unlinked and never holds anything; the kernel frees the lock when its holder dies. So there is
nothing to steal, whatever a holder's age. Not a lock for readers: they need none. `filelock.FileLock` on the same path
excludes and is excluded; it also does the work where there is no `flock`.
"""

from __future__ import annotations

import _thread
import collections
import contextlib
import contextvars
import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from sessionstore.errors import LockTimeoutError, ReentrantUpdateError, StoreError
from sessionstore.mutex import Mutex

if TYPE_CHECKING:
    import filelock

if sys.platform != "win32":
    import fcntl

LOCK_SUFFIX = ".flock"
"""Not `.lock`: that name belongs to the protocol of another program, which creates and unlinks it."""

HANDOVER_NS = 200_000
HANDOVER_PAUSE_S = 0.0001
"""A writer that comes back within `HANDOVER_NS` of its release pauses first. Waiters in the kernel's queue are only
woken by a release; without the pause a tight loop takes the lock again before they run (p99 wait 73 against 25 ms)."""

_LOST_WAKE_S = 1.0  # how long a waiter may sleep before it looks by itself whether its turn came

MAX_REOPENS = 100  # a lock file that a foreign cleaner unlinks is opened again, not for ever

_FILELOCK_POLL_S = 0.001


Owner = tuple[int, "object | None"]
"""Who holds a lock: the thread's identifier and the task in it, if any."""


class _Turn:
    """One writer's place in the queue of its process."""

    __slots__ = ("granted", "owner", "wake")

    def __init__(self, owner: Owner, wake: Callable[[], object]) -> None:
        self.owner = owner
        self.wake = wake
        self.granted = False


class PathLock:
    """What the writers of one file in this process share. Made by `process`, one per resolved path."""

    __slots__ = ("holder", "kernel_wait", "mutex", "owner", "released_ns", "turns")

    def __init__(self) -> None:
        self.mutex = Mutex()
        self.turns: collections.deque[_Turn] = collections.deque()
        self.owner: Owner | None = None
        self.holder: WriteLock | None = None
        self.kernel_wait: _KernelWait | None = None
        self.released_ns: int | None = None

    def is_idle(self) -> bool:
        """Whether forgetting this object changes nothing for anyone."""
        return self.owner is None and not self.turns and self.kernel_wait is None

    def close_after_fork(self) -> None:
        """In a forked child: close what was inherited, without unlocking, because the lock is the parent's."""
        descriptors = [] if self.holder is None else [self.holder.descriptor]
        if self.kernel_wait is not None:
            descriptors.append(self.kernel_wait.inherited_descriptor())
        for descriptor in descriptors:
            if descriptor is not None:
                with contextlib.suppress(OSError):  # closed in the parent at the very moment of the fork
                    os.close(descriptor)


class _KernelWait:
    """A thread that waits in the kernel's queue for the lock on a descriptor.

    Nobody listening any more (`abandon`) means that it gives the lock back as soon as it gets it; until then a later
    writer of this process may listen again, so that at most one thread per file waits.

    Made of locks alone, which no signal handler finds half taken (see `mutex`): one that raises inside
    `threading.Condition` or `Thread` leaves their inner lock held for good, or released twice.
    """

    __slots__ = ("_descriptor", "_error", "_listening", "_mutex", "_over", "_state")

    def __init__(self, descriptor: int) -> None:
        self._mutex = Mutex()
        self._over = threading.Lock()  # free once the wait is over; who gets it gives it back
        self._descriptor = descriptor
        self._error: OSError | None = None
        self._listening = True
        self._state: Literal["waiting", "granted", "over"] = "waiting"

    def start(self) -> None:
        """Begin to wait. Raises `RuntimeError` if no thread can be started."""
        self._over.acquire()
        _thread.start_new_thread(self._wait, ())

    def _wait(self) -> None:
        error: OSError | None = None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as caught:
            error = caught
        with self._mutex:
            self._error = error
            if self._listening and error is None:
                self._state = "granted"
            else:
                self._state = "over"
                _unlock(self._descriptor)
                with contextlib.suppress(OSError):
                    os.close(self._descriptor)
        self._over.release()

    def listen_again(self) -> bool:
        """Whether the wait still goes on; then this caller is the one it goes on for."""
        with self._mutex:
            self._listening = self._state == "waiting"
            return self._listening

    def take_into(self, lock: WriteLock, timeout_s: float) -> bool:
        """Give the locked descriptor to `lock`; False if the time was over first. Raises what flock raised."""
        end_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        while True:
            with self._mutex:
                if self._error is not None:
                    raise self._error
                if self._state == "granted":
                    # No call between these lines, so no signal handler: the descriptor always belongs to one of the
                    # two.
                    lock.descriptor = self._descriptor
                    self._state = "over"
                    return True
                if self._state == "over":
                    return False
            rest_s = (end_ns - time.monotonic_ns()) / 1e9
            if rest_s <= 0:
                return False
            # In slices: one who was interrupted between these two calls leaves it taken.
            if self._over.acquire(timeout=min(rest_s, _LOST_WAKE_S)):
                self._over.release()

    def abandon(self) -> bool:
        """Stop listening. True if nothing is left of the wait, False if its thread still waits."""
        with self._mutex:
            self._listening = False
            if self._state == "granted":
                self._state = "over"
                try:
                    _unlock(self._descriptor)
                finally:
                    try:  # noqa: SIM105 - as in `WriteLock`
                        os.close(self._descriptor)
                    except OSError:
                        pass
            return self._state == "over"

    def inherited_descriptor(self) -> int | None:
        return self._descriptor if self._state == "waiting" else None


_taken_here: contextvars.ContextVar[tuple[WriteLock, ...]] = contextvars.ContextVar("sessionstore_taken", default=())
"""Locks that were taken in this context. It follows a task into `asyncio.to_thread`, and outlives the lock in the
contexts of tasks and threads that were started meanwhile."""


def _current_task() -> object | None:
    # A program without asyncio has no tasks, and need not pay for importing it. The attribute may be missing while
    # another thread is doing just that.
    current_task = getattr(sys.modules.get("asyncio"), "current_task", None)
    if current_task is None:
        return None
    try:
        task: object | None = current_task()
        return task
    except RuntimeError:
        return None


_NOBODY: Owner = (0, None)  # no thread has this number


def _current_owner() -> Owner:
    return (threading.get_ident(), _current_task())


class WriteLock:
    """One acquisition of the write lock of one file; not reusable.

    `release` gives back whatever was acquired, also half of it, any number of times: callers put it into a `finally`
    that an exception may interrupt.
    """

    __slots__ = (
        "_entered",
        "_filelock",
        "_lock_path",
        "_owner",
        "_path",
        "_path_lock",
        "_pid",
        "_started_ns",
        "_timeout_s",
        "descriptor",
    )

    def __init__(self, path: str, path_lock: PathLock, *, timeout_s: float) -> None:
        """Prepare; takes nothing yet.

        Args:
            path: the resolved store file, in an existing directory.
            path_lock: what this process's writers of the file share.
            timeout_s: seconds to wait altogether; 0 tries once.
        """
        self._path = path
        self._lock_path = path + LOCK_SUFFIX
        self._timeout_s = timeout_s
        self._started_ns = time.monotonic_ns()
        self._pid = os.getpid()
        self._owner = _current_owner()
        self._path_lock = path_lock
        self._entered: _Turn | None = None
        self.descriptor: int | None = None
        self._filelock: filelock.BaseFileLock | None = None

    @property
    def is_of_this_process(self) -> bool:
        """False in a forked child: the lock is its parent's."""
        return os.getpid() == self._pid

    def is_held_on(self, path: str) -> bool:
        """Whether this is the lock of `path` and this process holds it."""
        return self._entered is not None and self._path == path and self.is_of_this_process

    def acquire(self) -> None:
        """Wait for the lock.

        Raises:
            LockTimeoutError: the time was over. Nothing is held.
            ReentrantUpdateError: this thread or task holds it already.
            OSError: the lock file cannot be opened or locked.
        """
        try:
            gate = threading.Lock()
            gate.acquire()
            turn = _Turn(self._owner, gate.release)
            if not self._enter(turn, blocks_thread=True):
                # In slices: a releasing thread may be interrupted between granting the turn and waking its owner.
                while not gate.acquire(timeout=min(self._remaining_s(), _LOST_WAKE_S)):
                    if self._is_over(turn):
                        break
            self.acquire_from_kernel()
            self.note_held()
        except BaseException:
            self.release()
            raise

    async def acquire_turn(self) -> None:
        """Wait for this process's turn without blocking the event loop; `acquire_from_kernel` comes next."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            # The loop may have been closed by a program that is ending; its task will never run again.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))

        turn = _Turn(self._owner, wake)
        try:
            if not self._enter(turn, blocks_thread=False):
                while True:
                    await asyncio.wait((future,), timeout=min(self._remaining_s(), _LOST_WAKE_S))
                    if future.done() or self._is_over(turn):
                        break
        except BaseException:
            self.release()
            raise

    def _enter(self, turn: _Turn, *, blocks_thread: bool) -> bool:
        """Take the process's turn at once, or queue for it."""
        shared = self._path_lock
        # A worker thread of a task that holds the lock would wait for its own task: it has the context but no task.
        if _current_task() is None and any(lock.is_held_on(self._path) for lock in _taken_here.get()):
            raise ReentrantUpdateError(self._path)
        with shared.mutex:
            ahead = [] if shared.owner is None else [shared.owner, *(waiting.owner for waiting in shared.turns)]
            if any(owner == self._owner or (blocks_thread and owner[0] == self._owner[0]) for owner in ahead):
                # Also for another task of this thread: blocking the thread would keep that task from ever releasing.
                raise ReentrantUpdateError(self._path)
            self._entered = turn
            if shared.owner is None and not shared.turns:
                turn.granted = True
                shared.owner = turn.owner
                shared.holder = self
                return True
            shared.turns.append(turn)
            return False

    def _is_over(self, turn: _Turn) -> bool:
        """Whether the turn came after all; raises if there is no time left to wait for it."""
        with self._path_lock.mutex:
            if turn.granted:
                return True
        if self._remaining_s() == 0:
            raise self._timeout_error()
        return False

    def _leave(self) -> None:
        turn, shared = self._entered, self._path_lock
        if turn is None:
            return
        with shared.mutex:
            if not turn.granted:
                with contextlib.suppress(ValueError):
                    shared.turns.remove(turn)
                self._entered = None
            elif shared.turns:
                # No call between these lines, so no signal handler: an interrupted release runs again and must find
                # the turn handed over completely or not at all.
                successor = shared.turns[0]
                del shared.turns[0]
                shared.owner = successor.owner
                shared.holder = None
                successor.granted = True
                self._entered = None
                successor.wake()
            else:
                shared.owner = None
                shared.holder = None
                self._entered = None

    def _remaining_s(self) -> float:
        return max(0.0, self._timeout_s - (time.monotonic_ns() - self._started_ns) / 1e9)

    def _timeout_error(self) -> LockTimeoutError:
        waited_s = (time.monotonic_ns() - self._started_ns) / 1e9
        return LockTimeoutError(self._path, waited_s, holder_pid(self._lock_path))

    def acquire_from_kernel(self) -> None:
        """Take the lock against other processes, the turn in this one being had. Blocks up to the timeout."""
        self._path_lock.holder = self
        if sys.platform == "win32":
            self._acquire_filelock()
            return
        self._let_waiters_run()
        for _ in range(MAX_REOPENS):
            try:
                locked = self._lock_descriptor()
            except OSError as error:
                if error.errno != errno.ENOSYS:
                    raise
                self._give_back()
                locked = False
            if not locked or self.descriptor is None:
                self._acquire_filelock()
                return
            if _is_file_at(self.descriptor, self._lock_path):
                return
            # Someone unlinked the lock file while this process waited: the lock is on a file that no one else sees.
            self._give_back()
        raise StoreError(
            f"{self._lock_path}: replaced {MAX_REOPENS} times while waiting for it. Leave the file in place."
        )

    def _let_waiters_run(self) -> None:
        released_ns = self._path_lock.released_ns
        if released_ns is not None and time.monotonic_ns() - released_ns < HANDOVER_NS:
            time.sleep(HANDOVER_PAUSE_S)

    def _lock_descriptor(self) -> bool:
        """Set `descriptor` to a locked one; False if this process cannot start a thread to wait with."""
        shared = self._path_lock
        pending = shared.kernel_wait
        if pending is None or not pending.listen_again():
            shared.kernel_wait = None
            self.descriptor = os.open(
                self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _lock_file_mode(self._path)
            )
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._timeout_s == 0:
                    raise self._timeout_error() from None
            else:
                return True
            pending = _KernelWait(self.descriptor)
            try:
                pending.start()
            except RuntimeError:
                # The interpreter is ending, or the process has all the threads it may have.
                self._give_back()
                return False
            except BaseException:
                self.descriptor = None
                pending.abandon()
                raise
            self.descriptor = None  # the waiting thread's now
            shared.kernel_wait = pending
        try:
            if pending.take_into(self, self._remaining_s()):
                return True
            raise self._timeout_error()
        finally:
            # Given up, it may still wait for the lock: the next writer of this process then joins it.
            if pending.abandon():
                shared.kernel_wait = None

    def _acquire_filelock(self) -> None:
        import filelock

        lock = filelock.FileLock(self._lock_path, timeout=self._remaining_s(), thread_local=False)
        self._filelock = lock
        try:
            lock.acquire(poll_interval=_FILELOCK_POLL_S)
        except filelock.Timeout:
            raise self._timeout_error() from None

    def adopt_owner(self) -> None:
        """Make the caller's thread and task the owner, in the place of those that made this object."""
        self._owner = _current_owner()

    def disown(self) -> None:
        """Belong to no thread and no task any more: whoever wants the lock waits until it is released.

        For a task that ends while a thread works for it: a write that the task's thread begins next is not inside it.
        """
        with self._path_lock.mutex:
            if self._entered is not None and self._entered.granted:
                self._path_lock.owner = _NOBODY

    def note_held(self) -> None:
        """Remember in the caller's context that the lock is held, so that a nested write is noticed."""
        _taken_here.set((*_taken_here.get(), self))

    def release(self) -> None:
        """Give back what is held. Does nothing in a forked child, whose parent holds it still."""
        if not self.is_of_this_process:
            return
        try:
            self._give_back()
        finally:
            _taken_here.set(tuple(lock for lock in _taken_here.get() if lock is not self))
            self._leave()

    def _give_back(self) -> None:
        if self._filelock is not None:
            self._filelock.release()
            self._filelock = None
        if self.descriptor is None:
            return
        self._path_lock.released_ns = time.monotonic_ns()
        # Forgotten first, with nothing between that line and `try` where a signal handler could run: an interrupted
        # release runs again, and must not close a number that may by then be another file.
        descriptor = self.descriptor
        self.descriptor = None
        try:
            _unlock(descriptor)
        finally:
            # The call itself, not a function of ours around it: at whose entry a signal handler could raise.
            try:  # noqa: SIM105
                os.close(descriptor)
            except OSError:
                pass


# Errors of unlocking and closing end here: the lock is free in any case, since Linux closes a descriptor also when it
# reports an error, and what was written under the lock must not be reported as failed.


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        # Explicitly: closing alone frees nothing while a forked child holds the same open file.
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_file_mode(path: str) -> int:
    # Whoever may write the store must be able to lock it.
    try:
        return os.stat(path).st_mode & 0o666
    except FileNotFoundError:
        return 0o600


def _is_file_at(descriptor: int, path: str) -> bool:
    here = os.fstat(descriptor)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def holder_pid(lock_path: str) -> int | None:
    """The process that holds the lock, where Linux's /proc/locks tells (proc(5)); else None. For messages only."""
    try:
        status = os.stat(lock_path)
        with open("/proc/locks", encoding="ascii") as locks:
            lines = locks.read(1_000_000).splitlines()
    except OSError:
        return None
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        words = line.split()
        # "1: FLOCK  ADVISORY  WRITE 4121 fe:00:131 0 EOF"; waiters have "->" as their second word.
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == wanted and int(words[4]) > 0:
            return int(words[4])
    return None
