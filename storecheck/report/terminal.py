"""The run for a terminal: each failing example on one screen, the replay line last."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from storecheck.report import words
from storecheck.report.document import Crash, Example, Race, Run, Sequence

COLOURS = ("blue", "magenta", "cyan")
"""Of the processes, in turn."""


def show(run: Run, console: Console) -> None:
    """Print the run."""
    for example in run.examples:
        show_example(example, console)
        console.print()
    for failure in run.other_failures:
        console.print(Text(failure.nodeid, style="bold red"), soft_wrap=True)
        console.print(Padding(Text(failure.example), (0, 0, 0, 2)))
        console.print(Text(failure.replay), soft_wrap=True)
    for known in run.known:
        console.print(Text(f"Known, still failing: {known.test} {known.reason}".rstrip(), style="yellow"))
    if run.promises:
        console.print(_promises(run))
    if run.missing_shards:
        console.print(Text(f"No report of shard {', '.join(map(str, run.missing_shards))}.", style="bold red"))
    for bound in filter(None, (words.bounds_sentence(run), *run.bounds)):
        console.print(Text(bound, style="dim"))
    console.print(Text(f"{words.headline(run)}.", style="bold red" if run.failed else "bold"))


def show_example(example: Example, console: Console) -> None:
    """Print one failing example; its test and the command that replays it, the last line, are in one piece each."""
    console.print(_heading(example))
    if example.test:
        console.print(Text(example.test, style="dim"), soft_wrap=True)
    console.print(_example(example))
    console.print(Text(f"Replay: {example.replay}", style="bold"), soft_wrap=True)


def _heading(example: Example) -> RenderableType:
    parts = [Text.assemble((words.kind_name(example), "bold red"), "  ", (example.title, "bold"))]
    if example.promise:
        parts.append(Text(f"breaks {example.promise}: {example.promise_text}", style="dim"))
    return Group(*parts)


def _example(example: Example) -> RenderableType:
    facts = Text(_facts(example), style="dim")
    parts: list[RenderableType] = [Text(words.plain(" ".join(example.verdict))), facts, Text("")]
    parts += _body(example)
    if example.deciding is not None:
        order = " -> ".join(f"P{p.process + 1} {p.verb} ({p.number})" for p in example.deciding.points)
        parts.append(Text(f"Order that matters: {order}", style="yellow"))
        parts.append(Text(words.plain(words.counts_sentence(example.deciding))))
    for excerpt in example.sources:
        parts += [
            Text(f"{excerpt.path}:{line.number}: {line.text.strip()}  <- {line.note}")
            for line in excerpt.lines
            if line.marked
        ]
    return Group(*parts)


def _facts(example: Example) -> str:
    facts = [words.example_size(example)]
    if example.replays is not None:
        facts.append(f"{example.replays.failed} of {example.replays.tried} replays fail")
    facts += [f"{each.what} {each.before} -> {each.after}" for each in example.shrunk]
    return ", ".join(facts)


def _body(example: Example) -> Iterator[RenderableType]:
    if example.race is not None:
        yield _race(example.race)
    if example.sequence is not None:
        yield _sequence(example.sequence)
    if example.crash is not None:
        yield from _crash(example.crash)


def _race(race: Race) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", style="dim")
    for index, lane in enumerate(race.lanes):
        table.add_column(f"{lane.name} {lane.role}", style=COLOURS[index % len(COLOURS)], overflow="fold")
    if not race.recorded:
        table.add_column("disk")
    for point in race.points:
        cells = [Text("|" if index in point.held else "") for index, _ in enumerate(race.lanes)]
        held = "|" if point.process in point.held else " "
        text = Text(f"{held} {point.verb} {point.what}")
        if race.recorded:
            text.append(f"  {words.point_at(race, point)}", style="dim")
        if point.sees is not None:
            stale = ", stale" if point.stale else ""
            text.append(f"  sees v{point.sees}{stale}", style="yellow" if stale else "")
        if point.note:
            text.append(f"\n  {point.note}", style="bold red" if point.importance == "loss" else "yellow")
        cells[point.process] = text
        disk = [] if race.recorded else [f"v{point.disk}" if point.publishes is not None else ""]
        table.add_row(str(point.number), *cells, *disk)
    return table


def _sequence(sequence: Sequence) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "", "call", "model", "disk", "returned"):
        table.add_column(name, overflow="fold")
    for step in sequence.steps:
        returned = Text(step.returned)
        if step.expected is not None:
            returned = Text(f"✕ {step.returned}, expected {step.expected}", style="bold red")
        disk = f"v{step.disk}" if step.disk_changed else "same"
        table.add_row(str(step.number), f"P{step.process + 1}", step.call, step.model or "same", disk, returned)
    return table


def _crash(crash: Crash) -> Iterator[RenderableType]:
    before = words.cut_at(crash, 0)
    if before is not None:
        yield Text(f"  - {words.cut_text(before)} -", style="bold red")
    for operation in crash.operations:
        mark = {"yes": "✓ on disk", "no": "✕ not on disk", "": operation.note}[operation.persisted]
        style = "red" if operation.persisted == "no" or operation.note.startswith("✕") else ""
        yield Text(f"{operation.number:3} {operation.verb:9} {operation.what}  {mark}", style=style)
        cut = words.cut_at(crash, operation.number)
        if cut is not None:
            yield Text(f"  - {words.cut_text(cut)} -", style="bold red")
    for each in crash.aftermath:
        found = f"  {each.what}: {each.after}" + (f"  ✕ {each.problem}" if each.problem else "")
        yield Text(found, style="bold red" if each.problem else "")
    if crash.recovered:
        yield Text(f"  recovery sees {crash.recovered}, must be {crash.wanted}", style="bold red")
    yield Text(words.grid_sentence(crash))


def _promises(run: Run) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("promise", "outcome", "tests", "searched", "how far", "planted bugs killed"):
        table.add_column(name, overflow="fold")
    styles = {"passed": "green", "FAILED": "bold red", "not verified": "yellow"}
    for promise in run.promises:
        table.add_row(
            promise.id,
            Text(promise.outcome, style=styles[promise.outcome]),
            words.tests_cell(promise),
            words.sampled(promise),
            words.bounds(promise.evidence),
            words.mutants_cell(promise),
        )
    return table
