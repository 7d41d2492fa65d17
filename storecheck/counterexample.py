"""Counterexamples: a failing run as one JSON document that replays without any search.

The document holds everything the run depends on (program, machine, schedule, faults, which check and which planted bug)
and what came of it (finding, trace, digest of the outcome). Replay executes the schedule again and compares: the same
history and the same files, or it is no replay. A committed document is a regression test.

Code under test that iterates over sets of strings depends on PYTHONHASHSEED, which no schedule fixes: pin it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from storecheck.explore import Check, Failure, Finding, judge
from storecheck.lanes import Line, TraceRecorder, with_operations
from storecheck.program import (
    Json,
    Program,
    ProgramError,
    at_path,
    expect_list,
    expect_number,
    expect_object,
    expect_text,
)
from storecheck.runner import Execution, Runner
from storecheck.schedule import Fault, FaultPlan, Replay
from storecheck.schedule.executor import KILL
from storecheck.syscalls import Transform

T = TypeVar("T")

FORMAT: Final = "storecheck-counterexample"
VERSION: Final = 1

_MEMBERS: Final = frozenset(
    {
        "format", "version", "title", "program", "schedule", "faults", "check", "transform", "transform_argument",
        "finding", "verdict", "digest", "trace",
    }
)  # fmt: skip


class CounterexampleError(ProgramError):
    """The document is no counterexample, or not one this version reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample:
    """A failing run.

    Attributes:
        title: one line for people and lists.
        program: what was run.
        choices: the schedule.
        faults: applied faults.
        finding: what is wrong with the run.
        verdict: what the search that found it may claim, as text.
        digest: of the history and the files at the end; a replay must have the same.
        trace: the lanes.
        check: import path of the check, or None: then a replay compares the outcome only.
        transform: import path of what plants the bug, or None.
        transform_argument: if not None, the object at `transform` is called with it and returns the transform.
    """

    title: str
    program: Program
    choices: tuple[int, ...]
    faults: tuple[Fault, ...]
    finding: Finding
    verdict: str
    digest: str
    trace: tuple[Line, ...]
    check: str | None = None
    transform: str | None = None
    transform_argument: str | None = None

    def to_json(self) -> dict[str, Json]:
        """The document."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "title": self.title,
            "program": self.program.to_json(),
            "schedule": _schedule_to_json(self.choices),
            "faults": [cast("Json", asdict(fault)) for fault in self.faults],
            "check": self.check,
            "transform": self.transform,
            "transform_argument": self.transform_argument,
            "finding": {"kind": self.finding.kind, "message": self.finding.message},
            "verdict": self.verdict,
            "digest": self.digest,
            "trace": [cast("Json", line.to_json()) for line in self.trace],
        }

    def write(self, path: Path) -> None:
        """Write the document to a file, readable and stable under version control."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        # UTF-8 has no half of a surrogate pair; the escape is the same character in JSON.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay did.

    Attributes:
        execution: the run.
        finding: what is wrong with it, judged anew if the check can be imported.
        same: it had the same history and files as the recorded run.
        trace: the lanes of this run.
    """

    execution: Execution
    finding: Finding | None
    same: bool
    trace: tuple[Line, ...]


def from_failure(
    failure: Failure,
    *,
    title: str,
    verdict: str,
    check: str | None = None,
    transform: str | None = None,
    transform_argument: str | None = None,
    planted: Transform | None = None,
) -> Counterexample:
    """Run the failure once more, with the recorder on, and make a document of it.

    Args:
        failure: from `explore`.
        title: one line for people.
        verdict: `str` of the exploration's verdict.
        check: import path of the check that failed, if it has one.
        transform: import path of the planted bug's transform, if there is one.
        transform_argument: see `Counterexample`.
        planted: the transform itself, if it has no import path: the document then replays only where it is given.
    """
    bare = Counterexample(
        title=title,
        program=failure.program,
        choices=failure.choices,
        faults=failure.faults,
        finding=failure.finding,
        verdict=verdict,
        digest=digest_of(failure.execution),
        trace=(),
        check=check,
        transform=transform,
        transform_argument=transform_argument,
    )
    replayed = replay(bare, planted=planted)
    if not replayed.same:
        raise CounterexampleError(
            f"{title}: the failing run does not replay: the code under test depends on something that is not in the "
            "schedule, such as the order of a set, or state that survives between runs"
        )
    return replace(bare, trace=replayed.trace)


def replay(counterexample: Counterexample, *, check: Check | None = None, planted: Transform | None = None) -> Replayed:
    """Execute the recorded schedule once.

    Args:
        counterexample: what to execute.
        check: judges the run, instead of the one the document names.
        planted: the planted bug, instead of the one the document names.

    Raises:
        ReplayDiverged: the code under test took another way than the schedule was recorded with.
        CounterexampleError: check or transform cannot be imported.
    """
    if check is None and counterexample.check is not None:
        check = cast("Check", import_path(counterexample.check))
    runner = Runner(counterexample.program, transform=planted or _transform_of(counterexample))
    recorder = TraceRecorder(counterexample.program.files)
    chooser = Replay(counterexample.choices).search(counterexample.program).next_chooser()
    assert chooser is not None
    execution = runner.run(chooser, policy=FaultPlan(counterexample.faults), recorder=recorder, trace=True)
    same = digest_of(execution) == counterexample.digest
    return Replayed(
        execution=execution,
        finding=_judge_replay(counterexample, execution, check, same=same),
        same=same,
        trace=tuple(with_operations(recorder.lines, execution)),
    )


def _judge_replay(
    counterexample: Counterexample, execution: Execution, check: Check | None, *, same: bool
) -> Finding | None:
    finding = judge(execution, check)
    if finding is None and check is None and same:
        # The check is a function that has no import path: the same outcome is what it judged.
        return counterexample.finding
    return finding


def digest_of(execution: Execution) -> str:
    """Digest of what a run did: operations with their answers, ends of the processes, files."""
    shown = [
        (
            record.process,
            record.thread,
            str(record.operation),
            record.invoked_at,
            record.responded_at,
            record.outcome,
            record.result,
            record.error,
            record.message,
        )
        for record in execution.operations
    ]
    files = {path: hashlib.sha256(content).hexdigest() for path, content in execution.files().items()}
    document = [shown, list(execution.ends), files, execution.deadlock is not None]
    try:
        text = json.dumps(document, sort_keys=True)
    except TypeError as error:
        raise CounterexampleError(f"operations must return JSON values: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path) -> Counterexample:
    """Read a document.

    Raises:
        CounterexampleError: with the file, the place in it, and what was expected there.
    """
    return load_as(path, from_json)


def load_as(path: Path, from_json: Callable[[object], T]) -> T:
    """Read a document of any format by the inverse of its `to_json`.

    Raises:
        CounterexampleError: with the file, the place in it, and what was expected there.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CounterexampleError(f"{path} is not JSON: {error}") from error
    try:
        return from_json(document)
    except ValueError as error:
        raise CounterexampleError(f"{path}: {error}") from error


def expect_members(document: object, *, format_: str, version: int, members: frozenset[str]) -> dict[str, Any]:
    """The members of a document, which must be of that format and version and have no others.

    Raises:
        CounterexampleError, ProgramError: with what is there and what was expected.
    """
    fields = expect_object(document, "document")
    if fields.get("format") != format_:
        raise CounterexampleError(f"format is {fields.get('format')!r}; expected {format_!r}")
    if fields.get("version") != version:
        raise CounterexampleError(f"version is {fields.get('version')!r}; this storecheck reads version {version}")
    if unknown := set(fields) - members:
        raise CounterexampleError(f"unknown member {min(unknown)!r}; known are {', '.join(sorted(members))}")
    return fields


def from_json(document: object) -> Counterexample:
    """The inverse of `Counterexample.to_json`."""
    fields = expect_members(document, format_=FORMAT, version=VERSION, members=_MEMBERS)
    finding = expect_object(fields.get("finding"), "finding")
    kind = expect_text(finding.get("kind"), "finding.kind")
    if kind not in ("check", "deadlock"):
        raise CounterexampleError(f"finding.kind is {kind!r}; expected 'check' or 'deadlock'")
    return Counterexample(
        title=expect_text(fields.get("title"), "title"),
        program=Program.from_json(fields.get("program")),
        choices=_schedule_from_json(fields.get("schedule")),
        faults=tuple(_fault_from_json(value, index) for index, value in enumerate(fields.get("faults", []))),
        finding=Finding(
            kind="check" if kind == "check" else "deadlock",
            message=expect_text(finding.get("message"), "finding.message"),
        ),
        verdict=expect_text(fields.get("verdict"), "verdict"),
        digest=expect_text(fields.get("digest"), "digest"),
        trace=tuple(
            Line.from_json(value, f"trace[{index}]")
            for index, value in enumerate(expect_list(fields.get("trace"), "trace"))
        ),
        check=_optional_text(fields, "check"),
        transform=_optional_text(fields, "transform"),
        transform_argument=_optional_text(fields, "transform_argument"),
    )


def _optional_text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else expect_text(value, name)


def _schedule_to_json(choices: tuple[int, ...]) -> list[Json]:
    """Runs of the same thread as [thread, count]; a killed process as ["kill", thread]."""
    document: list[Json] = []
    for choice, group in itertools.groupby(choices):
        if choice >= KILL:
            document += [["kill", choice - KILL] for _ in group]
        else:
            document.append([choice, len(list(group))])
    return document


def _schedule_from_json(value: object) -> tuple[int, ...]:
    choices: list[int] = []
    for index, item in enumerate(expect_list(value, "schedule")):
        pair = expect_list(item, f"schedule[{index}]")
        if len(pair) != 2:
            raise CounterexampleError(f"schedule[{index}] is {pair!r}; expected [thread, count] or ['kill', thread]")
        if pair[0] == "kill":
            choices.append(KILL + expect_number(pair[1], f"schedule[{index}][1]"))
        else:
            thread = expect_number(pair[0], f"schedule[{index}][0]")
            choices += [thread] * expect_number(pair[1], f"schedule[{index}][1]")
    return tuple(choices)


def _fault_from_json(value: object, index: int) -> Fault:
    fields = expect_object(value, f"faults[{index}]")
    try:
        return Fault(**fields)
    except (TypeError, ValueError) as error:
        raise CounterexampleError(f"faults[{index}]: {error}") from error


def import_path(path: str) -> Any:
    """The object at `module:name`.

    Raises:
        CounterexampleError: it cannot be imported.
    """
    try:
        return at_path(path)
    except ImportError as error:
        raise CounterexampleError(f"{path!r} cannot be imported: {error}") from error


def _transform_of(counterexample: Counterexample) -> Transform | None:
    if counterexample.transform is None:
        return None
    found = import_path(counterexample.transform)
    if counterexample.transform_argument is not None:
        return cast("Callable[[str], Transform]", found)(counterexample.transform_argument)
    return cast("Transform", found)
