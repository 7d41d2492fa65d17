"""What a process keeps in memory between operations, and for how long.

One record per store file, least recently used out first. A file of at most the limit is kept whole: its bytes and
where its entries are, which together are the parsed store. Of a larger one only identity, digest and, if they fit,
the positions of the entries. The accounting is exact: `held_bytes` is the sum of what each record costs, and every
change of a record goes through `_remove` and `put`.

Not a promise of freshness: whoever takes a record from here compares its identity or its bytes with the file.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

from sessionstore.content import Content
from sessionstore.digest import ContentDigest
from sessionstore.files import FileVersion, Identity, OpenFile
from sessionstore.settings import Settings
from sessionstore.snapshot import Index, Snapshot

MAX_PATHS = 64


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant on both clocks, in nanoseconds."""

    monotonic_ns: int
    wall_ns: int

    @property
    def wall_offset_ns(self) -> int:
        """How far the wall clock is ahead; changes only when that clock is set."""
        return self.wall_ns - self.monotonic_ns


_CLOCK_TOLERANCE_NS = 5_000_000  # well inside the racy window; clocks that are slewed drift less while a record lives


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one version of one file.

    Attributes:
        identity: stat identity of that version.
        settled: whether the identity can stand for the bytes.
        stored: when the bytes were read or written.
        index: where the entries are.
        content: the bytes, unless the file is oversized.
        digest: of the bytes, if they are not kept.
    """

    identity: Identity
    settled: bool
    stored: Moment
    index: Index
    content: Content | None
    digest: ContentDigest | None

    @property
    def cost_bytes(self) -> int:
        """What this record counts against the limits."""
        return self.index.cost_bytes if self.content is None else self.content.size_bytes

    def is_trusted(self, now: Moment) -> bool:
        """Whether an equal identity proves that the file still has these bytes.

        A wall clock that was set back hands out the same time stamps again.
        """
        return self.settled and now.wall_offset_ns >= self.stored.wall_offset_ns - _CLOCK_TOLERANCE_NS

    @property
    def held_bytes(self) -> int:
        """Bytes of the file that are kept."""
        return 0 if self.content is None else self.content.size_bytes

    def is_of_version(self, snapshot: Snapshot) -> bool:
        """Whether this is known, without a look at bytes, to be about the version that `snapshot` holds."""
        if self.content is None:
            return self.digest is not None and self.digest is snapshot.digest
        return self.content is snapshot.content

    def found_in(self, file: OpenFile) -> tuple[Content, FileVersion] | None:
        """The content that this record is about, if the file holds just that now; else None. By bytes, not by stat."""
        if self.content is None:
            return None if self.digest is None else file.read_if(self.digest)
        version = file.holds(self.content)
        return None if version is None else (self.content, version)

    def recognised(self, content: Content, *, is_vouched_for: bool) -> Content | None:
        """`content` in this record's chunks if it is what the record is about, else None.

        Args:
            content: the file's bytes, just read.
            is_vouched_for: the identity has proven it already.
        """
        if self.content is not None:
            return self.content if is_vouched_for or self.content.is_same(content) else None
        laid_out = None if self.digest is None else self.digest.laid_out(content)
        if laid_out is None or is_vouched_for:
            return laid_out
        return laid_out if ContentDigest.of(laid_out) == self.digest else None


class Cache:
    """The records of one process. Not thread-safe: the caller holds the process's mutex."""

    def __init__(self) -> None:
        self._records: collections.OrderedDict[str, Record] = collections.OrderedDict()
        self._held_bytes = 0
        self._raw_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Sum of what is held."""
        return self._held_bytes

    @property
    def paths(self) -> int:
        """Files of which something is held."""
        return len(self._records)

    def begin(self, now: Moment, settings: Settings) -> None:
        """What every operation does first: free what has expired or no longer fits, of any file."""
        if not is_enabled(settings):
            self.clear()
            return
        ttl_ns = settings.cache_ttl_ms * 1_000_000
        expired = [
            path for path, record in self._records.items() if now.monotonic_ns - record.stored.monotonic_ns > ttl_ns
        ]
        for path in expired:
            self._remove(path)
        self._make_room(settings)

    def get(self, path: str, *, settings: Settings) -> Record | None:
        """The record of `path`, now the most recently used, unless the limit has dropped under what it holds."""
        record = self._records.get(path)
        if record is None:
            return None
        if record.content is not None and not _fits_whole(record.content.size_bytes, settings):
            self._remove(path)
            return None
        self._records.move_to_end(path)
        return record

    def put(self, path: str, record: Record, settings: Settings) -> None:
        """Keep `record`, or of it what the limits admit, in the place of what was kept for `path`."""
        self._remove(path)
        if not is_enabled(settings):
            return
        if record.content is not None and not _fits_whole(record.content.size_bytes, settings):
            raise ValueError("an oversized record holds bytes")
        if record.cost_bytes > settings.object_cache_max_bytes:
            return
        self._records[path] = record
        self._held_bytes += record.cost_bytes
        self._raw_bytes += record.held_bytes
        self._make_room(settings)

    def drop(self, path: str) -> None:
        """Keep nothing of `path`."""
        self._remove(path)

    def clear(self) -> None:
        """Keep nothing."""
        self._records.clear()
        self._held_bytes = self._raw_bytes = 0

    def _make_room(self, settings: Settings) -> None:
        while self._records and (
            len(self._records) > MAX_PATHS
            or self._held_bytes > settings.object_cache_max_bytes
            or self._raw_bytes > settings.serialized_cache_max_bytes
        ):
            self._remove(next(iter(self._records)))

    def _remove(self, path: str) -> None:
        record = self._records.pop(path, None)
        if record is not None:
            self._held_bytes -= record.cost_bytes
            self._raw_bytes -= record.held_bytes

    def check(self) -> None:
        """Raise `AssertionError` if the accounting is not exactly what is held."""
        held = sum(record.cost_bytes for record in self._records.values())
        raw = sum(record.held_bytes for record in self._records.values())
        if (held, raw) != (self._held_bytes, self._raw_bytes):
            raise AssertionError(f"accounted {self._held_bytes} and {self._raw_bytes} bytes, held are {held} and {raw}")


def is_enabled(settings: Settings) -> bool:
    """Whether anything may be kept at all."""
    return settings.cache_ttl_ms > 0 and settings.object_cache_max_bytes > 0


def is_oversized(size_bytes: int, settings: Settings) -> bool:
    """Whether a file of this size is never kept whole, however much room there is."""
    return size_bytes > settings.object_cache_max_bytes


def _fits_whole(size_bytes: int, settings: Settings) -> bool:
    return not is_oversized(size_bytes, settings) and size_bytes <= settings.serialized_cache_max_bytes


def record_of(version: FileVersion, snapshot: Snapshot, *, stored: Moment, settings: Settings) -> Record:
    """What may be kept of a version that was just read or written."""
    content, index, digest = snapshot.content, snapshot.index, snapshot.digest
    if content is None:
        raise ValueError("there is nothing to keep of a missing file")
    whole = _fits_whole(content.size_bytes, settings)
    if not whole and digest is None and index.cost_bytes <= settings.object_cache_max_bytes:
        digest = ContentDigest.of(content)
    return Record(
        version.identity,
        version.settled,
        stored,
        index,
        content if whole else None,
        None if whole else digest,
    )
