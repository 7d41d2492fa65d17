"""The results for people (tables) and for programs (one JSON document)."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.machine import Machine
from benchmarks.rounds import Estimate, Series, Verdict, estimate, ratio
from benchmarks.sections import Quantity, Section

FORMAT = "sessionstore-benchmarks/1"
OUTCOME_STYLES = {"hit": "green", "MISS": "bold red", "not measured": "bold yellow"}


def print_report(console: Console, *, machine: Machine, sections: Sequence[Section]) -> None:
    """One table per section, then every bar with its verdict: the misses are as visible as the hits."""
    for line in machine.lines():
        console.print(Text(line))
    for section in sections:
        console.print()
        console.print(section_table(section))
        for subject, reason in section.rounds.failures:
            console.print(Text(f"not measured: {subject}: {reason}"), style="bold yellow")
        for subject, remark in section.remarks:
            console.print(Text(f"  {subject}: {remark}"))
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    if verdicts:
        console.print()
        console.print(verdict_table(verdicts))
        console.print(Text(count_outcomes(verdicts)))


def section_table(section: Section) -> Table:
    """Subjects by quantities: the median, and in brackets the 10th to 90th percentile of the rounds; or the total."""
    table = Table(title=section.title, caption=section.method, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("subject", no_wrap=True)
    for quantity in section.quantities:
        table.add_column(quantity.label, justify="right", no_wrap=True)
    if section.reference:
        table.add_column(f"/ {section.reference}", justify="right", no_wrap=True)
    for subject in subjects_of(section):
        cells = [subject]
        for quantity in section.quantities:
            series = section.rounds.of(subject=subject, quantity=quantity.name)
            cells.append(_series_text(quantity, series) if series else "")
        if section.reference:
            cells.append(_reference_text(section, subject))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def subjects_of(section: Section) -> list[str]:
    """The measured subjects in the order of their first series."""
    return list(dict.fromkeys(series.subject for series in section.rounds.series))


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Every bar: what was asked, what was measured, hit or MISS."""
    table = Table(title="Bars", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("bar", "limit", "measured", "verdict", "of what"):
        table.add_column(heading, justify="right" if heading in ("limit", "measured") else "left")
    for verdict in verdicts:
        bar = verdict.bar
        table.add_row(
            Text(bar.text),
            Text(f"{bar.sense} {format_number(bar.limit)} {bar.unit}".rstrip()),
            Text(_measured_text(verdict)),
            Text(verdict.outcome, style=OUTCOME_STYLES[verdict.outcome]),
            Text(verdict.remark),
        )
    return table


def count_outcomes(verdicts: Sequence[Verdict]) -> str:
    """One line that sums up the bars."""
    counts = {outcome: sum(verdict.outcome == outcome for verdict in verdicts) for outcome in OUTCOME_STYLES}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def as_json(*, machine: Machine, sections: Sequence[Section], plan_name: str) -> str:
    """Everything, every round included, in one versioned document."""
    document = {
        "format": FORMAT,
        "plan": plan_name,
        "machine": asdict(machine),
        "sections": [asdict(section) for section in sections],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _reference_text(section: Section, subject: str) -> str:
    series = _first_series(section, subject)
    reference = _first_series(section, str(section.reference))
    return _estimate_text(ratio(series, reference)) if series and reference else ""


def _series_text(quantity: Quantity, series: Series) -> str:
    if quantity.shown_as == "total":
        return format_number(sum(series.rounds))
    return _estimate_text(estimate(series.rounds))


def _measured_text(verdict: Verdict) -> str:
    if verdict.measured is None:
        return ""
    text = _estimate_text(verdict.measured)
    value, limit = verdict.measured.value, verdict.bar.limit
    if value != limit and format_number(value) == format_number(limit):
        # 1.302 is not 1.3, and the verdict is about the difference.
        text = f"{value:.6g}: {text}"
    return f"{text} {verdict.bar.unit}".rstrip()


def _first_series(section: Section, subject: str) -> Series | None:
    return section.rounds.of(subject=subject, quantity=section.quantities[0].name)


def _estimate_text(shown: Estimate) -> str:
    if shown.low == shown.high:
        return format_number(shown.value)
    return f"{format_number(shown.value)} ({format_number(shown.low)}-{format_number(shown.high)})"


def format_number(value: float) -> str:
    """Three significant digits, or a whole number in full."""
    if value == int(value) and abs(value) < 1_000_000:
        return str(int(value))
    # A fourth digit is noise on any machine that does something else as well.
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
