"""Why a history fits no order, in as few answers as possible.

A checker's verdict names the first operation that does not fit, after an order of perhaps hundreds that do. Most of
them do not matter. Here answers are forgotten as long as the rest still contradicts itself: an operation whose answer
is forgotten may have taken effect at any moment after its invocation, or never, and may have been told anything, so
what is left is a contradiction whatever it was. Removing an operation altogether would be unsound: a value that it
wrote would then come from nowhere. Minimal only as far as the budget goes: fewer answers are easier to read, not more
true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from storecheck.history import History, Json, Operation
from storecheck.linearizability import Specification, check

S = TypeVar("S")

TRY_CONFIGURATIONS: Final = 5_000
"""For one try to forget answers: one that is not decided by then is taken for needed."""

BUDGET_CONFIGURATIONS: Final = 300_000
"""For all tries: some seconds."""

MAX_WRITERS: Final = 6
"""Operations told beside the contradiction because they wrote what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Answers that cannot all be true, in whatever order the operations took effect.

    Attributes:
        answers: the operations with these answers, by invocation.
        writers: others that wrote what is in these answers, by invocation.
        forgotten: so many others of this part of the object are not needed for the contradiction.
        refused: the one among the answers that the checker refused first, or the last one answered.
    """

    answers: tuple[Operation, ...]
    writers: tuple[Operation, ...]
    forgotten: int
    refused: Operation


def contradiction(history: History, specification: Specification[S]) -> Contradiction | None:
    """The answers that contradict each other; None if the history fits, or if that was not decided."""
    culprit = check(history, specification).illegal
    if culprit is None or culprit.refused is None:
        return None
    whole = culprit.key is None
    part = [each for each in history.operations if whole or specification.partition(each.call) == culprit.key]
    operations = _until(part, culprit.refused)
    search = _Forgetting(specification, operations)
    if not search.contradicts(range(len(operations))):
        operations = part
        search = _Forgetting(specification, operations)
    kept = search.smallest(operations.index(culprit.refused))
    answers = tuple(operations[number] for number in kept)
    writers = tuple(_writers(answers, [each for each in operations if each not in answers]))
    refused = culprit.refused if culprit.refused in answers else max(answers, key=lambda each: each.responded_at or 0)
    return Contradiction(
        answers=answers, writers=writers, forgotten=len(part) - len(answers) - len(writers), refused=refused
    )


def _until(operations: Sequence[Operation], refused: Operation) -> list[Operation]:
    """What was begun before `refused` was answered: later operations change nothing about what it was told."""
    end = refused.responded_at
    assert end is not None
    return [
        each if each.responded_at is not None and each.responded_at <= end else forgotten(each)
        for each in operations
        if each.invoked_at <= end and each.call.outcome != "raised"
    ]


def forgotten(operation: Operation) -> Operation:
    """The operation without its answer: it may have taken effect, at any moment, and have been told anything."""
    call = replace(operation.call, outcome="unknown", result=None, error=None)
    return replace(operation, call=call, responded_at=None)


class _Forgetting:
    """Looks for a small set of answers that contradict each other."""

    def __init__(self, specification: Specification[Any], operations: Sequence[Operation]) -> None:
        self._specification = specification
        self._operations = operations
        self._left = BUDGET_CONFIGURATIONS

    def contradicts(self, kept: Sequence[int]) -> bool:
        """Whether these answers alone fit no order."""
        if self._left <= 0:
            return False
        wanted = set(kept)
        history = [each if at in wanted else forgotten(each) for at, each in enumerate(self._operations)]
        cap = min(TRY_CONFIGURATIONS, self._left)
        verdict = check(history, self._specification, cap_configurations=cap)
        self._left -= max(verdict.configurations, 1)
        return verdict.status == "illegal"

    def smallest(self, refused: int) -> list[int]:
        """Two answers, if two are enough; otherwise as few as forgetting chunks of them leaves."""
        kept = [at for at, each in enumerate(self._operations) if each.call.outcome == "returned"]
        for pair in self._pairs(kept, refused):
            if self.contradicts(pair):
                return sorted(set(pair))
        size = max(1, len(kept) // 2)
        while size:
            at = 0
            while at < len(kept):
                fewer = kept[:at] + kept[at + size :]
                if self.contradicts(fewer):
                    kept = fewer
                else:
                    at += size
            size //= 2
        return kept

    def _pairs(self, kept: Sequence[int], refused: int) -> Iterator[tuple[int, ...]]:
        yield (refused,)
        # What is near in time is likelier to have to do with it.
        for other in sorted(kept, key=lambda at: abs(at - refused)):
            if other != refused:
                yield (other, refused)


def _writers(answers: Sequence[Operation], others: Sequence[Operation]) -> Iterator[Operation]:
    """Operations whose arguments hold a value that one of the answers holds."""
    found = {value for each in answers for value in _leaves(each.call.result)}
    shown = 0
    for each in others:
        # The first of several arguments names the session.
        argument = each.call.argument
        written = argument[1:] if isinstance(argument, list | tuple) else argument
        if shown < MAX_WRITERS and not found.isdisjoint(_leaves(written)):
            shown += 1
            yield each


def _leaves(value: Json) -> set[str | int | float]:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return {value}
    if isinstance(value, dict):
        return {leaf for each in value.values() for leaf in _leaves(each)}
    if isinstance(value, list | tuple):
        return {leaf for each in value for leaf in _leaves(each)}
    return set()
