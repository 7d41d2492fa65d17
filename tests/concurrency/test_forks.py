"""Real forks of a process that holds, waits for, or uses the lock.

Goal: LOCK4. Each scenario runs in a process of its own that forks (see `forking`); the test is a third process, which
tries the lock from outside.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sessionstore import SessionStore
from storecheck.pytest_plugin import Evidence
from tests.concurrency import forking
from tests.concurrency.children import editor
from tests.concurrency.crew import Crew
from tests.concurrency.payload import SETTINGS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

FORKS = 25


@pytest.mark.promise("LOCK4", "LOCK1")
def test_a_fork_inside_an_edit_neither_holds_nor_frees_the_lock(children: Crew, store_path: Path) -> None:
    """LOCK4, LOCK1: the child is kept out like anyone, cannot end its parent's edit, and the parent keeps the lock."""
    scenario = children.start(forking.fork_inside_an_edit, str(store_path))
    scenario.expect("still held")
    assert not forking.one_try(str(store_path), "outsider")
    scenario.tell("end")
    wrote, sees, left, wrote_after, parent = scenario.result()
    assert (wrote, sees, wrote_after, parent) == ("wrote: False", "sees: []", "wrote: False", "parent wrote: True")
    assert "Nothing was written" in left
    assert list(SessionStore(store_path, SETTINGS).load()) == ["parent"]


@pytest.mark.promise("LOCK4", "LOCK2")
def test_a_living_fork_does_not_keep_its_parents_lock(children: Crew, store_path: Path) -> None:
    """LOCK4: when the edit is over the lock is free at once, although a forked child has inherited the open file."""
    scenario = children.start(forking.fork_that_outlives_the_edit, str(store_path))
    scenario.expect("free")
    assert forking.one_try(str(store_path), "outsider")
    scenario.tell("go on")
    assert scenario.result()
    assert set(SessionStore(store_path, SETTINGS).load()) == {"parent", "outsider", "child"}


@pytest.mark.promise("LOCK4")
def test_a_fork_inside_an_edit_can_wait_for_its_parent(children: Crew, store_path: Path) -> None:
    """LOCK4: an update in the child waits until the parent's edit is over, and keeps what the parent wrote."""
    assert children.start(forking.fork_that_waits_for_its_parent, str(store_path)).result()
    assert set(SessionStore(store_path, SETTINGS).load()) == {"parent", "child"}


@pytest.mark.promise("LOCK4")
def test_a_fork_beside_a_thread_that_waits_for_the_lock(children: Crew, store_path: Path) -> None:
    """LOCK4: neither the thread's wait nor the child's is disturbed by the fork; both write when it is their turn."""
    holder = children.start(editor, str(store_path), "holder")
    holder.expect("held")
    scenario = children.start(forking.fork_beside_a_waiting_thread, str(store_path))
    scenario.expect("waiting; one try of a fork succeeded: False")
    holder.tell("end")
    assert scenario.result() == (True, True)
    assert set(SessionStore(store_path, SETTINGS).load()) == {"holder", "thread", "fork"}


@pytest.mark.promise("LOCK4")
def test_forks_of_a_busy_process_work(children: Crew, store_path: Path, evidence: Evidence) -> None:
    """LOCK4: whatever threads of the parent are doing at the moment of the fork, the child can load and update."""
    SessionStore(store_path, SETTINGS).save({"seed": {}})
    assert children.start(forking.forks_beside_busy_threads, str(store_path), FORKS).result() == FORKS
    assert sum(key.startswith("fork-") for key in SessionStore(store_path, SETTINGS).load()) == FORKS
    evidence.add(steps=FORKS)


@pytest.mark.promise("LOCK4", "CACHE6")
def test_a_fork_starts_with_empty_caches(children: Crew, store_path: Path) -> None:
    """LOCK4, CACHE6: the child trusts nothing that its parent cached, and sees what was written since the fork."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"before": {}})
    scenario = children.start(forking.fork_of_a_warm_process, str(store_path))
    scenario.expect("forked")
    store.save({"after": {}})
    scenario.tell("go on")
    assert scenario.result() == (1, 0, ["after"])
