"""Child processes of a test: started, talked to, and ended, with a bound on every wait.

A child is one function run in a process of its own (forkserver: no inherited threads or locks). It talks to the test
over a pipe: `say` and `hear` on its side, `expect` and `tell` on the test's. Whatever it raises comes back as
`ChildFailedError` with its traceback. Leaving the `with` block ends every child that the crew started, and no other
process. Not a pool: each child has one task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import multiprocess

WAIT_S = 60.0
"""For one message or one exit. Everything here takes milliseconds; the rest is room for a loaded machine."""

CONTEXT = multiprocess.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.concurrency.children"])


class ChildFailedError(AssertionError):
    """A child raised, or died without a word. `error` is what it raised, if it said so."""

    def __init__(self, message: str, error: BaseException | None = None) -> None:
        super().__init__(message)
        self.error = error


class Channel:
    """A child's side of its pipe."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def say(self, message: object) -> None:
        """Send `message` to the test."""
        self._pipe.send(("message", message, ""))

    def hear(self) -> Any:
        """The next message of the test; `TimeoutError` after `WAIT_S` seconds."""
        if not self._pipe.poll(WAIT_S):
            raise TimeoutError(f"the test said nothing for {WAIT_S} s")
        return self._pipe.recv()

    def was_told(self) -> bool:
        """Whether the test has said something that was not heard yet."""
        told: bool = self._pipe.poll(0)
        return told


def _run(pipe: Any, task: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        result = task(Channel(pipe), *arguments)
    except BaseException as error:  # noqa: BLE001 - reported to the parent, which raises it
        pipe.send(("error", error, traceback.format_exc()))
    else:
        pipe.send(("result", result, ""))


class Child:
    """The test's side of one child."""

    def __init__(self, task: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self.name = task.__name__
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_run, args=(theirs, task, arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        pid: int = self._process.pid
        return pid

    def _receive(self, wanted: str) -> Any:
        if not self._pipe.poll(WAIT_S):
            raise ChildFailedError(f"{self.name}: no {wanted} within {WAIT_S} s")
        try:
            kind, value, trace = self._pipe.recv()
        except EOFError:
            self._process.join(WAIT_S)
            raise ChildFailedError(f"{self.name} died with exit code {self._process.exitcode}") from None
        if kind == "error":
            raise ChildFailedError(f"{self.name} raised:\n{trace}", value)
        if kind != wanted:
            raise ChildFailedError(f"{self.name} sent {kind} {value!r} instead of a {wanted}")
        return value

    def tell(self, message: object) -> None:
        """Send `message` to the child."""
        self._pipe.send(message)

    def expect(self, message: object) -> None:
        """Wait until the child says exactly `message`."""
        heard = self.heard()
        assert heard == message, f"{self.name} said {heard!r} instead of {message!r}"

    def heard(self) -> Any:
        """The next message of the child."""
        return self._receive("message")

    def result(self) -> Any:
        """What the task returned, once the process has ended."""
        value = self._receive("result")
        self._process.join(WAIT_S)
        assert self._process.exitcode == 0, f"{self.name} ended with exit code {self._process.exitcode}"
        return value

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.join(WAIT_S)
        assert not self._process.is_alive(), f"{self.name} survived SIGKILL for {WAIT_S} s"

    def end(self) -> None:
        """Make sure that it is over, whatever state it is in."""
        if self._process.is_alive():
            # Another process collects it, the fork server: it may be gone since the last line.
            with contextlib.suppress(ProcessLookupError):
                self.kill()
            self._process.join(WAIT_S)
        self._pipe.close()


class Crew:
    """The children of one test."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, task: Callable[..., object], *arguments: object) -> Child:
        """Run `task(channel, *arguments)` in a process of its own; both must be importable or picklable."""
        child = Child(task, arguments)
        self._children.append(child)
        return child

    def race(self, tasks: list[tuple[Callable[..., object], tuple[object, ...]]]) -> list[Any]:
        """Start all, let them go at once when each has said "ready", and return their results in order."""
        racers = [self.start(task, *arguments) for task, arguments in tasks]
        for racer in racers:
            racer.expect("ready")
        for racer in racers:
            racer.tell("go")
        return [racer.result() for racer in racers]

    def end(self) -> None:
        """End all of them."""
        for child in self._children:
            child.end()


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    """A crew for the length of a `with` block."""
    members = Crew()
    try:
        yield members
    finally:
        members.end()


def wait_until(condition: Callable[[], bool], *, what: str) -> None:
    """Return as soon as `condition()` holds.

    Raises:
        TimeoutError: it did not for `WAIT_S` seconds.
    """
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {WAIT_S} s: {what}")
        time.sleep(0.0005)  # leaves the processor to those that are waited for


def lock_waiters(lock_path: str) -> int:
    """How many processes and threads wait in the kernel for the `flock` on this file (Linux, proc(5))."""
    inode = f":{os.stat(lock_path).st_ino}"
    with open("/proc/locks", encoding="ascii") as locks:
        lines = [line.split() for line in locks]
    return sum(1 for words in lines if words[1:3] == ["->", "FLOCK"] and words[6].endswith(inode))
