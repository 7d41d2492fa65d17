"""Every system call of every asynchronous operation fails once, on a real disk: nothing is torn, left over or held.

Goal: WRITE5 and LOCK5 for `AsyncSessionStore`, whose writes work in threads. Method: as `test_failing_calls`, but no
event loop runs in the simulated machine, so here a real loop, real threads and real files; only the names `os` and
`fcntl` in the store's modules lead through an injector. Signal handlers run in the main thread, which makes none of
these calls: in their place the task is cancelled at each call.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.crashes import FILE
from storecheck.faults import FAILURES, Failure
from storecheck.pytest_plugin import Evidence
from tests.crash.failing_tasks import CANCELLED, OPERATIONS, every_call, problems_of
from tests.crash.telling_faults import hold_task


def run_all(name: str, path: Path, failures: list[Failure], evidence: Evidence) -> None:
    """Let every call of one operation fail in each of these ways."""
    for failure in failures:
        for run in every_call(name, path, failure):
            evidence.add(histories=1)
            hold_task(run, problems_of(run))


pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")


@pytest.mark.promise("WRITE5")
@pytest.mark.promise("CACHE9")
@pytest.mark.parametrize("kind", ["errno", "short"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_call_of_a_task_leaves_nothing_wrong(
    name: str, kind: str, store_path: Path, evidence: Evidence
) -> None:
    """WRITE5: as for the store without tasks: the error is raised, and file, caches, descriptors and lock are right."""
    assert store_path.name == FILE
    run_all(name, store_path, [failure for failure in FAILURES if failure.kind == kind], evidence)


@pytest.mark.promise("LOCK5")
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_task_cancelled_at_any_call_leaves_nothing_wrong(name: str, store_path: Path, evidence: Evidence) -> None:
    """LOCK5: wherever a task is cancelled, the lock is free afterwards, and the file has the old or the new content."""
    run_all(name, store_path, [CANCELLED], evidence)
