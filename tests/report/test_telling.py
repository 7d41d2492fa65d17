"""Counterexamples of tests that are no programs: calls as lines, played again, replays and values measured.

Method: a player of this file, which fails for reasons that the tests know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from storecheck.counterexample import CounterexampleError
from storecheck.report import told
from storecheck.report.calls import CallError, literals, replaced, shown, spell, understand
from storecheck.report.codec import encode
from storecheck.report.document import Difference, Example, Step
from storecheck.report.examples import REPLAYS, Origin
from storecheck.report.failures import example_of_failure, example_of_payload
from storecheck.report.retelling import told_example_of
from storecheck.report.told import Told, ToldCounterexample, ToldFinding
from storecheck.verdict import Failure
from tests.report.making import CASES, GOLDEN, make

PLAYED: list[int] = []


def play(lines: Sequence[str]) -> Told:
    """Fails at the first `put` of more than 10, whatever its key is."""
    return _play(lines, fails=True)


def play_sometimes(lines: Sequence[str]) -> Told:
    """The same, every other time."""
    PLAYED.append(1)
    return _play(lines, fails=len(PLAYED) % 2 == 1)


def break_down(lines: Sequence[str]) -> Told:
    """A player that is broken itself."""
    raise OSError(f"no room for {len(lines)} calls")


def _play(lines: Sequence[str], *, fails: bool) -> Told:
    steps: list[Step] = []
    for number, line in enumerate(lines, start=1):
        key, amount = understand(line, {}).arguments
        assert isinstance(amount, int)
        wrong = fails and amount > 10
        steps.append(
            Step(
                number=number, process=0, call=line, loose=(), model=f"{key} = {amount}", disk=number,
                disk_changed=True, disk_bytes=1, returned="10" if wrong else "",
                expected=str(amount) if wrong else None, cache="",
            )
        )  # fmt: skip
        if wrong:
            told_as = (Difference(field="(all)", expected=str(amount), found="10"),)
            found = ToldFinding(about="returned", message="too much", differences=told_as)
            return Told(file="f", steps=tuple(steps), finding=found)
    return Told(file="f", steps=tuple(steps), finding=None)


def example(*lines: str, player: str = "play") -> Example:
    """The failing example of these calls."""
    document = ToldCounterexample(
        title="t", player=f"{__name__}:{player}", calls=lines, finding="too much", played=None
    )
    return told_example_of(document, Origin(promise="A1", found={"steps": 47}))


@dataclass(frozen=True, slots=True)
class Point:
    """A value that lines may name."""

    x: int
    y: float = 0.0


@pytest.mark.parametrize(
    "value", [1, -1.5, "a'b", b"\x00\xff", None, True, [1, (2,)], {"k": {1}}, Point(3), Point(3, 1.0), "\udc80"]
)
def test_a_value_survives_being_written_and_read(value: object) -> None:
    """Literals, containers and known dataclasses."""
    call = understand(spell("do", value, key=value), {"Point": Point})
    assert (call.name, call.arguments, call.keywords) == ("do", (value,), {"key": value})


@pytest.mark.parametrize("line", ["do(x)", "do(open('f'))", "do(1 + 1)", "a.b(1)", "1", "do(", "do(().__class__)"])
def test_nothing_else_is_understood(line: str) -> None:
    """No names, attributes or operators: a document executes nothing but what the player knows."""
    with pytest.raises(CallError):
        understand(line, {"Point": Point})


def test_literals_are_found_by_characters() -> None:
    """Also behind letters of several bytes, and where the value is long."""
    line = "do('ü', 5, " + repr("x" * 99) + ")"
    assert [each.value for each in literals(line)] == ["ü", 5, "x" * 99]
    assert replaced(line, literals(line)[1], 6).startswith("do('ü', 6, ")
    text, spans = shown(line, literals(line)[1:2])
    assert len(text) < 70
    assert [text[start:end] for start, end in spans] == ["5"]


def test_replays_are_measured() -> None:
    """Twenty plays; one that fails every other time says so, on the page, too."""
    always = example("put('a', 11)").replays
    assert always is not None
    assert (always.failed, always.tried) == (REPLAYS, REPLAYS)
    PLAYED.clear()
    sometimes = example("put('a', 11)", player="play_sometimes").replays
    assert sometimes is not None
    assert (sometimes.failed, sometimes.tried) == (REPLAYS // 2, REPLAYS)


def test_values_that_do_not_matter_are_underlined_and_others_are_not() -> None:
    """The key may be anything; the amount of the first call must stay small, that of the last may grow."""
    told_example = example("put('a', 1)", "put('b', 11)")
    assert told_example.sequence is not None
    steps = told_example.sequence.steps
    assert [[step.call[span.start : span.end] for span in step.loose] for step in steps] == [
        ["'a'", "1"],
        ["'b'", "11"],
    ]
    tight = example("put('a', 9)", "put('b', 11)").sequence
    assert tight is not None
    assert [tight.steps[0].call[span.start : span.end] for span in tight.steps[0].loose] == ["'a'"]


def test_a_told_example_says_what_differs() -> None:
    """Title and verdict are sentences about the value; the size before shrinking is that of the first failing run."""
    found = example("put('a', 1)", "put('b', 11)")
    assert found.title == "P1's put answers 10 instead of 11"
    assert found.verdict[0] == "Step 2 answers `10`; the model says `11`."
    assert [(each.before, each.after) for each in found.shrunk] == [(47, 2)]


@pytest.mark.parametrize(
    ("player", "lines", "message"),
    [
        ("play", ("put('a', 1)",), "nothing failed"),
        ("break_down", ("put('a', 11)",), "OSError: no room"),
        ("nobody", ("put('a', 11)",), "cannot play"),
    ],
)
def test_what_cannot_be_played_again_is_shown_as_pytest_showed_it(
    player: str, lines: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """The report is still written, and says why."""
    document = ToldCounterexample(title="t", player=f"{__name__}:{player}", calls=lines, finding="x", played=None)
    payload = {"document": json.loads(json.dumps(document.to_json())), "found": None}
    failure = Failure(nodeid="test_x", example="AssertionError: seen", replay="pytest test_x")
    shown_as = example_of_payload(payload, failure, None, shard=1, directory=tmp_path)
    assert shown_as.kind == "test"
    assert message in " ".join(shown_as.verdict)
    assert shown_as.raw == "AssertionError: seen"


def test_a_damaged_document_is_refused() -> None:
    """With what is wrong."""
    document = ToldCounterexample(title="t", player="m:f", calls=("a()",), finding="x", played=None)
    with pytest.raises(CounterexampleError, match="unknown member 'color'"):
        told.from_json({**document.to_json(), "color": 1})


@pytest.mark.parametrize("name", ["B65", "B27"])
def test_golden_examples_are_what_is_made_now(name: str) -> None:
    """What a golden document says comes out again; lines and numbers of steps move with the store's source."""
    run, _ = make(next(case for case in CASES if case.mutant == name))
    made = json.loads(json.dumps(encode(run.examples[0])))
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["examples"][0]
    for each in (made, golden):
        for operation in (each["crash"] or {}).get("operations", ()):
            del operation["source"]
    for member in ("title", "verdict", "replays", "sequence", "crash"):
        assert made[member] == golden[member]


@pytest.mark.parametrize(
    ("shown", "title"),
    [
        (
            "crew.ChildFailedError: writer raised:\nTraceback (most recent call last):\n  File\nConflictError: no\n",
            "crew.ChildFailedError: writer raised: ConflictError: no",
        ),
        ("AssertionError: these differ:\n  1\n  2", "AssertionError: these differ:"),
        ("", "tests/test_it.py::test"),
    ],
)
def test_a_title_says_what_a_quoted_traceback_ends_in(shown: str, title: str) -> None:
    """An error of a child process that is told with its traceback is named in the list of failures."""
    failure = Failure(nodeid="tests/test_it.py::test", example=shown, replay="pytest")
    assert example_of_failure(failure, None, shard=1).title == title
