"""Adapters that only the tests of the verifier need: small programs with one property each.

They run inside simulated processes, so this module imports nothing but what the property needs.
"""

from __future__ import annotations

import fcntl
import functools
import os
import queue
import socket
import threading
import time

import filelock

SEEN: list[str] = []
LOCK = threading.Lock()


@functools.cache
def remembered() -> list[str]:
    """A cache that must not survive a run."""
    return []


def answer() -> int:
    """The answer, unless a bug is planted."""
    return 41 + 1


class TwoLocks:
    """Takes two file locks, one after the other."""

    def __init__(self, root: str) -> None:
        self._root = root

    def both(self, first: str, second: str) -> None:
        """Hold both for a moment."""
        descriptors = []
        for name in (first, second):
            descriptor = os.open(os.path.join(self._root, name), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            descriptors.append(descriptor)
        for descriptor in descriptors:
            os.close(descriptor)


class ThreadLocks:
    """Takes two locks of its own process."""

    def __init__(self, root: str) -> None:
        self._locks = (threading.Lock(), threading.Lock())

    def both(self, first: int, second: int) -> None:
        """Hold both for a moment."""
        with self._locks[first], self._locks[second]:
            return

    def hold(self, seconds: float) -> bool:
        """Keep the first lock for a while."""
        with self._locks[0]:
            time.sleep(seconds)
        return True

    def give_up(self, timeout: float) -> bool:
        """Wait for the first lock; either it is free, or the time runs out in time."""
        started = time.monotonic()
        taken = self._locks[0].acquire(timeout=timeout)
        if taken:
            self._locks[0].release()
        return taken or timeout <= time.monotonic() - started < timeout + 1


class Outside:
    """Looks for another computer, and hides that it could not."""

    def __init__(self, root: str) -> None:
        self._root = root

    def call_home(self) -> str:
        """Try."""
        try:
            socket.socket()
        except Exception:  # noqa: BLE001 - hiding it is the point
            return "nobody"
        return "somebody"


class Globals:
    """Leaves its mark in everything a module can hold."""

    def __init__(self, root: str) -> None:
        self._root = root

    def first_time(self) -> bool:
        """Whether nobody was here before."""
        fresh = not SEEN and not remembered() and not LOCK.locked() and os.environ.get("MARK") is None
        SEEN.append("here")
        remembered().append("here")
        LOCK.acquire()
        os.environ["MARK"] = "here"
        return fresh and os.umask(0) == 0o022


class Threads:
    """Uses `threading` in all the usual ways."""

    def __init__(self, root: str) -> None:
        self._root = root

    def all_of_it(self) -> bool:
        """True if everything did what it should."""
        own = threading.local()
        own.value = "main"
        done: queue.Queue[str] = queue.Queue()
        started = threading.Event()
        condition = threading.Condition()

        def work(name: str) -> None:
            own.value = name
            started.wait()
            with condition:
                condition.notify_all()
            done.put(own.value)

        threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        timer = threading.Timer(5, started.set)
        timer.start()
        with condition:
            condition.wait(timeout=10)
        for thread in threads:
            thread.join()
        timer.join()
        names = sorted(done.get(timeout=1) for _ in threads)
        return names == ["a", "b"] and own.value == "main" and threading.active_count() == 1


class FilelockCounter:
    """Counts under filelock."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "counter")
        self._lock = filelock.FileLock(f"{self._path}.flock")

    def add(self) -> int:
        """Add one."""
        with self._lock:
            with open(self._path, encoding="ascii") as file:
                value = int(file.read()) + 1
            with open(self._path, "w", encoding="ascii") as file:
                file.write(str(value))
        return value


class Finally:
    """Holds a lock and says so in a `finally` block."""

    def __init__(self, root: str) -> None:
        self._root = root

    def work(self) -> bool:
        """Lock, then log on the way out."""
        descriptor = os.open(f"{self._root}/lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.stat(f"{self._root}/log")
            os.stat(f"{self._root}/log")
        finally:
            log = os.open(f"{self._root}/log", os.O_WRONLY | os.O_APPEND)
            os.write(log, b"finally\n")
            os.close(log)
            os.close(descriptor)
        return True


class Finalizer:
    """Writes a file when an object of it is collected."""

    def __init__(self, root: str) -> None:
        self._root = root

    def leave(self) -> bool:
        """Leave an object that nothing but a finished process refers to."""
        SEEN.append(Trace(self._root))  # type: ignore[arg-type]
        return True


class Trace:
    """Leaves a trace when it goes."""

    def __init__(self, root: str) -> None:
        self._path = f"{root}/trace"

    def __del__(self) -> None:
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
