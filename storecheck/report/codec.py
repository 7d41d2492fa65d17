"""Frozen dataclasses to JSON and back, and their JSON schema, from the same type annotations.

One declaration of each value serves writing, reading and the schema that ships, so the three cannot disagree. Knows the
types that documents are made of (text, numbers, truth values, None, `Literal`, tuples, mappings from text, other
dataclasses) and no others.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

T = TypeVar("T")

SHOWN_CHARACTERS = 60


class DocumentError(ValueError):
    """A document is not what it should be; the message names the place, what is there and what was expected."""


def encode(value: object) -> Any:
    """A value made of dataclasses as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(each) for each in value]
    if isinstance(value, Mapping):
        return {key: encode(each) for key, each in value.items()}
    return value


def printable(value: Any) -> Any:
    r"""JSON values with every half of a surrogate pair spelled as its escape, such as `\udc80`: UTF-8 has none of them.

    File names that are no UTF-8 and broken values of a store have them, and so have the texts that show these.
    """
    if isinstance(value, dict):
        return {printable(key): printable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(printable(each) for each in value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def decode(kind: type[T], value: object, where: str = "document") -> T:
    """The inverse of `encode`.

    Raises:
        DocumentError: a member is missing, unknown or of another type.
    """
    return cast("T", _decode(kind, value, where))


def _decode(kind: Any, value: object, where: str) -> object:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_object(kind, value, where)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise _unexpected(where, value, f"one of {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _unexpected(where, value, "an array")
        inner = typing.get_args(kind)[0]
        return tuple(_decode(inner, each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _unexpected(where, value, "an object")
        inner = typing.get_args(kind)[1]
        return {key: _decode(inner, each, f"{where}.{key}") for key, each in value.items()}
    if origin in (types.UnionType, typing.Union):
        return _decode_union(kind, value, where)
    return _decode_plain(kind, value, where)


def _decode_union(kind: Any, value: object, where: str) -> object:
    choices = [choice for choice in typing.get_args(kind) if choice is not types.NoneType]
    if value is None:
        return None
    return _decode(choices[0], value, where)


def _decode_plain(kind: Any, value: object, where: str) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _unexpected(where, value, _NAMES[kind])
    return value


def _decode_object(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _unexpected(where, value, "an object")
    hints = hints_of(kind)
    if unknown := set(value) - set(hints):
        raise DocumentError(f"{where} has the unknown member {min(unknown)!r}; known are {', '.join(hints)}")
    if missing := [name for name in hints if name not in value]:
        raise DocumentError(f"{where} has no member {missing[0]!r}")
    return kind(**{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Field names of a dataclass with their types, in order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def members_of(kind: type) -> frozenset[str]:
    """Names of all members of documents of that kind, at any depth; keys of mappings are none."""
    return frozenset(_member_names(kind))


def _member_names(kind: Any) -> Iterator[str]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        for name, hint in hints_of(kind).items():
            yield name
            yield from _member_names(hint)
    elif typing.get_origin(kind) is not Literal:
        for inner in typing.get_args(kind):
            yield from _member_names(inner)


_NAMES: dict[type, str] = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
_SCHEMA_TYPES: dict[type, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _unexpected(where: str, value: object, expected: str) -> DocumentError:
    text = repr(value)
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
    return DocumentError(f"{where} is {shown}; expected {expected}")


def schema_of(kind: type, *, identifier: str, title: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of documents that hold one `kind` and the constant members `extra`."""
    definitions: dict[str, Any] = {}
    root = dict(_schema_object(kind, definitions))
    root["properties"] = {name: {"const": value} for name, value in extra.items()} | root["properties"]
    root["required"] = [*extra, *root["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": identifier,
        "title": title,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema_object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = hints_of(kind)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(hints),
        "properties": {name: _schema(hint, definitions) for name, hint in hints.items()},
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}
            definitions[kind.__name__] = _schema_object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is Literal:
        return {"enum": list(typing.get_args(kind))}
    if origin is tuple:
        return {"type": "array", "items": _schema(typing.get_args(kind)[0], definitions)}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(typing.get_args(kind)[1], definitions)}
    if origin in (types.UnionType, typing.Union):
        choices = [choice for choice in typing.get_args(kind) if choice is not types.NoneType]
        return {"anyOf": [_schema(choices[0], definitions), {"type": "null"}]}
    return {"type": _SCHEMA_TYPES[kind]}
