"""The run document: everything that a report shows, as values.

All formats are made from a `Run`, which is what `run.json` holds: nothing is measured or looked up while rendering. An
`Example` is one failing example; exactly one of `race`, `sequence` and `crash` is there, unless its kind is `test` (a
failing test that left no counterexample); a crash may have the sequence of steps before it, too. A system call that
fails is a crash, too: something cut the run short, and something must hold afterwards. Texts that are
written by hand may use `code` and **bold**.

Not a counterexample: that is a document of its own (`storecheck.counterexample`), from which an example is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from storecheck.report import codec
from storecheck.report.codec import DocumentError, decode, encode, schema_of
from storecheck.verdict import Failure, PromiseVerdict

FORMAT: Final = "storecheck-run"
VERSION: Final = 1
SCHEMA_ID: Final = "storecheck/run/1"

Kind = Literal["race", "sequence", "crash", "test"]
Importance = Literal["", "check", "loss"]
Persisted = Literal["", "yes", "no"]
Allowed = Literal["allowed", "broken", "impossible"]
CutKind = Literal["power loss", "failing call", "interrupt"]

KIND_NAMES: Final[Mapping[str, str]] = {"race": "Race", "sequence": "Sequence", "crash": "Crash", "test": "Test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Part of a text, by characters: a value that may be anything without the failure going away."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One process of a race: its name and what it does."""

    name: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One call of one process, one line of the lanes.

    Attributes:
        number: counted from 1, as shown.
        step: the executor's step.
        process: index of the process.
        verb: what it does, such as `read`, `lock`, `begin`.
        what: to what, and what came of it.
        loose: values in `what` that may be anything.
        note: why it matters, or empty.
        sees: version of the file that the process saw by it.
        stale: that version was no longer the newest.
        publishes: version of the file that it made visible.
        overwrites: newest version before, if this one was built from an older one.
        held: processes that hold a lock after it, by index.
        disk: version that a reader gets after it.
        importance: whether it is the look that came too early, or the loss.
        source: file and line of the code under test, `path:line`, or empty.
    """

    number: int
    step: int
    process: int
    verb: str
    what: str
    loose: tuple[Span, ...]
    note: str
    sees: int | None
    stale: bool
    publishes: int | None
    overwrites: int | None
    held: tuple[int, ...]
    disk: int
    importance: Importance
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfDate:
    """Points, `first` to `last`, during which what `process` knows is not what the disk holds."""

    process: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVersion:
    """A version of the file: who made it at which point (0 for the start), and its size."""

    number: int
    author: str
    point: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRow:
    """One field in every version; None where it is not there. `lost` if the end is not what was expected."""

    field: str
    values: tuple[str | None, ...]
    expected: str | None
    lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialOrder:
    """One order of the operations one after the other: what it would give, and how that differs from what was found."""

    operations: tuple[str, ...]
    would_leave: str
    differs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Processes that came in each other's way.

    If it was `recorded`, these are operations of real processes: a point is where one begins or is answered, its `step`
    is microseconds since the first, and `held` are the processes that are within one. Then there are no versions.
    """

    file: str
    lanes: tuple[Lane, ...]
    points: tuple[Point, ...]
    out_of_date: tuple[OutOfDate, ...]
    versions: tuple[FileVersion, ...]
    fields: tuple[FieldRow, ...]
    orders: tuple[SequentialOrder, ...]
    orders_tried: int
    found: str
    recorded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidingPoint:
    """A point of the ordering that decides."""

    process: int
    verb: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """The ordering that decides, found by dropping happens-before edges and running again.

    Attributes:
        points: in this order.
        edges_kept: edges that cannot be dropped.
        edges: cross-process edges of the failing run.
        with_failed, with_tried: schedules that have the order, and how many of them fail.
        without_passed, without_tried: schedules that do not have it, and how many of them pass.
        exchanged: the same order with the processes exchanged counted as this order.
        search: what was run.
    """

    points: tuple[DecidingPoint, ...]
    edges_kept: int
    edges: int
    with_failed: int
    with_tried: int
    without_passed: int
    without_tried: int
    exchanged: bool
    search: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """A line of the code under test, with a remark."""

    number: int
    text: str
    note: str
    marked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceExcerpt:
    """Lines of one file."""

    path: str
    lines: tuple[SourceLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a sequence.

    Attributes:
        number: counted from 1.
        process: index of the process (the handle) that does it.
        call: the operation.
        loose: values in `call` that may be anything.
        model: what changed in the model; empty if nothing did or there is no model.
        disk: version on disk after it.
        disk_changed: the step made that version.
        disk_bytes: size of the file, or None if there is none.
        returned: what it returned or raised.
        expected: what the model returns, if it differs.
        cache: the cache's view, where one is involved.
    """

    number: int
    process: int
    call: str
    loose: tuple[Span, ...]
    model: str
    disk: int
    disk_changed: bool
    disk_bytes: int | None
    returned: str
    expected: str | None
    cache: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field that is not what was expected; None where it is not there."""

    field: str
    expected: str | None
    found: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Operations one after the other, of one or more handles.

    Attributes:
        file: the file.
        steps: what was done; the last one, or the one with `expected`, went wrong.
        about: what differs, such as `returned`, or the name of a file.
        differences: how, field by field.
        with_model: there is a model, so that `model` and `expected` of steps say something.
    """

    file: str
    steps: tuple[Step, ...]
    about: str
    differences: tuple[Difference, ...]
    with_model: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a run was cut short.

    Attributes:
        after: number of the operation that it came after; of the call that failed, if it is one.
        kind: what happened.
        text: the same in words, such as `power loss` or `ENOSPC: No space left on device, once`.
        lost: changes that were not on disk, and are lost by it.
    """

    after: int
    kind: CutKind
    text: str
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """One thing that was looked at before the failing call and afterwards; `problem` is empty if it is as promised."""

    what: str
    before: str
    after: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashOperation:
    """What was done, and whether it was durable when the power went."""

    number: int
    verb: str
    what: str
    persisted: Persisted
    note: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashCell:
    """The states of one moment that lose the same kinds of changes."""

    text: str
    allowed: Allowed
    here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashRow:
    """One moment at which the power may go."""

    after: str
    cells: tuple[CrashCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A run that was cut short, by power losses or by a failing call, and breaks a promise.

    Attributes:
        file: the file.
        model: rules of the file system; empty if the power never went.
        operations: what was done, until the power went for the last time or until the operation had ended.
        cuts: where it was cut short, in order.
        recovered: what is found after the last power loss; empty if the power never went.
        wanted: what must be found.
        aftermath: what was looked at before and after a failing call.
        columns: of the grid: what was kept and lost, or how a call failed.
        grid: all states of the call, or every call failing.
        states: so many states or failures of the grid are distinct.
        broken: so many of them break the promise.
    """

    file: str
    model: str
    operations: tuple[CrashOperation, ...]
    cuts: tuple[Cut, ...]
    recovered: str
    wanted: str
    aftermath: tuple[Aftermath, ...]
    columns: tuple[str, ...]
    grid: tuple[CrashRow, ...]
    states: int
    broken: int

    @property
    def lost(self) -> tuple[str, ...]:
        """What the last power loss lost."""
        return self.cuts[-1].lost if self.cuts else ()

    @property
    def is_failing_call(self) -> bool:
        """Whether it was no power loss that broke the promise."""
        return bool(self.cuts) and self.cuts[-1].kind != "power loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replays:
    """How many of the replays failed as recorded."""

    failed: int
    tried: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """A size when the failure was found, and after shrinking."""

    what: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One failing example. `promise` and `test` are empty if unknown; `first_seen` is the run's start, ISO 8601."""

    id: str
    kind: Kind
    promise: str
    promise_text: str
    title: str
    verdict: tuple[str, ...]
    test: str
    fingerprint: str
    replay: str
    run_as_test: str
    replays: Replays | None
    shrunk: tuple[Shrunk, ...]
    preemptions: int | None
    first_seen: str
    shards: tuple[int, ...]
    race: Race | None
    sequence: Sequence | None
    crash: Crash | None
    deciding: Deciding | None
    sources: tuple[SourceExcerpt, ...]
    environment: Mapping[str, str]
    inputs: str
    reproducer: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part of a run. `index` counts from 1; a run that is not split is shard 1 of 1. `known`: `KnownFailure`s.

    `ci_run` is what CI calls the run, the same for all its shards, and empty outside CI.
    """

    index: int
    count: int
    seed: str
    job: str
    ci_run: str
    started_at: str
    duration_s: float
    passed: int
    failed: int
    known: int
    skipped: int
    unfinished: int
    exit_status: int
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFailure:
    """A test that is marked as failing (`pytest.mark.xfail`) and still does; `fingerprint` is empty without example."""

    test: str
    reason: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The figures of an earlier run, to compare with."""

    commit: str
    started_at: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run, or one shard of it.

    Attributes:
        commit: version control's name of the tree, or empty.
        started_at: ISO 8601, UTC.
        duration_s: of the longest shard.
        shards: those that reported.
        missing_shards: those that did not.
        promises: promise by promise.
        other_tests: tests that name no promise.
        other_failures: those of them that failed.
        examples: failing examples, one per cause.
        known: failures that are known, and are still there.
        bounds: what the searches were bounded by.
        figures: everything counted, by name.
        kept: the last kept run, or None.
        made_by: name and version of the program that wrote this.
    """

    commit: str
    started_at: str
    duration_s: float
    shards: tuple[Shard, ...]
    missing_shards: tuple[int, ...]
    promises: tuple[PromiseVerdict, ...]
    other_tests: int
    other_failures: tuple[Failure, ...]
    examples: tuple[Example, ...]
    known: tuple[KnownFailure, ...]
    bounds: tuple[str, ...]
    figures: Mapping[str, float]
    kept: Kept | None
    made_by: str

    @property
    def ran(self) -> bool:
        """Whether any test ran to its end. Without one, nothing is known: that is no success."""
        return any(shard.passed or shard.failed or shard.known for shard in self.shards)

    @property
    def failed(self) -> bool:
        """Whether anything failed or is missing. A promise that is not verified is no failure, and no success."""
        return bool(
            self.examples
            or self.missing_shards
            or self.other_failures
            or any(shard.exit_status not in (0, 5) for shard in self.shards)
            or any(promise.outcome == "FAILED" for promise in self.promises)
        )


def to_json(run: Run) -> dict[str, Any]:
    """The document."""
    return {"format": FORMAT, "version": VERSION, **encode(run)}


def dumps(run: Run) -> str:
    """The document as text that is stable under version control."""
    return json.dumps(to_json(run), indent=1, ensure_ascii=False) + "\n"


def printable(run: Run) -> Run:
    """The run with what UTF-8 has not written as escapes, for files and terminals; see `codec.printable`."""
    return decode(Run, codec.printable(encode(run)))


def from_json(document: object) -> Run:
    """The inverse of `to_json`.

    Raises:
        DocumentError: with the place of what is wrong.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else document
        raise DocumentError(f"format is {found!r:.60}; expected {FORMAT!r}. Give a run.json that storecheck wrote.")
    if document.get("version") != VERSION:
        raise DocumentError(f"version is {document.get('version')!r}; this storecheck reads version {VERSION}")
    members = {name: value for name, value in document.items() if name not in ("format", "version")}
    return decode(Run, members)


def load(path: Path) -> Run:
    """Read a run document.

    Raises:
        DocumentError: naming the file and the place in it.
    """
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DocumentError(f"{path}: {error}") from error


def run_schema() -> dict[str, Any]:
    """The JSON schema of run documents; `schemas/run.schema.json` holds the same."""
    return schema_of(
        Run,
        identifier=SCHEMA_ID,
        title="A run of storecheck: what was searched, what failed",
        extra={"format": FORMAT, "version": VERSION},
    )
