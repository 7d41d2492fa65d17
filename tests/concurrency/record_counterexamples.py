"""Records the committed counterexamples anew: `python -m tests.concurrency.record_counterexamples`.

A schedule counts the system calls of the store, so a store that makes others needs them recorded again. What a document
has to show is in `RECORDED`; `test_explored_counterexamples.py` replays them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from models.mutants import mutant_by_id
from models.mutants.interleaving import RACE_OF
from models.searches import RACES
from storecheck import RandomSchedules
from storecheck.counterexample import from_failure
from storecheck.explore import explore

DIRECTORY: Final = Path(__file__).parent / "counterexamples"

RECORDED: Final[Mapping[str, str]] = {
    "B02": "two writers inside the lock, because its file is unlinked at release",
    "B12": "two threads inside the lock, because it belongs to the process",
    "B52": "a save of what another thread has changed meanwhile",
    "B54i": "a load of content that two others have replaced within one tick",
    "B63i": "a load of content that is not published yet",
}
"""Planted bug and title. None with a foreign writer: their check needs the planted bug beside the document."""


def record(mutant_id: str, title: str) -> Path:
    """Search, minimise the schedule, write the document; returns its path."""
    race, mutant = RACES[RACE_OF[mutant_id]], mutant_by_id(mutant_id)
    result = explore(
        race.program,
        strategy=RandomSchedules(executions=400, seed=1),
        check=race.check(),
        transform=mutant.transform,
        shrink_program=False,
    )
    if result.failure is None:
        raise SystemExit(f"{mutant_id} is not found any more in {race.name!r}: {result}")
    document = from_failure(
        result.failure,
        title=title,
        verdict=str(result.verdict),
        check="models.searches:as_promised",
        transform="models.mutants.interleaving:planted",
        transform_argument=mutant_id,
    )
    path = DIRECTORY / f"{mutant_id}.json"
    document.write(path)
    return path


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for chosen in sys.argv[1:] or RECORDED:
        sys.stdout.write(f"{record(chosen, RECORDED[chosen])}\n")
