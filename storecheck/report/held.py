"""Secrets that a failing test held, so that they can be masked in what pytest shows without their keys.

`assert entry["authToken"] == "x"` fails with `assert 'hunter2' == 'x'`: nothing in that text says what it is. So the
local variables of the test's frames are looked through for secret-like keys and names; and if the assertion itself
names one, what it compared counts as secret. Looks at the project's own frames only, and changes nothing.
"""

from __future__ import annotations

import ast
import linecache
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from storecheck.report.masking import MIN_SECRET_CHARACTERS, secret_values
from storecheck.report.spots import is_secret_key

MAX_OBJECTS: Final = 5_000
"""Objects of one frame that are looked at."""

MAX_DEPTH: Final = 8
MAX_TEXT_CHARACTERS: Final = 200_000
"""Of all texts in one frame, and of what an error says."""


_ITEMS: Final[dict[type, Callable[[Any], Iterator[Any]]]] = {
    list: list.__iter__,
    tuple: tuple.__iter__,
    set: set.__iter__,
    frozenset: frozenset.__iter__,
}
_QUOTED: Final = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")
_DIFFERS: Final = re.compile(r"^ {0,4}[-+] (.*\S)", re.MULTILINE)
_LOOKED_UP: Final = ("get", "pop", "getattr")


def secrets_of_error(error: BaseException, *, below: Path) -> set[str]:
    """What looks like a secret in what a failing test held and said.

    Args:
        error: what it raised, with its causes.
        below: directory of the code whose local variables count.
    """
    found: set[str] = set()
    for each in _with_causes(error):
        said = "".join(traceback.format_exception_only(each))[:MAX_TEXT_CHARACTERS]
        found |= secret_values(said)
        for frame, line in traceback.walk_tb(each.__traceback__):
            path = Path(frame.f_code.co_filename)
            if not path.is_relative_to(below) or "site-packages" in path.parts:
                continue
            found |= secret_values(_Plain().of(dict(frame.f_locals)))  # a view from CPython 3.13 on
            statement = _statement(frame.f_code.co_filename, line)
            if statement is not None and _compares_a_secret(statement):
                found.update(set(_compared(said)) - _words_of(statement))
    return found


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


class _Plain:
    """Objects as values of JSON: attributes as members, and no more than a bounded number of all.

    Runs no code of the objects: asks for their types, not their `__class__`, and looks through them as what they
    inherit from. A proxy may raise anything when it is asked, and a report must not end the run.
    """

    def __init__(self) -> None:
        self._left = MAX_OBJECTS
        self._characters_left = MAX_TEXT_CHARACTERS

    def of(self, value: Any, depth: int = 0) -> Any:
        """The value, or None for what has nothing to tell."""
        kind = type(value)
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH or issubclass(kind, ModuleType | FunctionType | type):
            return None
        if issubclass(kind, str | bytes):
            text = (str if issubclass(kind, str) else bytes).__getitem__(value, slice(max(self._characters_left, 0)))
            self._characters_left -= len(text)
            return text
        if kind in (int, float):
            return value
        if issubclass(kind, dict):
            return self._of_members(dict.items(value), depth)
        for collection, items in _ITEMS.items():
            if issubclass(kind, collection):
                return [self.of(each, depth + 1) for each in items(value)]
        names = ("__dict__", *getattr(kind, "__dataclass_fields__", ()))  # a dataclass may have slots
        members = {name: _attribute(value, name) for name in names}
        return self._of_members((*(members.pop("__dict__") or {}).items(), *members.items()), depth)

    def _of_members(self, members: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        return {
            key if type(key) is str else f"#{number}": self.of(each, depth + 1)
            for number, (key, each) in enumerate(members)
        }


def _attribute(value: object, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


# Assertions about a secret


def _words_of(statement: ast.stmt) -> set[str]:
    """Words that stand in it as such: `assert token == "other"`. They would be masked in every other text, too."""
    constants = (node.value for node in ast.walk(statement) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and value.isalpha()}


def _compares_a_secret(statement: ast.stmt) -> bool:
    """Whether a statement compares something that a secret-like name or key leads to."""
    for node in ast.walk(statement):
        compared: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            compared = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and _name_of(node.func).lower().startswith("assert"):
            compared = node.args
        if any(map(_leads_to_a_secret, compared)):
            return True
    return False


def _statement(path: str, line: int) -> ast.stmt | None:
    """The smallest statement around a line of a file; None if the file is no Python that can be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return None
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(around, key=lambda node: (node.lineno, -(node.end_lineno or 0)), default=None)


def _name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _leads_to_a_secret(node: ast.expr) -> bool:
    """`token`, `settings.token`, `entry["token"]`, `load_token()`, `entry.get("token")`, followed by or in anything."""
    while True:
        if is_secret_key(_name_of(node)):
            return True
        match node:
            case ast.Subscript(slice=ast.Constant(value=str(key))) if is_secret_key(key):
                return True
            case ast.Call(func=func, args=arguments):
                texts = [each.value for each in arguments if isinstance(each, ast.Constant)]
                if _name_of(func) in _LOOKED_UP and any(is_secret_key(str(text)) for text in texts):
                    return True
                node = func
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Await(value=inner):
                node = inner
            case ast.BinOp(left=left, right=right):
                return _leads_to_a_secret(left) or _leads_to_a_secret(right)
            case ast.JoinedStr(values=parts):
                shown = (part.value for part in parts if isinstance(part, ast.FormattedValue))
                return any(map(_leads_to_a_secret, shown))
            case _:
                return False


def _compared(message: str) -> Iterator[str]:
    """Both sides of a comparison, as pytest tells it: quoted in the first line, and as lines that differ."""
    first = next((line for line in message.splitlines() if line.strip()), "")
    sides = [one or other for one, other in _QUOTED.findall(first)]
    for text in (*sides, *_DIFFERS.findall(message)):
        if len(text) >= MIN_SECRET_CHARACTERS and "..." not in text:
            yield text
