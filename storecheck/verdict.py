"""What a run of tests says about each promise.

A promise is *passed* only if tests marked with it ran to their end and none failed; *FAILED* if one failed or a planted
bug survived; else *not verified*, so that silence is never taken for success. Pure values: `pytest_plugin` collects
them from pytest, `cli` reads them back from a file.

Does not run tests, and does not know how thorough a test is: the evidence counts say how much was sampled, no more.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

DOCUMENT_FORMAT = "storecheck.verdict"
DOCUMENT_VERSION = 1

EVIDENCE_KINDS = ("steps", "histories", "schedules", "crash_states")
"""What a test may count: rule steps, recorded histories, schedules and crash states it looked at."""

SEARCH_KINDS = ("exhausted", "sampled")
"""Searches of a program's schedules: that went through all within their bound, and that looked at some."""

BOUND_KINDS = ("processes_max", "operations_max", "points_max", "preemptions_max", "cuts_max", "rule_steps_max")
"""How far searches went: the largest program, run and number of changes lost by choice, the longest rule sequence."""

COUNTED_KINDS = (*EVIDENCE_KINDS, *SEARCH_KINDS, *BOUND_KINDS)


def total_evidence(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What several tests or shards counted: sums, and of bounds the largest. In the order of the kinds, no zeros."""
    counted = list(parts)
    totals = {kind: sum(part.get(kind, 0) for part in counted) for kind in (*EVIDENCE_KINDS, *SEARCH_KINDS)}
    totals |= {kind: max((part.get(kind, 0) for part in counted), default=0) for kind in BOUND_KINDS}
    return {kind: total for kind, total in totals.items() if total}


EXAMPLE_MAX_LINES = 30
"""Lines of a minimal example shown; a longer one says how many were left out."""

_ERROR_MAX_LINES = 8
"""Lines of the error shown before Hypothesis's minimal example."""

_HYPOTHESIS_INTRODUCTIONS = ("Falsifying example", "Failing test case")
"""How Hypothesis announces a minimal example; older releases say the first, newer ones the second."""

TestOutcome = Literal["passed", "failed", "skipped"]
PromiseOutcome = Literal["passed", "FAILED", "not verified"]


class PromiseText(Protocol):
    """A promise as a project lists it: the id that tests name, a short title, one sentence."""

    @property
    def id(self) -> str:
        """The id that tests name."""

    @property
    def title(self) -> str:
        """A few words."""

    @property
    def text(self) -> str:
        """One sentence."""


@dataclass(frozen=True, slots=True)
class MutantKill:
    """A test that passes only if the suite notices `mutant`, a planted bug that breaks `promise`."""

    mutant: str
    promise: str


@dataclass(frozen=True, slots=True)
class TestMarks:
    """What a test says about itself."""

    __test__ = False  # pytest: not a class of tests

    promises: tuple[str, ...] = ()
    kills: tuple[MutantKill, ...] = ()

    @property
    def promise_ids(self) -> tuple[str, ...]:
        """Every promise the test speaks about, each once, in the order named."""
        return tuple(dict.fromkeys((*self.promises, *(kill.promise for kill in self.kills))))


@dataclass(frozen=True, slots=True)
class TestRecord:
    """One finished test. `example` and `replay` are empty unless it failed."""

    __test__ = False  # pytest: not a class of tests

    nodeid: str
    outcome: TestOutcome
    duration_s: float
    marks: TestMarks
    evidence: Mapping[str, int]
    example: str = ""
    replay: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A test that failed, with what a reader needs to see and to run."""

    nodeid: str
    example: str
    replay: str


@dataclass(frozen=True, slots=True)
class PromiseVerdict:
    """What the run says about one promise. `tests` are the ids of all collected tests that check it, run or not."""

    id: str
    title: str
    text: str
    outcome: PromiseOutcome
    tests: tuple[str, ...]
    tests_passed: int
    tests_failed: int
    tests_skipped: int
    tests_unfinished: int
    evidence: Mapping[str, int]
    mutants_killed: tuple[str, ...]
    mutants_survived: tuple[str, ...]
    mutants_untried: tuple[str, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A whole run: one verdict per promise, and the failures of tests that name none."""

    promises: tuple[PromiseVerdict, ...]
    other_tests: int
    other_failures: tuple[Failure, ...]
    duration_s: float
    exit_status: int
    environment: Mapping[str, str]

    @property
    def failed(self) -> bool:
        """Whether anything failed. A promise that is not verified is no failure, and no success either."""
        return self.exit_status != 0 or bool(self.other_failures) or any(p.outcome == "FAILED" for p in self.promises)


def _failures(records: Iterable[TestRecord]) -> tuple[Failure, ...]:
    return tuple(Failure(r.nodeid, r.example, r.replay) for r in records if r.outcome == "failed")


def judge_promise(
    promise: PromiseText, *, records: Sequence[TestRecord], collected: Mapping[str, TestMarks]
) -> PromiseVerdict:
    """Say what `records` mean for `promise`. `collected` also has the tests that never finished."""
    finished = {record.nodeid for record in records}
    checks = [r for r in records if promise.id in r.marks.promises]
    unfinished = [n for n, marks in collected.items() if promise.id in marks.promises and n not in finished]
    counts = {outcome: sum(r.outcome == outcome for r in checks) for outcome in ("passed", "failed", "skipped")}
    killed, survived, tried = (
        {kill.mutant for r in records if r.outcome in outcomes for kill in r.marks.kills if kill.promise == promise.id}
        for outcomes in (("passed",), ("failed",), ("passed", "failed"))
    )
    planted = {kill.mutant for marks in collected.values() for kill in marks.kills if kill.promise == promise.id}
    outcome: PromiseOutcome = "not verified"
    if counts["failed"] or survived:
        outcome = "FAILED"
    elif counts["passed"] and not unfinished:
        outcome = "passed"
    about = [r for r in records if promise.id in r.marks.promise_ids]
    return PromiseVerdict(
        id=promise.id,
        title=promise.title,
        text=promise.text,
        outcome=outcome,
        tests=tuple(sorted({*unfinished, *(record.nodeid for record in checks)})),
        tests_passed=counts["passed"],
        tests_failed=counts["failed"],
        tests_skipped=counts["skipped"],
        tests_unfinished=len(unfinished),
        evidence=total_evidence(record.evidence for record in checks),
        mutants_killed=tuple(sorted(killed - survived)),
        mutants_survived=tuple(sorted(survived)),
        mutants_untried=tuple(sorted(planted - tried)),
        failures=_failures(about),
    )


def judge(
    promises: Sequence[PromiseText],
    *,
    records: Sequence[TestRecord],
    collected: Mapping[str, TestMarks],
    duration_s: float,
    exit_status: int,
    environment: Mapping[str, str],
) -> Verdict:
    """Say what a run means, promise by promise, in the order of `promises`."""
    known = {promise.id for promise in promises}
    others = [r for r in records if not known.intersection(r.marks.promise_ids)]
    return Verdict(
        promises=tuple(judge_promise(p, records=records, collected=collected) for p in promises),
        other_tests=len(others),
        other_failures=_failures(others),
        duration_s=duration_s,
        exit_status=exit_status,
        environment=environment,
    )


# -- as text ----------------------------------------------------------------------------------------------------------


def _tests_cell(promise: PromiseVerdict) -> str:
    parts = [str(promise.tests_passed)] if promise.tests_passed else []
    for count, word in (
        (promise.tests_failed, "failed"),
        (promise.tests_skipped, "skipped"),
        (promise.tests_unfinished, "unfinished"),
    ):
        if count:
            parts.append(f"{count} {word}")
    return ", ".join(parts) or "none"


def _evidence_cell(promise: PromiseVerdict) -> str:
    counts = ((kind, promise.evidence[kind]) for kind in EVIDENCE_KINDS if kind in promise.evidence)
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts)


def _mutants_cell(promise: PromiseVerdict) -> str:
    total = len(promise.mutants_killed) + len(promise.mutants_survived) + len(promise.mutants_untried)
    return f"{len(promise.mutants_killed)} of {total}" if total else "-"


def headline(verdict: Verdict) -> str:
    """One line: how many promises passed, failed, and were not verified."""
    counts = {o: sum(p.outcome == o for p in verdict.promises) for o in ("passed", "FAILED", "not verified")}
    return f"of {len(verdict.promises)} promises " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items())


def table_lines(verdict: Verdict) -> Iterator[tuple[PromiseOutcome | None, str]]:
    """The verdict table, line by line; each line with the outcome it reports, for colour. Plain text."""
    header = ("promise", "outcome", "tests", "sampled", "mutants killed", "what it says")
    rows = [(p.id, p.outcome, _tests_cell(p), _evidence_cell(p), _mutants_cell(p), p.title) for p in verdict.promises]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    yield None, line(header)
    for promise, row in zip(verdict.promises, rows, strict=True):
        yield promise.outcome, line(row)
    yield None, f"Tests that name no promise: {verdict.other_tests}, of which {len(verdict.other_failures)} failed."


def failure_lines(verdict: Verdict) -> Iterator[str]:
    """Each failing promise with its minimal examples and the commands that replay them. Plain text.

    A test that checks several promises fails all of them; its example is shown with the first.
    """
    shown_with: dict[str, str] = {}
    for promise in verdict.promises:
        if promise.outcome != "FAILED":
            continue
        yield f"{promise.id} FAILED: {promise.text}"
        for mutant in promise.mutants_survived:
            yield f"  Planted bug {mutant} survived: no test noticed it."
        for failure in promise.failures:
            if failure.nodeid in shown_with:
                yield f"  {failure.nodeid}: see {shown_with[failure.nodeid]}"
            else:
                shown_with[failure.nodeid] = promise.id
                yield from _example_lines(failure)
    if verdict.other_failures:
        yield "Failures of tests that name no promise:"
        for failure in verdict.other_failures:
            yield from _example_lines(failure)


def _example_lines(failure: Failure) -> Iterator[str]:
    yield f"  {failure.nodeid}"
    for line in failure.example.splitlines():
        yield f"    {line}".rstrip()
    yield f"  replay: {failure.replay}"


def minimal_example(failure_text: str) -> str:
    """The part of a pytest failure text that shows the failing example.

    Prefers what Hypothesis found, which it shows after the error; otherwise pytest's lines of explanation. Cut after
    `EXAMPLE_MAX_LINES` lines, saying how many more there are.
    """
    lines = failure_text.splitlines()
    explained = textwrap.dedent("\n".join(line[1:] for line in lines if line.startswith("E ") or line == "E"))
    shown = explained.splitlines() or [line for line in lines if line.strip()]
    start = next((n for n, line in enumerate(shown) if line.lstrip().startswith(_HYPOTHESIS_INTRODUCTIONS)), None)
    if start is not None:
        # The error first: what went wrong, then for which example.
        error = [line for line in shown[:start] if line.strip()][:_ERROR_MAX_LINES]
        shown = [*error, *shown[start:]]
    if len(shown) > EXAMPLE_MAX_LINES:
        left_out = len(shown) - EXAMPLE_MAX_LINES
        shown = [*shown[:EXAMPLE_MAX_LINES], f"… and {left_out} more lines, shown by the replay"]
    return "\n".join(shown)


# -- as a document ----------------------------------------------------------------------------------------------------


def to_json(verdict: Verdict) -> str:
    """The verdict as a versioned JSON document, ending with a newline."""
    document = {"format": DOCUMENT_FORMAT, "version": DOCUMENT_VERSION, "failed": verdict.failed, **asdict(verdict)}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> Verdict:
    """Read what `to_json` wrote.

    Raises:
        ValueError: the text is not such a document; says what it is instead.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != DOCUMENT_FORMAT:
        raise ValueError(f"not a {DOCUMENT_FORMAT} document. Give a file that --verdict-json wrote.")
    if document["version"] != DOCUMENT_VERSION:
        raise ValueError(
            f"{DOCUMENT_FORMAT} version {document['version']} cannot be read; this storecheck reads version "
            f"{DOCUMENT_VERSION}. Use the storecheck that wrote it."
        )
    promises = (
        PromiseVerdict(
            **{
                **promise,
                "failures": tuple(Failure(**failure) for failure in promise["failures"]),
                **{
                    key: tuple(promise[key])
                    for key in ("tests", "mutants_killed", "mutants_survived", "mutants_untried")
                },
            }
        )
        for promise in document["promises"]
    )
    return Verdict(
        promises=tuple(promises),
        other_tests=document["other_tests"],
        other_failures=tuple(Failure(**failure) for failure in document["other_failures"]),
        duration_s=document["duration_s"],
        exit_status=document["exit_status"],
        environment=document["environment"],
    )
