"""Makes failing examples from told counterexamples, by having their player do the calls again.

Replays are done, and every value is tried: one in whose place others make the same failure is shown as one that may be
anything, so that nobody looks for a meaning that it does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from storecheck.counterexample import CounterexampleError
from storecheck.report import calls
from storecheck.report.calls import Literal
from storecheck.report.document import Example, Replays, Sequence, Shrunk, Span, Step
from storecheck.report.examples import (
    REPLAYS,
    Origin,
    crash_example,
    fingerprint_of,
    make_example,
    sequence_title,
    sequence_verdict,
)
from storecheck.report.fault_examples import fault_example
from storecheck.report.looseness import MAX_VALUES_TRIED, others
from storecheck.report.reproducer import TOLD
from storecheck.report.told import Told, ToldCounterexample, ToldFinding, play


def told_example_of(document: ToldCounterexample, origin: Origin) -> Example:
    """The failing example that a told counterexample is.

    Raises:
        CounterexampleError: it cannot be played, or nothing fails when it is.
    """
    told = document.play()
    if told.finding is None:
        raise CounterexampleError("its calls were done again, and nothing failed")
    failed = sum(_same(document.play(), told) for _ in range(REPLAYS))
    replays = Replays(failed=failed, tried=REPLAYS)
    shrunk = _shrunk(document, origin)
    if told.fault is not None:
        return fault_example(
            told.fault,
            origin,
            document=document.to_json(),
            environment=told.environment,
            replays=replays,
            shrunk=shrunk,
            template=TOLD,
        )
    loose = dict(_loose_values(document, told))
    sequence = _sequence(document, told, told.finding, loose)
    if told.crash is not None:
        return crash_example(
            told.crash,
            origin,
            document=document.to_json(),
            environment=told.environment,
            replays=replays,
            shrunk=shrunk,
            sequence=sequence if len(told.steps) > 1 else None,
            template=TOLD,
        )
    order = [told.finding.about, *(step.call.partition("(")[0] for step in told.steps)]
    return make_example(
        kind="sequence",
        document=document.to_json(),
        environment=told.environment,
        origin=origin,
        title=told.finding.title or sequence_title(sequence),
        verdict=sequence_verdict(sequence),
        fingerprint=fingerprint_of(origin.promise, "sequence", order, ()),
        replays=replays,
        shrunk=shrunk,
        preemptions=None,
        sequence=sequence,
        template=TOLD,
        raw="\n".join([told.finding.message, "", *document.calls]),
    )


def _same(one: Told, other: Told) -> bool:
    """Whether two plays failed alike: in the same step, by the same thing."""
    return one.played is not None and one.played == other.played


def _shrunk(document: ToldCounterexample, origin: Origin) -> tuple[Shrunk, ...]:
    before = (origin.found or {}).get("steps")
    after = len(document.calls)
    return () if before is None or before == after else (Shrunk(what="calls", before=before, after=after),)


def _sequence(
    document: ToldCounterexample, told: Told, finding: ToldFinding, loose: Mapping[int, list[Literal]]
) -> Sequence:
    return Sequence(
        file=told.file,
        steps=tuple(_shown_steps(document, told, loose)),
        about=finding.about,
        differences=finding.differences,
        with_model=True,
    )


def _shown_steps(document: ToldCounterexample, told: Told, loose: Mapping[int, list[Literal]]) -> Iterator[Step]:
    """The steps with long values cut and loose ones marked. A step is a call; some calls are no steps."""
    at = 0
    for step in told.steps:
        at = document.calls.index(step.call, at)
        text, spans = calls.shown(step.call, loose.get(at, ()))
        yield replace(step, call=text, loose=tuple(Span(start=start, end=end) for start, end in spans))
        at += 1


# Values that do not matter


def _loose_values(document: ToldCounterexample, told: Told) -> Iterator[tuple[int, list[Literal]]]:
    """Per call, the values in whose place two others make the same failure at the same step."""
    tried = 0
    for number, line in enumerate(document.calls):
        found = []
        for literal in calls.literals(line):
            values = others(literal.value)
            if values and tried < MAX_VALUES_TRIED:
                tried += 1
                if all(_fails_alike(document, told, calls.replaced(line, literal, other), number) for other in values):
                    found.append(literal)
        yield number, found


def _fails_alike(document: ToldCounterexample, told: Told, line: str, number: int) -> bool:
    """Whether the same failure comes with another line; a value that the player cannot take matters."""
    lines = [*document.calls[:number], line, *document.calls[number + 1 :]]
    try:
        return _same(play(document.player, lines), told)
    except CounterexampleError:
        return False
