"""How fast schedules are explored, after how many executions planted bugs are found, and what other tools do.

`python -m benchmarks.exploring [speed] [peers] [bugs] [--json FILE]`. Speed is per second of processor time of one
core. The peers are `frontrun` and `interleave-test`, in the interpreter that `--peer-python` names: what cannot be run
there is printed with the reason. A bar that is missed is printed as missed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.exploring_peers import RACES as PEER_RACES
from models.mutants import mutant_by_id
from models.mutants.interleaving import RACE_OF
from models.searches import RACES, SESSIONS
from storecheck import Dpor, Execution, Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.explore import Check, Exploration, explore
from storecheck.schedule import Strategy

STORE_BAR: Final = 1_000.0
BARE_BAR: Final = 5_000.0
"""Schedules per second on one core: unmodified `sessionstore` and `filelock`, 3 processes x 2 updates; a bare
read-modify-write of a small file."""

WARM_UP_EXECUTIONS: Final = 20
SPEED_EXECUTIONS: Final = 1_000
"""From an empty memory: what a search learns in its first runs is part of the figure."""

BUG_EXECUTIONS: Final = 400
PEER_EXECUTIONS: Final = 300
PEER_TIMEOUT_S: Final = 120.0

PARTS: Final = ("speed", "peers", "bugs")
DPOR: Final = "dpor"

PEER_STRATEGIES: Final[Mapping[str, tuple[str, ...]]] = {
    "frontrun": ("dpor", "random"),
    "interleave-test": ("random", "pct", "dfs"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Schedules and steps per second of processor time, and the bar for the schedules."""

    subject: str
    executions: int
    schedules_per_s: float
    steps_per_s: float
    bar_schedules_per_s: float

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached."""
        return self.schedules_per_s >= self.bar_schedules_per_s

    def __str__(self) -> str:
        met = "met" if self.is_met else "MISSED"
        return (
            f"{self.subject:<58} {self.schedules_per_s:>8.0f} schedules/s {self.steps_per_s:>9.0f} steps/s   "
            f"bar {self.bar_schedules_per_s:.0f}: {met}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A search of one race by one tool; `executions` is None if it could not be run."""

    tool: str
    strategy: str
    race: str
    said: str
    executions: int | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.executions is None:
            return f"{self.race:<19} {self.tool:<16} {self.strategy:<17} not run: {self.said}"
        rate = self.executions / self.seconds if self.seconds else 0.0
        missed = "" if self.said == "found" else "   (the race is there)"
        return (
            f"{self.race:<19} {self.tool:<16} {self.strategy:<17} {self.executions:>5} executions "
            f"{self.seconds:>7.2f} s {rate:>6.0f}/s   {self.said}{missed}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BugRow:
    """For one planted bug, what each strategy did: "12" executions to find it, "-400" without finding it."""

    bug: str
    race: str
    by_strategy: Mapping[str, str]


# Speed


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSubject:
    """A program and a search whose speed is measured."""

    title: str
    program: Program
    strategy: Strategy
    bar_schedules_per_s: float


def speed_subjects() -> Iterator[SpeedSubject]:
    """What the bars are about. Where calls take no time, more answers are known (`storecheck.schedule.remembering`)."""
    add = Operation("add", {"key": "a"})
    store = Program(
        adapter=SESSIONS,
        processes=(process(add, add),) * 3,
        files={"sessions.json": b'{\n  "a": {\n    "n": 0\n  }\n}'},
    )
    bare = Program(
        adapter="storecheck.adapters:BareCounter",
        processes=(process(Operation("add")),) * 2,
        files={"counter": b"0"},
    )
    systematic, sampled = PreemptionBounded(2), RandomSchedules(executions=SPEED_EXECUTIONS, seed=1)
    for title, strategy in (("depth-first", systematic), ("random", sampled)):
        for step_ns in (0, store.machine.step_ns):
            yield SpeedSubject(
                title=f"store + filelock, 3 x 2 updates, {title}, {step_ns} ns a call",
                program=replace(store, machine=replace(store.machine, step_ns=step_ns)),
                strategy=strategy,
                bar_schedules_per_s=STORE_BAR,
            )
    yield SpeedSubject(
        title="bare read-modify-write, 2 processes, random",
        program=bare,
        strategy=sampled,
        bar_schedules_per_s=BARE_BAR,
    )


def measure_speed() -> Iterator[Speed]:
    """After a few runs to warm up, which load the code."""
    for subject in speed_subjects():
        explore(subject.program, strategy=RandomSchedules(executions=WARM_UP_EXECUTIONS))
        begun = time.process_time()
        result = explore(subject.program, strategy=subject.strategy, max_executions=SPEED_EXECUTIONS)
        spent_s = time.process_time() - begun
        yield Speed(
            subject=subject.title,
            executions=result.executions,
            schedules_per_s=result.executions / spent_s,
            steps_per_s=result.steps / spent_s,
            bar_schedules_per_s=subject.bar_schedules_per_s,
        )


# Peers


def _race_problem(race: str, execution: Execution) -> str | None:
    done = sum(record.result is True for record in execution.operations)
    content = execution.files()[PEER_RACES[race].name].decode()
    return None if PEER_RACES[race].holds(content, done) else "broken"


def search_ourselves(race: str, strategy: Strategy) -> Found:
    """The two classes of `exploring_peers`, as simulated processes."""
    kind = PEER_RACES[race]
    program = Program(
        adapter=f"benchmarks.exploring_peers:{kind.__name__}",
        processes=tuple(process(Operation("act", {"who": who})) for who in (1, 2)),
        files={} if kind.initial is None else {kind.name: kind.initial.encode()},
    )
    if isinstance(strategy, Dpor):
        program = _for_dpor(program)
    # Loading the code into the images is not part of the search, as importing the tool is not for the others.
    explore(program, strategy=RandomSchedules(executions=1))
    begun = time.perf_counter()
    result = explore(
        program,
        strategy=strategy,
        check=lambda execution: _race_problem(race, execution),
        max_executions=PEER_EXECUTIONS,
        minimise=False,
    )
    return Found(
        tool="storecheck",
        strategy=type(strategy).__name__,
        race=race,
        said="found" if result.failure is not None else f"no failure: {result.verdict}",
        executions=result.executions,
        seconds=time.perf_counter() - begun,
    )


def search_by_peer(tool: str, strategy: str, race: str, python: str) -> Found:
    """The same classes, by another tool in its own interpreter."""
    script = Path(__file__).with_name("exploring_peers.py")
    # frontrun works only under its own launcher, which comes with it.
    launcher = [str(Path(python).with_name("frontrun"))] if tool == "frontrun" else []
    try:
        done = subprocess.run(
            [*launcher, python, str(script), tool, race, strategy, str(PEER_EXECUTIONS)],
            capture_output=True,
            text=True,
            timeout=PEER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Found(tool=tool, strategy=strategy, race=race, said=str(error))
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Found(tool=tool, strategy=strategy, race=race, said=f"{last} ({python})")
    outcome = json.loads(done.stdout.splitlines()[-1])
    return Found(tool=tool, strategy=strategy, race=race, **outcome)


def measure_peers(python: str) -> Iterator[Found]:
    """Both races, by this verifier and by the others."""
    for race in PEER_RACES:
        for ours in (PreemptionBounded(1), Dpor(), RandomSchedules(executions=PEER_EXECUTIONS, seed=1)):
            yield search_ourselves(race, ours)
        for tool, strategies in PEER_STRATEGIES.items():
            for strategy in strategies:
                yield search_by_peer(tool, strategy, race, python)


# Planted bugs


def _strategies(executions: int) -> Mapping[str, Strategy]:
    return {
        "bound 0": PreemptionBounded(0),
        "bound 1": PreemptionBounded(1),
        "bound 2": PreemptionBounded(2),
        "pct+random": RandomSchedules(executions=executions, seed=1),
        DPOR: Dpor(),
    }


def _for_dpor(program: Program) -> Program:
    """The program on a computer whose calls take no time, where any wait may run out: what Dpor can reason about."""
    return replace(program, machine=replace(program.machine, step_ns=0, time_choice="all"))


@dataclass(frozen=True, slots=True)
class _WithoutTimeouts:
    """The check of a race, but time that ran out is no finding."""

    check: Check

    def __call__(self, execution: Execution) -> str | None:
        timeouts = any(record.error == "LockTimeoutError" for record in execution.operations)
        return None if timeouts else self.check(execution)


def _shown(result: Exploration) -> str:
    return str(result.executions) if result.failure is not None else f"-{result.executions}"


def measure_bugs(executions: int, only: Sequence[str] = ()) -> Iterator[BugRow]:
    """For every bug that needs an interleaving: executions until each strategy finds it, within a limit."""
    for bug, name in RACE_OF.items():
        if only and bug not in only:
            continue
        race, transform = RACES[name], mutant_by_id(bug).transform
        by_strategy: dict[str, str] = {}
        for title, strategy in _strategies(executions).items():
            if title == DPOR and race.program.kills:
                by_strategy[title] = "n/a"
                continue
            result = explore(
                _for_dpor(race.program) if title == DPOR else race.program,
                strategy=strategy,
                check=_WithoutTimeouts(race.check(transform)) if title == DPOR else race.check(transform),
                transform=transform,
                max_executions=executions,
                minimise=False,
            )
            by_strategy[title] = _shown(result)
        yield BugRow(bug=bug, race=name, by_strategy=by_strategy)


def print_bug(row: BugRow) -> None:
    """One line of the table."""
    print(f"{row.bug:<6}{row.race:<48}" + "".join(f"{value:>11}" for value in row.by_strategy.values()), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and say which bars were missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exploring", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if left out")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with frontrun and interleave-test")
    parser.add_argument("--executions", type=int, default=BUG_EXECUTIONS, help="limit of each search for a bug")
    parser.add_argument("--bug", action="append", default=[], help="only this planted bug; may be repeated")
    parser.add_argument("--json", type=Path, help="write everything to this file, too")
    chosen = parser.parse_args(arguments)
    parts = chosen.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}; give some of {', '.join(PARTS)}")
    speeds: list[Speed] = []
    found: list[Found] = []
    rows: list[BugRow] = []
    if "speed" in parts:
        for speed in measure_speed():
            speeds.append(speed)
            print(speed, flush=True)
    if "peers" in parts:
        for one in measure_peers(chosen.peer_python):
            found.append(one)
            print(one, flush=True)
    if "bugs" in parts:
        print(f"{'bug':<6}{'race':<48}" + "".join(f"{title:>11}" for title in _strategies(1)))
        for row in measure_bugs(chosen.executions, chosen.bug):
            rows.append(row)
            print_bug(row)
        print(f"executions until it is found; -n: not within n (the limit is {chosen.executions})")
    if chosen.json is not None:
        document = {
            "speed": [asdict(speed) for speed in speeds],
            "peers": [asdict(one) for one in found],
            "bugs": [asdict(row) for row in rows],
        }
        text = json.dumps(document, indent=1)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    return 1 if any(not speed.is_met for speed in speeds) else 0


if __name__ == "__main__":
    sys.exit(main())
