"""Makes failing examples from recorded histories that no sequential order explains."""

from __future__ import annotations

import platform

from storecheck.report.document import Example
from storecheck.report.examples import Origin, fingerprint_of, make_example
from storecheck.report.histories import HistoryCounterexample, told_history
from storecheck.report.reproducer import HISTORY


def history_example_of(document: HistoryCounterexample, origin: Origin) -> Example:
    """The failing example that a recorded history is. Nothing is run again: that would be another race.

    Raises:
        CounterexampleError: an order explains it, and no operation failed.
    """
    told = told_history(document)
    history = document.history
    inputs = {name: value for name, value in document.to_json().items() if name != "files"}
    return make_example(
        kind="race",
        document=inputs,
        environment={
            "Python": f"{platform.python_implementation()} {platform.python_version()}",
            "Machine": "real processes on a real disk",
            "Processes": str(len({each.process for each in history.operations})),
            "Operations": str(len(history.operations)),
            "Killed or unanswered": str(len(history.pending)),
            "Files before": ", ".join(f"{path}: {len(each):,} B" for path, each in document.files.items()) or "none",
        },
        origin=origin,
        title=told.title,
        verdict=told.verdict,
        # Not the lines of the code: nobody looked where real processes were.
        fingerprint=fingerprint_of(origin.promise, "recorded race", list(told.cause), ()),
        replays=None,
        shrunk=(),
        preemptions=None,
        race=told.race,
        template=HISTORY,
        raw="\n".join([document.finding, "", *map(str, history.operations)]),
    )
