"""The states that a power loss may leave: closed sets of changes, enumerated and shown as trees.

For a loss after the first `t` events, a legal state keeps every change that a sync has forced by then, and of the
others any set with which comes all that must be durable before it. `cuts` counts the changes that are lost by choice;
what rests on them is lost with them. No cut at every `t` is all that `kill -9` can show; one cut finds the missing sync
(ALICE's "omit one"); any number of cuts is every legal state. Enumeration is exhaustive within the number of cuts, and
states that look alike at the same mark of the run are given out once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from storecheck.machine.events import DiskEvent, Marked

from .changes import AttributeChange, Change, ContentChange, NameChange, Order, SizeChange, bits
from .models import PersistenceModel
from .trees import Disk, Entry, Tree, listing

MAX_STATES: Final = 200_000
"""Sets of changes looked at per recording and model; more is an error, not a silent sample."""


class TooManyStatesError(RuntimeError):
    """A recording has more crash states than can be enumerated; record less, or allow fewer cuts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a program did to a disk.

    Attributes:
        disk: the disk before, all durable.
        events: what was done, in order, with the marks of what was begun and acknowledged.
        owner: user and group of new files.
    """

    disk: Disk
    events: tuple[DiskEvent, ...]
    owner: tuple[int, int] = (1000, 1000)

    def marks(self) -> list[str]:
        """The labels of all marks, in order."""
        return [event.label for event in self.events if isinstance(event, Marked)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashState:
    """One state that a power loss may leave.

    Attributes:
        model: the model that allows it.
        event: the power went after so many events.
        marks: so many marks had been passed by then.
        lost: the changes that had been made and are lost.
        tree: what is on the disk.
    """

    model: PersistenceModel
    event: int
    marks: int
    lost: tuple[Change, ...]
    tree: Tree

    def __str__(self) -> str:
        lost = "; ".join(change.text for change in self.lost) or "nothing"
        return f"{self.model.name}: power lost after event {self.event}, lost: {lost}"


class Renderer:
    """Shows sets of changes as trees. Parts that sets have in common are rendered once."""

    def __init__(self, disk: Disk, order: Order) -> None:
        self._disk = disk
        self._order = order
        self._name_mask = 0
        self._masks: dict[int, int] = {}
        for index, change in enumerate(order.changes):
            if isinstance(change, NameChange):
                self._name_mask |= 1 << index
            elif isinstance(change, ContentChange | SizeChange | AttributeChange):
                self._masks[change.serial] = self._masks.get(change.serial, 0) | 1 << index
        self._listings: dict[int, tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = {}
        self._parts: dict[tuple[int, int], int] = {}
        self._entry_numbers: dict[Entry, int] = {}
        self._entries: list[Entry] = []
        self._of_kept: dict[int, int] = {}
        self._tree_numbers: dict[tuple[tuple[str, ...], tuple[int, ...]], int] = {}
        self._trees: list[dict[str, Entry]] = []

    def number(self, kept: int) -> int:
        """The number of the tree that these changes give; equal trees have one number."""
        number = self._of_kept.get(kept)
        if number is None:
            number = self._of_kept[kept] = self._render(kept)
        return number

    def tree(self, number: int) -> dict[str, Entry]:
        """The tree of that number; the same object each time, not to be changed."""
        return self._trees[number]

    def _render(self, kept: int) -> int:
        names = kept & self._name_mask
        listed = self._listings.get(names)
        if listed is None:
            listed = self._listings[names] = self._list(names)
        paths, inodes = listed
        parts = self._parts
        numbers = []
        for serial, mask in inodes:
            part = (serial, kept & mask)
            number = parts.get(part)
            if number is None:
                number = parts[part] = self._number_entry(self._entry(serial, kept & mask))
            numbers.append(number)
        key = (paths, tuple(numbers))
        found = self._tree_numbers.get(key)
        if found is None:
            found = self._tree_numbers[key] = len(self._trees)
            self._trees.append({path: self._entries[number] for path, number in zip(paths, numbers, strict=True)})
        return found

    def _list(self, kept: int) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
        """The paths, and for each the inode and which changes are about it."""
        names = dict(self._disk.names)
        for index in bits(kept):
            change = self._order.changes[index]
            assert isinstance(change, NameChange)
            for directory, name, serial in change.names:
                if serial is None:
                    names.pop((directory, name), None)
                else:
                    names[directory, name] = serial
        listed = listing(self._disk.root, names)
        return (
            tuple(path for path, _ in listed),
            tuple((serial, self._masks.get(serial, 0)) for _, serial in listed),
        )

    def _number_entry(self, entry: Entry) -> int:
        number = self._entry_numbers.get(entry)
        if number is None:
            number = self._entry_numbers[entry] = len(self._entries)
            self._entries.append(entry)
        return number

    def _entry(self, serial: int, kept: int) -> Entry:
        entry = self._disk.inodes.get(serial) or self._order.new_entries[serial]
        content = bytearray(entry.content)
        size = len(content)
        mode, uid, gid = entry.mode, entry.uid, entry.gid
        for index in bits(kept):
            change = self._order.changes[index]
            if isinstance(change, ContentChange):
                content.extend(bytes(max(0, change.offset - len(content))))
                content[change.offset : change.offset + len(change.content)] = change.content
            elif isinstance(change, SizeChange):
                size = change.size
                if change.cuts:
                    del content[size:]
            elif isinstance(change, AttributeChange):
                mode, uid, gid = change.mode, change.uid, change.gid
        # Content beyond the size is not seen; a size beyond the content reads as zeros.
        shown = bytes(content[:size]) + bytes(max(0, size - len(content)))
        return Entry(entry.kind, shown, mode, uid, gid, entry.target)


class CrashStates:
    """The crash states of one recording under one model after the other; what models share is rendered once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._renderers: dict[bool, Renderer] = {}

    def under(self, model: PersistenceModel, *, cuts: int | None = 1, first_event: int = 0) -> Iterator[CrashState]:
        """As `crash_states`. Equal trees of one model, and mostly of several, are one object."""
        events = self._recording.events
        order = Order(self._recording.disk, events, model, owner=self._recording.owner)
        # The changes of a run, but for those of a rename, are the same in all models: only their order differs.
        renderer = self._renderers.get(model.atomic_rename)
        if renderer is None:
            renderer = self._renderers[model.atomic_rename] = Renderer(self._recording.disk, order)
        seen: set[tuple[int, int]] = set()
        looked_at = 0
        marks = 0
        seen_kept: set[int] = set()
        for event in range(len(events) + 1):
            if event and isinstance(events[event - 1], Marked):
                marks += 1
                seen_kept.clear()
            if event < first_event:
                continue
            for kept in _kept_sets(order, event, cuts):
                if kept in seen_kept:
                    continue
                seen_kept.add(kept)
                looked_at += 1
                if looked_at > MAX_STATES:
                    raise TooManyStatesError(
                        f"more than {MAX_STATES} sets of changes in {len(events)} events under {model.name}; "
                        "record fewer calls or allow fewer cuts"
                    )
                number = renderer.number(kept)
                if (marks, number) not in seen:
                    seen.add((marks, number))
                    yield CrashState(
                        model=model,
                        event=event,
                        marks=marks,
                        lost=tuple(order.changes[index] for index in bits(order.done[event] & ~kept)),
                        tree=renderer.tree(number),
                    )


def crash_states(
    recording: Recording, model: PersistenceModel, *, cuts: int | None = 1, first_event: int = 0
) -> Iterator[CrashState]:
    """All distinct states that a power loss during the recording may leave.

    Args:
        recording: what was done.
        model: the file system's rules.
        cuts: so many changes are lost by choice at most; None for every legal state.
        first_event: leave out losses of power before so many events.

    Raises:
        TooManyStatesError: more than `MAX_STATES` sets of changes would have to be looked at.
    """
    return CrashStates(recording).under(model, cuts=cuts, first_event=first_event)


def _kept_sets(order: Order, event: int, cuts: int | None) -> Iterator[int]:
    """The sets of changes that may be durable after a power loss after `event` events; may repeat a set."""
    done = order.done[event]
    free = list(bits(done & ~order.forced[event]))
    yield done
    if cuts is None:
        yield from _all_closed_sets(order, done, free)
        return
    for count in range(1, cuts + 1):
        for chosen in itertools.combinations(free, count):
            lost = 0
            for index in chosen:
                lost |= order.after[index]
            yield done & ~lost


def _all_closed_sets(order: Order, done: int, free: Sequence[int]) -> Iterator[int]:
    """Every set that can be had by losing changes one by one."""
    seen = {done}
    pending = [done]
    while pending:
        kept = pending.pop()
        for index in free:
            if kept >> index & 1:
                smaller = kept & ~order.after[index]
                if smaller not in seen:
                    if len(seen) > MAX_STATES:
                        raise TooManyStatesError(f"more than {MAX_STATES} closed sets of changes; allow fewer cuts")
                    seen.add(smaller)
                    pending.append(smaller)
                    yield smaller
