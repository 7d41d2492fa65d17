"""What a section of the benchmark is: its plan, the values it produces, and what it needs to run.

A section is one table: interleaved subjects, one or more quantities, and the verdicts on its bars.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.rounds import Rounds, Verdict
from benchmarks.stores import GeneratedStore, StoreShape, generate_store


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. A turn is one subject's share of one round."""

    rounds: int
    updates_per_turn: int
    reads_per_turn: int
    loads_per_turn: int
    contention_rounds: int
    contention_window_s: float
    large_contention_window_s: float
    hold_window_s: float
    command_rounds: int
    stress_rounds: int
    cycles: int


FULL = Plan(
    rounds=15,
    updates_per_turn=3,
    reads_per_turn=200,
    loads_per_turn=2,
    contention_rounds=5,
    contention_window_s=2.0,
    large_contention_window_s=4.0,
    hold_window_s=4.0,
    command_rounds=15,
    stress_rounds=3,
    cycles=50,
)
# The stress bar is about cycle 50, so that --quick runs it whole as well, once.
QUICK = Plan(
    rounds=5,
    updates_per_turn=2,
    reads_per_turn=100,
    loads_per_turn=1,
    contention_rounds=2,
    contention_window_s=1.0,
    large_contention_window_s=2.0,
    hold_window_s=2.0,
    command_rounds=5,
    stress_rounds=1,
    cycles=50,
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """One column: what is measured, in which unit, and which direction is good.

    Attributes:
        shown_as: the median of the rounds, or their total: of things that must never happen no median may be taken.
    """

    name: str
    label: str
    better: Literal["lower", "higher", "neither"] = "lower"
    shown_as: Literal["median", "total"] = "median"


@dataclass(frozen=True, slots=True)
class Section:
    """The result of one section.

    Attributes:
        remarks: subject -> what a reader must know beside its figures, such as its durability.
        reference: the subject that the first quantity of the others is divided by.
        limit_line: where a bar stands in units of the first quantity, for the chart.
    """

    name: str
    title: str
    method: str
    quantities: tuple[Quantity, ...]
    rounds: Rounds
    remarks: tuple[tuple[str, str], ...] = ()
    reference: str | None = None
    limit_line: float | None = None
    verdicts: tuple[Verdict, ...] = ()


Report: TypeAlias = Callable[[str, str, int], None]
"""Progress: called with section, subject and round number before each turn."""


@dataclass(slots=True)
class Bench:
    """What every section needs: the plan, a directory on the disk to be measured, generated stores, progress."""

    plan: Plan
    directory: Path
    newest_updated_at_ms: int
    report: Report
    _stores: dict[str, GeneratedStore] = field(default_factory=dict)
    _directories_made: int = 0

    def store(self, shape: StoreShape) -> GeneratedStore:
        """The store of that shape, generated once per run."""
        if shape.name not in self._stores:
            self._stores[shape.name] = generate_store(shape, newest_updated_at_ms=self.newest_updated_at_ms)
        return self._stores[shape.name]

    def new_directory(self, name: str) -> Path:
        """An empty directory of that name, never used before."""
        self._directories_made += 1
        made = self.directory / f"{self._directories_made:04d}-{name}"
        made.mkdir()
        return made

    def before_turn(self, section: str) -> Callable[[str, int], None]:
        """Report progress, then let the disk settle: nobody shall pay for what the subject before left unwritten."""

        def prepare(subject: str, number: int) -> None:
            self.report(section, subject, number)
            if hasattr(os, "sync"):
                os.sync()

        return prepare


def discard(directory: Path) -> None:
    """Remove a directory of a turn; it may be several megabytes and there is one per turn."""
    shutil.rmtree(directory)
