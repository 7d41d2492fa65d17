"""Whole programs, seen from outside: the memory of fifty cycles, and what it costs to start `sessionstore status`."""

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.launch import Finished, launch
from benchmarks.ours import FILE_NAME, RaisedLimits, SessionStorePeer
from benchmarks.peers import DiskCache, JsonWithFilelock, PickleDb, SqliteWal, TinyDb
from benchmarks.rounds import (
    Bar,
    Rounds,
    Turn,
    TurnFailedError,
    Verdict,
    difference,
    estimate,
    interleave,
    judge,
)
from benchmarks.runner import PeerClass
from benchmarks.sections import Bench, Quantity, Section
from benchmarks.stores import LARGE, SMALL, StoreShape

ROOT = Path(__file__).resolve().parents[1]
STRESS_TARGET_KB = 7_600
SETTLED_CYCLE = 10
BARE = "bare interpreter"
STATUS_LARGE = f"status --json, {LARGE.name}"
STATUS_SMALL = f"status --json, {SMALL.name}"
REUSING = "stress --reuse-loaded-store"
NOT_REUSING = "stress"
CYCLED: tuple[PeerClass, ...] = (
    SessionStorePeer,
    RaisedLimits,
    JsonWithFilelock,
    TinyDb,
    PickleDb,
    DiskCache,
    SqliteWal,
)

GROWTH_BAR = Bar(f"stress --cycles 50, growth after cycle {SETTLED_CYCLE}", "at most", 1.0, "MB")
PEAK_BAR = Bar("stress --cycles 50, peak memory", "at most", 60.0, "MB")
STATUS_MEMORY_BAR = Bar("status --json, peak memory above a bare interpreter", "at most", 15.0, "MB")
STATUS_TIME_BAR = Bar("status --json, time above a bare interpreter", "at most", 150.0, "ms")


@dataclass(frozen=True, slots=True)
class Sampled:
    """The memory that a table of cycles shows."""

    first_mb: float
    last_mb: float
    growth_mb: float


def run_stress(bench: Bench) -> Section:
    """`sessionstore stress` as a program of its own: peak memory as the kernel counted it, growth from its table."""

    def turn(options: Sequence[str]) -> Mapping[str, float]:
        arguments = ["stress", "--target-kb", str(STRESS_TARGET_KB), "--cycles", str(bench.plan.cycles)]
        finished = _succeed(bench, _sessionstore(*arguments, "--sample-every", "10", *options))
        return _memory_figures(finished, cycles=bench.plan.cycles)

    turns: dict[str, Turn] = {
        REUSING: functools.partial(turn, ["--reuse-loaded-store"]),
        NOT_REUSING: functools.partial(turn, []),
    }
    # A program that starts anew each time has nothing to warm up but the page cache, which its own first cycles do.
    rounds = interleave(
        turns, rounds=bench.plan.stress_rounds, before_turn=bench.before_turn("stress"), warm_up_rounds=0
    )
    return Section(
        name="stress",
        title=f"sessionstore stress --target-kb {STRESS_TARGET_KB} --cycles {bench.plan.cycles}",
        method=f"one process per turn; growth is the largest sample after cycle {SETTLED_CYCLE} less that of cycle 10",
        quantities=_MEMORY_QUANTITIES,
        rounds=rounds,
        limit_line=PEAK_BAR.limit,
        verdicts=judge_stress(rounds),
    )


def judge_stress(rounds: Rounds) -> tuple[Verdict, ...]:
    """Peak and growth of the run that the bars name; the worst round counts, because memory does not average."""
    verdicts: list[Verdict] = []
    for bar, quantity in ((GROWTH_BAR, "growth_mb"), (PEAK_BAR, "peak_mb")):
        series = rounds.of(subject=REUSING, quantity=quantity)
        worst = estimate([max(series.rounds)]) if series else None
        remark = "worst round" if series else rounds.why_missing(REUSING)
        verdicts.append(judge(bar, worst, remark=remark))
    return tuple(verdicts)


def run_cycles(bench: Bench) -> Section:
    """The same cycle (load everything, update one entry) with every peer, each in a process of its own."""

    def turn(kind: PeerClass) -> Mapping[str, float]:
        directory = bench.new_directory("cycles")
        kind.create(str(directory), bench.store(LARGE).sessions)
        arguments = (sys.executable, "-m", "benchmarks.cycles", kind.__name__, str(directory), str(bench.plan.cycles))
        return _memory_figures(_succeed(bench, arguments), cycles=bench.plan.cycles)

    rounds = interleave(
        {kind.name: functools.partial(turn, kind) for kind in CYCLED},
        rounds=1,
        before_turn=bench.before_turn("cycles"),
        warm_up_rounds=0,
    )
    return Section(
        name="cycles",
        title=f"{bench.plan.cycles} cycles of load everything and update one entry, {LARGE.name}",
        method="one process per peer, one run: every entry is decoded in every cycle",
        quantities=_MEMORY_QUANTITIES,
        rounds=rounds,
        reference=JsonWithFilelock.name,
    )


def run_status(bench: Bench) -> Section:
    """`sessionstore status --json` and an interpreter that does nothing, started in turns."""
    turns: dict[str, Turn] = {
        BARE: functools.partial(_start_figures, bench, (sys.executable, "-c", "pass")),
        STATUS_LARGE: functools.partial(_start_figures, bench, _status(bench, LARGE)),
        STATUS_SMALL: functools.partial(_start_figures, bench, _status(bench, SMALL)),
    }
    rounds = interleave(turns, rounds=bench.plan.command_rounds, before_turn=bench.before_turn("status"))
    return Section(
        name="status",
        title="Start a program",
        method="one process per turn; peak memory from wait4(2)",
        quantities=(Quantity("ms", "ms"), Quantity("cpu_ms", "ms of processor"), Quantity("peak_mb", "peak MB")),
        rounds=rounds,
        reference=BARE,
        verdicts=judge_status(rounds),
    )


def judge_status(rounds: Rounds) -> tuple[Verdict, ...]:
    """What `status --json` adds to a bare interpreter."""
    verdicts: list[Verdict] = []
    for subject in (STATUS_LARGE, STATUS_SMALL):
        for bar, quantity in ((STATUS_MEMORY_BAR, "peak_mb"), (STATUS_TIME_BAR, "ms")):
            ours, bare = (rounds.of(subject=name, quantity=quantity) for name in (subject, BARE))
            remark = subject if ours and bare else rounds.why_missing(subject, BARE)
            verdicts.append(judge(bar, difference(ours, bare) if ours and bare else None, remark=remark))
    return tuple(verdicts)


def sample_memory(table: str, *, cycles: int) -> Sampled:
    """Read a table whose heading starts with `cycle rss_mb`, and check that it reaches the last cycle.

    Raises:
        TurnFailedError: there is no such table, or it ends early.
    """
    lines = [line.split() for line in table.splitlines()]
    heading = next((number for number, line in enumerate(lines) if line[:2] == ["cycle", "rss_mb"]), None)
    if heading is None:
        raise TurnFailedError(f"no line 'cycle rss_mb ...' in the output: {table[:200]!r}")
    rss_mb = {int(line[0]): float(line[1]) for line in lines[heading + 1 :] if line and line[0].isdigit()}
    if cycles not in rss_mb or SETTLED_CYCLE not in rss_mb:
        raise TurnFailedError(f"the table has cycles {sorted(rss_mb)}; {SETTLED_CYCLE} and {cycles} are needed")
    settled_mb = rss_mb[SETTLED_CYCLE]
    later_mb = max(value for cycle, value in rss_mb.items() if cycle > SETTLED_CYCLE)
    return Sampled(first_mb=rss_mb[min(rss_mb)], last_mb=rss_mb[cycles], growth_mb=later_mb - settled_mb)


_MEMORY_QUANTITIES = (
    Quantity("peak_mb", "peak MB"),
    Quantity("first_mb", "first sample MB"),
    Quantity("last_mb", "last sample MB"),
    Quantity("growth_mb", f"growth after {SETTLED_CYCLE} MB"),
    Quantity("elapsed_s", "s"),
)


def _memory_figures(finished: Finished, *, cycles: int) -> Mapping[str, float]:
    sampled = sample_memory(finished.stdout, cycles=cycles)
    return {
        "peak_mb": finished.peak_rss_mb,
        "first_mb": sampled.first_mb,
        "last_mb": sampled.last_mb,
        "growth_mb": sampled.growth_mb,
        "elapsed_s": finished.elapsed_ms / 1e3,
    }


def _start_figures(bench: Bench, arguments: Sequence[str]) -> Mapping[str, float]:
    finished = _succeed(bench, arguments)
    return {"ms": finished.elapsed_ms, "cpu_ms": finished.cpu_ms, "peak_mb": finished.peak_rss_mb}


def _succeed(bench: Bench, arguments: Sequence[str]) -> Finished:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OPENCLAW_SESSION_")}
    finished = launch(
        arguments,
        directory=bench.directory,
        environ={**environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(bench.directory)},
    )
    if finished.exit_code:
        raise TurnFailedError(f"{' '.join(arguments[1:4])} ended with {finished.exit_code}: {finished.stderr[-300:]}")
    return finished


def _status(bench: Bench, shape: StoreShape) -> tuple[str, ...]:
    directory = bench.new_directory("status")
    SessionStorePeer.create(str(directory), bench.store(shape).sessions)
    return _sessionstore("--store", str(directory / FILE_NAME), "status", "--json")


def _sessionstore(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "sessionstore", *arguments)
