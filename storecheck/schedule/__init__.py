"""Who runs next: the executor of simulated processes, the strategies that search schedules, what a search may claim."""

from storecheck.schedule.dpor import Dpor
from storecheck.schedule.executor import KILL, Deadlock, Executor, Member, ProcessKilled, Task
from storecheck.schedule.faults import Fault, FaultPlan, PendingCall, Policy
from storecheck.schedule.strategies import (
    UNBOUNDED,
    PreemptionBounded,
    RandomSchedules,
    Replay,
    ReplayDiverged,
    Strategy,
)
from storecheck.schedule.verdict import Exhausted, Sampled, Verdict

__all__ = [
    "KILL",
    "UNBOUNDED",
    "Deadlock",
    "Dpor",
    "Executor",
    "Exhausted",
    "Fault",
    "FaultPlan",
    "Member",
    "PendingCall",
    "Policy",
    "PreemptionBounded",
    "ProcessKilled",
    "RandomSchedules",
    "Replay",
    "ReplayDiverged",
    "Sampled",
    "Strategy",
    "Task",
    "Verdict",
]
