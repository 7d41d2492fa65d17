"""The bytes of one version of the file, in as few or as many pieces as its last changes left.

Replacing one entry of an 8 MB file leaves two large slices of the old bytes with new ones between. Writing needs no
more than that, so the bytes are only copied into one buffer when someone asks for them so, or when the pieces become
many or keep much alive that is no longer part of the content. Immutable for whoever looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_PIECES = 16
MAX_KEPT_ALIVE = 2
"""Pieces may keep alive buffers of this many times the content's size, and of `_FREE_BYTES` in any case."""

_FREE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of `buffer`."""

    buffer: bytes
    start: int
    end: int


class Content:
    """The bytes of one version."""

    __slots__ = ("_pieces", "size_bytes")

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = tuple(piece for piece in pieces if piece.start < piece.end)
        self.size_bytes = sum(piece.end - piece.start for piece in self._pieces)
        buffers = {id(piece.buffer): len(piece.buffer) for piece in self._pieces}
        if len(self._pieces) > MAX_PIECES or sum(buffers.values()) > MAX_KEPT_ALIVE * self.size_bytes + _FREE_BYTES:
            self.joined()

    @classmethod
    def of(cls, raw: bytes) -> Content:
        """The content that these bytes are."""
        return cls((Piece(raw, 0, len(raw)),))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces, in order; none is empty."""
        return self._pieces

    def joined(self) -> bytes:
        """All of it in one buffer, which then is its only piece."""
        pieces = self._pieces
        if not pieces:
            return b""
        first = pieces[0]
        if len(pieces) == 1 and first.end - first.start == len(first.buffer):
            return first.buffer
        raw = b"".join(memoryview(piece.buffer)[piece.start : piece.end] for piece in pieces)
        self._pieces = (Piece(raw, 0, len(raw)),)
        return raw

    def slice(self, start: int, end: int) -> bytes:
        """A copy of the bytes from `start` to `end`."""
        return b"".join(piece.buffer[piece.start : piece.end] for piece in self.cut(start, end))

    def cut(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces that make up the bytes from `start` to `end`, nothing copied."""
        position = 0
        for piece in self._pieces:
            size = piece.end - piece.start
            first, last = max(start - position, 0), min(end - position, size)
            if first < last:
                yield Piece(piece.buffer, piece.start + first, piece.start + last)
            position += size
            if position >= end:
                return
