"""What can be read of a corrupt store file, and putting that in the file's place.

`salvage` goes through the bytes once, member by member. Where an entry ends although something in it is wrong, it goes
on behind it; where an entry is torn, it goes on at the next line that begins like a session in this file's layout. It
never invents: an entry is kept with the bytes that are there, or it is lost and named. What follows the end of the
object is left out, because it is older content as often as not.

`repair` does this under the write lock and only after the exact bytes have been set aside, durably and for good: no
copy is ever removed by this program.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from sessionstore import process
from sessionstore.cli.survey import CORRUPT_COPY_MARK, has_file
from sessionstore.content import Content
from sessionstore.encoding import (
    MAX_DEPTH,
    InvalidJSONError,
    decode_entry,
    encode_entry,
    nesting_depth,
    private_copy,
)
from sessionstore.errors import CorruptStoreError, UnstorableValueError
from sessionstore.files import (
    FileVersion,
    OpenFile,
    Replaced,
    Swept,
    copy_aside,
    publish,
    require_writable,
    resolve,
    sweep_temporary_files,
)
from sessionstore.lock import WriteLock
from sessionstore.snapshot import exact_time, parse

MAX_PROBLEMS = 1000
"""Problems that are told one by one. More are counted: a file of noise has one in every line."""

_BOM = b"\xef\xbb\xbf"
# In latin-1 text, where a character is a byte. NUL bytes are what a crash leaves of blocks that were never written.
_SPACES_AND_NULS = re.compile(r"[ \t\n\r\x00]*")
_SPACES = re.compile(r"[ \t\n\r]*")
_STRING = r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"'
_MEMBER = re.compile(rf"({_STRING})[ \t\n\r]*:[ \t\n\r]*")
_FIRST_LEAD = re.compile(r'([ \t\n\r]*)"')
_LAST_LINE = re.compile(r"\n([ \t]+)[^ \t\n][^\n]*\n\}[ \t\r\n\x00]*\Z")
_MAX_LAST_LINE_BYTES = 1_000_000  # a session in one line may be long
_DEFAULT_INDENTATION = "  "
_scan_extent: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(parse_int=len, parse_float=len).scan_once  # type: ignore[attr-defined]
"""(text, position) -> (value, end). Tells where a value ends, also one whose numbers no one could read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and what it means for the result."""

    offset: int
    reason: str
    consequence: str = ""


@dataclass(frozen=True, slots=True)
class SalvagedEntry:
    """One session that can be kept, as spelled in the file."""

    offset: int
    key_bytes: bytes
    value: bytes
    updated_at: float


@dataclass(frozen=True, slots=True)
class Salvage:
    """What can be read of a file.

    Attributes:
        kept: by session key, in file order.
        lost: keys of sessions of which nothing can be kept, as far as they can be told.
        problems: in file order, at most `MAX_PROBLEMS`.
        untold: how many more problems there are.
    """

    kept: dict[str, SalvagedEntry]
    lost: tuple[str, ...]
    problems: tuple[Problem, ...]
    untold: int

    def composed(self) -> bytes:
        """A store file of what can be kept, in this store's layout."""
        members = [b"\n  " + entry.key_bytes + b": " + entry.value for entry in self.kept.values()]
        return b"{" + b",".join(members) + b"\n}" if members else b"{}"


def salvage(raw: bytes) -> Salvage:
    """Find every entry in `raw` that can be kept. Pure; takes any bytes."""
    return _Scanner(raw).scan()


class _Scanner:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.text = raw.decode("latin-1")
        self.kept: dict[str, SalvagedEntry] = {}
        self.lost: dict[str, None] = {}
        self.problems: list[Problem] = []
        self.untold = 0
        self.indentation: str | None = _DEFAULT_INDENTATION  # None: this layout does not put sessions on lines
        self.after: Literal["start", "comma", "entry"] = "start"
        self.headless = False  # the first object found need not be the root
        self.closed = False  # the root object ends where the file does

    def tell(self, offset: int, reason: str, consequence: str = "") -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(offset, reason, consequence))
        else:
            self.untold += 1

    def scan(self) -> Salvage:
        position = self.begin()
        if position is not None:
            self.members(position)
        if self.headless and not self.closed:
            # An object inside a torn entry was taken for the root.
            self.kept.clear()
        lost = tuple(key for key in self.lost if key not in self.kept)
        return Salvage(self.kept, lost, tuple(self.problems), self.untold)

    def begin(self) -> int | None:
        """Where the first member may be, or None if there cannot be any."""
        if not self.raw.strip(b"\0"):
            self.tell(0, "the file holds only NUL bytes, as after a crash" if self.raw else "the file is empty")
            return None
        start = len(_BOM) if self.raw.startswith(_BOM) else 0
        position = _SPACES.match(self.text, start).end()  # type: ignore[union-attr]
        if self.text.startswith("{", position):
            self.learn_layout(position + 1)
            return position + 1
        self.learn_layout(None)
        if self.text.startswith("\0", position) and self.next_line(start) is None:
            after = _SPACES_AND_NULS.match(self.text, position).end()  # type: ignore[union-attr]
            if self.text.startswith("{", after):
                self.tell(position, f"{after - position} NUL bytes, as after a crash")
                self.headless = True
                return after + 1
        return self.go_on(start, "not a JSON object", at=position)

    def learn_layout(self, root: int | None) -> None:
        """How far session lines are indented: from the first of them, after `root`, or else the last."""
        first = None if root is None else _FIRST_LEAD.match(self.text, root)
        if first is not None:
            _, newline, indentation = first.group(1).rpartition("\n")
            self.indentation = indentation if newline else None
            return
        last = _LAST_LINE.search(self.text, max(0, len(self.text) - _MAX_LAST_LINE_BYTES))
        self.indentation = _DEFAULT_INDENTATION if last is None else last.group(1)

    def next_line(self, position: int) -> re.Match[str] | None:
        """The next line at or after `position` that begins like a session in this layout."""
        if self.indentation is None:
            return None
        line = re.compile(rf"\n{re.escape(self.indentation)}(?={_STRING}[ \t]*:[ \t\r\n]*\{{)")
        return line.search(self.text, position)

    def go_on(self, position: int, reason: str, *, at: int | None = None) -> int | None:
        """Tell of damage, and find where to go on after it."""
        found = self.next_line(position)
        offset = position if at is None else at
        end = len(self.text) if found is None else found.end()
        place = "the end of the file" if found is None else f"byte {end:,}"
        self.tell(offset, reason, f"left out, up to {place}")
        self.after = "start"
        return None if found is None else end

    def members(self, start: int) -> None:
        position: int | None = start
        while position is not None:
            position = _SPACES.match(self.text, position).end()  # type: ignore[union-attr]
            symbol = self.text[position : position + 1]
            if symbol == "":
                self.tell(position, "the file ends before the JSON object does")
                return
            if symbol == "}":
                if self.after == "comma":
                    self.tell(position, "a comma before the closing }")
                self.end(position + 1)
                return
            if symbol == ",":
                if self.after != "entry":
                    self.tell(position, "a comma without an entry before it")
                self.after = "comma"
                position += 1
                continue
            if self.after == "entry":
                self.tell(position, "expected , or } after an entry")
            self.after = "entry"
            position = self.member(position)

    def end(self, position: int) -> None:
        rest = _SPACES.match(self.text, position).end()  # type: ignore[union-attr]
        self.closed = rest == len(self.text)
        if not self.closed:
            self.tell(
                rest, "something follows the end of the JSON object", f"{len(self.text) - rest} bytes are left out"
            )

    def member(self, position: int) -> int | None:
        """Judge one member; returns where to go on."""
        member = _MEMBER.match(self.text, position)
        if member is None:
            return self.go_on(position, "expected a session key, that is a string and a colon")
        start = member.end()
        key = self.key(*member.span(1))
        try:
            value, end = _scan_extent(self.text, start)
        except (StopIteration, ValueError, RecursionError) as error:
            if key is not None:
                self.lost[key] = None
            return self.go_on(start, _why_torn(error, key), at=_where(error, start))
        if key is not None:
            self.judge(key, member.span(1), (start, end), value)
        return end

    def key(self, start: int, end: int) -> str | None:
        try:
            key: str = json.loads(self.raw[start:end].decode("utf-8"))
        except ValueError as error:
            self.tell(start, f"a session key cannot be read: {error}", "its entry is lost")
            return None
        return key

    def judge(self, key: str, key_span: tuple[int, int], span: tuple[int, int], value: object) -> None:
        """Keep an entry whose end is known, or tell why not."""
        start, end = span
        raw = self.raw[start:end]
        try:
            kept, entry = self.readable(key, raw, start, value)
        except _LostError as lost:
            self.tell(start + lost.offset, f"session {key!r}: {lost.reason}", "this entry is lost")
            self.lost[key] = None
            return
        found = SalvagedEntry(key_span[0], self.raw[slice(*key_span)], kept, exact_time(entry))
        known = self.kept.get(key)
        if known is not None:
            newer = found if found.updated_at >= known.updated_at else known
            self.tell(
                found.offset,
                f"duplicate session key {key!r}, also at byte {known.offset}",
                f"the entry at byte {newer.offset} is kept, which is the newer one",
            )
            found = newer
        self.kept[key] = found

    def readable(self, key: str, raw: bytes, start: int, value: object) -> tuple[bytes, dict[str, Any]]:
        """The bytes to keep of an entry, and the entry."""
        if not isinstance(value, dict):
            raise _LostError("an entry is not an object")
        if nesting_depth(value) > MAX_DEPTH:
            raise _LostError(f"nested deeper than {MAX_DEPTH} levels")
        try:
            return raw, decode_entry(raw)
        except UnicodeDecodeError as error:
            raise _LostError(f"not UTF-8: {error.reason}", error.start) from None
        except InvalidJSONError as error:
            kept = self.without_duplicates(key, raw, error.reason)
            self.tell(start, f"session {key!r}: {error.reason}", "the last of the duplicates is kept")
            return kept
        except ValueError as error:
            raise _LostError(str(error)) from None

    def without_duplicates(self, key: str, raw: bytes, reason: str) -> tuple[bytes, dict[str, Any]]:
        """What other JSON programs make of an entry with duplicate keys in it: the last one counts."""
        try:
            entry = private_copy(key, json.loads(raw))
        except (ValueError, UnstorableValueError):
            raise _LostError(reason) from None
        return encode_entry(entry), entry


class _LostError(Exception):
    """An entry cannot be kept."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


def _why_torn(error: BaseException, key: str | None) -> str:
    named = "an entry" if key is None else f"session {key!r}"
    if isinstance(error, RecursionError):
        return f"{named}: nested deeper than {MAX_DEPTH} levels"
    return f"{named}: not JSON: {getattr(error, 'msg', None) or 'expected a value'}"


def _where(error: BaseException, start: int) -> int:
    if isinstance(error, json.JSONDecodeError):
        return error.pos
    # The scanner raises StopIteration(position) where there is no value at all.
    return error.value if isinstance(error, StopIteration) and isinstance(error.value, int) else start


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` did.

    Attributes:
        copy: where the exact bytes of the corrupt file are now; None if the file was healthy and left alone.
        salvage: what was read of it; None likewise.
        swept: what became of the temporary files of killed writers.
    """

    copy: str | None
    salvage: Salvage | None
    swept: Swept


def repair(path: str, *, lock_timeout_s: float) -> Repair:
    """Replace a corrupt store file by what can be read of it, after setting its bytes aside. Durable when it returns.

    A healthy file is left alone, and so is a file that does not exist.

    Raises:
        LockTimeoutError: another writer held the lock too long. Nothing is written.
        ConflictError: a program that does not take the lock changed the file meanwhile. Only the copy is there.
        StoreError: it is no regular file. It is left alone, and gets no lock file.
        OSError: the disk refused; the file is as it was.
    """
    resolved = resolve(os.path.abspath(path))
    if not has_file(path):
        return Repair(None, None, Swept(0, ()))
    lock = WriteLock(resolved, process.PROCESS.path_lock(resolved), timeout_s=lock_timeout_s)
    try:
        lock.acquire()
        swept = sweep_temporary_files(resolved)
        with OpenFile(resolved) as file:
            content, version = file.read()
            try:
                parse(resolved, content)
            except CorruptStoreError:
                copy, found = _replace(resolved, content.joined(), version)
                return Repair(copy, found, swept)
        return Repair(None, None, swept)
    finally:
        # Twice, because a signal handler may interrupt the first.
        try:
            lock.release()
        finally:
            lock.release()


def _replace(path: str, raw: bytes, version: FileVersion) -> tuple[str, Salvage]:
    found = salvage(raw)
    new = found.composed()
    parse(path, new)  # what is published must be readable, whatever the scanner believed
    require_writable(path)
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    suffix = f"{CORRUPT_COPY_MARK}{when}-{os.urandom(4).hex()}"
    copy = copy_aside(path, raw, suffix=suffix, mode=version.mode)
    replaced = Replaced(version.mode, version.owner, version.group)
    publish(path, Content.of(new), replaced=replaced, unchanged=_still_holds(path, Content.of(raw)))
    return copy, found


def _still_holds(path: str, content: Content) -> Callable[[], bool]:
    def unchanged() -> bool:
        with OpenFile(path) as file:
            return file.holds(content) is not None

    return unchanged
