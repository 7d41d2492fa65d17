"""The command line of the benchmarks: which sections, how long, where the results go.

Tables on stdout, progress on stderr. Exit 0 if everything could be measured, whatever the bars say; 1 if something
could not; 2 for wrong usage.
"""

import functools
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks import commands, contention, report, timing
from benchmarks.chart import draw_chart
from benchmarks.machine import describe_machine
from benchmarks.sections import FULL, QUICK, Bench, Section
from benchmarks.stores import LARGE, MEDIUM, SMALL

# Wide enough for the widest table when nobody's terminal says otherwise.
PLAIN_WIDTH = 170

SECTIONS: Mapping[str, Callable[[Bench], Section]] = {
    "update": timing.run_updates,
    "read": timing.run_reads,
    "load": timing.run_loads,
    "writers-7.6mb": functools.partial(contention.run_writers, shape=LARGE),
    "writers-220kb": functools.partial(contention.run_writers, shape=MEDIUM),
    "writers-2kb": functools.partial(contention.run_writers, shape=SMALL),
    "fairness": contention.run_fairness,
    "lock": contention.run_uncontended,
    "stress": commands.run_stress,
    "cycles": commands.run_cycles,
    "status": commands.run_status,
}


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds: minutes become one or two. The spread is wider.")
@click.option("--only", multiple=True, type=click.Choice(list(SECTIONS)), help="Run this section; may be repeated.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every round here.")
@click.option(
    "--chart",
    "chart_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("build/benchmarks.svg"),
    show_default=True,
    help="Write the chart here (.svg or .png).",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Measure the disk that holds this directory; what is put there is removed again.",
)
def main(quick: bool, only: Sequence[str], json_path: Path | None, chart_path: Path, directory: Path) -> None:
    """Measure sessionstore against other stores and the raw disk, in interleaved rounds on this machine."""
    if chart_path.suffix not in (".svg", ".png"):
        raise click.BadParameter(f"{chart_path} ends in neither .svg nor .png", param_hint="--chart")
    if importlib.util.find_spec("matplotlib") is None:
        # Said now and not when everything has been measured.
        raise click.UsageError("matplotlib is missing. Install the dependency group `bench`: `tox run -e bench` does.")
    directory.mkdir(parents=True, exist_ok=True)
    machine = describe_machine(directory)
    names = tuple(dict.fromkeys(only)) or tuple(SECTIONS)
    sections: list[Section] = []
    progress = Progress(names)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=directory) as scratch:
        bench = Bench(
            plan=QUICK if quick else FULL,
            directory=Path(scratch).resolve(),
            newest_updated_at_ms=time.time_ns() // 1_000_000,
            report=progress.turn,
        )
        sections.extend(SECTIONS[name](bench) for name in names)
    progress.done()
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    report.print_report(console, machine=machine, sections=sections)
    draw_chart(chart_path, machine=machine, sections=sections)
    console.print(f"Chart: {chart_path}", soft_wrap=True)
    if json_path is not None:
        document = report.as_json(machine=machine, sections=sections, plan_name="quick" if quick else "full")
        json_path.write_text(document, encoding="utf-8")
    if any(section.rounds.failures for section in sections):
        sys.exit(1)


class Progress:
    """Says on stderr what is being measured: one line that is rewritten on a terminal, one line per round elsewhere."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._began_s = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._last: tuple[str, int] | None = None

    def turn(self, section: str, subject: str, number: int) -> None:
        """A turn begins. Round 0 warms up."""
        if not self._terminal and self._last == (section, number):
            return
        self._last = (section, number)
        elapsed_s = time.monotonic() - self._began_s
        place = f"{self._names.index(section) + 1}/{len(self._names)}" if section in self._names else ""
        which = f"round {number}" if number else "warm-up"
        line = f"[{elapsed_s:4.0f} s] {place} {section}: {which}"
        if self._terminal:
            click.echo(f"\r\x1b[K{line}, {subject}", nl=False, err=True)
        else:
            click.echo(line, err=True)

    def done(self) -> None:
        """Leave a clean line behind."""
        if self._terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
