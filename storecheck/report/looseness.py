"""Which values of a program do not matter: in their place others make the same schedule fail in the same way.

Hypothesis shrinks values towards small ones, and a reader takes a small one for a meaningful one. Each argument of each
operation is replaced twice and the schedule executed again; a value that the schedule depends on, too, matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final, cast

from storecheck.program import Json, Operation, Program
from storecheck.report import calls
from storecheck.report.calls import Literal
from storecheck.report.document import Span

MAX_VALUES_TRIED: Final = 40
"""Values of a failing example that are replaced to see whether they matter; each costs a replay or two."""


def others(value: object) -> tuple[object, ...]:
    """Two other values of the same kind; none for the content of files, which is meant as it is."""
    if isinstance(value, int):
        return (value + 1, value * 3 + 7)
    if isinstance(value, float):
        return (value + 1.5, value * 3 + 2.25)
    return (f"{value}x", "other text") if isinstance(value, str) else ()


def loose_arguments(program: Program, fails: Callable[[Program], bool]) -> Mapping[tuple[int, str], tuple[Span, ...]]:
    """By process and operation, as shown, the values that may be anything.

    Args:
        program: the failing one.
        fails: executes the same schedule with another program and says whether it fails in the same way.
    """
    found: dict[tuple[int, str], tuple[Span, ...]] = {}
    left = MAX_VALUES_TRIED
    for index, process in enumerate(program.processes):
        for number, operation in enumerate(process.operations):
            text = str(operation)
            spans = []
            for literal in calls.literals(text)[: max(left, 0)]:
                left -= 1
                changed = _with_others(program, index, number, text, literal)
                tried = [fails(each) for each in changed]
                if tried and all(tried):
                    spans.append(Span(start=literal.start, end=literal.end))
            # An operation that is there twice is shown twice: what matters in one of them is not underlined in either.
            before = found.get((index, text))
            found[index, text] = tuple(span for span in spans if before is None or span in before)
    return found


def _with_others(program: Program, index: int, number: int, text: str, literal: Literal) -> Iterator[Program]:
    for other in others(literal.value):
        call = calls.understand(calls.replaced(text, literal, other), {})
        changed = Operation(call.name, cast("dict[str, Json]", dict(call.keywords)))
        process = program.processes[index]
        operations = (*process.operations[:number], changed, *process.operations[number + 1 :])
        processes = list(program.processes)
        processes[index] = replace(process, operations=operations)
        yield replace(program, processes=tuple(processes))
