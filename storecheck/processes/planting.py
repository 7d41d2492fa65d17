"""Planting a bug into what a real process imports: the real counterpart of `explore(transform=…)`.

An import hook, for processes that live for one race only: what was imported before stays as it was, and nothing is
taken back.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType

from storecheck.syscalls import Transform


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, transform: Transform) -> None:
        super().__init__(fullname, path)
        self._transform = transform

    def get_code(self, fullname: str) -> CodeType | None:
        source = self.get_source(fullname)
        assert source is not None
        changed = self._transform(fullname, source)
        if changed == source:
            return super().get_code(fullname)
        # Past the byte code cache, which holds the module without the bug and must not come to hold the one with it.
        code: CodeType = compile(changed, self.path, "exec", dont_inherit=True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in sys.stdlib_module_names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader) and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._transform)
        return spec


def plant(transform: Transform) -> None:
    """From now on, modules outside the standard library are imported as `transform` changes them.

    Raises:
        RuntimeError: a module with the bug's place is there already, without the bug: a race of it would prove nothing.
    """
    for name, module in list(sys.modules.items()):
        spec: ModuleSpec | None = getattr(module, "__spec__", None)
        if spec is None or name.partition(".")[0] in sys.stdlib_module_names:
            continue
        source = spec.loader.get_source(spec.name) if isinstance(spec.loader, SourceFileLoader) else None
        if source is not None and transform(spec.name, source) != source:
            raise RuntimeError(
                f"{spec.name} was imported before the bug could be planted into it. Import it in the module of the "
                "adapter only, not in those of the program that runs the race and of the function that plants the bug."
            )
    sys.meta_path.insert(0, _Finder(transform))
