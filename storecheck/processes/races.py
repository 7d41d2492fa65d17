"""Free-running races: real processes that work on one store at once, with everything recorded.

A `Race` says how many processes and threads run which workload through which adapter, and what happens to them:
SIGKILL at random moments with a successor each, forks in the middle, other programs on the same file. `run_race`
starts them (multiprocess, forkserver, daemon; all wait at one gate), kills, waits with a bound, and returns the merged
history, what was met on the way, and who got stuck. Whether the history is correct is asked of
`storecheck.linearizability`.

The same adapters run in the simulation: an operation's arguments are recorded by position, `positional`. A race shows
what happened to happen: it can find a bug and cannot prove that there is none. Kills lose no page cache, so it says
nothing of power loss.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from storecheck.history import FileRecorder, History, Json, Recorder, merge
from storecheck.history import Operation as Recorded
from storecheck.processes.children import child_context
from storecheck.processes.directories import files_in, lay_out
from storecheck.program import Operation, ProgramError, at_path
from storecheck.syscalls import Transform

LIMIT_S: Final = 120.0
"""For a whole race and for each wait in it. A race takes seconds; the rest is room for a loaded machine."""

WORKERS_MAX: Final = 16

Workload = Callable[[int, int, int], Iterable[Operation]]
"""(worker, thread, seed) -> the operations of that thread, the same ones for the same arguments."""

KILL_PAUSE_S: Final = (0.002, 0.03)
"""Between two kills: long enough for an update or two, so that a kill meets every phase of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """Processes that do the same kind of work.

    Attributes:
        adapter: import path `module:factory`, as in `storecheck.Program`.
        workload: import path `module:function` of a `Workload`.
        workers: how many processes.
        threads: threads in each, which share the adapter's object.
        forks: each process forks once its first operations are done, and the child works on beside its parent.
        parameters: keyword arguments of the factory.
        mortal: whether its processes may be killed.
    """

    adapter: str
    workload: str
    workers: int
    threads: int = 1
    forks: bool = False
    parameters: Mapping[str, Json] = field(default_factory=dict)
    mortal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What runs at once on one directory.

    Attributes:
        teams: who takes part.
        files: content of the initial files, by path relative to the directory handed to the adapters.
        kills: how many processes are killed, each followed by a successor with a workload of its own.
        seed: of workloads and kills. The race itself depends on the machine's mood as well.
        transform: a planted bug, or None.
    """

    teams: tuple[Team, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    kills: int = 0
    seed: int = 0
    transform: Transform | None = None

    def __post_init__(self) -> None:
        workers = sum(team.workers for team in self.teams)
        if not 1 <= workers <= WORKERS_MAX:
            raise ProgramError(f"the race has {workers} processes; give 1 to {WORKERS_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceResult:
    """What a race did.

    Attributes:
        history: all operations, those of killed processes included.
        met: how often something was met that makes the race worth its time: "overlaps" (operations that ran while one
            of another process did), "kills", "killed in an operation", "forks", and what adapters count.
        stuck: processes that did not end in time, or ended by an error of their own; empty if all is well.
        files: content of all files at the end, by path relative to the directory handed to the adapters.
        duration_s: from the gate to the last end.
    """

    history: History
    files: Mapping[str, bytes]
    met: Mapping[str, int]
    stuck: tuple[str, ...]
    duration_s: float

    def __str__(self) -> str:
        met = ", ".join(f"{name}: {count}" for name, count in sorted(self.met.items()))
        return f"{len(self.history.operations)} operations in {self.duration_s:.2f} s; {met}"


def positional(arguments: Mapping[str, Json]) -> Json:
    """The arguments as histories and specifications have them: their values in a list, a single object as it is."""
    values = list(arguments.values())
    if not values:
        return None
    return values[0] if len(values) == 1 and isinstance(values[0], Mapping) else values


def by_position(history: History) -> History:
    """A history of the simulation, whose arguments have names, with arguments by position."""
    return replace(
        history,
        operations=tuple(
            replace(each, call=replace(each.call, argument=positional(each.call.argument)))
            if isinstance(each.call.argument, Mapping)
            else each
            for each in history.operations
        ),
    )


# In the child


@dataclass(frozen=True, slots=True)
class _Entry:
    """One process that takes part. `succeeds` another one: it opens the store when that one is gone."""

    name: str
    team: Team
    number: int
    root: str
    records: str
    seed: int
    transform: Transform | None
    succeeds: bool


def _take_part(pipe: Any, entry: _Entry) -> None:
    """The life of one process."""
    if entry.transform is not None:
        from storecheck.processes.planting import plant

        plant(entry.transform)
    team = entry.team
    open_store = functools.partial(at_path(team.adapter), entry.root, **team.parameters)
    adapter = None if entry.succeeds else open_store()
    workload: Workload = at_path(team.workload)
    lists = [list(workload(entry.number, thread, entry.seed)) for thread in range(team.threads)]
    pipe.send(("ready", None))
    if not pipe.poll(LIMIT_S) or pipe.recv() != "go":
        return
    adapter = open_store() if adapter is None else adapter
    try:
        forks = _do_all(entry, adapter, lists)
    finally:
        close = getattr(adapter, "close", None)
        if close is not None:
            close()
    counters = getattr(adapter, "counters", None)
    pipe.send(("over", {"forks": forks, **(counters() if counters is not None else {})}))


def _do_all(entry: _Entry, adapter: Any, lists: Sequence[Sequence[Operation]]) -> int:
    """All operations of one process, in its threads; and again in its forked child. Returns the number of forks."""
    with FileRecorder(os.path.join(entry.records, f"{entry.name}.jsonl"), process=entry.name) as recorder:
        threads = [
            threading.Thread(target=_do_list, args=(recorder, adapter, operations), name=f"t{number}", daemon=True)
            for number, operations in enumerate(lists[1:], start=1)
        ]
        for thread in threads:
            thread.start()
        own = lists[0]
        before = len(own) // 2 if entry.team.forks else len(own)
        _do_list(recorder, adapter, own[:before], task="t0")
        forked = _fork(entry, adapter, own[before:]) if entry.team.forks else None
        _do_list(recorder, adapter, own[before:], task="t0")
        for thread in threads:
            thread.join(LIMIT_S)
            if thread.is_alive():
                raise TimeoutError(f"thread {thread.name} is not through after {LIMIT_S} s")
    if forked is None:
        return 0
    _wait_for_child(forked)
    return 1


def _fork(entry: _Entry, adapter: Any, operations: Sequence[Operation]) -> int:
    """A child that inherits whatever its parent's threads hold, and works on with the same objects."""
    workload: Workload = at_path(entry.team.workload)
    # Made before the fork, and different from the parent's: no two writes may look alike.
    others = list(workload(entry.number + WORKERS_MAX, 0, entry.seed))[: len(operations)]
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        name = f"{entry.name}f"
        with FileRecorder(os.path.join(entry.records, f"{name}.jsonl"), process=name) as recorder:
            _do_list(recorder, adapter, others, task="t0")
        status = 0
    finally:
        os._exit(status)


def _wait_for_child(child: int) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"the forked child is not through after {LIMIT_S} s")
        time.sleep(0.002)  # leaves the processor to the child
    if status:
        raise ChildProcessError(f"the forked child ended with wait status {status}")


def _do_list(recorder: Recorder, adapter: Any, operations: Iterable[Operation], *, task: str | None = None) -> None:
    for operation in operations:
        number = recorder.invoke(operation.name, positional(operation.arguments), task=task)
        try:
            result = getattr(adapter, operation.name)(**operation.arguments)
        except Exception as error:  # noqa: BLE001 - whatever a store raises is its answer
            judge = getattr(adapter, "outcome_of", None)
            outcome = "raised" if judge is None else judge(error)
            note = recorder.raised if outcome == "raised" else recorder.unknown
            note(number, f"{type(error).__name__}: {error}")
        else:
            recorder.returned(number, result)


# In the parent


class _Runner:
    """One process, from the outside."""

    def __init__(self, entry: _Entry) -> None:
        context = child_context(imports_anew=entry.transform is not None)
        self.entry = entry
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_take_part, args=(theirs, entry), daemon=True)
        self._process.start()
        theirs.close()
        self.killed = False
        self.counters: Mapping[str, int] = {}

    def hear(self, wanted: str) -> str:
        """Wait for a message; what went wrong, or ""."""
        try:
            if not self._pipe.poll(LIMIT_S):
                return f"{self.entry.name} was not {wanted} within {LIMIT_S} s"
            kind, counters = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(LIMIT_S)
            return f"{self.entry.name} ended with exit code {self._process.exitcode} before it was {wanted}"
        assert kind == wanted, f"{self.entry.name} said {kind} instead of {wanted}"
        self.counters = counters or {}
        return ""

    def go(self) -> None:
        """Open the gate."""
        self._pipe.send("go")

    def is_running(self) -> bool:
        """Whether it is worth killing: it lives, and has not said that it is through."""
        return not self.killed and self._process.is_alive() and not self._pipe.poll(0)

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        # Where another process collects it, the fork server, it may be gone since it was last looked at.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(LIMIT_S)

    def end(self) -> None:
        """Make sure that it is gone."""
        self._process.join(0 if self.killed else 5)
        if self._process.is_alive():
            self.kill()
        self._pipe.close()


def run_race(race: Race, *, directory: Path | None = None) -> RaceResult:
    """Run it once. `directory` is where the files go (a temporary one if left out); nothing stays behind.

    Raises:
        ProgramError: a process could not even start: an adapter or workload cannot be imported.
    """
    base = Path(tempfile.mkdtemp(prefix="storecheck-race-", dir=directory))
    runners: list[_Runner] = []
    try:
        root, records = base / "store", base / "records"
        root.mkdir()
        records.mkdir()
        lay_out(root, race.files)
        runners += _starters(race, root, records)
        for runner in runners:
            problem = runner.hear("ready")
            if problem:
                raise ProgramError(problem)
        return _race(race, runners, base)
    finally:
        for runner in runners:
            with contextlib.suppress(ProcessLookupError):
                runner.end()
        shutil.rmtree(base)


def _starters(race: Race, root: Path, records: Path) -> list[_Runner]:
    """Everybody, and behind them one substitute for each kill, so that a restart takes no time."""
    teams = [team for team in race.teams for _ in range(team.workers)]
    mortal = [team for team in teams if team.mortal]
    starters = len(teams)
    teams += [mortal[number % len(mortal)] for number in range(race.kills)]
    return [
        _Runner(
            _Entry(
                name=f"P{number + 1}",
                team=team,
                number=number,
                root=str(root),
                records=str(records),
                seed=race.seed,
                transform=race.transform,
                succeeds=number >= starters,
            )
        )
        for number, team in enumerate(teams)
    ]


def _race(race: Race, runners: Sequence[_Runner], base: Path) -> RaceResult:
    starters = list(runners[: len(runners) - race.kills])
    substitutes = list(runners[len(runners) - race.kills :])
    started_s = time.monotonic()
    for runner in starters:
        runner.go()
    running = starters + _kill_some(race, starters, substitutes)
    stuck = [problem for runner in running if not runner.killed and (problem := runner.hear("over"))]
    duration_s = time.monotonic() - started_s
    for runner in runners:
        runner.end()
    history = merge(sorted((base / "records").glob("*.jsonl")))
    killed = {runner.entry.name for runner in running if runner.killed}
    met = {
        "overlaps": overlaps(history),
        "kills": len(killed),
        "killed in an operation": sum(each.process in killed and each.responded_at is None for each in history.pending),
    }
    for runner in running:
        for name, count in runner.counters.items():
            met[name] = met.get(name, 0) + count
    files = files_in(base / "store")
    return RaceResult(history=history, files=files, met=met, stuck=tuple(stuck), duration_s=duration_s)


def _kill_some(race: Race, starters: Sequence[_Runner], substitutes: Sequence[_Runner]) -> list[_Runner]:
    """Kill processes at random moments and send in a substitute for each; returns those sent in."""
    source = random.Random(race.seed)  # noqa: S311 - moments of kills
    sent_in: list[_Runner] = []
    for substitute in substitutes:
        time.sleep(source.uniform(*KILL_PAUSE_S))
        victims = [each for each in (*starters, *sent_in) if each.entry.team.mortal and each.is_running()]
        if not victims:
            break
        source.choice(victims).kill()
        substitute.go()
        sent_in.append(substitute)
    return sent_in


def overlaps(history: History) -> int:
    """How many operations ran while one of another process did: without them a race was none."""
    events: list[tuple[int, int, Recorded]] = []
    for operation in history.operations:
        events.append((operation.invoked_at, 0, operation))
        if operation.responded_at is not None:
            events.append((operation.responded_at, 1, operation))
    events.sort(key=lambda event: event[:2])
    running: dict[int, Recorded] = {}
    met: set[int] = set()
    for _, kind, operation in events:
        if kind:
            running.pop(id(operation), None)
            continue
        for other in running.values():
            if other.process != operation.process:
                met |= {id(other), id(operation)}
        running[id(operation)] = operation
    return len(met)


__all__ = ["LIMIT_S", "Race", "RaceResult", "Team", "by_position", "overlaps", "positional", "run_race"]
