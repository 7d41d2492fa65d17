"""From failing tests to failing examples: with a counterexample in full, without one as pytest showed it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from storecheck import counterexample as counterexamples
from storecheck.program import ProgramError
from storecheck.report import crashes, histories, told
from storecheck.report.document import Example
from storecheck.report.examples import (
    ID_CHARACTERS,
    Origin,
    crash_example_of,
    discard_failure,
    example_of,
    masked,
    masked_lanes,
    placed,
    write_failure,
)
from storecheck.report.history_examples import history_example_of
from storecheck.report.placeholders import SecretsNeededError, without_secrets
from storecheck.report.retelling import told_example_of
from storecheck.runner import NoEvidence
from storecheck.schedule import ReplayDiverged
from storecheck.verdict import Failure, PromiseVerdict, Verdict

TITLE_CHARACTERS = 120

LANE_ROW = re.compile(r"\s*(?:step|----|\d*) +\|")
"""A line of lanes, as `storecheck.lanes.render` makes it."""

UNTELLABLE = (ProgramError, NoEvidence, ReplayDiverged)
"""Why a counterexample cannot be told outside its test: nonsense, nothing to judge by, or it does not replay there."""


def failures_of(verdict: Verdict) -> Iterator[tuple[Failure, PromiseVerdict | None]]:
    """Every failing test once, with the first promise that it checks."""
    seen: set[str] = set()
    for promise in verdict.promises:
        for failure in promise.failures:
            if failure.nodeid not in seen:
                seen.add(failure.nodeid)
                yield failure, promise
    for failure in verdict.other_failures:
        if failure.nodeid not in seen:
            seen.add(failure.nodeid)
            yield failure, None


def with_masked_lanes(verdict: Verdict, documents: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """The verdict with lanes in what failing tests said made anew from their counterexamples, by node id.

    A column breaks long lines: there, a secret in two halves is found by nobody.
    """

    def anew(failures: tuple[Failure, ...]) -> tuple[Failure, ...]:
        return tuple(_with_lanes(each, documents.get(each.nodeid, {})) for each in failures)

    return replace(
        verdict,
        promises=tuple(replace(promise, failures=anew(promise.failures)) for promise in verdict.promises),
        other_failures=anew(verdict.other_failures),
    )


def _with_lanes(failure: Failure, document: Mapping[str, Any]) -> Failure:
    if document.get("format") != counterexamples.FORMAT:
        return failure
    lines = failure.example.splitlines()
    rows = [number for number, line in enumerate(lines) if LANE_ROW.match(line)]
    if not rows:
        return failure
    lanes = masked_lanes(document)[: len(rows)]
    rest = [line for number, line in enumerate(lines) if number > rows[0] and number not in rows]
    return replace(failure, example="\n".join((*lines[: rows[0]], *lanes, *rest)))


def example_of_payload(
    payload: Mapping[str, Any], failure: Failure, promise: PromiseVerdict | None, *, shard: int, directory: Path
) -> Example:
    """The counterexample that a failing test carried, told; its files are put below `directory`."""
    origin = Origin(
        promise=promise.id if promise is not None else "",
        promise_text=promise.text if promise is not None else "",
        test=failure.nodeid,
        found=payload.get("found"),
        shards=(shard,),
    )
    document = payload["document"]
    try:
        example, kept = _told_without_secrets(document, origin)
    except UNTELLABLE as error:
        # It needs something that only the test had, such as a check inside a function: shown as pytest showed it.
        return masked(example_of_failure(failure, promise, shard=shard, why=str(error)), document)
    if kept is None:
        discard_failure(example, directory)
        return replace(example, replay=failure.replay, run_as_test=failure.replay, reproducer="")
    return placed(example, write_failure(example, kept, directory))


def _told_without_secrets(document: Mapping[str, Any], origin: Origin) -> tuple[Example, Mapping[str, Any] | None]:
    """The example, and the document that may be written: with placeholders, and None if it does not replay so."""
    try:
        kept = without_secrets(document)
        example = _told(kept, origin)
        _check_that_it_replays(example, changed=kept is not document)
    except SecretsNeededError as error:
        example = _told(document, origin)
        why = (
            f"**Its counterexample is not written**: it holds what looks like a secret, and with placeholders in the "
            f"place of that, {str(error).rstrip('.')}. Run the test itself."
        )
        return masked(replace(example, verdict=(*example.verdict, why)), document), None
    return masked(example, document), kept


def _check_that_it_replays(example: Example, *, changed: bool) -> None:
    # A recorded history is judged and not replayed.
    if changed and example.replays is not None and example.replays.failed < example.replays.tried:
        raise SecretsNeededError("it does not fail in the same way each time")


def fingerprint_of_payload(payload: Mapping[str, Any], promise: str) -> str:
    """The cause that the counterexample of a known failure has; empty if it cannot be run outside the test."""
    try:
        return _told(payload["document"], Origin(promise=promise)).fingerprint
    except UNTELLABLE:
        return ""


def _told(document: Mapping[str, Any], origin: Origin) -> Example:
    """The example that a document of any of the four formats is."""
    if document.get("format") == histories.FORMAT:
        return history_example_of(histories.from_json(document), origin)
    if document.get("format") == told.FORMAT:
        return told_example_of(told.from_json(document), origin)
    if document.get("format") == crashes.FORMAT:
        return crash_example_of(crashes.from_json(document), origin)
    return example_of(counterexamples.from_json(document), origin)


def promise_broken(payload: Mapping[str, Any], failure: Failure, verdict: Verdict) -> PromiseVerdict | None:
    """The promise that the counterexample itself says is broken, if the failing test checks it."""
    named = [promise for promise in verdict.promises if promise.id == payload.get("promise")]
    return next((each for each in named if any(it.nodeid == failure.nodeid for it in each.failures)), None)


def _first_line(failure: Failure) -> str:
    """What a failure says first; of an error that quotes another's traceback, also what that ends in."""
    lines = [line.strip() for line in failure.example.splitlines() if line.strip()]
    if not lines:
        return failure.nodeid
    quotes = len(lines) > 2 and lines[0].endswith(":") and lines[1].startswith("Traceback (most recent call last)")
    return f"{lines[0]} {lines[-1]}" if quotes else lines[0]


def example_of_failure(failure: Failure, promise: PromiseVerdict | None, *, shard: int, why: str = "") -> Example:
    """A failing test without a counterexample."""
    identity = json.dumps([promise.id if promise is not None else "", "test", failure.nodeid])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:32]
    first = _first_line(failure)
    title = first if len(first) <= TITLE_CHARACTERS else f"{first[: TITLE_CHARACTERS - 1]}…"
    sentences = ["This test left no counterexample that replays without it; what pytest showed is below."]
    if why:
        sentences = [f"Its counterexample cannot be run outside the test: {why.rstrip('.')}."]
    return masked(
        Example(
            id=f"test-{fingerprint[:ID_CHARACTERS]}",
            kind="test",
            promise=promise.id if promise is not None else "",
            promise_text=promise.text if promise is not None else "",
            title=title,
            verdict=tuple(sentences),
            test=failure.nodeid,
            fingerprint=fingerprint,
            replay=failure.replay,
            run_as_test=failure.replay,
            replays=None,
            shrunk=(),
            preemptions=None,
            first_seen="",
            shards=(shard,),
            race=None,
            sequence=None,
            crash=None,
            deciding=None,
            sources=(),
            environment={},
            inputs="",
            reproducer="",
            raw=failure.example,
        )
    )
