"""In which models of a file system each planted bug is visible.

Goal: a bug that only some file systems show must be seen in exactly those models: seen in too few, the models are too
strong; in too many, a correct store would be accused. Method: the same histories as for the store itself, run with the
bug in place, in this process; the kill tests proper run pytest with the bug (`models.mutants`).
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from models.crashes import SCENARIOS, Scenario, Step, record_scenario, store_process
from models.mutants import Mutant, MutantError
from models.mutants.crash_writes import CRASH_MUTANTS
from storecheck.crash import ALICE, EXT4_NOAUTO, MODELS, POSIX_STRICT
from storecheck.crash.recovery import check

ALL = tuple(model.name for model in MODELS)
NOT_ORDERED = (EXT4_NOAUTO.name, ALICE.name, POSIX_STRICT.name)
NO_JOURNAL = (ALICE.name, POSIX_STRICT.name)

FIRST_SAVES = (
    Scenario(name="one save into new directories", file="new/er/sessions.json", processes=((Step(kind="save"),),)),
)
LATER_SAVES = tuple(scenario for scenario in SCENARIOS if scenario.name in ("growth over several blocks", "shrinking"))

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
HISTORIES = {"first": FIRST_SAVES, "later": LATER_SAVES}


def visible_models(mutant: Mutant | None, scenarios: tuple[Scenario, ...]) -> dict[str, set[str]]:
    """Kinds of violations by model."""
    found: dict[str, set[str]] = defaultdict(set)
    for scenario in scenarios:
        recording, oracle = record_scenario(scenario, store_process(mutant))
        for failure in check(recording, oracle, cuts=1).failures:
            found[failure.state.model.name].add(failure.violation.kind)
    return found


def mutant_of(identifier: str) -> Mutant:
    """The planted bug of that id."""
    return next(mutant for mutant in CRASH_MUTANTS if mutant.id == identifier)


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize(("identifier", "histories"), VISIBLE)
def test_a_planted_bug_is_visible_in_exactly_these_models(identifier: str, histories: str) -> None:
    """WRITE3: each planted bug is seen in the models whose rules it breaks, and in no other."""
    found = visible_models(mutant_of(identifier), HISTORIES[histories])
    assert tuple(name for name in ALL if found.get(name)) == VISIBLE[identifier, histories], dict(found)


@pytest.mark.parametrize("mutant", CRASH_MUTANTS, ids=lambda mutant: mutant.id)
def test_every_planted_bug_fits_the_source(mutant: Mutant) -> None:
    """A bug whose place in the source has changed is noticed here, and not taken for one that survives."""
    try:
        store_process(mutant)
    except MutantError as error:
        pytest.fail(str(error))
