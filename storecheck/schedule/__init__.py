"""Who runs next: the executor of simulated processes, the strategies that search schedules, what a search may claim."""

from .dpor import Dpor
from .executor import KILL, Deadlock, Executor, Member, ProcessKilled, Task
from .faults import Fault, FaultPlan, PendingCall, Policy
from .strategies import UNBOUNDED, PreemptionBounded, RandomSchedules, Replay, ReplayDiverged, Strategy
from .verdict import Exhausted, Sampled, Verdict

__all__ = [
    "KILL",
    "UNBOUNDED",
    "Dpor",
    "Deadlock",
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
