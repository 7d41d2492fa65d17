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

from sessionstore.content import Content, Piece
from sessionstore.digest import ContentDigest
from sessionstore.encoding import (
    MAX_DEPTH,
    InvalidJSONError,
    decode_entry,
    encode_entry,
    encode_key,
    nesting_depth,
    scan_any_value,
    scan_value,
)
from sessionstore.errors import CorruptStoreError
from sessionstore.settings import JS_WHITE_SPACE

_BOM = b"\xef\xbb\xbf"
_OPEN = b"{\n  "
_SEPARATOR = b",\n  "
_GAP = b": "
_CLOSE = b"\n}"
_EMPTY = b"{}"
_LEAD_BYTES = len(_OPEN)  # of `_SEPARATOR` as well: positions need not tell the first entry from the others

_UTF8_CHUNK_BYTES = 8 * 1024  # what it decodes to stays in the processor's cache
_COMPARE_CHUNK_BYTES = 64 * 1024

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
    return key.strip(JS_WHITE_SPACE).lower()


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
    _starts: list[int] | None = None

    def __len__(self) -> int:
        return len(self.key_lengths)

    @property
    def cost_bytes(self) -> int:
        """What keeping the positions counts against the cache's limit."""
        return self.table.cost_bytes

    def value_starts(self) -> list[int]:
        """Byte offset of each entry."""
        starts = self._starts
        if starts is None:
            if self.frame is None:
                before = map((_LEAD_BYTES + len(_GAP)).__add__, self.key_lengths)
            else:
                leads, gaps = self.frame
                before = map(operator.add, map(operator.add, leads, self.key_lengths), gaps)
            after = itertools.chain((0,), self.value_lengths)
            starts = self._starts = list(itertools.accumulate(map(operator.add, after, before)))
        return starts

    def span(self, ordinal: int) -> tuple[int, int]:
        """Where an entry begins and ends."""
        start = self.value_starts()[ordinal]
        return start, start + self.value_lengths[ordinal]

    def key_start(self, ordinal: int) -> int:
        """Where an entry's key begins."""
        gap = len(_GAP) if self.frame is None else self.frame[1][ordinal]
        return self.value_starts()[ordinal] - gap - self.key_lengths[ordinal]


def parse(path: str, raw: bytes) -> Index:
    """Validate a whole file and find its entries.

    Raises:
        CorruptStoreError: it is not strict UTF-8 JSON, an object of objects without duplicate keys.
    """
    return _Parser(path, raw).whole()


def parse_changed(path: str, raw: bytes, *, old_raw: bytes, old: Index) -> Index:
    """`parse`, reusing what is known of an earlier version: only bytes between the first and last change are read.

    Raises:
        CorruptStoreError: as `parse`.
    """
    if old.frame is not None or not len(old):
        return parse(path, raw)
    prefix = _common_prefix(old_raw, raw)
    suffix = _common_suffix(old_raw, raw, min(len(old_raw), len(raw)) - prefix)
    starts = old.value_starts()
    # Entries that end inside the common prefix: an object that is closed cannot be continued by what follows.
    kept_before = bisect.bisect_right(range(len(old)), prefix, key=lambda n: starts[n] + old.value_lengths[n])
    kept_from = bisect.bisect_left(range(len(old)), len(old_raw) - suffix, key=old.key_start)
    kept_from = max(kept_from, kept_before)
    moved = len(raw) - len(old_raw)
    position = 0 if kept_before == 0 else old.span(kept_before - 1)[1]
    stop = old.key_start(kept_from) + moved if kept_from < len(old) else None
    between = _Parser(path, raw).between(position, stop)
    if between is None:
        return parse(path, raw)
    keys = old.table.keys[:kept_before] + between.table.keys + old.table.keys[kept_from:]
    if len(set(keys)) != len(keys):
        return parse(path, raw)  # says where
    return Index(
        old.table if keys == old.table.keys else KeyTable.of(keys),
        old.key_lengths[:kept_before] + between.key_lengths + old.key_lengths[kept_from:],
        old.value_lengths[:kept_before] + between.value_lengths + old.value_lengths[kept_from:],
        None,
        old.updated_at[:kept_before] + between.updated_at + old.updated_at[kept_from:],
    )


class _Parser:
    """Reads one file's bytes as latin-1 text; see `encoding` for why."""

    def __init__(self, path: str, raw: bytes) -> None:
        self.path = path
        self.raw = raw
        self.text = raw.decode("latin-1")
        self.may_mix_spellings = not raw.isascii() and "\\u" in self.text
        self.keys: list[str] = []
        self.key_lengths = array.array("I")
        self.value_lengths = array.array("I")
        self.leads = array.array("I")
        self.gaps = array.array("I")
        self.updated_at = array.array("d")
        self.canonical = True

    def corrupt(self, offset: int, reason: str) -> CorruptStoreError:
        return CorruptStoreError(self.path, offset, reason)

    def whole(self) -> Index:
        raw = self.raw
        if not raw:
            raise self.corrupt(0, "the file is empty (zero bytes), not an empty JSON object")
        if not raw.strip(b"\0"):
            raise self.corrupt(0, "the file holds only NUL bytes, as after a crash")
        self.check_utf8(0, len(raw))
        begin = len(_BOM) if raw.startswith(_BOM) else 0
        first = _FIRST.match(self.text, begin)
        if first is None:
            raise self.corrupt(self.skip_spaces(begin), "not a JSON object")
        if self.text.startswith("}", first.end()):
            if first.end() != 1:
                self.leave_canonical_frame()
            self.end_of_file(first.end() + 1)
        else:
            self.members(0, None, first_key=first.end())
        if len(set(self.keys)) != len(self.keys):
            self.refuse_duplicate()
        return self.index()

    def between(self, position: int, stop: int | None) -> Index | None:
        """The members from `position` (after an entry, or 0) up to the key at `stop`; None if there is no key there."""
        self.check_utf8(position, len(self.raw) if stop is None else stop)
        if position == 0:
            if not self.raw.startswith(_OPEN):
                return None
            first_key = len(_OPEN)
        else:
            after = _NEXT.match(self.text, position)
            if after is None:
                return None
            if after.group(1) == "}":
                if stop is not None:
                    return None
                if not self.text.startswith("\n}", position):
                    return None
                self.end_of_file(after.end())
                return self.index() if self.canonical else None
            first_key = after.end()
        reached = self.members(position, stop, first_key=first_key)
        return self.index() if reached and self.canonical else None

    def index(self) -> Index:
        return Index(
            KeyTable.of(tuple(self.keys)),
            self.key_lengths,
            self.value_lengths,
            None if self.canonical else (self.leads, self.gaps),
            self.updated_at,
        )

    def members(self, end: int, stop: int | None, *, first_key: int) -> bool:
        """Read members, the first one's key being at or after `first_key` and what precedes it ending at `end`.

        Returns whether the reading ended as it should: at the end of the file, or exactly at the key at `stop`.
        """
        text = self.text
        position = first_key
        while True:
            member = _CANONICAL_MEMBER.match(text, end)
            if member is None:
                member = _MEMBER.match(text, position)
                if member is None:
                    raise self.corrupt_member(position)
                self.leave_canonical_frame()
            key_start, key_end = member.span(1)
            if stop is not None and key_start >= stop:
                return key_start == stop
            start = member.end()
            if not self.canonical:
                self.leads.append(key_start - end)
                self.gaps.append(start - key_end)
            self.keys.append(self.key(key_start, key_end))
            self.key_lengths.append(key_end - key_start)
            value, end = self.entry(start)
            self.value_lengths.append(end - start)
            self.updated_at.append(_time_of(value))
            after = _NEXT.match(text, end)
            if after is None:
                raise self.corrupt(self.skip_spaces(end), "expected , or } after an entry")
            position = after.end()
            if after.group(1) == "}":
                if stop is not None:
                    return False
                if not text.startswith("\n}", end):
                    self.leave_canonical_frame()
                self.end_of_file(position)
                return True

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
            key: str = json.loads(self.raw[start:end].decode("utf-8"))
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
            return decode_entry(self.raw[start:end])
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

    def corrupt_member(self, position: int) -> CorruptStoreError:
        return self.corrupt(self.skip_spaces(position), "expected a session key, that is a string and a colon")

    def end_of_file(self, position: int) -> None:
        end = self.skip_spaces(position)
        if end != len(self.text):
            raise self.corrupt(end, "something follows the end of the JSON object")
        if position != end:
            self.leave_canonical_frame()

    def check_utf8(self, start: int, end: int) -> None:
        # In pieces: decoded at once, 8 MB with a single emoji would be 32 MB of text.
        raw = self.raw
        while start < end:
            piece_end = min(start + _UTF8_CHUNK_BYTES, end)
            while (
                start < piece_end < end and raw[piece_end] & 0xC0 == 0x80 and piece_end > start + _UTF8_CHUNK_BYTES - 4
            ):
                piece_end -= 1
            try:
                raw[start:piece_end].decode("utf-8")
            except UnicodeDecodeError as error:
                raise self.corrupt(start + error.start, f"not UTF-8: {error.reason}") from None
            start = piece_end

    def refuse_duplicate(self) -> None:
        seen: set[str] = set()
        starts = self.index().value_starts()
        for ordinal, key in enumerate(self.keys):
            if key in seen:
                raise self.corrupt(starts[ordinal], f"duplicate session key {key!r}")
            seen.add(key)


def _time_of(entry: dict[str, Any]) -> float:
    value = entry.get("updatedAt")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _common_prefix(one: bytes, other: bytes) -> int:
    limit = min(len(one), len(other))
    low = 0
    while low < limit and one.startswith(other[low : min(low + _COMPARE_CHUNK_BYTES, limit)], low):
        low = min(low + _COMPARE_CHUNK_BYTES, limit)
    high = min(low + _COMPARE_CHUNK_BYTES, limit)
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_suffix(one: bytes, other: bytes, limit: int) -> int:
    low = 0
    while low < limit:
        step = min(low + _COMPARE_CHUNK_BYTES, limit)
        if one[len(one) - step : len(one) - low] != other[len(other) - step : len(other) - low]:
            break
        low = step
    high = min(low + _COMPARE_CHUNK_BYTES, limit)
    while low < high:
        middle = (low + high + 1) // 2
        if one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]:
            low = middle
        else:
            high = middle - 1
    return low


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
        """The file's bytes in pieces, or None if there was no file."""
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
        self.pieces: list[Piece] = []
        self.key_lengths = array.array("I")
        self.value_lengths = array.array("I")
        self.updated_at = array.array("d")
        self.keys: list[str] = []
        self.starts: list[int] = []
        self.end = 0
        self.closed = False

    def composed(self) -> Snapshot:
        for number, part in enumerate(self.parts, start=1):
            if isinstance(part, Change):
                self.write(part)
            else:
                self.keep(part.start, part.stop, is_last=number == len(self.parts))
        content = self.finished()
        keys = tuple(self.keys)
        table = self.old.index.table if keys == self.old.index.table.keys else KeyTable.of(keys)
        index = Index(table, self.key_lengths, self.value_lengths, None, self.updated_at, self.starts)
        return Snapshot(self.old.path, content, index, self.digest(content))

    def keep(self, first: int, end: int, *, is_last: bool) -> None:
        """Keep a run of places as it is: in a canonical frame also what is between them."""
        index = self.old.index
        if index.frame is None:
            begin, stop = index.key_start(first), index.span(end - 1)[1]
            # Of the frame as much as is there already: every piece is a write.
            lead_is_there = (first == 0) == (not self.pieces)
            if not lead_is_there:
                self.separate()
            self.closed = end == len(index) and is_last
            self.pieces += self.content.cut(
                begin - _LEAD_BYTES if lead_is_there else begin, self.content.size_bytes if self.closed else stop
            )
            moved = self.end + _LEAD_BYTES - begin
            starts = index.value_starts()[first:end]
            self.starts += [start + moved for start in starts] if moved else starts
            self.end = stop + moved
        else:
            for ordinal in range(first, end):
                key_start = index.key_start(ordinal)
                start, stop = index.span(ordinal)
                key = self.content.slice(key_start, key_start + index.key_lengths[ordinal])
                self.add(key + _GAP + self.content.slice(start, stop), value_bytes=stop - start)
        self.key_lengths += index.key_lengths[first:end]
        self.value_lengths += index.value_lengths[first:end]
        self.updated_at += index.updated_at[first:end]
        self.keys += index.table.keys[first:end]

    def write(self, change: Change) -> None:
        self.add(b"".join((change.key_bytes, _GAP, change.value)), value_bytes=len(change.value))
        self.key_lengths.append(len(change.key_bytes))
        self.value_lengths.append(len(change.value))
        self.updated_at.append(change.updated_at)
        self.keys.append(change.key)

    def add(self, member: bytes, *, value_bytes: int) -> None:
        framed = (_SEPARATOR if self.pieces else _OPEN) + member
        self.pieces.append(Piece(framed, 0, len(framed)))
        self.end += len(framed)
        self.starts.append(self.end - value_bytes)

    def separate(self) -> None:
        lead = _SEPARATOR if self.pieces else _OPEN
        self.pieces.append(Piece(lead, 0, len(lead)))

    def finished(self) -> Content:
        if self.closed:
            return Content(self.pieces)
        end = _CLOSE if self.pieces else _EMPTY
        return Content((*self.pieces, Piece(end, 0, len(end))))

    def digest(self, content: Content) -> ContentDigest | None:
        """The new digest, brought up to date from the old one where that is possible."""
        old, parts = self.old, self.parts
        if old.digest is None or old.content is None or old.index.frame is not None or not old.index or not parts:
            return None
        index, count = old.index, len(old.index)
        first, last = parts[0], parts[-1]
        kept_before = first.stop if isinstance(first, range) and first.start == 0 else 0
        kept_from = last.start if isinstance(last, range) and last.stop == count and len(parts) > 1 else count
        begin = index.span(kept_before - 1)[1] if kept_before else 0
        end = index.key_start(kept_from) if kept_from < count else old.content.size_bytes
        grown = content.size_bytes - old.content.size_bytes
        if end < begin:
            return None  # a permutation: nothing is where it was
        return old.digest.spliced(content, start=begin, removed=end - begin, inserted=end - begin + grown)
