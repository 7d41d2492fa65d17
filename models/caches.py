"""What one process may hold of its stores, serve from memory and warn about.

The model keeps, for each resolved path, what the contract lets the store keep: the file's content as last seen, when
it was seen, and under which stat identity. It is told the truth about the file at each operation and predicts exactly
the work that the operation does (reads, parses, hits), what is held afterwards, and whether the warning is due.
Content itself comes from `models.specification`; this model only compares it.

Time is two clocks, as for the store: the monotonic clock measures ages, the wall clock judges whether a stat identity
can be trusted. It does not model concurrency: one operation at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from models.specification import (
    DEFAULT_CACHE_TTL_MS,
    DEFAULT_OBJECT_CACHE_MAX_BYTES,
    DEFAULT_SERIALIZED_CACHE_MAX_BYTES,
    FailureKind,
    is_corrupt,
    normalise,
    parse,
)

MAX_PATHS = 64
POSITION_BYTES = 32  # what one entry's position counts for, besides its key
NS_PER_MS = 1_000_000

RACY_WINDOW_NS = 20_000_000
COARSE_WINDOWS_NS = ((1_000_000_000, 4_000_000_000), (10_000_000, 200_000_000))
"""A stamp that is a multiple of the first may come from a clock with a tick as coarse as half the second."""

CLOCK_TOLERANCE_NS = 5_000_000  # a wall clock that is slewed is not set back

Held = Literal["bytes", "positions"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The cache settings of one operation."""

    object_cache_max_bytes: int = DEFAULT_OBJECT_CACHE_MAX_BYTES
    cache_ttl_ms: int = DEFAULT_CACHE_TTL_MS
    serialized_cache_max_bytes: int = DEFAULT_SERIALIZED_CACHE_MAX_BYTES

    @property
    def enabled(self) -> bool:
        """Whether anything may be held at all."""
        return self.object_cache_max_bytes > 0 and self.cache_ttl_ms > 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What `stat` says of the file, as the process under test sees it."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    def settled(self, wall_ns: int) -> bool:
        """Whether a version read at this wall time can be recognised by its identity from then on."""
        return all(stamp + _window_ns(stamp) <= wall_ns for stamp in (self.mtime_ns, self.ctime_ns))


def _window_ns(stamp_ns: int) -> int:
    for multiple_ns, window_ns in COARSE_WINDOWS_NS:
        if stamp_ns % multiple_ns == 0:
            return window_ns + RACY_WINDOW_NS
    return RACY_WINDOW_NS


@dataclass(frozen=True, slots=True)
class File:
    """A store file at one moment."""

    content: bytes
    identity: Identity

    @property
    def size_bytes(self) -> int:
        """Bytes, not characters."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Instant:
    """The two clocks when an operation starts."""

    monotonic_ns: int
    wall_ns: int

    @property
    def wall_offset_ns(self) -> int:
        """Changes only when the wall clock is set."""
        return self.wall_ns - self.monotonic_ns


@dataclass(frozen=True, slots=True)
class Base:
    """The snapshot that an update is given: its content, None if there was no file."""

    content: bytes | None


@dataclass(frozen=True, slots=True)
class Record:
    """What is held for one path."""

    content: bytes  # what the record stands for; the store holds these bytes only if `held` is "bytes"
    held: Held
    cost_bytes: int
    identity: Identity
    settled: bool
    seen: Instant

    def trusted(self, now: Instant) -> bool:
        """Whether an equal identity proves equal bytes. A wall clock that was set back repeats its stamps."""
        return self.settled and now.wall_offset_ns >= self.seen.wall_offset_ns - CLOCK_TOLERANCE_NS


@dataclass(frozen=True, slots=True)
class Work:
    """What an operation does, as `stats()` counts it, and whether it logs the warning."""

    file_reads: int = 0
    parses: int = 0
    snapshot_reuses: int = 0
    writes: int = 0
    noop_writes: int = 0
    object_hits: int = 0
    object_misses: int = 0
    warns: bool = False

    def __add__(self, other: Work) -> Work:
        return Work(
            file_reads=self.file_reads + other.file_reads,
            parses=self.parses + other.parses,
            snapshot_reuses=self.snapshot_reuses + other.snapshot_reuses,
            writes=self.writes + other.writes,
            noop_writes=self.noop_writes + other.noop_writes,
            object_hits=self.object_hits + other.object_hits,
            object_misses=self.object_misses + other.object_misses,
            warns=self.warns or other.warns,
        )


def positions_cost_bytes(content: bytes) -> int:
    """What the positions of a file's entries count for."""
    return sum(POSITION_BYTES + len(raw.key.encode("utf-8", "surrogatepass")) for raw in parse(content))


@dataclass(slots=True)
class CacheModel:
    """The caches of one process image: `records` by resolved path, least recently used first."""

    records: dict[str, Record] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)

    @property
    def cached_bytes(self) -> int:
        """What `stats().cached_bytes` must say."""
        return sum(record.cost_bytes for record in self.records.values())

    @property
    def cached_paths(self) -> int:
        """What `stats().cached_paths` must say."""
        return len(self.records)

    @property
    def held_sizes_bytes(self) -> list[int]:
        """Sizes of the files whose bytes the process really holds."""
        return [len(record.content) for record in self.records.values() if record.held == "bytes"]

    # --- operations

    def load(self, path: str, file: File | None, *, limits: Limits, at: Instant) -> Work:
        """A load: everything is wanted."""
        return self._look(path, file, limits=limits, at=at)

    def read(self, path: str, file: File | None, *, key: str, limits: Limits, at: Instant) -> Work:
        """A read of one entry: of a file held as positions, one slice is enough, if the session has one spelling."""
        return self._look(path, file, limits=limits, at=at, wanted=key)

    def load_past_cache(self, path: str, file: File | None, *, limits: Limits, at: Instant) -> Work:
        """A load with `skip_cache`: always reads and parses, counts neither hit nor miss, warns of nothing."""
        self._begin(limits, at)
        self._touch(path)
        record = self.records.get(path)
        grown = file is not None and file.size_bytes > limits.object_cache_max_bytes
        if file is None or (grown and record is not None and record.held == "bytes"):
            self.records.pop(path, None)
        return Work() if file is None else Work(file_reads=1, parses=1)

    def write(
        self,
        path: str,
        before: File | None,
        after: File | None,
        *,
        limits: Limits,
        at: Instant,
        base: Base | None = None,
        wrote: bool,
        failure: FailureKind | None = None,
    ) -> Work:
        """An update, edit or save that got as far as taking the lock.

        Args:
            path: resolved.
            before: the file when the lock was taken.
            after: the file when the call returned.
            limits: the settings of the operation.
            at: when it started.
            base: the snapshot given as base.
            wrote: whether the specification says that the file is replaced.
            failure: how the specification says that the operation fails. A mutator that raised, or left what cannot be
                stored, changes no cache.
        """
        self._begin(limits, at)
        self._touch(path)
        record = self.records.get(path)
        reused = base is not None and base.content == (None if before is None else before.content)
        work = Work(snapshot_reuses=1) if reused else Work()
        if before is None:
            self.records.pop(path, None)
        else:
            known = reused or (record is not None and record.content == before.content)
            work += Work(file_reads=1, parses=0 if known else 1) + self._warning(path, before, limits)
        if failure == "corrupt":
            self.records.pop(path, None)
        if failure is not None:
            return work
        if wrote:
            assert after is not None
            self._keep(path, after, limits=limits, at=at, just_written=True)
            return work + Work(writes=1) + self._warning(path, after, limits)
        if before is not None:
            self._keep(path, before, limits=limits, at=at)
        return work + Work(noop_writes=1)

    # --- rules

    def _look(self, path: str, file: File | None, *, limits: Limits, at: Instant, wanted: str | None = None) -> Work:
        self._begin(limits, at)
        self._touch(path)
        record = self.records.get(path)
        if file is None:
            self.records.pop(path, None)
            return Work(object_misses=1)
        warning = self._warning(path, file, limits)
        if record is not None and record.trusted(at) and record.identity == file.identity:
            one_slice = wanted is not None and len(_spellings(file.content, wanted)) < 2
            if record.held == "bytes" or one_slice:
                return Work(object_hits=1) + warning
        known = record is not None and record.content == file.content
        self._keep(path, file, limits=limits, at=at)
        if is_corrupt(file.content):
            return Work(file_reads=1, parses=1) + warning
        return (Work(object_hits=1) if known else Work(object_misses=1, parses=1)) + Work(file_reads=1) + warning

    def _touch(self, path: str) -> None:
        if path in self.records:
            self.records[path] = self.records.pop(path)

    def _begin(self, limits: Limits, at: Instant) -> None:
        """What every operation does first: free what is too old, on any path, and what the limits no longer allow."""
        self.records = {
            path: record
            for path, record in self.records.items()
            if limits.enabled and at.monotonic_ns - record.seen.monotonic_ns <= limits.cache_ttl_ms * NS_PER_MS
        }
        self._shrink(limits)

    def _keep(self, path: str, file: File, *, limits: Limits, at: Instant, just_written: bool = False) -> None:
        """Hold what may be held of the file now; it becomes the most recently used."""
        self.records.pop(path, None)
        held = held_as(file.content, limits)
        if held is None:
            return
        self.records[path] = Record(
            content=file.content,
            held=held,
            cost_bytes=file.size_bytes if held == "bytes" else positions_cost_bytes(file.content),
            identity=file.identity,
            settled=not just_written and file.identity.settled(at.wall_ns),
            seen=at,
        )
        self._shrink(limits)

    def _shrink(self, limits: Limits) -> None:
        """Drop the least recently used until all bounds hold."""
        while self.records and (
            self.cached_paths > MAX_PATHS
            or self.cached_bytes > limits.object_cache_max_bytes
            or sum(self.held_sizes_bytes) > limits.serialized_cache_max_bytes
        ):
            del self.records[next(iter(self.records))]

    def _warning(self, path: str, file: File, limits: Limits) -> Work:
        """The warning, once per path: a file larger than a limit that is in force."""
        if not limits.enabled or file.size_bytes <= limits.object_cache_max_bytes or path in self.warned:
            return Work()
        self.warned.add(path)
        return Work(warns=True)


def _spellings(content: bytes, key: str) -> list[str]:
    return [raw.key for raw in parse(content) if normalise(raw.key) == normalise(key)]


def held_as(content: bytes, limits: Limits) -> Held | None:
    """What may be held of a file with this content, if anything."""
    if not limits.enabled or is_corrupt(content):
        return None
    if len(content) <= min(limits.object_cache_max_bytes, limits.serialized_cache_max_bytes):
        return "bytes"
    return "positions" if positions_cost_bytes(content) <= limits.object_cache_max_bytes else None
