"""Tells a race from an observed run: lanes, who knew what when, what was lost, why no order explains it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from storecheck.report.document import (
    FieldRow,
    FileVersion,
    Importance,
    Lane,
    OutOfDate,
    Point,
    Race,
    SequentialOrder,
    SourceExcerpt,
    SourceLine,
    Span,
)
from storecheck.report.orders import SequentialModel, TooManyOrdersError, TriedOrder, shown_json, tried_orders
from storecheck.report.points import Happening, Observation, Place
from storecheck.report.sequences import flatten
from storecheck.runner import Execution

MAX_POINTS: Final = 80
"""Lines of the lanes shown; a run that has more shows those around the ordering that decides."""

MAX_ORDERS_SHOWN: Final = 8
MAX_FIELDS: Final = 40
CONTEXT_LINES: Final = 2
"""Source lines shown before and after a deciding one."""

MAX_EXCERPT_LINES: Final = 24

_SHOWN: Final = frozenset(
    {"begin", "end", "lock", "unlock", "write", "pwrite", "fsync", "replace", "rename", "unlink", "truncate"}
)
VERBS: Final[Mapping[str, str]] = {"replace": "rename", "fdatasync": "fsync", "pwrite": "write"}
"""Calls under the name that people know them by."""


def file_of(observation: Observation) -> str:
    """The file that a failing run is about: overwritten, else published, else the first."""
    for wanted in ("overwrites", "stale_against", "publishes"):
        for happening in observation.happenings:
            if getattr(happening, wanted) is not None:
                return happening.file
    return next(iter(observation.execution.program.files), "")


def race_of(
    observation: Observation, *, file: str, decisive: Iterable[int], model: SequentialModel | None
) -> tuple[Race, dict[int, int]]:
    """The race, and the number of the point that shows each happening."""
    decisive = frozenset(decisive)
    chosen = _shown(observation.happenings, file, decisive)
    numbers = {index: number for number, index in enumerate(chosen, start=1)}
    points = _points(observation, file, chosen, decisive)
    orders, tried = _orders(observation.execution, model)
    race = Race(
        file=file,
        lanes=tuple(
            Lane(name=f"P{index + 1}", role=", ".join(dict.fromkeys(str(each.name) for each in process.operations)))
            for index, process in enumerate(observation.execution.program.processes)
        ),
        points=points,
        out_of_date=tuple(_out_of_date(points)),
        versions=versions_of(observation, file, numbers),
        fields=tuple(fields_of(observation, file, model)),
        orders=orders,
        orders_tried=tried,
        found=found_in(observation.execution, model, file),
        recorded=False,
    )
    return race, numbers


def with_loose(race: Race, loose: Mapping[tuple[int, str], tuple[Span, ...]]) -> Race:
    """The race with the values marked, where an operation begins, that may be anything."""
    points = tuple(
        replace(point, loose=loose.get((point.process, point.what), ())) if point.verb == "begin" else point
        for point in race.points
    )
    return replace(race, points=points)


# Lanes


def _shown(happenings: tuple[Happening, ...], file: str, decisive: frozenset[int]) -> list[int]:
    chosen = []
    last_look: dict[int, tuple[str, int | None]] = {}
    for index, happening in enumerate(happenings):
        look = (happening.verb, happening.sees)
        repeated = happening.sees is not None and last_look.get(happening.line.process) == look
        wanted = index in decisive or happening.publishes is not None or happening.overwrites is not None
        if happening.verb in _SHOWN or happening.sees is not None or happening.takes or happening.verb == "unlock":
            wanted = wanted or not repeated
        if happening.verb == "fsync" and happening.target not in (file, "") and "tmp" not in happening.line.text:
            wanted = wanted and (index in decisive or "<" in happening.line.text)
        if wanted:
            chosen.append(index)
            last_look[happening.line.process] = look
    if len(chosen) <= MAX_POINTS:
        return chosen
    centre = sorted(decisive or {chosen[-1]})
    near = sorted(chosen, key=lambda index: min(abs(index - each) for each in centre))[:MAX_POINTS]
    return sorted({*near, *decisive})


def _points(observation: Observation, file: str, chosen: list[int], decisive: frozenset[int]) -> tuple[Point, ...]:
    points: list[Point] = []
    held: set[tuple[int, str]] = set()
    disk = 0
    numbers = {index: number for number, index in enumerate(chosen, start=1)}
    losses = [happening for happening in observation.happenings if happening.overwrites is not None]
    loser = losses[0].line.process if losses else None
    for index, happening in enumerate(observation.happenings):
        process = happening.line.process
        if happening.takes:
            held.add((process, happening.takes))
        if happening.frees:
            held = {each for each in held if each != (process, happening.frees)}
        if happening.verb == "end":
            held = {each for each in held if each[0] != process}
        if happening.publishes is not None and happening.file == file:
            disk = happening.publishes
        if index not in numbers:
            continue
        locked = any(who == process for who, _ in held)
        importance: Importance = "loss" if happening.overwrites is not None else ""
        if not importance and index in decisive and process == loser and happening.publishes is None:
            importance = "check"
        points.append(
            Point(
                number=numbers[index],
                step=happening.line.step,
                process=process,
                verb=VERBS.get(happening.verb, happening.verb),
                what=_what(happening, observation, file),
                loose=(),
                note=_note(happening, importance, locked=locked, observation=observation, file=file),
                sees=happening.sees if happening.file == file else None,
                stale=happening.stale_against is not None,
                publishes=happening.publishes if happening.file == file else None,
                overwrites=happening.overwrites,
                held=tuple(sorted({who for who, _ in held})),
                disk=disk,
                importance=importance,
                source=happening.place,
            )
        )
    return tuple(points)


def _what(happening: Happening, observation: Observation, file: str) -> str:
    text = happening.line.text
    if happening.verb in ("begin", "end"):
        return text[2:]
    if happening.publishes is not None:
        content = observation.contents.get(happening.file, [])
        size = _size(content, happening.publishes)
        return f"publishes {happening.file}, {size}" if size else f"{happening.file} is gone"
    if happening.takes or happening.verb == "unlock":
        return happening.takes or happening.frees
    if happening.sees is not None:
        return f"{happening.file}, {_size(observation.contents.get(happening.file, []), happening.sees)}"
    target = happening.target or text.partition("(")[2].rpartition(")")[0]
    if happening.verb in ("write", "fsync", "unlink") and target != file and (".tmp" in text or "…" in target):
        return "temporary file"
    if happening.verb == "fsync" and target.startswith("/"):
        return "directory"
    return target


def _size(contents: list[bytes | None], version: int) -> str:
    content = contents[version] if version < len(contents) else None
    return "" if content is None else f"{len(content):,} B"


def _note(
    happening: Happening,
    importance: Importance,
    *,
    locked: bool,
    observation: Observation,
    file: str,
) -> str:
    if importance == "loss":
        author = observation.authors.get((file, happening.overwrites or 0), (-1, -1))[0]
        whose = "the start's" if author < 0 else f"P{author + 1}'s"
        return f"Overwrites v{happening.overwrites}: {whose} change is gone"
    if importance == "check":
        looked = {"open": "Opened", "stat": "Looked", "fstat": "Looked", "lstat": "Looked"}.get(happening.verb, "Read")
        return f"{looked} while holding the lock" if locked else f"{looked} without holding the lock"
    if any("AT THE SAME TIME" in note or "LOCK WITHOUT A NAME" in note for note in happening.line.notes):
        return "; ".join(note for note in happening.line.notes if note.isupper() or note[0].isupper())
    return ""


def _out_of_date(points: tuple[Point, ...]) -> Iterable[OutOfDate]:
    """From the first publication that a process does not know of to the last thing it does without knowing."""
    for loss in points:
        if loss.overwrites is None:
            continue
        known = max(
            (
                point.sees if point.sees is not None else point.publishes or 0
                for point in points[: loss.number - 1]
                if point.process == loss.process and (point.sees is not None or point.publishes is not None)
            ),
            default=0,
        )
        first = next(
            (
                point.number
                for point in points[: loss.number]
                if point.publishes is not None and point.publishes > known and point.process != loss.process
            ),
            None,
        )
        if first is not None:
            yield OutOfDate(process=loss.process, first=first, last=loss.number)
            return


# Versions and fields


def versions_of(observation: Observation, file: str, numbers: Mapping[int, int]) -> tuple[FileVersion, ...]:
    """Every version of the file, with the point that made it."""
    versions = []
    for number, content in enumerate(observation.contents.get(file, [])):
        process, index = observation.authors.get((file, number), (-1, -1))
        versions.append(
            FileVersion(
                number=number,
                author="start" if process < 0 else f"P{process + 1}",
                point=numbers.get(index, 0),
                size_bytes=0 if content is None else len(content),
            )
        )
    return tuple(versions)


def fields_of(observation: Observation, file: str, model: SequentialModel | None) -> Iterable[FieldRow]:
    """Fields that differ between versions, or from what the model expects at the end."""
    flat = [flatten(_decoded(content)) for content in observation.contents.get(file, [])]
    wanted = expected_state(observation.execution, model)
    expected = None if wanted is None else flatten(wanted)
    names = dict.fromkeys(name for version in [*flat, expected or {}] for name in version)
    shown = 0
    for name in names:
        values = tuple(version.get(name) for version in flat)
        should = None if expected is None else expected.get(name)
        lost = expected is not None and bool(values) and values[-1] != should
        if (len(set(values)) > 1 or lost) and shown < MAX_FIELDS:
            shown += 1
            yield FieldRow(field=name, values=values, expected=should, lost=lost)


def _decoded(content: bytes | None) -> Any:
    if content is None:
        return {}
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


def expected_state(execution: Execution, model: SequentialModel | None) -> Any:
    """What the operations should leave, in the order of their answers; None without a model."""
    if model is None:
        return None
    state = model.begin(execution.program.files)
    answered = [record for record in execution.operations if record.outcome == "returned"]
    for record in sorted(answered, key=lambda record: record.responded_at or 0):
        state, _ = model.apply(state, record.operation)
    return state


def found_in(execution: Execution, model: SequentialModel | None, file: str) -> str:
    """What the file holds at the end, on one line."""
    if model is not None:
        return shown_json(model.stored(execution.files()))
    content = execution.files().get(file)
    return "no file" if content is None else content.decode("utf-8", "replace")


def _orders(execution: Execution, model: SequentialModel | None) -> tuple[tuple[SequentialOrder, ...], int]:
    if model is None:
        return (), 0
    try:
        tried = tried_orders(execution, model)
    except TooManyOrdersError:
        return (), 0
    return tuple(_shown_order(order) for order in tried[:MAX_ORDERS_SHOWN]), len(tried)


def _shown_order(order: TriedOrder) -> SequentialOrder:
    return SequentialOrder(
        operations=tuple(f"P{record.process + 1}.{record.operation.name}" for record in order.operations),
        would_leave=shown_json(order.state),
        differs=order.differs,
    )


# Source lines


def sources_of(
    observation: Observation, decisive: Iterable[int], numbers: Mapping[int, int]
) -> tuple[SourceExcerpt, ...]:
    """The lines of the code under test behind the points that decide.

    Of the calls of one operation the lines are taken where their ways part: in the function that made them all. Of a
    single call, in the function whose name the outermost frames of the project give.
    """
    groups: dict[int, list[int]] = {}
    for index in decisive:
        groups.setdefault(observation.happenings[index].line.process, []).append(index)
    places: dict[tuple[str, int], list[str]] = {}
    for indexes in groups.values():
        stacks = [observation.happenings[index].stack for index in indexes]
        depth = _common_depth(stacks)
        for index, stack in zip(indexes, stacks, strict=True):
            if stack:
                place = stack[min(depth, len(stack) - 1)]
                who = f"P{observation.happenings[index].line.process + 1}"
                verb = VERBS.get(observation.happenings[index].verb, observation.happenings[index].verb)
                note = f"point {numbers[index]}, {who} {verb}"
                places.setdefault((place.path, place.line), []).append(note)
    return tuple(_excerpts(observation, places))


def _common_depth(stacks: list[tuple[Place, ...]]) -> int:
    """Index of the innermost frame that all have; for a single one, the third from outside."""
    if len(stacks) < 2:
        return 2
    depth = 0
    for places in zip(*stacks, strict=False):
        if len({place.frame for place in places}) > 1 and len({(p.path, p.function) for p in places}) > 1:
            break
        depth += 1
        if len({place.line for place in places}) > 1:
            break
    return max(depth - 1, 0)


def _excerpts(observation: Observation, places: Mapping[tuple[str, int], list[str]]) -> Iterable[SourceExcerpt]:
    for path in dict.fromkeys(path for path, _ in places):
        text = observation.sources[path]
        wanted = sorted(line for each, line in places if each == path)
        shown: set[int] = set()
        for line in wanted:
            shown.update(range(max(1, line - CONTEXT_LINES), min(len(text), line + CONTEXT_LINES) + 1))
        marked = {line: places[path, line] for line in wanted}
        kept = sorted(shown, key=lambda line: min(abs(line - each) for each in wanted))[:MAX_EXCERPT_LINES]
        indent = indent_of([text[line - 1] for line in kept])
        yield SourceExcerpt(
            path=path,
            lines=tuple(
                SourceLine(
                    number=line,
                    text=text[line - 1][indent:],
                    note="; ".join(dict.fromkeys(marked.get(line, ()))),
                    marked=line in marked,
                )
                for line in sorted(kept)
            ),
        )


def indent_of(lines: list[str]) -> int:
    """How far all lines are indented."""
    return min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
