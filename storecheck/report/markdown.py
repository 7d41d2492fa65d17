"""The run as Markdown for a CI step's summary, within the size that CI takes.

GitHub refuses a summary over 1 MiB and shows nothing then. What does not fit is dropped, the folded details first, and
the summary says what it dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from storecheck.report import words
from storecheck.report.document import Crash, Example, Run

BUDGET_BYTES: Final = 900 * 1024
"""GitHub's limit is 1 MiB per step; other steps' output and the rendering's own growth need some of it."""

MAX_ROWS: Final = 200
"""Failing examples listed; nobody reads more, and the rest is counted."""

NOTE_BYTES: Final = 400
"""Kept free for the sentence about what was dropped."""


def render(run: Run, *, budget_bytes: int = BUDGET_BYTES) -> str:
    """The summary, at most `budget_bytes` long."""
    head = f"## {'✕' if run.failed or not run.ran else '✓'} {_text(words.headline(run))}\n"
    foot = _foot(run)
    left = budget_bytes - len(f"{head}{foot}".encode()) - NOTE_BYTES
    parts: list[str] = []
    dropped: list[str] = []
    wanted = [("the table of promises", _promises(run))]
    wanted = [("the table of failing examples", _table(run)), *wanted]
    wanted += [("the known failures", _known(run))]
    wanted += [(f"details of {each.id}", _details(each, number)) for number, each in enumerate(run.examples, start=1)]
    wanted += [(f"the failure of {each.nodeid}", _other(each.nodeid, each.example)) for each in run.other_failures]
    for name, part in wanted:
        size = len(part.encode()) + 1  # the newline that joins it
        if not part:
            continue
        if size > left:
            dropped.append(name)
            continue
        left -= size
        parts.append(part)
    note = ""
    if dropped:
        shown = ", ".join(dropped[:4]) + (f" and {len(dropped) - 4} more" if len(dropped) > 4 else "")
        limit = f"a summary holds {budget_bytes // 1024} KiB"
        note = f"\nLeft out, because {limit}: {_text(shown)}. The full report has it.\n"
        note = note if len(note.encode()) <= NOTE_BYTES else f"\n{len(dropped)} parts left out: see the full report.\n"
    return "\n".join([head, *parts]) + note + foot


def _text(text: str) -> str:
    """Text that means itself in Markdown and in a table's cell."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text).replace("\n", " ")


def _code(text: str) -> str:
    """Code in a table's cell; backquotes and bars cannot be escaped there, and there is no code of no characters."""
    return text and f"`{text.replace('`', chr(39)).replace('|', '¦').replace(chr(10), ' ')}`"


def _table(run: Run) -> str:
    if not run.examples:
        return ""
    rows = ["| | Kind | What failed | Replay |", "|---|---|---|---|"]
    for number, each in enumerate(run.examples[:MAX_ROWS], start=1):
        what = f"**{_text(each.title)}**<br>{_text(words.example_size(each))}"
        if each.promise:
            what += f", breaks {_text(each.promise)}"
        rows.append(f"| {number} | {words.kind_name(each)} | {what} | {_code(each.replay)} |")
    if len(run.examples) > MAX_ROWS:
        rows.append(f"| | | and {len(run.examples) - MAX_ROWS:,} more | |")
    return "\n".join(rows) + "\n"


def _details(example: Example, number: int) -> str:
    kind, size = words.kind_name(example), _text(words.example_size(example))
    head = f"<details><summary>{number}. {kind}: {size}</summary>\n\n"
    lines = [_text(words.plain(" ".join(example.verdict))), ""]
    if example.race is not None:
        race = example.race
        heads = ["#", *(_text(f"{lane.name} {lane.role}") for lane in race.lanes), *([] if race.recorded else ["Disk"])]
        lines += [f"| {' | '.join(heads)} |", "|--:|" + "---|" * len(race.lanes) + ("" if race.recorded else ":-:|")]
        for point in race.points:
            cells = ["" for _ in race.lanes]
            cell = f"`{point.verb}` {_text(point.what)} {words.point_at(race, point)}".rstrip()
            if point.sees is not None:
                cell += f" sees v{point.sees}{', **stale**' if point.stale else ''}"
            cells[point.process] = cell + (f"<br>**{_text(point.note)}**" if point.note else "")
            cells += [] if race.recorded else [f"**v{point.disk}**" if point.publishes is not None else ""]
            lines.append(f"| {point.number} | {' | '.join(cells)} |")
    if example.sequence is not None:
        lines += ["| # | | Call | Disk | Returned |", "|--:|---|---|---|---|"]
        for step in example.sequence.steps:
            returned = _code(step.returned)
            if step.expected is not None:
                returned = f"✕ {returned} expected {_code(step.expected)}"
            disk = f"v{step.disk}" if step.disk_changed else "same"
            lines.append(f"| {step.number} | P{step.process + 1} | {_code(step.call)} | {disk} | {returned} |")
    if example.crash is not None:
        lines += ["", *_crash(example.crash)] if example.sequence is not None else _crash(example.crash)
    if example.kind == "test" and example.raw:
        # It has nothing else to show.
        lines.append(_fenced(example.raw))
    if example.deciding is not None:
        order = " → ".join(f"P{p.process + 1} {p.verb} ({p.number})" for p in example.deciding.points)
        lines.append(f"\nOrder that matters: **{_text(order)}**. {words.counts_sentence(example.deciding)}")
    return head + "\n".join(lines) + "\n</details>\n"


def _crash(crash: Crash) -> Iterator[str]:
    yield from ("| # | Operation | On disk |" if crash.model else "| # | Call | |", "|--:|---|---|")
    before = words.cut_at(crash, 0)
    if before is not None:
        yield f"| | **{_text(words.cut_text(before))}** | |"
    for each in crash.operations:
        mark = {"yes": "✓", "no": "✕ **no**", "": _text(each.note)}[each.persisted]
        yield f"| {each.number} | `{each.verb}` {_text(each.what)} | {mark} |"
        cut = words.cut_at(crash, each.number)
        if cut is not None:
            yield f"| | **{_text(words.cut_text(cut))}** | |"
    if crash.aftermath:
        yield from ("", "| What | Before | Afterwards | |", "|---|---|---|---|")
    for what in crash.aftermath:
        problem = f"✕ **{_text(what.problem)}**" if what.problem else "✓"
        yield f"| {_text(what.what)} | {_text(what.before)} | {_text(what.after)} | {problem} |"
    if crash.recovered:
        yield f"\nRecovery sees {_code(crash.recovered)}, must be {crash.wanted}."


def _other(nodeid: str, text: str) -> str:
    return f"<details><summary>{_text(nodeid)}</summary>\n\n{_fenced(text)}\n</details>\n"


def _fenced(text: str) -> str:
    """Text as it is, in a fence that is longer than any in it."""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=2) + 1)
    return f"{fence}\n{text}\n{fence}"


def _promises(run: Run) -> str:
    if not run.promises:
        return ""
    rows = ["| Promise | Outcome | Tests | Searched | How far | Planted bugs killed |", "|---|---|---|---|---|---|"]
    for each in run.promises:
        outcome = "**FAILED**" if each.outcome == "FAILED" else each.outcome
        texts = (words.tests_cell(each), words.sampled(each), words.bounds(each.evidence), words.mutants_cell(each))
        cells = list(map(_text, texts))
        rows.append(f"| {_text(each.id)} {_text(each.title)} | {outcome} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _known(run: Run) -> str:
    if not run.known:
        return ""
    lines = [f"- {_code(each.test)} {_text(each.reason)}".rstrip() for each in run.known]
    return "\n".join(["Known, still failing:", "", *lines]) + "\n"


def _foot(run: Run) -> str:
    counts = ", ".join(f"{name.lower()} {value}" for name, value, _ in words.totals(run))
    shards = words.plural(len(run.shards), "shard")
    missing = f" **No report of shard {', '.join(map(str, run.missing_shards))}.**" if run.missing_shards else ""
    bounds = " ".join(filter(None, [words.bounds_sentence(run), *run.bounds]))
    text = f"{counts} on {shards} in {words.duration(run.duration_s)}.{missing} {bounds}".strip()
    return f"\n{text} Outside what was searched a pass says nothing.\n"
