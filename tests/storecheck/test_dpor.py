"""Partial order reduction: few schedules, and no outcome lost.

Goal: the exhaustive claim of `Dpor` is true. Method: on programs small enough for plain depth-first search over every
schedule, both must reach the same set of final states, and the reduction must need far fewer runs.
"""

from __future__ import annotations

import pytest

from storecheck import Dpor, Execution, Exhausted, MachineParameters, Operation, ProcessProgram, Program, process
from storecheck.explore import explore
from storecheck.schedule import UNBOUNDED, Strategy
from tests.storecheck.test_explore import ADD, counting, no_addition_lost

TIMELESS = MachineParameters(step_ns=0, time_choice="all")


def files(*operations: Operation) -> ProcessProgram:
    """A process that works on plain files."""
    return process(*operations, adapter="storecheck.adapters:Files")


def program(*processes: ProcessProgram, adapter: str = "BareCounter") -> Program:
    """A small program on a machine without hidden time."""
    return Program(
        adapter=f"storecheck.adapters:{adapter}",
        files={"counter": b"0", "f": b"x"},
        processes=processes,
        machine=TIMELESS,
    )


def rewrite(name: str, content: str) -> Operation:
    """Write a file in place."""
    return Operation("rewrite", {"name": name, "content": content})


def replace(name: str, content: str) -> Operation:
    """Publish a file by rename."""
    return Operation("replace", {"name": name, "content": content})


READ = Operation("read", {"name": "f"})

PROGRAMS = {
    "bare counter": program(process(ADD), process(ADD)),
    "rename against reader": program(files(replace("f", "1")), files(READ)),
    "rename against rename": program(files(replace("f", "1")), files(replace("f", "2"))),
    "unrelated files": program(files(rewrite("a", "1")), files(rewrite("b", "1"))),
    "rewrite against remove": program(files(rewrite("f", "1")), files(Operation("remove", {"name": "f"}))),
    "three that remove": program(*[files(Operation("remove", {"name": "f"}))] * 3),
    "two that remove, one that touches": program(
        *[files(Operation("remove", {"name": "f"}))] * 2, files(Operation("touch", {"name": "f", "mtime_ns": 5}))
    ),
    "sleepers": program(
        files(Operation("sleep", {"seconds": 1}), rewrite("f", "1")), files(Operation("sleep", {"seconds": 2}), READ)
    ),
    "locks in opposite order": Program(
        adapter="tests.storecheck.subjects:TwoLocks",
        processes=tuple(
            process(Operation("both", {"first": first, "second": second})) for first, second in (("a", "b"), ("b", "a"))
        ),
        machine=TIMELESS,
    ),
}

UNBOUNDED_EXECUTIONS_MAX = 12_000
"""More than plain search needs for any of these programs."""


def final_states(program: Program, strategy: Strategy) -> tuple[set[object], int]:
    """Every final state (files, answers, deadlock) that a strategy reaches, and the runs it took."""
    from storecheck.runner import Runner

    runner, search, found, runs = Runner(program), strategy.search(program), set(), 0
    while (chooser := search.next_chooser()) is not None:
        execution = runner.run(chooser, step_log=search.step_log())
        search.executed(execution.choices)
        runs += 1
        assert runs <= UNBOUNDED_EXECUTIONS_MAX
        if not search.redundant():
            found.add(state_of(execution))
    return found, runs


def state_of(execution: Execution) -> object:
    """What distinguishes final states, apart from the order in which they came about."""
    answers = sorted((record.process, str(record.operation), repr(record.result)) for record in execution.operations)
    return (tuple(sorted(execution.files().items())), tuple(answers), execution.deadlock is not None)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_reduction_reaches_the_same_final_states_as_plain_search(name: str) -> None:
    """No outcome is lost by the reduction, and it is one."""
    reduced, few = final_states(PROGRAMS[name], Dpor())
    plain, many = final_states(PROGRAMS[name], UNBOUNDED)
    assert reduced == plain
    assert few < many


def test_the_claim_is_exhaustive() -> None:
    """A correct program is verified for every interleaving, in very few runs."""
    result = explore(counting("LockedCounter", machine=TIMELESS), strategy=Dpor(), check=no_addition_lost)
    assert result.failure is None
    assert isinstance(result.verdict, Exhausted)
    assert result.verdict.bound == "every interleaving, up to the order of independent calls"


@pytest.mark.parametrize("machine", [MachineParameters(), MachineParameters(step_ns=0)], ids=["clock runs", "timeouts"])
def test_a_program_whose_time_depends_on_the_schedule_is_refused(machine: MachineParameters) -> None:
    """Where the claim would be false, there is none."""
    with pytest.raises(ValueError, match="step_ns=0"):
        explore(counting("BareCounter", machine=machine), strategy=Dpor())


def test_kills_are_refused() -> None:
    """Kills are no steps of the reduction."""
    with pytest.raises(ValueError, match="kills"):
        explore(counting("BareCounter", kills=1, machine=TIMELESS), strategy=Dpor())
