"""Calls as text: what a test did, as lines that are shown, kept in a document, and done again.

A line is one call in Python's spelling, such as `load(Target(1), skip_cache=True)`. Reading one understands literals
and calls of the names that the reader is given, and nothing else: no attribute, no operator, no name of Python's own.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MAX_VALUE_CHARACTERS: Final = 48
"""A longer literal is shown by its beginning; the document has all of it."""

_COLLECTIONS: Final[Mapping[type[ast.expr], Callable[[Iterable[object]], object]]] = {
    ast.Tuple: tuple,
    ast.List: list,
    ast.Set: set,
}
_NUMBERS: Final[Mapping[str, object]] = {"nan": math.nan, "inf": math.inf}


class CallError(ValueError):
    """A line is no call of something known; the message says what was found instead."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    name: str
    arguments: tuple[object, ...]
    keywords: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A literal in a line: where it stands, by characters, and its value."""

    start: int
    end: int
    value: object


_SHORT_INTEGER: Final = 10**100


# Writing


def spell(name: str, /, *arguments: object, **keywords: object) -> str:
    """A call as a line."""
    shown = [spell_value(each) for each in arguments]
    shown += [f"{key}={spell_value(each)}" for key, each in keywords.items()]
    return f"{name}({', '.join(shown)})"


def spell_value(value: object) -> str:
    """A value: dataclasses without the fields that are as by default, everything else as `repr` has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _spell_dataclass(value)
    if type(value) is dict:
        return "{" + ", ".join(f"{spell_value(key)}: {spell_value(each)}" for key, each in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(map(spell_value, value)) + "]"
    if type(value) is tuple:
        return "(" + ", ".join(map(spell_value, value)) + (",)" if len(value) == 1 else ")")
    if type(value) is int and abs(value) >= _SHORT_INTEGER:
        return hex(value)  # decimal digits of so many are refused, by writers and readers of Python
    return repr(value)


def _spell_dataclass(value: object) -> str:
    shown: list[str] = []
    by_name = False
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        if not field.init:
            continue
        found = getattr(value, field.name)
        if _is_default(field, found):
            by_name = True
            continue
        by_name = by_name or field.kw_only is True
        shown.append(f"{field.name}={spell_value(found)}" if by_name else spell_value(found))
    return f"{type(value).__name__}({', '.join(shown)})"


def _is_default(field: dataclasses.Field[object], value: object) -> bool:
    if field.default is not dataclasses.MISSING:
        return repr(field.default) == repr(value)
    if field.default_factory is dataclasses.MISSING:
        return False
    return repr(field.default_factory()) == repr(value)


# Reading


def understand(line: str, names: Mapping[str, Callable[..., object]]) -> Call:
    """The call that a line says.

    Args:
        line: one call; the name that is called need not be among `names`.
        names: what may be called inside its arguments.

    Raises:
        CallError: it is no call, or has something in it that is neither literal nor one of `names`.
    """
    node = _parsed(line)
    assert isinstance(node.func, ast.Name)
    return Call(
        name=node.func.id,
        arguments=tuple(_value(each, names, line) for each in node.args),
        keywords={each.arg or "": _value(each.value, names, line) for each in node.keywords},
    )


def _parsed(line: str) -> ast.Call:
    try:
        node = ast.parse(line, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise CallError(f"{line:.80} is no call: {error}") from error
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise CallError(f"{line:.80} is no call of a name")
    return node


def _value(node: ast.expr, names: Mapping[str, Callable[..., object]], line: str) -> object:
    def inner(each: ast.expr) -> object:
        return _value(each, names, line)

    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return _COLLECTIONS[type(node)](map(inner, node.elts))
    match node:
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = inner(operand)
            if isinstance(number, int | float):
                return -number
        case ast.Dict() if None not in node.keys:
            return {inner(key): inner(each) for key, each in zip(node.keys, node.values, strict=True) if key}
        case ast.Name(id=name) if name in _NUMBERS:
            return _NUMBERS[name]
        case ast.Call(func=ast.Name(id=name)) if name in names:
            return names[name](*map(inner, node.args), **{each.arg or "": inner(each.value) for each in node.keywords})
    raise CallError(f"{ast.get_source_segment(line, node)!r:.60} in {line:.80} is neither literal nor known")


def literals(line: str) -> list[Literal]:
    """The literals of a line, in order: numbers, texts and bytes, not truth values and None.

    Raises:
        CallError: the line is no call.
    """
    raw = line.encode("utf-8")
    found = []
    for node in ast.walk(_parsed(line)):
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool | None):
            assert node.end_col_offset is not None
            start, end = (len(raw[:offset].decode("utf-8")) for offset in (node.col_offset, node.end_col_offset))
            found.append(Literal(start=start, end=end, value=node.value))
    return sorted(found, key=lambda each: each.start)


def replaced(line: str, literal: Literal, value: object) -> str:
    """The line with another value in the place of a literal."""
    return f"{line[: literal.start]}{value!r}{line[literal.end :]}"


def shown(line: str, loose: Iterable[Literal] = ()) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A line with long literals cut, and where the loose ones stand in it."""
    marked = {each.start for each in loose}
    text, at = "", 0
    spans: list[tuple[int, int]] = []
    for literal in literals(line):
        text += line[at : literal.start]
        part = line[literal.start : literal.end]
        if len(part) > MAX_VALUE_CHARACTERS:
            part = f"{part[: MAX_VALUE_CHARACTERS - 1]}…{part[-1]}"
        if literal.start in marked:
            spans.append((len(text), len(text) + len(part)))
        text += part
        at = literal.end
    return text + line[at:], tuple(spans)
