"""The bytes of one version of the file, in chunks that versions share.

Replacing one entry of an 8 MB file makes one new chunk; all others are the old version's. So a write copies little,
two versions in memory take hardly more than one, and a chunk's digest is computed once in its life. Immutable.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from itertools import accumulate

CHUNK_BYTES = 96 * 1024
"""Largest chunk. Below the 128 KiB from which malloc maps every block anew: a freed chunk's memory serves the next one,
so that a process that reads and writes for days stays as large as it was."""

MIN_CHUNK_BYTES = 16 * 1024
"""Smaller ones are merged with the next one, so that many changes do not leave many crumbs."""


class Content:
    """The bytes of one version."""

    __slots__ = ("_starts", "chunks", "size_bytes")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        """Take the chunks as they are.

        Args:
            chunks: not empty ones, at most `CHUNK_BYTES` long.
        """
        self.chunks = tuple(chunks)
        ends = list(accumulate(map(len, self.chunks)))
        self._starts = [0, *ends]
        self.size_bytes = ends[-1] if ends else 0

    @classmethod
    def of(cls, raw: bytes) -> Content:
        """The content that these bytes are."""
        return cls(raw[start : start + CHUNK_BYTES] for start in range(0, len(raw), CHUNK_BYTES))

    @classmethod
    def assembled(cls, parts: Iterable[bytes | Slice]) -> Content:
        """New bytes and slices of other contents in a row, sharing what chunks it can."""
        chunks: list[bytes] = []
        pending: list[bytes] = []
        pending_bytes = 0
        for part in parts:
            if isinstance(part, bytes):
                pending.append(part)
                pending_bytes += len(part)
                continue
            for chunk, is_whole in part.content.cut(part.start, part.end):
                is_shared = is_whole and len(chunk) >= MIN_CHUNK_BYTES
                if is_shared and pending and pending_bytes >= MIN_CHUNK_BYTES:
                    chunks += _evenly_cut(b"".join(pending))
                    pending, pending_bytes = [], 0
                if is_shared and not pending:
                    chunks.append(chunk)
                else:
                    pending.append(chunk)
                    pending_bytes += len(chunk)
        chunks += _evenly_cut(b"".join(pending))
        return cls(chunks)

    def joined(self) -> bytes:
        """All of it in one piece: a copy, unless it is one chunk."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    def latin1(self, start: int, end: int) -> str:
        """The bytes from `start` to `end` as latin-1 text, a character a byte."""
        return "".join(chunk.decode("latin-1") for chunk, _ in self.cut(start, end))

    def slice(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`."""
        return b"".join([chunk for chunk, _ in self.cut(start, end)])

    def cut(self, start: int, end: int) -> Iterator[tuple[bytes, bool]]:
        """What of each chunk is between `start` and `end`, and whether that is all of it."""
        chunks, starts = self.chunks, self._starts
        number = bisect.bisect_right(starts, start) - 1
        end = min(end, self.size_bytes)
        while start < end:
            chunk_start, stop = starts[number], starts[number + 1]
            if start == chunk_start and stop <= end:
                yield chunks[number], True
            else:
                stop = min(stop, end)
                yield chunks[number][start - chunk_start : stop - chunk_start], False
            start, number = stop, number + 1

    def is_same(self, other: Content) -> bool:
        """Whether the bytes are equal."""
        return self.size_bytes == other.size_bytes and common_prefix(self, other) == self.size_bytes

    def is_ascii(self) -> bool:
        """Whether every byte is an ASCII character."""
        return all(map(bytes.isascii, self.chunks))


class Slice:
    """The bytes of a content from `start` to `end`, not copied."""

    __slots__ = ("content", "end", "start")

    def __init__(self, content: Content, start: int, end: int) -> None:
        self.content = content
        self.start = start
        self.end = end


def common_prefix(one: Content, other: Content) -> int:
    """How many bytes both begin with."""
    position = 0
    for chunk in one.chunks:
        against = other.slice(position, position + len(chunk))
        if chunk != against:
            return position + _equal_bytes(chunk, against)
        position += len(chunk)
    return position


def common_suffix(one: Content, other: Content, limit: int) -> int:
    """How many bytes, up to `limit`, both end with."""
    length = 0
    for chunk in reversed(one.chunks):
        part = chunk[max(0, len(chunk) - (limit - length)) :] if limit - length < len(chunk) else chunk
        if not part:
            break
        end = other.size_bytes - length
        against = other.slice(end - len(part), end)
        if part != against:
            return length + _equal_bytes(part[::-1], against[::-1])
        length += len(part)
    return length


def _equal_bytes(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _evenly_cut(raw: bytes) -> list[bytes]:
    if len(raw) <= CHUNK_BYTES:
        return [raw] if raw else []
    count = -(-len(raw) // CHUNK_BYTES)
    size = -(-len(raw) // count)
    return [raw[start : start + size] for start in range(0, len(raw), size)]
