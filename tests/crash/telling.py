"""Writes down what a crash test does, and does it again for the report: histories, power losses, one line each.

Two tests are told: the checks of all crash states of a `Scenario` (`hold`), and the state machine in which the power
may go at any time (`PowerLossHistory`). `play` does the lines of either again, simulated and without Hypothesis.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from models.crashes import (
    FILE,
    STRAY_SUFFIX,
    Recovery,
    Scenario,
    Step,
    content_at,
    entry_of,
    expected_sessions,
    key_of,
    record_scenario,
    store_process,
)
from models.mutants import active_transform
from storecheck.crash import (
    MODELS,
    CrashState,
    Disk,
    Entry,
    Oracle,
    PersistenceModel,
    Recording,
    SerialProcess,
    TooManyStatesError,
    Violation,
    crash_states,
    machine_with,
    record,
)
from storecheck.crash.recording import BOOT_TAKES_NS
from storecheck.crash.recovery import CrashReport
from storecheck.machine import MOUNT, Machine, MachineParameters, Process
from storecheck.machine.events import Marked
from storecheck.program import Program
from storecheck.report import document
from storecheck.report.calls import Call, CallError, spell, understand
from storecheck.report.crashes import CrashCounterexample, RecordedCrash, RecordedRun
from storecheck.report.points import Places
from storecheck.report.sequences import changes, differences
from storecheck.report.told import Told, ToldFinding, attach

PLAYER = "tests.crash.telling:play"
NAMES: Mapping[str, Callable[..., Any]] = {"Entry": Entry, "Step": Step, "MachineParameters": MachineParameters}
"""What may stand in a line."""

LATEST_STATES = 64
"""States that a loss is drawn from, the latest of the run first: what is lost early was looked at before."""

_RANDOM = re.compile(r"[0-9a-f]{16}")


def model_named(name: str) -> PersistenceModel:
    """The model of that name.

    Raises:
        CallError: there is none.
    """
    found = next((model for model in MODELS if model.name == name), None)
    if found is None:
        raise CallError(f"no model of a file system is called {name!r}")
    return found


# Watching


class _Watching:
    """A process whose calls are noted by what they did to the disk: which line of the store did it."""

    def __init__(self, process: SerialProcess) -> None:
        self._process = process
        self._places = Places(active_transform())
        self.modules = process.modules
        self.by_event: dict[int, str] = {}
        self.sources = self._places.sources

    def run(self, machine: Machine, body: Callable[[Process], Any]) -> Any:
        """As `SerialProcess.run`."""
        return self._process.run(machine, body, enter=_notice_all, recorder=self)

    def call_ended(self, *, context: Any, **_told: object) -> None:
        """After every call."""
        trace = context.machine.trace or []
        if len(trace) - 1 not in self.by_event and trace:
            stack = self._places.stack(sys._getframe(1))
            first = max(self.by_event, default=-1) + 1
            for index in range(first, len(trace)):
                self.by_event[index] = str(stack[-1]) if stack else ""

    def begin(self) -> None:
        """A new trace begins."""
        self.by_event.clear()

    def run_of(self, recording: Recording, oracle: Oracle) -> RecordedRun:
        """What was recorded, with the lines."""
        places = {index: place for index, place in self.by_event.items() if place}
        return RecordedRun(recording=recording, oracle=oracle, places=places, sources=self.sources)


def _notice_all(_name: str, _arguments: tuple[object, ...] = ()) -> object:
    """The recorder wants to know of every call."""
    return True


# Scenarios


def hold(report: CrashReport, scenario: Scenario, oracle: Oracle) -> None:
    """Fail if a state of a scenario is one that no store may be left in, and carry the first into the report.

    Raises:
        AssertionError: with a counterexample attached.
    """
    if report.failures:
        error = AssertionError(str(report))
        failure = report.failures[0]
        begun = oracle.window(failure.state).begun
        lines = _scenario_lines(scenario, failure.state, steps=max(begun, 1))
        attach(error, player=PLAYER, lines=lines, title=str(failure.violation))
        raise error


def hold_schedule(report: CrashReport, program: Program, choices: tuple[int, ...], *, file: str) -> None:
    """The same for a schedule of several writers.

    Raises:
        AssertionError: with a counterexample attached.
    """
    if report.failures:
        error: Any = AssertionError(f"{report}\nschedule {choices}")
        failure = report.failures[0]
        error.counterexample = CrashCounterexample(
            title=failure.violation.text,
            program=program,
            choices=choices,
            file=file,
            model=failure.state.model.name,
            event=failure.state.event,
            lost=tuple(change.text for change in failure.state.lost),
            violation=failure.violation,
        )
        raise error


def _scenario_lines(scenario: Scenario, state: CrashState, *, steps: int) -> Iterator[str]:
    """The steps up to the one that the loss belongs to, and the loss."""
    options: dict[str, Any] = {"given": scenario.given, "settings": dict(scenario.settings)}
    if scenario.parameters != MachineParameters():
        options["parameters"] = scenario.parameters
    yield spell("disk", dict(scenario.tree), scenario.file, **{name: value for name, value in options.items() if value})
    left = steps
    for process in scenario.processes:
        if left > 0:
            yield spell("process")
        for step in process[: max(left, 0)]:
            yield spell("do", step)
        left -= len(process)
    yield spell("power_loss", state.model.name, event=state.event, lost=lost_in(state))


def hold_recovery(report: CrashReport, first: CrashState, *, scenario: Scenario, oracle: Oracle) -> None:
    """Fail because a second power loss, during the first save after the `first`, leaves what no store may be left in.

    Raises:
        AssertionError: with a counterexample attached.
    """
    if report.failures:
        error = AssertionError(str(report))
        failure = report.failures[0]
        lines = list(_scenario_lines(scenario, first, steps=max(oracle.window(first).begun, 1)))
        lines.append(
            spell("second_loss", failure.state.model.name, event=failure.state.event, lost=lost_in(failure.state))
        )
        attach(error, player=PLAYER, lines=lines, title=str(failure.violation), promise="WRITE3")
        raise error


def recovery_after(scenario: Scenario, state: CrashState, process: SerialProcess) -> tuple[Recording, Oracle]:
    """The first save after a power loss, and what must be found if the power goes again during it.

    Raises:
        AssertionError: the store does not come up.
    """
    entry = state.tree.get(scenario.file)
    recovery = Recovery(scenario, process)
    machine = machine_with(state.tree)
    machine.monotonic_ns += BOOT_TAKES_NS
    problems: list[str | None] = []
    recording = record(machine, lambda: problems.append(recovery.recover(machine, entry)))
    assert problems == [None]
    before = None if entry is None else entry.content
    after = machine.files()[scenario.file]
    # The recovery makes no marks: until it is over, the version before is as good as the version after.
    oracle = Oracle(path=scenario.file, versions=[before, after], marks=["begin 1"])
    begun = Marked(step=0, process=0, label="begin 1")
    return Recording(disk=recording.disk, events=(begun, *recording.events)), oracle


def _second_crash(scenario: Scenario, first: RecordedCrash, call: Call) -> RecordedCrash | None:
    """The second power loss that a line names, if it is still possible and still wrong."""
    watching = _Watching(store_process())
    recording, oracle = recovery_after(scenario, first.state, cast("SerialProcess", watching))
    places = {index + 1: place for index, place in watching.by_event.items() if place}  # after the mark
    run = RecordedRun(recording=recording, oracle=oracle, places=places, sources=watching.sources)
    state = _state_in(run, call)
    violation = None if state is None else oracle.judge(state)
    if state is None or violation is None:
        return None
    return RecordedCrash(run=run, state=state, violation=violation, call="update", earlier=first)


def _state_in(run: RecordedRun, call: Call) -> CrashState | None:
    """The state that a line names, if it is still possible."""
    for state in states_under(run.recording, model_named(str(call.arguments[0]))):
        if state.event == call.keywords["event"] and lost_in(state) == call.keywords["lost"]:
            return state
    return None


def _play_scenario(lines: Sequence[str], understood: Sequence[Call]) -> Told:
    tree, file = cast("tuple[dict[str, Entry], str]", understood[0].arguments)
    processes: list[tuple[Step, ...]] = []
    losses = [call for call in understood if call.name in ("power_loss", "second_loss")]
    for call in understood[1 : -len(losses)]:
        if call.name == "process":
            processes.append(())
        else:
            processes[-1] += cast("tuple[Step, ...]", call.arguments)
    options: dict[str, Any] = dict(understood[0].keywords)
    scenario = Scenario(name="told", processes=tuple(processes), tree=tree, file=file, **options)
    watching = _Watching(store_process())
    recording, oracle = record_scenario(scenario, cast("SerialProcess", watching))
    run = watching.run_of(recording, oracle)
    crash = _crash_in(run, losses[0], Recovery(scenario, store_process()), judged=len(losses) == 1)
    begun = 0 if crash is None else oracle.window(crash.state).begun
    if crash is not None and len(losses) > 1:
        crash = _second_crash(scenario, crash, losses[1])
    if crash is None:
        return Told(file=file, steps=(), finding=None)
    kinds = [step.kind for process in processes for step in process]
    shown = [(number, line) for number, line in enumerate(lines) if line.startswith("do(")]
    return Told(
        file=file,
        steps=tuple(
            _step(number, oracle.versions[at], oracle.versions[at + 1], at=at + 1, line=line, process=who)
            for at, ((number, line), who) in enumerate(zip(shown, _owners(processes), strict=True))
        ),
        finding=ToldFinding(about=crash.violation.kind, message=f"{crash.violation}\n{crash.state}"),
        environment=_environment(crash.state),
        crash=crash if crash.earlier is not None else replace(crash, call=kinds[max(begun, 1) - 1]),
    )


def _owners(processes: Sequence[Sequence[Step]]) -> Iterator[int]:
    for number, process in enumerate(processes):
        for _ in process:
            yield number


def _crash_in(run: RecordedRun, call: Call, recovery: Recovery, *, judged: bool) -> RecordedCrash | None:
    """The state that a line names, if it is still possible and, where that is `judged`, still wrong."""

    def recover(state: CrashState) -> str | None:
        found = run.oracle.version_found(state)
        return None if found is None else recovery(state, found)

    state = _state_in(run, call)
    if state is None:
        return None
    nothing = Violation("recovery", "")
    recorded = RecordedCrash(run=run, state=state, violation=nothing, call="", recover=recover)
    violation = recorded.judge(state) if judged else nothing
    return None if violation is None else replace(recorded, violation=violation)


def lost_in(state: CrashState) -> tuple[str, ...]:
    """What a state has lost, in words that are the same in every run: random parts of names are left out."""
    return tuple(_RANDOM.sub("*", change.text) for change in state.lost)


def states_under(recording: Recording, model: PersistenceModel) -> Iterator[CrashState]:
    """Those with few changes lost by choice first; all legal ones last, unless they are too many."""
    for cuts in (1, 2, None):
        with contextlib.suppress(TooManyStatesError):
            yield from crash_states(recording, model, cuts=cuts)


def _step(number: int, before: bytes | None, after: bytes | None, *, at: int, line: str, process: int) -> document.Step:
    made = before != after
    return document.Step(
        number=number,
        process=process,
        call=line,
        loose=(),
        model=changes(_sessions(before), _sessions(after)),
        disk=at,
        disk_changed=made,
        disk_bytes=None if after is None else len(after),
        returned="",
        expected=None,
        cache="",
    )


def _sessions(content: bytes | None) -> Any:
    found = expected_sessions(None if content is None else Entry("file", content))
    return "corrupt" if found is None else found


def _environment(state: CrashState) -> dict[str, str]:
    return {"Machine": "simulated", "File system": state.model.name}


# The state machine


@dataclass(slots=True)
class PowerLossHistory:
    """One store file, any number of processes one after the other, any number of power losses; each call is kept.

    The model is what every acknowledged call has made of the sessions.

    Attributes:
        process: runs the store.
        lines: what was done.
        crash: the loss that broke a promise.
    """

    process: SerialProcess = field(default_factory=store_process)
    lines: list[str] = field(default_factory=list)
    crash: RecordedCrash | None = None
    path: str = FILE
    cuts: int = 1
    generation: int = 0
    sessions: dict[str, Any] = field(default_factory=dict)
    machine: Machine = field(init=False)
    disk: Disk = field(init=False)
    versions: list[bytes | None] = field(init=False)

    def __post_init__(self) -> None:
        self._boot(Machine())

    def _boot(self, machine: Machine) -> None:
        machine.monotonic_ns += BOOT_TAKES_NS
        self.machine = machine
        self.disk = Disk.of(machine)
        self.versions = [content_at(machine, self.path)]
        machine.trace = []
        if isinstance(self.process, _Watching):
            self.process.begin()

    def _run(self, operation: Callable[[Any], Any]) -> Any:
        """Let a fresh process do something; it is a version of its own, begun and acknowledged."""

        def act(kernel_process: Process) -> Any:
            number = len(self.versions)
            store = self.process.modules["sessionstore"].SessionStore(f"{MOUNT}/{self.path}")
            self.machine.mark(kernel_process, f"begin {number}")
            result = operation(store)
            self.machine.mark(kernel_process, f"ack {number}")
            self.versions.append(content_at(self.machine, self.path))
            return result

        return self.process.run(self.machine, act)

    # Calls

    def begin(self, path: str, sessions: int, *, cuts: int = 1) -> None:
        """The file's path, what is in it, and how many changes a loss of power loses by choice at most."""
        self.lines.append(spell("begin", path, sessions, cuts=cuts))
        self.path, self.cuts = path, cuts
        self._boot(self.machine)
        if sessions:
            self.sessions = {key_of(number): entry_of(0, 3_000) for number in range(sessions)}
            self._run(lambda store: store.save(self.sessions))

    def update(self, number: int, size_bytes: int) -> None:
        """Write one entry."""
        self.lines.append(spell("update", number, size_bytes))
        self.generation += 1
        entry = entry_of(self.generation, size_bytes)
        self._run(lambda store: store.update(lambda draft: draft.__setitem__(key_of(number), entry)))
        self.sessions = self.sessions | {key_of(number): entry}

    def remove(self, number: int) -> None:
        """Remove one entry."""
        self.lines.append(spell("remove", number))
        self._run(lambda store: store.update(lambda draft: draft.pop(key_of(number), None)))
        self.sessions = {key: entry for key, entry in self.sessions.items() if key != key_of(number)}

    def save(self, count: int) -> None:
        """Replace everything."""
        self.lines.append(spell("save", count))
        self.generation += 1
        sessions = {key_of(number): entry_of(self.generation, 3_000) for number in range(count)}
        self._run(lambda store: store.save(sessions))
        self.sessions = sessions

    def load(self) -> None:
        """Read everything."""
        self.lines.append(spell("load"))
        found = self._run(lambda store: {key: dict(entry) for key, entry in store.load().items()})
        assert found == self.sessions

    def sweep(self) -> None:
        """A save removes what crashes have left."""
        self.lines.append(spell("sweep"))
        self.generation += 1
        entry = entry_of(self.generation, 0)
        self._run(lambda store: store.update(lambda draft: draft.__setitem__(key_of(0), entry)))
        self.sessions = self.sessions | {key_of(0): entry}
        assert [path for path, _ in self.machine.walk() if path.endswith(STRAY_SUFFIX)] == []

    def lose_power(self, model: str, choose: Callable[[int], int]) -> None:
        """Everything was acknowledged, so nothing of it may be lost, wherever the cuts are."""
        state, oracle = self._lose(model, choose, "lose_power", first_event=len(self.machine.trace or []))
        found = self._found(state, oracle)
        if found != self.sessions:
            self._fail(state, oracle, "acknowledged content was lost")

    def lose_power_during_a_save(self, model: str, size_bytes: int, choose: Callable[[int], int]) -> None:
        """The save is not acknowledged: its content or the content before, and no third."""
        before, begun_at = self.sessions, len(self.machine.trace or [])
        self.generation += 1
        after = before | {key_of(1): entry_of(self.generation, size_bytes)}
        self._run(lambda store: store.save(after))
        state, oracle = self._lose(model, choose, "lose_power_during_a_save", size_bytes, first_event=begun_at)
        found = self._found(state, oracle)
        if found not in (before, after):
            self._fail(state, oracle, "neither the old nor the new content")
        self.sessions = before if found == before else after

    def _lose(
        self, model: str, choose: Callable[[int], int], name: str, *told: object, first_event: int
    ) -> tuple[CrashState, Oracle]:
        recording = Recording(disk=self.disk, events=tuple(self.machine.trace or []))
        possible = crash_states(recording, model_named(model), cuts=self.cuts, first_event=first_event)
        states = list(possible)[-LATEST_STATES:]
        chosen = choose(len(states))
        self.lines.append(spell(name, model, *told, chosen))
        # Counted from the end: shrinks to the latest crash with the fewest cuts.
        state = states[len(states) - 1 - chosen]
        oracle = Oracle(path=self.path, versions=list(self.versions), marks=recording.marks())
        if isinstance(self.process, _Watching):
            self.crash = RecordedCrash(
                run=self.process.run_of(recording, oracle), state=state, violation=Violation("recovery", ""), call=""
            )
        self._boot(machine_with(state.tree))
        return state, oracle

    def _found(self, state: CrashState, oracle: Oracle) -> dict[str, Any]:
        content = content_at(self.machine, self.path)
        found = expected_sessions(None if content is None else Entry("file", content))
        if found is None:
            self._fail(state, oracle, f"corrupt after the power loss: {content!r:.80}")
        return found  # type: ignore[return-value]

    def _fail(self, state: CrashState, oracle: Oracle, what: str) -> None:
        violation = oracle.judge(state) or Violation("lost acknowledged", what)
        if self.crash is not None:
            self.crash = replace(self.crash, violation=violation)
        raise AssertionError(f"{what}: {state}")

    def check(self) -> None:
        """The file is what was acknowledged."""
        content = content_at(self.machine, self.path)
        assert (json.loads(content) if content else {}) == self.sessions


def _play_history(lines: Sequence[str], understood: Sequence[Call]) -> Told:
    history = PowerLossHistory(process=cast("SerialProcess", _Watching(store_process())))
    steps: list[document.Step] = []
    finding = None
    last = ""
    for number, (line, call) in enumerate(zip(lines, understood, strict=True), start=1):
        before, sessions = content_at(history.machine, history.path), history.sessions
        try:
            _do(history, call)
            history.check()
        except AssertionError as error:
            finding = ToldFinding(about=str(error).partition(":")[0], message=str(error))
        after = content_at(history.machine, history.path)
        step = _step(number, before, after, at=len(history.versions) - 1, line=line, process=number - 1)
        steps.append(replace(step, model=changes(sessions, history.sessions)))
        if finding is not None:
            break
        last = call.name
    crash = history.crash if finding is not None and understood[len(steps) - 1].name.startswith("lose_power") else None
    name = "save" if understood[len(steps) - 1].name.endswith("a_save") else last
    if finding is not None and crash is None:
        told = tuple(differences(history.sessions, _sessions(content_at(history.machine, history.path))))
        finding = replace(finding, differences=told)
    return Told(
        file=history.path,
        steps=tuple(steps),
        finding=finding,
        environment={"Machine": "simulated"} if crash is None else _environment(crash.state),
        crash=None if crash is None else replace(crash, call=name),
    )


def _do(history: PowerLossHistory, call: Call) -> None:
    arguments = cast("tuple[Any, ...]", call.arguments)
    if call.name == "lose_power":
        history.lose_power(arguments[0], lambda _count: arguments[1])
    elif call.name == "lose_power_during_a_save":
        history.lose_power_during_a_save(arguments[0], arguments[1], lambda _count: arguments[2])
    elif call.name in ("begin", "update", "remove", "save", "load", "sweep"):
        getattr(history, call.name)(*arguments, **call.keywords)
    else:
        raise CallError(f"{call.name!r} is nothing that a history can do")


def play(lines: Sequence[str]) -> Told:
    """Do the calls of a crash test again.

    Raises:
        CallError: a line is not understood.
    """
    understood = [understand(line, NAMES) for line in lines]
    if not understood or understood[0].name not in ("disk", "begin"):
        raise CallError("the first call says what is on the disk")
    return (_play_scenario if understood[0].name == "disk" else _play_history)(lines, understood)
