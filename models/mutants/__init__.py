"""Planted bugs: copies of the store with one real bug each, to see whether the suite notices.

A mutant is a value: which text of which module is replaced by what, as somebody might have written it; which promise
that breaks; and which tests must fail because of it. Nothing on disk is changed: an import hook compiles the patched
source when `sessionstore` is imported, so every process that imports `tests` first has the bug. Not random mutation:
each mutant is a bug of a class that was met in real stores.
"""

from __future__ import annotations

from models.mutants.catalogue import MUTANTS, mutant_by_id
from models.mutants.hook import active_transform, install_from_environment
from models.mutants.planting import Mutant, MutantError, Patch

__all__ = [
    "MUTANTS",
    "Mutant",
    "MutantError",
    "Patch",
    "active_transform",
    "install_from_environment",
    "mutant_by_id",
]
