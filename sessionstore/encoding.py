"""Entries as JSON bytes, and back, without losing anything.

An entry is written as two-space indented JSON, nested one level in the file. Reading is strict: duplicate keys,
NaN, infinities and absurd depth are refused, integers stay exact. Text travels as latin-1 between the scanner and
the bytes, so that a character offset is a byte offset and non-ASCII text costs no conversion; whoever needs the
value decodes the entry's own slice as UTF-8.

Why two encoders: orjson is several times faster, but refuses integers beyond 64 bits and lone surrogates, which the
file may hold. Then the standard library writes the same layout.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import orjson

from sessionstore.errors import UnstorableValueError

MAX_DEPTH = 128
"""Levels of nesting inside an entry, the entry itself included. Deep enough for any real entry; far below the
interpreter's recursion limit, so that the same file gets the same verdict from any caller."""

MAX_INTEGER_DIGITS = 4300
"""Longest integer that CPython converts by default (CVE-2020-10735)."""


class InvalidJSONError(ValueError):
    """JSON that the store refuses; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidJSONError(f"duplicate key {key!r}")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> Any:
    raise InvalidJSONError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidJSONError(f"number {text[:40]} overflows to infinity")
    return value


def _bounded_int(text: str) -> int:
    # CPython's own limit can be configured away or lowered, and its check is by digits: ours is fixed.
    if len(text) > MAX_INTEGER_DIGITS and len(text.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise InvalidJSONError(f"integer of {len(text.lstrip('-'))} digits, more than {MAX_INTEGER_DIGITS}")
    return int(text)


_decoder = json.JSONDecoder(
    object_pairs_hook=_object_from_pairs,
    parse_constant=_refuse_constant,
    parse_float=_finite_float,
    parse_int=_bounded_int,
)
scan_value: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]
"""(text, position) -> (value, end). Raises StopIteration or ValueError where there is no valid value."""

scan_any_value: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
"""`scan_value` that accepts what Python's json accepts: it tells where a refused value ends."""


def decode_entry(text: bytes) -> dict[str, Any]:
    """The entry that a slice of a validated file holds; a fresh object at every call."""
    value: dict[str, Any] = _decoder.decode(text.decode("utf-8"))
    return value


_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def as_json_reads(text: str) -> str:
    r"""`text` as a reader of the file will have it: two surrogates in a row are one character there.

    Spelled `\ud83d\ude00` in the file, they come back as U+1F600. Two strings that differ only in that are one key.
    """
    if text.isascii() or not _SURROGATE_PAIR.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


_CONTAINERS = (dict, list)  # all that the decoder makes


def nesting_depth(value: Any) -> int:
    """Levels of objects and arrays in a decoded value; 0 for a scalar. Iterative: it judges what recursion cannot."""
    depth = 0
    level = [value] if type(value) in _CONTAINERS else []
    while level:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) in _CONTAINERS
        ]
    return depth


def private_copy(session_key: str, entry: object) -> dict[str, Any]:
    """A deep copy of `entry` in plain JSON types, which no other thread and no caller can change.

    Raises:
        UnstorableValueError: something in it cannot be stored as JSON: a function, NaN, a key that is not a string, a
            cycle, more than `MAX_DEPTH` levels. Names the session and the place.
    """
    if not isinstance(entry, dict):
        raise UnstorableValueError(session_key, "", f"an entry is a dict, not {type(entry).__name__}")
    copy: dict[str, Any] = _Copier(session_key).copy(entry, ())
    return copy


class _Copier:
    def __init__(self, session_key: str) -> None:
        self.session_key = session_key
        self.open_containers: set[int] = set()

    def refuse(self, path: tuple[object, ...], reason: str) -> UnstorableValueError:
        return UnstorableValueError(self.session_key, "".join(f"[{_subscript(step)}]" for step in path), reason)

    def copy(self, value: object, path: tuple[object, ...]) -> Any:
        kind = type(value)
        if kind is str:
            return as_json_reads(value)  # type: ignore[arg-type]
        if value is None or kind is bool:
            return value
        if kind is int:
            return self._integer(value, path)
        if isinstance(value, dict | list | tuple):
            return self._container(value, path)
        if isinstance(value, float):
            # Not float(value): a subclass may say something else there.
            plain = float.__float__(value)
            if not math.isfinite(plain):
                raise self.refuse(path, f"{plain} is not JSON")
            return plain
        if isinstance(value, str):
            return as_json_reads(str.__str__(value))
        if isinstance(value, int):
            return self._integer(int.__int__(value), path)
        raise self.refuse(path, f"{kind.__name__} cannot be stored as JSON")

    def _integer(self, value: Any, path: tuple[object, ...]) -> int:
        # 10**4300 has 4301 digits; bit_length is cheap where str() would raise.
        if value.bit_length() > 14_000 and abs(value) >= 10**MAX_INTEGER_DIGITS:
            raise self.refuse(path, f"integer of more than {MAX_INTEGER_DIGITS} digits")
        return int(value)

    def _container(self, value: dict[Any, Any] | list[Any] | tuple[Any, ...], path: tuple[object, ...]) -> Any:
        if id(value) in self.open_containers:
            raise self.refuse(path, "a cycle: the value contains itself")
        if len(path) >= MAX_DEPTH:
            raise self.refuse((*path[:8], "…"), f"nested deeper than {MAX_DEPTH} levels")
        self.open_containers.add(id(value))
        try:
            if not isinstance(value, dict):
                # list() of a list is atomic: another thread may append meanwhile, but not tear this copy.
                return [self.copy(item, (*path, number)) for number, item in enumerate(list(value))]
            copy: dict[str, Any] = {}
            for key, item in list(value.items()):
                if not isinstance(key, str):
                    raise self.refuse(path, f"key {key!r} is {type(key).__name__}, not a string")
                plain = as_json_reads(str.__str__(key))
                if plain in copy:
                    raise self.refuse(path, f"two keys are spelled {plain!r}")
                copy[plain] = self.copy(item, (*path, plain))
            return copy
        finally:
            self.open_containers.discard(id(value))


def _subscript(step: object) -> str:
    if isinstance(step, str) and step != "…":
        shown = step if len(step) <= 60 else step[:60] + "…"
        return json.dumps(shown)
    return str(step)


def encode_entry(entry: dict[str, Any]) -> bytes:
    """Two-space indented JSON of an entry made by `private_copy` or `decode_entry`, as it stands nested in the file.

    UTF-8; lone surrogates are escaped, as JSON.stringify does.
    """
    try:
        text = orjson.dumps(entry, option=orjson.OPT_INDENT_2)
    except TypeError:
        # Integers beyond 64 bits, lone surrogates: the entry is plain JSON, so nothing else can be refused.
        text = _encode_exactly(entry)
    # Line breaks inside strings are escaped, so every one in the text is layout.
    return text.replace(b"\n", b"\n  ")


def encode_key(key: str) -> bytes:
    """JSON string of a session key."""
    try:
        return orjson.dumps(key)
    except TypeError:
        return _encode_exactly(key)


def _encode_exactly(value: object) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Only lone surrogates cannot be encoded, and backslashreplace spells them as JSON does.
    return text.encode("utf-8", "backslashreplace")
