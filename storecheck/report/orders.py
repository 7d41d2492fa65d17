"""A sequential model of the code under test, and the orders of its operations that explain a run, or do not.

`ModelCheck(model)` is a check for `explore`: it tries every order of the operations that real time allows and wants one
in which each returned what the model returns and the files end as the model says. A report shows the same orders and
how each differs. For small programs: `storecheck.linearizability` checks long histories.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from storecheck.program import Json, Operation
from storecheck.runner import Execution, OperationRecord

MAX_ORDERS: Final = 5_000
"""Orders tried; a program with more is too large for this check, which then says so."""

UNEXPLAINED: Final = "no sequential order of the operations explains what was found"


class SequentialModel(Protocol):
    """What the code under test should do when operations come one after the other. States are JSON values."""

    def begin(self, files: Mapping[str, bytes]) -> Json:
        """The state that these initial files stand for."""

    def apply(self, state: Json, operation: Operation) -> tuple[Json, Json]:
        """The state after the operation, and what it returns."""

    def stored(self, files: Mapping[str, bytes]) -> Json:
        """The state that the files at the end stand for."""


class TooManyOrdersError(ValueError):
    """The program has too many operations at the same time for all orders to be tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedOrder:
    """One order, the state it would leave, and how it differs from what was found; `differs` is empty if it fits."""

    operations: tuple[OperationRecord, ...]
    state: Json
    differs: str


def possible_orders(records: Sequence[OperationRecord]) -> Iterator[tuple[OperationRecord, ...]]:
    """Every order compatible with real time. Operations of unknown outcome may be left out, or come anywhere later."""
    settled = [record for record in records if record.outcome != "raised"]

    def extend(done: tuple[OperationRecord, ...], left: list[OperationRecord]) -> Iterator[tuple[OperationRecord, ...]]:
        if all(record.outcome == "unknown" for record in left):
            yield done
        for record in left:
            if any(_responded_before(other, record) for other in left if other is not record):
                continue
            yield from extend((*done, record), [other for other in left if other is not record])

    yield from extend((), settled)


def _responded_before(one: OperationRecord, other: OperationRecord) -> bool:
    return one.outcome != "unknown" and one.responded_at is not None and one.responded_at < other.invoked_at


def tried_orders(execution: Execution, model: SequentialModel) -> list[TriedOrder]:
    """Every order with what speaks against it.

    Raises:
        TooManyOrdersError: there are more than `MAX_ORDERS`.
    """
    found = model.stored(execution.files())
    tried: list[TriedOrder] = []
    for order in possible_orders(execution.operations):
        if len(tried) >= MAX_ORDERS:
            raise TooManyOrdersError(f"more than {MAX_ORDERS} orders of {len(execution.operations)} operations")
        tried.append(_try(order, execution, model, found))
    return tried


def _try(order: tuple[OperationRecord, ...], execution: Execution, model: SequentialModel, found: Json) -> TriedOrder:
    state = model.begin(execution.program.files)
    differs = ""
    for record in order:
        state, result = model.apply(state, record.operation)
        if not differs and record.outcome == "returned" and not same_json(result, record.result):
            who = f"P{record.process + 1} {record.operation.name}"
            differs = f"{who} would return {shown_json(result)}, returned {shown_json(record.result)}"
    if not differs and not same_json(state, found):
        differs = "the file differs"
    return TriedOrder(operations=order, state=state, differs=differs)


def same_json(one: Json, other: Json) -> bool:
    """Equal and of the same types: 1, 1.0 and true differ."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def shown_json(value: Json) -> str:
    """One line."""
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """A check that wants one sequential order in which the model does what was seen."""

    model: SequentialModel

    def __call__(self, execution: Execution) -> str | None:
        """What is wrong with the run, or None."""
        if any(not order.differs for order in tried_orders(execution, self.model)):
            return None
        return UNEXPLAINED
