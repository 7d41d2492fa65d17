"""The store for asyncio programs: the same verbs, none of which blocks the event loop.

Waiting for one's turn among the tasks of the process needs no thread; only the head of each file's queue waits for
other processes. It does that, and the write's file work, in threads of its own, so that waiting writes cannot use up
the threads that other work of the program needs. Once a step of a write has begun, cancelling its task waits for the
outcome: no write is left half done in a thread that no one looks at.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar, overload

from sessionstore.draft import Draft
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot
from sessionstore.store import Edit, SessionStore, Stats, Updated, encode_all, refuse_unrun

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
            refuse_unrun(result)
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
        self._is_left_to_thread = False

    def updated(self, result: T) -> Updated[T]:
        """What the edit did, once it is over."""
        return self.sync.updated(result)

    async def __aenter__(self) -> Draft:
        edit = self.sync
        edit.claim()
        try:
            lock = await self._finish(edit.prepare_lock)
            lock.adopt_owner()
            await lock.acquire_turn()
            await self._finish(lock.acquire_from_kernel)
            lock.note_held()
            draft = await self._finish(edit.begin)
        except BaseException:
            self._release()
            raise
        return draft

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._finish(self.sync.publish)
        finally:
            self._release()

    def _release(self) -> None:
        if not self._is_left_to_thread:
            self.sync.release_twice()

    async def _finish(self, step: Callable[[], T]) -> T:
        """Do one blocking step of the write in a thread of its own, to its end.

        A cancellation is raised after it: the thread must not get the lock, or write, after the task has given the lock
        back. If the coroutine is closed, so that nobody comes back for the outcome, the thread gives the lock back.
        """
        work: concurrent.futures.Future[T] = concurrent.futures.Future()
        work.set_running_or_notify_cancel()
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(_do, step, work), name="sessionstore-edit").start()
        outcome = asyncio.wrap_future(work)
        cancelled: asyncio.CancelledError | None = None
        while not outcome.done():
            try:
                await asyncio.shield(outcome)
            except asyncio.CancelledError as error:  # noqa: PERF203 - each interruption is looked at
                cancelled = error
            except Exception:  # noqa: BLE001 - the step's own error, raised below
                break
            except BaseException:
                self._is_left_to_thread = True
                self.sync.leave_to_thread()
                work.add_done_callback(lambda _: self.sync.release_twice())
                raise
        if cancelled is not None:
            outcome.exception()  # looked at, so that it is not reported as lost
            raise cancelled
        return outcome.result()


def _do(step: Callable[[], T], work: concurrent.futures.Future[T]) -> None:
    try:
        result = step()
    except BaseException as error:  # noqa: BLE001 - handed to the task
        work.set_exception(error)
    else:
        work.set_result(result)
