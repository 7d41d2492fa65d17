"""The model of the caches says what it should: known answers, written out by hand."""

from __future__ import annotations

from models.caches import NS_PER_MS, Base, CacheModel, File, Identity, Instant, Limits, Work, positions_cost_bytes
from models.strategies import render

HOUR_NS = 3_600_000_000_000
STAMP_NS = 1_774_000_000_123_456_789
LIMITS = Limits(object_cache_max_bytes=1000, cache_ttl_ms=100, serialized_cache_max_bytes=5000)


def at(monotonic_ms: float) -> Instant:
    """An instant an hour after the files' stamps: their identities are settled."""
    return Instant(
        monotonic_ns=int(monotonic_ms * NS_PER_MS), wall_ns=STAMP_NS + HOUR_NS + int(monotonic_ms * NS_PER_MS)
    )


def file(content: bytes = b'{"a": {}}', *, inode: int = 1, stamp_ns: int = STAMP_NS) -> File:
    """A file as `stat` and a read show it."""
    return File(content, Identity(1, inode, len(content), stamp_ns, stamp_ns))


def big(size_bytes: int) -> bytes:
    """A store file of exactly that many bytes with the one session `agent`."""
    frame = render([("agent", {"x": ""})], "compact")
    return render([("agent", {"x": "y" * (size_bytes - len(frame))})], "compact")


MISS = Work(file_reads=1, parses=1, object_misses=1)


def test_a_second_load_is_a_hit() -> None:
    """The first load parses, the second does nothing but look at the identity."""
    model = CacheModel()
    assert model.load("p", file(), limits=LIMITS, at=at(0)) == MISS
    assert model.load("p", file(), limits=LIMITS, at=at(1)) == Work(object_hits=1)
    assert (model.cached_bytes, model.cached_paths, model.held_sizes_bytes) == (9, 1, [9])


def test_age_equal_to_the_lifetime_is_served_and_one_more_is_not() -> None:
    """Hits do not renew; `age > ttl` expires, on any path."""
    model = CacheModel()
    model.load("p", file(), limits=LIMITS, at=at(0))
    model.load("q", file(inode=2), limits=LIMITS, at=at(50))
    assert model.load("p", file(), limits=LIMITS, at=at(100)).object_hits == 1
    assert model.load("q", file(inode=2), limits=LIMITS, at=at(100.000001)).object_hits == 1
    assert model.cached_paths == 1


def test_a_young_file_is_read_again_but_not_parsed() -> None:
    """Inside the racy window the bytes decide; a read renews age and identity."""
    model = CacheModel()
    young = Instant(monotonic_ns=0, wall_ns=STAMP_NS + 20_000_000 - 1)
    model.load("p", file(), limits=LIMITS, at=young)
    assert model.load("p", file(), limits=LIMITS, at=at(60)) == Work(file_reads=1, object_hits=1)
    assert model.load("p", file(), limits=LIMITS, at=at(160)) == Work(object_hits=1)
    assert model.load("p", file(b'{"b": {}}', inode=2), limits=LIMITS, at=at(160)) == MISS


def test_whole_second_stamps_need_seconds() -> None:
    """A coarse stamp is trusted only after two of the coarsest ticks that it may come from."""
    coarse = Identity(1, 1, 9, STAMP_NS // 10**9 * 10**9, STAMP_NS // 10**9 * 10**9)
    assert not coarse.settled(coarse.mtime_ns + 4_019_999_999)
    assert coarse.settled(coarse.mtime_ns + 4_020_000_000)


def test_the_limit_is_bytes_and_inclusive() -> None:
    """A file of exactly the limit is held whole; one byte more leaves positions only, and warns once."""
    model = CacheModel()
    assert not model.load("p", file(big(1000)), limits=LIMITS, at=at(0)).warns
    assert model.held_sizes_bytes == [1000]
    assert model.load("p", file(big(1001), inode=2), limits=LIMITS, at=at(1)).warns
    assert (model.held_sizes_bytes, model.cached_bytes) == ([], 32 + len("agent"))
    assert model.load("p", file(big(1001), inode=2), limits=LIMITS, at=at(2)) == Work(file_reads=1, object_hits=1)
    assert model.read("p", file(big(1001), inode=2), key="agent", limits=LIMITS, at=at(3)) == Work(object_hits=1)


def test_positions_that_do_not_fit_are_not_held() -> None:
    """Positions count against the limit: 32 bytes and the key of each entry."""
    limits = Limits(object_cache_max_bytes=36, cache_ttl_ms=100)
    model = CacheModel()
    model.load("p", file(big(500)), limits=limits, at=at(0))
    assert model.cached_paths == 0
    assert positions_cost_bytes(render([("ü", {}), ("\ud800", {})], "ours")) == 32 + 2 + 32 + 3


def test_switched_off_caches_hold_nothing_and_never_warn() -> None:
    """Limit 0 or lifetime 0."""
    for limits in (Limits(object_cache_max_bytes=0), Limits(cache_ttl_ms=0)):
        model = CacheModel()
        model.load("p", file(), limits=LIMITS, at=at(0))
        assert model.load("p", file(big(2_000_000), inode=2), limits=limits, at=at(0)) == MISS
        assert model.cached_paths == 0


def test_the_least_recently_used_leaves_first() -> None:
    """The 65th path pushes out the one used longest ago; so does a byte too many."""
    model = CacheModel()
    limits = Limits(object_cache_max_bytes=9 * 65)
    for number in range(64):
        model.load(str(number), file(), limits=limits, at=at(0))
    model.load("0", file(), limits=limits, at=at(0))
    model.load("64", file(), limits=limits, at=at(0))
    assert "1" not in model.records
    assert {"0", "64"} <= set(model.records)
    model.load("0", file(), limits=Limits(object_cache_max_bytes=9), at=at(0))
    assert list(model.records) == ["0"]


def test_a_write_refreshes_and_a_failed_one_changes_nothing() -> None:
    """After a write the new content is held; after a mutator that raised, what was there before."""
    model = CacheModel()
    old, new = file(), file(b'{"a": {"n": 1}}', inode=2)
    model.load("p", old, limits=LIMITS, at=at(0))
    held = dict(model.records)
    failed = model.write("p", old, old, limits=LIMITS, at=at(1), wrote=False, failure="mutator")
    assert (failed, model.records) == (Work(file_reads=1), held)
    wrote = model.write("p", old, new, limits=LIMITS, at=at(1), wrote=True)
    assert wrote == Work(file_reads=1, writes=1)
    assert model.records["p"].content == new.content


def test_a_matching_base_saves_the_parse() -> None:
    """A base with the file's bytes is reused; any other is read and parsed."""
    limits = Limits(object_cache_max_bytes=0)
    for content, expected in ((file().content, Work(1, 0, 1, 0, 1)), (b"{}", Work(1, 1, 0, 0, 1))):
        base = Base(content)
        assert CacheModel().write("p", file(), file(), limits=limits, at=at(0), base=base, wrote=False) == expected
    assert CacheModel().write("p", None, None, limits=limits, at=at(0), base=Base(None), wrote=False).snapshot_reuses


def test_a_clock_set_back_ends_the_trust() -> None:
    """Stamps may come again after the wall clock was set back, so the bytes are read."""
    model = CacheModel()
    model.load("p", file(), limits=LIMITS, at=at(0))
    back = Instant(monotonic_ns=NS_PER_MS, wall_ns=STAMP_NS + HOUR_NS - 10 * NS_PER_MS)
    assert model.load("p", file(), limits=LIMITS, at=back) == Work(file_reads=1, object_hits=1)
