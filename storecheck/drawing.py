"""Hypothesis draws the program and the computer; the schedules are searched natively, a fixed number for each program.

Drawing every scheduling decision would make Hypothesis shrink schedules one decision at a time; measured on a narrow
bug, that took some thirty times as many runs as drawing only the program and searching its schedules. A failure
shrinks to a small program, and `verify` minimises the schedule and shows its lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from storecheck.counterexample import Counterexample, from_failure
from storecheck.explore import MAX_EXECUTIONS_DEFAULT, Check, Exploration, explore, sizes_of
from storecheck.lanes import render
from storecheck.machine import MachineParameters
from storecheck.program import Json, Operation, ProcessProgram, Program
from storecheck.schedule import Strategy
from storecheck.syscalls import Transform

GRANULARITIES_NS: Final = (1, 4_000_000, 1_000_000_000, 2_000_000_000)
"""Stamps of new kernels, of a 250 Hz tick, of ext3 and HFS+, of FAT."""

NO_FILES: Final[Mapping[str, bytes]] = {}
NO_PARAMETERS: Final[Mapping[str, Json]] = {}


@dataclass(slots=True)
class Telling:
    """How `verify` tells of a failure. pytest's option `--as-found` changes it for the whole process."""

    minimised: bool = True


TELLING: Final = Telling()


class ScheduleFailure(AssertionError):  # noqa: N818 - what failed is a schedule
    """A schedule breaks the check. `counterexample` replays it."""

    def __init__(
        self, message: str, counterexample: Counterexample, found_sizes: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(message)
        self.counterexample = counterexample
        self.found_sizes = found_sizes


def machines(*, uid: int = 1000) -> st.SearchStrategy[MachineParameters]:
    """Computers that differ in what stale caches stumble over: stamps, reuse of inode numbers, the speed of clocks."""
    return st.builds(
        MachineParameters,
        stamp_granularity_ns=st.sampled_from(GRANULARITIES_NS),
        inode_reuse=st.sampled_from(("lowest", "never")),
        step_ns=st.sampled_from((1_000, 0, 1_000_000)),
        uid=st.just(uid),
    )


def programs(
    *,
    adapter: str,
    operations: st.SearchStrategy[Operation],
    files: st.SearchStrategy[Mapping[str, bytes]] | None = None,
    parameters: st.SearchStrategy[Mapping[str, Json]] | None = None,
    computers: st.SearchStrategy[MachineParameters] | None = None,
    foreign: st.SearchStrategy[ProcessProgram] | None = None,
    processes_max: int = 3,
    operations_max: int = 3,
) -> st.SearchStrategy[Program]:
    """Programs of two to `processes_max` processes with one to `operations_max` operations each.

    Args:
        adapter: import path of the adapter under test.
        operations: draws one operation.
        files: draws the initial files; none if left out.
        parameters: draws the adapters' parameters (limits, times to live); none if left out.
        computers: draws the machine; `machines()` if left out.
        foreign: draws one further process with an adapter of its own, such as a writer that ignores the lock.
        processes_max: most processes, without the foreign one.
        operations_max: most operations of one process.
    """
    process = st.lists(operations, min_size=1, max_size=operations_max).map(
        lambda drawn: ProcessProgram(operations=tuple(drawn))
    )
    own = st.lists(process, min_size=1 if foreign is not None else 2, max_size=processes_max).map(tuple)
    everyone = own if foreign is None else st.tuples(own, foreign).map(lambda parts: (*parts[0], parts[1]))
    return st.builds(
        Program,
        adapter=st.just(adapter),
        processes=everyone,
        files=files if files is not None else st.just(NO_FILES),
        parameters=parameters if parameters is not None else st.just(NO_PARAMETERS),
        machine=computers if computers is not None else machines(),
    )


def verify(
    program: Program,
    *,
    strategy: Strategy,
    check: Check,
    check_path: str | None = None,
    transform: Transform | None = None,
    max_executions: int = MAX_EXECUTIONS_DEFAULT,
    shrink_program: bool = False,
) -> Exploration:
    """Search the program's schedules; returns what was searched, or fails with the minimised schedule.

    Args:
        program: drawn or written.
        strategy: which schedules, and how many.
        check: what every run must satisfy.
        check_path: import path of the check, for the counterexample.
        transform: a planted bug.
        max_executions: see `explore`.
        shrink_program: for a program that was not drawn, and that Hypothesis therefore does not shrink.

    Raises:
        ScheduleFailure: the message shows the lanes; `counterexample` is the document to replay and commit.
    """
    result = explore(
        program,
        strategy=strategy,
        check=check,
        transform=transform,
        max_executions=max_executions,
        minimise=TELLING.minimised,
        shrink_program=shrink_program,
    )
    if result.failure is None:
        return result
    document = from_failure(
        result.failure,
        title=result.failure.finding.message,
        verdict=str(result.verdict),
        check=check_path,
        planted=transform,
    )
    lanes = "\n".join(render(document.trace, processes=len(document.program.processes)))
    raise ScheduleFailure(
        f"{result.failure.finding.message}\nexecution {result.executions}, "
        f"{'minimised to' if TELLING.minimised else 'as found:'} "
        f"{len(document.program.processes)} processes, {document.program.operations()} operations, "
        f"{result.failure.preemptions} preemptions\n{lanes}",
        document,
        None if result.found is None else sizes_of(result.found),
    )
