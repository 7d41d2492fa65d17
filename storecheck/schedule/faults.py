"""Faults: what can be made to go wrong at a system call, and where.

A `Fault` names the process, its call (counted from 0, all intercepted calls of that process) and what happens there.
Faults are plain values so that a counterexample can carry them. A `Policy` decides while the run goes on; what it did
is recorded as faults.
"""

from __future__ import annotations

import errno as errno_names
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

FaultKind = Literal["errno", "short", "kill", "interrupt"]
KINDS: tuple[FaultKind, ...] = ("errno", "short", "kill", "interrupt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong at call number `call` of process `process`.

    Attributes:
        kind: `errno` the call fails with `error` and does nothing (a `close` closes all the same); `short` a write
            takes only `taken_bytes`; `kill` the process is killed before the call (no `finally` runs); `interrupt`
            KeyboardInterrupt is raised instead of the call.
        error: name of the error, such as "ENOSPC".
        taken_bytes: bytes that a short write takes.
        until_end: the error stays: every later call of the same name in this process fails too.
    """

    process: int
    call: int
    kind: FaultKind
    error: str = ""
    taken_bytes: int = 0
    until_end: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault kind is {self.kind!r}; give one of {', '.join(KINDS)}")
        if self.kind == "errno" and not hasattr(errno_names, self.error):
            raise ValueError(f"fault error is {self.error!r}; give the name of an errno, such as 'ENOSPC'")
        if self.process < 0 or self.call < 0 or self.taken_bytes < 0:
            raise ValueError("process, call and taken_bytes of a fault are counted from 0")

    def error_number(self) -> int:
        """The errno to fail with."""
        number: int = getattr(errno_names, self.error)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCall:
    """A system call about to happen: call number `call` of process `process`, in thread `task`."""

    process: int
    task: int
    call: int
    name: str
    arguments: tuple[object, ...]


class Policy(Protocol):
    """Asked before each intercepted call; returns the fault to apply, or None."""

    def __call__(self, pending: PendingCall) -> Fault | None:
        """The fault for this call."""


class FaultPlan:
    """The policy that applies a fixed list of faults. Holds state (errors that stay): use one per run."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._planned: Mapping[tuple[int, int], Fault] = {(fault.process, fault.call): fault for fault in faults}
        self._staying: dict[tuple[int, str], Fault] = {}

    def __call__(self, pending: PendingCall) -> Fault | None:
        """The planned fault, or one that stays."""
        fault = self._planned.get((pending.process, pending.call))
        if fault is None:
            return self._staying.get((pending.process, pending.name))
        if fault.until_end:
            self._staying[pending.process, pending.name] = fault
        return fault
