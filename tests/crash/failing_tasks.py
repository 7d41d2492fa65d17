"""Runs an asynchronous operation of the store with one failing call, on a real disk, and looks at what must hold then.

As `failing_calls`, but no event loop runs in the simulated machine, so here a real loop, real threads and real files;
only the names `os` and `fcntl` in the store's modules lead through an injector. In the place of a signal the task is
cancelled at a call.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.crashes import FILE, RECOVERED_KEY, STRAY_SUFFIX, key_of, store_bytes
from models.mutants import active_transform
from sessionstore import AsyncSessionStore, SessionStore, Settings, UnknownOutcomeError
from sessionstore.process import PROCESS
from storecheck.faults import Failure, Injector, one_by_one
from storecheck.machine import MOUNT
from storecheck.report.document import Aftermath
from storecheck.report.faults import MadeCall, Trial, call_name, column_of, shown_call, shown_error, shown_path
from storecheck.report.points import Places
from storecheck.schedule import Fault
from tests.crash.failing_calls import NEXT, alike, shown_version
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


def is_of_the_store(path: str) -> bool:
    """Whether a line is the store's own, and not one of these tests."""
    return "sessionstore/" in path and "tests/" not in path


class RealCalls(Injector):
    """An injector for calls that are made for real, from whatever thread, and that are noted.

    Attributes:
        calls: those made while it is armed.
        places: finds the lines of the store that made them.
    """

    def __init__(self, failure: Failure, *, at: int, root: Path, task: Callable[[], None] | None = None) -> None:
        super().__init__(failure, at=at)
        self.calls: list[MadeCall] = []
        self.places = Places(active_transform())
        self._root = str(root)
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
        noted = self._note(name, arguments) if self.armed else None
        hits = len(self.hits)
        try:
            return self._made(name, call, arguments, options)
        except BaseException as error:
            if noted is not None:
                noted.error = self._local(shown_error(error))
            raise
        finally:
            if noted is not None:
                noted.injected = len(self.hits) > hits

    def _note(self, name: str, arguments: tuple[Any, ...]) -> MadeCall:
        local = [self._local(each) if isinstance(each, str) else each for each in arguments]
        paths: dict[object, str] = {}
        if arguments and isinstance(arguments[0], int) and os.path.lexists(f"/proc/self/fd/{arguments[0]}"):
            paths[arguments[0]] = self._local(os.readlink(f"/proc/self/fd/{arguments[0]}"))
        verb, what = shown_call(name, local, paths)
        stack = self.places.stack(sys._getframe(2))
        place = next((str(each) for each in reversed(stack) if is_of_the_store(each.path)), "")
        call = MadeCall(name=name, verb=verb, what=what, place=place)
        self.calls.append(call)
        return call

    def _local(self, text: str) -> str:
        text = text.replace(self._root, MOUNT).removesuffix(" (deleted)")
        return re.sub(r"\.bak\.\d+", ".bak.*", text)  # named by the time

    def _made(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
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


async def attempt(name: str, path: Path, failure: Failure, at: int) -> tuple[RealCalls, BaseException | None]:
    """One operation with one failing call, or one at which its task is cancelled; what it raised."""
    store = AsyncSessionStore(path, SETTINGS)
    await store.load()
    task: asyncio.Future[Any] = asyncio.ensure_future(OPERATIONS[name](store))
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        loop.call_soon_threadsafe(task.cancel)

    injector = RealCalls(failure, at=at, root=path.parent, task=cancel if failure is CANCELLED else None)
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


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation with one failing call, and what came of it."""

    name: str
    path: Path
    injector: RealCalls
    error: BaseException | None
    finished: bytes
    open_before: int

    def __str__(self) -> str:
        return f"{self.name}, {self.injector}, raised {self.error!r}"

    @property
    def operation(self) -> str:
        """The operation as a call."""
        return f"{self.name.partition(' ')[0]}()"

    @property
    def ended(self) -> str:
        """How it ended."""
        return "returned" if self.error is None else f"raised {self.shown_error()}"

    def shown_error(self) -> str:
        """What it raised, without the directory of this run."""
        return "" if self.error is None else shown_error(self.error).replace(f"{self.path.parent}/", "")


def run_once(name: str, path: Path, finished: bytes, failure: Failure, at: int) -> Attempt:
    """Run an operation on the store as it was at the beginning."""
    for entry in path.parent.iterdir():
        entry.unlink()
    path.write_bytes(BEFORE)
    PROCESS.swept_ns.clear()
    open_before = descriptors()
    injector, error = asyncio.run(attempt(name, path, failure, at))
    return Attempt(name, path, injector, error, finished, open_before)


def undisturbed(name: str, path: Path) -> bytes:
    """The file as the operation leaves it when nothing fails."""
    run = run_once(name, path, b"", Failure(kind="short"), 10**9)
    assert run.error is None
    return path.read_bytes()


def every_call(name: str, path: Path, failure: Failure) -> Iterator[Attempt]:
    """The operation with its first call failing, then its second, until there is none; the last one is undisturbed."""
    finished = undisturbed(name, path)
    for injector in one_by_one(failure):
        run = run_once(name, path, finished, failure, injector.at)
        injector.hits = run.injector.hits
        yield run


def problems_of(run: Attempt) -> list[Aftermath]:
    """Everything about a run that breaks a promise."""
    return [each for each in aftermath(run) if each.problem]


def aftermath(run: Attempt) -> Iterator[Aftermath]:
    """What there was before the operation and afterwards, and what of it breaks a promise. The store is used again."""
    after, finished = run.path.read_bytes(), run.finished
    wrong = _problems_with_error(run, is_published=after == finished != BEFORE, is_done=after == finished)
    ended = "reported success" if run.error is None else run.ended
    yield Aftermath(what=run.operation, before="", after=ended, problem="; ".join(wrong))
    yield Aftermath(
        what=FILE,
        before=shown_version(BEFORE, before=BEFORE, finished=finished),
        after=shown_version(after, before=BEFORE, finished=finished),
        problem="" if after in (BEFORE, finished) else f"the file is neither old nor new: {after!r:.80}",
    )
    left = [name for name in os.listdir(run.path.parent) if name.endswith(STRAY_SUFFIX)]
    excused = run.injector.hit("unlink", "scandir", "listdir")
    yield Aftermath(
        what="files beside it",
        before="",
        after=", ".join(map(shown_path, left)) or "none of its own",
        problem=f"{run.operation} leaves {shown_path(left[0])} behind" if left and not excused else "",
    )
    more = descriptors() - run.open_before
    yield Aftermath(
        what="descriptors",
        before="none of its own",
        after=f"{more} more" if more else "none of its own",
        problem=f"{more} descriptors are still open" if more else "",
    )
    if after in (BEFORE, finished):
        problem = _problem_afterwards(run, after)
        yield Aftermath(what=NEXT, before="", after="differs" if problem else "an update works", problem=problem)


def _problem_afterwards(run: Attempt, after: bytes) -> str:
    PROCESS.cache.check()
    store = SessionStore(run.path, Settings(maintenance_mode="off", lock_timeout_s=0))
    there = json.loads(after)
    if dict(store.load()) != there:
        return "the cache is not the file"
    try:
        store.update(lambda draft: draft.__setitem__(RECOVERED_KEY, {}))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from its update
        return f"the next update() raises {shown_error(error)}"
    if json.loads(run.path.read_bytes()) != there | {RECOVERED_KEY: {}}:
        return "the next update did not do what it should"
    return ""


def _problems_with_error(run: Attempt, *, is_published: bool, is_done: bool) -> list[str]:
    injector, error = run.injector, run.error
    failure = injector.failure
    if error is None:
        survivable = failure.kind == "short" or failure is CANCELLED or is_survivable(failure, injector.hits)
        problems = [] if survivable else [f"{run.operation} reports success"]
        return problems if is_done else [*problems, "there is no error, but the work is not done"]
    if failure is CANCELLED:
        return [] if isinstance(error, asyncio.CancelledError) else [f"the cancelled task raises {run.shown_error()}"]
    if not isinstance(error, OSError):
        return [f"what {run.operation} raises is no OSError: {run.shown_error()}"]
    if is_published != isinstance(error, UnknownOutcomeError):
        published = "the new content is in place" if is_published else "nothing was published"
        return [f"{published}, but the error does not say so: {run.shown_error()}"]
    return []


def trials(name: str, failure: Failure) -> list[Trial]:
    """The operation with each of its calls failing in each way of that kind."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for each in (CANCELLED,) if failure is CANCELLED else alike(failure):
            for run in every_call(name, Path(scratch, FILE), each):
                problem = next((it.problem for it in problems_of(run)), "")
                came = "success" if run.error is None else type(run.error).__name__
                if run.injector.hits:
                    call = call_name(run.injector.calls)
                    how = "cancelled" if each is CANCELLED else column_of(each)
                    trial = Trial(call=call, failure=each, how=how, came=came, problem=problem.partition(": ")[0])
                    found.append(trial)
    return found
