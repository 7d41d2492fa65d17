"""The store for asyncio programs: the same verbs, none of which blocks the event loop.

Waiting for one's turn among the tasks of the process needs no thread, so that any number of waiting tasks cannot use
up the threads in which the holder does its work; only the head of that queue waits for other processes, and that and
all file work happens in `asyncio.to_thread`. Once a write has begun to publish, cancelling its task waits for the
outcome: a write is not left half done in a thread that no one looks at.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from sessionstore.draft import Draft
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot
from sessionstore.store import Edit, SessionStore, Stats, Updated, encode_all

T = TypeVar("T")


class AsyncSessionStore:
    """`SessionStore` with coroutines. See there for what each verb promises and raises."""

    def __init__(self, path: str | os.PathLike[str], settings: Settings | None = None) -> None:
        self._store = SessionStore(path, settings)

    @property
    def path(self) -> str:
        """The file's absolute path as given, links not followed."""
        return self._store.path

    async def load(self, *, skip_cache: bool = False) -> Snapshot:
        """The whole store as it is now."""
        return await asyncio.to_thread(self._store.load, skip_cache=skip_cache)

    async def read(self, key: str) -> dict[str, Any] | None:
        """One session's entry, or None."""
        return await asyncio.to_thread(self._store.read, key)

    def edit(self, *, base: Snapshot | None = None, active_session: str | None = None) -> AsyncEdit:
        """An asynchronous context manager: the lock is held while its block runs, awaits included."""
        return AsyncEdit(self._store.edit(base=base, active_session=active_session))

    @overload
    async def update(
        self,
        mutator: Callable[[Draft], Coroutine[Any, Any, T]],
        *,
        base: Snapshot | None = None,
        active_session: str | None = None,
    ) -> Updated[T]: ...

    @overload
    async def update(
        self, mutator: Callable[[Draft], T], *, base: Snapshot | None = None, active_session: str | None = None
    ) -> Updated[T]: ...

    async def update(
        self, mutator: Callable[[Draft], Any], *, base: Snapshot | None = None, active_session: str | None = None
    ) -> Updated[Any]:
        """Apply `mutator`, a function or a coroutine function, to a draft of the newest content and publish it."""
        edit = self.edit(base=base, active_session=active_session)
        async with edit as draft:
            result = mutator(draft)
            if inspect.isawaitable(result):
                result = await result
        return edit.updated(result)

    async def save(self, sessions: Mapping[str, Mapping[str, Any]], *, active_session: str | None = None) -> Snapshot:
        """Replace the whole content by `sessions`."""
        # Here, not in the thread: from this line on the caller may change what it handed in.
        encoded = encode_all(sessions)
        edit = self.edit(active_session=active_session)
        async with edit as draft:
            edit.sync.replace_all(encoded)
        return draft.snapshot

    def stats(self) -> Stats:
        """Counters of this object and what its process holds, as of now."""
        return self._store.stats()

    def close(self) -> None:
        """End the use of this object and free what the process caches of its file."""
        self._store.close()

    async def __aenter__(self) -> AsyncSessionStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class AsyncEdit:
    """A write by a task: from taking the lock to giving it back. Made by `AsyncSessionStore.edit`, used once."""

    def __init__(self, edit: Edit) -> None:
        self.sync = edit

    def updated(self, result: T) -> Updated[T]:
        """What the edit did, once it is over."""
        return self.sync.updated(result)

    async def __aenter__(self) -> Draft:
        edit = self.sync
        try:
            lock = await asyncio.to_thread(edit.prepare_lock)
            lock.adopt_owner()
            await lock.acquire_turn()
            # Not left alone when cancelled: the thread would get the lock after its task had given it back.
            await _finish(asyncio.to_thread(lock.acquire_from_kernel))
            lock.note_held()
            return await _finish(asyncio.to_thread(edit.begin))
        except BaseException:
            edit.release_twice()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await _finish(asyncio.to_thread(self.sync.publish))
        finally:
            self.sync.release_twice()


async def _finish(work: Awaitable[T]) -> T:
    """Await `work` to its end, also when cancelled meanwhile; the cancellation is raised after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:  # noqa: PERF203 - each interruption is looked at
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001 - the task's own error, raised below
            break
    if cancelled is not None:
        task.exception()  # looked at, so that it is not reported as lost
        raise cancelled
    return task.result()
