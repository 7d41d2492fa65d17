"""How fast crash states are checked, how many a save has, and how soon a planted bug is found.

`python -m benchmarks.crash` measures the store's own histories (`models.crashes`) in all models with at most one cut.
*In memory*: enumerate, render and judge, no recovery. *Recovered*: boot a machine with each distinct tree, open the
store in a fresh process, compare, save, compare. Several states, of several models, are one tree: the recoveries made
are held against the bar, and the states that they answer for are shown, too. `--mutants` also runs pytest against each
planted bug. Processor time of one core, which other work on the machine still prolongs; for `--mutants` it is wall time
with a new interpreter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from models.crashes import SCENARIOS, Recovery, Scenario, record_scenario, store_process
from models.mutants.crash_writes import CRASH_MUTANTS
from storecheck.crash import MODELS, CrashStates, Oracle, Recording, crash_states
from storecheck.crash.calibration import record_saver
from storecheck.crash.recovery import CrashReport, check
from storecheck.crash.savers import SAVERS
from storecheck.pytest_plugin import MUTANT_VARIABLE

IN_MEMORY_PER_S = 20_000
RECOVERED_PER_S = 1_000

REPEATS = 9
KILL_TIMEOUT_S = 300
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Rate:
    """Median rate of the repeats, their range, and the bar."""

    name: str
    per_s: float
    slowest_per_s: float
    fastest_per_s: float
    bar_per_s: int

    def __str__(self) -> str:
        hit = "hit" if self.per_s >= self.bar_per_s else "MISSED"
        spread = f"{self.slowest_per_s:,.0f} to {self.fastest_per_s:,.0f}"
        return f"{self.name:50} {self.per_s:>10,.0f}/s ({spread})  bar {self.bar_per_s:,}/s: {hit}"


def rate(name: str, work: Callable[[], int], *, bar_per_s: int) -> Rate:
    """How many per second of processor time; the first round warms up."""
    work()
    rates = []
    for _ in range(REPEATS):
        began_s = time.process_time()
        count = work()
        rates.append(count / (time.process_time() - began_s))
    return Rate(name, statistics.median(rates), min(rates), max(rates), bar_per_s)


def check_in_memory(recordings: Iterable[tuple[Recording, Oracle]], *, cuts: int) -> int:
    """Judge every distinct state; how many."""
    count = 0
    for recording, oracle in recordings:
        states = CrashStates(recording)
        for model in MODELS:
            for state in states.under(model, cuts=cuts):
                oracle.judge(state)
                count += 1
    return count


def recover_all(scenarios: Iterable[Scenario], recordings: Iterable[tuple[Recording, Oracle]]) -> CrashReport:
    """Judge every distinct state and recover from every distinct tree; how many of both."""
    total = CrashReport()
    for scenario, (recording, oracle) in zip(scenarios, recordings, strict=True):
        report = check(recording, oracle, recover=Recovery(scenario, store_process()))
        if report.failures:
            raise RuntimeError(f"the store lost something: {report}")
        total.recoveries += report.recoveries
        total.states += report.states
    return total


def states_per_save(recording: Recording) -> dict[str, float]:
    """Distinct states with at most one cut, divided by operations, per model."""
    saves = sum(label.startswith("ack") for label in recording.marks())
    return {model.name: sum(1 for _ in crash_states(recording, model, cuts=1)) / saves for model in MODELS}


def time_to_kill(identifier: str, killers: Iterable[str]) -> tuple[bool, float]:
    """Run the tests named for a planted bug until the first fails; whether one does, and how long that takes."""
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *killers],
        cwd=ROOT,
        env=os.environ | {MUTANT_VARIABLE: identifier},
        capture_output=True,
        check=False,
        timeout=KILL_TIMEOUT_S,
    )
    # 1 is pytest's word for failed tests; anything else is no test result.
    return done.returncode == 1, time.monotonic() - began_s


def print_states() -> None:
    """Table of states per save."""
    print(f"\n{'distinct states per operation, at most one cut':50}", *(f"{model.name:>14}" for model in MODELS))
    for scenario in SCENARIOS:
        counts = states_per_save(record_scenario(scenario)[0])
        print(f"{scenario.name:50}", *(f"{count:14.1f}" for count in counts.values()))


def print_mutants() -> bool:
    """Table of planted bugs; whether all were found."""
    print(f"\n{'planted bug':60} {'killed':>8} {'wall s':>8}")
    all_killed = True
    for mutant in CRASH_MUTANTS:
        killed, took_s = time_to_kill(mutant.id, mutant.killers)
        all_killed &= killed
        print(f"{mutant.id + ' ' + mutant.bug_class:60} {'yes' if killed else 'NO':>8} {took_s:8.1f}", flush=True)
    return all_killed


def main() -> None:
    """Measure and print; exit 1 if a planted bug survived."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", action="store_true", help="also run pytest against each planted bug (minutes)")
    arguments = parser.parse_args()
    recorded = [record_scenario(scenario) for scenario in SCENARIOS]
    savers = [record_saver(name) for name in SAVERS]
    small = [scenario for scenario in SCENARIOS if scenario.name.startswith("first save")]
    small_recorded = [record_scenario(scenario) for scenario in small]
    for measured in (
        rate("in memory, the store's histories", lambda: check_in_memory(recorded, cuts=1), bar_per_s=IN_MEMORY_PER_S),
        rate(
            "in memory, careless savers, two cuts", lambda: check_in_memory(savers, cuts=2), bar_per_s=IN_MEMORY_PER_S
        ),
        rate(
            "recovered and saved again, small files",
            lambda: recover_all(small, small_recorded).recoveries,
            bar_per_s=RECOVERED_PER_S,
        ),
        rate(
            "recovered and saved again, all histories",
            lambda: recover_all(SCENARIOS, recorded).recoveries,
            bar_per_s=RECOVERED_PER_S,
        ),
        rate(
            "states of all histories, each recovered",
            lambda: recover_all(SCENARIOS, recorded).states,
            bar_per_s=RECOVERED_PER_S,
        ),
    ):
        print(measured, flush=True)
    print_states()
    if arguments.mutants and not print_mutants():
        sys.exit(1)


if __name__ == "__main__":
    main()
