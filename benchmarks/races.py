"""How fast simulated schedules are replayed by real processes.

`python -m benchmarks.races [--schedules N]` takes the schedules of two processes with one update each, those with at
most one preemption first, and leads real children through them on a file system in memory, several runs at once. Wall
time, because that is what a nightly sample costs: other work on the machine counts. The processor time beside it does
not: with two free cores, twice its reciprocal is the most that can be had.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import psutil

from storecheck import Operation, PreemptionBounded, Program, process
from storecheck.processes import ControlledRunner, Script
from storecheck.processes.controlled import LANES

SCHEDULES_PER_S = 500
SCHEDULES = 600
PREEMPTIONS = 1

PROGRAMS = {
    "a counter under flock": Program(
        adapter="storecheck.adapters:LockedCounter",
        files={"counter": b"0"},
        processes=(process(Operation("add")), process(Operation("add"))),
    ),
    "the store": Program(
        adapter="tests.crash.adapter:Writer",
        processes=(process(Operation("add", {"key": "a"})), process(Operation("add", {"key": "b"}))),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one program took."""

    schedules: int
    calls: int
    simulated_per_s: float
    replayed_per_s: float
    processor_ms: float


def measure(program: Program, *, schedules: int) -> Speed:
    """Record the schedules, then replay them; every replay must agree."""
    scripts: list[Script] = []
    search = PreemptionBounded(PREEMPTIONS).search(program)
    with ControlledRunner(program) as runner:
        started_s = time.perf_counter()
        while len(scripts) < schedules and (chooser := search.next_chooser()) is not None:
            scripts.append(runner.record(chooser))
            search.executed(scripts[-1].execution.choices)
        recorded_s = time.perf_counter() - started_s
        # The first replays wait for the children to load their modules.
        runner.replay_scripts(scripts[:LANES])
        repeated = [scripts[number % len(scripts)] for number in range(schedules)]
        started_s, used_s = time.perf_counter(), processor_s(runner)
        calls = 0
        for real in runner.replay_scripts(repeated):
            assert real.agrees, real.divergence
            calls += real.calls
        replayed_s, used_s = time.perf_counter() - started_s, processor_s(runner) - used_s
    return Speed(
        schedules=schedules,
        calls=calls,
        simulated_per_s=len(scripts) / recorded_s,
        replayed_per_s=schedules / replayed_s,
        processor_ms=used_s / schedules * 1_000,
    )


def processor_s(runner: ControlledRunner) -> float:
    """Processor time of this process and of the children that live."""
    return time.process_time() + sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in runner.pids())


def main() -> int:
    """Measure and print; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    arguments = parser.parse_args()
    missed = False
    for name, program in PROGRAMS.items():
        speed = measure(program, schedules=arguments.schedules)
        met = speed.replayed_per_s >= SCHEDULES_PER_S
        missed = missed or not met
        print(
            f"{name}: {speed.schedules} schedules, {speed.calls / speed.schedules:.0f} calls each: "
            f"{speed.replayed_per_s:.0f} replayed per second by real processes (bar {SCHEDULES_PER_S}: "
            f"{'met' if met else 'MISSED'}), {speed.processor_ms:.2f} ms of processor time each; "
            f"{speed.simulated_per_s:.0f} per second recorded in the simulation"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
