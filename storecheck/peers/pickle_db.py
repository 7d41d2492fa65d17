"""pickleDB: the file is loaded into memory, changed there, and saved whole.

pickleDB hands its file calls to the worker threads of an asyncio loop, one after the other. Here a loop of a few lines
does them where they are asked for: the same calls in the same order, by code of pickleDB's and aiofiles' alone, and
with nothing else that waits in the real system.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

import pickledb

T = TypeVar("T")


class _Done:
    """What was asked of a worker thread, done."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def __await__(self) -> Generator[None, None, Any]:
        yield from ()
        return self._result


class _InlineLoop:
    """As much of an event loop as aiofiles and `asyncio.to_thread` want."""

    def run_in_executor(self, executor: object, function: Callable[..., Any], *arguments: Any) -> _Done:  # noqa: ARG002
        """Call it now."""
        return _Done(function(*arguments))


@contextlib.contextmanager
def _running() -> Iterator[None]:
    """Let this loop be the running one. Not by asyncio's own way, which knows threads but no simulated processes."""
    loop = _InlineLoop()
    modules: tuple[Any, ...] = (asyncio, asyncio.events, pickledb.aiofiles.base)
    originals = [module.get_running_loop for module in modules]
    try:
        for module in modules:
            module.get_running_loop = lambda: loop
        yield
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.get_running_loop = original


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine, which never has to wait."""
    with _running():
        try:
            coroutine.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
    coroutine.close()
    raise RuntimeError("pickleDB waits for something that this adapter does not know")


class Adapter:
    """See `storecheck.peers.protocol`. pickleDB's documentation says nothing of several processes."""

    promises = ("reads", "kills", "errors")

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, "pickle.json")
        self._db = pickledb.PickleDB(self._path)

    def load(self) -> dict[str, str]:
        """Everything, from the file."""
        return _run(self._load())

    async def _load(self) -> dict[str, str]:
        await self._db.load()
        return {key: await self._db.get(key) for key in await self._db.all()}

    def update(self, session: str, version: str) -> str | None:
        """Set one session."""

        async def change() -> str | None:
            before = (await self._load()).get(session)
            await self._db.set(session, version)
            await self._db.save()
            return before

        return _run(change())

    def save(self, sessions: dict[str, str]) -> None:
        """Replace everything."""

        async def change() -> None:
            await self._db.purge()
            for key, version in sessions.items():
                await self._db.set(key, version)
            await self._db.save()

        _run(change())

    def close(self) -> None:
        """Nothing stays open."""
