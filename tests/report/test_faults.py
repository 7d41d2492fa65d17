"""Failing calls as pages: which call failed and how, what the program did then, what there was before and afterwards.

Method: golden documents, which tests of this project have reported with a planted bug; and faults made by hand.
"""

from __future__ import annotations

import dataclasses
import re

import pytest

from storecheck import verdict as verdicts
from storecheck.faults import Failure
from storecheck.machine import MOUNT
from storecheck.report import html, junit, markdown
from storecheck.report.document import Aftermath, Crash, Example, Replays, load
from storecheck.report.examples import Origin
from storecheck.report.failures import promise_broken
from storecheck.report.fault_examples import fault_example
from storecheck.report.faults import (
    MadeCall,
    RecordedFault,
    Trial,
    call_name,
    column_of,
    crash_of_fault,
    shown_call,
    shown_error,
    shown_failure,
)
from storecheck.report.merging import join_examples
from storecheck.report.reproducer import TOLD
from tests.report.making import GOLDEN

ENOSPC = Failure(kind="errno", error="ENOSPC")
FAILING_CALLS = ("fault-B33", "command-B30", "task-B32")


def golden(name: str) -> Example:
    """The example of a golden document."""
    return load(GOLDEN / f"{name}.json").examples[0]


def crash_in(example: Example) -> Crash:
    """Its crash."""
    assert example.crash is not None
    return example.crash


@pytest.mark.parametrize("name", FAILING_CALLS)
def test_a_failing_call_is_marked_among_the_calls_of_its_operation(name: str) -> None:
    """One call is cut; its note is what the program saw, and what the program did next follows."""
    crash = crash_in(golden(name))
    (cut,) = crash.cuts
    assert cut.kind == "failing call"
    assert cut.text == "ENOSPC: No space left on device, once"
    failed = crash.operations[cut.after - 1]
    assert failed.number == cut.after
    assert failed.note == "✕ OSError: [Errno 28] No space left on device"
    assert re.search(r"sessionstore/\w+\.py:\d+$", failed.source)
    assert len(crash.operations) > cut.after + 1
    assert crash.operations[-1].verb in ("raise", "return")
    assert not crash.recovered


@pytest.mark.parametrize("name", FAILING_CALLS)
def test_what_was_there_before_and_afterwards_is_told_with_what_is_wrong(name: str) -> None:
    """The answer, the file and what else was looked at; what breaks the promise is in title and verdict, too."""
    example = golden(name)
    looked_at = {each.what: each for each in crash_in(example).aftermath}
    assert looked_at["sessions.json"].before.startswith("old version, ")
    wrong = [each.problem for each in looked_at.values() if each.problem]
    assert wrong
    assert example.title.endswith(wrong[0].partition(": ")[0])
    assert wrong[0] in " ".join(example.verdict)
    assert example.promise == "WRITE5"
    assert example.replays is not None
    assert example.replays.failed == example.replays.tried


@pytest.mark.parametrize("name", FAILING_CALLS)
def test_every_call_of_the_operation_fails_once_in_the_grid(name: str) -> None:
    """The grid has the failing run in it, counts as it shows, and leaves empty what a call cannot do."""
    crash = crash_in(golden(name))
    assert crash.columns == ("ENOSPC, once", "ENOSPC, for ever")
    cells = [cell for row in crash.grid for cell in row.cells]
    assert sum(cell.here for cell in cells) == 1
    here = next(cell for cell in cells if cell.here)
    assert here.allowed == "broken"
    assert sum(cell.allowed == "broken" for cell in cells) == crash.broken
    assert sum(cell.allowed != "impossible" for cell in cells) == crash.states


def test_the_call_of_a_cut_short_save_is_the_write() -> None:
    """The page of a store that leaves its temporary file: a sentence about the file, and what the store did next."""
    example = golden("fault-B33")
    assert example.title == (
        "When write of 406 B to the temporary file fails with ENOSPC, save() leaves the temporary file behind"
    )
    crash = crash_in(example)
    after = [operation.verb for operation in crash.operations if operation.number > crash.cuts[0].after]
    assert after == ["close", "unlock", "close", "close", "raise"]
    assert "unlink" not in after
    marked = [line.text.strip() for source in example.sources for line in source.lines if line.marked]
    assert marked == ["return os.write(descriptor, chunks[0])"]


def test_a_power_loss_after_a_failing_call_has_two_cuts() -> None:
    """The call that failed and the power loss are both marked, and what was durable is told for each call."""
    example = golden("fault-B27")
    crash = crash_in(example)
    assert [cut.kind for cut in crash.cuts] == ["failing call", "power loss"]
    assert crash.cuts[0].after < crash.cuts[1].after == len(crash.operations)
    assert [each.verb for each in crash.operations if each.persisted == "no"] == ["rename"]
    assert (crash.recovered, crash.wanted) == ("v0", "v1")
    assert example.title == "save() returned although close failed, then a power loss undid it"
    numbers = {f"{each.number} {each.verb}" for each in crash.operations}
    assert {row.after for row in crash.grid} <= numbers


def test_a_loss_that_a_failing_call_did_not_cause_is_the_entry_that_it_is_without() -> None:
    """The directory is not synced, whether or not a close failed before: one cause, one entry."""
    alike = [golden("fault-B27"), golden("history-B27"), golden("B27")]
    assert len(join_examples(alike)) == 1


@pytest.mark.parametrize("name", [*FAILING_CALLS, "fault-B27"])
def test_every_format_shows_the_cut_and_what_is_wrong(name: str) -> None:
    """Page, summary and JUnit name the error; page and summary what is wrong afterwards."""
    run = load(GOLDEN / f"{name}.json")
    crash = crash_in(run.examples[0])
    page, summary = html.render(run), markdown.render(run)
    error = crash.cuts[0].text.partition(":")[0]
    for text in (page, summary):
        assert error in text
        for each in crash.aftermath:
            assert each.what in text.replace("\\", "")
    assert page.count('<li class="cut">') == len(crash.cuts)
    badge = "Failing call" if crash.is_failing_call else "Crash"
    assert f">{badge}</span>" in page
    assert badge in summary
    assert run.examples[0].title in junit.render(run).replace("&apos;", "'")


def fault(**changed: object) -> RecordedFault:
    """A save whose write failed."""
    calls = (
        MadeCall(name="open", verb="create", what="the temporary file", place="s.py:1"),
        MadeCall(name="stat", verb="stat", what="f", place="s.py:1"),
        MadeCall(name="write", verb="write", what="9 B", place="s.py:2", error="OSError", injected=True),
        MadeCall(name="close", verb="close", what="the temporary file", place="s.py:3"),
    )
    left = Aftermath(what="files", before="", after="one", problem="save() leaves a file behind")
    made = RecordedFault(
        operation="save()", file="f", failure=ENOSPC, at=1, calls=calls, ended="raised OSError", aftermath=(left,),
        sources={"s.py": ["create()", "write()", "close()"]},
    )  # fmt: skip
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def example(recorded: RecordedFault) -> Example:
    """Its failing example."""
    return fault_example(
        recorded, Origin(promise="A1"), document={}, environment={}, replays=Replays(failed=1, tried=1), template=TOLD
    )


def test_calls_that_only_ask_are_left_out() -> None:
    """A stat is no line; the numbers are those of the lines shown."""
    crash = crash_of_fault(fault())
    assert [(each.number, each.verb) for each in crash.operations] == [
        (1, "create"), (2, "write"), (3, "close"), (4, "raise"),
    ]  # fmt: skip
    assert crash.cuts[0].after == 2


def test_one_bug_is_one_entry_whichever_error_shows_it() -> None:
    """The fingerprint is of the call and the line, not of the error; another problem is another entry."""
    one = example(fault())
    other = example(fault(failure=Failure(kind="errno", error="EIO", for_ever=True), at=7))
    assert one.fingerprint == other.fingerprint
    swallowed = Aftermath(what="save()", before="", after="reported success", problem="save() reports success")
    assert example(fault(aftermath=(swallowed,))).fingerprint != one.fingerprint


def test_secrets_in_what_was_looked_at_are_masked() -> None:
    """An error message with a password in it shows it nowhere."""
    said = Aftermath(what="save()", before="", after='raised ValueError: {"password": "hunter22"}', problem="wrong")
    shown = example(fault(aftermath=(said,), ended='raised ValueError: {"password": "hunter22"}'))
    assert "hunter22" not in repr(shown)
    assert "••••" in crash_in(shown).aftermath[0].after


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("writev", (5, [b"ab", b"c"]), ("write", "3 B to sessions.json")),
        ("replace", (f"{MOUNT}/.s.0123456789abcdef.tmp", f"{MOUNT}/s"), ("rename", "the temporary file to s")),
        ("flock", (5, 6), ("lock", "sessions.json")),
        ("flock", (5, 8), ("unlock", "sessions.json")),
        ("fchmod", (5, 0o640), ("chmod", "sessions.json to 640")),
        ("fsync", (5,), ("fsync", "sessions.json")),
        ("getpid", (), ("getpid", "")),
    ],
)  # fmt: skip
def test_a_call_is_shown_by_what_it_does(name: str, arguments: tuple[object, ...], shown: tuple[str, str]) -> None:
    """Descriptors by their files, temporary files by what they are."""
    assert shown_call(name, arguments, {5: f"{MOUNT}/sessions.json"}) == shown


def test_failures_are_shown_in_words() -> None:
    """The error with its text, and how long it lasts."""
    assert shown_failure(ENOSPC) == "ENOSPC: No space left on device, once"
    assert shown_failure(Failure(kind="short", for_ever=True)).endswith("and whenever it could from then on")
    assert shown_failure(Failure(kind="interrupt after")) == "KeyboardInterrupt after the call"
    assert column_of(Failure(kind="handler raises")) == "handler raises"
    assert shown_error(OSError(5, "bad", ".s.0123456789abcdef.tmp")) == "OSError: [Errno 5] bad: 'the temporary file'"


def test_a_call_made_twice_is_told_which_time_it_failed() -> None:
    """So that rows of the grid are distinct."""
    twice = [
        MadeCall(name="fsync", verb="fsync", what="d", place=""),
        MadeCall(name="fsync", verb="fsync", what="d", place="", injected=True),
    ]
    assert call_name(twice) == "fsync d (2)"
    trial = Trial(call="fsync d (2)", failure=ENOSPC, how=column_of(ENOSPC), came="OSError", problem="")
    recorded = fault(calls=tuple(twice), trials=lambda: [trial])
    (row,) = crash_of_fault(recorded).grid
    assert (row.after, row.cells[0].here, row.cells[0].allowed) == ("fsync d (2)", True, "allowed")


def test_the_page_names_the_promise_that_the_finding_breaks() -> None:
    """A test checks several; what went wrong says which, if the test does check it."""
    failure = verdicts.Failure(nodeid="t.py::t", example="", replay="")
    first, second, other = (
        verdicts.PromiseVerdict(
            id=name, title="", text="", outcome="FAILED", tests=("t.py::t",), tests_passed=0, tests_failed=1,
            tests_skipped=0, tests_unfinished=0, evidence={}, mutants_killed=(), mutants_survived=(),
            mutants_untried=(), failures=failures,
        )
        for name, failures in (("A1", (failure,)), ("A2", (failure,)), ("A3", ()))
    )  # fmt: skip
    verdict = verdicts.Verdict(
        promises=(first, second, other), other_tests=0, other_failures=(), duration_s=0.0, exit_status=1, environment={}
    )
    assert promise_broken({"promise": "A2"}, failure, verdict) == second
    for unknown in ({"promise": "A3"}, {"promise": "A9"}, {"promise": ""}, {}):
        assert promise_broken(unknown, failure, verdict) is None
