"""Examines any store against the promises of `protocol.PROMISES`: searched in simulation, confirmed by real processes.

Each promise has small programs, whose schedules (and kills, and failing calls) are searched; a failure is minimised and
replayed call by call on a real disk, and only then is the promise called broken by a confirmed counterexample. Stores
that do their input and output in C are raced by real processes instead, which can break a promise and cannot keep
it: the report says which of the two was done. For power loss see `power`: all stores can be examined for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from storecheck.counterexample import Counterexample, from_failure
from storecheck.crash import MODELS
from storecheck.explore import Exploration, explore
from storecheck.history import History
from storecheck.linearizability import UndecidedError
from storecheck.machine import MachineParameters
from storecheck.peers.contract import (
    CHECK_PATH,
    FIRST,
    SESSIONS,
    first_files,
    in_terms_of_sessions,
    judge_history,
    keeps_contract,
    unexpected_error,
)
from storecheck.peers.failing_calls import failing_calls
from storecheck.peers.power import VERSIONS, NotExaminedError, PowerLoss, examine_power
from storecheck.peers.protocol import PROMISES, PromiseName, adapter_promises
from storecheck.processes import Confirmation, Race, RaceResult, Team, by_position, confirm, run_race
from storecheck.program import Json, Operation, ProcessProgram, Program, ProgramError, at_path, process
from storecheck.runner import NoEvidence
from storecheck.schedule import Fault, PreemptionBounded
from storecheck.schedule.remembering import NotDeterministic
from storecheck.syscalls import NotSimulated

Outcome = Literal["kept", "BROKEN", "not examined"]

PREEMPTIONS: Final = 2
SEARCH_EXECUTIONS: Final = 1_500
"""Schedules for each program: some seconds; the report says if that was all of them within the bound."""

RACES: Final = 3
RACERS: Final = 4
RACE_KILLS: Final = 4
RACE_OPERATIONS: Final = 40
"""Updates of each process: enough that even a fast store's processes meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the examination says of one promise of one store.

    Attributes:
        promise: of `PROMISES`.
        promised: whether the store says so of itself.
        outcome: kept as far as was looked, broken, or not examined.
        evidence: how far was looked, or what broke.
        counterexample: the minimal schedule that breaks it, or None: from a race there is none.
        confirmation: what real processes say of it.
        power: the disk that a power loss may leave on which the store has lost something, or None.
    """

    promise: PromiseName
    promised: bool
    outcome: Outcome
    evidence: str
    counterexample: Counterexample | None = None
    confirmation: Confirmation | None = None
    power: PowerLoss | None = None

    @property
    def is_doubtful(self) -> bool:
        """Whether real processes were asked, and did not do what the simulation says."""
        if self.power is not None:
            return self.power.confirmed is False
        return self.confirmation is not None and not self.confirmation.confirmed


def update(process_number: int, number: int = 0, *, session: str = SESSIONS[0]) -> Operation:
    """The operation by which a process writes a version of its own."""
    return Operation("update", {"session": session, "version": f"P{process_number}.{number}"})


LOAD: Final = Operation("load")


def _programs(promise: PromiseName, *, alone: bool) -> Iterator[tuple[tuple[ProcessProgram, ...], int]]:
    """(processes, kills) of each program that is searched for a promise.

    `alone`: only one process writes, because the store does not say that several may.
    """
    if promise == "updates":
        yield (process(update(1)), process(update(2))), 0
        yield (process(update(1)), process(update(2, session=SESSIONS[1]))), 0
    elif promise == "reads":
        yield (process(update(1)), process(LOAD)), 0
    elif promise == "kills":
        yield (process(update(1)),), 1
        if not alone:
            yield (process(update(1)), process(update(2, session=SESSIONS[1]))), 1


def examine(path: str, *, promises: Collection[str] = tuple(PROMISES)) -> list[Finding]:
    """What becomes of the promises, all if left out, with the store of the adapter at an import path.

    Raises:
        ImportError: the adapter, or what it needs, is not there.
    """
    factory = at_path(path)
    promised = adapter_promises(factory)
    reason = getattr(factory, "not_simulated", "")
    findings = []
    for promise in (each.name for each in PROMISES.values() if each.name in promises):
        if promise == "power":
            finding = _by_states(path, simulated=not reason)
        elif reason:
            finding = _by_race(path, promise, reason)
        else:
            finding = _by_search(path, promise)
        findings.append(replace(finding, promised=promise in promised))
    return findings


# Searched


def _by_search(path: str, promise: PromiseName) -> Finding:
    try:
        return _by_failures(path) if promise == "errors" else _by_schedules(path, promise)
    except (NoEvidence, NotDeterministic, ProgramError) as error:
        return _by_race(path, promise, f"it cannot be simulated: {error}")
    except UndecidedError as error:
        return _not_examined(promise, str(error))


def _by_schedules(path: str, promise: PromiseName) -> Finding:
    searched: list[str] = []
    alone = "updates" not in adapter_promises(at_path(path))
    for processes, kills in _programs(promise, alone=alone):
        # A kill can meet every call: with it, fewer preemptions are searched to the end.
        strategy = PreemptionBounded(1 if kills else PREEMPTIONS)
        result = _explore(_program(path, *processes, kills=kills), strategy)
        if result.failure is not None:
            return _broken(promise, result)
        if result.cut_runs == result.executions:
            return _not_examined(promise, f"no run came to its end: {result.verdict}")
        searched.append(str(result.verdict))
    return Finding(promise=promise, promised=False, outcome="kept", evidence="; ".join(searched))


def _by_failures(path: str) -> Finding:
    program = _program(path, process(update(1)))
    planned = failing_calls(program)
    if not planned.failures:
        return _not_examined("errors", "an update makes no call that can fail")
    for name, fault in planned.failures:
        result = _explore(program, PreemptionBounded(0), faults=(fault,))
        if result.failure is not None:
            return _broken("errors", result)
        if result.cut_runs:
            why = f"after {fault.error} of {name} (call {fault.call}) it did not end: {result.verdict}"
            return _not_examined("errors", why)
    return Finding(promise="errors", promised=False, outcome="kept", evidence=str(planned))


def _program(path: str, *processes: ProcessProgram, kills: int = 0) -> Program:
    return Program(adapter=path, files=first_files(path), processes=processes, kills=kills, machine=MACHINE)


def _not_examined(promise: PromiseName, why: str) -> Finding:
    return Finding(promise=promise, promised=False, outcome="not examined", evidence=why)


MACHINE: Final = MachineParameters(time_choice="none")
"""Time passes only when nobody can run: pollers are then searched without their idle rounds."""


def _explore(program: Program, strategy: PreemptionBounded, *, faults: tuple[Fault, ...] = ()) -> Exploration:
    return explore(program, strategy=strategy, check=keeps_contract, faults=faults, max_executions=SEARCH_EXECUTIONS)


def _broken(promise: PromiseName, result: Exploration) -> Finding:
    failure = result.failure
    assert failure is not None
    document = from_failure(
        failure, title=f"{promise}: {failure.finding.message}", verdict=str(result.verdict), check=CHECK_PATH
    )
    return Finding(
        promise=promise,
        promised=False,
        outcome="BROKEN",
        evidence=failure.finding.message,
        counterexample=document,
        confirmation=confirm(document),
    )


# Raced


def workload(worker: int, thread: int, seed: int) -> Iterable[Operation]:
    """Updates of two sessions that all processes share, and loads between them."""
    for number in range(RACE_OPERATIONS):
        yield update(worker, seed * 100 + thread * 50 + number, session=SESSIONS[number % 2])
        if number % 3 == 0:
            yield LOAD


def loads(worker: int, thread: int, seed: int) -> Iterable[Operation]:  # noqa: ARG001 - as `Workload` has it
    """A reader's operations."""
    return [LOAD] * RACE_OPERATIONS


def lone_workload(worker: int, thread: int, seed: int) -> Iterable[Operation]:
    """As many updates by one process as `RACERS` make together."""
    for number in range(RACERS):
        yield from workload(worker, thread + number, seed)


def _race(path: str, promise: PromiseName, seed: int) -> Race:
    """Several writers; but one beside readers, and one at a time to be killed if nobody says that several may write."""
    kills = RACE_KILLS if promise == "kills" else 0
    writers = Team(adapter=path, workload=f"{__name__}:workload", workers=RACERS)
    teams: tuple[Team, ...] = (writers,)
    if promise == "reads":
        readers = Team(adapter=path, workload=f"{__name__}:loads", workers=RACERS - 1)
        teams = (replace(writers, workers=1), readers)
    elif promise == "kills" and "updates" not in adapter_promises(at_path(path)):
        teams = (replace(writers, workload=f"{__name__}:lone_workload", workers=1),)
    return Race(teams=teams, files=first_files(path), kills=kills, seed=seed)


def _by_race(path: str, promise: PromiseName, reason: str) -> Finding:
    if promise == "errors":
        return _not_examined(promise, f"{reason}: its calls cannot be made to fail here")
    operations = met = killed = 0
    undecided = ""
    for seed in range(RACES):
        race = _race(path, promise, seed)
        result = run_race(race)
        operations += len(result.history.operations)
        met += result.met["overlaps"]
        killed += result.met["kills"]
        try:
            if promise == "reads":
                result = replace(result, history=_answered_right(result.history))
            problem = _wrong_with(result, path)
        except UndecidedError as error:
            undecided = f"race {seed + 1} of real processes ({reason}): {error}"
            continue
        if problem and (promise != "reads" or _is_of_a_reader(problem)):
            evidence = f"race {seed + 1} of real processes ({reason}): {problem}"
            return Finding(promise=promise, promised=False, outcome="BROKEN", evidence=evidence)
    if undecided:
        return _not_examined(promise, undecided)
    evidence = f"raced only ({reason}): {RACES} races, {operations} operations, {met} of them overlapping"
    evidence += f", {killed} kills" if race.kills else ""
    # A race in which nobody met anybody is none; who is alone meets the kills.
    alone = sum(team.workers for team in race.teams) == 1
    shown: Outcome = "kept" if (met or alone) and (killed or not race.kills) else "not examined"
    return Finding(promise=promise, promised=False, outcome=shown, evidence=evidence)


def _wrong_with(result: RaceResult, path: str) -> str:
    """What is wrong with a race, or ""."""
    problem = "; ".join(result.stuck)
    problem = problem or unexpected_error(in_terms_of_sessions(result.history), path, faulty=False) or ""
    return problem or judge_history(result.history, path, result.files) or ""


def _answered_right(history: History) -> History:
    """The history with the answers that the updates of its one writer should have: what they answer is not judged."""
    held: dict[str, Json] = dict(FIRST)
    operations = []
    for each in by_position(history).operations:
        call = each.call
        if call.name == "update" and call.outcome == "returned":
            assert isinstance(call.argument, list | tuple)
            session, version = call.argument
            assert isinstance(session, str)
            call = replace(call, result=held.get(session))
            held[session] = version
        operations.append(replace(each, call=call))
    return replace(history, operations=tuple(operations))


def _is_of_a_reader(problem: str) -> bool:
    return ": load" in problem or "cannot be read" in problem


# Power loss


def _by_states(path: str, *, simulated: bool) -> Finding:
    try:
        try:
            found = examine_power(path, first_files(path), simulated=simulated)
        except (NotSimulated, ProgramError):
            found = examine_power(path, first_files(path), simulated=False)
    except NotExaminedError as error:
        return _not_examined("power", str(error))
    whose = "a real process" if found.real else "the simulation"
    if found.loss is None:
        evidence = f"exhausted with at most 1 lost change: {found.states} disks in {len(MODELS)} models, from {whose}"
        return Finding(promise="power", promised=False, outcome="kept", evidence=evidence)
    return Finding(promise="power", promised=False, outcome="BROKEN", evidence=str(found.loss), power=found.loss)


# As text


def table(findings: Mapping[str, list[Finding]]) -> list[str]:
    """One line for each store and promise, what broke below it."""
    lines = []
    width = max(map(len, findings), default=0)
    for store, found in findings.items():
        for finding in found:
            said = "" if finding.promised else " (not promised)"
            lines.append(f"{store:<{width}}  {finding.promise:<8} {finding.outcome}{said}: {_how_far(finding)}")
    return lines


def _how_far(finding: Finding) -> str:
    evidence = finding.evidence if len(finding.evidence) <= 240 else f"{finding.evidence[:239]}…"
    if finding.power is not None:
        said = {True: "confirmed by the calls of a real process", False: "NOT confirmed by the calls of a real process"}
        how = said.get(finding.power.confirmed, f"not recorded for real: {finding.power.why_not}")  # type: ignore[arg-type]
        return f"{evidence} [1 process, {len(VERSIONS)} operations; {how}]"
    if finding.counterexample is None:
        return evidence
    program = finding.counterexample.program
    assert finding.confirmation is not None
    confirmed = (
        "confirmed by real processes"
        if finding.confirmation.confirmed
        else f"NOT confirmed by real processes: {finding.confirmation.divergence or 'their run is correct'}"
    )
    counted = f"{_plural(len(program.processes), 'process', 'processes')}, "
    counted += _plural(program.operations(), "operation", "operations")
    return f"{evidence} [{counted}; {confirmed}]"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def write_counterexamples(findings: Mapping[str, list[Finding]], directory: Path) -> list[Path]:
    """One document for each broken promise that has one: `storecheck replay` takes it."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for store, found in findings.items():
        for finding in found:
            if finding.counterexample is not None:
                path = directory / f"{store.replace(' ', '-')}-{finding.promise}.json"
                finding.counterexample.write(path)
                written.append(path)
    return written


__all__ = ["Finding", "examine", "table", "write_counterexamples"]
