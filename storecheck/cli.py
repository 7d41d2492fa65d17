"""Command line of the verifier: look at verdicts, search a program, replay and explain counterexamples.

`storecheck verdict FILE` shows the verdict of an earlier run of pytest; `run` searches the schedules of one program;
`replay` executes a counterexample again; `list` finds counterexamples below a directory; `check-history` judges a
recorded history. Reports of runs and what explains them are in `storecheck.report.commands`. Tests are run by pytest,
not here.
"""

from __future__ import annotations

import importlib.metadata
import io
import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from storecheck import history_commands
from storecheck import verdict as verdicts
from storecheck.report import commands as report_commands

if TYPE_CHECKING:
    # Imported where used: `storecheck verdict` needs no simulator.
    from storecheck.counterexample import Counterexample
    from storecheck.explore import Check, Exploration
    from storecheck.program import Program
    from storecheck.schedule import Strategy

_COLOURS = {"passed": "green", "FAILED": "red", "not verified": "yellow"}

EXECUTIONS_DEFAULT = 2_000
"""Schedules that `run` executes unless told otherwise: a few seconds for a small program."""


class _Commands(click.Group):
    """Says what to install where the extra `verify` is missing, and with it the simulator or the page."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if not is_of_the_extra(error.name or ""):
                raise
            raise click.UsageError(
                f"{error.name} is not installed. Install what the verifier needs: "
                "python3 -m pip install 'sessionstore[verify]' (in a clone: '.[verify]')."
            ) from error


def is_of_the_extra(module: str) -> bool:
    """Whether the extra `verify` brings the module, as the package's metadata says."""
    top = module.partition(".")[0]
    required = importlib.metadata.requires("sessionstore") or ()
    return any("extra ==" in each and re.split(r"[^\w-]", each)[0] in (top, f"pytest-{top}") for each in required)


@click.group(cls=_Commands)
@click.version_option(package_name="sessionstore")
def main() -> None:
    """Look at what a run of the verifier found."""
    # Adapters and checks are named by import path, and belong to the project in the working directory.
    if "" not in sys.path:
        sys.path.insert(0, "")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a counterexample holds may be in no character set: it is shown escaped, and ends no command.
        sys.stdout.reconfigure(errors="backslashreplace")


@main.command("verdict")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def show_verdict(file: Path) -> None:
    """Show the verdict in FILE, written by `pytest --verdict-json FILE`.

    Exit status: 0 if nothing failed, 1 if something did, 2 if FILE holds no verdict.
    """
    try:
        verdict = verdicts.from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.UsageError(f"{file}: {error}") from error
    for outcome, line in verdicts.table_lines(verdict):
        click.secho(line, fg=_COLOURS.get(outcome) if outcome else None)
    for line in verdicts.failure_lines(verdict):
        click.echo(line)
    click.echo(f"In {verdict.duration_s:.1f} s: {verdicts.headline(verdict)}.")
    raise SystemExit(1 if verdict.failed else 0)


@main.command("run")
@click.argument("program_file", metavar="PROGRAM_FILE|MODULE:FACTORY", type=click.Path(path_type=Path))
@click.option("--check", "check_path", help="Import path module:function of the check.")
@click.option("--preemptions", type=click.IntRange(0), help="Every schedule with at most so many preemptions.")
@click.option("--executions", type=click.IntRange(1), default=EXECUTIONS_DEFAULT, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random schedules.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a counterexample here.")
def run_program(  # noqa: PLR0917 - click names them
    program_file: Path, check_path: str | None, preemptions: int | None, executions: int, seed: int, out: Path | None
) -> None:
    """Search the schedules of the program in PROGRAM_FILE (JSON): random ones, or all within --preemptions.

    Given MODULE:FACTORY, an adapter of any store (see storecheck.peers.protocol), examine what it promises instead;
    --out is then a directory.

    Exit status: 0 nothing found, 1 a failure, 2 the program, adapter or check makes no sense.
    """
    if ":" in str(program_file) and not program_file.exists():
        from storecheck.peers.commands import run_adapter

        raise SystemExit(run_adapter(str(program_file), out=out))
    if not program_file.is_file():
        raise click.UsageError(f"there is no file {program_file}")
    if check_path is None:
        raise click.UsageError("--check is missing: give module:function")
    from storecheck.explore import explore
    from storecheck.schedule import PreemptionBounded, RandomSchedules

    program, check = _read_program(program_file), _import_check(check_path)
    strategy: Strategy = (
        RandomSchedules(executions=executions, seed=seed) if preemptions is None else PreemptionBounded(preemptions)
    )
    result = explore(program, strategy=strategy, check=check, max_executions=executions)
    if result.failure is None:
        click.echo(f"No failure: {result.verdict}.")
        return
    _show_failure(result, title=f"{program_file.stem}: {check_path}", check_path=check_path, out=out)
    raise SystemExit(1)


def _read_program(path: Path) -> Program:
    from storecheck.program import Program

    try:
        return Program.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error


def _import_check(path: str) -> Check:
    from storecheck.counterexample import CounterexampleError, import_path

    try:
        return cast("Check", import_path(path))
    except CounterexampleError as error:
        raise click.UsageError(f"--check {error}") from error


def _show_failure(result: Exploration, *, title: str, check_path: str, out: Path | None) -> None:
    from storecheck.counterexample import from_failure

    assert result.failure is not None
    document = from_failure(result.failure, title=title, verdict=str(result.verdict), check=check_path)
    report_commands.show_schedule(document, document.trace)
    click.echo(f"Found on execution {result.executions}, then minimised; the search: {result.verdict}.")
    if out is not None:
        document.write(out)
        click.echo(f"Replay it with: storecheck replay {out}")


@main.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--times", type=click.IntRange(1, 1000), default=1, show_default=True, help="Replay so often.")
def replay_file(file: Path, times: int) -> None:
    """Execute the counterexample in FILE again and show its lanes.

    Exit status: 0 every replay did exactly what was recorded and failed the same way; 1 it did not (the bug is gone,
    or the code has changed); 2 FILE is no counterexample.
    """
    from storecheck.counterexample import replay
    from storecheck.schedule import ReplayDiverged

    if report_commands.is_crash(file):
        raise SystemExit(report_commands.replay_crash(file, times=times))
    if report_commands.is_history(file):
        raise SystemExit(report_commands.replay_history(file, times=times))
    if report_commands.is_told(file):
        raise SystemExit(report_commands.replay_told(file, times=times))
    document = _load(file)
    try:
        first = replay(document)
        runs = itertools.chain([first], (replay(document) for _ in range(times - 1)))
        exact = sum(run.same and run.finding == document.finding for run in runs)
    except ReplayDiverged as error:
        raise click.ClickException(report_commands.diverged(file, error)) from error
    report_commands.show_schedule(document, first.trace)
    otherwise = report_commands.otherwise(first.finding, recorded=document.finding)
    click.echo(f"{exact} of {times} replays did exactly what was recorded.{otherwise}")
    raise SystemExit(0 if exact == times else 1)


@main.command("list")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
def list_files(directory: Path) -> None:
    """List the counterexamples below DIRECTORY: of schedules, of crashes, and those that tests have told.

    Exit status: 0, also if there is none.
    """
    from storecheck.counterexample import CounterexampleError

    for path in sorted(directory.rglob("*.json")):
        try:
            described = report_commands.describe(path)
        except CounterexampleError as error:
            described = f"cannot be read: {error}"
        if described is not None:
            click.echo(f"{path}: {described}")


def _load(path: Path) -> Counterexample:
    from storecheck.counterexample import CounterexampleError, load

    try:
        return load(path)
    except CounterexampleError as error:
        raise click.UsageError(str(error)) from error


report_commands.register(main)
history_commands.register(main)
