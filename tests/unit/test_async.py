"""`AsyncSessionStore` when tasks are cancelled: while they wait for the lock, and while they publish."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sessionstore import AsyncSessionStore, SessionStore, Settings, Snapshot, lock
from sessionstore.store import Edit

WAIT_S = 60.0
SETTINGS = Settings(maintenance_mode="off", lock_timeout_s=WAIT_S)
ONE_TRY = Settings(maintenance_mode="off", lock_timeout_s=0.0)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in a loop of its own, for a bounded time."""
    asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


class Gate:
    """Holds a method at its beginning until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *, of: type = Edit) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        real: Callable[..., Any] = getattr(of, name)

        def held(*arguments: object) -> Any:
            self.reached.set()
            assert self.opened.wait(WAIT_S)
            return real(*arguments)

        monkeypatch.setattr(of, name, held)


async def cancel_at(gate: Gate, task: asyncio.Task[Any]) -> None:
    """Cancel `task` while a thread does its work; open the gate only when the task had its chance to leave."""
    assert await asyncio.to_thread(gate.reached.wait, WAIT_S)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    left_early = task.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not left_early, "the task was over before the thread that works for it"


@pytest.mark.promise("LOCK5", "WRITE1")
def test_a_task_cancelled_while_it_publishes_keeps_the_lock_until_it_is_done(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation during publishing is raised only when the write is over, which then is whole and the lock free."""
    gate = Gate(monkeypatch, "publish")

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        await cancel_at(gate, asyncio.create_task(store.update(lambda draft: draft.update({"a": {}}))))

    run(scenario())
    assert list(SessionStore(store_path, ONE_TRY).load()) == ["a"]
    SessionStore(store_path, ONE_TRY).update(len)


@pytest.mark.promise("LOCK5")
def test_a_task_cancelled_while_it_reads_under_the_lock_gives_it_back(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation before the mutator ran waits for the reading thread, writes nothing and frees the lock."""
    gate = Gate(monkeypatch, "begin")

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        await cancel_at(gate, asyncio.create_task(store.update(lambda draft: draft.update({"a": {}}))))

    run(scenario())
    assert not store_path.exists()
    SessionStore(store_path, ONE_TRY).update(lambda draft: draft.update({"next": {}}))


@pytest.mark.promise("LOCK5", "LOCK2")
def test_a_task_cancelled_while_it_waits_for_another_process_never_holds_the_lock(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that comes to a thread whose task was cancelled meanwhile is free again when the task is over."""
    SessionStore(store_path, SETTINGS).save({})
    waiting = Gate(monkeypatch, "take_into", of=lock._KernelWait)
    waiting.opened.set()
    holder = os.open(f"{store_path}.flock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)

        async def scenario() -> None:
            store = AsyncSessionStore(store_path, SETTINGS)
            task = asyncio.create_task(store.update(lambda draft: draft.update({"a": {}})))
            assert await asyncio.to_thread(waiting.reached.wait, WAIT_S)
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            fcntl.flock(holder, fcntl.LOCK_UN)
            with pytest.raises(asyncio.CancelledError):
                await task

        run(scenario())
    finally:
        os.close(holder)
    SessionStore(store_path, ONE_TRY).update(lambda draft: draft.update({"next": {}}))
    assert list(SessionStore(store_path, SETTINGS).load()) == ["next"]


@pytest.mark.promise("MAINT1")
def test_the_active_session_of_an_asynchronous_write_stays(store_path: Path) -> None:
    """Maintenance spares the active session also in the asynchronous verbs."""
    enforce = Settings(maintenance_mode="enforce", max_entries=0, prune_after_ms=0)
    old = {"updatedAt": 1}

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, enforce)
        await store.save({"a": old, "b": old}, active_session="B ")
        assert list(await store.load()) == ["b"]
        await store.update(lambda draft: draft.update({"c": old}), active_session="C")
        assert list(await store.load()) == ["c"]
        async with store.edit(active_session="D") as draft:
            draft["d"] = dict(old)
        assert list(await store.load()) == ["d"]

    run(scenario())


@pytest.mark.promise("SNAP4")
def test_a_base_is_used_by_the_asynchronous_verbs(store_path: Path) -> None:
    """An awaited update and an awaited edit reuse a base that still matches."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        base = await store.save({"a": {}})
        done = await store.update(lambda draft: draft.update({"b": {}}), base=base)
        assert done.reused
        async with store.edit(base=done.snapshot) as draft:
            draft["c"] = {}
        assert store.stats().snapshot_reuses == 2

    run(scenario())


@pytest.mark.promise("SNAP6", "LOCK5")
@pytest.mark.parametrize("way", ["edit", "update"])
def test_a_task_cancelled_in_its_block_writes_nothing(store_path: Path, way: str) -> None:
    """What the block had done to the draft until it was cancelled is given up, and the lock is free."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        await store.save({"a": {"n": 1}})
        reached = asyncio.Event()

        async def change(draft: Any) -> None:
            draft["a"]["n"] = 2
            reached.set()
            await asyncio.sleep(WAIT_S)

        async def edit() -> None:
            async with store.edit() as draft:
                await change(draft)

        task = asyncio.ensure_future(edit() if way == "edit" else store.update(change))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())
    assert SessionStore(store_path, ONE_TRY).update(dict).result == {"a": {"n": 1}}


@pytest.mark.promise("CACHE7")
def test_what_a_caller_changes_during_a_save_is_not_in_it(store_path: Path) -> None:
    """A save writes, and remembers as an entry's time, what it was given: the caller may go on with its objects."""
    entry: dict[str, Any] = {"updatedAt": 1}

    async def scenario() -> Snapshot:
        saving = asyncio.ensure_future(AsyncSessionStore(store_path, ONE_TRY).save({"a": entry}))
        await asyncio.sleep(0)  # the save has begun; it goes on when this task waits again
        entry["updatedAt"] = 2
        return await saving

    saved = asyncio.run(scenario())
    assert json.loads(store_path.read_bytes()) == {"a": {"updatedAt": 1}}
    assert list(saved.index.updated_at) == list(SessionStore(store_path).load(skip_cache=True).index.updated_at) == [1]
