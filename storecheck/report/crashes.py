"""Crash counterexamples: a program, a schedule, and the power loss after it that breaks a promise.

The document holds what the run depends on and which state of the disk was found; `replay` executes the program, lists
the states that a loss may leave and judges the one recorded. `crash_of` tells it: what was done, what was durable when
the power went, and all states of that call. For programs whose processes replace one file by rename.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from storecheck.counterexample import CounterexampleError, expect_members
from storecheck.crash import MODELS, CrashState, Disk, Oracle, PersistenceModel, Recording, Violation, crash_states
from storecheck.crash.changes import AttributeChange, Change, ContentChange, NameChange, SizeChange, SyncFailed
from storecheck.crash.publications import number_publications
from storecheck.machine.events import (
    AttributesChanged,
    Created,
    DiskEvent,
    Linked,
    Marked,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)
from storecheck.program import ROOT, Json, Program, expect_list, expect_number, expect_object, expect_text
from storecheck.report.document import (
    Allowed,
    Crash,
    CrashCell,
    CrashOperation,
    CrashRow,
    Cut,
    Persisted,
    SourceExcerpt,
    SourceLine,
)
from storecheck.report.faults import TEMPORARY, RecordedFault, cut_of, operations_of, shown_calls
from storecheck.report.points import Observation, following, observe
from storecheck.report.races import indent_of
from storecheck.runner import Runner
from storecheck.syscalls import Transform

FORMAT: Final = "storecheck-crash-counterexample"
VERSION: Final = 1
COLUMNS: Final = ("everything kept", "content lost", "names lost", "both lost")

_MEMBERS: Final = frozenset(
    {"format", "version", "title", "program", "schedule", "file", "model", "event", "lost", "violation", "transform"}
    | {"transform_argument"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashCounterexample:
    """A power loss that breaks a promise.

    Attributes:
        title: one line.
        program: what was run.
        choices: the schedule.
        file: the file, relative to the directory handed to the adapters.
        model: name of the file system's rules.
        event: the power went after so many things done to the disk.
        lost: texts of the changes that are lost in this state.
        violation: kind and sentence of what is wrong.
        transform: import path of what plants the bug, or None.
        transform_argument: see `storecheck.counterexample.Counterexample`.
    """

    title: str
    program: Program
    choices: tuple[int, ...]
    file: str
    model: str
    event: int
    lost: tuple[str, ...]
    violation: Violation
    transform: str | None = None
    transform_argument: str | None = None

    def to_json(self) -> dict[str, Json]:
        """The document."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "title": self.title,
            "program": self.program.to_json(),
            "schedule": list(self.choices),
            "file": self.file,
            "model": self.model,
            "event": self.event,
            "lost": list(self.lost),
            "violation": cast("Json", asdict(self.violation)),
            "transform": self.transform,
            "transform_argument": self.transform_argument,
        }

    def write(self, path: Path) -> None:
        """Write the document, readable and stable under version control."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        # UTF-8 has no half of a surrogate pair; the escape is the same character in JSON.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def from_json(document: object) -> CrashCounterexample:
    """The inverse of `CrashCounterexample.to_json`.

    Raises:
        CounterexampleError, ProgramError: with the place of what is wrong.
    """
    fields = expect_members(document, format_=FORMAT, version=VERSION, members=_MEMBERS)
    violation = expect_object(fields.get("violation"), "violation")
    model = expect_text(fields.get("model"), "model")
    if model not in {each.name for each in MODELS}:
        raise CounterexampleError(f"model is {model!r}; known are {', '.join(each.name for each in MODELS)}")
    return CrashCounterexample(
        title=expect_text(fields.get("title"), "title"),
        program=Program.from_json(fields.get("program")),
        choices=tuple(
            expect_number(choice, f"schedule[{index}]")
            for index, choice in enumerate(expect_list(fields.get("schedule"), "schedule"))
        ),
        file=expect_text(fields.get("file"), "file"),
        model=model,
        event=expect_number(fields.get("event"), "event"),
        lost=tuple(
            expect_text(text, f"lost[{index}]") for index, text in enumerate(expect_list(fields.get("lost"), "lost"))
        ),
        violation=Violation(
            cast("Any", expect_text(violation.get("kind"), "violation.kind")),
            expect_text(violation.get("text"), "violation.text"),
        ),
        transform=_optional(fields, "transform"),
        transform_argument=_optional(fields, "transform_argument"),
    )


def _optional(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else expect_text(value, name)


# Running and judging


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """One run with what it did to the disk.

    Attributes:
        recording: what was done, with marks that number its publications.
        oracle: what must be found after a power loss.
        places: line of the code under test behind an event, `path:line`, by the event's index.
        sources: text of the code under test, by path.
        choices: the schedule, if there was one.
    """

    recording: Recording
    oracle: Oracle
    places: Mapping[int, str]
    sources: Mapping[str, list[str]]
    choices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCrash:
    """A power loss in a run, and what is wrong with what it leaves.

    Attributes:
        run: the run.
        state: the state of the disk.
        violation: what is wrong with it.
        call: name of the operation that the loss belongs to.
        recover: opens what is under test on a state and says what is wrong with it, besides what the oracle says.
        earlier: the power loss before, after which this run began: the violation came with the second one.
        fault: the call that failed before the power went.
    """

    run: RecordedRun
    state: CrashState
    violation: Violation
    call: str
    recover: Callable[[CrashState], str | None] | None = None
    earlier: RecordedCrash | None = None
    fault: RecordedFault | None = None

    def judge(self, state: CrashState) -> Violation | None:
        """What is wrong with a state, or None."""
        violation = self.run.oracle.judge(state)
        if violation is None and self.recover is not None:
            problem = self.recover(state)
            violation = None if problem is None else Violation("recovery", problem)
        return violation


def record_run(
    program: Program, *, choices: tuple[int, ...] = (), file: str, transform: Transform | None = None
) -> RecordedRun:
    """Execute a schedule and number the versions of `file` that it publishes."""
    runner = Runner(program, transform=transform)
    disk = Disk.of(runner.new_machine())
    observation = observe(program, chooser=following(choices, program), transform=transform, runner=runner)
    events = tuple(observation.execution.trace or ())
    owner = (program.machine.uid, program.machine.gid)
    recording = Recording(disk=disk, events=events, owner=owner)
    numbered, versions = number_publications(recording, name=posixpath.basename(file))
    oracle = Oracle(path=f"{ROOT}/{file}", versions=versions, marks=numbered.marks())
    places = _places_by_step(observation)
    return RecordedRun(
        recording=numbered,
        oracle=oracle,
        places={
            index: places[event.process, event.step]
            for index, event in enumerate(numbered.events)
            if (event.process, event.step) in places
        },
        sources=observation.sources,
        choices=observation.execution.choices,
    )


def find(
    program: Program, *, file: str, title: str, transform: Transform | None = None, transform_path: str | None = None,
    transform_argument: str | None = None, models: Iterable[PersistenceModel] = MODELS,
) -> CrashCounterexample | None:  # fmt: skip
    """The first state, strongest file system first and latest loss last, that a power loss may leave and must not."""
    run = record_run(program, file=file, transform=transform)
    for model in models:
        for state in crash_states(run.recording, model, cuts=1):
            violation = run.oracle.judge(state)
            if violation is not None:
                return CrashCounterexample(
                    title=title,
                    program=program,
                    choices=run.choices,
                    file=file,
                    model=model.name,
                    event=state.event,
                    lost=tuple(change.text for change in state.lost),
                    violation=violation,
                    transform=transform_path,
                    transform_argument=transform_argument,
                )
    return None


def replay(
    document: CrashCounterexample, *, transform: Transform | None
) -> tuple[RecordedRun, CrashState | None, bool]:
    """Run again: the run, the recorded state if it is still possible, and whether it is still wrong in that way."""
    run = record_run(document.program, choices=document.choices, file=document.file, transform=transform)
    model = next(each for each in MODELS if each.name == document.model)
    for state in crash_states(run.recording, model, cuts=1):
        if state.event == document.event and tuple(change.text for change in state.lost) == document.lost:
            return run, state, run.oracle.judge(state) == document.violation
    return run, None, False


# Telling it


def excerpt_of(text: list[str], path: str, marked: Mapping[int, str]) -> SourceExcerpt:
    """The lines of a file around some that are marked with a remark."""
    around = sorted({each for line in marked for each in range(max(1, line - 2), min(len(text), line + 4) + 1)})
    indent = indent_of([text[number - 1] for number in around])
    return SourceExcerpt(
        path=path,
        lines=tuple(
            SourceLine(
                number=number,
                text=text[number - 1][indent:],
                note=marked.get(number, ""),
                marked=number in marked,
            )
            for number in around
        ),
    )


def crash_of(crash: RecordedCrash) -> Crash:
    """What was done, what was durable when the power went, and all states of the call."""
    run, state = crash.run, crash.state
    events = run.recording.events
    first, last = _call_around(events, state.event)
    grid, states, broken = _grid(crash, first=first, last=last)
    window = run.oracle.window(state)
    found = run.oracle.version_found(state)
    wanted = f"v{window.acknowledged}" + ("" if window.begun == window.acknowledged else f" to v{window.begun}")
    operations, cuts = _until_the_power_went(crash)
    return Crash(
        file=run.oracle.path.removeprefix(f"{ROOT}/"),
        model=state.model.name,
        operations=operations,
        cuts=cuts,
        recovered=_recovered(crash, found),
        wanted=wanted,
        aftermath=() if crash.fault is None else crash.fault.aftermath,
        columns=COLUMNS,
        grid=grid,
        states=states,
        broken=broken,
    )


def _recovered(crash: RecordedCrash, found: int | None) -> str:
    if found is not None:
        return "no file" if crash.run.oracle.versions[found] is None else f"v{found}"
    return crash.violation.text.removeprefix(f"{ROOT}/")


def _call_around(events: tuple[DiskEvent, ...], event: int) -> tuple[int, int]:
    """Where the operation that the loss belongs to begins and ends: it ends with its acknowledgement."""
    acknowledged = [index for index, each in enumerate(events, start=1) if _is_acknowledgement(each)]
    first = max((index for index in acknowledged if index < event), default=0)
    last = min((index for index in acknowledged if index >= event), default=len(events))
    return first, last


def _is_acknowledgement(event: DiskEvent) -> bool:
    return isinstance(event, Marked) and event.label.startswith("ack")


def _until_the_power_went(crash: RecordedCrash) -> tuple[tuple[CrashOperation, ...], tuple[Cut, ...]]:
    """What was done, an earlier power loss and what came before it included, and where it was cut short."""
    operations: list[CrashOperation] = []
    cuts: list[Cut] = []
    for each in (crash.earlier, crash):
        if each is None:
            continue
        before = len(operations)
        if each.fault is not None:
            operations += _fault_operations(each, each.fault)
            cuts.append(cut_of(each.fault))
        else:
            first, _ = _call_around(each.run.recording.events, each.state.event)
            operations += (replace(each, number=each.number + before) for each in _operations(each, first=first))
        lost = tuple(_shown_change(each.run.recording, change) for change in each.state.lost)
        text = "power loss"
        if each is not crash:
            found = _recovered(each, each.run.oracle.version_found(each.state))
            text = f"power loss; recovery finds {found}, called v0 from here on"
        cuts.append(Cut(after=len(operations), kind="power loss", text=text, lost=lost))
    return tuple(operations), tuple(cuts)


def _operations(crash: RecordedCrash, *, first: int) -> Iterator[CrashOperation]:
    run, state = crash.run, crash.state
    lost_by = _lost_by_event(state)
    names = _names(run.recording)
    number = 0
    for index, event in enumerate(run.recording.events[: state.event]):
        if index < first or (isinstance(event, Marked) and event.label.startswith("begin")):
            continue
        number += 1
        persisted, note = _persistence([event], lost_by.get(index, []))
        verb, what = _shown_event(event, names)
        yield CrashOperation(
            number=number, verb=verb, what=what, persisted=persisted, note=note, source=run.places.get(index, "")
        )


def _fault_operations(crash: RecordedCrash, fault: RecordedFault) -> Iterator[CrashOperation]:
    """The calls of an operation of which one failed, as far as they were made before the power went."""
    events, state = crash.run.recording.events, crash.state
    lost_by = _lost_by_event(state)
    calls = {number: call for number, call in shown_calls(fault) if call.events.start < state.event}
    for each in operations_of(fault):
        call = calls.get(each.number)
        if call is None:
            continue
        lost = [change for index in call.events for change in lost_by.get(index, ())]
        persisted, note = _persistence(events[call.events.start : call.events.stop], lost)
        yield replace(each, persisted=persisted, note=each.note or note)
    acknowledged = next((mark for mark in events[: state.event] if _is_acknowledgement(mark)), None)
    if acknowledged is not None:
        verb, what = _shown_event(acknowledged, {})
        number = max(calls, default=0) + 1
        yield CrashOperation(number=number, verb=verb, what=what, persisted="", note="", source="")


def _lost_by_event(state: CrashState) -> dict[int, list[Change]]:
    lost_by: dict[int, list[Change]] = {}
    for change in state.lost:
        lost_by.setdefault(change.event, []).append(change)
    return lost_by


def _persistence(events: Iterable[DiskEvent], lost: Sequence[Change]) -> tuple[Persisted, str]:
    """Whether what a call did was durable when the power went, and why not."""
    if lost:
        return "no", _why_lost(lost)
    if any(not isinstance(event, Marked | Synced | SyncFailed) for event in events):
        return "yes", "on disk"
    return "", ""


def _why_lost(lost: Iterable[Change]) -> str:
    names = any(isinstance(change, NameChange) for change in lost)
    return f"not on disk, {'directory' if names else 'file'} not synced"


def _places_by_step(observation: Observation) -> dict[tuple[int, int], str]:
    return {
        (happening.line.process, happening.line.step): happening.place
        for happening in observation.happenings
        if happening.stack
    }


def _shown_change(recording: Recording, change: Change) -> str:
    """The text of a change, with temporary files called what they are."""
    text = change.text
    for event in recording.events:
        if isinstance(event, Renamed):
            text = text.replace(f"'{event.source_name}'", TEMPORARY).replace(event.source_name, TEMPORARY)
    for serial, name in _names(recording).items():
        text = re.sub(rf"inode {serial}\b", name, text)
    return text


def _names(recording: Recording) -> dict[int, str]:
    """What to call an inode: the first name that it got; a temporary file's name is random and says nothing."""
    names = {serial: name for (_, name), serial in recording.disk.names.items()}
    for event in recording.events:
        if isinstance(event, Created | Linked):
            names.setdefault(event.serial, event.name)
        elif isinstance(event, Renamed):
            names[event.serial] = TEMPORARY
    return names


def _shown_event(event: DiskEvent, names: dict[int, str]) -> tuple[str, str]:
    def name(serial: int) -> str:
        return names.get(serial, "directory")

    if isinstance(event, Created | Linked | Unlinked):
        return {Created: "create", Linked: "link", Unlinked: "unlink"}[type(event)], name(event.serial)
    match event:
        case Written():
            return "write", f"{len(event.content):,} B to {name(event.serial)}"
        case Truncated():
            return "truncate", f"{name(event.serial)} to {event.size:,} B"
        case SyncFailed():
            return "fsync", f"{name(event.serial)}, which fails"
        case Synced():
            return "fsync", f"the directory {names.get(event.serial, '')}".rstrip() if event.directory else name(
                event.serial
            )
        case Renamed():
            return "rename", f"{name(event.serial)} to {event.name}"
        case AttributesChanged():
            return "chmod", f"{name(event.serial)} to {event.mode:o}"
        case Marked():
            return "return", f"acknowledged v{event.label.removeprefix('ack ')}"
    return type(event).__name__.lower(), ""


def _column(lost: Iterable[Change]) -> int:
    content = any(isinstance(change, ContentChange | SizeChange | AttributeChange) for change in lost)
    names = any(isinstance(change, NameChange) for change in lost)
    return content + 2 * names


def _grid(crash: RecordedCrash, *, first: int, last: int) -> tuple[tuple[CrashRow, ...], int, int]:
    """All states of the call, row by moment, column by what is lost; how many are distinct and how many are wrong."""
    run, here = crash.run, crash.state
    rows: list[CrashRow] = []
    distinct: set[object] = set()
    wrong: set[object] = set()
    labels = _labels(crash, first=first, last=last)
    for event in range(first + 1, last + 1):
        done = run.recording.events[event - 1]
        if isinstance(done, Marked) and done.label.startswith("begin"):
            continue
        prefix = Recording(disk=run.recording.disk, events=run.recording.events[:event], owner=run.recording.owner)
        cells: dict[int, list[tuple[str, bool, bool]]] = {}
        for state in crash_states(prefix, here.model, cuts=1, first_event=event):
            key = (state.marks, frozenset(state.tree.items()))
            distinct.add(key)
            broken = crash.judge(state) is not None
            if broken:
                wrong.add(key)
            is_here = event == here.event and tuple(c.text for c in state.lost) == tuple(c.text for c in here.lost)
            found = run.oracle.version_found(state)
            text = "damaged" if found is None else "no file" if run.oracle.versions[found] is None else f"v{found}"
            cells.setdefault(_column(state.lost), []).append((text, broken, is_here))
        rows.append(CrashRow(after=labels[event - 1], cells=tuple(_cell(cells.get(column, [])) for column in range(4))))
    return tuple(rows), len(distinct), len(wrong)


def _labels(crash: RecordedCrash, *, first: int, last: int) -> Mapping[int, str]:
    """Number and verb that an event's operation has in the list of operations, by the event's index."""
    events = crash.run.recording.events
    if crash.fault is not None:
        calls = shown_calls(crash.fault)
        labels = {index: f"{number} {call.verb}" for number, call in calls for index in call.events}
        after = max((number for number, _ in calls), default=0) + 1  # the acknowledgement is no call
        return {index: labels.get(index, f"{after} return") for index in range(first, last)}
    number = 0
    if crash.earlier is not None:
        begun, _ = _call_around(crash.earlier.run.recording.events, crash.earlier.state.event)
        number = sum(1 for _ in _operations(crash.earlier, first=begun))
    names = _names(crash.run.recording)
    found: dict[int, str] = {}
    for index in range(first, last):
        event = events[index]
        number += not (isinstance(event, Marked) and event.label.startswith("begin"))
        found[index] = f"{number} {_shown_event(event, names)[0]}"
    return found


def _cell(states: list[tuple[str, bool, bool]]) -> CrashCell:
    if not states:
        return CrashCell(text="-", allowed="impossible", here=False)
    broken = any(each for _, each, _ in states)
    allowed: Allowed = "broken" if broken else "allowed"
    texts = dict.fromkeys(text for text, each, _ in states if each or not broken)
    return CrashCell(text=", ".join(texts), allowed=allowed, here=any(here for _, _, here in states))
