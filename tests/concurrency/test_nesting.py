"""A write inside a write of the same file, in threads and in tasks.

Goal: LOCK4. Whoever would wait for itself is told so at once; whoever waits for somebody else waits. A test that runs
into the timeout fails for its error's type.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessionstore import AsyncSessionStore, Draft, ReentrantUpdateError, SessionStore, Settings, save_session_store
from tests.concurrency.crew import WAIT_S
from tests.concurrency.payload import SETTINGS


def nested_update(store: SessionStore) -> None:
    """The plainest inner write."""
    store.update(lambda draft: draft.update({"inner": {}}))


INNER_WRITES: dict[str, Callable[[SessionStore], object]] = {
    "update": nested_update,
    "save": lambda store: store.save({}),
    "edit": lambda store: store.edit().__enter__(),
    "another object": lambda store: nested_update(SessionStore(store.path, SETTINGS)),
    "a function": lambda store: save_session_store(store.path, {"inner": {}}),
}


@pytest.mark.promise("LOCK4")
@pytest.mark.parametrize("inner", INNER_WRITES.values(), ids=list(INNER_WRITES))
def test_a_nested_write_raises_at_once(store_path: Path, inner: Callable[[SessionStore], object]) -> None:
    """LOCK4: inside an update, any write of the same file raises; the outer update goes on and is published."""
    store = SessionStore(store_path, Settings(maintenance_mode="off", lock_timeout_s=3.0))
    with store.edit() as draft:
        with pytest.raises(ReentrantUpdateError) as caught:
            inner(store)
        draft["outer"] = {}
    assert caught.value.path == str(store_path)
    assert list(store.load()) == ["outer"]


@pytest.mark.promise("LOCK4", "CACHE8")
def test_a_nested_write_through_an_alias_raises_at_once(store_path: Path) -> None:
    """LOCK4, CACHE8: another spelling of the path is no way around."""
    store = SessionStore(store_path, SETTINGS)
    linked = store_path.parent / "elsewhere"
    linked.symlink_to(store_path.parent)
    alias = SessionStore(linked / ".." / "elsewhere" / store_path.name, SETTINGS)
    with store.edit() as draft:
        with pytest.raises(ReentrantUpdateError):
            nested_update(alias)
        draft["outer"] = {}
    assert list(alias.load()) == ["outer"]


@pytest.mark.promise("LOCK4", "SNAP6")
def test_the_error_of_a_nested_write_ends_the_outer_one_like_any_error(store_path: Path) -> None:
    """LOCK4, SNAP6: a mutator that does not catch it has written nothing, and the lock is free."""
    store = SessionStore(store_path, SETTINGS)
    with pytest.raises(ReentrantUpdateError):
        store.update(lambda _: nested_update(store))
    assert not store_path.exists()
    nested_update(store)
    assert list(store.load()) == ["inner"]


@pytest.mark.promise("LOCK4")
def test_a_write_of_another_file_may_be_nested(store_path: Path) -> None:
    """LOCK4: two files have two locks."""
    outer = SessionStore(store_path, SETTINGS)
    inner = SessionStore(store_path.with_name("other.json"), SETTINGS)
    with outer.edit() as draft:
        nested_update(inner)
        draft["outer"] = {}
    assert (list(outer.load()), list(inner.load())) == (["outer"], ["inner"])


@pytest.mark.promise("LOCK4", "LOCK1")
def test_another_thread_waits_instead(store_path: Path) -> None:
    """LOCK4, LOCK1: a write of another thread is not nested: it waits for its turn."""
    store = SessionStore(store_path, SETTINGS)
    started = threading.Event()

    def update() -> None:
        started.set()
        nested_update(store)

    other = threading.Thread(target=update, daemon=True)
    with store.edit() as draft:
        other.start()
        assert started.wait(WAIT_S)
        draft["outer"] = {}
    other.join(WAIT_S)
    assert set(store.load()) == {"outer", "inner"}


def run(coroutine: Any) -> Any:
    """Run it in a loop of its own, for a bounded time."""
    return asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


@pytest.mark.promise("LOCK4")
def test_a_nested_write_in_a_task_raises_at_once(store_path: Path) -> None:
    """LOCK4: the same for tasks, by the asynchronous and by the blocking verbs."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        async with store.edit() as draft:
            with pytest.raises(ReentrantUpdateError):
                await store.update(lambda inner: inner.update({"inner": {}}))
            with pytest.raises(ReentrantUpdateError):
                await store.save({})
            with pytest.raises(ReentrantUpdateError):
                nested_update(SessionStore(store_path, SETTINGS))
            draft["outer"] = {}
        assert list(await store.load()) == ["outer"]

    run(scenario())


@pytest.mark.promise("LOCK4")
def test_a_nested_write_in_a_worker_thread_of_the_task_raises_at_once(store_path: Path) -> None:
    """LOCK4: what a task does with `asyncio.to_thread` inside its edit belongs to the edit."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        async with store.edit() as draft:
            with pytest.raises(ReentrantUpdateError):
                await asyncio.to_thread(nested_update, SessionStore(store_path, SETTINGS))
            draft["outer"] = {}
        await asyncio.to_thread(nested_update, SessionStore(store_path, SETTINGS))
        assert set(await store.load()) == {"outer", "inner"}

    run(scenario())


@pytest.mark.promise("LOCK4")
def test_a_mutator_that_is_a_coroutine_may_not_nest_either(store_path: Path) -> None:
    """LOCK4: an awaited mutator that updates the same store is told so, and nothing is written."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)

        async def nest(draft: Draft) -> int:
            draft["outer"] = {}
            return (await store.update(len)).result

        with pytest.raises(ReentrantUpdateError):
            await store.update(nest)
        assert not await store.load()
        await store.update(lambda draft: draft.update({"next": {}}))

    run(scenario())


@pytest.mark.promise("LOCK4", "LOCK1")
def test_another_task_waits_instead(store_path: Path) -> None:
    """LOCK4, LOCK1: a write of another task of the same thread is not nested: it waits for its turn."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, SETTINGS)
        async with store.edit() as draft:
            other = asyncio.create_task(store.update(lambda inner: inner.update({"inner": dict(inner)})))
            await asyncio.sleep(0)
            draft["outer"] = {}
        await other
        assert (await store.load())["inner"] == {"outer": {}}

    run(scenario())
