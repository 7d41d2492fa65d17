"""What the store should do, one operation after the other.

The specification is a handful of pure functions: the bytes of the file (or None for "no file") and an operation go in,
the bytes afterwards, the result and the failure come out. It decodes everything, always, with the `json` module of
the standard library, keeps each entry's text beside its value, and predicts the file byte for byte. It is slow and
meant to be obviously right; it shares no code with the store.

It does not model locks, caches (see `models.caches`), crashes or several processes at once: those checks take the
sequential outcome from here and ask whether some order of the operations explains what was seen.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

T = TypeVar("T")

Entry = dict[str, object]
FailureKind = Literal["corrupt", "unstorable", "mutator"]
MaintenanceMode = Literal["warn", "enforce", "off"]

BOM = b"\xef\xbb\xbf"
# What `String.prototype.trim` of the original system's JavaScript removes (ECMA-262, WhiteSpace and LineTerminator).
# Python's `str.strip` differs: it keeps U+FEFF and removes U+001C..U+001F and U+0085.
JS_WHITE_SPACE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
MAX_DEPTH = 128  # levels of lists and objects, the entry itself among them
MAX_INT_DIGITS = 4300  # CPython's own limit on text -> int, which keeps a hostile file from costing quadratic time
MAX_SETTING = 2**53 - 1  # JavaScript's largest safe integer
KEPT_BACKUPS = 3

DAY_MS = 24 * 60 * 60 * 1000
DEFAULT_OBJECT_CACHE_MAX_BYTES = 1_000_000
DEFAULT_CACHE_TTL_MS = 45_000
DEFAULT_SERIALIZED_CACHE_MAX_BYTES = 64 * 1024 * 1024


class CorruptContentError(Exception):
    """The bytes are not a store file; the message says why."""


class UnstorableError(Exception):
    """A value that JSON cannot carry, at `value_path` inside the entry called `session_key`."""

    def __init__(self, *, session_key: object, value_path: str, reason: str) -> None:
        super().__init__(f"{session_key!r}{value_path}: {reason}")
        self.session_key = session_key
        self.value_path = value_path


@dataclass(frozen=True, slots=True)
class RawEntry:
    """One member of the root object: the key, and the exact text of key and value in the file."""

    key: str
    key_text: str
    value_text: str

    def value(self) -> Entry:
        """The decoded entry, a fresh one each time."""
        decoded: Entry = _DECODER.decode(self.value_text)
        return decoded


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The maintenance settings of one operation."""

    mode: MaintenanceMode = "warn"
    prune_after_ms: int = 30 * DAY_MS
    max_entries: int = 500
    rotate_bytes: int = 10_485_760


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What maintenance did (`enforce`) or would have done (`warn`)."""

    pruned: tuple[str, ...] = ()
    capped: tuple[str, ...] = ()
    backup: bool = False

    @property
    def something(self) -> bool:
        """Whether there is anything to do or to log."""
        return bool(self.pruned or self.capped or self.backup)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The file after an operation, and what the caller got."""

    content: bytes | None
    result: object = None
    failure: FailureKind | None = None
    wrote: bool = False
    backup: bytes | None = None  # the copy that maintenance makes before publishing, if it makes one
    maintenance: MaintenanceReport = field(default_factory=MaintenanceReport)
    session_key: object = None  # of an unstorable value
    value_path: str | None = None


# --- reading ----------------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, object]]) -> Entry:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise CorruptContentError("duplicate key")
    return dict(pairs)


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INT_DIGITS:
        raise CorruptContentError("integer too long")
    return int(digits)


def _float(spelling: str) -> float:
    number = float(spelling)
    if not math.isfinite(number):
        raise CorruptContentError("number too large")
    return number


def _constant(name: str) -> object:
    raise CorruptContentError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_SPACE = re.compile(r"[ \t\n\r]*")
_scan_string: Callable[[str, int, bool], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]


def parse(content: bytes | None) -> tuple[RawEntry, ...]:
    """The members of the root object in file order; no file has none.

    Raises:
        CorruptContentError: the bytes are not UTF-8, not JSON, or not an object of objects within the limits.
    """
    if content is None:
        return ()
    try:
        text = content.removeprefix(BOM).decode("utf-8")
        return tuple(_members(text))
    except UnicodeDecodeError as error:
        raise CorruptContentError("not UTF-8") from error
    except (ValueError, IndexError) as error:
        raise CorruptContentError("not JSON") from error
    except RecursionError as error:
        raise CorruptContentError("too deep") from error


def _members(text: str) -> Iterator[RawEntry]:
    """Walk the root object; `IndexError` means that the text ended too early."""
    at = _skip(text, 0, expected="{")
    seen: set[str] = set()
    while text[at] != "}":
        if seen:
            at = _skip(text, at, expected=",")
        if text[at] != '"':
            raise CorruptContentError("a key must be a string")
        key, key_end = _scan_string(text, at + 1, True)
        value_start = _skip(text, _spaces_end(text, key_end), expected=":")
        value, value_end = _DECODER.raw_decode(text, value_start)
        if key in seen:
            raise CorruptContentError("duplicate key")
        if not isinstance(value, dict):
            raise CorruptContentError("an entry is not an object")
        if _depth(value) > MAX_DEPTH:
            raise CorruptContentError("too deep")
        seen.add(key)
        yield RawEntry(key=key, key_text=text[at:key_end], value_text=text[value_start:value_end])
        at = _spaces_end(text, value_end)
    if _spaces_end(text, at + 1) != len(text):
        raise CorruptContentError("something follows the root object")


def _spaces_end(text: str, at: int) -> int:
    """Where the white space at `at` ends."""
    matched = _SPACE.match(text, at)
    assert matched is not None  # the pattern matches the empty string
    return matched.end()


def _skip(text: str, at: int, *, expected: str) -> int:
    """Past the expected character and the white space around it."""
    at = _spaces_end(text, at)
    if text[at] != expected:
        raise CorruptContentError(f"no {expected} where one is needed")
    return _spaces_end(text, at + 1)


def _depth(entry: Entry) -> int:
    """Levels of lists and objects in `entry`, which is one itself."""
    level: list[dict[str, object] | list[object]] = [entry]
    depth = 0
    while level:
        depth += 1
        inside: list[dict[str, object] | list[object]] = []
        for container in level:
            members = container.values() if isinstance(container, dict) else container
            inside.extend(member for member in members if isinstance(member, (dict, list)))
        level = inside
    return depth


def is_corrupt(content: bytes | None) -> bool:
    """Whether the store must refuse this file."""
    try:
        parse(content)
    except CorruptContentError:
        return True
    return False


# --- keys -------------------------------------------------------------------------------------------------------


def as_text(text: str) -> str:
    """The text that a reader of the file gets: two surrogates in a row are one character."""
    read: str = json.loads(json.dumps(str.__str__(text)))
    return read


def normalise(key: str) -> str:
    """The name under which a session is looked up and written."""
    return as_text(key).strip(JS_WHITE_SPACE).lower()


def _age_rank(entry: Mapping[str, object]) -> float | int:
    stamp = updated_at(entry)
    return -math.inf if stamp is None else stamp


def updated_at(entry: Mapping[str, object]) -> int | float | None:
    """The entry's `updatedAt` if it is a number. `True` is not a number here."""
    stamp = entry.get("updatedAt")
    if isinstance(stamp, bool) or not isinstance(stamp, (int, float)):
        return None
    return stamp


def winners(entries: Iterable[RawEntry]) -> dict[str, RawEntry]:
    """For each session the entry that a lookup finds, in the order of the sessions' first spellings.

    The newest `updatedAt` wins; on a tie the spelling that is already normalised, else the first in the file.
    """
    found: dict[str, RawEntry] = {}
    for raw in entries:
        name = normalise(raw.key)
        best = found.get(name)
        if best is None:
            found[name] = raw
            continue
        rank, best_rank = _age_rank(raw.value()), _age_rank(best.value())
        if rank > best_rank or (rank == best_rank and raw.key == name):
            found[name] = raw
    return found


# --- writing ----------------------------------------------------------------------------------------------------


def _escape_surrogates(text: str) -> str:
    return re.sub("[\ud800-\udfff]", lambda matched: f"\\u{ord(matched[0]):04x}", text)


def encode_key(key: str) -> str:
    """The text of a key that the store writes itself."""
    return _escape_surrogates(json.dumps(key, ensure_ascii=False))


def encode(value: object) -> str:
    """The text of an entry that the store writes itself: two-space JSON, one level in.

    Two values are the same to the store exactly if this text is the same, so `1`, `1.0` and `True` all differ, and so
    do two spellings of the order of the members.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return _escape_surrogates(text).replace("\n", "\n  ")


def frame(entries: Iterable[RawEntry]) -> bytes:
    """The file around the entries: one entry a line (and what follows it), no newline at the end, no BOM."""
    lines = [f"\n  {raw.key_text}: {raw.value_text}" for raw in entries]
    return ("{" + ",".join(lines) + ("\n}" if lines else "}")).encode("utf-8")


def plain(session_key: object, entry: object) -> Entry:
    """The entry as JSON will give it back: exact built-in types, tuples as lists.

    Raises:
        UnstorableError: JSON cannot carry something in it.
    """
    if not isinstance(session_key, str):
        raise UnstorableError(session_key=session_key, value_path="", reason="a session key must be a string")
    if not isinstance(entry, dict):
        raise UnstorableError(session_key=session_key, value_path="", reason="an entry must be a dict")
    result = _plain(entry, session_key=session_key, path="", depth=1)
    assert isinstance(result, dict)
    return result


def _plain(value: object, *, session_key: str, path: str, depth: int) -> object:
    reason = _why_not(value, depth=depth)
    if reason is not None:
        raise UnstorableError(session_key=session_key, value_path=path, reason=reason)
    if isinstance(value, dict):
        return {
            as_text(name): _plain(member, session_key=session_key, path=f"{path}[{json.dumps(name)}]", depth=depth + 1)
            for name, member in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [
            _plain(member, session_key=session_key, path=f"{path}[{number}]", depth=depth + 1)
            for number, member in enumerate(value)
        ]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return as_text(value)
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    raise AssertionError(f"{value!r} is of no JSON type, but was not refused")


def _why_not(value: object, *, depth: int) -> str | None:
    """Why JSON cannot carry the value, its members aside; None if it can."""
    if isinstance(value, (dict, list, tuple)) and depth > MAX_DEPTH:
        return "too deep"
    if isinstance(value, dict):
        return next((f"the key {name!r} is not a string" for name in value if not isinstance(name, str)), None)
    if isinstance(value, float):
        return None if math.isfinite(value) else "not finite"
    if isinstance(value, int):
        return None if abs(int(value)) < 10**MAX_INT_DIGITS else "integer too long"
    return None if value is None or isinstance(value, (str, list, tuple)) else f"a {type(value).__name__}"


class Sheet(MutableMapping[str, Entry]):
    """What a mutator edits in the model: every session decoded, found under any spelling of its key."""

    def __init__(self, entries: Iterable[RawEntry]) -> None:
        self._values = {name: raw.value() for name, raw in winners(entries).items()}

    def __getitem__(self, key: str) -> Entry:
        return self._values[normalise(key)]

    def __setitem__(self, key: str, value: Entry) -> None:
        self._values[normalise(key)] = value

    def __delitem__(self, key: str) -> None:
        del self._values[normalise(key)]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and normalise(key) in self._values


def _committed(before: tuple[RawEntry, ...], sheet: Sheet) -> tuple[RawEntry, ...]:
    """The entries after a mutator: untouched ones as they were, written ones under one normalised key."""
    spellings: dict[str, list[RawEntry]] = {}
    for raw in before:
        spellings.setdefault(normalise(raw.key), []).append(raw)
    found = winners(before)
    texts = {name: encode(plain(name, sheet[name])) for name in sheet}

    after: list[RawEntry] = []
    for raw in before:
        name = normalise(raw.key)
        if name not in texts:
            continue
        if texts[name] == encode(found[name].value()):
            after.append(raw)
        elif raw is spellings[name][0]:
            after.append(RawEntry(key=name, key_text=_key_text(name, spellings[name]), value_text=texts[name]))
    after.extend(
        RawEntry(key=name, key_text=encode_key(name), value_text=text)
        for name, text in texts.items()
        if name not in spellings
    )
    return tuple(after)


def _key_text(key: str, candidates: Iterable[RawEntry]) -> str:
    """A key keeps its own spelling (escapes) if it was already in the file; else it gets the canonical one."""
    return next((raw.key_text for raw in candidates if raw.key == key), encode_key(key))


def _replaced(before: tuple[RawEntry, ...], sessions: Mapping[str, object]) -> tuple[RawEntry, ...]:
    """The entries after `save`: the given keys in the given order; equal entries keep their bytes."""
    by_key = {raw.key: raw for raw in before}
    after: list[RawEntry] = []
    for given, entry in sessions.items():
        key, text = as_text(given), encode(plain(given, entry))
        old = by_key.get(key)
        if old is not None and encode(old.value()) == text:
            after.append(old)
        else:
            after.append(RawEntry(key=key, key_text=encode_key(key), value_text=text))
    return tuple(after)


# --- maintenance ------------------------------------------------------------------------------------------------


def maintain(
    entries: tuple[RawEntry, ...], *, rules: Maintenance, now_ms: int, active_session: str | None
) -> tuple[tuple[RawEntry, ...], MaintenanceReport]:
    """Prune sessions older than `prune_after_ms`, then keep the `max_entries` newest.

    A session is as old as its winning entry, and leaves with all its spellings. Sessions without a numeric `updatedAt`
    are never removed, nor is the active one.
    """
    if rules.mode == "off":
        return entries, MaintenanceReport()
    active = None if active_session is None else normalise(active_session)
    stamps = {name: updated_at(raw.value()) for name, raw in winners(entries).items()}
    ages = {name: stamp for name, stamp in stamps.items() if stamp is not None and name != active}
    pruned = tuple(name for name, stamp in ages.items() if stamp < now_ms - rules.prune_after_ms)
    # Among equals the one further down the file goes first, as in the original system's stable sort.
    oldest_first = sorted((name for name in reversed(ages) if name not in pruned), key=lambda name: ages[name])
    excess = max(0, len(stamps) - len(pruned) - rules.max_entries)
    report = MaintenanceReport(pruned=pruned, capped=tuple(oldest_first[:excess]))
    if rules.mode == "warn":
        return entries, report
    gone = {*report.pruned, *report.capped}
    return tuple(raw for raw in entries if normalise(raw.key) not in gone), report


# --- operations -------------------------------------------------------------------------------------------------


def load(content: bytes | None) -> Outcome:
    """Every session under the spelling of its winning entry."""
    try:
        found = winners(parse(content))
    except CorruptContentError:
        return Outcome(content=content, failure="corrupt")
    return Outcome(content=content, result={raw.key: raw.value() for raw in found.values()})


def read(content: bytes | None, key: str) -> Outcome:
    """One session's entry, or None."""
    try:
        found = winners(parse(content))
    except CorruptContentError:
        return Outcome(content=content, failure="corrupt")
    raw = found.get(normalise(key))
    return Outcome(content=content, result=None if raw is None else raw.value())


def update(
    content: bytes | None,
    mutator: Callable[[MutableMapping[str, Entry]], T],
    *,
    rules: Maintenance | None = None,
    now_ms: int = 0,
    active_session: str | None = None,
) -> Outcome:
    """Run `mutator` on the content and publish what it made of it. `edit` is the same thing."""
    try:
        before = parse(content)
    except CorruptContentError:
        return Outcome(content=content, failure="corrupt")
    sheet = Sheet(before)
    try:
        result = mutator(sheet)
    except Exception:  # noqa: BLE001  # whatever a mutator raises, the outcome for the file is the same
        return Outcome(content=content, failure="mutator")
    try:
        after = _committed(before, sheet)
    except UnstorableError as error:
        return _refused(content, error)
    done = _published(
        content, before, after, rules=rules or Maintenance(), now_ms=now_ms, active_session=active_session
    )
    return replace(done, result=result)


def save(
    content: bytes | None,
    sessions: Mapping[str, object],
    *,
    rules: Maintenance | None = None,
    now_ms: int = 0,
    active_session: str | None = None,
) -> Outcome:
    """Replace everything by `sessions`, unless that is what the file already says."""
    try:
        for key, entry in sessions.items():
            plain(key, entry)
        before = parse(content)
    except UnstorableError as error:
        return _refused(content, error)
    except CorruptContentError:
        return Outcome(content=content, failure="corrupt")
    after = _replaced(before, sessions)
    done = _published(
        content, before, after, rules=rules or Maintenance(), now_ms=now_ms, active_session=active_session
    )
    # Unlike an update, a save of nothing creates the file.
    return replace(done, content=frame(()), wrote=True) if done.content is None else done


def _refused(content: bytes | None, error: UnstorableError) -> Outcome:
    return Outcome(content=content, failure="unstorable", session_key=error.session_key, value_path=error.value_path)


def _published(
    content: bytes | None,
    before: tuple[RawEntry, ...],
    after: tuple[RawEntry, ...],
    *,
    rules: Maintenance,
    now_ms: int,
    active_session: str | None,
) -> Outcome:
    """Maintenance, then the write, unless the entries are what the file holds already."""
    kept, report = maintain(after, rules=rules, now_ms=now_ms, active_session=active_session)
    large = rules.mode != "off" and content is not None and len(content) > rules.rotate_bytes
    report = replace(report, backup=large)
    if kept == before:
        return Outcome(content=content, maintenance=report)
    backup = content if large and rules.mode == "enforce" else None
    return Outcome(content=frame(kept), wrote=True, backup=backup, maintenance=report)


# --- settings ---------------------------------------------------------------------------------------------------


def parse_setting(text: str | None, *, default: int) -> int:
    """The value of a numeric environment variable: white space trimmed, optional sign, ASCII digits, 0 to 2**53-1."""
    if text is None:
        return default
    trimmed = text.strip(JS_WHITE_SPACE)
    if re.fullmatch("[+-]?[0-9]+", trimmed) is None:
        return default
    digits = trimmed.lstrip("+-").lstrip("0") or "0"
    if len(digits) > len(str(MAX_SETTING)):
        return default
    number = int(digits)
    if number > MAX_SETTING or (trimmed.startswith("-") and number != 0):
        return default
    return number


def is_malformed_setting(text: str | None) -> bool:
    """Whether the text is set and means nothing, so that a warning is due."""
    if text is None:
        return False
    return parse_setting(text, default=-1) == -1
