"""Every system call of every command fails once: the exit status tells, and the store is whole.

Goal: WRITE5 and LOCK5 for the command line. Method: as `test_failing_calls`, with whole commands, run in the simulated
machine. A command must end with 0 and have done its work, or with another status and a message, and never anything
between; then the file, the directory and the lock are looked at, and an update must work.
"""

from __future__ import annotations

import pytest

from models.crashes import FILE
from storecheck.faults import FAILURES, one_by_one
from storecheck.pytest_plugin import Evidence
from tests.crash.depth import cuts_of_many
from tests.crash.failing_commands import (
    COMMANDS,
    WRITING,
    lost_to_power,
    problems_of,
    run_command,
    undisturbed,
    whole_of,
)
from tests.crash.telling_faults import hold_command, hold_power_after_command


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_do_their_work_undisturbed(name: str) -> None:
    """What fails below works here: each command ends well, and only those that write change the file."""
    arguments, store = COMMANDS[name]
    ran = undisturbed(arguments, {FILE: store})
    assert ran.status == 0, str(ran)
    assert (ran.after != store.content) == (name in WRITING)


@pytest.mark.promise("WRITE5")
@pytest.mark.promise("READ1")
@pytest.mark.promise("LOCK5")
@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("kind", ["errno", "short", "interrupt before", "interrupt after", "handler raises"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_with_a_failing_call_says_so_and_breaks_nothing(name: str, kind: str, evidence: Evidence) -> None:
    """WRITE5, LOCK5: whichever call of a command fails or is interrupted, status and store are right afterwards."""
    arguments, store = COMMANDS[name]
    tree = {FILE: store}
    whole = whole_of(arguments, tree)
    for failure in FAILURES:
        if failure.kind != kind:
            continue
        for injector in one_by_one(failure):
            ran = run_command(arguments, tree, injector)
            evidence.add(histories=1)
            hold_command(ran, tree, problems_of(ran, whole))
            # EINVAL is a file system that cannot sync directories: none of the models.
            if name in WRITING and injector.hits and failure.error != "EINVAL":
                hold_power_after_command(ran, tree, lost_to_power(ran, whole, cuts=cuts_of_many()))
