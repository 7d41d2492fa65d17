"""Same cause, one entry: what makes two failures one, and what must not."""

from __future__ import annotations

from dataclasses import replace

from storecheck.report.document import load
from storecheck.report.examples import _order_of
from storecheck.report.merging import join_examples
from tests.report.making import CASES, GOLDEN, NAMES, Case, make

BY_NAME = {name: load(GOLDEN / f"{name}.json").examples[0] for name in NAMES}


def test_different_bugs_have_different_fingerprints() -> None:
    """Ten planted bugs are ten entries."""
    fingerprints = [BY_NAME[case.mutant].fingerprint for case in CASES]
    assert len(set(fingerprints)) == len(CASES)


def test_one_bug_found_by_two_tests_is_one_entry() -> None:
    """A program that was searched and a history of another test lose the same rename for the same reason."""
    alike = [BY_NAME["B27"], BY_NAME["history-B27"]]
    assert len(join_examples(alike)) == 1


def test_a_sync_too_early_is_the_same_cause_as_none() -> None:
    """B27 never syncs the directory, B28 before the rename only: what is missing is the sync after it, in both."""
    case = next(case for case in CASES if case.mutant == "B27")
    run, _ = make(Case(mutant="B28", processes=case.processes, crash=True))
    assert run.examples[0].fingerprint == BY_NAME["B27"].fingerprint
    assert run.examples[0].fingerprint != BY_NAME["B25"].fingerprint


def test_the_numbers_of_processes_do_not_count() -> None:
    """The same order by other processes is the same cause; another order is not."""
    (example,) = load(GOLDEN / "B76.json").examples
    race, deciding = example.race, example.deciding
    assert race is not None
    assert deciding is not None
    order = _order_of(race, None, deciding)
    others = tuple(replace(point, process=5 - point.process) for point in deciding.points)
    assert _order_of(race, None, replace(deciding, points=others)) == order
    assert _order_of(race, None, replace(deciding, points=others[::-1])) != order
