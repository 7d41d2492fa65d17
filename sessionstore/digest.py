"""Digest of a file's content that is cheap to bring up to date.

SHA-256 of each chunk of the content. A new version shares most chunks with the one before, and their digests. Two
contents have equal digests only if every chunk is equal: as strong as SHA-256 over the whole. Not comparable between
processes: where the chunks lie depends on the history of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from sessionstore.content import Content


@dataclass(frozen=True, slots=True)
class ContentDigest:
    """SHA-256 of consecutive chunks: `(length in bytes, digest)` of each."""

    segments: tuple[tuple[int, bytes], ...]

    @property
    def size_bytes(self) -> int:
        """Length of the content."""
        return sum(length for length, _ in self.segments)

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
        unknown = [chunk for chunk in content.chunks if id(chunk) not in known]
        known.update(zip(map(id, unknown), _sha256_of_each(unknown), strict=True))
        return cls(tuple((len(chunk), known[id(chunk)]) for chunk in content.chunks))

    def matches(self, content: Content) -> bool:
        """Whether `content` is the one that this is the digest of."""
        laid_out = self.laid_out(content)
        return laid_out is not None and ContentDigest.of(laid_out) == self

    def laid_out(self, content: Content) -> Content | None:
        """`content` in the chunks that this is a digest of, so that it can stand for them; None if sizes differ."""
        if self.size_bytes != content.size_bytes:
            return None
        ends = list(accumulate((length for length, _ in self.segments), initial=0))
        return Content(content.slice(start, end) for start, end in pairwise(ends))


_WORTH_A_THREAD_BYTES = 1024 * 1024  # half of it takes a processor several times as long as starting a thread


def _sha256_of_each(chunks: Sequence[bytes]) -> list[bytes]:
    """The digest of each chunk. Of many, a second thread makes half: hashlib lets others run while it works."""
    if sum(map(len, chunks)) < _WORTH_A_THREAD_BYTES:
        return list(map(_sha256, chunks))
    half = len(chunks) // 2
    made: list[bytes] = []
    thread = threading.Thread(target=lambda: made.extend(map(_sha256, chunks[:half])), daemon=True)
    # Refused while the interpreter is ending, or if the process has all the threads it may have.
    with contextlib.suppress(RuntimeError):
        thread.start()
    others = list(map(_sha256, chunks[half:]))
    if thread.ident is not None:
        thread.join()
    return [*made, *map(_sha256, chunks[len(made) : half]), *others]


def _sha256(chunk: bytes) -> bytes:
    return hashlib.sha256(chunk).digest()
