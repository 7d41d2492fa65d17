"""Every format shows every golden document, and nothing that is not in it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from junitparser import JUnitXml, Properties
from rich.console import Console

from storecheck.report import html, junit, markdown, notices, terminal
from storecheck.report.document import Run, load
from storecheck.report.merging import write_report
from storecheck.verdict import Failure
from tests.report.making import GOLDEN, NAMES

RUNS = [GOLDEN / f"{name}.json" for name in NAMES]
by_name = pytest.mark.parametrize("path", RUNS, ids=[path.stem for path in RUNS])


def everything() -> Run:
    """All golden examples in one run."""
    runs = [load(path) for path in RUNS]
    return replace(runs[0], examples=tuple(run.examples[0] for run in runs))


@by_name
def test_the_page_needs_no_network_and_allows_its_own_script_only(path: Path) -> None:
    """No address is loaded, and the policy names hashes, not `unsafe-inline`."""
    page = html.render(load(path))
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert " style=" not in page
    assert load(path).examples[0].title.replace("'", "&#39;").replace('"', "&#34;") in page


def test_what_is_shown_is_escaped() -> None:
    """A title with markup is text on the page, in the summary and in JUnit."""
    run = load(RUNS[0])
    bad = "<script>alert(1)</script> | `x`"
    evil = replace(run, examples=(replace(run.examples[0], title=bad, raw=bad, verdict=(bad,)),))
    assert "<script>alert" not in html.render(evil)
    assert "<script>" not in markdown.render(evil)
    assert JUnitXml.fromstring(junit.render(evil).encode()) is not None


def test_text_that_is_no_utf_8_is_written_as_escapes(tmp_path: Path) -> None:
    """Half a surrogate pair, as a file's name or a broken value has it, breaks no format and shows everywhere."""
    run = load(RUNS[0])
    bad = "half \udc80 pair"
    example = replace(run.examples[0], title=bad, raw=bad, verdict=(bad,), inputs=bad, environment={bad: bad})
    failure = Failure(nodeid=f"test_{bad}", example=bad, replay=bad)
    write_report(replace(run, examples=(example,), other_failures=(failure,), bounds=(bad,)), tmp_path)
    for name in ("run.json", "report.html", "summary.md", "junit.xml", "codequality.json"):
        assert r"\udc80" in (tmp_path / name).read_text(encoding="utf-8").replace(r"\\", "\\"), name
    written = load(tmp_path / "run.json").examples[0]
    assert (written.title, written.environment) == (r"half \udc80 pair", {r"half \udc80 pair": r"half \udc80 pair"})
    assert written.race is not None
    JUnitXml.fromstring((tmp_path / "junit.xml").read_bytes())


def test_junit_has_no_character_that_xml_has_not() -> None:
    """Control characters and the two that are none are left out; the file stays XML."""
    run = load(RUNS[0])
    bad = replace(run, examples=(replace(run.examples[0], title="a\x00b\x1b[0m \ufffe\uffff c"),))
    case = next(iter(next(iter(JUnitXml.fromstring(junit.render(bad).encode())))))
    assert case.result[0].message == "ab[0m  c"


@by_name
def test_the_terminal_ends_with_the_replay(path: Path) -> None:
    """The last line of a failing example is the command that replays it, in one piece."""
    run = load(path)
    out = io.StringIO()
    terminal.show_example(run.examples[0], Console(file=out, width=60))
    assert out.getvalue().splitlines()[-1] == f"Replay: {run.examples[0].replay}"


@by_name
def test_the_terminal_shows_a_test_as_it_can_be_copied(path: Path) -> None:
    """A test's name has a line of its own, however narrow the window."""
    example = load(path).examples[0]
    out = io.StringIO()
    terminal.show_example(example, Console(file=out, width=40))
    assert example.test in out.getvalue().splitlines()


def test_a_test_without_a_counterexample_shows_what_pytest_showed() -> None:
    """The summary has the text that it says is below, fenced so that it ends nothing."""
    run = load(RUNS[0])
    raw = "AssertionError: wrong\n```\n</details>"
    example = replace(run.examples[0], kind="test", race=None, sequence=None, crash=None, deciding=None, raw=raw)
    assert f"````\n{raw}\n````\n</details>" in markdown.render(replace(run, examples=(example,)))


def test_only_what_is_wrong_with_a_call_is_marked() -> None:
    """A file that is not there yet is an answer like others; the failing call among them is the one in red."""
    run = load(GOLDEN / "fault-B33.json")
    crash = run.examples[0].crash
    assert crash is not None
    calls = (replace(crash.operations[0], persisted="", note="FileNotFoundError"), *crash.operations[1:])
    page = html.render(replace(run, examples=(replace(run.examples[0], crash=replace(crash, operations=calls)),)))
    assert '<span class="muted">FileNotFoundError</span>' in page
    assert re.search(r'<ol class="ops">.*<span class="bad">✕ [^<]+</span>', page, re.DOTALL)


def test_the_terminal_shows_a_whole_run() -> None:
    """All examples and the headline, without control characters when it is no terminal."""
    out = io.StringIO()
    terminal.show(everything(), Console(file=out, width=120))
    assert f"{len(RUNS)} failing examples." in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_the_summary_names_every_failure() -> None:
    """One row per failing example, with its replay."""
    run = everything()
    text = markdown.render(run)
    assert all(f"`{example.replay}`" in text for example in run.examples)
    assert "Left out" not in text


def test_a_run_without_a_test_is_no_success() -> None:
    """What no test looked at is not marked as passed, and the headline says why."""
    run = load(RUNS[0])
    nothing = replace(run, examples=(), shards=(replace(run.shards[0], passed=0, failed=0, known=0, exit_status=5),))
    assert markdown.render(nothing).startswith("## ✕ no test ran\n")
    assert "<title>no test ran" in html.render(nothing)
    one = replace(nothing, shards=(replace(nothing.shards[0], passed=1, exit_status=0),))
    assert markdown.render(one).startswith("## ✓ ")


def test_a_step_that_returns_nothing_has_an_empty_cell() -> None:
    """Two backquotes with nothing between them would be shown as such."""
    run = load(GOLDEN / "machine-B27.json")
    assert any(step.returned == "" and step.expected is None for step in run.examples[0].sequence.steps)  # type: ignore[union-attr]
    assert "``" not in markdown.render(run)


def test_a_summary_over_its_budget_says_what_it_dropped() -> None:
    """Within the budget, details dropped first, and their names given."""
    run = everything()
    text = markdown.render(run, budget_bytes=6_000)
    assert len(text.encode()) <= 6_000
    assert "Left out, because a summary holds 5 KiB: details of " in text
    huge = replace(run, examples=tuple(replace(each, title="x" * 200) for each in run.examples * 900))
    assert len(markdown.render(huge).encode()) <= markdown.BUDGET_BYTES


@by_name
def test_junit_carries_title_promise_and_replay(path: Path) -> None:
    """`message` is the title; properties hold id, promise and replay."""
    example = load(path).examples[0]
    case = next(iter(next(iter(JUnitXml.fromstring(junit.render(load(path)).encode())))))
    properties = {each.name: each.value for each in case.child(Properties)}  # type: ignore[no-untyped-call]
    assert case.result[0].message == example.title
    assert properties["storecheck.id"] == example.id
    assert properties["storecheck.promise"] == example.promise
    assert properties["storecheck.replay"] == example.replay


def test_at_most_ten_annotations_on_deciding_lines() -> None:
    """Ten at most, each on a marked source line, the last counting the rest; newlines are escaped."""
    run = everything()
    many = replace(run, examples=run.examples * 2)
    lines = list(notices.github(many))
    assert len(lines) == notices.MAX_ANNOTATIONS
    assert f"{2 * len(RUNS) - notices.MAX_ANNOTATIONS + 1} more failing examples" in lines[-1]
    assert re.match(r"::error file=sessionstore/\w+\.py,line=\d+,title=P1 overwrote", lines[0])
    assert not any("\n" in line for line in lines)
    json.dumps(notices.gitlab(many))


def test_a_shard_that_did_not_report_is_annotated_first() -> None:
    """Whoever looks at the annotations only must not take ten failures for all of them."""
    run = replace(everything(), missing_shards=(3, 5))
    lines = list(notices.github(run))
    assert lines[0] == "::error title=No report of shard 3%2C 5::What would have been found there is not known."
    assert len(lines) == notices.MAX_ANNOTATIONS
    assert notices.gitlab(run)[0]["fingerprint"] == "missing-shards"


@by_name
def test_every_number_of_an_example_stands_in_its_document(path: Path) -> None:
    """Counts on the page are those of the document."""
    run = load(path)
    example, page = run.examples[0], html.render(run)
    if example.replays is None:
        assert example.race is not None
        assert example.race.recorded, "only a race of real processes is not replayed"
        assert "replays fail" not in page
    else:
        assert f"<b>{example.replays.failed} / {example.replays.tried}</b> replays fail" in page
    if example.crash is not None:
        broken = sum(cell.allowed == "broken" for row in example.crash.grid for cell in row.cells)
        assert page.count('<td class="x">') == broken
    if example.race is not None:
        assert page.count('<tr class="loss"') == sum(point.importance == "loss" for point in example.race.points)
