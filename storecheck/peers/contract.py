"""The check of one run of any adapter: did it behave as a store of sessions should?

Depends on nothing but the run, so counterexamples can name it: the adapter is in the program, and what is left on the
disk is read by the adapter itself, opened anew for real on a copy of the files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from storecheck.history import Call, History
from storecheck.linearizability import check, versioned_map
from storecheck.processes.directories import files_in, lay_out
from storecheck.processes.handover import seen_at_end
from storecheck.processes.races import by_position
from storecheck.program import Json, at_path
from storecheck.runner import Execution

SESSIONS: Final = ("session0aaaaaaaa", "session1bbbbbbbb")
"""Session names that every store accepts."""

FIRST: Final[Mapping[str, str]] = {SESSIONS[0]: "first-version-which-is-longer-than-those-that-follow"}
"""What every run begins with."""

CHECK_PATH: Final = f"{__name__}:keeps_contract"

_AFTERWARDS: Final = "written afterwards"

_NAMES: Final = {"update": "set", "load": "load", "save": "save"}


def first_files(path: str) -> dict[str, bytes]:
    """The files of a store that holds `FIRST`, as the adapter makes them."""
    with tempfile.TemporaryDirectory(prefix="storecheck-peer-") as directory:
        adapter = at_path(path)(directory)
        adapter.save(dict(FIRST))
        adapter.close()
        return files_in(directory)


def written_to_again(path: str, files: Mapping[str, bytes]) -> str | None:
    """What is wrong when the store is opened anew on these files, and updated; or None."""
    with tempfile.TemporaryDirectory(prefix="storecheck-peer-") as directory:
        lay_out(directory, files)
        adapter = None
        try:
            adapter = at_path(path)(directory)
            found: dict[str, str] = adapter.load()
            adapter.update(SESSIONS[1], _AFTERWARDS)
            after = adapter.load()
        except Exception as error:  # noqa: BLE001 - whatever a store raises, it could not go on
            return f"the next writer cannot go on: {type(error).__name__}: {error}".replace(directory, "…")
        finally:
            if adapter is not None:
                adapter.close()
    if after != {**found, SESSIONS[1]: _AFTERWARDS}:
        return f"the store held {found}, and {after} after one more update"
    return None


def left_in(path: str, files: Mapping[str, bytes]) -> Call:
    """What the adapter loads from these files."""
    with tempfile.TemporaryDirectory(prefix="storecheck-peer-") as directory:
        lay_out(directory, files)
        adapter = at_path(path)(directory)
        try:
            return Call(name="load", result=adapter.load())
        except Exception as error:  # noqa: BLE001 - whatever a store raises, it could not read what was left
            return Call(name="load", result={"unreadable": f"{type(error).__name__}: {error}"})
        finally:
            adapter.close()


def in_terms_of_sessions(history: History) -> History:
    """The history as `versioned_map` understands it."""
    return replace(
        history,
        operations=tuple(
            replace(each, call=replace(each.call, name=_NAMES.get(each.call.name, each.call.name)))
            for each in by_position(history).operations
        ),
    )


def keeps_contract(execution: Execution) -> str | None:
    """What is wrong with a run of an adapter, or None.

    Raises:
        UndecidedError: the checker gave up.
    """
    path = execution.program.adapter
    history = execution.history()
    problem = unexpected_error(in_terms_of_sessions(history), path, faulty=bool(execution.faults))
    if execution.faults:
        history = _with_doubts(history)
    problem = problem or judge_history(history, path, execution.files())
    if problem is None and "killed" in execution.ends:
        problem = written_to_again(path, execution.files())
    return problem


def _with_doubts(history: History) -> History:
    """The history in which whatever was reported as failed may have happened: the old or the new state is right."""
    return replace(
        history,
        operations=tuple(
            replace(each, call=replace(each.call, outcome="unknown")) if each.call.outcome == "raised" else each
            for each in history.operations
        ),
    )


def unexpected_error(history: History, path: str, *, faulty: bool) -> str | None:
    """An operation failed although nothing was made to go wrong."""
    refuses = getattr(at_path(path), "refuses", ())
    for each in history.operations:
        call = each.call
        name = (call.error or "").partition(":")[0]
        if call.outcome == "raised" and not faulty and name not in refuses:
            return f"{each.process}: {call}"
    return None


def judge_history(history: History, path: str, files: Mapping[str, bytes]) -> str | None:
    """What fits no order of a history and what is left after it, or None.

    Raises:
        UndecidedError: the checker gave up.
    """
    left = left_in(path, files)
    assert isinstance(left.result, Mapping)
    if "unreadable" in left.result:
        return f"the store cannot be read any more: {left.result['unreadable']}"
    first: dict[str, Json] = dict(FIRST)
    verdict = check(seen_at_end(in_terms_of_sessions(history), [left]), versioned_map(first))
    verdict.require_decided()
    refused = None if verdict.illegal is None else verdict.illegal.refused
    if refused is None:
        return None
    if refused.process == "the end":
        lost = [str(each.call) for each in history.operations if each.call.name == "update"]
        return f"left at the end: {left.result}, which no order of {'; '.join(lost)} leaves"
    return f"{refused.process}: {refused.call} fits in no order"
