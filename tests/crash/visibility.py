"""In which models of a file system each planted bug shows, for the table in docs/crash-states.md.

A bug shows in a model if one of the states that the model allows is wrong, in some history of a group, with at most one
lost change. `python -m tests.crash.ground_truth` writes the table, and a test holds it against what is computed.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from models.crashes import SCENARIOS, Scenario, Step, record_scenario, store_process
from models.mutants import Mutant
from models.mutants.crash_writes import CRASH_MUTANTS
from storecheck.crash import MODELS
from storecheck.crash.recovery import check

FIRST_SAVES: Final = (
    Scenario(name="one save into new directories", file="new/er/sessions.json", processes=((Step(kind="save"),),)),
)
MAINTENANCE: Final = tuple(each for each in SCENARIOS if each.name.startswith(("backups", "repair")))
LATER_SAVES: Final = tuple(
    each for each in SCENARIOS if not each.name.startswith("first save") and each not in MAINTENANCE
)
GROUPS: Final[Mapping[str, tuple[Scenario, ...]]] = {
    "one first save": FIRST_SAVES,
    "later saves": LATER_SAVES,
    "backups, repair": MAINTENANCE,
}

LAYERS: Final = {
    "test_power_loss": "power loss",
    "test_failing_calls": "failing calls",
    "test_failing_commands": "failing calls",
    "test_refused_files": "refused files",
}
"""What a test file among the killers of a bug is called in the table."""


def visible_models(mutant: Mutant | None, scenarios: Iterable[Scenario]) -> dict[str, set[str]]:
    """Kinds of violations by model."""
    found: dict[str, set[str]] = defaultdict(set)
    for scenario in scenarios:
        recording, oracle = record_scenario(scenario, store_process(mutant))
        for failure in check(recording, oracle, cuts=1).failures:
            found[failure.state.model.name].add(failure.violation.kind)
    return found


@functools.cache
def visible(mutant: Mutant, group: str) -> tuple[str, ...]:
    """Names of the models in which the bug shows in a group of histories, the strongest first."""
    found = visible_models(mutant, GROUPS[group])
    return tuple(model.name for model in MODELS if found.get(model.name))


def _cell(names: tuple[str, ...]) -> str:
    if len(names) == len(MODELS):
        return "all"
    return ", ".join(names) or "-"


def visibility_table() -> str:
    """One row per bug, as Markdown."""
    lines = [
        "| bug | promise | found by | " + " | ".join(GROUPS) + " |",
        "|---" * (3 + len(GROUPS)) + "|",
    ]
    for mutant in CRASH_MUTANTS:
        files = [killer.partition("::")[0].rpartition("/")[2].removesuffix(".py") for killer in mutant.killers]
        layers = ", ".join(dict.fromkeys(LAYERS[file] for file in files if file in LAYERS))
        cells = [_cell(visible(mutant, group)) for group in GROUPS]
        lines.append(f"| {mutant.id} {mutant.bug_class} | {mutant.promise} | {layers} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
