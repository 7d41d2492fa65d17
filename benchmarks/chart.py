"""One SVG (or PNG) with a panel per section: the medians as bars, the spread as whiskers, the limits as lines.

Where values differ by more than a factor of ten the axis is logarithmic: length then shows order, not proportion, and
the figure stands at the end of each bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import Machine
from benchmarks.report import format_number, subjects_of
from benchmarks.rounds import estimate
from benchmarks.sections import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS_COLOUR = "#1b6ca8"
OTHERS_COLOUR = "#9aa5b1"
LIMIT_COLOUR = "#b3261e"
PANEL_WIDTH_INCHES = 7.0
BAR_HEIGHT_INCHES = 0.34
PANEL_MARGIN_INCHES = 1.0
LOG_FROM_FACTOR = 10
OUR_NAME = "sessionstore"


def draw_chart(path: Path, *, machine: Machine, sections: Sequence[Section]) -> None:
    """Write the chart to `path`; its suffix (.svg or .png) chooses the format."""
    # Imported here: the tables are of use without it, and it takes a second.
    import matplotlib as mpl

    mpl.use("Agg")
    # Same figures, same file: no random ids, no date.
    mpl.rcParams["svg.hashsalt"] = "sessionstore"
    from matplotlib import pyplot as plt

    heights = [PANEL_MARGIN_INCHES + BAR_HEIGHT_INCHES * len(subjects_of(section)) for section in sections]
    figure, panels = plt.subplots(
        nrows=len(sections),
        squeeze=False,
        figsize=(PANEL_WIDTH_INCHES, sum(heights)),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    try:
        for panel, section in zip(panels[:, 0], sections, strict=True):
            _draw_panel(panel, section)
        figure.text(0.01, 0.0, machine.lines()[0], fontsize=7, va="top", color="#555555")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, bbox_inches="tight", dpi=150)
    finally:
        plt.close(figure)


def _draw_panel(panel: Axes, section: Section) -> None:
    quantity = section.quantities[0]
    panel.set_title(f"{section.title} ({quantity.label}, {quantity.better} is better)", fontsize=9, loc="left")
    subjects = [
        (subject, estimate(series.rounds))
        for subject in subjects_of(section)
        if (series := section.rounds.of(subject=subject, quantity=quantity.name)) is not None
    ]
    for row, (subject, shown) in enumerate(subjects):
        colour = OURS_COLOUR if subject.startswith(OUR_NAME) else OTHERS_COLOUR
        whiskers = [[max(0.0, shown.value - shown.low)], [max(0.0, shown.high - shown.value)]]
        panel.barh(row, shown.value, color=colour, xerr=whiskers, error_kw={"lw": 0.8, "capsize": 2})
        panel.annotate(
            format_number(shown.value),
            (shown.high, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    if section.limit_line is not None:
        panel.axvline(section.limit_line, color=LIMIT_COLOUR, linestyle="--", linewidth=1)
    panel.set_yticks(range(len(subjects)), [subject for subject, _ in subjects], fontsize=8)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    values = [shown.value for _, shown in subjects if shown.value > 0]
    if values and max(values) > LOG_FROM_FACTOR * min(values):
        panel.set_xscale("log")
        # Room for the figure at the end of the longest bar, and a start below the shortest.
        panel.set_xlim(10 ** math.floor(math.log10(min(values))), max(values) * 3)
    elif values:
        panel.set_xlim(0, max(values) * 1.2)
