"""From the calls of a run to the changes that may reach the disk one by one, and the order between them.

A write is split into at most three pieces on block boundaries, each one change of content and, where the file grows,
one of its size; a rename, creation or removal is a change of names (two in models whose rename is not atomic). `Order`
holds, as bit masks over the changes, what must be durable before what, and what the syncs of a prefix of the run have
forced. Crash states are then the sets of changes that are closed downward and contain what was forced: see `states`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storecheck.machine.events import (
    AttributesChanged,
    Created,
    DiskEvent,
    Linked,
    Marked,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)

from .models import PersistenceModel
from .trees import Disk, Entry

BLOCK_BYTES: Final = 4096
MAX_PIECES: Final = 3
"""Pieces per write. A torn write of many blocks is found by three as well as by thirty (ALICE splits by count, too)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFailed(DiskEvent):
    """`fsync` of inode `serial` reported an error: the kernel gave up on what was unwritten and will not try again.

    A later fsync succeeds and proves nothing about that content: Rebello et al., "Can Applications Recover from fsync
    Failures?", ATC 2020.
    """

    serial: int


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that reaches the disk wholly or not at all.

    Attributes:
        event: index of the event that made it.
        text: for people, such as "bytes 0-4095 of inode 7".
    """

    event: int
    text: str


@dataclass(frozen=True, slots=True)
class ContentChange(Change):
    """Bytes of a file."""

    serial: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class SizeChange(Change):
    """A file's size; `cuts` if by truncation, which also discards what lay beyond."""

    serial: int
    size: int
    cuts: bool


@dataclass(frozen=True, slots=True)
class NameChange(Change):
    """Names in directories: where each now leads, or None."""

    names: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class AttributeChange(Change):
    """A file's mode and owner."""

    serial: int
    mode: int
    uid: int
    gid: int


def pieces_of(offset: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of the parts of a write of `size` bytes at `offset` that may be torn from each other."""
    first_block = offset // BLOCK_BYTES
    blocks = max(1, -(-(offset + size) // BLOCK_BYTES) - first_block)
    count = min(MAX_PIECES, blocks)
    cuts = [(first_block + blocks * number // count) * BLOCK_BYTES for number in range(1, count)]
    edges = [offset, *cuts, offset + size]
    return list(itertools.pairwise(edges))


class Order:
    """The changes of one run under one model. Bit `i` of every mask is `changes[i]`.

    Attributes:
        changes: in the order of the calls.
        before: per change, all that must be durable if it is.
        after: per change, all that cannot be durable if it is not; itself included.
        done: per event index `t`, the changes made by the events before it (one more than there are events).
        forced: likewise, what the syncs before it made durable.
        new_entries: the inodes that the run created, as they are without any of the changes.
    """

    def __init__(
        self,
        disk: Disk,
        events: Sequence[DiskEvent],
        model: PersistenceModel,
        *,
        owner: tuple[int, int] = (1000, 1000),
    ) -> None:
        self.model = model
        self._owner = owner
        self.changes: list[Change] = []
        self.before: list[int] = []
        self.done = [0]
        self.forced = [0]
        self.new_entries: dict[int, Entry] = {}
        self._sizes: dict[int, int] = {serial: len(entry.content) for serial, entry in disk.inodes.items()}
        self._last_size: dict[int, int] = {}
        self._last_cut: dict[int, int] = {}
        self._last_attributes: dict[int, int] = {}
        self._last_of_name: dict[tuple[int, str], int] = {}
        self._last_journalled: int | None = None
        self._content_of: dict[int, int] = {}
        self._attributes_of: dict[int, int] = {}
        self._names_in: dict[int, int] = {}
        self._journalled = 0
        self._given_up = 0
        self._forced = 0
        self._index = 0
        self._adders: dict[type[DiskEvent], Callable[[Any], None]] = {
            Written: self._write,
            Truncated: self._truncate,
            Created: self._create,
            Renamed: self._rename,
            Linked: self._link,
            Unlinked: self._unlink,
            AttributesChanged: self._change_attributes,
            Synced: self._sync,
            SyncFailed: self._give_up,
        }
        for self._index, event in enumerate(events):
            self._add(event)
            self.done.append((1 << len(self.changes)) - 1)
            self.forced.append(self._forced)
        self.after = self._invert()

    # Events

    def _add(self, event: DiskEvent) -> None:
        if isinstance(event, Marked):
            return
        add = self._adders.get(type(event))
        if add is None:
            raise TypeError(f"a trace event of kind {type(event).__name__} has no meaning for crash states")
        add(event)

    def _write(self, event: Written) -> None:
        serial = event.serial
        for start, end in pieces_of(event.offset, len(event.content)):
            content = event.content[start - event.offset : end - event.offset]
            text = f"bytes {start}-{end - 1} of inode {serial}"
            written = self._append(
                ContentChange(self._index, text, serial, start, content),
                _bit(self._last_cut.get(serial)),
            )
            self._content_of[serial] = self._content_of.get(serial, 0) | 1 << written
            if end > self._sizes.get(serial, 0):
                needs = _bit(self._last_size.get(serial))
                if self.model.content_before_size:
                    needs |= 1 << written
                self._resize(serial, end, needs, cuts=False)

    def _truncate(self, event: Truncated) -> None:
        if event.size != self._sizes.get(event.serial, 0):
            cuts = event.size < self._sizes.get(event.serial, 0)
            index = self._resize(event.serial, event.size, _bit(self._last_size.get(event.serial)), cuts=cuts)
            self._last_cut[event.serial] = index

    def _resize(self, serial: int, size: int, needs: int, *, cuts: bool) -> int:
        index = self._append(SizeChange(self._index, f"size {size} of inode {serial}", serial, size, cuts), needs)
        self._sizes[serial] = size
        self._last_size[serial] = index
        self._content_of[serial] = self._content_of.get(serial, 0) | 1 << index
        return index

    def _create(self, event: Created) -> None:
        uid, gid = self._owner
        self.new_entries[event.serial] = Entry(event.kind, mode=event.mode, uid=uid, gid=gid, target=event.target)
        self._sizes[event.serial] = 0
        self._name(f"new {event.kind} {event.name!r}", (event.directory, event.name, event.serial))

    def _rename(self, event: Renamed) -> None:
        arrives = (event.directory, event.name, event.serial)
        leaves = (event.source, event.source_name, None)
        needs = 0
        if self.model.content_before_replace and event.replaced is not None:
            needs = self._content_of.get(event.serial, 0)
        elif self.model.size_before_replace and event.replaced is not None:
            needs = _bit(self._last_size.get(event.serial))
        text = f"rename of {event.source_name!r} to {event.name!r}"
        if self.model.atomic_rename:
            self._name(text, arrives, leaves, needs=needs)
        else:
            self._name(f"{text}, new name", arrives, needs=needs)
            self._name(f"{text}, old name", leaves, needs=needs)

    def _link(self, event: Linked) -> None:
        self._name(f"name {event.name!r}", (event.directory, event.name, event.serial))

    def _unlink(self, event: Unlinked) -> None:
        self._name(f"removal of {event.name!r}", (event.directory, event.name, None))

    def _give_up(self, event: SyncFailed) -> None:
        self._given_up |= self._content_of.get(event.serial, 0) & ~self._forced

    def _name(self, text: str, *names: tuple[int, str, int | None], needs: int = 0) -> None:
        if self.model.journal:
            needs |= _bit(self._last_journalled)
        for directory, name, _ in names:
            needs |= _bit(self._last_of_name.get((directory, name)))
        index = self._append(NameChange(self._index, text, names), needs)
        self._journal(index)
        for directory, name, _ in names:
            self._last_of_name[directory, name] = index
            self._names_in[directory] = self._names_in.get(directory, 0) | 1 << index

    def _change_attributes(self, event: AttributesChanged) -> None:
        serial = event.serial
        needs = _bit(self._last_attributes.get(serial))
        if self.model.journal:
            needs |= _bit(self._last_journalled)
        index = self._append(
            AttributeChange(
                self._index, f"mode {event.mode:o} of inode {serial}", serial, event.mode, event.uid, event.gid
            ),
            needs,
        )
        self._last_attributes[serial] = index
        self._attributes_of[serial] = self._attributes_of.get(serial, 0) | 1 << index
        self._journal(index)

    def _journal(self, index: int) -> None:
        self._last_journalled = index
        self._journalled |= 1 << index

    def _sync(self, event: Synced) -> None:
        if event.directory:
            wanted = self._names_in.get(event.serial, 0) | self._attributes_of.get(event.serial, 0)
        else:
            wanted = self._content_of.get(event.serial, 0) & ~self._given_up
            if not event.content_only:
                wanted |= self._attributes_of.get(event.serial, 0)
                if self.model.journal:
                    wanted |= self._journalled
        for index in bits(wanted):
            # A change that rests on content which a failed sync gave up cannot be forced either.
            if not self.before[index] & self._given_up:
                self._forced |= self.before[index] | 1 << index

    # Masks

    def _append(self, change: Change, needs: int) -> int:
        """Add a change after those in `needs` and all that they need."""
        index = len(self.changes)
        self.changes.append(change)
        before = 0
        for needed in bits(needs):
            before |= self.before[needed] | 1 << needed
        self.before.append(before)
        return index

    def _invert(self) -> list[int]:
        after = [1 << index for index in range(len(self.changes))]
        for index, before in enumerate(self.before):
            for needed in bits(before):
                after[needed] |= 1 << index
        return after


def _bit(index: int | None) -> int:
    return 0 if index is None else 1 << index


def bits(mask: int) -> Iterable[int]:
    """Positions of the set bits, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
