"""The stores that are compared really keep what they are given, and the baseline really keeps every increment."""

import importlib.util
import itertools
import json
import time
from pathlib import Path

import pytest

from benchmarks import contention, timing
from benchmarks.contention import count_lost
from benchmarks.locks import LOCKS
from benchmarks.ours import RaisedLimits, RaisedLimitsWithoutBase, SessionStorePeer, WithoutBase
from benchmarks.peers import DiskCache, JsonWithFilelock, Peer, PickleDb, RawLimit, SqliteWal, TinyDb
from benchmarks.rounds import TurnFailedError
from benchmarks.runner import TOTAL_FIELD, Runner
from benchmarks.stores import COUNTER_KEY, MEDIUM, SMALL, StoreShape, generate_store
from benchmarks.workers import Crew, Worker

NOW_MS = 1_774_000_000_000
SHAPE = StoreShape("test", entries=9, size_bytes=20_000)


def _needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is in the dependency group `bench`, which is not installed")


PEERS = [
    SessionStorePeer,
    WithoutBase,
    RaisedLimits,
    RaisedLimitsWithoutBase,
    JsonWithFilelock,
    SqliteWal,
    pytest.param(TinyDb, marks=_needs("tinydb")),
    pytest.param(PickleDb, marks=_needs("pickledb")),
    pytest.param(DiskCache, marks=_needs("diskcache")),
]


@pytest.mark.parametrize("kind", PEERS)
def test_a_peer_keeps_its_sessions_and_every_increment_after_reopening(kind: type[Peer], tmp_path: Path) -> None:
    """What an adapter measures is a real update: another object that opens the same files finds it."""
    store = generate_store(SHAPE, newest_updated_at_ms=NOW_MS)
    kind.create(str(tmp_path), store.sessions)
    first = kind(str(tmp_path))
    assert dict(first.load_all()) == store.sessions
    for _ in range(3):
        first.increment(COUNTER_KEY, (TOTAL_FIELD, "writer0"))
    first.close()
    second = kind(str(tmp_path))
    entry = second.read_one(COUNTER_KEY)
    assert entry is not None
    assert (entry[TOTAL_FIELD], entry["writer0"]) == (3, 3)
    untouched = {key: value for key, value in second.load_all().items() if key != COUNTER_KEY}
    assert untouched == {key: value for key, value in store.sessions.items() if key != COUNTER_KEY}
    assert second.read_one("agent:nobody") is None
    second.close()


@pytest.mark.parametrize("kind", PEERS)
def test_a_read_sees_what_another_process_wrote_meanwhile(kind: type[Peer], tmp_path: Path) -> None:
    """Read-one is measured fresh: an adapter that served its own memory would win unfairly."""
    kind.create(str(tmp_path), generate_store(SHAPE, newest_updated_at_ms=NOW_MS).sessions)
    reader, writer = kind(str(tmp_path)), kind(str(tmp_path))
    before = reader.read_one(COUNTER_KEY)
    writer.increment(COUNTER_KEY, (TOTAL_FIELD,))
    after = reader.read_one(COUNTER_KEY)
    assert before is not None
    assert after is not None
    assert (before[TOTAL_FIELD], after[TOTAL_FIELD]) == (0, 1)
    writer.close()
    reader.close()


@pytest.mark.parametrize("kind", [JsonWithFilelock, SessionStorePeer, SqliteWal])
def test_safe_peers_keep_all_increments_of_three_processes(kind: type[Peer], tmp_path: Path) -> None:
    """The baseline is no straw man: with its lock, nothing that it acknowledged is lost."""
    store = generate_store(SMALL, newest_updated_at_ms=NOW_MS)
    names = ("writer0", "writer1", "writer2")
    with Crew(Runner, size=len(names)) as crew:
        crew.workers[0].call(Runner.create, kind, str(tmp_path), store.sessions)
        for worker in crew.workers:
            worker.call(Runner.open, kind, str(tmp_path))
        common = {"key": COUNTER_KEY, "start_at_ns": time.monotonic_ns(), "window_s": 0.3}
        results = crew.together(Runner.contend, [{"writer": name, **common} for name in names])
        crew.workers[0].call(Runner.open, kind, str(tmp_path))
        found = {name: crew.workers[0].call(Runner.field_of, COUNTER_KEY, name) for name in names}
        found_total = crew.workers[0].call(Runner.field_of, COUNTER_KEY, TOTAL_FIELD)
    acknowledged = {name: result.acknowledged for name, result in zip(names, results, strict=True)}
    assert [result.failure for result in results] == [""] * len(names)
    assert min(acknowledged.values()) > 0
    assert found_total == sum(acknowledged.values())
    assert count_lost(acknowledged=acknowledged, found=found, found_total=found_total) == 0


def test_the_raw_limit_writes_the_bytes_of_the_store(tmp_path: Path) -> None:
    """The limit that the store is held against replaces the same bytes as the store would write."""
    store = generate_store(SHAPE, newest_updated_at_ms=NOW_MS)
    RawLimit.create(str(tmp_path), store.sessions)
    before = (tmp_path / "sessions.json").stat()
    RawLimit(str(tmp_path)).increment(COUNTER_KEY, (TOTAL_FIELD,))
    assert (tmp_path / "sessions.json").read_bytes() == store.file_bytes
    assert (tmp_path / "sessions.json").stat().st_ino != before.st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["sessions.json"]


def test_generated_stores_are_the_same_everywhere_and_of_the_size_they_name() -> None:
    """Equal bytes at each run, within two percent of the size, with plain and other text, counter included."""
    first = generate_store(MEDIUM, newest_updated_at_ms=NOW_MS)
    assert first == generate_store(MEDIUM, newest_updated_at_ms=NOW_MS)
    assert abs(len(first.file_bytes) - MEDIUM.size_bytes) < MEDIUM.size_bytes * 0.02
    assert len(first.sessions) == MEDIUM.entries
    assert COUNTER_KEY in first.sessions
    assert json.loads(first.file_bytes) == first.sessions
    plain = [json.dumps(entry, ensure_ascii=False).isascii() for entry in first.sessions.values()]
    assert 0 < sum(plain) < len(plain)
    assert COUNTER_KEY in generate_store(SMALL, newest_updated_at_ms=NOW_MS).sessions


def test_spread_keys_come_from_all_over_the_file_and_differ_from_turn_to_turn() -> None:
    """Updates of neighbouring entries would flatter a store that re-reads only what changed."""
    store = generate_store(MEDIUM, newest_updated_at_ms=NOW_MS)
    places = [list(store.sessions).index(key) for turn in range(10) for key in store.keys_spread(count=5, start=turn)]
    assert len(set(places)) == 50
    assert min(places) < 10
    assert max(places) >= 90


def test_lost_increments_are_counted_by_writer_and_in_total() -> None:
    """An update that vanished shows in either sum; a file that cannot be read has lost everything."""
    acknowledged = {"a": 5, "b": 7}
    assert count_lost(acknowledged=acknowledged, found={"a": 5, "b": 7}, found_total=12) == 0
    assert count_lost(acknowledged=acknowledged, found={"a": 5, "b": 4}, found_total=12) == 3
    assert count_lost(acknowledged=acknowledged, found={"a": 5, "b": 7}, found_total=10) == 2
    assert count_lost(acknowledged=acknowledged, found={"a": None, "b": None}, found_total=None) == 12
    # An update that raised may have been applied all the same.
    assert count_lost(acknowledged=acknowledged, found={"a": 6, "b": 7}, found_total=13) == 0


@pytest.mark.parametrize("kind", list(LOCKS))
def test_a_measured_lock_excludes_its_second_holder(kind: str, tmp_path: Path) -> None:
    """Fairness of something that does not exclude would mean nothing: no two holds overlap."""
    SessionStorePeer.create(str(tmp_path), generate_store(SMALL, newest_updated_at_ms=NOW_MS).sessions)
    hold_s = 0.004
    with Crew(Runner, size=2) as crew:
        crew.restore()
        arguments: dict[str, object] = {
            "kind": kind,
            "directory": str(tmp_path),
            "start_at_ns": time.monotonic_ns() + 300_000_000,  # both are there by then, so that they contend
            "window_s": 0.2,
            "hold_s": hold_s,
        }
        results = crew.together(Runner.hold_lock, [arguments] * 2)
    held_ns = sorted(got for result in results for got in result.got_ns)
    gaps_ns = [later - earlier for earlier, later in itertools.pairwise(held_ns)]
    assert len(held_ns) >= 2
    assert min(gaps_ns) >= hold_s * 1e9


def test_a_worker_reports_the_error_of_its_call_and_goes_on() -> None:
    """A failing turn is a failed turn: the reason arrives, and the process is still there for the next one."""
    with Worker(Runner) as worker:
        with pytest.raises(TurnFailedError, match=r"time_updates failed: RuntimeError: no peer is open"):
            worker.call(Runner.time_updates, ["a"])
        worker.call(Runner.close)
        assert worker.usable
    assert not worker.usable


def test_a_worker_that_dies_is_a_failed_turn_and_is_replaced(tmp_path: Path) -> None:
    """A peer that crashes its process costs its own figures, not the run."""
    with Crew(Dying, size=2) as crew:
        with pytest.raises(TurnFailedError, match="died during leave"):
            crew.together(Dying.leave, [{}, {}])
        crew.restore()
        assert crew.together(Dying.stay, [{}, {}]) == ["here", "here"]
    with pytest.raises(TurnFailedError, match="cannot be built"), Worker(Unbuildable) as worker:
        worker.call(Unbuildable.stay)


class Dying:
    """A subject that can end its process."""

    def leave(self) -> None:
        raise SystemExit(3)

    def stay(self) -> str:
        return "here"


class Unbuildable(Dying):
    """A subject whose library is missing."""

    def __init__(self) -> None:
        raise ImportError("cannot be built")


def test_the_measured_peers_are_the_ones_that_are_tested_here() -> None:
    """Nobody is measured through an adapter that no test has opened twice."""
    tested = {getattr(kind, "values", (kind,))[0] for kind in PEERS}
    measured = {*timing.UPDATERS, *timing.READERS, *contention.KINDS} - {RawLimit}
    assert measured <= tested
