"""The ways to take one lock that are compared for fairness and for cost.

Each is a callable `hold(seconds)` on a lock file in a directory that all contenders share: it waits for the lock, keeps
it for `seconds`, frees it, and returns the monotonic time in nanoseconds at which it had the lock.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

Hold: TypeAlias = Callable[[float], int]

WAIT_LIMIT_S = 60.0


def hold_store(directory: str) -> Hold:
    """The store's own lock as a user meets it: an update that changes nothing, so it also opens and reads the file."""
    from sessionstore import SessionStore, Settings

    store = SessionStore(os.path.join(directory, "sessions.json"), Settings(lock_timeout_s=WAIT_LIMIT_S))

    def hold(seconds: float) -> int:
        return store.update(lambda _draft: _keep(seconds)).result

    return hold


def hold_filelock(directory: str, *, poll_interval_s: float | None = None) -> Hold:
    """`filelock.FileLock` with its default poll interval, or another."""
    from filelock import FileLock

    lock = FileLock(os.path.join(directory, "filelock.lock"), timeout=WAIT_LIMIT_S)

    def hold(seconds: float) -> int:
        with lock.acquire(poll_interval=poll_interval_s) if poll_interval_s is not None else lock.acquire():
            return _keep(seconds)

    return hold


def hold_flock(directory: str) -> Hold:
    """One blocking flock(2) on a kept descriptor: the floor, and without a timeout."""
    import fcntl

    descriptor = os.open(os.path.join(directory, "flock.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def hold(seconds: float) -> int:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            return _keep(seconds)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    return hold


LOCKS: Mapping[str, Callable[[str], Hold]] = {
    "sessionstore": hold_store,
    "filelock, default poll": hold_filelock,
    "filelock, 1 ms poll": lambda directory: hold_filelock(directory, poll_interval_s=0.001),
    "flock alone": hold_flock,
}


def _keep(seconds: float) -> int:
    got_ns = time.monotonic_ns()
    if seconds:
        time.sleep(seconds)
    return got_ns
