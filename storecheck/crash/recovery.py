"""Judges all crash states of a recording, and opens the store on each of them.

A file that looks right is not yet a store that works: leftovers of the interrupted write may be read, stop the next
save or stay for ever. `check` therefore hands each distinct tree to `recover`, which boots a machine with it, opens the
store in a fresh process, compares, saves once more and compares again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from storecheck.searched import tell

from .models import MODELS, PersistenceModel
from .oracle import Oracle, Violation
from .states import CrashState, CrashStates, Recording
from .trees import Entry

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
    states = CrashStates(recording)
    recoveries = None if recover is None else _Recoveries(oracle, recover)
    for model in models:
        met: set[str] = set()
        count = 0
        for state in states.under(model, cuts=cuts):
            count += 1
            violation = oracle.judge(state)
            if violation is None and recoveries is not None:
                violation = recoveries.judge(state)
            if violation is not None and violation.kind not in met:
                met.add(violation.kind)
                report.failures.append(Failure(state=state, violation=violation))
        report.states_by_model[model.name] = count
        report.states += count
    if cuts is not None:
        tell(cuts_max=cuts)
    report.recoveries = 0 if recoveries is None else len(recoveries.found)
    return report


class _Recoveries:
    """Recovers once from each distinct tree, whichever models and moments it is met in."""

    def __init__(self, oracle: Oracle, recover: Recover) -> None:
        self._oracle = oracle
        self._recover = recover
        self._keys: dict[int, frozenset[tuple[str, Entry]]] = {}
        self.found: dict[tuple[frozenset[tuple[str, Entry]], int], str | None] = {}

    def judge(self, state: CrashState) -> Violation | None:
        """What is wrong with the store that comes up."""
        version = self._oracle.version_found(state)
        assert version is not None
        # The enumeration gives equal trees as one object, and keeps them: hashing content once per tree is enough.
        key = self._keys.get(id(state.tree))
        if key is None:
            key = self._keys[id(state.tree)] = frozenset(state.tree.items())
        if (key, version) not in self.found:
            self.found[key, version] = self._recover(state, version)
        found = self.found[key, version]
        return None if found is None else Violation("recovery", found)
