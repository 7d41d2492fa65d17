"""Adapters that only the tests of the verifier need: small programs with one property each.

They run inside simulated processes, so this module imports nothing but what the property needs.
"""

from __future__ import annotations

import _thread
import fcntl
import functools
import itertools
import os
import queue
import random
import secrets
import socket
import tempfile
import threading
import time
import uuid

import filelock

from storecheck import adapters, counterexample

SEEN: list[str] = []
LOCK = threading.Lock()
ODD_NUMBERS = itertools.count(3, 2)
COUNTDOWN = itertools.count(-1, -2)
next_number = itertools.count(1).__next__


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
        numbers = [next(counter) for counter in (ODD_NUMBERS, ODD_NUMBERS, COUNTDOWN, COUNTDOWN)]
        fresh = fresh and numbers == [3, 5, -1, -3] and (next_number(), threading.Thread().name) == (1, "Thread-1")
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


class Anything:
    """Small operations of all kinds, of one to three calls each; what goes wrong is part of the answer.

    They are for comparing searches: which of them an answer depends on is exactly what a reduction has to know.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen = -1
        self._remembered: dict[str, str | None] = {}
        self._number = 0

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    # Files

    def look(self, name: str) -> object:
        """Everything that `stat` tells."""
        try:
            status = os.stat(self._path(name))
        except OSError as error:
            return error.errno
        return [status.st_ino, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    def names(self) -> list[str]:
        """What is in the directory."""
        return os.listdir(self._root)

    def content(self, name: str) -> object:
        """What is in the file."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY)
        except OSError as error:
            return error.errno
        content = os.read(descriptor, 100).decode()
        os.close(descriptor)
        return content

    def remembered(self, name: str) -> object:
        """What was in the file when this process looked first: the shape of a cache that nothing corrects."""
        if name not in self._remembered:
            try:
                with open(self._path(name), encoding="ascii") as file:
                    self._remembered[name] = file.read()
            except FileNotFoundError:
                self._remembered[name] = None
        return self._remembered[name]

    def append(self, name: str, text: str, create: bool = True) -> object:
        """Add to the end of a file."""
        try:
            flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT if create else 0)
            descriptor = os.open(self._path(name), flags, 0o600)
        except OSError as error:
            return error.errno
        os.write(descriptor, text.encode())
        os.close(descriptor)
        return None

    def make(self, name: str) -> object:
        """A new file, and its inode number."""
        try:
            descriptor = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            return error.errno
        number = os.fstat(descriptor).st_ino
        os.close(descriptor)
        return number

    def hold(self, name: str) -> object:
        """Open a file, look elsewhere, and close it."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY)
        except OSError as error:
            return error.errno
        found = os.path.exists(self._path("elsewhere"))
        os.close(descriptor)
        return found

    def change(self, call: str, name: str, other: str = "") -> object:
        """One call that changes names or attributes."""
        path = self._path(name)
        calls = {
            "move": lambda: os.rename(path, self._path(other)),
            "link": lambda: os.link(path, self._path(other)),
            "symlink": lambda: os.symlink(other, path),
            "drop": lambda: os.unlink(path),
            "mkdir": lambda: os.mkdir(path),
            "rmdir": lambda: os.rmdir(path),
            "cut": lambda: os.truncate(path, 0),
            "touch": lambda: os.utime(path, ns=(5, 5)),
            "seal": lambda: os.chmod(path, 0),
        }
        try:
            calls[call]()
        except OSError as error:
            return error.errno
        return None

    # Locks

    def locked(self, name: str, kind: str, wait: bool) -> object:
        """Take a file lock, look at a file under it, and give the lock back."""
        take, operation = (fcntl.flock, fcntl.LOCK_EX) if kind == "flock" else (fcntl.lockf, fcntl.LOCK_EX)
        descriptor = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            take(descriptor, operation if wait else operation | fcntl.LOCK_NB)
            return self.content(name)
        except OSError as error:
            return error.errno
        finally:
            os.close(descriptor)

    # Time

    def now(self) -> list[int]:
        """Both clocks."""
        return [time.time_ns(), time.monotonic_ns()]

    def nap(self, seconds: float) -> int:
        """Sleep, and tell when it is over."""
        time.sleep(seconds)
        return time.monotonic_ns()

    def jump(self, seconds: int) -> None:
        """Set the wall clock."""
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + seconds * 10**9)

    # The memory of the process

    def exchange(self, number: int) -> int:
        """Read a number, look at the disk, and write another; without a lock."""
        before = self._number
        os.path.exists(self._path("elsewhere"))
        self._number = number
        return before

    def exchange_in_two_threads(self, timeout: float) -> list[object]:
        """A thread exchanges a number, and this one another; then this one waits for the thread, or gives up."""
        over = _thread.allocate_lock()
        over.acquire()

        def exchange_and_tell() -> None:
            self._seen = self.exchange(2)
            over.release()

        _thread.start_new_thread(exchange_and_tell, ())
        before = self.exchange(1)
        is_over = over.acquire(timeout=timeout)
        return [before, is_over, self._seen, self._number]

    def finish(self, pid: int, signal: int) -> object:
        """Send a signal to another process."""
        try:
            os.kill(pid, signal)
        except OSError as error:
            return error.errno
        return None


class Clumsy:
    """Threads whose `finally` blocks need what is no longer there when their process has ended."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "lock")
        self._condition = threading.Condition()
        self._names: dict[int, str] = {}

    def leave_threads_behind(self) -> bool:
        """End while one thread waits for a condition, one for a lock, one for a file lock, and one sleeps."""
        held = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        threads = (self._wait_for_condition, self._wait_for_file, self._sleep_in_condition)
        for work in threads:
            threading.Thread(target=work, daemon=True).start()
        time.sleep(1)
        return True

    def fail_in_thread(self) -> bool:
        """A thread fails while its process lives."""
        thread = threading.Thread(target=lambda: self._names[7])
        thread.start()
        thread.join()
        return True

    def _wait_for_condition(self) -> None:
        with self._condition:
            self._condition.wait()

    def _sleep_in_condition(self) -> None:
        with self._condition:
            try:
                self._names[threading.get_ident()] = "sleeps"
                time.sleep(100)
            finally:
                self._condition.notify_all()
                del self._names[threading.get_ident()]

    def _wait_for_file(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)


GENERATOR = random.Random()
"""Without a seed: that is the point."""

SEEDED = random.Random(7)


class Names:
    """Asks for randomness in all the ways there are."""

    def __init__(self, root: str) -> None:
        self._root = root

    def draw(self) -> list[str]:
        """What this process gets, of which no other should get any."""
        own = random.Random()
        with tempfile.NamedTemporaryFile(dir=self._root) as temporary:
            name = os.path.basename(temporary.name)
        drawn = [
            *(own.getrandbits(64), GENERATOR.getrandbits(64), random.getrandbits(64)),
            *(random.SystemRandom().getrandbits(64), secrets.token_hex(8), uuid.uuid4(), os.urandom(8).hex(), name),
        ]
        random.seed()
        return [*map(str, drawn), str(random.getrandbits(64))]

    def draw_seeded(self) -> list[float]:
        """What every process gets, from seeds in the code."""
        return [SEEDED.random(), random.Random(7).random()]


class Sleeper(adapters.Files):
    """Inherits all that it does from an adapter of the verifier's own."""

    def sleep_and_tell(self, seconds: float) -> float:
        """How long it took."""
        started = time.monotonic()
        self.sleep(seconds)
        return time.monotonic() - started


class InheritsFromTool(counterexample.CounterexampleError):
    """Inherits from a module of the verifier that is no code under test."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
