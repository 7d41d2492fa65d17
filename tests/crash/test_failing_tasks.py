"""Every system call of every asynchronous operation fails once, on a real disk: nothing is torn, left over or held.

Goal: WRITE5 and LOCK5 for `AsyncSessionStore`, whose writes work in threads. Method: as `test_failing_calls`, but no
event loop runs in the simulated machine, so here a real loop, real threads and real files; only the names `os` and
`fcntl` in the store's modules lead through an injector. Signal handlers run in the main thread, which makes none of
these calls: in their place the task is cancelled at each call.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from models.crashes import FILE, RECOVERED_KEY, STRAY_SUFFIX, key_of, store_bytes
from sessionstore import AsyncSessionStore, SessionStore, Settings, UnknownOutcomeError
from sessionstore.process import PROCESS
from storecheck.faults import FAILURES, Failure, Injector, one_by_one
from storecheck.pytest_plugin import Evidence
from storecheck.schedule import Fault
from tests.crash.survivable import is_survivable

WAIT_S = 60.0
BEFORE = store_bytes(sessions=3, size_bytes=3_000)
ENTRY = {"label": "new", "text": "x" * 5_000}
MODULES = ("files", "lock", "store", "maintenance", "snapshot")
INTERCEPTED = frozenset(
    {
        "open", "read", "write", "writev", "close", "fsync", "stat", "fstat", "replace", "unlink", "link", "mkdir",
        "scandir", "listdir", "fchmod", "fchown", "flock",
    }
)  # fmt: skip
CANCELLED = Failure(kind="interrupt before")


class RealCalls(Injector):
    """An injector for calls that are made for real, from whatever thread; counts what passes through `through`."""

    def __init__(self, failure: Failure, *, at: int, task: Callable[[], None] | None = None) -> None:
        super().__init__(failure, at=at)
        self._cancel = task
        self._mutex = threading.Lock()

    def _is_directory(self, descriptor: object) -> bool:
        return isinstance(descriptor, int) and os.path.isdir(f"/proc/self/fd/{descriptor}")

    def _note_failed_sync(self, arguments: tuple[object, ...]) -> None:
        """No trace is kept here."""

    def _fail(self, name: str, arguments: tuple[object, ...]) -> object:
        if self._cancel is None:
            return super()._fail(name, arguments)
        self._cancel()
        return None

    def made(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Make the call, or let it fail."""
        with self._mutex:
            special = self.enter(name, arguments)
        if isinstance(special, Fault):
            content = arguments[1] if name == "write" else b"".join(map(bytes, arguments[1]))
            return os.write(arguments[0], bytes(content)[: special.taken_bytes])
        result = call(*arguments, **options)
        if special is not None:
            self.call_ended()
        return result


class Through:
    """A module whose calls lead through an injector."""

    def __init__(self, module: Any, injector: RealCalls) -> None:
        self._module = module
        self._injector = injector

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if name not in INTERCEPTED:
            return found
        return lambda *arguments, **options: self._injector.made(name, found, arguments, options)


def install(patch: pytest.MonkeyPatch, injector: RealCalls) -> None:
    """Lead the calls of the store's modules through the injector."""
    for name in MODULES:
        module = importlib.import_module(f"sessionstore.{name}")
        for system in (os, fcntl):
            if hasattr(module, system.__name__):
                patch.setattr(module, system.__name__, Through(system, injector))


async def _edit(store: AsyncSessionStore) -> None:
    async with store.edit() as draft:
        await asyncio.sleep(0)
        draft[key_of(1)] = ENTRY


async def _update_with_base(store: AsyncSessionStore) -> None:
    await store.update(lambda draft: draft.__setitem__(key_of(1), ENTRY), base=await store.load())


OPERATIONS: dict[str, Callable[[AsyncSessionStore], Awaitable[Any]]] = {
    "load": lambda store: store.load(skip_cache=True),
    "read": lambda store: store.read(key_of(1)),
    "update": lambda store: store.update(lambda draft: draft.__setitem__(key_of(1), ENTRY)),
    "update with base": _update_with_base,
    "edit": _edit,
    "save": lambda store: store.save({key_of(1): ENTRY}),
}
SETTINGS = Settings(maintenance_mode="enforce", rotate_bytes=1_000, prune_after_ms=2**53 - 1, lock_timeout_s=WAIT_S)


async def attempt(name: str, path: Path, failure: Failure, at: int) -> tuple[Injector, BaseException | None]:
    """One operation with one failing call, or one at which its task is cancelled; what it raised."""
    store = AsyncSessionStore(path, SETTINGS)
    await store.load()
    task: asyncio.Future[Any] = asyncio.ensure_future(OPERATIONS[name](store))
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel)

    injector = RealCalls(failure, at=at, task=cancel if failure is CANCELLED else None)
    with pytest.MonkeyPatch.context() as patch:
        install(patch, injector)
        (error,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), WAIT_S)
        injector.disarm()
        if failure is CANCELLED:
            # A reading thread that was cancelled is not waited for; the calls that it still makes are the store's own.
            await asyncio.to_thread(_join_others)
    return injector, error if isinstance(error, BaseException) else None


def _join_others() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("sessionstore"):
            thread.join(WAIT_S)
            assert not thread.is_alive()


def descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def problems_of(
    path: Path, finished: bytes, injector: Injector, error: BaseException | None, open_before: int
) -> list[str]:
    """Everything about a run that breaks a promise; `finished`: the file as the operation leaves it undisturbed."""
    found = []
    after = path.read_bytes()
    if after not in (BEFORE, finished):
        found.append(f"the file is neither old nor new: {after!r:.80}")
    found += _problems_with_error(injector, error, is_published=after == finished != BEFORE, is_done=after == finished)
    if not injector.hit("unlink", "scandir", "listdir"):
        found += [f"left {name}" for name in os.listdir(path.parent) if name.endswith(STRAY_SUFFIX)]
    if descriptors() != open_before:
        found.append(f"{descriptors()} descriptors are open, before it were {open_before}")
    PROCESS.cache.check()
    store = SessionStore(path, Settings(maintenance_mode="off", lock_timeout_s=0))
    there = json.loads(after)
    if dict(store.load()) != there:
        found.append("the cache is not the file")
    store.update(lambda draft: draft.__setitem__(RECOVERED_KEY, {}))
    if json.loads(path.read_bytes()) != there | {RECOVERED_KEY: {}}:
        found.append("the next update did not do what it should")
    return found


def _problems_with_error(
    injector: Injector, error: BaseException | None, *, is_published: bool, is_done: bool
) -> list[str]:
    failure = injector.failure
    if error is None:
        survivable = failure.kind == "short" or failure is CANCELLED or is_survivable(failure, injector.hits)
        problems = [] if survivable else ["the failure was swallowed"]
        return problems if is_done else [*problems, "no error, but the work is not done"]
    if failure is CANCELLED:
        return [] if isinstance(error, asyncio.CancelledError) else [f"cancelled, but raised {error!r}"]
    if not isinstance(error, OSError):
        return [f"not an OSError: {error!r}"]
    if is_published != isinstance(error, UnknownOutcomeError):
        return [f"{'published' if is_published else 'not published'}, but raised {error!r}"]
    return []


def run_all(name: str, path: Path, failures: list[Failure], evidence: Evidence) -> None:
    """Let every call of one operation fail in each of these ways."""
    path.write_bytes(BEFORE)
    injector, error = asyncio.run(attempt(name, path, Failure(kind="short"), 10**9))
    assert error is None
    finished = path.read_bytes()
    for failure in failures:
        for injector in one_by_one(failure):
            for entry in path.parent.iterdir():
                entry.unlink()
            path.write_bytes(BEFORE)
            PROCESS.swept_ns.clear()
            open_before = descriptors()
            met, error = asyncio.run(attempt(name, path, failure, injector.at))
            injector.hits = met.hits
            evidence.add(histories=1)
            problems = problems_of(path, finished, met, error, open_before)
            assert not problems, f"{name}, {met}, raised {error!r}: {problems}"


pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")


@pytest.mark.promise("WRITE5")
@pytest.mark.promise("CACHE9")
@pytest.mark.parametrize("kind", ["errno", "short"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_call_of_a_task_leaves_nothing_wrong(
    name: str, kind: str, store_path: Path, evidence: Evidence
) -> None:
    """WRITE5: as for the store without tasks: the error is raised, and file, caches, descriptors and lock are right."""
    assert store_path.name == FILE
    run_all(name, store_path, [failure for failure in FAILURES if failure.kind == kind], evidence)


@pytest.mark.promise("LOCK5")
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_task_cancelled_at_any_call_leaves_nothing_wrong(name: str, store_path: Path, evidence: Evidence) -> None:
    """LOCK5: wherever a task is cancelled, the lock is free afterwards, and the file has the old or the new content."""
    run_all(name, store_path, [CANCELLED], evidence)
