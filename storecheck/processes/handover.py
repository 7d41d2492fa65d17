"""From a race that went wrong to a small schedule that goes wrong every time.

A race shows a history that fits no order, and is gone. `hand_over` takes the operations around the first one that was
refused, makes small programs of them, searches their schedules in the simulation and, if one fails the same
specification, replays the minimised schedule with real processes. If none does within the budget, the report says so,
names what was searched, and shows the history itself: it is all there is then, and it is no less of a failure.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storecheck.counterexample import Counterexample, CounterexampleError, from_failure
from storecheck.explore import Exploration, explore
from storecheck.history import Call, History
from storecheck.history import Operation as Recorded
from storecheck.linearizability import Specification, UndecidedError, Verdict, check
from storecheck.processes.controlled import Confirmation, confirm
from storecheck.processes.races import by_position
from storecheck.program import Operation, ProcessProgram, Program, at_path
from storecheck.runner import Execution, NoEvidence
from storecheck.schedule import PreemptionBounded
from storecheck.syscalls import Transform

SEARCH_EXECUTIONS: Final = 300
"""Schedules searched for each small program: a few seconds."""

SEARCH_PREEMPTIONS: Final = 2
PROCESSES_MAX: Final = 3
OPERATIONS_MAX: Final = 2

Looks = Callable[[Mapping[str, bytes]], Sequence[Call]]
"""What somebody who looks at the files at the end of a run is told: calls of the specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What became of a failed race.

    Attributes:
        verdict: on the history of the race.
        searched: what was searched, one line for each small program.
        counterexample: the failure found again, or None.
        confirmation: what real processes say of it, or None.
    """

    verdict: Verdict
    searched: tuple[str, ...]
    counterexample: Counterexample | None
    confirmation: Confirmation | None

    def __str__(self) -> str:
        searched = "\n".join(f"  {line}" for line in self.searched)
        found = self.counterexample
        if found is None or self.confirmation is None:
            return (
                "the race failed, and the simulation did not find the failure again. Searched:\n"
                f"{searched}\nThe history of the race is the evidence:\n{self.verdict}"
            )
        said = (
            "confirmed call by call by real processes"
            if self.confirmation.confirmed
            else f"not confirmed by real processes: {self.confirmation.divergence or 'their run is correct'}"
        )
        return (
            f"found again with {len(found.program.processes)} processes, {found.program.operations()} operations; "
            f"{said}\n{found.finding.message}\nSearched:\n{searched}"
        )


@dataclass(frozen=True, slots=True)
class LinearizableCheck:
    """A check for `explore`: the history, and what is left at the end, fit the specification."""

    specification: Specification[Any]
    looks: Looks

    def __call__(self, execution: Execution) -> str | None:
        """What does not fit, or None.

        Raises:
            UndecidedError: the checker gave up.
        """
        history = by_position(execution.history())
        verdict = check(seen_at_end(history, self.looks(execution.files())), self.specification)
        verdict.require_decided()
        refused = None if verdict.illegal is None else verdict.illegal.refused
        return None if refused is None else f"{refused.process}: {refused.call} fits in no order"


def seen_at_end(history: History, calls: Sequence[Call]) -> History:
    """The history, and after it calls that were made when everybody was done."""
    end = 1 + max((max(each.invoked_at, each.responded_at or 0) for each in history.operations), default=0)
    looks = tuple(
        Recorded(process="the end", task="look", identifier=number, call=call, invoked_at=end, responded_at=end)
        for number, call in enumerate(calls)
    )
    return History(operations=(*history.operations, *looks), torn=history.torn)


def hand_over(
    history: History,
    *,
    adapter: str,
    specification: Specification[Any],
    looks: Looks,
    files: Mapping[str, bytes],
    check_path: str | None = None,
    transform: Transform | None = None,
) -> Handover | None:
    """Look for the failure of a race in simulation and reality; None if the history is correct.

    Args:
        history: of the race, with arguments by position and looks at the end.
        adapter: import path of the adapter that raced, for all processes of the small programs.
        specification: what the history was checked against; the small programs begin with `files` and are checked
            against it too, so its initial state must be that of `files`.
        looks: what the files say at the end of a simulated run.
        files: initial files of the small programs, as small as they may be.
        check_path: import path of a check that judges the same, for the counterexample.
        transform: a planted bug.

    Raises:
        UndecidedError: the checker gave up on the history.
    """
    verdict = check(history, specification)
    verdict.require_decided()
    culprit = None if verdict.illegal is None else verdict.illegal.refused
    if culprit is None:
        return None
    judge = LinearizableCheck(specification, looks)
    searched: list[str] = []
    for processes in _windows(history, culprit, adapter):
        program = Program(adapter=adapter, processes=processes, files=files)
        shown = " | ".join("; ".join(str(each) for each in part.operations) for part in processes)
        try:
            result = _search(program, judge, transform)
        except NoEvidence as error:
            searched.append(f"{shown}: cannot be simulated: {error}")
            break
        except UndecidedError as error:
            searched.append(f"{shown}: {error}")
            continue
        searched.append(f"{shown}: {result}")
        if result.failure is not None:
            document = _document(result, check_path, transform)
            confirmation = confirm(document, check=judge, planted=transform)
            return Handover(
                verdict=verdict, searched=tuple(searched), counterexample=document, confirmation=confirmation
            )
    return Handover(verdict=verdict, searched=tuple(searched), counterexample=None, confirmation=None)


def _search(program: Program, judge: LinearizableCheck, transform: Transform | None) -> Exploration:
    return explore(
        program,
        strategy=PreemptionBounded(SEARCH_PREEMPTIONS),
        check=judge,
        transform=transform,
        max_executions=SEARCH_EXECUTIONS,
        # Smaller programs have been searched already.
        shrink_program=False,
    )


def _document(result: Exploration, check_path: str | None, transform: Transform | None) -> Counterexample:
    assert result.failure is not None
    document = from_failure(
        result.failure,
        title=f"from a race: {result.failure.finding.message}",
        verdict=str(result.verdict),
        check=check_path,
        planted=transform,
    )
    if document.finding != result.failure.finding:
        raise CounterexampleError(f"{check_path} judges the run otherwise than the specification does")
    return document


def _windows(history: History, culprit: Recorded, adapter: str) -> Iterator[tuple[ProcessProgram, ...]]:
    """Small programs of the operations nearest in time to the culprit, the smallest first."""
    near = sorted(history.operations, key=lambda each: abs(each.invoked_at - culprit.invoked_at))
    seen: set[tuple[str, ...]] = set()
    for processes_max in range(2, PROCESSES_MAX + 1):
        for operations_max in range(1, OPERATIONS_MAX + 1):
            picked: dict[str, list[Recorded]] = {}
            for operation in near:
                mine = picked.get(operation.process)
                if mine is None and len(picked) < processes_max and _is_of(adapter, operation):
                    picked[operation.process] = [operation]
                elif mine is not None and len(mine) < operations_max and _is_of(adapter, operation):
                    mine.append(operation)
            key = tuple(str(each) for operations in picked.values() for each in operations)
            if len(picked) > 1 and key not in seen:
                seen.add(key)
                yield tuple(
                    ProcessProgram(
                        operations=tuple(
                            _with_names(adapter, each) for each in sorted(operations, key=lambda one: one.invoked_at)
                        )
                    )
                    for operations in picked.values()
                )


def _method(adapter: str, name: str) -> Any:
    return getattr(at_path(adapter), name, None)


def _is_of(adapter: str, operation: Recorded) -> bool:
    """Whether a participant made the call, not somebody who looked at the end."""
    return operation.task != "look" and _method(adapter, operation.call.name) is not None


def _with_names(adapter: str, operation: Recorded) -> Operation:
    """The recorded call with the names of its arguments again."""
    argument = operation.call.argument
    names = [name for name in inspect.signature(_method(adapter, operation.call.name)).parameters if name != "self"]
    if argument is None:
        return Operation(operation.call.name)
    given: Sequence[Any] = argument if isinstance(argument, list | tuple) else [argument]
    return Operation(operation.call.name, dict(zip(names, given, strict=True)))


__all__ = ["Handover", "LinearizableCheck", "Looks", "hand_over", "seen_at_end"]
