"""Adapters for plain files: foreign writers beside a store, and stores so simple that everybody knows their bugs.

`Files` does to files what programs other than the store do: rewrite in place, replace by rename, touch, delete. The
counters are three ways to add to a number in a file; two of them lose updates. They are examples of adapters, subjects
of the verifier's own tests, and the yardstick of its speed.
"""

from __future__ import annotations

import fcntl
import os
import time


class Files:
    """A process that works on files without regard to any lock."""

    def __init__(self, root: str) -> None:
        self._root = root

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def read(self, name: str) -> str | None:
        """The content, or None if there is no such file."""
        try:
            with open(self._path(name), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def rewrite(self, name: str, content: str, truncate: bool = True) -> None:
        """Write over the file where it is, as editors and `cp` do."""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if truncate else 0)
        descriptor = os.open(self._path(name), flags, 0o644)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)

    def replace(self, name: str, content: str) -> None:
        """Write a new file and rename it over the old one."""
        temporary = self._path(f"{name}.{os.getpid()}.new")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(temporary, self._path(name))

    def remove(self, name: str) -> None:
        """Delete the file if it is there."""
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            return

    def touch(self, name: str, mtime_ns: int) -> None:
        """Set the modification time, as `touch -r` and `cp -p` do."""
        os.utime(self._path(name), ns=(mtime_ns, mtime_ns))

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def set_wall_clock(self, delta_s: float) -> None:
        """Move the wall clock, as an administrator does."""
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + round(delta_s * 1e9))


class BareCounter:
    """Reads a number and writes it back increased, with nothing to protect it."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "counter")

    def add(self, amount: int = 1) -> int:
        """Add and tell the sum."""
        descriptor = os.open(self._path, os.O_RDONLY)
        value = int(os.read(descriptor, 64) or b"0") + amount
        os.close(descriptor)
        descriptor = os.open(self._path, os.O_WRONLY)
        os.write(descriptor, b"%d" % value)
        os.close(descriptor)
        return value


class RenamingCounter:
    """Publishes whole files by rename, which keeps readers happy and loses updates all the same."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "counter")

    def add(self, amount: int = 1) -> int:
        """Add and tell the sum."""
        with open(self._path, encoding="ascii") as file:
            value = int(file.read() or "0") + amount
        temporary = f"{self._path}.{os.getpid()}"
        with open(temporary, "x", encoding="ascii") as file:
            file.write(str(value))
        os.replace(temporary, self._path)
        return value


class LockedCounter(RenamingCounter):
    """The same, one at a time: holds a flock on a file that is never removed."""

    def add(self, amount: int = 1) -> int:
        """Add and tell the sum."""
        descriptor = os.open(f"{self._path}.flock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return super().add(amount)
        finally:
            os.close(descriptor)
