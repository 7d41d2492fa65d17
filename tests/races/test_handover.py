"""A race that fails becomes a small failure that replays, in simulation and with real processes.

Goal: nobody should have to debug a race. Method: bugs are planted into the store, races show them, and the hand-over
must find them again; a failure that no simulation can show must be reported as such, with its history.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from models.mutants import mutant_by_id
from storecheck import PreemptionBounded
from storecheck.explore import explore
from storecheck.history import Call, History, Operation
from storecheck.linearizability import UndecidedError, check, versioned_map
from storecheck.processes import LinearizableCheck, Race, Team, hand_over, run_race, seen_at_end
from tests.races import reconfirming
from tests.races.gateway import FILE, SESSIONS, versions_of

ADAPTER = "tests.races.gateway:Gateway"
RACES_MAX = 8
"""Races until one fails: each nearly always does with the bugs planted here."""


def looks(files: Mapping[str, bytes]) -> Sequence[Call]:
    """What every session is at the end, read by nothing of ours."""
    left = versions_of(json.loads(files.get(FILE) or b"{}"))
    return [Call(name="get", argument=[key], result=left.get(key)) for key in SESSIONS]


def test_a_lost_update_of_a_race_is_found_again_and_confirmed(tmp_path: Path) -> None:
    """An update that starts from cached content: few operations remain, and real processes lose one in the same way."""
    transform = mutant_by_id("B46").transform
    team = Team(adapter=ADAPTER, workload="tests.races.gateway:contended", workers=4)
    for seed in range(RACES_MAX):
        race = Race(teams=(team,), files={FILE: b"{}"}, seed=seed, transform=transform)
        result = run_race(race, directory=tmp_path)
        history = seen_at_end(result.history, looks(result.files))
        found = hand_over(
            history,
            adapter=ADAPTER,
            specification=versioned_map(),
            looks=looks,
            files={FILE: b"{}"},
            transform=transform,
        )
        if found is not None:
            break
    assert found is not None, f"{RACES_MAX} races of a store with a planted bug went well"
    assert found.counterexample is not None, str(found)
    assert found.confirmation is not None
    assert found.confirmation.confirmed, str(found)
    assert found.counterexample.program.operations() <= 4
    assert "confirmed call by call by real processes" in str(found)


def of(process: str, call: Call, invoked_at: int) -> Operation:
    """An operation that took one tick."""
    return Operation(
        process=process, task="t0", identifier=0, call=call, invoked_at=invoked_at, responded_at=invoked_at + 1
    )


def test_a_failure_that_cannot_be_found_again_is_still_shown() -> None:
    """The report says what was searched, and shows the history that fits no order."""
    history = History(
        operations=(
            of("P1", Call(name="set", argument=[SESSIONS[0], "one"], result=None), 1),
            of("P2", Call(name="get", argument=[SESSIONS[0]], result=None), 5),
        )
    )
    found = hand_over(
        history, adapter=ADAPTER, specification=versioned_map(), looks=looks, files={FILE: b"{}"}, transform=None
    )
    assert found is not None
    assert found.counterexample is None
    text = str(found)
    assert "the simulation did not find the failure again" in text
    assert "no failure: " in text
    assert "first operation that does not fit: P2/t0 get" in text


def test_a_correct_history_is_not_handed_over() -> None:
    """There is nothing to look for."""
    history = History(operations=(of("P1", Call(name="get", argument=[SESSIONS[0]]), 1),))
    assert hand_over(history, adapter=ADAPTER, specification=versioned_map(), looks=looks, files={FILE: b"{}"}) is None


def give_up_after(configurations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checker visit so few that it does not come to an end."""
    capped = functools.partial(check, cap_configurations=configurations)
    monkeypatch.setattr("storecheck.processes.handover.check", capped)


def test_a_history_that_the_checker_gives_up_on_is_not_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither right nor wrong: who asked is told that there is no answer."""
    give_up_after(1, monkeypatch)
    history = History(
        operations=(
            of("P1", Call(name="set", argument=[SESSIONS[0], "one"], result=None), 1),
            of("P2", Call(name="get", argument=[SESSIONS[0]], result="one"), 5),
        )
    )
    with pytest.raises(UndecidedError, match="undecided: 2 operations"):
        hand_over(history, adapter=ADAPTER, specification=versioned_map(), looks=looks, files={FILE: b"{}"})


def test_a_schedule_that_the_checker_gives_up_on_is_not_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose check has no answer ends with that, instead of calling the schedule fine."""
    give_up_after(1, monkeypatch)
    fits = LinearizableCheck(versioned_map(dict(reconfirming.FIRST)), reconfirming.looks)
    with pytest.raises(UndecidedError, match="undecided: 3 operations"):
        explore(reconfirming.program("updates"), strategy=PreemptionBounded(0), check=fits)


def test_a_hand_over_says_where_the_checker_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The race has failed; a small program of which nothing can be said is told as one, and the next is searched."""
    give_up_after(3, monkeypatch)
    history = History(
        operations=(
            of("P1", Call(name="set", argument=[SESSIONS[0], "one"], result=None), 1),
            of("P2", Call(name="get", argument=[SESSIONS[0]], result=None), 5),
        )
    )
    found = hand_over(history, adapter=ADAPTER, specification=versioned_map(), looks=looks, files={FILE: b"{}"})
    assert found is not None
    assert found.counterexample is None
    assert "undecided: 6 operations" in str(found)
