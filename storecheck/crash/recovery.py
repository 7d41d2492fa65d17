"""Judges all crash states of a recording, and opens the store on each of them.

A file that looks right is not yet a store that works: leftovers of the interrupted write may be read, stop the next
save or stay for ever. `check` therefore hands each distinct tree to `recover`, which boots a machine with it, opens the
store in a fresh process, compares, saves once more and compares again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .models import MODELS, PersistenceModel
from .oracle import Oracle, Violation
from .states import CrashState, Recording, crash_states

Recover = Callable[[CrashState, int], str | None]
"""Boots a state whose file holds the given version; says what is wrong with the store that comes up, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A state that no store may be left in."""

    state: CrashState
    violation: Violation

    def __str__(self) -> str:
        return f"{self.violation}\n    {self.state}"


@dataclass(slots=True, kw_only=True)
class CrashReport:
    """What `check` found.

    Attributes:
        states: distinct states judged, over all models.
        states_by_model: the same, per model.
        recoveries: distinct trees that the store was opened on.
        failures: one state per model and kind of violation, the first that was met.
    """

    states: int = 0
    states_by_model: dict[str, int] = field(default_factory=dict)
    recoveries: int = 0
    failures: list[Failure] = field(default_factory=list)

    def kinds(self, model: PersistenceModel) -> tuple[str, ...]:
        """The kinds of violations under one model."""
        return tuple(failure.violation.kind for failure in self.failures if failure.state.model is model)

    def __str__(self) -> str:
        counted = ", ".join(f"{name} {count}" for name, count in self.states_by_model.items())
        return "\n".join([f"{self.states} crash states ({counted})", *map(str, self.failures)])


def check(
    recording: Recording,
    oracle: Oracle,
    *,
    models: Iterable[PersistenceModel] = MODELS,
    cuts: int | None = 1,
    recover: Recover | None = None,
) -> CrashReport:
    """Judge every distinct state within `cuts` cuts under every model, and recover from each distinct tree."""
    report = CrashReport()
    recovered: dict[tuple[object, int], str | None] = {}
    for model in models:
        met: set[str] = set()
        count = 0
        for state in crash_states(recording, model, cuts=cuts):
            count += 1
            violation = oracle.judge(state)
            if violation is None and recover is not None:
                violation = _recover_once(state, oracle, recover, recovered)
            if violation is not None and violation.kind not in met:
                met.add(violation.kind)
                report.failures.append(Failure(state=state, violation=violation))
        report.states_by_model[model.name] = count
        report.states += count
    report.recoveries = len(recovered)
    return report


def _recover_once(
    state: CrashState, oracle: Oracle, recover: Recover, recovered: dict[tuple[object, int], str | None]
) -> Violation | None:
    version = oracle.version_found(state)
    assert version is not None
    key = (frozenset(state.tree.items()), version)
    if key not in recovered:
        recovered[key] = recover(state, version)
    found = recovered[key]
    return None if found is None else Violation("recovery", found)
