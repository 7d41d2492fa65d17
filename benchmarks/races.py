"""How fast simulated schedules are replayed by real processes.

`python -m benchmarks.races [--schedules N]` takes the schedules of two processes with one update each, those with at
most one preemption first, and leads real children through them on a file system in memory. Wall time, because that is
what a nightly sample costs: other work on the machine counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from storecheck import Operation, PreemptionBounded, Program, process
from storecheck.processes import ControlledRunner, Script

SCHEDULES_PER_S = 500
SCHEDULES = 200
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
        # The first replay waits for the children to load their modules.
        runner.replay_script(scripts[0])
        started_s = time.perf_counter()
        calls = 0
        for script in scripts:
            real = runner.replay_script(script)
            assert real.agrees, real.divergence
            calls += real.calls
        replayed_s = time.perf_counter() - started_s
    return Speed(
        schedules=len(scripts),
        calls=calls,
        simulated_per_s=len(scripts) / recorded_s,
        replayed_per_s=len(scripts) / replayed_s,
    )


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
            f"{'met' if met else 'MISSED'}); {speed.simulated_per_s:.0f} per second recorded in the simulation"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
