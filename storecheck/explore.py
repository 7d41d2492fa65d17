"""Search the schedules of a program for one that breaks a check.

`explore` runs schedules until the strategy is through or one fails, and says exactly what the search was: see
`schedule.verdict`. A failure is minimised (fewest processes, operations, preemptions, then earlier) and comes back as a
`Counterexample`, which replays without any search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from storecheck.program import ProcessProgram, Program
from storecheck.runner import Execution, Runner
from storecheck.schedule import (
    Exhausted,
    Fault,
    FaultPlan,
    Policy,
    PreemptionBounded,
    Sampled,
    Strategy,
    Verdict,
)
from storecheck.schedule.executor import MAX_STEPS_DEFAULT, Chooser, StepLog
from storecheck.schedule.remembering import NotDeterministic
from storecheck.schedule.strategies import PrefixChooser
from storecheck.schedule.trunk import Trunk
from storecheck.searched import tell
from storecheck.syscalls import Transform

Check = Callable[[Execution], str | None]
"""Looks at one run; returns what is wrong with it in one sentence, or None. An AssertionError counts as a problem."""

FindingKind = Literal["check", "deadlock"]

MAX_EXECUTIONS_DEFAULT: Final = 20_000
"""Runs after which a systematic search stops, and says that it was cut."""

MINIMISE_EXECUTIONS: Final = 2_000
"""Runs spent on each smaller program when a failure is minimised."""

EXECUTIONS_PER_CHECK: Final = 100
"""Of so many runs one executes all the code, and compares every call with what is remembered of the processes."""

KNOWN_SHARE_MIN: Final = 0.3
"""Remembering costs time, too: a search in which fewer processes than this are known leaves it. Looked at every
`EXECUTIONS_PER_CHECK` runs, but not after the first of them, which have to learn."""

TRUNKS_MAX: Final = 4
"""Beginnings of runs kept at a time, and"""

FORKS_MAX: Final = 32
"""those at forks; some tens of kilobytes each. Depth-first search needs those of the last few runs only."""

PREEMPTIONS_TRIED: Final = 3
"""Preemptions up to which a minimal schedule is searched; failures that need more keep the schedule as found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with a run."""

    kind: FindingKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that breaks the check: a program, the schedule and faults that lead there, and what is wrong then."""

    program: Program
    choices: tuple[int, ...]
    faults: tuple[Fault, ...]
    finding: Finding
    preemptions: int
    execution: Execution


def sizes_of(failure: Failure) -> dict[str, int]:
    """How large a failure is, to be compared with what it shrinks to."""
    return {
        "points": failure.execution.steps,
        "processes": len(failure.program.processes),
        "operations": failure.program.operations(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """What a search found and what it may claim.

    Attributes:
        verdict: `Exhausted` or `Sampled`, about the runs of the search itself (not those of minimising).
        failure: the minimised failure, or None.
        found: the failure as first met, or None.
        executions: runs of the search.
        steps: steps of all these runs together.
        cut_runs: runs that were stopped after `max_steps`; they were not checked.
    """

    verdict: Verdict
    failure: Failure | None
    found: Failure | None
    executions: int
    steps: int
    cut_runs: int

    def __str__(self) -> str:
        if self.failure is None:
            return f"no failure: {self.verdict}"
        return f"failed on execution {self.executions}: {self.failure.finding.message}"


def judge(execution: Execution, check: Check | None) -> Finding | None:
    """What is wrong with a run, if anything."""
    if execution.deadlock is not None:
        waits = "; ".join(execution.deadlock.waits)
        circle = execution.deadlock.cycle
        shown = f" (in a circle: {' -> '.join((*circle, circle[0]))})" if circle else ""
        return Finding(kind="deadlock", message=f"nobody can ever go on: {waits}{shown}")
    if check is None:
        return None
    try:
        problem = check(execution)
    except AssertionError as error:
        problem = str(error) or "the check failed"
    return None if problem is None else Finding(kind="check", message=problem)


def explore(
    program: Program,
    *,
    strategy: Strategy,
    check: Check | None = None,
    faults: tuple[Fault, ...] = (),
    policy: Callable[[], Policy] | None = None,
    transform: Transform | None = None,
    max_executions: int = MAX_EXECUTIONS_DEFAULT,
    max_steps: int = MAX_STEPS_DEFAULT,
    minimise: bool = True,
    shrink_program: bool = True,
) -> Exploration:
    """Run schedules of `program` until one fails or the strategy is through.

    Args:
        program: what to run.
        strategy: which schedules.
        check: what every run must satisfy; None looks for deadlocks only.
        faults: faults applied in every run.
        policy: makes a fault policy for each run, instead of `faults`.
        transform: changes the source of the code under test (a planted bug).
        max_executions: runs after which the search is cut.
        max_steps: steps after which one run is cut.
        minimise: make a failure small before returning it.
        shrink_program: minimise the program too, not only the schedule (Hypothesis shrinks what it has drawn itself).

    Raises:
        NoEvidence: the code under test needs something that is not simulated.
        NotDeterministic: the code under test did something else after the same answers.
        ProgramError: an adapter cannot be imported.
    """
    search = _Searching(program, check=check, faults=faults, policy=policy, transform=transform, max_steps=max_steps)
    found = search.first_failure(strategy, max_executions)
    tell(
        processes_max=len(program.processes),
        operations_max=program.operations(),
        points_max=search.longest,
        preemptions_max=search.preemptions,
        **{"exhausted" if isinstance(search.verdict(), Exhausted) else "sampled": 1},
    )
    failure = found
    if found is not None and minimise:
        if not isinstance(strategy, PreemptionBounded):
            # Bounded search comes upon the fewest preemptions by itself; what others found is searched for again.
            again = _fewest_preemptions(program, found, check=check, transform=transform, max_steps=max_steps)
            failure = again or found
        if shrink_program and failure is not None:
            failure = _shrink(failure, check=check, transform=transform, max_steps=max_steps)
    return Exploration(
        verdict=search.verdict(),
        failure=failure,
        found=found,
        executions=search.executions,
        steps=search.steps,
        cut_runs=search.cut_runs,
    )


class _Searching:
    """One search: runs schedules and counts."""

    def __init__(
        self,
        program: Program,
        *,
        check: Check | None,
        faults: tuple[Fault, ...],
        policy: Callable[[], Policy] | None,
        transform: Transform | None,
        max_steps: int,
    ) -> None:
        self._program = program
        self._check = check
        self._faults = faults
        self._policy = policy
        self._runner = Runner(program, transform=transform, max_steps=max_steps)
        self._max_steps = max_steps
        self._trunks = _Trunks(self._runner)
        self._remembers = True
        self._reviewed = (0, 0)
        self._bound = ""
        self._cut_by = ""
        self.executions = 0
        self.steps = 0
        self.longest = 0
        self.preemptions = 0
        self.cut_runs = 0

    def first_failure(self, strategy: Strategy, max_executions: int) -> Failure | None:
        with self._runner.collecting():
            return self._first_failure(strategy, max_executions)

    def _first_failure(self, strategy: Strategy, max_executions: int) -> Failure | None:
        search = strategy.search(self._program)
        while True:
            chooser = search.next_chooser()
            if chooser is None:
                self._bound = search.exhausted()
                return None
            if self.executions >= max_executions:
                self._cut_by = f"max_executions={max_executions}"
                return None
            execution, remembers = self._run(chooser, search.step_log())
            self.executions += 1
            self.steps += execution.steps
            self.longest = max(self.longest, execution.steps)
            self.preemptions = max(self.preemptions, execution.preemptions)
            search.executed(execution.choices)
            if execution.cut:
                self.cut_runs += 1
                self._cut_by = f"max_steps={self._max_steps} in {self.cut_runs} runs"
                continue
            if search.redundant():
                continue
            finding = judge(execution, self._check)
            if finding is not None and remembers:
                execution = self._in_full(execution)
                finding = judge(execution, self._check)
            if finding is not None:
                self._cut_by = "the first failure"
                return Failure(
                    program=self._program,
                    choices=execution.choices,
                    faults=execution.faults,
                    finding=finding,
                    preemptions=execution.preemptions,
                    execution=execution,
                )

    def _run(self, chooser: Chooser, step_log: StepLog | None) -> tuple[Execution, bool]:
        """One run, and whether code was left out in it because what it does is known."""
        policy = self._policy() if self._policy is not None else FaultPlan(self._faults) if self._faults else None
        if policy is not None or step_log is not None or not self._remembers:
            return self._runner.run(chooser, policy=policy, step_log=step_log), False
        beginning = self._trunks.beginning_of(chooser) if isinstance(chooser, PrefixChooser) else None
        is_checked = self.executions % EXECUTIONS_PER_CHECK == 0
        if is_checked:
            self._review_memory()
        if beginning is not None:
            assert isinstance(chooser, PrefixChooser)
            trunk, last = beginning
            execution = self._runner.run_branch(trunk, chooser, last=last, keep=self._trunks.keep)
            return (self._in_full(execution), False) if is_checked else (execution, True)
        if is_checked:
            return self._runner.run(chooser, remember="check"), False
        return self._runner.run(chooser, remember="yes", keep=self._trunks.keep), True

    def _review_memory(self) -> None:
        """Whether the last runs were quicker for what is remembered; if not, no later one will remember."""
        runner, (remembered, known) = self._runner, self._reviewed
        self._reviewed = runner.processes_remembered, runner.processes_known
        runs = runner.processes_remembered - remembered
        if self.executions > EXECUTIONS_PER_CHECK and runner.processes_known - known < runs * KNOWN_SHARE_MIN:
            self._remembers = False

    def _in_full(self, execution: Execution) -> Execution:
        """The same schedule with all its code executed, which must come out the same."""
        again = self._runner.run(PrefixChooser(execution.choices), remember="check")
        if again.outcome() != execution.outcome():
            raise NotDeterministic(
                f"{self._program.adapter}: executed in full, the schedule {list(execution.choices)} ends otherwise "
                "than with what was remembered of its processes. Look for state that outlives one (`reset_image`)"
            )
        return again

    def verdict(self) -> Verdict:
        if self._bound and not self._cut_by:
            return Exhausted(bound=self._bound, executions=self.executions)
        return Sampled(executions=self.executions, cut_by=self._cut_by)


class _Trunks:
    """Beginnings of runs that others have in common with them: see `schedule.trunk`.

    Those at forks are copied as the run goes by: there are few forks, and the other ways are gone next. Elsewhere, a
    trunk grows along a run from one place where a thread can be preempted to the next.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        # The one used longest ago first.
        self._by_line: dict[bytes, Trunk] = {}
        self._at_forks: dict[bytes, tuple[Trunk, int]] = {}
        self._barren = b""

    def keep(self, trunk: Trunk) -> None:
        """At a fork of the run now going on."""
        self._at_forks[bytes(trunk.executor.choices)] = trunk, trunk.forks()
        if len(self._at_forks) > FORKS_MAX:
            del self._at_forks[next(iter(self._at_forks))]

    def beginning_of(self, chooser: PrefixChooser) -> tuple[Trunk, bool] | None:
        """A trunk that stands where the prefix of the chooser ends, and whether this is the last use of it.

        None if the prefix must be run from the start.
        """
        line, at = chooser.line, len(chooser.prefix) - 1
        if line is None:
            return None
        prefix = line[:at]
        kept = self._at_forks.pop(prefix, None)
        if kept is not None and self._runner.is_of_use(kept[0]):
            trunk, uses = kept
            if uses > 1:
                self._at_forks[prefix] = trunk, uses - 1
            return trunk, uses == 1
        grown = self._grown(line, at)
        return None if grown is None else (grown, False)

    def _grown(self, line: bytes, at: int) -> Trunk | None:
        if line is self._barren:
            return None
        trunk = self._by_line.pop(line, None)
        if trunk is None or trunk.at > at:
            trunk = self._new(line, at)
        if trunk is None or not self._runner.grow(trunk, line, at):
            # Tried once for each run: more of its beginning is not going to be known.
            self._barren = line
            return None
        self._by_line[line] = trunk
        if len(self._by_line) > TRUNKS_MAX:
            del self._by_line[next(iter(self._by_line))]
        return trunk

    def _new(self, line: bytes, at: int) -> Trunk | None:
        """One that stands on the way there, if possible not at its start."""
        best: Trunk | None = None
        for other, trunk in self._by_line.items():
            if trunk.at <= at and line[: trunk.at] == other[: trunk.at] and (best is None or trunk.at > best.at):
                best = trunk
        return self._runner.trunk() if best is None else self._runner.second_trunk(best)


# Minimising


def _shrink(failure: Failure, *, check: Check | None, transform: Transform | None, max_steps: int) -> Failure:
    """Fewest processes, then operations, then preemptions, then the earliest.

    Each smaller program is searched with few preemptions and a fixed budget; one that does not fail in it is kept out.
    """
    best, shrinking = failure, True
    while shrinking:
        shrinking = False
        for smaller in _smaller_programs(best.program):
            found = _fewest_preemptions(smaller, best, check=check, transform=transform, max_steps=max_steps)
            if found is not None:
                best, shrinking = found, True
                break
    return best


def _fewest_preemptions(
    program: Program, like: Failure, *, check: Check | None, transform: Transform | None, max_steps: int
) -> Failure | None:
    """The first failure of bounded search: the fewest preemptions, the earliest of those; None within the budget."""
    if any(fault.process >= len(program.processes) for fault in like.faults):
        return None
    faults = like.faults
    search = _Searching(program, check=check, faults=faults, policy=None, transform=transform, max_steps=max_steps)
    found = search.first_failure(PreemptionBounded(PREEMPTIONS_TRIED), MINIMISE_EXECUTIONS)
    return found if found is not None and found.finding.kind == like.finding.kind else None


def _smaller_programs(program: Program) -> Iterator[Program]:
    processes = program.processes
    if len(processes) > 1:
        for index in range(len(processes)):
            yield replace(program, processes=processes[:index] + processes[index + 1 :])
    if program.kills:
        yield replace(program, kills=program.kills - 1)
    for index, process in enumerate(processes):
        for smaller in _smaller_processes(process):
            yield replace(program, processes=(*processes[:index], smaller, *processes[index + 1 :]))


def _smaller_processes(process: ProcessProgram) -> Iterator[ProcessProgram]:
    for index in range(len(process.threads)):
        yield replace(process, threads=process.threads[:index] + process.threads[index + 1 :])
    operations = process.operations
    for index in range(len(operations)):
        yield replace(process, operations=operations[:index] + operations[index + 1 :])
    for number, thread in enumerate(process.threads):
        for index in range(len(thread)):
            shorter = thread[:index] + thread[index + 1 :]
            yield replace(process, threads=(*process.threads[:number], shorter, *process.threads[number + 1 :]))
