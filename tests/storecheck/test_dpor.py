"""Partial order reduction: few schedules, and no outcome lost.

Goal: the exhaustive claim of `Dpor` is true. Method: on programs small enough for plain depth-first search over every
schedule, both must reach the same set of outcomes, and the reduction must need far fewer runs. An outcome is what an
oracle can see: files, answers, and which operation was over when another began.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from models.mutants import mutant_by_id
from models.mutants.interleaving import RACE_OF
from models.searches import RACES
from storecheck import (
    Dpor,
    Execution,
    Exhausted,
    MachineParameters,
    Operation,
    PreemptionBounded,
    ProcessProgram,
    Program,
    process,
)
from storecheck.explore import explore
from storecheck.runner import Runner
from storecheck.schedule import UNBOUNDED, Strategy
from storecheck.syscalls import Transform
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


def anything(*processes: Sequence[Operation]) -> Program:
    """Processes of `subjects.Anything`, each with these operations."""
    return Program(
        adapter="tests.storecheck.subjects:Anything",
        processes=tuple(process(*operations) for operations in processes),
        files={"f": b"x", "g": b"y"},
        machine=TIMELESS,
    )


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
    "a thread that the end of its process cuts off": anything(
        [Operation("exchange_in_two_threads", {"timeout": 1})], [Operation("nap", {"seconds": 1})]
    ),
    "killed by another": anything(
        [Operation("finish", {"pid": 1002, "signal": 9})], [Operation("append", {"name": "f", "text": "1"})]
    ),
    "the order of names": anything(
        *([Operation("change", {"call": "move", "name": name, "other": f"{name}2"})] for name in "fg"),
        [Operation("names")],
    ),
    "a removed file that is open": anything(
        [Operation("hold", {"name": "f"})],
        [Operation("change", {"call": "drop", "name": "f"}), Operation("make", {"name": "new"})],
    ),
    "stamps of a directory": anything(
        [Operation("look", {"name": "."})], [Operation("make", {"name": "new"})], [Operation("nap", {"seconds": 1})]
    ),
    # The shape of planted bug B71i: only a second look that begins after the writer is over shows it.
    "a reader that remembers what was there": anything(
        [Operation("remembered", {"name": "new"})] * 2, [Operation("append", {"name": "new", "text": "1"})]
    ),
}

DRAWN_PROGRAMS = 12
DRAWN_EXECUTIONS, REDUCED_EXECUTIONS = 250, 500

UNBOUNDED_EXECUTIONS_MAX = 12_000
"""More than plain search needs for any of these programs."""


def outcomes(
    program: Program,
    strategy: Strategy,
    *,
    executions_max: int = UNBOUNDED_EXECUTIONS_MAX,
    transform: Transform | None = None,
) -> tuple[set[object], int]:
    """The outcomes that a strategy reaches within a number of runs, and the runs it took: fewer if it was through."""
    runner, search, found, runs = Runner(program, transform=transform), strategy.search(program), set(), 0
    with runner.collecting():
        while runs < executions_max and (chooser := search.next_chooser()) is not None:
            execution = runner.run(chooser, step_log=search.step_log())
            search.executed(execution.choices)
            runs += 1
            if not search.redundant():
                found.add(outcome_of(execution))
    return found, runs


def outcome_of(execution: Execution) -> object:
    """What distinguishes two ends: files, answers, who was stuck, and which operation was over when another began."""
    records = sorted(execution.operations, key=lambda record: (record.process, record.thread, record.invoked_at))
    answers = tuple((str(record), record.responded_at is None) for record in records)
    before = frozenset(
        (earlier, later)
        for (earlier, one), (later, other) in itertools.permutations(enumerate(records), 2)
        if one.responded_at is not None and one.responded_at < other.invoked_at
    )
    return (tuple(sorted(execution.files().items())), answers, execution.ends, execution.deadlock is not None, before)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_reduction_reaches_the_same_outcomes_as_plain_search(name: str) -> None:
    """No outcome is lost by the reduction, and it is one."""
    reduced, few = outcomes(PROGRAMS[name], Dpor())
    plain, many = outcomes(PROGRAMS[name], UNBOUNDED)
    assert reduced == plain
    assert few < many < UNBOUNDED_EXECUTIONS_MAX


def any_of(operation: str, /, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    """An operation of `subjects.Anything` with drawn arguments."""
    return st.fixed_dictionaries(arguments).map(lambda drawn: Operation(operation, drawn))


NAMES = st.sampled_from(("f", "g"))
NAPS = st.sampled_from((1, 2))
ON_FILES = st.one_of(
    any_of("look", name=st.sampled_from(("f", "g", "."))),
    any_of("names"),
    any_of("content", name=NAMES),
    any_of("remembered", name=NAMES),
    any_of("append", name=NAMES, text=st.sampled_from(("1", "2")), create=st.booleans()),
    any_of("make", name=NAMES),
    any_of("hold", name=NAMES),
    any_of("change", call=st.sampled_from(("move", "link", "symlink")), name=NAMES, other=NAMES),
    any_of("change", call=st.sampled_from(("drop", "cut", "touch", "seal", "mkdir", "rmdir")), name=NAMES),
)
ON_THE_CLOCK = st.one_of(
    any_of("now"),
    any_of("nap", seconds=NAPS),
    any_of("jump", seconds=st.sampled_from((-5, 5))),
    any_of("append", name=NAMES, text=st.just("1")),
    any_of("look", name=NAMES),
)
ON_LOCKS = st.one_of(
    any_of("locked", name=st.just("f"), kind=st.sampled_from(("flock", "lockf")), wait=st.booleans()),
    any_of("append", name=st.just("f"), text=st.just("1")),
    any_of("finish", pid=st.sampled_from((1001, 1002)), signal=st.sampled_from((0, 9))),
    any_of("nap", seconds=NAPS),
)
IN_THREADS = any_of("exchange_in_two_threads", timeout=st.sampled_from((-1, 1)))
BESIDE_THREADS = st.one_of(
    any_of("nap", seconds=NAPS), any_of("append", name=st.just("elsewhere"), text=st.just("1")), any_of("now")
)


def of_processes(*operations: st.SearchStrategy[Operation]) -> st.SearchStrategy[Program]:
    """Processes that do one operation each, drawn from these; the first may do another one."""
    others = [st.lists(drawn, min_size=1, max_size=1) for drawn in operations[1:]]
    return st.tuples(st.lists(operations[0], min_size=1, max_size=2), *others).map(lambda drawn: anything(*drawn))


@pytest.mark.parametrize(
    "programs",
    [
        of_processes(ON_FILES, ON_FILES),
        of_processes(ON_THE_CLOCK, ON_THE_CLOCK, ON_THE_CLOCK),
        of_processes(ON_LOCKS, ON_LOCKS),
        of_processes(BESIDE_THREADS, IN_THREADS),
    ],
    ids=["files", "clocks", "locks", "threads"],
)
def test_reduction_reaches_the_same_outcomes_on_drawn_programs(programs: st.SearchStrategy[Program]) -> None:
    """Whatever small programs do, both searches end with the same set of histories, real-time order included."""

    @settings(max_examples=DRAWN_PROGRAMS, deadline=None, phases=[Phase.generate, Phase.shrink])
    @given(programs)
    def both_agree(program: Program) -> None:
        reduced, few = outcomes(program, Dpor(), executions_max=REDUCED_EXECUTIONS)
        plain, many = outcomes(program, UNBOUNDED, executions_max=DRAWN_EXECUTIONS)
        assume(few < REDUCED_EXECUTIONS)
        # A plain search that was not through shows that nothing is missing, if not that nothing is too much.
        assert reduced >= plain if many == DRAWN_EXECUTIONS else reduced == plain

    both_agree()


STORE_EXECUTIONS, STORE_REDUCED_EXECUTIONS = 60, 200


def test_reduction_misses_no_outcome_of_the_store_with_any_planted_bug() -> None:
    """Where it goes through the store's schedules, it has met every outcome that one preemption brings about."""
    race = dataclasses.replace(RACES["a file that appears"].program, machine=TIMELESS)
    for bug in RACE_OF:
        transform = mutant_by_id(bug).transform
        reduced, few = outcomes(race, Dpor(), executions_max=STORE_REDUCED_EXECUTIONS, transform=transform)
        assert few < STORE_REDUCED_EXECUTIONS, bug
        met, _ = outcomes(race, PreemptionBounded(1), executions_max=STORE_EXECUTIONS, transform=transform)
        assert met <= reduced, bug


def test_the_claim_is_exhaustive() -> None:
    """A correct program is verified for every interleaving, in very few runs."""
    result = explore(counting("LockedCounter", machine=TIMELESS), strategy=Dpor(), check=no_addition_lost)
    assert result.failure is None
    assert isinstance(result.verdict, Exhausted)
    assert result.verdict.bound == "every interleaving of calls that take no time, up to the order of independent ones"


@pytest.mark.parametrize("machine", [MachineParameters(), MachineParameters(step_ns=0)], ids=["clock runs", "timeouts"])
def test_a_program_whose_time_depends_on_the_schedule_is_refused(machine: MachineParameters) -> None:
    """Where the claim would be false, there is none."""
    with pytest.raises(ValueError, match="step_ns=0"):
        explore(counting("BareCounter", machine=machine), strategy=Dpor())


def test_kills_are_refused() -> None:
    """Kills are no steps of the reduction."""
    with pytest.raises(ValueError, match="kills"):
        explore(counting("BareCounter", kills=1, machine=TIMELESS), strategy=Dpor())
