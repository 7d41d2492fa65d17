"""What only a real system shows, what another system would show, and what must be the same in both worlds.

Goal: bugs whose cause is outside the store's own logic: forks, planted links, Windows, network file systems. Method:
real files and forks where there are any, personalities of the simulated machine where there are none; and planted bugs
that the simulation finds are confirmed by real processes, call by call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.mutants import mutant_by_id
from sessionstore import LockTimeoutError, SessionStore, Settings
from storecheck import Execution, PreemptionBounded
from storecheck.counterexample import from_failure
from storecheck.explore import explore
from storecheck.linearizability import versioned_map
from storecheck.processes import LinearizableCheck, confirm
from storecheck.runner import Runner
from tests.races import personalities
from tests.races.reconfirming import FIRST, looks, program

FITS = LinearizableCheck(versioned_map(dict(FIRST)), looks)


def nothing_fails_and_all_fits(execution: Execution) -> str | None:
    """No operation raised, and the history with what is left fits one order."""
    failed = next((record for record in execution.operations if record.outcome == "raised"), None)
    return str(failed) if failed is not None else FITS(execution)


@pytest.mark.promise("LOCK4")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_believe_to_hold_the_lock(store_path: Path) -> None:
    """A child forked inside an edit meets its parent's lock as everybody does: it is busy, not its own."""
    store = SessionStore(store_path, Settings(lock_timeout_s=0))
    store.save({"a": {}})
    with store.edit() as draft:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                try:
                    SessionStore(store_path, Settings(lock_timeout_s=0)).update(lambda inner: inner.clear())
                except LockTimeoutError:
                    status = 0
            finally:
                os._exit(status)
        draft["a"]["from"] = "the parent"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.load() == {"a": {"from": "the parent"}}


@pytest.mark.promise("LOCK1")
def test_a_link_planted_at_the_lock_file_is_not_followed(store_path: Path) -> None:
    """Whoever can make a link beside the store must not be able to damage another file through it."""
    victim = store_path.with_name("victim")
    victim.write_text("precious", encoding="ascii")
    store_path.with_name(f"{store_path.name}.flock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        SessionStore(store_path).update(lambda draft: draft.setdefault("a", {}))
    assert victim.read_text(encoding="ascii") == "precious"
    assert not store_path.exists()


def first_problem(runner: Runner, check: Callable[[Execution], str | None], *, at_most: int) -> str | None:
    """Search schedules with at most one preemption on a machine with a personality."""
    search = PreemptionBounded(1).search(runner.program)
    with runner.collecting():
        for _ in range(at_most):
            chooser = search.next_chooser()
            if chooser is None:
                return None
            execution = runner.run(chooser)
            search.executed(execution.choices)
            problem = check(execution)
            if problem is not None:
                return problem
    return None


@pytest.mark.promise("WRITE1")
def test_a_reader_does_not_make_an_update_fail_on_windows() -> None:
    """Where a file that is being read cannot be replaced, the update waits for the reader, which takes milliseconds."""
    personalities.WindowsSharing.refusals = 0
    problem = first_problem(personalities.OnWindows(program("reader")), nothing_fails_and_all_fits, at_most=300)
    assert problem is None, problem
    assert personalities.WindowsSharing.refusals, "no schedule met a reader: this shows nothing"


def test_a_flock_that_is_local_to_a_host_is_found_out() -> None:
    """On a network file system without shared locks an update fails or is lost: the simulation shows it at once."""
    problem = first_problem(personalities.OnTwoHosts(program("updates")), nothing_fails_and_all_fits, at_most=300)
    assert problem is not None
    assert "ConflictError" in problem or "fits in no order" in problem


CONFIRMED = (
    ("B23", "reader"),
    ("B35", "updates"),
    ("B42", "reader"),
    ("B45", "updates"),
    ("B46", "two updates each"),
    ("B47", "updates"),
    ("B48", "updates"),
    ("B49", "save"),
    ("B47i", "updates"),
    ("B76", "update after load"),
    ("B76i", "update after load"),
)


@pytest.mark.parametrize(("mutant", "name"), CONFIRMED)
def test_what_the_simulation_finds_is_confirmed_by_real_processes(mutant: str, name: str) -> None:
    """A planted bug's minimal schedule fails on a real disk too, every call answered as in the simulation."""
    transform = mutant_by_id(mutant).transform
    result = explore(
        program(name),
        strategy=PreemptionBounded(2),
        check=nothing_fails_and_all_fits,
        transform=transform,
        max_executions=300,
        shrink_program=False,
    )
    assert result.failure is not None, f"{mutant} was not found: {result}"
    document = from_failure(result.failure, title=f"{mutant}: {name}", verdict=str(result.verdict), planted=transform)
    confirmation = confirm(document, check=nothing_fails_and_all_fits, planted=transform)
    assert confirmation.confirmed, confirmation.divergence or "the real run is fine"
    assert confirmation.finding == document.finding
