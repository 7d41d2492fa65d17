"""Digest of a file's content that is cheap to bring up to date.

SHA-256 over segments of the content, so that after one entry changed only its segment is hashed again instead of
megabytes. Two contents have equal digests only if every segment is equal: as strong as SHA-256 over the whole. Not
comparable between processes: where the segments lie depends on the history of the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sessionstore.content import Content

MIN_SEGMENT_BYTES = 64 * 1024
MAX_SEGMENTS = 256
"""Segments of a newly hashed content; bounds the memory of a digest to about 20 KB for a file of any size."""


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """SHA-256 of consecutive segments: `(length in bytes, digest)` of each."""

    segments: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, content: Content) -> ContentDigest:
        """Digest of `content`."""
        return cls(_hash_segments(content, 0, content.size_bytes))

    def matches(self, raw: bytes) -> bool:
        """Whether `raw` is the content that this is the digest of."""
        if sum(length for length, _ in self.segments) != len(raw):
            return False
        view, start = memoryview(raw), 0
        for length, digest in self.segments:
            if hashlib.sha256(view[start : start + length]).digest() != digest:
                return False
            start += length
        return True

    def spliced(self, content: Content, *, start: int, removed: int, inserted: int) -> ContentDigest:
        """Digest of `content`, which is the old one with `removed` bytes at `start` replaced by `inserted` others."""
        first, first_start, position = 0, 0, 0
        last = len(self.segments)
        for number, (length, _) in enumerate(self.segments):
            end = position + length
            if end <= start:
                first, first_start = number + 1, end
            position = end
            if position >= start + removed:
                last = number + 1
                break
        last = max(first, last)
        hashed_end = max(position, start + removed) + inserted - removed
        spliced = ContentDigest(
            self.segments[:first] + _hash_segments(content, first_start, hashed_end) + self.segments[last:]
        )
        # Appending in small pieces leaves small segments behind; too many of them and all are laid out anew.
        return spliced if len(spliced.segments) <= 2 * MAX_SEGMENTS else ContentDigest.of(content)


def _hash_segments(content: Content, start: int, end: int) -> tuple[tuple[int, bytes], ...]:
    step = max(MIN_SEGMENT_BYTES, -(-content.size_bytes // MAX_SEGMENTS))
    return tuple(
        (min(step, end - position), hashlib.sha256(content.slice(position, min(position + step, end))).digest())
        for position in range(start, end, step)
    )
