"""Writes down an operation with a failing call, and does it again for the report.

The `hold…` functions fail a test with such a counterexample; `play` does its lines again, without Hypothesis: the disk,
the operation, the failure and the call that it befalls, and the power loss after it if that is what broke a promise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from models.crashes import FILE, Scenario, Step
from models.mutants import active_transform
from storecheck.crash import Entry, Tree
from storecheck.crash.recovery import CrashReport
from storecheck.faults import Injector, failure
from storecheck.machine import MachineParameters
from storecheck.report import document
from storecheck.report.calls import Call, CallError, spell, understand
from storecheck.report.crashes import RecordedCrash, RecordedRun
from storecheck.report.document import Aftermath
from storecheck.report.faults import RecordedFault, shown_error
from storecheck.report.points import Places
from storecheck.report.told import Told, ToldFinding, attach
from tests.crash import failing_calls, failing_commands, failing_tasks
from tests.crash.failing_calls import AfterFailure, Attempt, attempt, undisturbed
from tests.crash.failing_commands import Ran, run_command, whole_of
from tests.crash.failing_tasks import CANCELLED, run_once
from tests.crash.failing_tasks import Attempt as TaskAttempt
from tests.crash.failing_tasks import undisturbed as undisturbed_task
from tests.crash.telling import NAMES, lost_in, model_named, states_under

PLAYER = "tests.crash.telling_faults:play"


# Failing


def hold_attempt(run: Attempt, problems: Sequence[Aftermath]) -> None:
    """Fail if an operation with a failing call breaks a promise, and carry it into the report.

    Raises:
        AssertionError: with a counterexample attached, if a call did fail.
    """
    if problems:
        reads = run.step.kind in ("load", "read")
        _hold(str(run), problems, run.injector, _lines_of(run), reads=reads)


def hold_power(run: Attempt, report: CrashReport) -> None:
    """Fail if a power loss after a failing call loses what was acknowledged, and carry it into the report.

    Raises:
        AssertionError: with a counterexample attached.
    """
    _hold_power(str(run), report, run.injector, _lines_of(run))


def hold_command(ran: Ran, tree: Tree, problems: Sequence[Aftermath]) -> None:
    """The same for a command."""
    if problems:
        _hold(str(ran), problems, ran.injector, _lines_of_command(ran, tree), reads=False)


def hold_power_after_command(ran: Ran, tree: Tree, report: CrashReport) -> None:
    """The same for a command."""
    _hold_power(str(ran), report, ran.injector, _lines_of_command(ran, tree))


def hold_task(run: TaskAttempt, problems: Sequence[Aftermath]) -> None:
    """The same for an asynchronous operation."""
    if problems:
        cancelled = run.injector.failure is CANCELLED
        injector = run.injector
        failing = spell("cancel", at=injector.at) if cancelled else _fail_line(injector)
        _hold(str(run), problems, injector, [spell("task", run.name), failing], reads=run.name in ("load", "read"))


def _hold(shown: str, problems: Sequence[Aftermath], injector: Injector, lines: Sequence[str], *, reads: bool) -> None:
    error = AssertionError(f"{shown}: {[each.problem for each in problems]}")
    answer = "LOCK5" if injector.failure.kind not in ("errno", "short") else "READ1" if reads else "WRITE5"
    promise = failing_calls.PROMISES.get(problems[0].what, answer)
    _attach(error, injector, lines, title=problems[0].problem, promise=promise)
    raise error


def _hold_power(shown: str, report: CrashReport, injector: Injector, lines: Sequence[str]) -> None:
    if report.failures:
        error = AssertionError(f"{shown}: {report}")
        state, violation = report.failures[0].state, report.failures[0].violation
        power = spell("power_loss", state.model.name, event=state.event, lost=lost_in(state))
        _attach(error, injector, [*lines, power], title=str(violation), promise="WRITE3")
        raise error


def _attach(error: AssertionError, injector: Injector, lines: Sequence[str], *, title: str, promise: str) -> None:
    if injector.hits:  # without a failing call it is a failure of another kind
        attach(error, player=PLAYER, lines=lines, title=title, promise=promise)


def _lines_of(run: Attempt) -> list[str]:
    scenario = run.scenario
    options: dict[str, Any] = {"given": scenario.given, "settings": dict(scenario.settings)}
    if scenario.parameters != MachineParameters():
        options["parameters"] = scenario.parameters
    given = {name: value for name, value in options.items() if value}
    disk = spell("disk", dict(scenario.tree), scenario.file, **given)
    return [disk, spell("do", run.step), _fail_line(run.injector)]


def _lines_of_command(ran: Ran, tree: Tree) -> list[str]:
    return [spell("disk", dict(tree), FILE), spell("command", *ran.arguments), _fail_line(ran.injector)]


def _fail_line(injector: Injector) -> str:
    return spell("fail", str(injector.failure), at=injector.at)


# Playing


def play(lines: Sequence[str]) -> Told:
    """Do an operation with a failing call again.

    Raises:
        CallError: a line is not understood.
    """
    understood = [understand(line, NAMES) for line in lines]
    if understood and understood[0].name == "task":
        return _play_task(lines, understood)
    names = [call.name for call in understood]
    players = {"do": _play_operation, "command": _play_command}
    if names[:3] != ["disk", *names[1:2], "fail"] or names[1] not in players:
        raise CallError("the lines are what is on the disk, what is done, and what fails")
    failing = understood[2]
    injector = Injector(failure(str(failing.arguments[0])), at=cast("int", failing.keywords["at"]))
    played = players[names[1]](understood[0], understood[1], injector)
    if played is None:
        return Told(file="", steps=(), finding=None)
    crash = _crash_after(played, understood[3]) if len(understood) > 3 else None
    return _told(played.fault, crash, lines[1], with_power=len(understood) > 3)


@dataclass(frozen=True, slots=True)
class _Played:
    """What was done again, and what must be found after a power loss."""

    fault: RecordedFault
    after: AfterFailure


def _play_operation(disk: Call, done: Call, injector: Injector) -> _Played | None:
    tree, file = cast("tuple[dict[str, Entry], str]", disk.arguments)
    options: dict[str, Any] = dict(disk.keywords)
    scenario = Scenario(name="told", processes=(), tree=tree, file=file, **options)
    step = cast("Step", done.arguments[0])
    finished = undisturbed(step, scenario)
    run = attempt(step, scenario, injector, Places(active_transform()))
    if not injector.hits or run.log is None:
        return None
    fault = RecordedFault(
        operation=run.operation,
        file=file,
        failure=injector.failure,
        at=injector.at,
        calls=tuple(run.log.calls),
        ended="returned" if run.error is None else f"raised {shown_error(run.error)}",
        aftermath=tuple(failing_calls.aftermath(run, finished)),
        sources=run.log.sources,
        trials=lambda: list(failing_calls.trials(step, scenario, injector.failure)),
    )
    return _Played(fault, failing_calls.until_the_end(run, finished))


def _play_command(disk: Call, done: Call, injector: Injector) -> _Played | None:
    tree, file = cast("tuple[dict[str, Entry], str]", disk.arguments)
    arguments = cast("tuple[str, ...]", done.arguments)
    whole = whole_of(arguments, tree)
    ran = run_command(arguments, tree, injector, Places(active_transform()))
    if not injector.hits or ran.log is None:
        return None
    after = failing_commands.until_the_end(ran, whole)
    fault = RecordedFault(
        operation=f"sessionstore {ran.name}",
        file=file,
        failure=injector.failure,
        at=injector.at,
        calls=tuple(ran.log.calls),
        ended="returned" if ran.status == 0 else ran.ended,
        aftermath=tuple(failing_commands.aftermath(ran, whole)),
        sources=ran.log.sources,
        trials=lambda: list(failing_commands.trials(arguments, tree, injector.failure)),
    )
    return _Played(fault, after)


def _play_task(lines: Sequence[str], understood: Sequence[Call]) -> Told:
    task, failing = understood
    name = str(task.arguments[0])
    how = CANCELLED if failing.name == "cancel" else failure(str(failing.arguments[0]))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, FILE)
        run = run_once(name, path, undisturbed_task(name, path), how, cast("int", failing.keywords["at"]))
        if not run.injector.hits:
            return Told(file=FILE, steps=(), finding=None)
        fault = RecordedFault(
            operation=run.operation,
            file=FILE,
            failure=how,
            at=run.injector.at,
            calls=tuple(run.injector.calls),
            ended=run.ended,
            aftermath=tuple(failing_tasks.aftermath(run)),
            sources=run.injector.places.sources,
            how="the task is cancelled" if how is CANCELLED else "",
            trials=lambda: failing_tasks.trials(name, how),
        )
    return _told(fault, None, lines[0], machine="real")


def _told(
    fault: RecordedFault,
    crash: RecordedCrash | None,
    line: str,
    *,
    with_power: bool = False,
    machine: str = "simulated",
) -> Told:
    problem = None if with_power else fault.problem
    finding = None
    if crash is not None:
        finding = ToldFinding(about=crash.violation.kind, message=f"{crash.violation}\n{crash.state}")
    elif problem is not None:
        finding = ToldFinding(about=f"{fault.failed.verb}: {problem.what}", message=problem.problem)
    step = document.Step(
        number=1, process=0, call=line, loose=(), model="", disk=0, disk_changed=False, disk_bytes=None, returned="",
        expected=None, cache="",
    )  # fmt: skip
    return Told(
        file=fault.file,
        steps=(step,),
        finding=finding,
        environment={"Machine": machine} | ({} if crash is None else {"File system": crash.state.model.name}),
        crash=crash,
        fault=fault if crash is None else None,
    )


def _crash_after(played: _Played, power: Call) -> RecordedCrash | None:
    """The power loss that a line names, if it is still possible and still wrong."""
    fault, after = played.fault, played.after
    places = {index: call.place for call in fault.calls if call.place for index in call.events}
    run = RecordedRun(recording=after.recording, oracle=after.oracle, places=places, sources=fault.sources)
    for state in states_under(after.recording, model_named(str(power.arguments[0]))):
        if state.event == power.keywords["event"] and lost_in(state) == power.keywords["lost"]:
            violation = after.oracle.judge(state)
            if violation is None:
                return None
            name = fault.operation.removesuffix("()")
            return RecordedCrash(run=run, state=state, violation=violation, call=name, fault=fault)
    return None
