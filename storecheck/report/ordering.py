"""The one ordering that decides: drop happens-before edges, run again, keep what cannot be dropped.

An edge says that a call of one process came before a conflicting call of another. The failing run has many. Schedules
around it (its switches moved) and random ones are executed; an edge is dropped if every schedule that has the remaining
edges still fails. What is left is what decides, with counts of the schedules with and without it. The counts are of
these schedules and say nothing of others. After Jalbert and Sen's trace simplification (FSE 2010) and the statistical
ranking of Lu et al., "Learning from mistakes" (ASPLOS 2008), in the simplest form that counts honestly.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from storecheck.explore import Check, judge
from storecheck.program import Program
from storecheck.report.document import Deciding, DecidingPoint
from storecheck.report.points import Happening, Observation, observe
from storecheck.runner import Runner
from storecheck.schedule import RandomSchedules, ReplayDiverged
from storecheck.schedule.executor import KILL, Chooser
from storecheck.schedule.strategies import indexes
from storecheck.syscalls import Transform

SCHEDULES: Final = 400
"""Schedules executed around a failing one: two or three seconds, and enough to tell a chance from a rule."""

RANDOM_SHARE: Final = 3
"""One in so many is random; the others move the switches of the failing schedule."""

FAR_CHANCE: Final = 0.4
"""A switch of the failing schedule moves anywhere with this chance, else by at most `NEAR` calls."""

NEAR: Final = 3

MAX_PROCESSES_EXCHANGED: Final = 3
"""With more processes their exchanges are too many to be looked through."""

_LOOKS: Final = frozenset({"read", "pread", "stat", "fstat", "lstat", "open", "lock"})
_MAKES: Final = frozenset(
    {"replace", "rename", "write", "pwrite", "ftruncate", "truncate", "unlink", "remove", "unlock"}
)

Event = tuple[int, str, str, int]
Edge = tuple[Event, Event]


@dataclass(frozen=True, slots=True)
class _Run:
    """One executed schedule: where each event stood, and whether it failed."""

    positions: Mapping[Event, int]
    failed: bool


def event_of(happening: Happening) -> Event:
    """Names a call so that it is found in another schedule."""
    return happening.line.process, happening.verb, happening.target, happening.number


def decide(
    observation: Observation, *, check: Check, transform: Transform | None, file: str, schedules: int = SCHEDULES
) -> tuple[Deciding, tuple[int, ...]] | None:
    """The ordering that decides, and the indexes of its happenings; None if no order does.

    Args:
        observation: the failing run.
        check: tells failing runs from others.
        transform: the planted bug.
        file: the file that the failure is about.
        schedules: so many are executed.
    """
    edges = list(_edges(observation.happenings, file))
    if not edges:
        return None
    runs = list(_runs(observation, check=check, transform=transform, schedules=schedules))
    exchanges = _exchanges(len(observation.execution.program.processes))
    kept = _undroppable(edges, runs, exchanges)
    if not kept:
        return None
    having = [run for run in runs if _has(run, kept, exchanges)]
    others = [run for run in runs if not _has(run, kept, exchanges)]
    where = {event_of(happening): index for index, happening in enumerate(observation.happenings)}
    chosen = sorted({where[event] for edge in kept for event in edge})
    deciding = Deciding(
        points=tuple(
            DecidingPoint(
                process=observation.happenings[index].line.process,
                verb=observation.happenings[index].verb,
                number=index,
            )
            for index in chosen
        ),
        edges_kept=len(kept),
        edges=len(edges),
        with_failed=sum(run.failed for run in having),
        with_tried=len(having),
        without_passed=sum(not run.failed for run in others),
        without_tried=len(others),
        exchanged=len(exchanges) > 1,
        search=f"{len(runs)} schedules: the failing one with its switches moved, one in {RANDOM_SHARE} random",
    )
    return deciding, tuple(chosen)


def _edges(happenings: Iterable[Happening], file: str) -> Iterator[Edge]:
    """Pairs of calls of different processes that do not commute: one of them changes the file or the lock."""
    calls = [
        happening
        for happening in happenings
        if happening.verb in _LOOKS | _MAKES and (happening.target == file or happening.takes or happening.frees)
        and (happening.verb != "close")
    ]  # fmt: skip
    for one, other in itertools.combinations(calls, 2):
        if one.line.process == other.line.process:
            continue
        publishes = one.publishes is not None or other.publishes is not None
        locks = {one.verb, other.verb} & {"lock", "unlock"}
        if publishes and (one.target == other.target or locks):
            yield event_of(one), event_of(other)


def _exchanges(processes: int) -> list[tuple[int, ...]]:
    if processes > MAX_PROCESSES_EXCHANGED:
        return [tuple(range(processes))]
    return list(itertools.permutations(range(processes)))


def _has(run: _Run, edges: Iterable[Edge], exchanges: Iterable[tuple[int, ...]]) -> bool:
    return any(all(_comes_before(run, edge, exchange) for edge in edges) for exchange in exchanges)


def _comes_before(run: _Run, edge: Edge, exchange: tuple[int, ...]) -> bool:
    (one, *first), (other, *second) = edge
    before = run.positions.get((exchange[one], *first))  # type: ignore[arg-type]
    after = run.positions.get((exchange[other], *second))  # type: ignore[arg-type]
    return before is not None and after is not None and before < after


def _undroppable(edges: list[Edge], runs: list[_Run], exchanges: list[tuple[int, ...]]) -> list[Edge]:
    """Drop edges one by one, those far apart first, as long as every run that has the others fails."""
    kept = list(edges)
    for edge in _droppable_first(edges):
        fewer = [other for other in kept if other != edge]
        having = [run for run in runs if _has(run, fewer, exchanges)]
        if fewer and all(run.failed for run in having):
            kept = fewer
    return kept


def _droppable_first(edges: list[Edge]) -> list[Edge]:
    """Locks first, then looks without effect, then the rest: what stays is what people recognise."""

    def weight(edge: Edge) -> tuple[int, int]:
        verbs = {edge[0][1], edge[1][1]}
        rank = {"lstat": 0, "unlock": 1, "fstat": 2, "lock": 3, "stat": 4, "open": 5, "read": 6}
        return min((rank.get(verb, 7) for verb in verbs), default=7), edge[0][3] + edge[1][3]

    return sorted(edges, key=weight)


# Schedules


def _runs(observation: Observation, *, check: Check, transform: Transform | None, schedules: int) -> Iterator[_Run]:
    program = observation.execution.program
    runner = Runner(program, transform=transform)
    seen: set[tuple[int, ...]] = set()
    with runner.collecting():
        for chooser in _choosers(program, observation.execution.choices, schedules):
            try:
                found = observe(
                    program,
                    chooser=chooser(),
                    faults=observation.execution.faults,
                    transform=transform,
                    runner=runner,
                    with_places=False,
                )
            except ReplayDiverged:
                continue
            if found.execution.cut or found.execution.choices in seen:
                continue
            seen.add(found.execution.choices)
            positions: dict[Event, int] = {}
            for index, happening in enumerate(found.happenings):
                if not happening.failed:
                    positions.setdefault(event_of(happening), index)
            yield _Run(positions=positions, failed=judge(found.execution, check) is not None)


def _choosers(program: Program, choices: tuple[int, ...], schedules: int) -> Iterator[Callable[[], Chooser]]:
    source = random.Random(0)  # noqa: S311 - the same schedules for the same failure
    search = RandomSchedules(executions=max(1, schedules // RANDOM_SHARE), seed=0).search(program)
    yield lambda: Moved(choices)
    for number in range(schedules - 1):
        if number % RANDOM_SHARE == 0:
            chooser = search.next_chooser()
            if chooser is not None:
                yield lambda chooser=chooser: chooser  # type: ignore[misc]
        else:
            moved = _with_moved_switches(choices, source)
            yield lambda moved=moved: Moved(moved)  # type: ignore[misc]


def _with_moved_switches(choices: tuple[int, ...], source: random.Random) -> tuple[int, ...]:
    """The same runs of threads, some of them longer or shorter."""
    runs = [(thread, len(list(group))) for thread, group in itertools.groupby(choices)]
    moved: list[int] = []
    for thread, length in runs:
        far = source.random() < FAR_CHANCE
        new_length = source.randint(1, 2 * length) if far else max(1, length + source.randint(-NEAR, NEAR))
        moved += [thread] * (1 if thread >= KILL else new_length)
    return tuple(moved)


class Moved:
    """Follows choices where they are possible, else goes on without preemption."""

    every_step = False

    def __init__(self, choices: tuple[int, ...]) -> None:
        self._choices = choices
        self._at = 0

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        """The recorded choice if it can run."""
        at, self._at = self._at, self._at + 1
        if at < len(self._choices):
            choice = self._choices[at]
            if choice >= KILL:
                if killable and choice == KILL + current:
                    return choice
            elif (runnable or sleeping) >> choice & 1:
                return choice
        if current >= 0 and runnable >> current & 1:
            return current
        return indexes(runnable or sleeping)[0]
