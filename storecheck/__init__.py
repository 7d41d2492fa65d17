"""The verifier: runs file-backed stores under controlled schedules, faults and crashes, and checks what they promise.

pytest runs the checks; `storecheck.pytest_plugin` ties tests to promises and ends a run with a verdict. Knows no
particular store: the promises, the models and the store under test belong to the project that uses it.

Every interleaving that matters, on a simulated machine::

    from storecheck import Operation, PreemptionBounded, Program, process
    from storecheck.explore import explore

    # package/adapter.py, executed unmodified inside every simulated process:
    #     class Adapter:
    #         def __init__(self, root): self.store = MyStore(f"{root}/store.json")
    #         def add(self, key): ...                     # an operation; arguments and result are JSON values

    program = Program(
        adapter="package.adapter:Adapter",
        files={"store.json": b"{}"},                      # below `root`
        processes=(process(Operation("add", {"key": "a"})), process(Operation("add", {"key": "b"}))),
    )

    def check(execution):                                 # what is wrong with this run, or None
        stored = json.loads(execution.files()["store.json"])
        done = [record for record in execution.operations if record.outcome == "returned"]
        return None if len(stored) == len(done) else f"{len(done)} acknowledged, {len(stored)} stored"

    result = explore(program, strategy=PreemptionBounded(2), check=check)
    result.verdict        # Exhausted(bound="2 preemptions", executions=…) or Sampled(executions=…), never confused
    result.failure        # None, or the minimised failure: program, choices (the schedule), finding, execution

`execution.history()` is a `storecheck.history.History` for `storecheck.linearizability`. Settings of the computer
(granularity of stamps, inode reuse, ENOSPC, whether time may jump to a sleeper's wake time, …) are
`Program(machine=MachineParameters(…))`; killed processes `Program(kills=1)`; faults at given calls
`explore(faults=(Fault(process=0, call=7, kind="errno", error="EIO"),))`; planted bugs
`explore(transform=lambda module_name, source: …)`. Strategies: `PreemptionBounded(n)`, `Dpor()` for small programs,
`RandomSchedules(executions=n, seed=s)`, `Replay(choices)`. `storecheck.drawing` draws programs with Hypothesis and
fails with lanes; `storecheck.counterexample` writes and replays failures; `storecheck.adapters` has foreign writers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storecheck.explore import Check, Exploration, Failure, Finding
    from storecheck.machine import MOUNT, Machine, MachineParameters
    from storecheck.program import Operation, ProcessProgram, Program, ProgramError, process
    from storecheck.runner import Execution, NoEvidence, OperationRecord, Runner
    from storecheck.schedule import (
        Dpor,
        Exhausted,
        Fault,
        FaultPlan,
        PreemptionBounded,
        RandomSchedules,
        Replay,
        ReplayDiverged,
        Sampled,
        Verdict,
    )

# pytest loads `storecheck.pytest_plugin`, and with it this package, wherever the distribution is installed: also for
# who only uses the store, without greenlet and the rest of the extra `verify`. So names are imported when asked for.
_HOMES = {
    "explore": ("Check", "Exploration", "Failure", "Finding"),
    "machine": ("MOUNT", "Machine", "MachineParameters"),
    "program": ("Operation", "ProcessProgram", "Program", "ProgramError", "process"),
    "runner": ("Execution", "NoEvidence", "OperationRecord", "Runner"),
    "schedule": (
        "Dpor",
        "Exhausted",
        "Fault",
        "FaultPlan",
        "PreemptionBounded",
        "RandomSchedules",
        "Replay",
        "ReplayDiverged",
        "Sampled",
        "Verdict",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "MOUNT",
    "Check",
    "Dpor",
    "Execution",
    "Exhausted",
    "Exploration",
    "Failure",
    "Fault",
    "FaultPlan",
    "Finding",
    "Machine",
    "MachineParameters",
    "NoEvidence",
    "Operation",
    "OperationRecord",
    "PreemptionBounded",
    "ProcessProgram",
    "Program",
    "ProgramError",
    "RandomSchedules",
    "Replay",
    "ReplayDiverged",
    "Runner",
    "Sampled",
    "Verdict",
    "process",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
