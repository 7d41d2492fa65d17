"""What a process may keep of a store file, and when that may be served: promises CACHE1 to CACHE9, step by step.

Time stands still unless a test moves it (`tests.stateful.world`), so that ages, ticks and limits are exact.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from sessionstore.cache import MAX_PATHS
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


@pytest.mark.promise("CACHE6", "READ2")
@pytest.mark.parametrize("limit_bytes", [1_000_000, 10], ids=["kept", "oversized"])
def test_what_follows_the_cached_bytes_is_seen(one: World, limit_bytes: int) -> None:
    """CACHE6, READ2: a file that begins with what is cached and goes on is another version, valid or corrupt."""
    store = one.store(0, one.path(), object_cache_max_bytes=limit_bytes, **QUIET)
    cached = store.save({"k": {"n": 1}}).raw
    store.load()
    one.path().write_bytes(cached + b"\n")
    assert store.load().raw == cached + b"\n"
    one.path().write_bytes(cached + b" x")
    for verb in (store.load, lambda: store.read("k"), lambda: store.update(len), lambda: store.save({})):
        with pytest.raises(ValueError, match="follows the end"):
            verb()
    assert one.content(one.path()) == cached + b" x"


@pytest.mark.promise("WARN1")
def test_a_path_is_warned_about_once_whatever_its_limit_is_by_then(
    one: World, caplog: pytest.LogCaptureFixture
) -> None:
    """WARN1: a second limit gives no second warning, and TTL 0 or limit 0 gives none at all."""
    caplog.set_level("WARNING", logger="sessionstore")
    for number, off in enumerate(({"cache_ttl_ms": 0}, {"object_cache_max_bytes": 0})):
        quiet = one.store(0, one.path(f"{number}.json"), **{"object_cache_max_bytes": 1, **off}, **QUIET)
        quiet.save(sessions_of(500))
        quiet.load()
    assert "object cache disabled" not in caplog.text
    for limit_bytes in (100, 200, 300):
        store = one.store(0, one.path(), object_cache_max_bytes=limit_bytes, **QUIET)
        store.save(sessions_of(500))
        store.load()
    assert caplog.text.count("object cache disabled") == 1


@pytest.mark.promise("CACHE2")
def test_a_load_past_the_caches_drops_a_file_that_grew_over_the_limit(one: World) -> None:
    """CACHE2: it keeps nothing of what it read, and learns the size all the same."""
    store = one.store(0, one.path(), object_cache_max_bytes=600, **QUIET)
    small = store.save({"k": {"n": 1}}).raw
    one.path().write_bytes(json.dumps(sessions_of(700), indent=2, ensure_ascii=False).encode())
    store.load(skip_cache=True)
    assert held_contents(one.images[0].process, {small}) == 0
    assert (store.stats().cached_bytes, store.stats().cached_paths) == (0, 0)


@pytest.mark.promise("CACHE4")
def test_all_that_has_expired_is_freed_by_one_operation(one: World) -> None:
    """CACHE4: several files that have expired are all gone after the next operation on any file."""
    stores = [one.store(0, one.path(f"{number}.json"), cache_ttl_ms=1000, **QUIET) for number in range(3)]
    for store in stores:
        store.save({"k": {}})
    assert stores[0].stats().cached_paths == 3
    one.advance(1001 * MS)
    one.store(0, one.path("other.json"), cache_ttl_ms=1000, **QUIET).load()
    assert (stores[0].stats().cached_paths, stores[0].stats().cached_bytes) == (0, 0)


@pytest.mark.promise("CACHE6")
def test_after_the_clock_was_set_back_the_bytes_decide_again(one: World) -> None:
    """CACHE6: a clock that goes through the same times twice gives the same stamps twice."""
    store = settled_store(one)
    store.load()
    reads = store.stats().file_reads
    one.step_wall(-1000 * MS)
    store.load()
    assert store.stats().file_reads == reads + 1


class _Meeting(set[str]):
    """A set whose question takes so long that two threads ask it at once, if nothing keeps them apart."""

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2)

    def __contains__(self, key: object) -> bool:
        known = super().__contains__(key)
        with contextlib.suppress(threading.BrokenBarrierError):
            self._both.wait(0.2)
        return known


@pytest.mark.promise("WARN1")
def test_of_two_threads_that_race_to_be_first_one_is() -> None:
    """WARN1: what was said once is looked up and noted in one step."""
    seen, first = _Meeting(), []
    threads = [
        threading.Thread(target=lambda: first.append(process.PROCESS.first_time(seen, "path"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(first) == [False, True]


@pytest.mark.promise("CACHE6")
@pytest.mark.parametrize("first", ["save", "load"])
def test_a_file_that_has_settled_is_read_once_more_and_then_believed(one: World, first: str) -> None:
    """CACHE6: what was kept of a young file is proven by its bytes once it has settled, then by its stamps."""
    store = one.store(0, one.path(), **QUIET)
    if first == "save":
        store.save({"k": {"n": 1}})
    else:
        one.path().write_bytes(b'{"k": {"n": 1}}')
        store.load()
    one.advance(SETTLE_NS)
    reads = store.stats().file_reads
    for _ in range(3):
        assert store.load()["k"] == {"n": 1}
    assert store.stats().file_reads == reads + 1


@pytest.mark.promise("CACHE5")
@pytest.mark.parametrize("bound", ["paths", "bytes"])
@pytest.mark.parametrize("use", ["load", "read", "update"])
def test_what_was_used_least_recently_goes_first(one: World, bound: str, use: str) -> None:
    """CACHE5: a file that is only looked at again outlives one that was stored after it."""
    limits = {"object_cache_max_bytes": 3 * 27} if bound == "bytes" else {}
    count = 3 if bound == "bytes" else MAX_PATHS
    stores = [one.store(0, one.path(f"{number}.json"), **limits, **QUIET) for number in range(count + 1)]
    for store in stores[:count]:
        assert len(store.save({"k": {"n": 1}}).raw) == 27
    one.advance(SETTLE_NS)
    for store in stores[:count]:
        store.load()  # from now on believed without being read, and so not stored again
    {"load": stores[0].load, "read": lambda: stores[0].read("k"), "update": lambda: stores[0].update(len)}[use]()
    stores[count].save({"k": {"n": 1}})
    assert stores[0].stats().cached_paths == count
    parses = [(store.load(), store.stats().parses)[1] for store in stores[:2]]
    assert parses == [0, 1], "of the first two files, the first one was used again"


@pytest.mark.promise("CACHE6")
def test_after_the_clock_was_set_back_positions_are_not_believed_either(one: World) -> None:
    """CACHE6: of an oversized file, too, the bytes decide until its stamps mean something again."""
    store = settled_store(one, object_cache_max_bytes=14 + 32)
    one.path().write_bytes(b'{"k": {"n": 1, "text": "longer than the limit, by far"}}')
    one.advance(SETTLE_NS)
    store.load()
    store.read("k")
    reads = store.stats().file_reads
    one.step_wall(-1000 * MS)
    store.read("k")
    assert store.stats().file_reads == reads + 1


@pytest.mark.promise("CACHE6")
def test_a_session_that_was_added_to_an_oversized_file_is_found(one: World) -> None:
    """CACHE6: positions that are kept say that a session is missing only while the file is the one they are of."""
    store = one.store(0, one.path(), object_cache_max_bytes=100, **QUIET)
    sessions: dict[str, Any] = {"k": {"text": "x" * 200}}
    store.save(sessions)
    one.advance(SETTLE_NS)
    store.load()
    assert store.read("new") is None
    one.path().write_text(json.dumps({**sessions, "new": {"n": 1}}, indent=2))
    assert store.read("new") == {"n": 1}


@pytest.mark.promise("WARN1")
def test_too_many_paths_to_remember_are_warned_about_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """WARN1: when the memory for warnings is full, a path is told of not at all rather than at every operation."""
    monkeypatch.setattr(process, "MAX_REMEMBERED_WARNINGS", 2)
    seen: set[str] = set()
    told = [process.PROCESS.first_time(seen, path) for path in ("a", "b", "c", "c", "a")]
    assert told == [True, True, False, False, False]
    assert len(seen) == 2


@pytest.mark.promise("CACHE5", "SET3")
@pytest.mark.parametrize(("short", "kept"), [(0, 4000), (1, 0)], ids=["at the limit", "one byte over"])
def test_the_limit_of_file_bytes_is_inclusive(one: World, short: int, kept: int) -> None:
    """CACHE5, SET3: a file as large as all file bytes that may be kept is kept, of one byte more no bytes are."""
    store = one.store(0, one.path(), serialized_cache_max_bytes=4000 - short, **QUIET)
    store.save(sessions_of(4000))
    store.load()
    assert held_contents(one.images[0].process, {one.content(one.path()) or b""}) == kept
