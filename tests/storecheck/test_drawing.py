"""Programs drawn by Hypothesis, schedules searched natively.

Goal: a race that needs the right program and the right schedule is found, and comes back as the smallest program with
the fewest preemptions. Method: counters and foreign writers from `storecheck.adapters`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storecheck import Execution, Exhausted, Operation, PreemptionBounded, Program, process
from storecheck.counterexample import replay
from storecheck.drawing import ScheduleFailure, machines, programs, verify
from tests.storecheck.test_explore import no_addition_lost

CHECK = "tests.storecheck.test_explore:no_addition_lost"
ADDITIONS = st.builds(lambda amount: Operation("add", {"amount": amount}), st.just(1))
COUNTER = st.just({"counter": b"0"})


@settings(max_examples=10)
@given(programs(adapter="storecheck.adapters:LockedCounter", operations=ADDITIONS, files=COUNTER, operations_max=2))
def test_a_correct_store_survives_every_drawn_program(program: Program) -> None:
    """Whatever the program and the computer, the locked counter loses nothing within one preemption."""
    result = verify(program, strategy=PreemptionBounded(1), check=no_addition_lost)
    assert isinstance(result.verdict, Exhausted)


def test_a_failure_shrinks_to_the_smallest_program_and_replays() -> None:
    """Hypothesis and the minimiser together leave two processes with one operation each, and a document."""

    @settings(max_examples=20, database=None, derandomize=True)
    @given(programs(adapter="storecheck.adapters:RenamingCounter", operations=ADDITIONS, files=COUNTER))
    def search(program: Program) -> None:
        verify(program, strategy=PreemptionBounded(1), check=no_addition_lost, check_path=CHECK, max_executions=200)

    with pytest.raises(ScheduleFailure, match="2 processes, 2 operations, 1 preemptions") as raised:
        search()
    assert "OVERWRITES v1" in str(raised.value)
    assert replay(raised.value.counterexample).same


def test_a_foreign_process_has_an_adapter_of_its_own() -> None:
    """One process more, which works past the store's lock, and is seen to."""
    writer = process(Operation("replace", {"name": "counter", "content": "40"}), adapter="storecheck.adapters:Files")

    def writer_survives(execution: Execution) -> str | None:
        return None if execution.files()["counter"] in (b"40", b"41") else "the writer was overrun"

    @settings(max_examples=5, database=None, derandomize=True)
    @given(
        programs(
            adapter="storecheck.adapters:LockedCounter",
            operations=ADDITIONS,
            files=COUNTER,
            foreign=st.just(writer),
            processes_max=1,
            operations_max=1,
        )
    )
    def search(program: Program) -> None:
        assert [part.adapter for part in program.processes] == [None, "storecheck.adapters:Files"]
        verify(
            program,
            strategy=PreemptionBounded(1),
            check=lambda execution: (
                None if execution.files()["counter"] in (b"40", b"41") else "the writer was overrun"
            ),
        )

    with pytest.raises(ScheduleFailure, match="the writer was overrun"):
        search()


@given(machines())
@settings(max_examples=20)
def test_drawn_machines_survive_json(machine: object) -> None:
    """What is drawn can be written into a document and read back."""
    from storecheck import MachineParameters

    assert isinstance(machine, MachineParameters)
    assert MachineParameters.from_json(machine.to_json()) == machine
