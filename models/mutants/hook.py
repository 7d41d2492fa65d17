"""Planting the mutant that the environment names into every import of `sessionstore` in this process.

The variable is inherited, so children of `multiprocess` and of the command line's tests have the same bug, provided
that they import `tests` before `sessionstore`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType

from models.mutants.catalogue import mutant_by_id
from models.mutants.planting import PACKAGE, Mutant, MutantError

MUTANT_VARIABLE = "STORECHECK_MUTANT"
"""As in `storecheck.pytest_plugin`, which every child process would have to import, pytest with it, for a name."""


def active_mutant() -> Mutant | None:
    """The mutant that the environment names, if any.

    Raises:
        MutantError: no mutant has that id.
    """
    mutant_id = os.environ.get(MUTANT_VARIABLE, "")
    return mutant_by_id(mutant_id) if mutant_id else None


def active_transform() -> Callable[[str, str], str] | None:
    """(module name, source) -> source with the active mutant in it, or None without one."""
    mutant = active_mutant()
    return None if mutant is None else mutant.transform


def install_from_environment() -> None:
    """Plant the active mutant into what this process imports of the package from now on.

    Raises:
        MutantError: the package has been imported already, without it.
    """
    mutant = active_mutant()
    if mutant is None or any(isinstance(finder, _MutantFinder) for finder in sys.meta_path):
        return
    if PACKAGE in sys.modules:
        raise MutantError(
            f"{PACKAGE} was imported before mutant {mutant.id} could be planted. Import `tests` before it."
        )
    sys.meta_path.insert(0, _MutantFinder(mutant))


class _MutantFinder(importlib.abc.MetaPathFinder):
    """Finds the mutant's modules by the ordinary path search, to be loaded from patched source."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._mutant.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise MutantError(f"mutant {self._mutant.id} patches {fullname}, which does not exist")
        spec.loader = _MutantLoader(fullname, spec.origin, self._mutant)
        return spec


class _MutantLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        # Past the byte code cache, which holds the unpatched module and must not come to hold the patched one.
        source = Path(self.path).read_text(encoding="utf-8")
        code: CodeType = compile(self._mutant.transform(fullname, source), self.path, "exec", dont_inherit=True)
        return code
