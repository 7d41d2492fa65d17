"""Which system calls of one update can fail, and by which errors.

Found out by running the update once, undisturbed, in the simulation. What can befall a call is said by the manual pages
of Linux, as far as disks do it: no room, and a broken disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from storecheck.faults.injector import CALLS_OF
from storecheck.program import Program, process
from storecheck.runner import Runner
from storecheck.schedule import Fault, PreemptionBounded
from storecheck.schedule.faults import PendingCall

CALLS_MAX: Final = 200
"""Calls of an update that are made to fail. Each costs a run for each error."""

_ON_BOTH: Final = ("symlink", "ftruncate", "truncate", "posix_fallocate", "copy_file_range", "sendfile")

CALLS_BEFALLEN: Final[Mapping[str, frozenset[str]]] = {
    "ENOSPC": frozenset((*CALLS_OF["ENOSPC"], *_ON_BOTH)),
    "EIO": frozenset((*CALLS_OF["EIO"], *_ON_BOTH, "remove", "rmdir", "chmod", "chown", "lchown", "utime", "readv")),
}
"""The calls that `sessionstore` makes, and others that other stores make. `create` is an open that makes a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingCalls:
    """What is made to go wrong in one update.

    Attributes:
        calls: how many calls are made to fail.
        failures: one for each of them and each error that can befall it, with the name of the call.
        left_out: how many calls after them could fail, too.
    """

    calls: int
    failures: tuple[tuple[str, Fault], ...]
    left_out: int

    def __str__(self) -> str:
        more = f"; {self.left_out} more were not tried" if self.left_out else ""
        errors = " or ".join(CALLS_BEFALLEN)
        return f"{len(self.failures)} failures ({errors}) of {self.calls} calls, each alone{more}"


def failing_calls(program: Program) -> FailingCalls:
    """Every call of the program's only process that can fail, but for those that open the store.

    Raises:
        NoEvidence: the code under test needs something that is not simulated.
    """
    opening = len(_calls_of(replace(program, processes=(process(),))))
    able = [
        (call, pending.name, errors)
        for call, pending in enumerate(_calls_of(program))
        if call >= opening and (errors := _errors_of(pending))
    ]
    return FailingCalls(
        calls=min(len(able), CALLS_MAX),
        failures=tuple(
            (name, Fault(process=0, call=call, kind="errno", error=error))
            for call, name, errors in able[:CALLS_MAX]
            for error in errors
        ),
        left_out=len(able[CALLS_MAX:]),
    )


def _errors_of(pending: PendingCall) -> list[str]:
    kinds = {pending.name}
    if pending.name == "open" and isinstance(pending.arguments[1], int) and pending.arguments[1] & os.O_CREAT:
        kinds.add("create")
    return [error for error, befallen in CALLS_BEFALLEN.items() if kinds & befallen]


def _calls_of(program: Program) -> list[PendingCall]:
    """The calls of a process that nobody disturbs."""
    calls: list[PendingCall] = []

    def listen(pending: PendingCall) -> Fault | None:
        calls.append(pending)
        return None

    chooser = PreemptionBounded(0).search(program).next_chooser()
    assert chooser is not None
    Runner(program).run(chooser, policy=listen)
    return calls


__all__ = ["CALLS_BEFALLEN", "FailingCalls", "failing_calls"]
