"""Puts the module globals of a process image back to what they were after import.

Importing is expensive, so an image is imported once and used for many runs; each must begin as a fresh process would.
`Pristine` walks once from the modules' globals through everything mutable that they reach (containers, instances and
classes of those modules, simulated locks, caches of `functools`) and remembers shallow copies; `restore` compares by
identity and puts back what differs. Not seen: variables closed over by functions, iterators (except an
`itertools.count` of integers or its `__next__` bound to a name), state inside C extensions. An adapter's own `reset`
can do what this cannot.
"""

from __future__ import annotations

import itertools
import operator
import re
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from types import FunctionType, MethodWrapperType, ModuleType
from typing import Any

from storecheck.syscalls.threads import Lock, RLock

MAX_OBJECTS = 200_000
"""Objects visited per image; a package that reaches more holds data of a size that no program under test should."""

_LEAVES = (str, bytes, int, float, bool, type(None), ModuleType)
_WEAK = (weakref.WeakValueDictionary, weakref.WeakKeyDictionary, weakref.WeakSet)


class Pristine:
    """What the globals of some modules were, and how to get back there."""

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        self._names = set()
        self._undo: list[Callable[[], None]] = []
        self._seen: dict[int, object] = {}
        roots = list(modules)
        self._names = {module.__name__ for module in roots}
        pending: deque[Any] = deque()
        for module in roots:
            self._remember_dict(module.__dict__, pending, skip_dunder=True)
        while pending:
            self._visit(pending.popleft(), pending)
            if len(self._seen) > MAX_OBJECTS:
                raise RuntimeError(
                    f"more than {MAX_OBJECTS} objects hang on the globals of {', '.join(sorted(self._names)[:5])}…; "
                    "give the adapter a `reset` and name the package in `shared`"
                )

    def restore(self) -> None:
        """Put everything back."""
        for undo in self._undo:
            undo()

    def _visit(self, value: Any, pending: deque[Any]) -> None:
        if isinstance(value, FunctionType):
            pending.append(getattr(value, "__wrapped__", None))
            return
        if isinstance(value, _LEAVES):
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, tuple | frozenset):
            pending.extend(value)
        elif isinstance(value, dict):
            self._remember_dict(value, pending)
        elif isinstance(value, list | deque):
            self._remember_sequence(value, pending)
        elif isinstance(value, set):
            self._remember_set(value, pending)
        elif isinstance(value, type):
            self._remember_class(value, pending)
        else:
            self._visit_object(value, pending)

    def _visit_object(self, value: Any, pending: deque[Any]) -> None:
        if isinstance(value, bytearray):
            self._undo.append(_restore_bytes(value, bytes(value)))
        elif isinstance(value, Lock | RLock):
            self._undo.append(value._at_fork_reinit)
        elif isinstance(value, _WEAK):
            self._undo.append(_restore_weak(value))
        elif hasattr(value, "cache_clear"):
            self._undo.append(_restore_cache(value))
        elif type(value).__module__ in self._names or type(value).__module__ in ("threading", "_thread", "types"):
            self._remember_instance(value, pending)

    def _remember_dict(self, value: dict[Any, Any], pending: deque[Any], *, skip_dunder: bool = False) -> None:
        kept = dict(value)
        counters = {key: begun for key, item in kept.items() if (begun := _beginning_again(item)) is not None}
        self._undo.append(_restore_counting_dict(value, kept, counters) if counters else _restore_dict(value, kept))
        for key, item in kept.items():
            if not (skip_dunder and isinstance(key, str) and key.startswith("__")):
                pending.append(item)

    def _remember_sequence(self, value: Any, pending: deque[Any]) -> None:
        kept = list(value)
        pending.extend(kept)

        def restore() -> None:
            if len(value) != len(kept) or not all(map(operator.is_, value, kept)):
                value.clear()
                value.extend(kept)

        self._undo.append(restore)

    def _remember_set(self, value: set[Any], pending: deque[Any]) -> None:
        kept = list(value)
        pending.extend(kept)

        def restore() -> None:
            if len(value) != len(kept) or not all(map(operator.is_, value, kept)):
                value.clear()
                value.update(kept)

        self._undo.append(restore)

    def _remember_instance(self, value: Any, pending: deque[Any]) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._remember_dict(attributes, pending)
        for kind in type(value).__mro__:
            for slot in _slots_of(kind):
                if hasattr(value, slot):
                    kept = getattr(value, slot)
                    pending.append(kept)
                    self._undo.append(_restore_slot(value, slot, kept))

    def _remember_class(self, value: type, pending: deque[Any]) -> None:
        if value.__module__ not in self._names:
            return
        kept = {
            name: item
            for name, item in vars(value).items()
            if not name.startswith("__") and not callable(item) and not hasattr(item, "__get__")
        }
        pending.extend(vars(value).values())

        def restore() -> None:
            current = vars(value)
            for name, item in kept.items():
                if current.get(name) is not item:
                    setattr(value, name, item)

        if kept:
            self._undo.append(restore)


def _slots_of(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]


def _restore_slot(value: object, slot: str, kept: object) -> Callable[[], None]:
    def restore() -> None:
        if getattr(value, slot, None) is not kept:
            object.__setattr__(value, slot, kept)

    return restore


def _restore_cache(cached: Any) -> Callable[[], None]:
    def restore() -> None:
        if cached.cache_info().currsize:
            cached.cache_clear()

    return restore


def _restore_bytes(value: bytearray, kept: bytes) -> Callable[[], None]:
    def restore() -> None:
        value[:] = kept

    return restore


def _restore_weak(value: Any) -> Callable[[], None]:
    items = list(value.items()) if hasattr(value, "items") else list(value)

    def restore() -> None:
        if len(value) == len(items) == 0:
            return
        value.clear()
        value.update(items)

    return restore


def _restore_dict(value: dict[Any, Any], kept: dict[Any, Any]) -> Callable[[], None]:
    ordered = isinstance(value, OrderedDict)

    def restore() -> None:
        # Comparing dictionaries looks at identity first: nearly always nothing has changed, and this is one call.
        if value != kept:
            if ordered or value.keys() != kept.keys():
                value.clear()
            value.update(kept)

    return restore


_COUNTING = re.compile(r"count\((-?\d+)(?:, (-?\d+))?\)")


def _beginning_again(item: object) -> Callable[[], object] | None:
    """Makes anew the counter of integers, or the `__next__` of one, that `item` is now; None if it is neither."""
    counter = item.__self__ if isinstance(item, MethodWrapperType) and item.__name__ == "__next__" else item
    if not isinstance(counter, itertools.count):
        return None
    # Only its repr tells where it stands: copying one warns from CPython 3.12 on, and is an error from 3.14 on.
    found = _COUNTING.fullmatch(repr(counter))
    if found is None:
        return None
    start, step = int(found[1]), int(found[2] or 1)
    if counter is item:
        return lambda: itertools.count(start, step)
    return lambda: itertools.count(start, step).__next__


def _restore_counting_dict(
    value: dict[Any, Any], kept: dict[Any, Any], counters: dict[Any, Callable[[], object]]
) -> Callable[[], None]:
    restore_rest = _restore_dict(value, kept)

    def restore() -> None:
        restore_rest()
        for key, begin_again in counters.items():
            value[key] = begin_again()

    return restore
