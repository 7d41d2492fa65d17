"""Process images: several independent instances of the package `sessionstore` in one real process.

What a process shares (caches, warned paths, the registry of locks it holds) lives in the package's module globals. An
image is the package imported afresh, with globals of its own, so one test can hold two "processes" on one file, step
by step and without waiting. The kernel's file locks tell them apart, because each opens the lock file itself.
C extensions and the standard library are shared. The package must import its own modules at their top: an import inside
a function would find those of another image. Not a sandbox and not a simulation: files, locks and the system are
the real ones, except for the modules that `Image.substitute` replaces.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "sessionstore"
NOT_IN_AN_IMAGE = frozenset({f"{PACKAGE}.cli", f"{PACKAGE}.__main__"})
"""The command line is for a process of its own."""

Transform = Callable[[str, str], str]
"""(module name, source) -> source: how a mutant is planted."""


@dataclass(frozen=True, slots=True)
class Image:
    """One instance of the package: its modules by full name."""

    modules: Mapping[str, ModuleType]

    @property
    def package(self) -> Any:
        """The package itself, as `import sessionstore` would give it."""
        return self.modules[PACKAGE]

    @property
    def process(self) -> Any:
        """The one object with everything that a process shares."""
        return self.modules[f"{PACKAGE}.process"].PROCESS

    def restart(self) -> None:
        """Forget everything that the image shares, as if the process had exited and started again."""
        self.modules[f"{PACKAGE}.process"].reset()

    def substitute(self, original: ModuleType, stand_in: Any) -> None:
        """Let the image's modules use `stand_in` wherever they use the module `original`.

        Also replaces what they imported from it by name, if the stand-in has that name.
        """
        for module in self.modules.values():
            for name, value in list(vars(module).items()):
                if value is original:
                    setattr(module, name, stand_in)
                elif name in vars(stand_in) and value is getattr(original, name, _ABSENT):
                    setattr(module, name, getattr(stand_in, name))


_ABSENT = object()


def load_image(mutant: Transform | None = None) -> Image:
    """A fresh instance of the package, with `mutant` planted, or else the one that the environment selects."""
    transform = mutant if mutant is not None else _selected_mutant()
    modules: dict[str, ModuleType] = {}
    finder = _ImageFinder(transform)
    with _installed(modules):
        sys.meta_path.insert(0, finder)
        try:
            package = importlib.import_module(PACKAGE)
            for found in pkgutil.iter_modules(package.__path__, f"{PACKAGE}."):
                if found.name not in NOT_IN_AN_IMAGE:
                    importlib.import_module(found.name)
        finally:
            sys.meta_path.remove(finder)
    return Image(modules=modules)


def _selected_mutant() -> Transform | None:
    if importlib.util.find_spec("models.mutants") is None:
        return None
    selected: Transform | None = importlib.import_module("models.mutants").active_transform()
    return selected


def _belongs(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.")


@contextlib.contextmanager
def _installed(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Put the image's modules in the place of the process's own; what was imported meanwhile joins `modules`."""
    outside = {name: module for name, module in sys.modules.items() if _belongs(name)}
    for name in outside:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield
    finally:
        inside = [name for name in sys.modules if _belongs(name)]
        modules.update({name: sys.modules.pop(name) for name in inside})
        sys.modules.update(outside)


class _ImageFinder(importlib.abc.MetaPathFinder):
    """Finds the package's modules by the ordinary path search, to be loaded from transformed source."""

    def __init__(self, transform: Transform | None) -> None:
        self._transform = transform

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _belongs(fullname):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return spec
        spec.loader = _ImageLoader(fullname, spec.origin, self._transform)
        return spec


class _ImageLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, transform: Transform | None) -> None:
        super().__init__(fullname, path)
        self._transform = transform

    def get_code(self, fullname: str) -> Any:
        # Not through the byte code cache: another image's source may have been transformed.
        source = Path(self.path).read_text(encoding="utf-8")
        if self._transform is not None:
            source = self._transform(fullname, source)
        return compile(source, self.path, "exec", dont_inherit=True)
