"""What a mutator edits: a mutable mapping over one snapshot, and what it comes to.

Entries are decoded when first asked for; what is not asked for costs nothing. Whether something changed is decided
at the end by encoding, so that the file is only rewritten for a difference that a reader could see, and so that
`1`, `1.0` and `True` are three values.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from sessionstore.encoding import decode_entry, encode_entry, encode_key, private_copy
from sessionstore.errors import StoreError
from sessionstore.snapshot import Change, Snapshot, normalise_key, parts_of


class Draft(MutableMapping[str, dict[str, Any]]):
    """The sessions of one store file while its write lock is held.

    Keys are looked up and written trimmed and in lower case. `draft[key]` is one dict for as long as the edit lasts:
    change it in place or assign another. Not for sharing between threads, and closed when the edit is over.
    """

    __slots__ = ("_base", "_closed", "_removed", "_snapshot", "_touched")

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._touched: dict[str, Any] = {}
        self._removed: set[str] = set()
        self._closed = False
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """Exactly what is on disk, once the edit has been published: the base for the next one.

        Raises:
            StoreError: the edit is still going on, or was given up.
        """
        if self._snapshot is None:
            raise StoreError("the edit has not been published: `draft.snapshot` is there after the `with` block")
        return self._snapshot

    def close(self, published: Snapshot | None) -> None:
        """End the edit."""
        self._closed = True
        self._snapshot = published

    def _normal(self, key: object) -> str:
        if self._closed:
            raise StoreError("this draft is closed: its edit is over. Begin another with store.edit()")
        if not isinstance(key, str):
            raise TypeError(f"session key {key!r} is {type(key).__name__}. Give a string.")
        return normalise_key(key)

    def _ordinals(self, normal: str) -> tuple[int, ...]:
        return self._base.index.table.ordinals.get(normal, ())

    def __getitem__(self, key: str) -> dict[str, Any]:
        normal = self._normal(key)
        if normal not in self._touched:
            ordinals = self._ordinals(normal)
            if not ordinals or normal in self._removed:
                raise KeyError(key)
            self._touched[normal] = decode_entry(self._base.entry_bytes(self._base.winner(ordinals)))
        entry: dict[str, Any] = self._touched[normal]
        return entry

    def __setitem__(self, key: str, entry: dict[str, Any]) -> None:
        normal = self._normal(key)
        self._touched[normal] = entry
        self._removed.discard(normal)

    def __delitem__(self, key: str) -> None:
        normal = self._normal(key)
        if normal not in self:
            raise KeyError(key)
        self._touched.pop(normal, None)
        if self._ordinals(normal):
            self._removed.add(normal)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        normal = self._normal(key)
        return normal in self._touched or (normal not in self._removed and bool(self._ordinals(normal)))

    def __iter__(self) -> Iterator[str]:
        self._normal("")
        table = self._base.index.table
        for normal, ordinals in table.ordinals.items():
            if normal not in self._removed:
                yield table.keys[self._base.winner(ordinals)]
        yield from (normal for normal in self._touched if normal not in table.ordinals)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Draft of {self._base.path}{', closed' if self._closed else ''}>"

    @property
    def is_closed(self) -> bool:
        """Whether the edit is over."""
        return self._closed

    def parts(self) -> list[range | Change] | None:
        """What the edit came to, as bytes that no one can change any more; None if nothing changed.

        Raises:
            UnstorableValueError: an entry cannot be stored.
        """
        places: dict[int, Change | None] = {}
        appended: list[Change] = []
        for normal, entry in list(self._touched.items()):
            # The key is normal already, so it says what the caller's spelling meant.
            plain = private_copy(normal, entry)
            ordinals = self._ordinals(normal)
            if not ordinals:
                appended.append(Change.of(normal, plain))
                continue
            value = encode_entry(plain)
            if not is_same(self._base.entry_bytes(self._base.winner(ordinals)), value):
                places.update(dict.fromkeys(ordinals))
                places[ordinals[0]] = Change.of(normal, plain, value, key_bytes=self._spelling(normal, ordinals))
        for normal in self._removed:
            places.update(dict.fromkeys(self._ordinals(normal)))
        return parts_of(self._base, places, appended) if places or appended else None

    def _spelling(self, normal: str, ordinals: tuple[int, ...]) -> bytes:
        """The key's bytes in the file, if it stands there as it is to be written."""
        index = self._base.index
        for ordinal in ordinals:
            if index.table.keys[ordinal] == normal:
                start = index.key_start(ordinal)
                return self._base.bytes_between(start, start + index.key_lengths[ordinal])
        return encode_key(normal)


def is_same(old: bytes, new: bytes) -> bool:
    """Whether an entry as it stands in the file says the same as `new`, which `encode_entry` made."""
    return old == new or encode_entry(decode_entry(old)) == new
