"""All planted bugs, by the part of the store that they are in."""

from __future__ import annotations

from models.mutants.caching import CACHE_MUTANTS
from models.mutants.crash_writes import CRASH_MUTANTS
from models.mutants.interleaving import INTERLEAVING_MUTANTS
from models.mutants.locking import LOCK_MUTANTS
from models.mutants.planting import Mutant, MutantError
from models.mutants.reading import READ_MUTANTS
from models.mutants.reality import REALITY_MUTANTS
from models.mutants.writing import WRITE_MUTANTS

MUTANTS: tuple[Mutant, ...] = tuple(
    sorted(
        (
            *LOCK_MUTANTS,
            *WRITE_MUTANTS,
            *CACHE_MUTANTS,
            *READ_MUTANTS,
            *CRASH_MUTANTS,
            *REALITY_MUTANTS,
            *INTERLEAVING_MUTANTS,
        ),
        key=lambda mutant: mutant.id,
    )
)

_BY_ID = {mutant.id: mutant for mutant in MUTANTS}


def mutant_by_id(mutant_id: str) -> Mutant:
    """The mutant of that id.

    Raises:
        MutantError: there is none.
    """
    if mutant_id not in _BY_ID:
        raise MutantError(f"there is no mutant {mutant_id!r}. Give one of {', '.join(_BY_ID)}.")
    return _BY_ID[mutant_id]
