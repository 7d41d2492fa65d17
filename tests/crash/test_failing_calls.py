"""Every system call of every operation fails once: nothing may be torn, left over, believed or held afterwards.

Goal: WRITE5 and LOCK5. Method: each operation runs again and again in the simulated machine, with its first call
failing, then its second, and so on until it makes no more calls; for every error that a call can have, once and for
ever. After each run the file, the directory, the error, the caches, the descriptors and the lock are looked at, the
next update must work, and what was acknowledged must survive power loss in all four models.
"""

from __future__ import annotations

import pytest

from storecheck.faults import FAILURES, Failure, one_by_one
from storecheck.pytest_plugin import Evidence
from tests.crash.depth import cuts_of_many
from tests.crash.failing_calls import OPERATIONS, WRITING, attempt, power_loss_after, problems_of, undisturbed
from tests.crash.telling_faults import hold_attempt, hold_power


@pytest.mark.promise("WRITE5")
@pytest.mark.promise("CACHE9")
@pytest.mark.promise("READ1")
@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("kind", ["errno", "short"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_failing_call_leaves_nothing_wrong(name: str, kind: str, evidence: Evidence) -> None:
    """WRITE5: whichever call fails with whichever error, the error is raised and file, caches and lock are right."""
    run_all(name, [failure for failure in FAILURES if failure.kind == kind], evidence)


@pytest.mark.promise("LOCK5")
@pytest.mark.promise("CACHE9")
@pytest.mark.parametrize("kind", ["interrupt before", "interrupt after", "handler raises"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_any_call_leaves_nothing_wrong(name: str, kind: str, evidence: Evidence) -> None:
    """LOCK5: a signal handler that raises at any call leaves the file whole, the caches right and the lock free."""
    run_all(name, [failure for failure in FAILURES if failure.kind == kind], evidence)


def run_all(name: str, failures: list[Failure], evidence: Evidence) -> None:
    """Let every call of one operation fail in every one of these ways."""
    step, scenario = OPERATIONS[name]
    finished = undisturbed(step, scenario)
    for failure in failures:
        for injector in one_by_one(failure):
            run = attempt(step, scenario, injector)
            evidence.add(histories=1)
            hold_attempt(run, problems_of(run, finished))
            # EINVAL is a file system that cannot sync directories: none of the models.
            if name in WRITING and injector.hits and failure.error != "EINVAL":
                hold_power(run, power_loss_after(run, finished, cuts=cuts_of_many()))
