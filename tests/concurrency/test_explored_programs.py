"""Programs that nobody thought of: Hypothesis draws them, their settings and the computer; schedules are searched.

Goal: as for the races, but for what people who write races do not think of. Method: two or three processes with one to
three operations each, of all kinds, aliases, bases and limits included; in one family with a program that ignores the
lock beside them. Each program is run under a fixed number of schedules.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.exploring import FILE, SPELLINGS
from models.searches import FOREIGN, SESSIONS, as_promised
from storecheck import Operation, PreemptionBounded, ProcessProgram, Program, RandomSchedules
from storecheck.drawing import machines, programs, verify
from storecheck.pytest_plugin import Evidence

PROGRAMS = 15
BOUNDED_EXECUTIONS = 15
RANDOM_EXECUTIONS = 15

KEYS = st.sampled_from(("a", "b"))
BASES = st.sampled_from(("none", "last", "loaded"))
SPELLED = st.sampled_from(SPELLINGS)
CONTENTS = st.fixed_dictionaries({}, optional={key: st.builds(lambda n: {"n": n}, st.integers(0, 3)) for key in "ab"})


def _operation(operation: str, /, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.fixed_dictionaries(arguments).map(lambda drawn: Operation(operation, drawn))


OPERATIONS = st.one_of(
    _operation("add", key=KEYS, base=BASES, by=SPELLED),
    _operation("load", by=SPELLED),
    _operation("read", key=KEYS, by=SPELLED),
    _operation("append", key=KEYS, token=st.sampled_from(("x", "y" * 60)), base=BASES),
    _operation("save", sessions=CONTENTS),
    _operation("delete", key=KEYS, base=BASES),
    _operation("look", key=KEYS, base=BASES),
    _operation("fail", key=KEYS, base=BASES),
    _operation("nested", key=KEYS, inner_by=SPELLED),
    _operation("guarded", key=KEYS, by=SPELLED),
    _operation("sleep", seconds=st.sampled_from((0.001, 1.5, 10))),
    _operation("limit", object_cache_max_bytes=st.sampled_from((0, 34, 60, 1_000_000))),
)
FOREIGN_OPERATIONS = st.one_of(
    _operation("replace", name=st.just(FILE), content=CONTENTS.map(json.dumps)),
    # Of the size of what the store writes, so that only the bytes tell them apart.
    _operation(
        "rewrite",
        name=st.just(FILE),
        content=st.integers(4, 9).map(lambda n: json.dumps({"a": {"n": n}}, indent=2)),
        truncate=st.booleans(),
    ),
    _operation("read", name=st.just(FILE)),
    _operation("set_wall_clock", delta_s=st.sampled_from((-10.0, -0.05, 3600.0))),
)
PARAMETERS = st.fixed_dictionaries(
    {"links": st.just(True)},
    optional={
        "cache_ttl_ms": st.sampled_from((0, 1_000)),
        "object_cache_max_bytes": st.sampled_from((0, 34, 60)),
        "serialized_cache_max_bytes": st.sampled_from((0, 40)),
    },
)
FILES = st.sampled_from(({}, {FILE: json.dumps({"a": {"n": 0}}, indent=2).encode()}))
FOREIGNER = st.lists(FOREIGN_OPERATIONS, min_size=1, max_size=2).map(
    lambda drawn: ProcessProgram(operations=tuple(drawn), adapter=FOREIGN)
)


def search(program: Program, evidence: Evidence) -> None:
    """Run the program's schedules; a failure comes back as the smallest schedule, with its lanes."""
    for strategy in (PreemptionBounded(1), RandomSchedules(executions=RANDOM_EXECUTIONS, seed=0)):
        result = verify(
            program,
            strategy=strategy,
            check=as_promised,
            check_path="models.searches:as_promised",
            max_executions=BOUNDED_EXECUTIONS,
        )
        assert result.cut_runs == 0
        evidence.add(schedules=result.executions, histories=result.executions)


@pytest.mark.promise("WRITE1", "SNAP1", "SNAP3", "SNAP5", "SNAP6", "CACHE6", "CACHE8", "WRITE6", "LOCK1", "LOCK4")
@settings(max_examples=PROGRAMS)
@given(programs(adapter=SESSIONS, operations=OPERATIONS, files=FILES, parameters=PARAMETERS, computers=machines()))
def test_drawn_programs_keep_their_promises(evidence: Evidence, program: Program) -> None:
    """Whatever the processes do, the history is that of one store on which they work one after the other."""
    search(program, evidence)


@pytest.mark.promise("SNAP1", "CACHE6", "WRITE2")
@settings(max_examples=PROGRAMS)
@given(
    programs(
        adapter=SESSIONS,
        operations=OPERATIONS,
        files=FILES,
        parameters=PARAMETERS,
        computers=machines(),
        foreign=FOREIGNER,
        processes_max=2,
        operations_max=2,
    )
)
def test_drawn_programs_beside_one_that_ignores_the_lock(evidence: Evidence, program: Program) -> None:
    """What such a program publishes before an update is synced is in what the update publishes, or it is refused."""
    search(program, evidence)
