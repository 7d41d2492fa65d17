"""Counterexamples: a failure found once can be replayed, read, committed and trusted.

Goal: a document reproduces its run exactly, every time and in another process, and a damaged document is refused with
the place of the damage. Method: a lost update is found, written, and replayed in this process and by the command line.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from storecheck import PreemptionBounded, ReplayDiverged
from storecheck.cli import main
from storecheck.counterexample import Counterexample, CounterexampleError, from_failure, from_json, load, replay
from storecheck.explore import explore
from tests.storecheck.test_explore import counting, no_addition_lost

CHECK = "tests.storecheck.test_explore:no_addition_lost"


@pytest.fixture(scope="module")
def lost_update() -> Counterexample:
    """The minimal lost update of a counter that renames."""
    result = explore(counting("RenamingCounter", processes=3), strategy=PreemptionBounded(2), check=no_addition_lost)
    assert result.failure is not None
    return from_failure(result.failure, title="lost update", verdict=str(result.verdict), check=CHECK)


def test_a_document_survives_writing_and_reading(lost_update: Counterexample, tmp_path: Path) -> None:
    """What is read back is what was written."""
    lost_update.write(tmp_path / "lost.json")
    assert load(tmp_path / "lost.json") == lost_update


def test_twenty_of_twenty_replays_are_exact(lost_update: Counterexample) -> None:
    """Every replay has the same history, files, finding and lanes."""
    for _ in range(20):
        replayed = replay(lost_update)
        assert replayed.same
        assert replayed.finding == lost_update.finding
        assert replayed.trace == lost_update.trace


def test_the_lanes_show_what_was_seen_and_what_was_overwritten(lost_update: Counterexample) -> None:
    """The trace names the versions: who published, who saw an old one, whose change was overwritten."""
    notes = [note for line in lost_update.trace for note in line.notes]
    assert "publishes v1 of counter" in notes
    assert any(note.startswith("OVERWRITES v1 (P2, step ") and note.endswith("built from v0") for note in notes)


def test_a_schedule_of_other_code_is_refused_not_followed(lost_update: Counterexample) -> None:
    """A replay that cannot follow the schedule says so instead of running something else."""
    impossible = replace(lost_update, choices=(7, *lost_update.choices))
    with pytest.raises(ReplayDiverged, match="choice 0 of the schedule is 7"):
        replay(impossible)


def test_a_fixed_program_no_longer_matches(lost_update: Counterexample) -> None:
    """On code without the bug the document neither fails nor claims to be the same run."""
    program = replace(lost_update.program, adapter="storecheck.adapters:LockedCounter")
    replayed = replay(replace(lost_update, program=program))
    assert not replayed.same
    assert replayed.finding is None


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), "other", "format is 'other'; expected 'storecheck-counterexample'"),
        (("version",), 99, "version is 99; this storecheck reads version 1"),
        (("program", "processes"), "two", r"program.processes is 'two'; expected an array"),
        (("program", "machine", "step_ns"), -1, "program.machine: step_ns is -1"),
        (("program", "machine", "colour"), "blue", "machine setting 'colour' is unknown"),
        (("schedule", 0), [1, 2, 3], r"schedule\[0\] is \[1, 2, 3\]; expected"),
        (("finding", "kind"), "bad luck", "finding.kind is 'bad luck'"),
        (("surprise",), 1, "unknown member 'surprise'"),
        (("trace", 0, "step"), "one", r"trace\[0\].step is 'one'; expected a whole number"),
    ],
)
def test_a_damaged_document_is_refused_with_the_place(
    lost_update: Counterexample, place: tuple[str | int, ...], value: object, message: str
) -> None:
    """Every member is checked when it is read."""
    document: Any = json.loads(json.dumps(lost_update.to_json()))
    target = document
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        from_json(document)


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    """The error says which file."""
    path = tmp_path / "torn.json"
    path.write_text('{"format": ')
    with pytest.raises(CounterexampleError, match=r"torn\.json is not JSON"):
        load(path)


def test_the_command_line_replays_explains_and_lists(lost_update: Counterexample, tmp_path: Path) -> None:
    """`replay` executes and compares, `explain` only shows, `list` finds."""
    path = tmp_path / "lost.json"
    lost_update.write(path)
    replayed = CliRunner().invoke(main, ["replay", str(path), "--times", "3"])
    assert replayed.exit_code == 0, replayed.output
    assert "3 of 3 replays did exactly what was recorded." in replayed.output
    assert "OVERWRITES v1" in replayed.output
    explained = CliRunner().invoke(main, ["explain", str(path)])
    assert explained.exit_code == 0
    assert "OVERWRITES v1" in explained.output
    listed = CliRunner().invoke(main, ["list", str(tmp_path)])
    assert "lost update (2 processes, 2 operations)" in listed.output


def test_the_command_line_searches_and_writes_a_counterexample(tmp_path: Path) -> None:
    """`run` finds the lost update in a program file and writes a document that replays."""
    program = tmp_path / "program.json"
    program.write_text(json.dumps(counting("BareCounter").to_json()))
    out = tmp_path / "found.json"
    command = ["run", str(program), "--check", CHECK, "--preemptions", "1", "--out", str(out)]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 1, found.output
    assert replay(load(out)).same
    program.write_text(json.dumps(counting("LockedCounter").to_json()))
    fine = CliRunner().invoke(main, command)
    assert fine.exit_code == 0, fine.output
    assert "exhausted within 1 preemption" in fine.output


COMMITTED = sorted((Path(__file__).parent / "counterexamples").glob("*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=[path.stem for path in COMMITTED])
def test_committed_counterexamples_still_replay_twenty_of_twenty(path: Path) -> None:
    """A document written by an earlier version is a regression test: same history, files and finding, every time."""
    document = load(path)
    for _ in range(20):
        replayed = replay(document)
        assert replayed.same
        assert replayed.finding == document.finding
