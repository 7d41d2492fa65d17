"""Searching schedules: what is found, how small it comes back, and what the search claims.

Goal: the claims of a search are true, and a race is found by construction rather than by luck. Method: three counters
whose races everybody knows (`storecheck.adapters`).
"""

from __future__ import annotations

import pytest

from storecheck import (
    Execution,
    Exhausted,
    Fault,
    MachineParameters,
    NoEvidence,
    Operation,
    PreemptionBounded,
    ProcessProgram,
    Program,
    ProgramError,
    RandomSchedules,
    Sampled,
    process,
)
from storecheck.explore import explore

ADD = Operation("add")


def counting(
    adapter: str, *, processes: int = 2, operations: int = 1, kills: int = 0, machine: MachineParameters | None = None
) -> Program:
    """A program in which every process adds to one number."""
    return Program(
        adapter=f"storecheck.adapters:{adapter}",
        files={"counter": b"0"},
        processes=tuple(process(*[ADD] * operations) for _ in range(processes)),
        kills=kills,
        machine=machine or MachineParameters(),
    )


def no_addition_lost(execution: Execution) -> str | None:
    """Every acknowledged addition is in the file."""
    acknowledged = sum(record.outcome == "returned" for record in execution.operations)
    stored = int(execution.files()["counter"])
    return None if stored >= acknowledged else f"{acknowledged} additions acknowledged, the file says {stored}"


@pytest.mark.parametrize("adapter", ["BareCounter", "RenamingCounter"])
@pytest.mark.parametrize("strategy", [PreemptionBounded(1), RandomSchedules(executions=200)], ids=["bounded", "random"])
def test_a_lost_update_is_found_and_minimised_to_two_operations_and_one_preemption(
    adapter: str, strategy: PreemptionBounded | RandomSchedules
) -> None:
    """A read-modify-write without a lock loses an update, and the failure comes back as small as can be."""
    result = explore(counting(adapter, processes=3, operations=2), strategy=strategy, check=no_addition_lost)
    assert result.failure is not None
    assert [len(part.operations) for part in result.failure.program.processes] == [1, 1]
    assert result.failure.preemptions == 1
    assert result.failure.finding.message == "2 additions acknowledged, the file says 1"


def test_no_preemption_loses_no_update() -> None:
    """Within zero preemptions processes run one after the other, in every order, and nothing is lost."""
    result = explore(counting("BareCounter", processes=3), strategy=PreemptionBounded(0), check=no_addition_lost)
    assert result.failure is None
    assert result.verdict == Exhausted(bound="0 preemptions", executions=6)


def test_a_correct_counter_survives_the_exhausted_bound() -> None:
    """The locked counter loses nothing, and the search says that it has seen every schedule within the bound."""
    result = explore(counting("LockedCounter"), strategy=PreemptionBounded(2), check=no_addition_lost)
    assert result.failure is None
    assert isinstance(result.verdict, Exhausted)
    assert result.verdict.bound == "2 preemptions"
    assert result.verdict.executions == result.executions > 50


def test_a_search_cut_by_executions_never_claims_exhaustion() -> None:
    """A systematic search that is stopped early has sampled, and names what cut it."""
    result = explore(
        counting("LockedCounter"), strategy=PreemptionBounded(2), check=no_addition_lost, max_executions=20
    )
    assert result.verdict == Sampled(executions=20, cut_by="max_executions=20")


def test_runs_cut_by_steps_are_reported_and_never_count_as_exhausted() -> None:
    """Runs stopped after max_steps were not checked, so the search cannot claim its bound."""
    result = explore(counting("LockedCounter"), strategy=PreemptionBounded(0), check=no_addition_lost, max_steps=10)
    assert result.cut_runs == result.executions > 0
    assert isinstance(result.verdict, Sampled)
    assert "max_steps=10" in result.verdict.cut_by


def test_random_schedules_are_the_same_for_the_same_seed() -> None:
    """Two searches with one seed execute the same number of runs and steps."""
    runs = [
        explore(counting("LockedCounter", processes=3), strategy=RandomSchedules(executions=40, seed=7)).steps
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_a_killed_process_frees_its_lock_and_runs_no_finally() -> None:
    """Whoever is killed, wherever: the others go on, and an acknowledged addition is never lost."""
    result = explore(counting("LockedCounter", kills=1), strategy=PreemptionBounded(1), check=no_addition_lost)
    assert result.failure is None
    assert isinstance(result.verdict, Exhausted)


def test_a_fault_reaches_the_call_it_is_meant_for() -> None:
    """An error injected into one call of one process is what that process sees, and only that process."""
    fault = Fault(process=0, call=0, kind="errno", error="EMFILE")

    def check(execution: Execution) -> str | None:
        outcomes = {record.process: record.error for record in execution.operations}
        return None if outcomes == {0: "OSError", 1: None} else f"unexpected outcomes {outcomes}"

    result = explore(counting("LockedCounter"), strategy=PreemptionBounded(1), check=check, faults=(fault,))
    assert result.failure is None, result


def test_a_circle_of_locks_is_a_finding_with_the_circle() -> None:
    """Two processes that take two locks in opposite order deadlock, and the finding names who waits for whom."""
    program = Program(
        adapter="tests.storecheck.subjects:TwoLocks",
        processes=(process(Operation("both", {"first": "a", "second": "b"})),) * 1
        + (process(Operation("both", {"first": "b", "second": "a"})),),
    )
    result = explore(program, strategy=PreemptionBounded(1))
    assert result.failure is not None
    assert result.failure.finding.kind == "deadlock"
    assert "P1 waits for flock on 'store/b' held by P2" in result.failure.finding.message
    assert "in a circle: P1 -> P2 -> P1" in result.failure.finding.message


def test_a_circle_of_thread_locks_is_a_finding() -> None:
    """Threads of one process deadlock on `threading.Lock` and are named."""
    program = Program(
        adapter="tests.storecheck.subjects:ThreadLocks",
        processes=(
            ProcessProgram(
                operations=(Operation("both", {"first": 0, "second": 1}),),
                threads=((Operation("both", {"first": 1, "second": 0}),),),
            ),
        ),
    )
    result = explore(program, strategy=PreemptionBounded(1))
    assert result.failure is not None
    assert result.failure.finding.kind == "deadlock"
    assert "P1.t1" in result.failure.finding.message


def test_a_run_that_reaches_outside_is_no_evidence_even_if_the_error_is_swallowed() -> None:
    """Code that tries a socket, and hides the refusal, cannot pass for verified."""
    program = Program(adapter="tests.storecheck.subjects:Outside", processes=(process(Operation("call_home")),))
    with pytest.raises(NoEvidence, match=r"socket\.socket"):
        explore(program, strategy=PreemptionBounded(0))


@pytest.mark.parametrize("adapter", ["storecheck.adapters:Nothing", "no.such.module:Thing", "storecheck.adapters"])
def test_an_adapter_that_cannot_be_imported_is_named(adapter: str) -> None:
    """A wrong adapter path is an error that shows the path."""
    with pytest.raises(ProgramError, match=adapter):
        explore(Program(adapter=adapter, processes=(process(ADD),)), strategy=PreemptionBounded(0))
