"""What the children of the tests about `fork` do: real forks, in a process that has nothing else in it.

A forked process leaves by `os._exit` whatever happens, and reports over a pipe of its own: it must neither return into
its parent's code nor use its parent's channel to the test.
"""

from __future__ import annotations

import os
import pickle
import select
import threading
import traceback
from collections.abc import Callable
from typing import Any

from sessionstore import LockTimeoutError, SessionStore, Settings, StoreError
from tests.concurrency.children import replacing
from tests.concurrency.crew import WAIT_S, Channel, lock_waiters, wait_until
from tests.concurrency.payload import SETTINGS


class Fork:
    """A forked process that runs `work` and reports what it returned or raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._reports, ours = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._reports)
                self._report(ours, work)
            finally:
                os._exit(0)
        os.close(ours)

    @staticmethod
    def _report(descriptor: int, work: Callable[[], object]) -> None:
        try:
            report: tuple[object, str] = (work(), "")
        except BaseException:  # noqa: BLE001 - raised in the parent
            report = (None, traceback.format_exc())
        os.write(descriptor, pickle.dumps(report))

    def result(self) -> Any:
        """What `work` returned; raises if it raised, or said nothing for `WAIT_S` seconds."""
        try:
            readable, _, _ = select.select([self._reports], [], [], WAIT_S)
            if not readable:
                os.kill(self.pid, 9)
                raise TimeoutError(f"the forked process {self.pid} hung for {WAIT_S} s")
            result, trace = pickle.loads(os.read(self._reports, 1_000_000) or pickle.dumps((None, "it died")))
        finally:
            os.close(self._reports)
            os.waitpid(self.pid, 0)
        if trace:
            raise AssertionError(f"the forked process raised:\n{trace}")
        return result


class _Gate:
    """Opened by a process for those that it forked."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def wait(self) -> None:
        os.read(self._read, 1)

    def open(self) -> None:
        os.write(self._write, b"x")

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def one_try(path: str, key: str) -> bool:
    """Whether this process gets the lock with one try; then it writes `key`."""
    try:
        SessionStore(path, Settings(maintenance_mode="off", lock_timeout_s=0.0)).update(replacing({key: {}}))
    except LockTimeoutError:
        return False
    return True


def fork_inside_an_edit(channel: Channel, path: str) -> list[str]:
    """Fork inside an edit; the fork tries to write, reads, and leaves the `with` block of its parent's edit."""
    store = SessionStore(path, SETTINGS)
    said: list[str] = []

    def leave_parents_edit() -> str:
        try:
            edit.__exit__(None, None, None)
        except StoreError as error:
            return str(error)
        return "no error"

    def child() -> list[str]:
        wrote = one_try(path, "child")
        return [
            f"wrote: {wrote}",
            f"sees: {sorted(store.load())}",
            leave_parents_edit(),
            f"wrote: {one_try(path, 'c2')}",
        ]

    edit = store.edit()
    draft = edit.__enter__()
    draft["parent"] = {}
    said += Fork(child).result()
    # The child is gone, and the lock is still ours: the test lets another process try.
    channel.say("still held")
    channel.hear()
    edit.__exit__(None, None, None)
    said.append(f"parent wrote: {edit.written}")
    return said


def fork_that_outlives_the_edit(channel: Channel, path: str) -> bool:
    """Fork inside an edit and end the edit while the fork lives; returns whether the fork then could write."""
    store = SessionStore(path, SETTINGS)
    gate = _Gate()

    def child() -> bool:
        gate.wait()
        SessionStore(path, SETTINGS).update(replacing({"child": {}}))
        return True

    with store.edit() as draft:
        draft["parent"] = {}
        fork = Fork(child)
    # The fork inherited the open lock file, and lives: the lock must be free all the same.
    channel.say("free")
    channel.hear()
    gate.open()
    wrote: bool = fork.result()
    gate.close()
    return wrote


def fork_that_waits_for_its_parent(channel: Channel, path: str) -> bool:
    """Fork inside an edit; the fork's update must wait for the parent's edit and then happen."""
    store = SessionStore(path, SETTINGS)
    with store.edit() as draft:
        draft["parent"] = {}
        fork = Fork(lambda: SessionStore(path, SETTINGS).update(replacing({"child": {}})).written)
        wait_until(lambda: lock_waiters(f"{path}.flock") == 1, what="the forked process waits for the lock")
    wrote: bool = fork.result()
    return wrote


def fork_beside_a_waiting_thread(channel: Channel, path: str) -> tuple[bool, bool]:
    """Fork while a thread waits for the lock that the test holds; returns whether fork and thread came to write."""
    done: list[bool] = []

    def wait_and_write() -> None:
        done.append(SessionStore(path, SETTINGS).update(replacing({"thread": {}})).written)

    waiting = threading.Thread(target=wait_and_write, daemon=True)
    waiting.start()
    wait_until(lambda: lock_waiters(f"{path}.flock") == 1, what="the thread waits for the lock")
    early = Fork(lambda: one_try(path, "early")).result()
    fork = Fork(lambda: SessionStore(path, SETTINGS).update(replacing({"fork": {}})).written)
    wait_until(lambda: lock_waiters(f"{path}.flock") == 2, what="the forked process waits for the lock")
    channel.say(f"waiting; one try of a fork succeeded: {early}")
    wrote: bool = fork.result()
    waiting.join(WAIT_S)
    return wrote, done == [True]


def forks_beside_busy_threads(channel: Channel, path: str, forks: int) -> int:
    """Fork again and again while threads load and update; each fork loads and updates; returns how many could."""
    over = threading.Event()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store = SessionStore(path, SETTINGS)
            while not over.is_set():
                store.load()
                store.update(replacing({f"thread-{number}": {"n": len(store.load())}}))
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    def child() -> bool:
        store = SessionStore(path, SETTINGS)
        return "seed" in store.load() and store.update(replacing({f"fork-{os.getpid()}": {}})).written

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(2)]
    for worker in workers:
        worker.start()
    could: int = sum(Fork(child).result() for _ in range(forks))
    over.set()
    for worker in workers:
        worker.join(WAIT_S)
        assert not worker.is_alive()
    if errors:
        raise errors[0]
    return could


def fork_of_a_warm_process(channel: Channel, path: str) -> tuple[int, int, list[str]]:
    """Fork a process that has cached the store; returns what parent and fork hold, and what the fork sees later."""
    store = SessionStore(path, SETTINGS)
    store.load()
    holds = store.stats().cached_paths

    gate = _Gate()

    def child() -> tuple[int, list[str]]:
        inherited = store.stats().cached_paths
        gate.wait()
        return inherited, sorted(store.load())

    fork = Fork(child)
    channel.say("forked")
    channel.hear()
    gate.open()
    inherited, sees = fork.result()
    gate.close()
    return holds, inherited, sees
