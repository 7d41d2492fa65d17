"""What a page says of a whole run: how far the searches went, by their own count, and which failures are known.

Method: pytest runs a small project in a process of its own; its report is looked at.
"""

from __future__ import annotations

import pytest

from storecheck.report import html, markdown
from storecheck.report.document import Run, load
from tests.report.test_plugin import PROMISES

SEARCHES = """
import pytest
from storecheck import Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.drawing import verify

def lost(execution):
    return None if execution.files()["counter"] == b"2" else "an addition is lost"

def program(processes=2, adapter="RenamingCounter"):
    add = process(Operation("add", {"amount": 1}))
    return Program(adapter=f"storecheck.adapters:{adapter}", processes=(add,) * processes, files={"counter": b"0"})

@pytest.mark.promise("A1")
def test_exhausted(evidence):
    result = verify(program(), strategy=PreemptionBounded(0), check=lost)
    evidence.add(schedules=result.executions)

@pytest.mark.promise("A1")
def test_sampled(evidence):
    verify(program(processes=3), strategy=RandomSchedules(executions=3), check=lambda execution: None)
"""

KNOWN = """
@pytest.mark.promise("A1")
@pytest.mark.xfail(reason="issue 7", strict=True)
def test_known():
    verify(program(), strategy=PreemptionBounded(1), check=lost, check_path="test_searches:lost")
"""

NEW = KNOWN.replace('@pytest.mark.xfail(reason="issue 7", strict=True)\n', "").replace("test_known", "test_new")


def run(pytester: pytest.Pytester, text: str) -> Run:
    """The run document of a project with these tests."""
    pytester.makepyfile(promise_list=PROMISES, test_searches=text)
    pytester.makeini("[pytest]\npromises = promise_list:ALL\npythonpath = .\n")
    pytester.runpytest_subprocess("-p", "no:randomly", "--report-dir", "report", timeout=120)
    return load(pytester.path / "report" / "run.json")


def test_the_bounds_of_a_pass_are_those_of_its_searches(pytester: pytest.Pytester) -> None:
    """Processes, points and preemptions of the searches that ran, and whether each went through; promise by promise."""
    report = run(pytester, SEARCHES)
    evidence = report.promises[0].evidence
    assert (evidence["exhausted"], evidence["sampled"]) == (1, 1)
    assert evidence["processes_max"] == 3
    assert evidence["points_max"] > 3
    assert report.figures["processes_max"] == 3
    for text in (html.render(report), markdown.render(report)):
        assert "up to 3 processes" in text
        assert "1 program exhausted within its bound, 1 sampled" in text


def test_a_known_failure_is_counted_and_compared(pytester: pytest.Pytester) -> None:
    """It is no new failure and no pass; a new failure of the same cause says so."""
    report = run(pytester, SEARCHES + KNOWN + NEW)
    assert [(known.test, known.reason) for known in report.known] == [("test_searches.py::test_known", "issue 7")]
    assert (report.shards[0].known, report.shards[0].failed, report.figures["known"]) == (1, 1, 1)
    assert [example.test for example in report.examples] == ["test_searches.py::test_new"]
    assert report.known[0].fingerprint == report.examples[0].fingerprint
    assert "same cause as the known failure test_searches.py::test_known" in html.render(report)


def test_a_run_with_known_failures_only_did_not_fail(pytester: pytest.Pytester) -> None:
    """It names them, on every page."""
    report = run(pytester, SEARCHES + KNOWN)
    assert not report.failed
    assert "Known, still failing" in html.render(report)
    assert "issue 7" in markdown.render(report)
