"""Joins the run documents of shards, compares with kept runs, and writes a report in every format.

The same cause is one entry, whoever found it: examples with one fingerprint are joined. A shard that left no document,
or one that cannot be read, makes the run incomplete: `missing_shards` names it, and no incomplete run is green, nor is
one in which no test ran. What else shards leave (durations of tests, Hypothesis's examples) is joined as well.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from storecheck.report import html, junit, markdown, notices, words
from storecheck.report.codec import DocumentError
from storecheck.report.document import Example, Kept, Run, Shard, dumps, load, printable
from storecheck.report.examples import COUNTEREXAMPLE_FILE, placed
from storecheck.verdict import COUNTED_KINDS, Failure, PromiseOutcome, PromiseVerdict, total_evidence

RUN_FILE: Final = "run.json"
DURATIONS_FILE: Final = "durations.json"
"""Seconds by test, as pytest-split reads them."""

FAILURES_DIRECTORY: Final = "failures"
"""What replays the failing examples, in a directory for each."""

EXAMPLES_DIRECTORY: Final = "examples"
"""What a search drew and found worth keeping, as Hypothesis's database in a directory."""

KEPT_RUNS_MAX: Final = 100
"""Runs in a directory of kept runs; the oldest leave first."""

TESTS_NAMED_MAX: Final = 3
"""Other tests that an example names; how many more there are is said."""

OTHER_TESTS: Final = re.compile(r"By the same cause fails? (.+)\.")
"""The sentence that names tests which are not shown, as `_joined` writes it."""

EXIT_PASSED: Final = 0
EXIT_FAILED: Final = 1
EXIT_INCOMPLETE: Final = 3
"""Something that should have reported did not: what it would have found is not known."""


class MergeError(ValueError):
    """The documents do not belong together."""


@dataclass(frozen=True, slots=True)
class Found:
    """The run documents below a directory.

    Attributes:
        runs: what they hold.
        directories: where each of them was.
        unreadable: what is wrong with those that are none although they should be.
    """

    runs: tuple[Run, ...]
    directories: tuple[Path, ...]
    unreadable: tuple[str, ...]


def find_runs(directory: Path) -> Found:
    """Read every `run.json` below a directory."""
    return _read(directory.rglob(RUN_FILE))


def _read(paths: Iterable[Path]) -> Found:
    runs: dict[Path, Run] = {}
    unreadable: list[str] = []
    for path in sorted(paths):
        try:
            runs[path] = load(path)
        except (DocumentError, OSError) as error:  # noqa: PERF203 - a few files, and each may be broken
            unreadable.append(str(error))
    return Found(tuple(runs.values()), tuple(path.parent for path in runs), tuple(unreadable))


def merge(runs: Sequence[Run], *, expected: int | None = None, kept: Sequence[Run] = ()) -> Run:
    """One run of many shards.

    Args:
        runs: documents of shards.
        expected: how many shards there should be; fewer than the documents say are never enough.
        kept: earlier runs, the oldest first: see `with_kept`.

    Raises:
        MergeError: no document, two of the same shard, or shards of different runs.
    """
    if not runs:
        raise MergeError("no shard left a run.json that can be read. Give the directory of all shards.")
    shards = sorted((shard for run in runs for shard in run.shards), key=lambda shard: shard.index)
    _check_that_they_belong_together(runs, shards)
    count = max(expected or 0, shards[0].count)
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
        known=tuple({failure.test: failure for run in runs for failure in run.known}.values()),
        bounds=tuple(dict.fromkeys(bound for run in runs for bound in run.bounds)),
        figures={},
        kept=None,
        made_by=runs[0].made_by,
    )
    return with_kept(replace(merged, figures=figures_of(merged, runs)), kept)


def merge_found(found: Found, *, expected: int | None = None) -> Run:
    """`merge` of documents that were found in a directory.

    Raises:
        MergeError: as `merge`, or one cannot be read though no shard is missing: nobody knows what it would say.
    """
    run = merge(found.runs, expected=expected)
    if found.unreadable and not run.missing_shards:
        raise MergeError(
            f"all {len(run.shards)} shards reported, and yet {len(found.unreadable)} more run.json cannot be read. "
            "Empty the directory before a run."
        )
    return run


def _check_that_they_belong_together(runs: Sequence[Run], shards: Sequence[Shard]) -> None:
    _check_alike("splits", ((str(shard.count), shard) for shard in shards))
    twice = sorted({s.index for s in shards if sum(other.index == s.index for other in shards) > 1})
    if twice:
        who = ", ".join(map(str, twice))
        raise MergeError(f"shard {who} reported more than once. Empty the directory before a run.")
    _check_alike("commits", ((run.commit, shard) for run in runs for shard in run.shards))
    _check_alike("runs", ((shard.ci_run, shard) for shard in shards))
    _check_alike("jobs", ((shard.job, shard) for shard in shards))
    seeds = [shard.seed for shard in shards if shard.seed != "none"]
    if len(set(seeds)) != len(seeds):
        raise MergeError("two shards searched with the same seed: one repeated the other. Leave seeds to --shard.")


def _check_alike(what: str, said: Iterable[tuple[str, Shard]]) -> None:
    """Raise MergeError unless all shards say the same."""
    by_value: dict[str, list[int]] = {}
    for value, shard in said:
        by_value.setdefault(value or "none", []).append(shard.index)
    if len(by_value) > 1:
        shown = (f"{value} (shard {', '.join(map(str, sorted(who)))})" for value, who in sorted(by_value.items()))
        raise MergeError(f"shards of different {what}: {', '.join(shown)}. Empty the directory before a run.")


def with_kept(run: Run, kept: Sequence[Run]) -> Run:
    """The run compared with the last kept one; a failure that any kept run had keeps the date it was first seen."""
    first: dict[str, str] = {}
    for example in (example for earlier in kept for example in earlier.examples):
        if example.first_seen:
            first[example.fingerprint] = min(example.first_seen, first.get(example.fingerprint, example.first_seen))
    examples = tuple(
        replace(each, first_seen=first.get(each.fingerprint) or each.first_seen or run.started_at)
        for each in run.examples
    )
    if not kept:
        return replace(run, examples=examples)
    last = kept[-1]
    figures = Kept(commit=last.commit, started_at=last.started_at, figures=last.figures)
    return replace(run, kept=figures, examples=examples)


def kept_runs(directory: Path, *, before: str) -> tuple[list[Run], tuple[str, ...]]:
    """The runs kept in a directory that began before that time (ISO 8601, UTC), the oldest first; and its problems."""
    found = _read(directory.glob("*.json"))
    earlier = sorted((run for run in found.runs if run.started_at < before), key=lambda run: run.started_at)
    return earlier, found.unreadable


def keep(run: Run, directory: Path) -> Path:
    """Keep a run in a directory, failed or not, to compare later ones with; the same run again replaces itself.

    Raises:
        MergeError: a shard is missing, or no test ran: its figures would be compared with.
    """
    if exit_status(run) == EXIT_INCOMPLETE:
        raise MergeError("an incomplete run is not kept")
    directory.mkdir(parents=True, exist_ok=True)
    began = run.started_at.replace(":", "").replace("+0000", "Z")
    path = directory / f"{began}-{run.commit[:12] or 'unknown'}.json"
    path.write_text(dumps(printable(run)), encoding="utf-8")
    for old in sorted(directory.glob("*.json"))[:-KEPT_RUNS_MAX]:
        old.unlink()
    return path


def copy_failures(run: Run, shards: Found, directory: Path) -> Run:
    """The run with the files of its examples copied from the shards to `directory`; see `with_files`."""
    found = zip(shards.directories, shards.runs, strict=True)
    sources = [(place / FAILURES_DIRECTORY, example) for place, part in found for example in part.examples]
    return replace(run, examples=with_files(run.examples, sources, directory / FAILURES_DIRECTORY))


def with_files(
    examples: Iterable[Example], sources: Sequence[tuple[Path, Example]], directory: Path
) -> tuple[Example, ...]:
    """Copy counterexample and test of each example to `directory`; its commands name them there.

    An example without files stays as it is.

    Args:
        examples: those that are shown.
        sources: all that were told, also those of the same cause that are not shown, and where their files are.
        directory: of the report.
    """
    return tuple(_with_files(example, sources, directory) for example in examples)


def _with_files(example: Example, sources: Sequence[tuple[Path, Example]], directory: Path) -> Example:
    for place, own in sources:
        source = place / own.id
        named = _is_name(own.id) and _is_name(example.id)
        alike = (own.fingerprint, own.inputs) == (example.fingerprint, example.inputs)
        if named and alike and (source / COUNTEREXAMPLE_FILE).is_file():
            target = directory / example.id
            if source.resolve() != target.resolve():
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            return placed(example, target)
    return example


def _is_name(identifier: str) -> bool:
    """Whether an id names a directory. The document may be anybody's: a path would lead out of the failures."""
    return identifier not in ("", ".", "..") and Path(identifier).name == identifier


def merge_durations(shards: Path) -> tuple[dict[str, float], tuple[str, ...]]:
    """Seconds by test, of all `durations.json` below a directory, sorted; and what is wrong with those left out."""
    durations: dict[str, float] = {}
    problems: list[str] = []
    for path in sorted(shards.rglob(DURATIONS_FILE)):
        try:
            durations |= _durations_in(path)
        except (ValueError, OSError) as error:  # noqa: PERF203 - a few files, and each may be broken
            problems.append(f"{path}: {error}")
    return dict(sorted(durations.items())), tuple(problems)


def _durations_in(path: Path) -> dict[str, float]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(
        type(spent_s) in (int, float) and math.isfinite(spent_s) for spent_s in found.values()
    ):
        raise ValueError("expected an object with the seconds of each test")
    return found


def merge_examples(shards: Path, into: Path) -> int:
    """Copy the examples that shards found into Hypothesis's database in a directory; how many were new there.

    A file of that database is named after its content, below a directory named after its key: the union of files is the
    union of databases.
    """
    added = 0
    for database in sorted(shards.rglob(EXAMPLES_DIRECTORY)):
        for source in (path for path in sorted(database.rglob("*")) if path.is_file()):
            target = into / source.relative_to(database)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                added += 1
    return added


def join_examples(examples: Iterable[Example]) -> tuple[Example, ...]:
    """One per fingerprint, the smallest, found by all the shards that found one; it names the other tests.

    Failing tests without a counterexample come last: what says most is read first.
    """
    by_cause: dict[str, list[Example]] = {}
    for example in examples:
        by_cause.setdefault(example.fingerprint, []).append(example)
    return tuple(sorted(map(_joined, by_cause.values()), key=lambda example: example.kind == "test"))


def _joined(alike: Sequence[Example]) -> Example:
    shown = min(alike, key=lambda example: (_rows(example), len(example.inputs), example.inputs))
    shards = tuple(sorted({shard for example in alike for shard in example.shards}))
    # What a shard has joined names the tests that it left out in a sentence: they are joined again, not said twice.
    said = [found[1] for example in alike for found in map(OTHER_TESTS.fullmatch, example.verdict) if found is not None]
    tests = {example.test for example in alike} | {test for each in said for test in re.findall(r"`([^`]+)`", each)}
    others = sorted(tests - {shown.test, ""})
    counted = [found[1] for found in (re.search(r" ([0-9]+) more$", each) for each in said) if found is not None]
    unnamed = sum(map(int, counted)) + max(0, len(others) - TESTS_NAMED_MAX)
    verdict = tuple(each for each in shown.verdict if OTHER_TESTS.fullmatch(each) is None)
    if not others:
        return replace(shown, shards=shards)
    named = [f"`{test}`" for test in others[:TESTS_NAMED_MAX]]
    named += [f"{unnamed} more"] if unnamed else []
    sentence = f"By the same cause {'fails' if len(named) == 1 else 'fail'} {words.joined(named)}."
    return replace(shown, shards=shards, verdict=(*verdict, sentence))


def _rows(example: Example) -> int:
    """How much a reader has to look through."""
    points = example.race.points if example.race is not None else ()
    steps = example.sequence.steps if example.sequence is not None else ()
    operations = example.crash.operations if example.crash is not None else ()
    return len(points) + len(steps) + len(operations)


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
        evidence=total_evidence(part.evidence for part in parts),
        mutants_killed=tuple(sorted(killed)),
        mutants_survived=tuple(sorted(survived)),
        mutants_untried=tuple(sorted(untried)),
        failures=tuple({failure.nodeid: failure for part in parts for failure in part.failures}.values()),
    )


def figures_of(run: Run, parts: Sequence[Run]) -> Mapping[str, float]:
    """Everything counted, each thing once: what the shards counted, added up, and the state of the promises."""
    figures: dict[str, float] = {}
    for name in ("passed", "failed", "known", "skipped", "unfinished"):
        figures[name] = sum(getattr(shard, name) for shard in run.shards)
    counted = ({kind: int(part.figures.get(kind, 0)) for kind in COUNTED_KINDS} for part in parts)
    figures |= total_evidence(counted)
    figures["promises_passed"] = sum(promise.outcome == "passed" for promise in run.promises)
    figures["promises_not_verified"] = sum(promise.outcome == "not verified" for promise in run.promises)
    figures["mutants_killed"] = len({mutant for promise in run.promises for mutant in promise.mutants_killed})
    figures["mutants_survived"] = len({mutant for promise in run.promises for mutant in promise.mutants_survived})
    figures["duration_s"] = round(run.duration_s, 1)
    return figures


def exit_status(run: Run) -> int:
    """3 if a shard is missing or no test ran at all, else 1 if anything failed, else 0."""
    if run.missing_shards or not run.ran:
        return EXIT_INCOMPLETE
    return EXIT_FAILED if run.failed else EXIT_PASSED


def write_report(run: Run, directory: Path) -> None:
    """`run.json`, `report.html`, `summary.md`, `junit.xml` and `codequality.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    run = printable(run)
    texts = {
        RUN_FILE: dumps(run),
        "report.html": html.render(run),
        "summary.md": markdown.render(run),
        "junit.xml": junit.render(run),
        "codequality.json": json.dumps(notices.gitlab(run), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def write_durations(durations: Mapping[str, float], directory: Path) -> None:
    """`durations.json`: copied to `.test_durations`, it is what the next split goes by."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(sorted(durations.items())), indent=0, ensure_ascii=False) + "\n"
    # In JSON, the escape of half a surrogate pair is that character again.
    (directory / DURATIONS_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")


def other_failures_of(failures: Iterable[Failure], nodeids: Iterable[str]) -> tuple[Failure, ...]:
    """The failures that no example tells."""
    told = set(nodeids)
    return tuple(failure for failure in failures if failure.nodeid not in told)
