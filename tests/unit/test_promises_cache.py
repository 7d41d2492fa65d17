"""What a process may keep of a store file, and when that may be served: promises CACHE1 to CACHE9, step by step.

Time stands still unless a test moves it (`tests.stateful.world`), so that ages, ticks and limits are exact.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionstore import AsyncSessionStore, SessionStore, Settings, process
from sessionstore.files import Identity
from tests.concurrency.crew import wait_until
from tests.stateful.world import SETTLE_NS, World, held_contents

MS = 1_000_000
QUIET = {"maintenance_mode": "off"}


@pytest.fixture
def one() -> Iterator[World]:
    """A world with one process."""
    world = World()
    yield world
    world.close()


@pytest.fixture
def two() -> Iterator[World]:
    """A world with two processes."""
    world = World(images=2)
    yield world
    world.close()


def sessions_of(size_bytes: int) -> dict[str, dict[str, Any]]:
    """One session in a file of exactly that many bytes, most of them of characters of two bytes each."""
    empty = len(json.dumps({"k": {"text": ""}}, indent=2))
    room = size_bytes - empty
    return {"k": {"text": "é" * (room // 2) + "x" * (room % 2)}}


WAYS: dict[str, Callable[[Any, dict[str, dict[str, Any]]], object]] = {
    "load": lambda store, _: store.load(),
    "save": lambda store, sessions: store.save(sessions),
    "update": lambda store, sessions: store.update(lambda draft: draft.update(sessions)),
}


@pytest.mark.promise("CACHE1", "CACHE3")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over", [0, 1], ids=["at the limit", "one byte over"])
def test_the_limit_is_in_bytes_and_inclusive(one: World, way: str, over: int) -> None:
    """CACHE1, CACHE3: a file of exactly the limit is kept, of one byte more no bytes are, whatever brought it."""
    limit_bytes = 4000
    sessions = sessions_of(limit_bytes + over)
    if way == "load":
        one.path().write_text(json.dumps(sessions, indent=2, ensure_ascii=False), encoding="utf-8")
    store = one.store(0, one.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    WAYS[way](store, sessions)
    content = one.content(one.path()) or b""
    assert len(content) == limit_bytes + over
    assert len(content.decode()) < limit_bytes
    held = held_contents(one.images[0].process, {content})
    assert held == (0 if over else len(content))
    assert store.stats().cached_bytes == (32 + len("k") if over else len(content))
    one.images[0].process.cache.check()


@pytest.mark.promise("CACHE2")
@pytest.mark.parametrize("learned_by", ["load", "update"])
def test_a_file_that_grows_over_the_limit_is_dropped(one: World, learned_by: str) -> None:
    """CACHE2: once an operation has met the grown file, nothing is held of the small one that it was."""
    store = one.store(0, one.path(), object_cache_max_bytes=600, **QUIET)
    small = store.save({"k": {"n": 1}}).raw
    assert store.stats().cached_bytes == len(small)
    # So many sessions that not even their positions fit.
    one.path().write_text(json.dumps({f"session-{number}": {} for number in range(60)}, indent=2))
    if learned_by == "load":
        store.load()
    else:
        store.update(len)
    assert (store.stats().cached_bytes, store.stats().cached_paths) == (0, 0)
    assert held_contents(one.images[0].process, {small}) == 0


@pytest.mark.promise("CACHE2")
def test_a_limit_that_falls_under_the_file_drops_it(one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHE2: the next operation on the file drops what the new limit does not admit."""
    store = one.store(0, one.path())
    store.save(sessions_of(5000))
    content = one.content(one.path()) or b""
    assert held_contents(one.images[0].process, {content}) == 5000
    monkeypatch.setenv("OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES", "4999")
    store.load()
    assert held_contents(one.images[0].process, {content}) == 0


def settled_store(world: World, **settings: Any) -> Any:
    """A store whose file is old enough for its stat identity to be trusted, and cached."""
    world.path().write_bytes(b'{"k": {"n": 1}}')
    store = world.store(0, world.path(), **QUIET, **settings)
    world.advance(SETTLE_NS)
    store.load()
    return store


def hits_of(store: Any) -> int:
    """How many loads the cache spared the parsing."""
    hits: int = store.stats().object_hits
    return hits


@pytest.mark.promise("CACHE4")
def test_what_is_as_old_as_the_lifetime_is_served_and_older_is_not(one: World) -> None:
    """CACHE4: age = TTL is a hit; one nanosecond more is none, and the record is gone."""
    store = settled_store(one, cache_ttl_ms=1000)
    one.advance(1000 * MS)
    store.load()
    assert (hits_of(store), store.stats().file_reads) == (1, 1)
    one.advance(1)
    other = one.store(0, one.path("other.json"), cache_ttl_ms=1000, **QUIET)
    other.load()
    assert store.stats().cached_paths == 0, "an operation on another path leaves it there"
    store.load()
    assert hits_of(store) == 1


@pytest.mark.promise("CACHE4")
def test_hits_do_not_prolong_a_life(one: World) -> None:
    """CACHE4: however often it is used, a record ends when its time is over."""
    store = settled_store(one, cache_ttl_ms=1000)
    for _ in range(4):
        one.advance(250 * MS)
        store.load()
    assert (hits_of(store), store.stats().file_reads) == (4, 1)
    one.advance(1 * MS)
    store.load()
    assert (hits_of(store), store.stats().file_reads) == (4, 2)


@pytest.mark.promise("CACHE4")
@pytest.mark.parametrize("step_ns", [10**15, -(10**15)], ids=["forward", "back"])
def test_the_wall_clock_does_not_matter_for_ages(one: World, step_ns: int) -> None:
    """CACHE4: a clock that is set forward ages nothing, and one that is set back keeps nothing alive."""
    store = settled_store(one, cache_ttl_ms=1000)
    one.step_wall(step_ns)
    store.stats()
    other = one.store(0, one.path("other.json"), cache_ttl_ms=1000, **QUIET)
    other.load()
    assert store.stats().cached_paths == 1
    one.advance(1001 * MS)
    other.load()
    assert store.stats().cached_paths == 0


@pytest.mark.promise("CACHE5")
def test_the_byte_count_is_what_is_held(one: World) -> None:
    """CACHE5: after every operation `cached_bytes` is the sum of the sizes of the files that are kept."""
    paths = [one.path(f"{number}.json") for number in range(3)]
    store = None
    for round_number in range(1, 5):
        for number, path in enumerate(paths):
            store = one.store(0, path, **QUIET)
            store.update(lambda draft, n=round_number * (number + 1): draft.update({"k": {"text": "x" * n}}))
            store.load()
            expected = sum(len(one.content(path) or b"") for path in paths)
            assert (store.stats().cached_bytes, store.stats().cached_paths) == (
                expected,
                sum(path.exists() for path in paths),
            )
            one.images[0].process.cache.check()
    for number, path in enumerate(paths):
        path.unlink()
        assert store is not None
        one.store(0, path, **QUIET).load()
        assert store.stats().cached_paths == len(paths) - number - 1
    assert store is not None
    assert store.stats().cached_bytes == 0


def rewrite_in_place(path: Path, content: bytes) -> None:
    """As `open(path, "r+b")` and a copy with `cp` do: the same inode."""
    with open(path, "r+b") as file:
        file.write(content)
        file.truncate()


def replace_by_rename(path: Path, content: bytes) -> None:
    """As editors do: another inode."""
    temporary = path.with_name("foreign.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@pytest.mark.promise("CACHE6")
@pytest.mark.parametrize("rewrite", [rewrite_in_place, replace_by_rename], ids=["in place", "by rename"])
@pytest.mark.parametrize("stamp", ["kept", "new"])
def test_a_rewrite_of_the_same_size_is_seen(one: World, rewrite: Callable[[Path, bytes], None], stamp: str) -> None:
    """CACHE6: whatever becomes of the time of modification, the next load returns the new content."""
    store = settled_store(one)
    before = os.stat(one.path())
    rewrite(one.path(), b'{"k": {"n": 2}}')
    if stamp == "kept":
        os.utime(one.path(), ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert store.load()["k"] == {"n": 2}
    one.advance(SETTLE_NS)
    assert store.load()["k"] == {"n": 2}


@pytest.mark.promise("CACHE6")
@pytest.mark.parametrize("rewrite", [rewrite_in_place, replace_by_rename], ids=["in place", "by rename"])
def test_a_file_that_is_older_than_what_is_cached_is_seen(
    store_path: Path, rewrite: Callable[[Path, bytes], None]
) -> None:
    """CACHE6: a backup that is copied back with its old times is another version."""
    store_path.write_bytes(b'{"k": {"n": 1}}')
    wait_until(lambda: Identity.of(os.stat(store_path)).is_settled(time.time_ns()), what="the file is old enough")
    store = SessionStore(store_path, Settings(maintenance_mode="off"))
    store.load()
    an_hour_ago_ns = os.stat(store_path).st_mtime_ns - 3_600_000_000_000
    rewrite(store_path, b'{"k": {"n": 2}}')
    os.utime(store_path, ns=(an_hour_ago_ns, an_hour_ago_ns))
    assert store.load()["k"] == {"n": 2}


class ForeignWriter:
    """Runs an action of another program right before the n-th system call of this thread."""

    NAMES = ("open", "close", "read", "lseek", "stat", "fstat", "lstat")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
        self.calls = 0
        self._number = number
        self._action = action
        self._thread = threading.get_ident()
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == self._thread:
                self.calls += 1
                if self.calls == self._number:
                    self._action()
            return real(*arguments, **options)

        return call


@pytest.mark.promise("CACHE6")
def test_a_foreign_writer_at_any_moment_of_a_load_is_seen_by_the_next(store_path: Path) -> None:
    """CACHE6: a load may return what was there before or after the rename, the one after it only the new content."""
    number = 0
    while True:
        number += 1
        replace_by_rename(store_path, b'{"k": {"n": 1}}')
        wait_until(lambda: Identity.of(os.stat(store_path)).is_settled(time.time_ns()), what="the file is old enough")
        process.reset()
        store = SessionStore(store_path, Settings(maintenance_mode="off"))
        with pytest.MonkeyPatch.context() as patched:
            writer = ForeignWriter(patched, number, lambda: replace_by_rename(store_path, b'{"k": {"n": 2}}'))
            during = store.load()["k"]["n"]
        if writer.calls < number:
            break
        assert during in {1, 2}
        assert store.load()["k"] == {"n": 2}, f"stale after a rename before call {number} of the load"
    assert number > 5, "a load makes more system calls than that"


@pytest.mark.promise("CACHE7")
def test_editing_what_a_call_returned_changes_nothing_else(one: World) -> None:
    """CACHE7: not the cache, not the snapshot itself, not what the next caller gets, not what is written next."""
    store = settled_store(one)
    expected = {"k": {"n": 1}}
    snapshot = store.load()
    for entry in (snapshot["k"], store.read("k"), store.load()["k"], dict(snapshot)["k"], *snapshot.values()):
        entry["n"] = "edited"
    assert [dict(snapshot), dict(store.load()), {"k": store.read("k")}] == [expected] * 3
    done = store.update(lambda draft: draft.update({"other": {}}), base=snapshot)
    assert dict(done.snapshot) == dict(store.load(skip_cache=True)) == {"k": {"n": 1}, "other": {}}


@pytest.mark.promise("CACHE7")
def test_editing_what_was_handed_in_changes_nothing(one: World) -> None:
    """CACHE7: neither a saved mapping nor an entry given to a draft is looked at again."""
    store = one.store(0, one.path(), **QUIET)
    sessions: dict[str, dict[str, Any]] = {"k": {"list": [1], "deep": {"x": 1}}}
    saved = store.save(sessions)
    entry: dict[str, Any] = {"list": [1]}
    with store.edit() as draft:
        draft["added"] = entry
    sessions["k"]["list"].append("edited")
    sessions["k"]["deep"]["x"] = "edited"
    entry["list"].append("edited")
    assert dict(saved) == {"k": {"list": [1], "deep": {"x": 1}}}
    assert dict(store.load()) == dict(store.load(skip_cache=True)) == {**dict(saved), "added": {"list": [1]}}


@pytest.mark.promise("CACHE7")
def test_what_an_awaited_save_writes_is_what_it_was_given(store_path: Path) -> None:
    """CACHE7: edits between the beginning of an asynchronous save and its end are not written."""

    async def scenario() -> None:
        store = AsyncSessionStore(store_path, Settings(maintenance_mode="off"))
        sessions = {"k": {"n": 1}}
        async with store.edit():
            saving = asyncio.create_task(store.save(sessions))
            await asyncio.sleep(0)
            sessions["k"]["n"] = 2
        assert dict(await saving) == {"k": {"n": 1}}

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert json.loads(store_path.read_bytes()) == {"k": {"n": 1}}


@pytest.mark.promise("CACHE9", "WRITE5")
@pytest.mark.parametrize("failing", ["replace", "fsync", "write"])
def test_a_failed_write_leaves_no_cache_ahead_of_the_file(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """CACHE9, WRITE5: the error is raised, and file, cache and the next writer know only the old content."""
    store = SessionStore(store_path, Settings(maintenance_mode="off", lock_timeout_s=0.0))
    store.save({"k": {"n": 1}})
    wait_until(lambda: Identity.of(os.stat(store_path)).is_settled(time.time_ns()), what="the file is old enough")
    store.load()
    with monkeypatch.context() as patched:
        patched.setattr(os, failing, refuse)
        with pytest.raises(OSError, match="No space") as caught:
            store.update(lambda draft: draft["k"].update(n=2))
    assert caught.value.errno == errno.ENOSPC
    assert dict(store.load()) == dict(store.load(skip_cache=True)) == {"k": {"n": 1}}
    assert sorted(os.listdir(store_path.parent)) == ["sessions.json", "sessions.json.flock"]
    assert store.update(lambda draft: draft["k"].update(n=2)).written
    assert store.load()["k"] == {"n": 2}


def refuse(*_: object, **__: object) -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
