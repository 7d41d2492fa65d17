"""Joins the run documents of shards, and writes a report in every format.

The same cause is one entry, whoever found it: examples with one fingerprint are joined. A shard that left no document,
or one that cannot be read, makes the run incomplete: `missing_shards` names it, and no incomplete run is green.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from storecheck.report import html, junit, markdown, notices
from storecheck.report.codec import DocumentError
from storecheck.report.document import Example, Kept, Run, dumps, load
from storecheck.verdict import EVIDENCE_KINDS, Failure, PromiseOutcome, PromiseVerdict

RUN_FILE: Final = "run.json"
EXIT_PASSED: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INCOMPLETE: Final = 3
"""Something that should have reported did not: what it would have found is not known."""


class MergeError(ValueError):
    """The documents do not belong together."""


@dataclass(frozen=True, slots=True)
class Found:
    """The run documents below a directory, and the files that are none although they should be."""

    runs: tuple[Run, ...]
    unreadable: tuple[str, ...]


def find_runs(directory: Path) -> Found:
    """Read every `run.json` below a directory."""
    runs: list[Run] = []
    unreadable: list[str] = []
    for path in sorted(directory.rglob(RUN_FILE)):
        try:
            runs.append(load(path))
        except (DocumentError, OSError) as error:  # noqa: PERF203 - a few files, and each may be broken
            unreadable.append(str(error))
    return Found(tuple(runs), tuple(unreadable))


def merge(runs: Sequence[Run], *, expected: int | None = None, kept: Run | None = None) -> Run:
    """One run of many shards.

    Args:
        runs: documents of shards.
        expected: how many shards there should be; what the documents say if left out.
        kept: the last kept run, to compare with and to know when a failure was first seen.

    Raises:
        MergeError: no document, two of the same shard, or shards of differently split runs or of different commits.
    """
    if not runs:
        raise MergeError("no shard left a run document. Give the directory that holds their run.json files.")
    shards = sorted((shard for run in runs for shard in run.shards), key=lambda shard: shard.index)
    counts = {shard.count for shard in shards}
    if len(counts) != 1:
        raise MergeError(f"shards of differently split runs: of {', '.join(map(str, sorted(counts)))}")
    twice = sorted({s.index for s in shards if sum(other.index == s.index for other in shards) > 1})
    if twice:
        who = ", ".join(map(str, twice))
        raise MergeError(f"shard {who} reported more than once. Empty the directory before a run.")
    commits = {run.commit for run in runs}
    if len(commits) != 1:
        raise MergeError(f"shards of different commits: {', '.join(sorted(commits))}")
    count = expected if expected is not None else counts.pop()
    promises = _merged_promises(runs)
    merged = Run(
        commit=runs[0].commit,
        started_at=min(run.started_at for run in runs),
        duration_s=max(shard.duration_s for shard in shards),
        shards=tuple(shards),
        missing_shards=tuple(sorted(set(range(1, count + 1)) - {shard.index for shard in shards})),
        promises=promises,
        other_tests=sum(run.other_tests for run in runs),
        other_failures=tuple(failure for run in runs for failure in run.other_failures),
        examples=join_examples(example for run in runs for example in run.examples),
        bounds=tuple(dict.fromkeys(bound for run in runs for bound in run.bounds)),
        figures={},
        kept=None,
        made_by=runs[0].made_by,
    )
    return with_kept(replace(merged, figures=figures_of(merged, runs)), kept)


def with_kept(run: Run, kept: Run | None) -> Run:
    """The run compared with the last kept one; failures that it had keep the date they were first seen."""
    if kept is None:
        examples = tuple(replace(each, first_seen=each.first_seen or run.started_at) for each in run.examples)
        return replace(run, examples=examples)
    first = {each.fingerprint: each.first_seen for each in kept.examples}
    examples = tuple(replace(each, first_seen=first.get(each.fingerprint) or run.started_at) for each in run.examples)
    figures = Kept(commit=kept.commit, started_at=kept.started_at, figures=kept.figures)
    return replace(run, kept=figures, examples=examples)


def join_examples(examples: Iterable[Example]) -> tuple[Example, ...]:
    """One per fingerprint, the smallest, found by all the shards that found one."""
    by_cause: dict[str, list[Example]] = {}
    for example in examples:
        by_cause.setdefault(example.fingerprint, []).append(example)
    return tuple(
        replace(
            min(alike, key=lambda example: (len(example.inputs), example.inputs)),
            shards=tuple(sorted({shard for example in alike for shard in example.shards})),
        )
        for alike in by_cause.values()
    )


def _merged_promises(runs: Sequence[Run]) -> tuple[PromiseVerdict, ...]:
    by_id: dict[str, list[PromiseVerdict]] = {}
    for run in runs:
        for promise in run.promises:
            by_id.setdefault(promise.id, []).append(promise)
    return tuple(_merged_promise(parts) for parts in by_id.values())


def _merged_promise(parts: Sequence[PromiseVerdict]) -> PromiseVerdict:
    survived = {mutant for part in parts for mutant in part.mutants_survived}
    killed = {mutant for part in parts for mutant in part.mutants_killed} - survived
    untried = {mutant for part in parts for mutant in part.mutants_untried} - killed - survived
    counts = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("tests_passed", "tests_failed", "tests_skipped", "tests_unfinished")
    }
    outcome: PromiseOutcome = "not verified"
    if any(part.outcome == "FAILED" for part in parts) or survived:
        outcome = "FAILED"
    elif counts["tests_passed"] and not counts["tests_unfinished"]:
        outcome = "passed"
    first = parts[0]
    return PromiseVerdict(
        id=first.id,
        title=first.title,
        text=first.text,
        outcome=outcome,
        tests=tuple(sorted({test for part in parts for test in part.tests})),
        **counts,
        evidence={
            kind: total for kind in EVIDENCE_KINDS if (total := sum(part.evidence.get(kind, 0) for part in parts))
        },
        mutants_killed=tuple(sorted(killed)),
        mutants_survived=tuple(sorted(survived)),
        mutants_untried=tuple(sorted(untried)),
        failures=tuple({failure.nodeid: failure for part in parts for failure in part.failures}.values()),
    )


def figures_of(run: Run, parts: Sequence[Run]) -> Mapping[str, float]:
    """Everything counted, each thing once: what the shards counted, added up, and the state of the promises."""
    figures: dict[str, float] = {}
    for name in ("passed", "failed", "skipped", "unfinished"):
        figures[name] = sum(getattr(shard, name) for shard in run.shards)
    for kind in EVIDENCE_KINDS:
        total = sum(part.figures.get(kind, 0) for part in parts)
        if total:
            figures[kind] = total
    figures["promises_passed"] = sum(promise.outcome == "passed" for promise in run.promises)
    figures["promises_not_verified"] = sum(promise.outcome == "not verified" for promise in run.promises)
    figures["mutants_killed"] = len({mutant for promise in run.promises for mutant in promise.mutants_killed})
    figures["mutants_survived"] = len({mutant for promise in run.promises for mutant in promise.mutants_survived})
    figures["duration_s"] = round(run.duration_s, 1)
    return figures


def exit_status(run: Run) -> int:
    """3 if a shard is missing, else 1 if anything failed, else 0."""
    if run.missing_shards:
        return EXIT_INCOMPLETE
    return EXIT_FAILED if run.failed else EXIT_PASSED


def write_report(run: Run, directory: Path) -> None:
    """`run.json`, `report.html`, `summary.md`, `junit.xml` and `codequality.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        RUN_FILE: dumps(run),
        "report.html": html.render(run),
        "summary.md": markdown.render(run),
        "junit.xml": junit.render(run),
        "codequality.json": json.dumps(notices.gitlab(run), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def other_failures_of(failures: Iterable[Failure], nodeids: Iterable[str]) -> tuple[Failure, ...]:
    """The failures that no example tells."""
    told = set(nodeids)
    return tuple(failure for failure in failures if failure.nodeid not in told)
