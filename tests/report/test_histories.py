"""Recorded histories of real processes as pages: what cannot be true together, and nothing that was not established.

Method: a golden document, which a race of this project has reported with a planted bug; and histories made by hand.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from storecheck.cli import main
from storecheck.counterexample import CounterexampleError
from storecheck.history import Call, History, Json, Operation
from storecheck.processes import Race, Team, run_race
from storecheck.report import html, markdown
from storecheck.report.document import Example, load
from storecheck.report.examples import Origin
from storecheck.report.histories import (
    FILES_MAX_BYTES,
    MAX_POINTS,
    HistoryCounterexample,
    attach,
    from_json,
    race_of,
    rerun,
)
from storecheck.report.histories import load as load_history
from storecheck.report.history_examples import history_example_of
from storecheck.report.merging import join_examples
from storecheck.report.placeholders import without_secrets
from tests.report.making import GOLDEN

RECORDED = GOLDEN / "recorded-B76.counterexample.json"
SNOOPS = Race(
    teams=(Team(adapter="tests.races.test_recording:Snoop", workload="tests.races.test_recording:looks", workers=1),),
    files={"f": b"\x00 any bytes"},
)


def did(
    process: str, name: str, *argument: Json, found: Json = None, at: tuple[int, int], task: str = "t0"
) -> Operation:
    """An operation on one session; stamps in microseconds."""
    call = Call(name=name, argument=["s", *argument], result=found)
    return Operation(
        process=process, task=task, identifier=at[0], call=call, invoked_at=at[0] * 1000, responded_at=at[1] * 1000
    )


def told(*operations: Operation) -> Example:
    """The example of a history."""
    document = HistoryCounterexample(
        title="t", specification="sessions", history=History(operations=operations), race=None, files={}, finding="x"
    )
    return history_example_of(document, Origin(promise="A1"))


BEFORE = did("P4", "get", found="never written", at=(9, 10))
WROTE = did("P1", "set", "a", at=(0, 1))
LOST = told(WROTE, did("P2", "set", "b", found="a", at=(2, 5)), did("P3", "set", "c", found="a", at=(3, 6)))
STALE = told(WROTE, did("P2", "set", "b", found="a", at=(2, 3)), did("P3", "get", found="a", at=(4, 5)))


def test_the_title_is_a_sentence_about_the_data() -> None:
    """Which update is lost, which read is stale, what nobody wrote."""
    assert LOST.title == 'P2 and P3 both replaced "a" in s: one of the two updates is lost'
    assert STALE.title == "P3's get of s still answers \"a\", which P2's set had replaced"
    nobody = told(WROTE, did("P3", "get", found="z", at=(4, 5)))
    assert nobody.title == 'P3\'s get of s found "z", and no order explains it'


def test_the_lanes_are_in_real_time_with_what_each_was_told() -> None:
    """Begins and answers by the shared clock, microseconds from the first; bars while an operation runs."""
    race = LOST.race
    assert race is not None
    assert race.recorded
    assert [(point.step, point.process, point.verb, point.what) for point in race.points] == [
        (0, 0, "begin", "set('s', 'a')"),
        (1, 0, "answer", "found nothing"),
        (2, 1, "begin", "set('s', 'b')"),
        (3, 2, "begin", "set('s', 'c')"),
        (5, 1, "answer", 'found "a"'),
        (6, 2, "answer", 'found "a"'),
    ]
    assert [point.held for point in race.points] == [(0,), (0,), (1,), (1, 2), (1, 2), (2,)]
    assert [point.importance for point in race.points] == ["", "", "", "", "check", "loss"]


def test_every_order_that_real_time_allows_is_refused_with_the_reason() -> None:
    """Overlapping operations in both orders, answered ones in theirs only; where each goes wrong."""
    race = LOST.race
    assert race is not None
    assert race.orders_tried == len(race.orders) == 2
    assert [order.operations for order in race.orders] == [
        ("P1.set", "P2.set", "P3.set"), ("P1.set", "P3.set", "P2.set"),
    ]  # fmt: skip
    assert race.orders[0].differs == 'P3\'s set found "a" where s is "b"'
    assert STALE.race is not None
    assert STALE.race.orders_tried == 1


def test_nothing_is_claimed_of_what_nobody_saw() -> None:
    """No versions of the file, no look at the disk, no source line, no ordering that decides, no count of replays."""
    for example in (LOST, STALE, load(GOLDEN / "recorded-B76.json").examples[0]):
        assert example.race is not None
        assert (example.race.versions, example.race.fields, example.race.out_of_date) == ((), (), ())
        assert all(point.sees is None and point.publishes is None and not point.source for point in example.race.points)
        assert (example.deciding, example.sources, example.replays) == (None, (), None)
        assert "**not deterministic**" in " ".join(example.verdict)


def test_of_a_long_contradiction_the_end_is_shown() -> None:
    """An operation that failed while very many ran: its answer is the last point, and points keep their numbers."""
    call = dataclasses.replace(WROTE.call, outcome="raised", error="OSError: x")
    others = [did(f"P{number}", "get", found="a", at=(number, 500 - number)) for number in range(2, 80)]
    failed = dataclasses.replace(did("P99", "set", "b", at=(1, 400)), call=call)
    race = told(failed, *others).race
    assert race is not None
    assert len(race.points) == MAX_POINTS
    assert race.points[-1].importance == "loss"
    assert race.points[-1].number > MAX_POINTS


def test_threads_of_a_process_have_lanes_of_their_own() -> None:
    """And are named by both."""
    example = told(
        WROTE,
        did("P2", "set", "b", found="a", at=(2, 5), task="t0"),
        did("P2", "set", "c", found="a", at=(3, 6), task="t1"),
    )
    assert example.race is not None
    assert [lane.name for lane in example.race.lanes] == ["P1", "P2/t0", "P2/t1"]
    assert example.title.startswith("P2/t0 and P2/t1 both replaced")


def test_an_operation_that_failed_is_told_among_those_that_ran_meanwhile() -> None:
    """It is marked; no order is made responsible."""
    failed = did("P2", "set", "b", at=(2, 5))
    call = dataclasses.replace(failed.call, outcome="raised", error="ConflictError: changed meanwhile")
    example = told(
        WROTE,
        dataclasses.replace(failed, call=call),
        did("P3", "get", found="a", at=(4, 6)),
        did("P4", "get", found="a", at=(9, 10)),
    )
    assert example.title == "P2's set raises ConflictError while others work on the same file"
    assert example.race is not None
    assert [lane.name for lane in example.race.lanes] == ["P2", "P3"]
    assert [point.importance for point in example.race.points] == ["", "", "loss", ""]
    assert example.race.orders == ()


def test_one_bug_is_one_entry_whoever_met_it() -> None:
    """Other processes, values and moments, and other answers, are one entry of that promise; a failure is another."""
    other = told(
        did("P7", "set", "x", at=(0, 1)),
        did("P8", "set", "y", found="x", at=(2, 9)),
        did("P1", "set", "z", found="x", at=(4, 11)),
    )
    assert other.fingerprint == LOST.fingerprint
    assert len(join_examples([LOST, other, STALE])) == 1
    call = dataclasses.replace(WROTE.call, outcome="raised", error="OSError: x")
    assert told(dataclasses.replace(WROTE, call=call)).fingerprint != LOST.fingerprint


def test_secrets_in_a_history_are_masked() -> None:
    """A value under a secret-like key stands nowhere in the example, not even in the raw record."""
    wrote = did("P1", "set", {"apiKey": "hunter22hunter"}, at=(0, 1))
    stale = did("P3", "get", found={"apiKey": "other-secret-value"}, at=(4, 5))
    shown = repr(told(wrote, stale))
    assert "hunter22hunter" not in shown
    assert "other-secret-value" not in shown


def test_the_formats_show_bars_and_no_disk() -> None:
    """Page and summary have a column for each process and none for the disk; times are told."""
    run = load(GOLDEN / "recorded-B76.json")
    race = run.examples[0].race
    assert race is not None
    page, summary = html.render(run), markdown.render(run)
    assert 'class="dh"' not in page
    assert "A solid bar means that an operation runs" in page
    assert "| Disk |" not in summary
    for text in (page, summary):
        assert "+0 µs" in text
        assert all(lane.name in text for lane in race.lanes)


def test_a_document_is_read_as_it_was_written() -> None:
    """History, race and files; the race can be run again."""
    error = AssertionError("wrong")
    attach(error, History(operations=(WROTE,)), specification="sessions", race=SNOOPS)
    document = error.counterexample  # type: ignore[attr-defined]
    again = from_json(json.loads(json.dumps(document.to_json())))
    assert again.to_json() == document.to_json()
    assert race_of(again) == SNOOPS


def test_a_race_with_large_files_is_run_again_by_its_test_only() -> None:
    """The document holds the record, which can be judged again, and neither files nor race."""
    error = AssertionError("wrong")
    large = dataclasses.replace(SNOOPS, files={"f": bytes(FILES_MAX_BYTES + 1)})
    attach(error, History(operations=(WROTE,)), specification="sessions", race=large)
    document = error.counterexample  # type: ignore[attr-defined]
    assert (document.race, document.files) == (None, {})


def test_secrets_of_a_record_become_placeholders_in_its_document() -> None:
    """Also in the files that the race began with; the record contradicts itself as before."""
    secret = {"apiKey": "hunter22hunter"}
    wrote = did("P1", "set", secret, at=(0, 1))
    document = HistoryCounterexample(
        title="t",
        specification="sessions",
        history=History(operations=(wrote, did("P3", "get", found=secret, at=(2, 3)), BEFORE)),
        race=None,
        files={"f": json.dumps(secret).encode()},
        finding="x",
    ).to_json()
    kept = from_json(without_secrets(document))
    assert "hunter22hunter" not in json.dumps(kept.to_json())
    assert b"hunter22hunter" not in kept.files["f"]
    assert history_example_of(kept, Origin()).title == history_example_of(from_json(document), Origin()).title


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("version", 9, "version is 9; this storecheck reads version 1"),
        ("specification", "stack", "specification is 'stack'"),
        ("files", {"f": {"base64": "!"}}, "files.f is no content"),
        ("history", [{"event": "invoke"}], "history:1 is not the header"),
        ("colour", "blue", "unknown member 'colour'"),
    ],
)
def test_a_damaged_document_is_refused_with_the_place(member: str, value: object, message: str, tmp_path: Path) -> None:
    """And the file is named."""
    damaged = json.loads(RECORDED.read_text(encoding="utf-8")) | {member: value}
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(damaged), encoding="utf-8")
    with pytest.raises(CounterexampleError, match=message):
        load_history(path)


def test_a_history_that_an_order_explains_is_no_example() -> None:
    """The report then shows the test as pytest does, and says why."""
    with pytest.raises(CounterexampleError, match="an order explains"):
        told(WROTE)


def test_a_race_is_run_again_and_judged() -> None:
    """The work of the document, by real processes; what does not fit the object is a problem."""
    error = AssertionError("wrong")
    race = dataclasses.replace(SNOOPS, files={})
    attach(error, run_race(race).history, specification="register", race=race)
    document = error.counterexample  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="look"):
        list(rerun(document, times=1))
    without = dataclasses.replace(document, race=None)
    with pytest.raises(CounterexampleError, match="no race that could be run again"):
        list(rerun(without, times=1))


@pytest.mark.parametrize("command", ["explain", "list"])
def test_commands_know_a_recorded_history(command: str) -> None:
    """They show its title and what was recorded, without running anything."""
    target = RECORDED if command == "explain" else RECORDED.parent
    result = CliRunner().invoke(main, [command, str(target)])
    assert result.exit_code == 0, result.output
    title = load(GOLDEN / "recorded-B76.json").examples[0].title
    assert (title if command == "explain" else "124 recorded operations of real processes") in result.output


def test_replay_of_a_history_without_a_race_judges_the_record(tmp_path: Path) -> None:
    """And says that it ran nothing."""
    document = json.loads(RECORDED.read_text(encoding="utf-8")) | {"race": None}
    path = tmp_path / "counterexample.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    result = CliRunner().invoke(main, ["replay", str(path)])
    assert result.exit_code == 0, result.output
    assert "judged again" in result.output
    assert "run the test that wrote it" in result.output
