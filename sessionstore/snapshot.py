"""One version of the store: its bytes, and where in them each entry is.

The bytes are the truth; objects are views of them. An entry is decoded when it is asked for, fresh for each caller,
so that nothing can be changed through it. A new version is made by putting new bytes for the changed entries between
untouched slices of the old ones: what was not changed cannot be damaged, and the cost follows what changed.

Positions are kept as lengths, because a change of one entry then changes one number. Where a file was written by this
store ("canonical frame": two-space indentation, `": "` and `,` newline around the entries) two lengths per entry are
enough. Any other layout is read, too, and is brought into that frame by the first write that changes anything.
"""

from __future__ import annotations

import array
import bisect
import itertools
import json
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sessionstore.content import Content, Slice, common_prefix, common_suffix
from sessionstore.digest import ContentDigest
from sessionstore.encoding import (
    MAX_DEPTH,
    InvalidJSONError,
    as_json_reads,
    decode_entry,
    encode_entry,
    encode_key,
    nesting_depth,
    scan_any_value,
    scan_value,
)
from sessionstore.errors import CorruptStoreError
from sessionstore.settings import JS_WHITE_SPACE

_BOM = "\xef\xbb\xbf"  # its bytes as latin-1 text
_OPEN = b"{\n  "
_SEPARATOR = b",\n  "
_GAP = b": "
_CLOSE = b"\n}"
_EMPTY = b"{}"
_LEAD_BYTES = len(_OPEN)  # of `_SEPARATOR` as well: positions need not tell the first entry from the others

_UTF8_CHUNK_BYTES = 8 * 1024  # what it decodes to stays in the processor's cache

# In latin-1 text: every character is one byte of the file. Strings may hold anything but unescaped control characters.
_STRING = r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_SPACE = r"[ \t\n\r]*"
_CANONICAL_MEMBER = re.compile(rf"[{{,]\n  ({_STRING}): ")
_MEMBER = re.compile(rf"{_SPACE}({_STRING}){_SPACE}:{_SPACE}")
_FIRST = re.compile(rf"{_SPACE}\{{{_SPACE}")
_NEXT = re.compile(rf"{_SPACE}([,}}])")
_SPACES = re.compile(_SPACE)
_NESTING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def normalise_key(key: str) -> str:
    """The spelling under which a session is looked up and written: trimmed and in lower case."""
    return as_json_reads(key).strip(JS_WHITE_SPACE).lower()


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The session keys of one version, in file order, and which of them mean the same session."""

    keys: tuple[str, ...]
    ordinals: Mapping[str, tuple[int, ...]]
    cost_bytes: int

    @classmethod
    def of(cls, keys: tuple[str, ...]) -> KeyTable:
        """The table of these keys."""
        ordinals: dict[str, tuple[int, ...]] = {}
        for ordinal, key in enumerate(keys):
            normal = normalise_key(key)
            ordinals[normal] = (*ordinals.get(normal, ()), ordinal)
        cost = sum(_POSITION_BYTES + len(key.encode("utf-8", "surrogatepass")) for key in keys)
        return cls(keys, ordinals, cost)


_POSITION_BYTES = 32  # lengths, offset and time of one entry; at most four numbers of 8 bytes


_BLOCK = 16
"""Places between two whose offset is kept: adding up the lengths of a few is cheaper than keeping all offsets right."""


@dataclass(slots=True, eq=False)
class Index:
    """Where the entries of one version are. Immutable but for offsets that are computed when first needed.

    Attributes:
        table: the keys.
        key_lengths: bytes of each key as spelled in the file, with its quotes.
        value_lengths: bytes of each entry.
        frame: None for a canonical frame, else the bytes before each key and between key and value.
        updated_at: `updatedAt` of each entry, or NaN.
    """

    table: KeyTable
    key_lengths: array.array[int]
    value_lengths: array.array[int]
    frame: tuple[array.array[int], array.array[int]] | None
    updated_at: array.array[float]
    _blocks: list[int] | None = None

    def __len__(self) -> int:
        return len(self.key_lengths)

    @property
    def cost_bytes(self) -> int:
        """What keeping the positions counts against the cache's limit."""
        return self.table.cost_bytes

    def blocks(self) -> list[int]:
        """Byte offset of what is before every `_BLOCK`th key. Not to be changed."""
        blocks = self._blocks
        if blocks is None:
            whole_blocks = range(0, len(self) - len(self) % _BLOCK, _BLOCK)
            sizes = (self._size_bytes(first, first + _BLOCK) for first in whole_blocks)
            blocks = self._blocks = list(itertools.accumulate(sizes, initial=0))
        return blocks

    def _size_bytes(self, first: int, end: int) -> int:
        """Bytes of a run of places, each with what is before its key."""
        own = sum(self.key_lengths[first:end]) + sum(self.value_lengths[first:end])
        if self.frame is None:
            return own + (_LEAD_BYTES + len(_GAP)) * (end - first)
        leads, gaps = self.frame
        return own + sum(leads[first:end]) + sum(gaps[first:end])

    def _around_key(self, ordinal: int) -> tuple[int, int]:
        return (_LEAD_BYTES, len(_GAP)) if self.frame is None else (self.frame[0][ordinal], self.frame[1][ordinal])

    def key_start(self, ordinal: int) -> int:
        """Where an entry's key begins."""
        first = ordinal - ordinal % _BLOCK
        return self.blocks()[ordinal // _BLOCK] + self._size_bytes(first, ordinal) + self._around_key(ordinal)[0]

    def span(self, ordinal: int) -> tuple[int, int]:
        """Where an entry begins and ends."""
        start = self.key_start(ordinal) + self.key_lengths[ordinal] + self._around_key(ordinal)[1]
        return start, start + self.value_lengths[ordinal]

    def derive_blocks(self, old: Index, changed: Sequence[int]) -> None:
        """Take over what `old` knows of where places are. This frame is canonical; lengths differ at `changed` only."""
        if old.frame is not None:
            return
        blocks = old.blocks()
        grown = [0] * (len(blocks) + 1)
        for ordinal in changed:
            now = self.key_lengths[ordinal] + self.value_lengths[ordinal]
            grown[ordinal // _BLOCK + 1] += now - old.key_lengths[ordinal] - old.value_lengths[ordinal]
        self._blocks = list(map(operator.add, blocks, itertools.accumulate(grown)))


def parse(path: str, content: Content | bytes) -> Index:
    """Validate a whole file and find its entries.

    Raises:
        CorruptStoreError: it is not strict UTF-8 JSON, an object of objects without duplicate keys.
    """
    whole = Content.of(content) if isinstance(content, bytes) else content
    return _Parser(path, whole, 0, whole.size_bytes).whole()


def parse_changed(path: str, content: Content, old: Snapshot) -> Snapshot:
    """`parse`, reusing what is known of an earlier version: only bytes between the first and last change are read.

    The new snapshot shares with the old one all memory, and all digests, of what is equal.

    Raises:
        CorruptStoreError: as `parse`.
    """
    old_content = Content(()) if old.content is None else old.content
    prefix = common_prefix(old_content, content)
    suffix = common_suffix(old_content, content, min(old_content.size_bytes, content.size_bytes) - prefix)
    shared = Content.assembled(
        (
            Slice(old_content, 0, prefix),
            Slice(content, prefix, content.size_bytes - suffix),
            Slice(old_content, old_content.size_bytes - suffix, old_content.size_bytes),
        )
    )
    index = None
    if old.index.frame is None and len(old.index):
        index = _parse_between(path, shared, old_content, old.index, (prefix, suffix))
    digest = None if old.digest is None else ContentDigest.of(shared, like=(old_content, old.digest))
    return Snapshot(path, shared, parse(path, shared) if index is None else index, digest)


def _parse_between(
    path: str, content: Content, old_content: Content, old: Index, common: tuple[int, int]
) -> Index | None:
    """The index of `content`, of which `common` bytes at the beginning and end are as before; None if in doubt."""
    prefix, suffix = common
    # Entries that end inside the common prefix: an object that is closed cannot be continued by what follows.
    kept_before = bisect.bisect_right(range(len(old)), prefix, key=lambda ordinal: old.span(ordinal)[1])
    kept_from = bisect.bisect_left(range(len(old)), old_content.size_bytes - suffix, key=old.key_start)
    kept_from = max(kept_from, kept_before)
    begin = 0 if kept_before == 0 else old.span(kept_before - 1)[1]
    stop = None
    if kept_from < len(old):
        stop = old.key_start(kept_from) + content.size_bytes - old_content.size_bytes
    try:
        between = _Parser(path, content, begin, content.size_bytes if stop is None else stop).between(stop is None)
    except CorruptStoreError:
        return None  # the whole file tells what is wrong, or that only this part of it looked so
    if between is None:
        return None
    keys = old.table.keys[:kept_before] + between.table.keys + old.table.keys[kept_from:]
    if len(set(keys)) != len(keys):
        return None
    return Index(
        old.table if keys == old.table.keys else KeyTable.of(keys),
        old.key_lengths[:kept_before] + between.key_lengths + old.key_lengths[kept_from:],
        old.value_lengths[:kept_before] + between.value_lengths + old.value_lengths[kept_from:],
        None,
        old.updated_at[:kept_before] + between.updated_at + old.updated_at[kept_from:],
    )


class _Parser:
    """Reads a part of a file's bytes as latin-1 text; see `encoding` for why.

    The part begins at the beginning of the file or right after an entry, and ends at the end of the file or right
    before a key. Positions are relative to its beginning.
    """

    def __init__(self, path: str, content: Content, begin: int, end: int) -> None:
        self.path = path
        self.content = content
        self.begin = begin
        self.text = content.latin1(begin, end)
        self.is_ascii = self.text.isascii()
        self.may_mix_spellings = not self.is_ascii and "\\u" in self.text
        self.keys: list[str] = []
        self.key_lengths = array.array("I")
        self.value_lengths = array.array("I")
        self.leads = array.array("I")
        self.gaps = array.array("I")
        self.updated_at = array.array("d")
        self.canonical = True

    def bytes_between(self, start: int, end: int) -> bytes:
        return self.content.slice(self.begin + start, self.begin + end)

    def corrupt(self, offset: int, reason: str) -> CorruptStoreError:
        return CorruptStoreError(self.path, self.begin + offset, reason)

    def whole(self) -> Index:
        text = self.text
        if not text:
            raise self.corrupt(0, "the file is empty (zero bytes), not an empty JSON object")
        if text.startswith("\0") and not text.strip("\0"):
            raise self.corrupt(0, "the file holds only NUL bytes, as after a crash")
        self.check_utf8()
        begin = len(_BOM) if text.startswith(_BOM) else 0
        first = _FIRST.match(text, begin)
        if first is None:
            raise self.corrupt(self.skip_spaces(begin), "not a JSON object")
        if text.startswith("}", first.end()):
            if first.end() != 1:
                self.leave_canonical_frame()
            self.end_of_file(first.end() + 1)
        else:
            self.members(0, first_key=first.end(), to_end_of_file=True)
        if len(set(self.keys)) != len(self.keys):
            self.refuse_duplicate()
        return self.index()

    def between(self, to_end_of_file: bool) -> Index | None:
        """The members of the part; None if it is not a part of a file in a canonical frame."""
        self.check_utf8()
        lead = ",\n  " if self.begin else "{\n  "
        if to_end_of_file and not self.begin:
            return None  # nothing of the old version is left to rely on
        if self.text == ("\n}" if to_end_of_file else lead):
            return self.index()  # whatever stood between the kept entries is gone
        if not self.text.startswith(lead):
            return None
        self.members(0, first_key=_LEAD_BYTES, to_end_of_file=to_end_of_file)
        return self.index() if self.canonical else None

    def index(self) -> Index:
        return Index(
            KeyTable.of(tuple(self.keys)),
            self.key_lengths,
            self.value_lengths,
            None if self.canonical else (self.leads, self.gaps),
            self.updated_at,
        )

    def members(self, end: int, *, first_key: int, to_end_of_file: bool) -> None:
        """Read members, the first one's key being at or after `first_key` and what precedes it ending at `end`.

        Up to the end of the file, or up to what leads to the key that follows this part.
        """
        text = self.text
        position = first_key
        while True:
            member = _CANONICAL_MEMBER.match(text, end)
            if member is None:
                member = _MEMBER.match(text, position)
                if member is None:
                    raise self.corrupt(
                        self.skip_spaces(position), "expected a session key, that is a string and a colon"
                    )
                self.leave_canonical_frame()
            key_start, key_end = member.span(1)
            start = member.end()
            if not self.canonical:
                self.leads.append(key_start - end)
                self.gaps.append(start - key_end)
            self.keys.append(self.key(key_start, key_end))
            self.key_lengths.append(key_end - key_start)
            value, end = self.entry(start)
            self.value_lengths.append(end - start)
            self.updated_at.append(_time_of(value))
            if not to_end_of_file and len(text) - end == _LEAD_BYTES and text.startswith(",\n  ", end):
                return
            after = _NEXT.match(text, end)
            if after is None:
                raise self.corrupt(self.skip_spaces(end), "expected , or } after an entry")
            position = after.end()
            if after.group(1) == "}":
                if not text.startswith("\n}", end) or not to_end_of_file:
                    self.leave_canonical_frame()
                self.end_of_file(position)
                return

    def leave_canonical_frame(self) -> None:
        """From now on note what is around the keys; so far it was always the same."""
        if self.canonical:
            self.canonical = False
            self.leads = array.array("I", [_LEAD_BYTES]) * len(self.key_lengths)
            self.gaps = array.array("I", [len(_GAP)]) * len(self.key_lengths)

    def skip_spaces(self, position: int) -> int:
        spaces = _SPACES.match(self.text, position)
        return position if spaces is None else spaces.end()

    def key(self, start: int, end: int) -> str:
        spelled = self.text[start + 1 : end - 1]
        if spelled.isascii() and "\\" not in spelled:
            return spelled
        try:
            key: str = json.loads(self.bytes_between(start, end).decode("utf-8"))
        except ValueError as error:
            raise self.corrupt(start, f"a key is not a JSON string: {error}") from None
        return key

    def entry(self, start: int) -> tuple[dict[str, Any], int]:
        if not self.text.startswith("{", start):
            raise self.corrupt(start, "an entry is not an object")
        try:
            value, end = scan_value(self.text, start)
        except InvalidJSONError as error:
            value, end = self.entry_as_utf8(start, error)
        except StopIteration as error:
            raise self.corrupt(error.value, "expected a JSON value") from None
        except json.JSONDecodeError as error:
            raise self.corrupt(error.pos, f"not JSON: {error.msg}") from None
        except RecursionError:
            raise self.too_deep(start) from None
        except ValueError as error:
            raise self.corrupt(start, f"an entry cannot be read: {error}") from None
        if nesting_depth(value) > MAX_DEPTH:
            raise self.corrupt(start, f"an entry is nested deeper than {MAX_DEPTH} levels")
        if self.may_mix_spellings and "\\u" in (text := self.text[start:end]) and not text.isascii():
            # Spelled partly in escapes and partly in UTF-8: only the decoded keys tell which are the same.
            value = self.decoded_entry(start, end)
        return value, end

    def entry_as_utf8(self, start: int, error: InvalidJSONError) -> tuple[dict[str, Any], int]:
        """Decide by the decoded text: two keys that look alike in latin-1 may differ."""
        try:
            _, end = scan_any_value(self.text, start)
        except (ValueError, StopIteration):
            raise self.corrupt(start, f"in the entry that begins here: {error.reason}") from None
        return self.decoded_entry(start, end), end

    def decoded_entry(self, start: int, end: int) -> dict[str, Any]:
        try:
            return decode_entry(self.bytes_between(start, end))
        except InvalidJSONError as error:
            raise self.corrupt(start, f"in the entry that begins here: {error.reason}") from None

    def too_deep(self, start: int) -> Exception:
        depth = deepest = 0
        for token in _NESTING.finditer(self.text, start):
            symbol = token.group()
            depth += (symbol in "[{") - (symbol in "]}")
            deepest = max(deepest, depth)
            if depth <= 0:
                break
        if deepest > MAX_DEPTH:
            return self.corrupt(start, f"an entry is nested deeper than {MAX_DEPTH} levels")
        return RecursionError("too little of the stack is left to read the store; call it from less deep")

    def end_of_file(self, position: int) -> None:
        end = self.skip_spaces(position)
        if end != len(self.text):
            raise self.corrupt(end, "something follows the end of the JSON object")
        if position != end:
            self.leave_canonical_frame()

    def check_utf8(self) -> None:
        if self.is_ascii:
            return
        # In pieces: decoded at once, 8 MB with a single emoji would be 32 MB of text.
        start, end = 0, len(self.text)
        while start < end:
            piece = self.bytes_between(start, min(start + _UTF8_CHUNK_BYTES, end))
            if start + len(piece) < end:
                piece = piece[: _character_boundary(piece)]
            try:
                piece.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self.corrupt(start + error.start, f"not UTF-8: {error.reason}") from None
            start += len(piece)

    def refuse_duplicate(self) -> None:
        seen: set[str] = set()
        index = self.index()
        for ordinal, key in enumerate(self.keys):
            if key in seen:
                raise self.corrupt(index.span(ordinal)[0], f"duplicate session key {key!r}")
            seen.add(key)


def _character_boundary(piece: bytes) -> int:
    """Length of `piece` without a character that may go on after it."""
    for back in range(1, 4):
        if piece[-back] & 0xC0 == 0xC0:
            return len(piece) - back
        if piece[-back] < 0x80:
            break
    return len(piece)


def _time_of(entry: dict[str, Any]) -> float:
    value = entry.get("updatedAt")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class Snapshot(Mapping[str, dict[str, Any]]):
    """What one load returned: an immutable mapping of session key to entry.

    Each access decodes the entry anew, so editing what it returns changes nothing. Keys are looked up trimmed and in
    lower case; of several spellings of one session the entry with the newest `updatedAt` counts. Iteration yields each
    session once, as the counting entry's key is spelled in the file. Holds the file's bytes; safe to share between
    threads.
    """

    __slots__ = ("_content", "_digest", "_index", "_path")

    def __init__(self, path: str, content: Content | None, index: Index, digest: ContentDigest | None = None) -> None:
        self._path = path
        self._content = content
        self._index = index
        self._digest = digest

    @property
    def path(self) -> str:
        """The resolved store file."""
        return self._path

    @property
    def content(self) -> Content | None:
        """The file's bytes in chunks, or None if there was no file."""
        return self._content

    @property
    def raw(self) -> bytes | None:
        """The file's bytes, or None if there was no file."""
        return None if self._content is None else self._content.joined()

    @property
    def index(self) -> Index:
        """Where the entries are in `raw`."""
        return self._index

    @property
    def digest(self) -> ContentDigest | None:
        """Digest of `raw`, if it has been computed."""
        return self._digest

    def bytes_between(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of the file."""
        return b"" if self._content is None else self._content.slice(start, end)

    def entry_bytes(self, ordinal: int) -> bytes:
        """An entry as spelled in the file."""
        return self.bytes_between(*self._index.span(ordinal))

    def has_same_entries(self, other: Snapshot) -> bool:
        """Whether `other` has the same keys and entries in the same order, whatever is between them."""
        return self._index.table.keys == other.index.table.keys and all(
            self.entry_bytes(ordinal) == other.entry_bytes(ordinal) for ordinal in range(len(self._index))
        )

    def winner(self, ordinals: tuple[int, ...]) -> int:
        """Of the entries of one session, the one that counts."""
        if len(ordinals) == 1:
            return ordinals[0]
        keys = self._index.table.keys
        return max(
            ordinals,
            key=lambda ordinal: (
                exact_time(decode_entry(self.entry_bytes(ordinal))),
                keys[ordinal] == normalise_key(keys[ordinal]),
                -ordinal,
            ),
        )

    def _ordinal(self, key: object) -> int:
        ordinals = self._index.table.ordinals.get(normalise_key(key)) if isinstance(key, str) else None
        if ordinals is None:
            raise KeyError(key)
        return self.winner(ordinals)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return decode_entry(self.entry_bytes(self._ordinal(key)))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and normalise_key(key) in self._index.table.ordinals

    def __iter__(self) -> Iterator[str]:
        keys = self._index.table.keys
        for ordinals in self._index.table.ordinals.values():
            yield keys[self.winner(ordinals)]

    def __len__(self) -> int:
        return len(self._index.table.ordinals)

    def __repr__(self) -> str:
        size = "no file" if self._content is None else f"{self._content.size_bytes} bytes"
        return f"<Snapshot of {self._path}: {len(self)} sessions, {size}>"


def exact_time(entry: dict[str, Any]) -> float:
    """`updatedAt` for comparing; minus infinity if it is missing or not a number."""
    value = entry.get("updatedAt")
    return -math.inf if isinstance(value, bool) or not isinstance(value, int | float) else value


EMPTY_INDEX = Index(KeyTable.of(()), array.array("I"), array.array("I"), None, array.array("d"))


@dataclass(frozen=True, slots=True)
class Change:
    """New content of one place in the file.

    Attributes:
        key: the session key to write there.
        key_bytes: how it is spelled.
        value: the entry's bytes.
        updated_at: its time, or NaN.
    """

    key: str
    key_bytes: bytes
    value: bytes
    updated_at: float

    @classmethod
    def of(
        cls, key: str, entry: dict[str, Any], value: bytes | None = None, *, key_bytes: bytes | None = None
    ) -> Change:
        """The change that writes `entry`."""
        return cls(
            key,
            encode_key(key) if key_bytes is None else key_bytes,
            encode_entry(entry) if value is None else value,
            _time_of(entry),
        )


def compose(old: Snapshot, parts: Sequence[range | Change]) -> Snapshot:
    """The next version: runs of `old`'s places, which keep their bytes, key included, and new content between them."""
    return _Composer(old, parts).composed()


def parts_of(
    old: Snapshot, changes: Mapping[int, Change | None], appended: Sequence[Change] = ()
) -> list[range | Change]:
    """`old` with some places changed or (None) removed, and others appended, as parts for `compose`."""
    parts: list[range | Change] = []
    done = 0
    for ordinal in sorted(changes):
        if ordinal > done:
            parts.append(range(done, ordinal))
        change = changes[ordinal]
        if change is not None:
            parts.append(change)
        done = ordinal + 1
    if done < len(old.index):
        parts.append(range(done, len(old.index)))
    parts += appended
    return parts


class _Composer:
    def __init__(self, old: Snapshot, parts: Sequence[range | Change]) -> None:
        self.old = old
        self.parts = parts
        self.content = Content(()) if old.content is None else old.content
        self.written: list[bytes | Slice] = []
        self.key_lengths = array.array("I")
        self.value_lengths = array.array("I")
        self.updated_at = array.array("d")

    def composed(self) -> Snapshot:
        for part in self.parts:
            if isinstance(part, Change):
                self.write(part)
            else:
                self.keep(part.start, part.stop)
        content, changed = self.finished(), self.changed_places()
        index = Index(self.table(changed), self.key_lengths, self.value_lengths, None, self.updated_at)
        if changed is not None:
            index.derive_blocks(self.old.index, changed)
        return Snapshot(self.old.path, content, index, self.digest(content))

    def changed_places(self) -> list[int] | None:
        """The places with new content, if there are the same keys in the same order as before; else None."""
        keys = self.old.index.table.keys
        changed: list[int] = []
        place = 0
        for part in self.parts:
            if isinstance(part, Change):
                if keys[place : place + 1] != (part.key,):
                    return None
                changed.append(place)
                place += 1
            elif part.start == place:
                place = part.stop
            else:
                return None
        return changed if place == len(keys) else None

    def table(self, changed: list[int] | None) -> KeyTable:
        old = self.old.index.table
        if changed is not None:
            return old
        runs = ((part.key,) if isinstance(part, Change) else old.keys[part.start : part.stop] for part in self.parts)
        return KeyTable.of(tuple(itertools.chain.from_iterable(runs)))

    def keep(self, first: int, end: int) -> None:
        """Keep a run of places as it is: in a canonical frame also what is between them."""
        index = self.old.index
        if index.frame is None:
            begin, stop = index.key_start(first), index.span(end - 1)[1]
            if bool(first) == bool(self.written):
                # What leads to the run is as it was, and stays with it: whole chunks can be shared.
                begin -= _LEAD_BYTES
            else:
                self.written.append(self.lead())
            self.written.append(Slice(self.content, begin, stop))
        else:
            for ordinal in range(first, end):
                key_start = index.key_start(ordinal)
                key = self.content.slice(key_start, key_start + index.key_lengths[ordinal])
                self.written.append(self.lead() + key + _GAP + self.content.slice(*index.span(ordinal)))
        self.key_lengths += index.key_lengths[first:end]
        self.value_lengths += index.value_lengths[first:end]
        self.updated_at += index.updated_at[first:end]

    def write(self, change: Change) -> None:
        self.written.append(b"".join((self.lead(), change.key_bytes, _GAP, change.value)))
        self.key_lengths.append(len(change.key_bytes))
        self.value_lengths.append(len(change.value))
        self.updated_at.append(change.updated_at)

    def lead(self) -> bytes:
        return _SEPARATOR if self.written else _OPEN

    def finished(self) -> Content:
        """All that was written, and the end of the file."""
        last = self.written[-1] if self.written else None
        kept_end = self.content.size_bytes - len(_CLOSE)
        if isinstance(last, Slice) and self.old.index.frame is None and last.end == kept_end:
            return Content.assembled((*self.written[:-1], Slice(self.content, last.start, self.content.size_bytes)))
        return Content.assembled((*self.written, _CLOSE if self.written else _EMPTY))

    def digest(self, content: Content) -> ContentDigest | None:
        """The new digest, if the old one is known and spares most of the work."""
        old = self.old
        return (
            None
            if old.digest is None or old.content is None
            else ContentDigest.of(content, like=(old.content, old.digest))
        )
