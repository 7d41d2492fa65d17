"""Adapters that only the tests of the verifier need: small programs with one property each.

They run inside simulated processes, so this module imports nothing but what the property needs.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading


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


class Outside:
    """Looks for another computer, and hides that it could not."""

    def __init__(self, root: str) -> None:
        self._root = root

    def call_home(self) -> str:
        """Try."""
        try:
            socket.socket()
        except Exception:
            return "nobody"
        return "somebody"
