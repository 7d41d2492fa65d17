"""Tells a sequence from an observed run: operations one after the other, what the model says and what came."""

from __future__ import annotations

from storecheck.program import Json
from storecheck.report.document import Sequence, Step
from storecheck.report.orders import SequentialModel, same_json, shown_json
from storecheck.report.points import Observation
from storecheck.runner import Execution, OperationRecord


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
    expected = found = ""
    for number, record in enumerate(execution.operations, start=1):
        before, result = state, None
        if model is not None:
            state, result = model.apply(state, record.operation)
        made = _version_after(observation, file, record)
        returned = returned_by(record)
        wrong = model is not None and record.outcome == "returned" and not same_json(result, record.result)
        wrong = wrong or (model is not None and record.outcome == "raised")
        if wrong and not expected:
            expected, found = shown_json(result), returned
        content = observation.contents.get(file, [None])
        now = disk if made is None else made
        shown = content[now] if now < len(content) else None
        steps.append(
            Step(
                number=number,
                process=record.process,
                call=str(record.operation),
                model="" if model is None or (number > 1 and same_json(before, state)) else shown_json(state),
                disk=now,
                disk_changed=made is not None,
                disk_bytes=None if shown is None else len(shown),
                returned=returned,
                expected=shown_json(result) if wrong else None,
                cache=_cache_view(observation, file, record),
            )
        )
        disk = now
    if not expected and model is not None:
        expected, found = shown_json(state), shown_json(model.stored(execution.files()))
    return Sequence(file=file, steps=tuple(steps), expected=expected, found=found, with_model=model is not None)


def returned_by(record: OperationRecord) -> str:
    """What an operation answered, on one line."""
    if record.outcome == "returned":
        return shown_json(record.result)
    return f"{record.error}: {record.message}"


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
    return "not read, only looked at" if looked else ""
