"""The few answers of a history that contradict each other.

Goal: what is told is enough, and true whatever the other operations did. Method: histories made by hand, and random
ones of a store that loses updates, in which each contradiction is judged again with all other answers forgotten.
"""

from __future__ import annotations

import random

import pytest

from storecheck.contradiction import TRY_CONFIGURATIONS, contradiction, forgotten
from storecheck.history import Call, History, Json, Operation
from storecheck.linearizability import REGISTER, check, versioned_map


def did(process: str, name: str, *argument: Json, found: Json = None, at: tuple[int, int | None] = (0, 1)) -> Operation:
    """An operation on one session."""
    unknown = at[1] is None
    call = Call(name=name, argument=["s", *argument], outcome="unknown" if unknown else "returned", result=found)
    return Operation(process=process, task="t0", identifier=0, call=call, invoked_at=at[0], responded_at=at[1])


def history(*operations: Operation) -> History:
    """A history, in order of invocation."""
    return History(operations=tuple(sorted(operations, key=lambda each: each.invoked_at)))


FIRST = did("P1", "set", "a", at=(0, 1))
LOST = (did("P2", "set", "b", found="a", at=(2, 5)), did("P3", "set", "c", found="a", at=(3, 6)))


def test_a_lost_update_is_the_two_that_found_the_same() -> None:
    """Reads before and after, and what others did, are not needed; who wrote what was found is named."""
    others = [did("P4", "get", found="a", at=(10 * n + 7, 10 * n + 8)) for n in range(20)]
    later = did("P4", "get", found="c", at=(500, 501))
    found = contradiction(
        history(FIRST, *LOST, later, *(each for each in others if each.invoked_at < 2)), versioned_map()
    )
    assert found is not None
    assert found.answers == LOST
    assert found.writers == (FIRST,)
    assert found.refused in LOST


def test_a_stale_read_is_the_read_and_who_replaced_what_it_found() -> None:
    """The update had found the old value and was answered before the read began."""
    replaced = did("P2", "set", "b", found="a", at=(2, 3))
    stale = did("P3", "get", found="a", at=(4, 5))
    found = contradiction(history(FIRST, replaced, stale), versioned_map())
    assert found is not None
    assert found.answers == (replaced, stale)
    assert found.refused == stale


def test_an_answer_that_nobody_can_have_given_is_enough_alone() -> None:
    """A value that nobody wrote."""
    wrong = did("P3", "get", found="never written", at=(4, 5))
    found = contradiction(history(FIRST, wrong), versioned_map())
    assert found is not None
    assert (found.answers, found.writers) == ((wrong,), ())


def test_an_operation_that_may_have_happened_excuses_what_was_found() -> None:
    """The killed writer may have written it: there is no contradiction."""
    killed = did("P2", "set", "b", at=(1, None))
    assert contradiction(history(FIRST, killed, did("P3", "get", found="b", at=(4, 5))), versioned_map()) is None


def test_a_history_that_fits_has_none() -> None:
    """Also an empty one."""
    assert contradiction(history(), versioned_map()) is None
    assert contradiction(history(FIRST), versioned_map()) is None


def test_other_objects_have_contradictions_too() -> None:
    """A register that answers what was overwritten."""

    def asked(name: str, argument: Json = None, *, result: Json = None, at: int) -> Operation:
        call = Call(name=name, argument=argument, result=result)
        return Operation(process="P1", task="", identifier=at, call=call, invoked_at=at, responded_at=at + 1)

    stale = asked("read", result=1, at=20)
    found = contradiction(history(asked("write", 1, at=0), asked("write", 2, at=10), stale), REGISTER)
    assert found is not None
    assert stale in found.answers


@pytest.mark.parametrize("seed", range(40))
def test_what_is_told_stays_a_contradiction_whatever_the_others_were_told(seed: int) -> None:
    """Of a store that now and then works on an old value; and none of the answers told could be left out."""
    source = random.Random(seed)
    values: list[Json] = [None]
    operations = []
    for number in range(30):
        at = (number * 4, number * 4 + source.choice([2, 3, 9]))
        found = values[-1] if source.random() < 0.85 else source.choice(values)
        if source.random() < 0.3:
            operations.append(did(f"P{number % 3}", "get", found=found, at=at))
        else:
            operations.append(did(f"P{number % 3}", "set", f"v{number}", found=found, at=at))
            values.append(f"v{number}")
    recorded = history(*operations)
    found_in = contradiction(recorded, versioned_map())
    if check(recorded, versioned_map()).status == "ok":
        assert found_in is None
        return
    assert found_in is not None
    kept = [each if each in found_in.answers else forgotten(each) for each in recorded.operations]
    assert check(kept, versioned_map()).status == "illegal"
    for each in found_in.answers:
        fewer = [forgotten(other) if other == each else other for other in kept]
        verdict = check(fewer, versioned_map(), cap_configurations=TRY_CONFIGURATIONS)
        assert verdict.status != "illegal", f"{each} is not needed"
