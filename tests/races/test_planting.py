"""A bug that is planted into the processes of a race is really there.

Goal: a race with a planted bug that goes well must mean that the bug did not show, never that it was missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from storecheck.processes import Race, Team, run_race
from storecheck.processes.planting import plant
from tests.concurrency.children import peer
from tests.concurrency.crew import crew
from tests.races.gateway import FILE
from tests.races.planted import another_lock_file


def test_a_bug_is_planted_whatever_the_server_of_other_children_has_loaded(tmp_path: Path) -> None:
    """Another part of the program has children that start with the store loaded; those of the race do not."""
    team = Team(adapter="tests.races.gateway:Gateway", workload="tests.races.gateway:contended", workers=1)
    with crew() as children:
        children.start(peer, str(tmp_path / "other.json"))
        result = run_race(Race(teams=(team,), files={}, seed=0, transform=another_lock_file), directory=tmp_path)
    assert sorted(result.files) == [FILE, f"{FILE}.other"]


def test_what_is_loaded_cannot_be_planted_any_more() -> None:
    """It is an error, not a race without the bug."""
    with pytest.raises(RuntimeError, match=r"^sessionstore\.lock was imported before"):
        plant(another_lock_file)
