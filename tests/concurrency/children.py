"""What the child processes of these tests do.

Imports neither pytest nor Hypothesis: the forkserver imports this module once, and each child starts from there.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import filelock

from sessionstore import AsyncSessionStore, Draft, SessionStore, Settings, Snapshot
from tests.concurrency.crew import WAIT_S, Channel, lock_waiters, wait_until
from tests.concurrency.payload import SETTINGS, generation_of, stamped_generation, stamped_store

ONE_TRY = Settings(maintenance_mode="off", lock_timeout_s=0.0)

TALLY = "agent:main:tally"
"""The session that writers count in: `count`, and one token per increment."""

# -- writers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Increment:
    """One acknowledged increment: its token, the count that it found, and when it was asked for and answered.

    The clock is CLOCK_MONOTONIC, which all processes of a machine share.
    """

    token: str
    found: int
    asked_ns: int
    answered_ns: int


def increment(token: str) -> Callable[[Draft], int]:
    """A mutator: adds one and the token; returns the count it found."""

    def mutator(draft: Draft) -> int:
        entry = draft.setdefault(TALLY, {"count": 0, "tokens": []})
        found: int = entry["count"]
        entry["count"] = found + 1
        entry["tokens"].append(token)
        return found

    return mutator


def increments(store: SessionStore, name: str, count: int, *, with_base: bool) -> list[Increment]:
    """Increment that often; with `with_base`, each update starts from the snapshot of the one before."""
    base: Snapshot | None = store.load() if with_base else None
    done: list[Increment] = []
    for number in range(count):
        token = f"{name}/{number}"
        asked_ns = time.monotonic_ns()
        updated = store.update(increment(token), base=base)
        done.append(Increment(token, updated.result, asked_ns, time.monotonic_ns()))
        base = updated.snapshot if with_base else None
    return done


def writer(channel: Channel, path: str, name: str, count: int, with_base: bool) -> list[Increment]:
    """Increment in a process of its own."""
    store = SessionStore(path, SETTINGS)
    channel.say("ready")
    channel.hear()
    return increments(store, name, count, with_base=with_base)


def threaded_writer(channel: Channel, path: str, name: str, threads: int, count: int) -> list[Increment]:
    """Increment in several threads at once; every other one with bases, and each with a store object of its own."""
    done: list[list[Increment]] = [[] for _ in range(threads)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            store = SessionStore(path, SETTINGS)
            done[number] = increments(store, f"{name}.{number}", count, with_base=number % 2 == 0)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that reports
            errors.append(error)

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    channel.say("ready")
    channel.hear()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_S)
        assert not worker.is_alive(), f"a thread of {name} still works after {WAIT_S} s"
    if errors:
        raise errors[0]
    return [increment for mine in done for increment in mine]


def task_writer(channel: Channel, path: str, name: str, tasks: int, count: int) -> list[Increment]:
    """Increment in several asyncio tasks at once."""

    async def work(store: AsyncSessionStore, task: int) -> list[Increment]:
        done: list[Increment] = []
        base: Snapshot | None = None
        for number in range(count):
            token = f"{name}.{task}/{number}"
            asked_ns = time.monotonic_ns()
            updated = await store.update(increment(token), base=base)
            done.append(Increment(token, updated.result, asked_ns, time.monotonic_ns()))
            base = updated.snapshot if task % 2 == 0 else None
        return done

    async def all_tasks() -> list[Increment]:
        store = AsyncSessionStore(path, SETTINGS)
        done = await asyncio.wait_for(asyncio.gather(*(work(store, task) for task in range(tasks))), WAIT_S)
        return [increment for mine in done for increment in mine]

    channel.say("ready")
    channel.hear()
    return asyncio.run(all_tasks())


# -- readers ----------------------------------------------------------------------------------------------------------


def replacing(sessions: dict[str, dict[str, Any]]) -> Callable[[Draft], None]:
    """A mutator that sets these sessions."""

    def mutator(draft: Draft) -> None:
        draft.update(sessions)

    return mutator


def generation_writer(channel: Channel, path: str, entries: int, generations: int) -> int:
    """Publish generation after generation: whole stores, alternately by `save` and by `update`."""
    store = SessionStore(path, SETTINGS)
    channel.say("ready")
    channel.hear()
    for generation in range(1, generations + 1):
        sessions = stamped_store(entries, generation)
        if generation % 2:
            store.save(sessions)
        else:
            store.update(replacing(sessions))
    return generations


def _load(store: SessionStore, entries: int) -> int:
    return generation_of(store.load(), entries=entries)


def _read(store: SessionStore, entries: int) -> int:
    number = entries - 1
    entry = store.read(f"agent:main:{number}")
    assert entry is not None, "the last session is not there"
    return stamped_generation(number, entry)


def _read_plainly(store: SessionStore, entries: int) -> int:
    with open(store.path, "rb") as file:
        return generation_of(json.loads(file.read()), entries=entries)


READERS = {"load": _load, "read": _read, "plain": _read_plainly}


def reader(channel: Channel, path: str, entries: int, how: str, limit_bytes: int) -> tuple[int, int]:
    """Read until told to stop, and then once more; returns how often, and the last generation seen.

    Raises:
        AssertionError: a state was not whole, or older than one seen before.
    """
    store = SessionStore(path, Settings(maintenance_mode="off", object_cache_max_bytes=limit_bytes))
    read_once = READERS[how]
    channel.say("ready")
    channel.hear()
    newest = reads = 0
    stopping = False
    while True:
        generation = read_once(store, entries)
        reads += 1
        assert generation >= newest, f"generation {generation} after {newest} ({how}, read {reads})"
        newest = generation
        if stopping:
            return reads, newest
        stopping = channel.was_told()


# -- holders of the lock ----------------------------------------------------------------------------------------------


def foreign_holder(channel: Channel, lock_path: str) -> None:
    """Hold the lock as another program does, through filelock, until told to let go."""
    with filelock.FileLock(lock_path, timeout=WAIT_S):
        channel.say("held")
        channel.hear()
    channel.say("free")


def editor(channel: Channel, path: str, key: str) -> None:
    """Hold the lock by an edit that sets `key`, until told to end it."""
    with SessionStore(path, SETTINGS).edit() as draft:
        draft[key] = {"by": os.getpid()}
        channel.say("held")
        channel.hear()
    channel.say("free")


def single_writer(channel: Channel, path: str, key: str, timeout_s: float) -> bool:
    """One update that sets `key`; returns whether it wrote."""
    store = SessionStore(path, Settings(maintenance_mode="off", lock_timeout_s=timeout_s))
    channel.say("ready")
    channel.hear()
    return store.update(replacing({key: {"by": os.getpid()}})).written


def peer(channel: Channel, path: str) -> int:
    """Update whenever told to, with the timeout given; returns how often. Ends when told "stop"."""
    updates = 0
    while True:
        order = channel.hear()
        if order == "stop":
            return updates
        store = SessionStore(path, Settings(maintenance_mode="off", lock_timeout_s=float(order)))
        updates += 1
        store.update(replacing({"agent:main:peer": {"updates": updates}}))
        channel.say("updated")


# -- writers that are killed ------------------------------------------------------------------------------------------

_SYSTEM_CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("open", "close", "read", "write", "fsync", "replace", "link", "unlink", "mkdir", "fchmod", "scandir")),
    (fcntl, ("flock",)),
)


def _pause_before(channel: Channel, stop_at: int | str) -> None:
    """Let this thread wait for a word of the test before its `stop_at`-th system call, or before the first so named."""
    this_thread = threading.get_ident()
    calls = 0

    def paused(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            # The pipe to the test is read and written by `os` functions, too.
            if threading.get_ident() == this_thread and not getattr(busy, "talking", False):
                calls += 1
                if stop_at in {calls, name}:
                    busy.talking = True
                    channel.say(name)
                    channel.hear()
                    busy.talking = False
            return real(*arguments, **options)

        return call

    busy = threading.local()
    for module, names in _SYSTEM_CALLS:
        for name in names:
            setattr(module, name, paused(name, getattr(module, name)))


def paused_saver(channel: Channel, path: str, sessions: dict[str, dict[str, Any]], stop_at: int | str) -> None:
    """Save, but stop before a system call, say its name, and go on only when told to."""
    store = SessionStore(path, SETTINGS)
    _pause_before(channel, stop_at)
    store.save(sessions)
    channel.say("saved")


def endless_saver(channel: Channel, path: str, entries: int) -> None:
    """Save generation after generation until killed."""
    store = SessionStore(path, SETTINGS)
    sessions = [stamped_store(entries, generation) for generation in (1, 2)]
    channel.say("ready")
    channel.hear()
    while True:
        for generation in sessions:
            store.save(generation)


def successor(channel: Channel, path: str, settings: Settings = ONE_TRY) -> bool:
    """The next writer after a death: one update, which must get the lock with its first try; returns if it wrote."""
    return SessionStore(path, settings).update(replacing({"agent:main:successor": {"by": os.getpid()}})).written


def lock_keeper(channel: Channel, lock_path: str) -> None:
    """Whenever told to, hold the lock until somebody waits for it or the test says so. Ends when told "stop"."""
    lock = filelock.FileLock(lock_path, timeout=WAIT_S)
    while channel.hear() != "stop":
        with lock:
            channel.say("held")
            wait_until(lambda: channel.was_told() or lock_waiters(lock_path) > 0, what="a waiter or a word")
        channel.hear()
        channel.say("free")


def working_elsewhere(channel: Channel, directory: str, path: str, name: str, count: int) -> list[Increment]:
    """Increment by a relative path, in a process whose working directory is `directory`."""
    os.chdir(directory)
    return writer(channel, path, name, count, False)


def raiser(channel: Channel, error: BaseException) -> None:
    """Raise it."""
    raise error
