"""Files that the store must refuse, as pages: what the file was, which operation did not refuse it, what it must raise.

Method: golden documents, which tests of this project have reported with planted bugs; and what they write down, played.
"""

from __future__ import annotations

import pytest

from storecheck.counterexample import CounterexampleError
from storecheck.report.document import Step, load
from storecheck.report.told import play
from tests.crash.refusing import PLAYER, Refusals
from tests.report.making import GOLDEN

TORN = "file(b'[', mode='644', corrupt=True)"


def last_step(name: str) -> Step:
    """Where a golden example went wrong."""
    sequence = load(GOLDEN / f"{name}.json").examples[0].sequence
    assert sequence is not None
    return sequence.steps[-1]


def test_an_accepted_file_is_told_with_the_error_that_it_must_raise() -> None:
    """The title is about the file; the step has what came instead of the error."""
    example = load(GOLDEN / "refused-B84.json").examples[0]
    assert example.title == "load() believes a damaged sessions.json"
    step = last_step("refused-B84")
    assert (step.call, step.expected) == ("load()", "CorruptStoreError")
    assert step.returned == "accepted, returned {}"


def test_a_replaced_file_is_told_with_what_forbids_it() -> None:
    """What could be read was read; the write is the step that went wrong."""
    example = load(GOLDEN / "refused-B41.json").examples[0]
    assert example.title == "add() replaces a sessions.json that it may not write"
    assert example.promise == "WRITE8"
    step = last_step("refused-B41")
    assert (step.call, step.expected) == ("add()", "PermissionError")
    assert example.sequence is not None
    assert "mode='444'" in example.sequence.steps[0].call


@pytest.mark.parametrize(
    "lines",
    [
        ("file(b'[]', mode='644', corrupt=True)", "load()", "load_uncached()", "read()", "update()", "add()", "save()"),
        ("file(b'{}', mode='644', corrupt=False)", "load()", "add()", "save()"),
        ("file(b'{}', mode='0', corrupt=False)", "load()", "save()"),
        ("user(0)", "file(b'{}', mode='0', corrupt=False)", "load()", "add()"),
        (TORN, "repair()", "load()", "file(b'[]', mode='644', corrupt=True)", "repair()"),
    ],
)  # fmt: skip
def test_the_store_as_it_is_does_all_of_them_right(lines: tuple[str, ...]) -> None:
    """Played without a bug nothing fails, and there is a step for each operation."""
    told = play(PLAYER, lines)
    assert told.finding is None
    assert len(told.steps) == len([line for line in lines if not line.startswith("user")])


def test_a_refusal_that_is_none_and_an_acceptance_that_is_none_are_both_wrong() -> None:
    """A file that is said to be corrupt and is not, and the other way round."""
    believed = play(PLAYER, ("file(b'{}', mode='644', corrupt=True)", "load()")).finding
    assert believed is not None
    assert believed.title == "load() believes a damaged sessions.json"
    refused = play(PLAYER, ("file(b'[]', mode='644', corrupt=False)", "read()")).finding
    assert refused is not None
    assert refused.title == "read() refuses a sessions.json that is as it should be: CorruptStoreError"


def test_the_first_wrong_operation_is_the_finding() -> None:
    """What goes wrong after it may come of it."""
    refusals = Refusals()
    refusals.file(b"{}", corrupt=True)
    refusals.do("load")
    first = refusals.wrong
    refusals.do("save")
    assert refusals.wrong is first
    with pytest.raises(AssertionError, match="load: returned is accepted") as caught:
        refusals.hold(promise="READ2")
    assert caught.value.counterexample.calls == tuple(refusals.lines)  # type: ignore[attr-defined]
    assert caught.value.broken_promise == "READ2"  # type: ignore[attr-defined]


def test_what_nobody_knows_is_refused() -> None:
    """A document does nothing but what its player knows."""
    with pytest.raises(CounterexampleError, match="'erase' is nothing that can be done"):
        play(PLAYER, ("erase()",))


def test_a_counter_that_differs_is_told_as_what_was_taken_for_what() -> None:
    """A title about the data, not about work: which version the load believed to know."""
    title = load(GOLDEN / "machine-B54.json").examples[0].title
    assert title == "P1's load takes v2 of the file for content that it knew"
