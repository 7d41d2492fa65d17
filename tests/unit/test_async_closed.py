"""A write whose coroutine is closed in the middle, as when its loop ends: the thread that works for it cleans up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sessionstore import AsyncSessionStore, Draft, SessionStore, Settings, StoreError, process
from sessionstore.files import temporary_prefix
from sessionstore.lock import WriteLock
from sessionstore.store import Edit
from tests.concurrency.crew import wait_until

WAIT_S = 60.0
SETTINGS = Settings(maintenance_mode="off", lock_timeout_s=WAIT_S)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in a loop of its own, for a bounded time."""
    asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


def add(draft: Draft) -> int:
    """Count in one entry; returns the count."""
    entry = draft.setdefault("k", {"n": 0})
    entry["n"] += 1
    count: int = entry["n"]
    return count


@pytest.mark.promise("LOCK5", "WRITE1")
@pytest.mark.parametrize(("owner", "step"), [(WriteLock, "acquire_from_kernel"), (Edit, "begin"), (Edit, "publish")])
def test_a_write_closed_in_the_middle_of_a_step_gives_the_lock_back_after_it(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    """The lock is neither kept for good nor given back while the thread still works under it."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    reached, opened, held_until_the_end = threading.Event(), threading.Event(), threading.Event()
    real: Callable[..., Any] = getattr(owner, step)

    def held(*arguments: object) -> Any:
        reached.set()
        assert opened.wait(WAIT_S)
        outcome = real(*arguments)
        subject = arguments[0]
        lock = subject if isinstance(subject, WriteLock) else getattr(subject, "_lock", None)
        if lock is not None and lock.descriptor is not None:
            held_until_the_end.set()
        return outcome

    async def scenario() -> None:
        monkeypatch.setattr(owner, step, held)
        task = asyncio.ensure_future(AsyncSessionStore(store_path, SETTINGS).update(add))
        assert await asyncio.to_thread(reached.wait, WAIT_S)
        task.get_coro().close()
        monkeypatch.setattr(owner, step, real)
        opened.set()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await task

    run(scenario())
    done = SessionStore(store_path, SETTINGS).update(add)
    assert done.result == (2 if step == "publish" else 1)
    assert held_until_the_end.is_set()


@pytest.mark.promise("LOCK4")
def test_a_write_after_a_closed_one_waits_for_its_thread(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a closed coroutine left to its thread is not around the next write of the loop's thread: that one waits."""
    store = SessionStore(store_path, SETTINGS)
    store.update(add)
    queue = process.PROCESS.path_lock(str(store_path)).turns
    reached = threading.Event()
    real = Edit.publish

    def slow(edit: Edit) -> None:
        reached.set()
        wait_until(lambda: bool(queue), what="the next write waits")
        real(edit)

    async def scenario() -> None:
        monkeypatch.setattr(Edit, "publish", slow)
        task = asyncio.ensure_future(AsyncSessionStore(store_path, SETTINGS).update(add))
        assert await asyncio.to_thread(reached.wait, WAIT_S)
        task.get_coro().close()
        monkeypatch.setattr(Edit, "publish", real)
        assert store.update(add).result == 3
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await task

    run(scenario())


@pytest.mark.promise("LOCK4")
def test_an_edit_is_used_once(store_path: Path) -> None:
    """A second use is refused, also inside the first one, and costs the first one nothing."""
    store = SessionStore(store_path, SETTINGS)
    edit = store.edit()
    with edit as draft:
        add(draft)
        with pytest.raises(StoreError, match="used once"):
            edit.__enter__()
    with pytest.raises(StoreError, match="used once"):
        edit.__enter__()
    assert store.read("k") == {"n": 1}

    async def scenario() -> None:
        again = AsyncSessionStore(store_path, SETTINGS).edit()
        async with again as draft:
            add(draft)
            with pytest.raises(StoreError, match="used once"):
                await again.__aenter__()
        with pytest.raises(StoreError, match="used once"):
            await again.__aenter__()

    run(scenario())
    assert store.read("k") == {"n": 2}


@pytest.mark.promise("WRITE4")
def test_the_sweep_takes_files_and_leaves_what_only_looks_like_one(store_path: Path) -> None:
    """A directory or link of the pattern's name is not ours: it stays, and no write fails over it."""
    store = SessionStore(store_path, SETTINGS)
    store_path.parent.mkdir(parents=True, exist_ok=True)
    prefix = temporary_prefix(str(store_path))
    directory, link, stray = (store_path.parent / f"{prefix}{number}.tmp" for number in range(3))
    directory.mkdir()
    link.symlink_to("elsewhere")
    stray.write_text("{")
    store.update(add)
    assert directory.is_dir()
    assert link.is_symlink()
    assert not stray.exists()
