"""Committed counterexamples: schedules that broke planted bugs once, and break them every time.

Goal: a document found by a search stays a proof. Method: each is replayed twenty times on the bug that it belongs to;
the real store must refuse its schedule or pass it, and pass every schedule near by.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from models.searches import as_promised
from storecheck import PreemptionBounded, ReplayDiverged
from storecheck.counterexample import Counterexample, load, replay
from storecheck.explore import explore
from tests.concurrency.record_counterexamples import DIRECTORY, RECORDED

RECORD_AGAIN = "if the store makes other system calls now: python -m tests.concurrency.record_counterexamples"
NEARBY_EXECUTIONS = 60

documents = pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.json")), ids=lambda path: path.stem)


def _loaded(path: Path) -> Counterexample:
    return load(path)


def test_every_counterexample_that_is_recorded_is_there() -> None:
    """The directory holds what the recorder makes, and nothing else."""
    assert sorted(path.stem for path in DIRECTORY.iterdir()) == sorted(RECORDED)


@documents
def test_twenty_of_twenty_replays_fail_in_the_same_way(path: Path) -> None:
    """With its bug each replay has the recorded history, files, finding and lanes."""
    document = _loaded(path)
    assert document.title == RECORDED[path.stem]
    for _ in range(20):
        replayed = replay(document)
        assert replayed.same, RECORD_AGAIN
        assert replayed.finding == document.finding
        assert replayed.trace == document.trace


@documents
def test_the_real_store_passes_the_schedule(path: Path) -> None:
    """Without the bug the schedule is impossible or harmless, and so are those near by."""
    document = replace(_loaded(path), transform=None, transform_argument=None)
    # Diverged: the real store makes other calls, or waits where the bug let it go on.
    with contextlib.suppress(ReplayDiverged):
        assert replay(document).finding is None
    nearby = explore(
        document.program, strategy=PreemptionBounded(1), check=as_promised, max_executions=NEARBY_EXECUTIONS
    )
    assert nearby.failure is None, nearby
