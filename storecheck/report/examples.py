"""Makes failing examples from counterexamples, by running them again.

Everything an `Example` says is measured here: replays are executed, orderings tried, states of the disk listed. A
counterexample that no longer replays is told as recorded, and says so. Secrets are masked before the example is
returned, so that no format can show them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from storecheck.counterexample import Counterexample, CounterexampleError, import_path, load_as
from storecheck.counterexample import replay as replay_counterexample
from storecheck.explore import Check, Finding, judge
from storecheck.lanes import Line, render
from storecheck.program import ROOT, Program, ProgramError
from storecheck.report import crashes
from storecheck.report.codec import decode, encode
from storecheck.report.crashes import CrashCounterexample, RecordedCrash, RecordedRun
from storecheck.report.document import (
    KIND_NAMES,
    Crash,
    Deciding,
    DecidingPoint,
    Example,
    Kind,
    Race,
    Replays,
    Sequence,
    Shrunk,
    SourceExcerpt,
)
from storecheck.report.looseness import loose_arguments
from storecheck.report.masking import mask, secret_values
from storecheck.report.ordering import Moved, decide
from storecheck.report.orders import SequentialModel, TooManyOrdersError
from storecheck.report.points import Observation, following, observe
from storecheck.report.races import VERBS, file_of, race_of, sources_of, with_loose
from storecheck.report.reproducer import CRASH, RACE, reproducer
from storecheck.report.sequences import ALL, CACHED, is_sequential, sequence_of, with_loose_steps
from storecheck.runner import Runner
from storecheck.schedule import FaultPlan, ReplayDiverged
from storecheck.syscalls import Transform

REPLAYS: Final = 20
"""Replays of each failing example. A schedule that replays 20 times depends on nothing that is not recorded."""

FAILURES_DIRECTORY: Final = ".storecheck/failures"
"""Where the commands of an example look for its files as long as these are not written; see `placed`."""

COUNTEREXAMPLE_FILE: Final = "counterexample.json"
ID_CHARACTERS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of a counterexample beyond itself.

    Attributes:
        promise: id of the promise that it breaks, or empty.
        promise_text: the promise in words, or empty.
        test: pytest node that found it, or empty.
        found: sizes when it was met, before shrinking: points, processes, operations, preemptions.
        shards: those that found it.
    """

    promise: str = ""
    promise_text: str = ""
    test: str = ""
    found: Mapping[str, int] | None = None
    shards: tuple[int, ...] = ()


def transform_of(document: Counterexample | CrashCounterexample) -> Transform | None:
    """What plants the bug that the document names, or None."""
    if document.transform is None:
        return None
    found = import_path(document.transform)
    if document.transform_argument is not None:
        return cast("Callable[[str], Transform]", found)(document.transform_argument)
    return cast("Transform", found)


def load_crash(path: Path) -> CrashCounterexample:
    """Read a crash counterexample.

    Raises:
        CounterexampleError: naming the file and what is wrong.
    """
    return load_as(path, crashes.from_json)


# Races and sequences


def example_of(document: Counterexample, origin: Origin, *, planted: Transform | None = None) -> Example:
    """The failing example that a counterexample is.

    Args:
        document: what to tell.
        origin: where it comes from.
        planted: the planted bug, if the document names none.
    """
    transform = planted or transform_of(document)
    check = None if document.check is None else cast("Check", import_path(document.check))
    try:
        observation = observe(
            document.program,
            chooser=following(document.choices, document.program),
            faults=document.faults,
            transform=transform,
        )
        replays = _replays(document, planted=planted)
    except ReplayDiverged as error:
        return _told_as_recorded(document, origin, f"It no longer replays: {error}.")
    if replays.failed == 0:
        return _told_as_recorded(document, origin, "It no longer fails when it is replayed.")
    return _told(document, origin, observation, check=check, transform=transform, replays=replays)


def reproduce(document: Counterexample) -> Finding | None:
    """What is wrong when a counterexample is run again, or None.

    Code that was mended may wait where the recorded schedule went on. Then the schedule is followed as far as it is
    possible, and that run is judged: a mended bug is no failing replay.

    Raises:
        CounterexampleError: check or transform cannot be imported.
    """
    try:
        return replay_counterexample(document).finding
    except ReplayDiverged:
        check = None if document.check is None else cast("Check", import_path(document.check))
        runner = Runner(document.program, transform=transform_of(document))
        policy = FaultPlan(document.faults) if document.faults else None
        return judge(runner.run(Moved(document.choices), policy=policy), check)


def _replays(document: Counterexample, *, planted: Transform | None) -> Replays:
    failed = 0
    for _ in range(REPLAYS):
        replayed = replay_counterexample(document, planted=planted)
        failed += replayed.same and replayed.finding == document.finding
    return Replays(failed=failed, tried=REPLAYS)


def _told(
    document: Counterexample,
    origin: Origin,
    observation: Observation,
    *,
    check: Check | None,
    transform: Transform | None,
    replays: Replays,
) -> Example:
    model = cast("SequentialModel | None", getattr(check, "model", None))
    file = file_of(observation)
    sequential = is_sequential(observation.execution) and observation.execution.deadlock is None
    decided = None
    if check is not None and not sequential:
        decided = decide(observation, check=check, transform=transform, file=file)
    decisive = decided[1] if decided is not None else ()
    race, numbers = race_of(observation, file=file, decisive=decisive, model=model)
    sequence = sequence_of(observation, file=file, model=model) if sequential else None
    deciding = None if decided is None else _with_numbers(decided[0], numbers)
    sources = sources_of(observation, decisive or _last_looks(observation, file), _unnumbered(observation) | numbers)
    kind: Kind = "sequence" if sequence is not None else "race"
    if check is not None:
        loose = loose_arguments(document.program, _fails_alike(document, check=check, transform=transform))
        race, sequence = with_loose(race, loose), sequence and with_loose_steps(sequence, loose)
    return make_example(
        kind=kind,
        document=document.to_json(),
        environment=environment_of(document.program),
        origin=origin,
        title=sequence_title(sequence) if sequence is not None else _race_title(race, document),
        verdict=sequence_verdict(sequence) if sequence is not None else _race_verdict(race, deciding, document),
        fingerprint=fingerprint_of(origin.promise, kind, _order_of(race, sequence, deciding), sources),
        replays=replays,
        shrunk=_shrunk(origin, observation),
        preemptions=observation.execution.preemptions,
        race=race if sequence is None else None,
        sequence=sequence,
        deciding=deciding,
        sources=() if sequence is not None and not decisive else sources,
        raw="\n".join([document.finding.message, "", *_lanes(document)]),
    )


def _fails_alike(document: Counterexample, *, check: Check, transform: Transform | None) -> Callable[[Program], bool]:
    """Whether another program fails in the same way under the same schedule."""

    def fails(program: Program) -> bool:
        try:
            chooser = following(document.choices, program)
            again = observe(program, chooser=chooser, faults=document.faults, transform=transform, with_places=False)
            found = judge(again.execution, check)
        except (ReplayDiverged, ProgramError, TooManyOrdersError):
            return False
        return found is not None and found.kind == document.finding.kind

    return fails


def _unnumbered(observation: Observation) -> dict[int, int]:
    return {index: happening.line.step for index, happening in enumerate(observation.happenings)}


def _last_looks(observation: Observation, file: str) -> tuple[int, ...]:
    """Without a deciding order: the last call of each process on the file."""
    last = {
        happening.line.process: index
        for index, happening in enumerate(observation.happenings)
        if happening.target == file and happening.stack
    }
    return tuple(last.values())


def _with_numbers(deciding: Deciding, numbers: Mapping[int, int]) -> Deciding:
    points = tuple(
        DecidingPoint(process=point.process, verb=VERBS.get(point.verb, point.verb), number=numbers[point.number])
        for point in deciding.points
    )
    return decode(Deciding, {**encode(deciding), "points": encode(points)})


def _lanes(document: Counterexample) -> list[str]:
    return masked_lanes(document.to_json())


def masked_lanes(document: Mapping[str, Any]) -> list[str]:
    """The lanes of a counterexample in JSON, masked before a secret can be broken in two at the end of a column."""
    masked_document = mask(document)
    trace = [Line.from_json(line, f"trace[{index}]") for index, line in enumerate(masked_document["trace"])]
    return render(trace, processes=len(document["program"]["processes"]))


def _shrunk(origin: Origin, observation: Observation) -> tuple[Shrunk, ...]:
    if origin.found is None:
        return ()
    execution = observation.execution
    now = {
        "points": execution.steps,
        "processes": len(execution.program.processes),
        "operations": execution.program.operations(),
    }
    return tuple(
        Shrunk(what=what, before=origin.found[what], after=after)
        for what, after in now.items()
        if origin.found.get(what, after) != after
    )


def _order_of(race: Race, sequence: Sequence | None, deciding: Deciding | None) -> list[str]:
    """The deciding order without names and numbers of processes: the same for the same cause."""
    if sequence is not None:
        return [step.call.partition("(")[0] for step in sequence.steps]
    letters: dict[int, str] = {}
    points = deciding.points if deciding is not None else ()
    if not points:
        return [point.verb for point in race.points if point.overwrites is not None or point.stale]
    return [f"{letters.setdefault(point.process, 'ABCDEFGH'[len(letters) % 8])} {point.verb}" for point in points]


def fingerprint_of(promise: str, kind: str, order: list[str], sources: tuple[SourceExcerpt, ...]) -> str:
    """Names the cause: promise, deciding order and source lines. Line numbers may move, seeds do not count."""
    lines = sorted({f"{each.path}: {line.text.strip()}" for each in sources for line in each.lines if line.marked})
    text = json.dumps([promise, kind, order, lines])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# Words


def _race_title(race: Race, document: Counterexample) -> str:
    loss = next((point for point in race.points if point.overwrites is not None), None)
    if loss is not None:
        author = race.versions[loss.overwrites or 0].author
        return f"P{loss.process + 1} overwrote {author}'s newer data"
    if document.finding.kind == "deadlock":
        return f"{' and '.join(lane.name for lane in race.lanes)} wait for each other for ever"
    stale = next((point for point in race.points if point.stale), None)
    if stale is not None:
        return f"P{stale.process + 1} went on with v{stale.sees} of {race.file} when v{stale.disk} was there"
    return document.title[:1].upper() + document.title[1:]


def _race_verdict(race: Race, deciding: Deciding | None, document: Counterexample) -> tuple[str, ...]:
    loss = next((point for point in race.points if point.overwrites is not None), None)
    if loss is None:
        return (document.finding.message[:1].upper() + document.finding.message[1:].rstrip(".") + ".",)
    who, built = f"P{loss.process + 1}", _built_from(race, loss.process, loss.number)
    locked = loss.process in loss.held
    author = race.versions[loss.overwrites or 0].author
    sentences = [f"{who} knew `v{built}` when {author} published `v{loss.overwrites}`."]
    check = next((point for point in race.points if point.importance == "check"), None)
    if check is not None and not any(check.process == each for each in check.held):
        sentences[0] = (
            f"{who} looked at the file at point {check.number} **without holding the lock**. "
            f"{author} published `v{loss.overwrites}` in between."
        )
    without = "" if locked else ", **without holding the lock**"
    lost = [row for row in race.fields if row.lost]
    gone = ""
    if lost:
        row = lost[0]
        gone = f", and `{row.field} = {row.expected if row.expected is not None else 'nothing'}` is lost"
        if len(lost) > 1:
            gone += f" with {len(lost) - 1} more"
    sentences.append(f"{who} then renamed a file built from `v{built}` over it{without}{gone}.")
    if deciding is not None and deciding.with_failed == deciding.with_tried:
        sentences.append(f"It fails whenever these {len(deciding.points)} calls come in this order.")
    return tuple(sentences)


def _built_from(race: Race, process: int, before: int) -> int:
    known = [
        point.sees if point.sees is not None else point.publishes
        for point in race.points[: before - 1]
        if point.process == process and (point.sees is not None or point.publishes is not None)
    ]
    return known[-1] if known and known[-1] is not None else 0


def sequence_title(sequence: Sequence) -> str:
    """One sentence about what differs."""
    step = next((step for step in sequence.steps if step.expected is not None), sequence.steps[-1])
    name = step.call.partition("(")[0]
    if not sequence.differences:
        return f"P{step.process + 1}'s {name} went wrong"
    first = sequence.differences[0]
    found, expected = (_short(text) if text is not None else "nothing" for text in (first.found, first.expected))
    field = "" if first.field == ALL else f"{first.field.rpartition('.')[2]} "
    if sequence.about == "returned":
        return f"P{step.process + 1}'s {name} answers {field}{found} instead of {expected}"
    if sequence.about == "work done":
        return f"P{step.process + 1}'s {name} does other work than the model: {field}{found} instead of {expected}"
    return f"After P{step.process + 1}'s {name}, {sequence.about}: {field or 'it '}is {found} instead of {expected}"


def sequence_verdict(sequence: Sequence) -> tuple[str, ...]:
    """Which step, what it did, and whose answer it was."""
    step = next((step for step in sequence.steps if step.expected is not None), sequence.steps[-1])
    first = next(iter(sequence.differences), None)
    told = []
    if first is not None:
        found, expected = (
            _short(text, 120) if text is not None else "nothing" for text in (first.found, first.expected)
        )
        field = "" if first.field == ALL else f"`{first.field}` is "
        more = len(sequence.differences) - 1
        rest = f", and {more} more field{'s differ' if more > 1 else ' differs'}" if more else ""
        what = f"Step {step.number} answers" if sequence.about == "returned" else f"After step {step.number}"
        about = "" if sequence.about == "returned" else f" {sequence.about}:"
        told.append(f"{what}{about} {field}`{found}`; the model says `{expected}`{rest}.")
    if CACHED in step.cache:
        held = step.cache.removeprefix(CACHED).strip(" ,")
        told.append(
            f"This step **did not read the file**{f' ({held})' if held else ''}; the disk holds `v{step.disk}`."
        )
    else:
        told.append(f"The disk holds `v{step.disk}` at that moment.")
    return tuple(told)


def _short(text: str, characters: int = 48) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


# Crashes


def crash_example_of(document: CrashCounterexample, origin: Origin) -> Example:
    """The failing example that a crash counterexample is."""
    transform = transform_of(document)
    failed = 0
    run, state = None, None
    for _ in range(REPLAYS):
        run, state, same = crashes.replay(document, transform=transform)
        failed += same
    assert run is not None
    if state is None:
        raise CounterexampleError(f"{document.title}: the state of the disk that was found is no longer possible")
    recorded = RecordedCrash(
        run=run,
        state=state,
        violation=document.violation,
        call=document.program.processes[0].operations[-1].name,
    )
    return crash_example(
        recorded,
        origin,
        document=document.to_json(),
        environment=environment_of(document.program),
        replays=Replays(failed=failed, tried=REPLAYS),
    )


def crash_example(
    recorded: RecordedCrash,
    origin: Origin,
    *,
    document: Mapping[str, Any],
    environment: Mapping[str, str],
    replays: Replays,
    shrunk: tuple[Shrunk, ...] = (),
    sequence: Sequence | None = None,
    template: str = CRASH,
) -> Example:
    """The failing example that a recorded power loss is."""
    crash = crashes.crash_of(recorded)
    sources = _crash_sources(recorded.run, crash)
    kind = recorded.violation.kind
    order = [kind, *sorted({text.split(" ", maxsplit=1)[0] for text in crash.lost})]
    order.append(crash.operations[-1].verb if crash.operations else "")
    if recorded.fault is not None and recorded.fault.failed.verb == "fsync":
        # Only a sync that fails changes what is durable: after any other call the same loss has the same cause.
        order += ["failing call", "fsync"]
    return make_example(
        kind="crash",
        document=document,
        environment=environment,
        origin=origin,
        title=_crash_title(crash, recorded),
        verdict=_crash_verdict(crash, recorded),
        fingerprint=fingerprint_of(origin.promise, "crash", order, sources),
        replays=replays,
        shrunk=shrunk,
        preemptions=None,
        crash=crash,
        sequence=sequence,
        sources=sources,
        template=template,
        raw=f"{recorded.violation}\n{recorded.state}",
    )


def _crash_sources(run: RecordedRun, crash: Crash) -> tuple[SourceExcerpt, ...]:
    """The line that made the change that was lost, or the last change before the power went."""
    since = crash.cuts[-2].after if len(crash.cuts) > 1 and crash.cuts[-2].kind == "power loss" else 0
    placed = [operation for operation in crash.operations if operation.source and operation.number > since]
    chosen = [operation for operation in placed if operation.persisted == "no"] or placed[-1:]
    by_path: dict[str, dict[int, str]] = {}
    for operation in chosen:
        path, _, line = operation.source.rpartition(":")
        by_path.setdefault(path, {})[int(line)] = f"operation {operation.number}, {operation.verb}"
    return tuple(crashes.excerpt_of(run.sources[path], path, marked) for path, marked in by_path.items())


def _crash_title(crash: Crash, recorded: RecordedCrash) -> str:
    call, violation = recorded.call, recorded.violation
    if recorded.earlier is not None:
        return f"A power loss during the first {call}() after another one leaves {_left_by(crash, recorded)}"
    if recorded.fault is not None:
        verb = recorded.fault.failed.verb
        if violation.kind == "lost acknowledged":
            return f"{call}() returned although {verb} failed, then a power loss undid it"
        return f"After a failing {verb} in {call}() a power loss leaves {_left_by(crash, recorded)}"
    if violation.kind == "lost acknowledged":
        return f"{call}() returned, then a power loss undid it"
    if violation.kind.startswith("corrupt"):
        return f"A power loss during {call}() leaves a damaged {crash.file}"
    if violation.kind == "lost file":
        return f"A power loss takes {crash.file} away"
    if violation.kind == "recovery":
        return f"After a power loss during {call}() the store does not come up"
    return f"A power loss during {call}(): {violation.text}"


def _left_by(crash: Crash, recorded: RecordedCrash) -> str:
    kind = recorded.violation.kind
    if kind.startswith("corrupt"):
        return f"a damaged {crash.file}"
    return f"no {crash.file}" if kind == "lost file" else f"a {crash.file} that it must not"


def _crash_verdict(crash: Crash, recorded: RecordedCrash) -> tuple[str, ...]:
    lost = " and ".join(f"`{each}`" for each in crash.lost) or "nothing"
    why = next((operation.note for operation in crash.operations if operation.persisted == "no"), "")
    reason = f": {why.partition(', ')[2]}" if ", " in why else ""
    found = f"recovery finds `{crash.recovered}`, and it must be `{crash.wanted}`."
    if recorded.violation.kind == "recovery":
        found = f"{recorded.violation.text}."
    elif recorded.violation.kind in ("attributes", "other file"):
        found = f"{recorded.violation.text.removeprefix(f'{ROOT}/')}."
    before = []
    if recorded.earlier is not None:
        first = " and ".join(f"`{each}`" for each in crash.cuts[0].lost) or "nothing"
        before = [f"The first power loss took {first}, and the store came up as it should."]
        reason += ", in the save that followed"
    if recorded.fault is not None:
        failed = recorded.fault.failed
        before = [f"`{failed.verb}` failed: `{crash.cuts[0].text}`. The operation {recorded.fault.ended}."]
    return (
        *before,
        f"Lost when the power went{' for the second time' if recorded.earlier is not None else ''}: {lost}{reason}.",
        f"Of the {crash.states} disk states that a power loss in this call can leave under {crash.model}, "
        f"**{crash.broken} break{'s' if crash.broken == 1 else ''} the promise**: {found}",
    )


# Both


def make_example(
    *,
    kind: Kind,
    document: Mapping[str, Any],
    environment: Mapping[str, str],
    origin: Origin,
    title: str,
    verdict: tuple[str, ...],
    fingerprint: str,
    replays: Replays | None,
    shrunk: tuple[Shrunk, ...],
    preemptions: int | None,
    raw: str,
    race: Race | None = None,
    sequence: Sequence | None = None,
    crash: Crash | None = None,
    deciding: Deciding | None = None,
    sources: tuple[SourceExcerpt, ...] = (),
    template: str = RACE,
) -> Example:
    """An example with everything that all kinds have in common, masked."""
    identifier = f"{'seq' if kind == 'sequence' else kind}-{fingerprint[:ID_CHARACTERS]}"
    replay, run_as_test = _commands(identifier, Path(FAILURES_DIRECTORY, identifier))
    example = Example(
        id=identifier,
        kind=kind,
        promise=origin.promise,
        promise_text=origin.promise_text,
        title=title,
        verdict=verdict,
        test=origin.test,
        fingerprint=fingerprint,
        replay=replay,
        run_as_test=run_as_test,
        replays=replays,
        shrunk=shrunk,
        preemptions=preemptions,
        first_seen="",
        shards=origin.shards,
        race=race,
        sequence=sequence,
        crash=crash,
        deciding=deciding,
        sources=sources,
        environment=environment,
        # Masked while it is no text yet: so base64 is looked into.
        inputs=json.dumps(mask({k: v for k, v in document.items() if k != "trace"}), indent=1, ensure_ascii=False),
        reproducer=reproducer(
            template=template,
            identifier=identifier,
            kind=KIND_NAMES[kind],
            title=title,
            promise=origin.promise_text,
        ),
        raw=raw,
    )
    return masked(example, document)


def masked(example: Example, document: Mapping[str, Any] | None = None) -> Example:
    """The example with everything masked that looks like a secret, here or in the document it was made from."""
    secrets = secret_values(document) if document is not None else set()
    return decode(Example, mask(encode(example), secrets=secrets))


def environment_of(program: Program) -> dict[str, str]:
    """What the run depended on, in words."""
    machine = program.machine
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Machine": "simulated",
        "Time stamps": f"{machine.stamp_granularity_ns:,} ns apart at best",
        "Inode numbers": "the lowest free one is used again" if machine.inode_reuse == "lowest" else "never used again",
        "Adapter": program.adapter,
    } | {f"Parameter {name}": str(value) for name, value in program.parameters.items()}


def _told_as_recorded(document: Counterexample, origin: Origin, why: str) -> Example:
    return make_example(
        kind="test",
        document=document.to_json(),
        environment=environment_of(document.program),
        origin=origin,
        title=document.title[:1].upper() + document.title[1:],
        verdict=(f"{document.finding.message.rstrip('.')}.", f"**{why}** What follows is what was recorded."),
        fingerprint=fingerprint_of(origin.promise, "test", [document.finding.message], ()),
        replays=Replays(failed=0, tried=REPLAYS),
        shrunk=(),
        preemptions=None,
        raw="\n".join(_lanes(document)),
    )


def write_failure(example: Example, document: Mapping[str, Any], directory: Path) -> Path:
    """Put counterexample and test of a failure into `directory`/<id>; returns that directory, for `placed`.

    Lone surrogates, which a text may have and UTF-8 has not, are written as escapes: JSON and Python read them back.
    The document is written as it is: see `placeholders.without_secrets`.
    """
    target = directory / example.id
    target.mkdir(parents=True, exist_ok=True)
    texts = {
        COUNTEREXAMPLE_FILE: json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        _test_file(example.id): example.reproducer,
    }
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    return target


def discard_failure(example: Example, directory: Path) -> None:
    """Remove what an earlier run wrote for the same failure."""
    for name in (COUNTEREXAMPLE_FILE, _test_file(example.id)):
        (directory / example.id / name).unlink(missing_ok=True)


def placed(example: Example, target: Path) -> Example:
    """The example with the commands that replay its files in the directory `target`, for use where we are now.

    Below the current directory the path is relative, so that it is the same on another machine.
    """
    target = target.resolve()
    here = Path.cwd().resolve()
    shown = target.relative_to(here) if target.is_relative_to(here) else target
    replay, run_as_test = _commands(example.id, shown)
    return replace(example, replay=replay, run_as_test=run_as_test)


def _commands(identifier: str, directory: Path) -> tuple[str, str]:
    """Replay and run as test, for a shell."""
    counterexample, test = (directory / COUNTEREXAMPLE_FILE, directory / _test_file(identifier))
    return f"storecheck replay {shlex.quote(str(counterexample))}", f"pytest {shlex.quote(str(test))}"


def _test_file(identifier: str) -> str:
    return f"test_{identifier.replace('-', '_')}.py"
