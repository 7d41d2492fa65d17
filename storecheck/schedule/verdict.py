"""What a search may claim.

Two values that never mix: `Exhausted` says that every schedule within a stated bound was executed; `Sampled` says that
so many were executed, and nothing about the others. A search that was cut (by executions, or because single runs were
cut) has sampled, however systematic it was.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """Every schedule within `bound` was executed, in `executions` runs.

    Attributes:
        bound: such as "2 preemptions", or "every interleaving of calls that take no time, …".
        executions: runs it took.
    """

    bound: str
    executions: int

    def __str__(self) -> str:
        return f"exhausted within {self.bound} ({self.executions} executions)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """`executions` schedules were executed; others exist.

    Attributes:
        executions: how many runs.
        cut_by: the limit that kept a systematic search from its end, such as "max_executions=500"; empty for a search
            that samples by design.
    """

    executions: int
    cut_by: str = ""

    def __str__(self) -> str:
        reason = f", cut by {self.cut_by}" if self.cut_by else ""
        return f"sampled {self.executions} schedules{reason}"


Verdict = Exhausted | Sampled
