"""Writers in real processes, threads and tasks: every increment that was acknowledged is in the file, once.

Goal: WRITE1. Each increment returns the count that it found and leaves a token of its own, so the whole history can
be judged: it is linearizable exactly if the counts found are 0, 1, 2, … without a gap or a repetition, and no
increment found a smaller count than one that was answered before it was asked for. The tokens in the file must be
those of the increments, in the order of the counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionstore import SessionStore
from storecheck.pytest_plugin import Evidence
from tests.concurrency.children import TALLY, Increment, task_writer, threaded_writer, writer
from tests.concurrency.crew import Crew
from tests.concurrency.payload import SETTINGS, SIZES, stamped_store

Racer = tuple[Callable[..., object], tuple[object, ...]]

WITH_BASE: dict[str, Callable[[int], bool]] = {
    "no bases": lambda _: False,
    "bases": lambda _: True,
    "some bases": lambda writer_number: writer_number % 2 == 0,
}


def check_linearizable(increments: list[Increment]) -> None:
    """Raise `AssertionError` if this history of a counter is not linearizable."""
    order = sorted(increments, key=lambda increment: increment.found)
    for expected, increment in enumerate(order):
        assert increment.found == expected, (
            f"{increment.token} found the count {increment.found}, and nobody or somebody else found {expected}: "
            f"an update was lost or done twice"
        )
    latest_asked = order[0]
    for increment in order[1:]:
        assert increment.answered_ns > latest_asked.asked_ns, (
            f"{increment.token} found {increment.found} and was answered before {latest_asked.token}, which found "
            f"{latest_asked.found}, was asked for"
        )
        if increment.asked_ns > latest_asked.asked_ns:
            latest_asked = increment


def run_race(crew: Crew, path: Path, racers: list[Racer], evidence: Evidence) -> None:
    """Let the racers increment, and check the history and the file."""
    untouched = SessionStore(path, SETTINGS).load()
    increments: list[Increment] = [done for mine in crew.race(racers) for done in mine]
    check_linearizable(increments)
    final = SessionStore(path, SETTINGS).load(skip_cache=True)
    tokens = [increment.token for increment in sorted(increments, key=lambda increment: increment.found)]
    assert final[TALLY]["tokens"] == tokens, "the tokens in the file are not those of the acknowledged updates"
    assert final[TALLY]["count"] == len(increments)
    assert {key: final[key] for key in final if key != TALLY} == dict(untouched)
    evidence.add(steps=len(increments), histories=1)


@pytest.mark.promise("WRITE1", "SNAP1")
@pytest.mark.parametrize(("size", "count"), [("2 KB", 50), ("220 KB", 25), ("7.6 MB", 8)], ids=list(SIZES))
@pytest.mark.parametrize("bases", WITH_BASE)
def test_increments_of_several_processes_are_never_lost(
    children: Crew, store_path: Path, evidence: Evidence, *, size: str, count: int, bases: str
) -> None:
    """WRITE1, SNAP1: with or without bases, the updates of several processes act as if done one after another."""
    SessionStore(store_path, SETTINGS).save(stamped_store(SIZES[size], 0))
    racers: list[Racer] = [
        (writer, (str(store_path), f"process-{number}", count, WITH_BASE[bases](number)))
        for number in range(3 if size == "7.6 MB" else 4)
    ]
    run_race(children, store_path, racers, evidence)


@pytest.mark.promise("WRITE1", "LOCK1")
def test_increments_of_threads_and_processes_are_never_lost(
    children: Crew, store_path: Path, evidence: Evidence
) -> None:
    """WRITE1, LOCK1: threads of several processes exclude each other like processes do."""
    racers: list[Racer] = [(threaded_writer, (str(store_path), f"process-{number}", 4, 12)) for number in range(3)]
    run_race(children, store_path, racers, evidence)


@pytest.mark.promise("WRITE1", "LOCK1")
def test_increments_of_tasks_threads_and_processes_are_never_lost(
    children: Crew, store_path: Path, evidence: Evidence
) -> None:
    """WRITE1, LOCK1: asyncio tasks take part in the same order as threads and processes."""
    racers: list[Racer] = [
        (task_writer, (str(store_path), "tasks-0", 8, 6)),
        (task_writer, (str(store_path), "tasks-1", 8, 6)),
        (threaded_writer, (str(store_path), "threads", 2, 12)),
        (writer, (str(store_path), "process", 24, True)),
    ]
    run_race(children, store_path, racers, evidence)


def test_the_check_of_histories_refuses_what_no_order_explains() -> None:
    """A lost update, one done twice and one against real time are each noticed, whatever the order of the list."""
    good = [Increment(f"t{n}", n, asked_ns=10 * n, answered_ns=10 * n + 15) for n in range(6)]
    random.Random(0).shuffle(good)
    check_linearizable(good)
    lost = [Increment("a", 0, 0, 5), Increment("b", 0, 1, 6)]
    late = [Increment("a", 0, 20, 25), Increment("b", 1, 0, 10)]
    gap = [Increment("a", 0, 0, 5), Increment("b", 2, 6, 9)]
    for bad in (lost, late, gap):
        with pytest.raises(AssertionError, match="found"):
            check_linearizable(bad)
