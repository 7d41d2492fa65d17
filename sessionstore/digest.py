"""Digest of a file's content that is cheap to bring up to date.

SHA-256 of each chunk of the content. A new version shares most chunks with the one before, and their digests. Two
contents have equal digests only if every chunk is equal: as strong as SHA-256 over the whole. Not comparable between
processes: where the chunks lie depends on the history of the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import accumulate, pairwise

from sessionstore.content import Content


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """SHA-256 of consecutive chunks: `(length in bytes, digest)` of each."""

    segments: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, content: Content, *, like: tuple[Content, ContentDigest] | None = None) -> ContentDigest:
        """Digest of `content`.

        Args:
            content: what to digest.
            like: another content and its digest; chunks that both contents share are not digested again.
        """
        known: dict[int, bytes] = {}
        if like is not None:
            # By identity: the other content keeps its chunks alive meanwhile, so no number is used twice.
            known = {id(chunk): digest for chunk, (_, digest) in zip(like[0].chunks, like[1].segments, strict=True)}
        return cls(
            tuple((len(chunk), known.get(id(chunk)) or hashlib.sha256(chunk).digest()) for chunk in content.chunks)
        )

    def matches(self, content: Content) -> bool:
        """Whether `content` is the one that this is the digest of."""
        laid_out = self.laid_out(content)
        return laid_out is not None and ContentDigest.of(laid_out) == self

    def laid_out(self, content: Content) -> Content | None:
        """`content` in the chunks that this is a digest of, so that it can stand for them; None if sizes differ."""
        if sum(length for length, _ in self.segments) != content.size_bytes:
            return None
        ends = list(accumulate((length for length, _ in self.segments), initial=0))
        return Content(content.slice(start, end) for start, end in pairwise(ends))
