"""Adapters of `test_remembering`: their code tells that it was executed."""

from __future__ import annotations

import fcntl
import os
import time

from tests.storecheck import outside_state


class Told:
    """Reads and writes as a deterministic program does, and leaves a note outside that it was executed."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "counter")

    def add(self) -> int:
        """Add one, with nothing to protect it."""
        outside_state.EXECUTED.append("add")
        descriptor = os.open(self._path, os.O_RDWR)
        value = int(os.read(descriptor, 64)) + 1
        os.pwrite(descriptor, b"%d" % value, 0)
        os.close(descriptor)
        return value

    def watch(self) -> None:
        """Look at the clock and the file."""
        for _ in range(3):
            time.monotonic_ns()
            os.stat(self._path)

    def lock_closed(self) -> str:
        """Lock a file that is closed: the error comes of the call, and not before others have had their turn."""
        with open(self._path, "rb") as stream:
            pass
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except ValueError as error:
            return str(error)
        return "locked"

    def scatter(self) -> str:
        """Read into a buffer, so that the answer of the call is not all that it does."""
        outside_state.EXECUTED.append("scatter")
        descriptor = os.open(self._path, os.O_RDONLY)
        buffer = bytearray(8)
        taken = os.readv(descriptor, [buffer])
        os.close(descriptor)
        return buffer[:taken].decode()


class Unsteady:
    """Lets state from outside decide what it does."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "counter")

    def _times(self) -> int:
        outside_state.EXECUTED.append("unsteady")
        return len(outside_state.EXECUTED)

    def other_call(self) -> None:
        """Another call each time."""
        if self._times() % 3 == 1:
            os.stat(self._path)
        else:
            os.access(self._path, os.R_OK)

    def other_argument(self) -> None:
        """The same call with another argument."""
        os.access(f"{self._path}{self._times()}", os.R_OK)

    def other_result(self) -> int:
        """The same calls, another result."""
        os.access(self._path, os.R_OK)
        return self._times()
