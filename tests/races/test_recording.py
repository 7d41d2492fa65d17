"""A race's own record: what is written down about an operation, and when.

Goal: a history that is recorded too late or too early shows bugs that are none, or hides some. Method: an adapter whose
operation looks into its own process's record while it runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from storecheck.processes import Race, Team, run_race
from storecheck.program import Operation

OPERATIONS = 5


class Snoop:
    """Its operation returns the events that its process has recorded so far, as (event, id)."""

    def __init__(self, root: str) -> None:
        self._records = Path(root).parent / "records"

    def look(self) -> list[list[object]]:
        """Everything but the header, in order."""
        (record,) = self._records.iterdir()
        events = [json.loads(line) for line in record.read_text(encoding="ascii").splitlines()[1:]]
        return [[event["event"], event["id"]] for event in events]


def looks(_worker: int, _thread: int, _seed: int) -> Iterable[Operation]:
    """A workload."""
    return [Operation("look")] * OPERATIONS


def test_an_operation_is_recorded_before_it_begins_and_answered_after_it_ends(tmp_path: Path) -> None:
    """While an operation runs, its invocation is on record and its response is not; those before it are complete."""
    race = Race(teams=(Team(adapter=f"{__name__}:Snoop", workload=f"{__name__}:looks", workers=1),))
    result = run_race(race, directory=tmp_path)
    assert not result.stuck, result.stuck
    seen = [operation.call.result for operation in result.history.operations]
    assert len(seen) == OPERATIONS
    for number, events in enumerate(seen):
        before = [[event, earlier] for earlier in range(number) for event in ("invoke", "returned")]
        assert events == [*before, ["invoke", number]]
