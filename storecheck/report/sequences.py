"""Tells a sequence from an observed run: operations one after the other, what the model says and what came.

Only what changed is told: `changes` and `differences` compare JSON values field by field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from storecheck.program import Json
from storecheck.report.document import Difference, Sequence, Span, Step
from storecheck.report.orders import SequentialModel, same_json, shown_json
from storecheck.report.points import Observation
from storecheck.runner import Execution, OperationRecord

ALL: Final = "(all)"
"""Name of the field that a value is which is no object."""

CACHED: Final = "file not read"
"""How the view of a step begins that answered without reading the file."""

MAX_CHANGES: Final = 3
"""Changed fields of one step shown; the rest is counted."""

MAX_DIFFERENCES: Final = 20
MAX_VALUE_CHARACTERS: Final = 60


def is_sequential(execution: Execution) -> bool:
    """Whether no two operations overlapped, and all answered."""
    last = 0
    for record in execution.operations:
        if record.invoked_at < last or record.responded_at is None:
            return False
        last = record.responded_at
    return True


def sequence_of(observation: Observation, *, file: str, model: SequentialModel | None) -> Sequence:
    """The steps with what the model and the disk hold after each; only what changed is shown."""
    execution = observation.execution
    state: Json = None if model is None else model.begin(execution.program.files)
    steps: list[Step] = []
    disk = 0
    wanted: Json = None
    found: Json = None
    about = ""
    for number, record in enumerate(execution.operations, start=1):
        before, result = state, None
        if model is not None:
            state, result = model.apply(state, record.operation)
        made = _version_after(observation, file, record)
        wrong = model is not None and (record.outcome == "raised" or not same_json(result, record.result))
        if wrong and not about:
            about = "returned"
            wanted, found = result, record.result if record.outcome == "returned" else returned_by(record)
        content = observation.contents.get(file, [None])
        now = disk if made is None else made
        shown = content[now] if now < len(content) else None
        steps.append(
            Step(
                number=number,
                process=record.process,
                call=str(record.operation),
                loose=(),
                model="" if model is None else changes(before, state),
                disk=now,
                disk_changed=made is not None,
                disk_bytes=None if shown is None else len(shown),
                returned=returned_by(record),
                expected=shown_json(result) if wrong else None,
                cache=_cache_view(observation, file, record),
            )
        )
        disk = now
    if model is not None and not about:
        about, wanted, found = file, state, model.stored(execution.files())
    return Sequence(
        file=file,
        steps=tuple(steps),
        about=about,
        differences=tuple(differences(wanted, found)) if about else (),
        with_model=model is not None,
    )


def with_loose_steps(sequence: Sequence, loose: Mapping[tuple[int, str], tuple[Span, ...]]) -> Sequence:
    """The sequence with the values marked that may be anything."""
    steps = tuple(replace(step, loose=loose.get((step.process, step.call), ())) for step in sequence.steps)
    return replace(sequence, steps=steps)


def returned_by(record: OperationRecord) -> str:
    """What an operation answered, on one line."""
    if record.outcome == "returned":
        return shown_json(record.result)
    return f"{record.error}: {record.message}"


# Comparing


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Fields of nested objects by dotted name, values as JSON; `ALL` for a value that is no object."""
    if isinstance(value, dict) and value:
        found: dict[str, str] = {}
        for key, each in value.items():
            found |= flatten(each, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix or ALL: json.dumps(value, ensure_ascii=False, default=repr)}


def differences(expected: Any, found: Any) -> Iterator[Difference]:
    """Every field in which two values differ, `MAX_DIFFERENCES` at most."""
    wanted, there = _fields(expected, found), _fields(found, expected)
    shown = 0
    for name in dict.fromkeys((*wanted, *there)):
        if wanted.get(name) != there.get(name) and shown < MAX_DIFFERENCES:
            shown += 1
            yield Difference(field=name, expected=_cut(wanted.get(name)), found=_cut(there.get(name)))


def _fields(value: Any, other: Any) -> dict[str, str]:
    """The fields of a value; an empty object has none where the other one is an object, too."""
    return {} if value == {} and isinstance(other, dict) and other else flatten(value)


def changes(before: Any, after: Any) -> str:
    """What changed, in a few words; empty if nothing did."""
    changed = [
        f"{each.field} is gone" if each.found is None else f"{each.field} = {each.found}"
        for each in differences(before, after)
    ]
    rest = f" and {len(changed) - MAX_CHANGES} more" if len(changed) > MAX_CHANGES else ""
    return ", ".join(changed[:MAX_CHANGES]) + rest


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_VALUE_CHARACTERS:
        return text
    return f"{text[: MAX_VALUE_CHARACTERS - 2]}…{text[-1]}"


# What an operation did to the file


def _during(observation: Observation, record: OperationRecord) -> list[int]:
    end = record.responded_step if record.responded_step is not None else observation.execution.steps
    return [
        index
        for index, happening in enumerate(observation.happenings)
        if happening.line.process == record.process and record.invoked_step <= happening.line.step <= end
        and happening.verb not in ("begin", "end")
    ]  # fmt: skip


def _version_after(observation: Observation, file: str, record: OperationRecord) -> int | None:
    made = [
        happening.publishes
        for happening in (observation.happenings[index] for index in _during(observation, record))
        if happening.publishes is not None and happening.file == file
    ]
    return made[-1] if made else None


def _cache_view(observation: Observation, file: str, record: OperationRecord) -> str:
    """How the operation came to know the content: from which version it read, or that it only looked at the file."""
    happenings = [observation.happenings[index] for index in _during(observation, record)]
    read = [happening.sees for happening in happenings if happening.sees is not None and happening.file == file]
    if read:
        return f"read v{read[-1]}"
    looked = any(happening.target == file and happening.verb in ("stat", "lstat", "fstat") for happening in happenings)
    return f"{CACHED}, only its status" if looked else ""
