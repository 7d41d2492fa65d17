"""In which models of a file system each planted bug is visible.

Goal: a bug that only some file systems show must be seen in exactly those models: seen in too few, the models are too
strong; in too many, a correct store would be accused. Method: the same histories as for the store itself, run with the
bug in place, in this process; the kill tests proper run pytest with the bug (`models.mutants`).
"""

from __future__ import annotations

import pytest

from models.crashes import store_process
from models.mutants import Mutant, MutantError
from models.mutants.crash_writes import CRASH_MUTANTS
from storecheck.crash import ALICE, EXT4_NOAUTO, MODELS, POSIX_STRICT
from tests.crash.ground_truth import rows_between
from tests.crash.visibility import GROUPS, visibility_table, visible, visible_models

ALL = tuple(model.name for model in MODELS)
NOT_ORDERED = (EXT4_NOAUTO.name, ALICE.name, POSIX_STRICT.name)
NO_JOURNAL = (ALICE.name, POSIX_STRICT.name)

VISIBLE = {
    # (bug, histories): models
    ("B24", "first"): ALL,
    ("B24", "later"): NOT_ORDERED,
    ("B25", "first"): ALL,
    ("B25", "later"): NOT_ORDERED,
    ("B26", "later"): NOT_ORDERED,
    ("B27", "later"): ALL,
    ("B28", "later"): ALL,
    ("B29", "first"): NO_JOURNAL,
    ("B29", "later"): (),
    ("B38", "later"): ALL,
    ("B39", "later"): ALL,
    ("B42", "later"): ALL,
    ("B97", "first"): (),
    ("B97", "later"): NOT_ORDERED,
}
HISTORIES = {"first": "one first save", "later": "later saves"}


def mutant_of(identifier: str) -> Mutant:
    """The planted bug of that id."""
    return next(mutant for mutant in CRASH_MUTANTS if mutant.id == identifier)


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize(("identifier", "histories"), VISIBLE)
def test_a_planted_bug_is_visible_in_exactly_these_models(identifier: str, histories: str) -> None:
    """WRITE3: each planted bug is seen in the models whose rules it breaks, and in no other."""
    assert visible(mutant_of(identifier), HISTORIES[histories]) == VISIBLE[identifier, histories]


@pytest.mark.parametrize("promise", ["WRITE3", "WRITE5", "WRITE8", "CACHE9", "READ1", "READ2", "LOCK5", "MAINT2"])
def test_each_promise_of_this_layer_has_a_planted_bug_of_this_layer(promise: str) -> None:
    """Power loss and failing calls hold their own bugs against each of their promises."""
    found = [mutant for mutant in CRASH_MUTANTS if mutant.promise == promise]
    assert any(killer.startswith("tests/crash/") for mutant in found for killer in mutant.killers)


def test_the_documented_models_are_those_in_which_each_bug_shows_today() -> None:
    """The table in the documentation is what is computed, and whoever is found by power loss shows in some model."""
    computed = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in visibility_table().splitlines()[2:]]
    assert rows_between("visible") == computed
    for row in computed:
        assert ("power loss" in row[2]) <= any(cell != "-" for cell in row[3:]), row


def test_the_store_itself_shows_no_violation_in_the_same_histories() -> None:
    """Without a bug the histories by which the bugs are found are right in every model."""
    for scenarios in GROUPS.values():
        assert visible_models(None, scenarios) == {}


@pytest.mark.parametrize("mutant", CRASH_MUTANTS, ids=lambda mutant: mutant.id)
def test_every_planted_bug_fits_the_source(mutant: Mutant) -> None:
    """A bug whose place in the source has changed is noticed here, and not taken for one that survives."""
    try:
        store_process(mutant)
    except MutantError as error:
        pytest.fail(str(error))
