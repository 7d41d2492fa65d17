"""Commands of `storecheck` about reports: merge, show, open, explain, replay of crashes, completion.

Exit status, for all of them: 0 nothing failed, 1 something failed, 2 wrong usage, 3 something did not report.
"""

from __future__ import annotations

import json
import re
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from storecheck.counterexample import Counterexample
    from storecheck.explore import Finding
    from storecheck.lanes import Line
    from storecheck.report.document import Run
    from storecheck.report.histories import HistoryCounterexample
    from storecheck.report.told import Told, ToldCounterexample
    from storecheck.schedule import ReplayDiverged
    from storecheck.verdict import PromiseText

REPORT_DIRECTORY: Final = ".storecheck/report"
HEAD_CHARACTERS: Final = 200
"""Of a file, to see what it is: a counterexample says so at its beginning."""

SHELLS: Final = ("bash", "zsh", "fish")
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("merge")
@click.argument("shards", type=_DIRECTORY)
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Write here.")
@click.option("--expect", type=click.IntRange(1), help="How many shards there should be; default: as they say.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Compare with the last run kept in this directory, and keep this one there if it is complete.",
)
@click.option(
    "--examples",
    type=click.Path(file_okay=False, path_type=Path),
    help="Add the examples that shards of a search found to Hypothesis's database in this directory.",
)
@click.option("--annotate", is_flag=True, help="Print GitHub annotations, at most ten.")
def merge_command(  # noqa: PLR0917 - click names them
    shards: Path, out: Path, expect: int | None, keep: Path | None, examples: Path | None, annotate: bool
) -> None:
    """Merge the run.json files below SHARDS into one report.

    Exit status: 0 nothing failed, 1 something failed, 2 wrong usage, 3 a shard did not report, or reported twice, or
    what it left cannot be read or is of another run, or no test ran.
    """
    from storecheck.report import merging, notices

    found = merging.find_runs(shards)
    for problem in found.unreadable:
        click.echo(problem, err=True)
    try:
        run = merging.merge_found(found, expected=expect)
    except merging.MergeError as error:
        click.echo(f"Error: {error}", err=True)
        if annotate:
            click.echo(notices.github_error("No report", str(error)))
        raise SystemExit(merging.EXIT_INCOMPLETE) from error
    run = merging.copy_failures(run if keep is None else _compared(run, keep), found, out)
    status = merging.exit_status(run)
    durations, problems = merging.merge_durations(shards)
    for problem in problems:
        # They only say where the next run is cut: not worth a report, but worth a line.
        click.echo(f"Durations left out: {problem}", err=True)
    merging.write_report(run, out)
    if durations:
        merging.write_durations(durations, out)
    _show(run)
    if annotate:
        for line in notices.github(run):
            click.echo(line)
    click.echo(f"Report: {out / 'report.html'}")
    if examples is not None:
        click.echo(f"Examples new in {examples}: {merging.merge_examples(shards, examples)}")
    if keep is not None and status != merging.EXIT_INCOMPLETE:
        click.echo(f"Kept: {merging.keep(run, keep)}")
    raise SystemExit(status)


def _compared(run: Run, keep: Path) -> Run:
    from storecheck.report import merging

    earlier, unreadable = merging.kept_runs(keep, before=run.started_at)
    for problem in unreadable:
        # Written by another version, perhaps: what is older or newer can still be compared with.
        click.echo(f"Not compared with a kept run: {problem}", err=True)
    return merging.with_kept(run, earlier)


@click.command("show")
@click.argument("file", type=_FILE)
@click.option(
    "--format",
    "wanted",
    type=click.Choice(["terminal", "html", "markdown", "junit", "github", "gitlab", "json"]),
    default="terminal",
    show_default=True,
)
def show_command(file: Path, wanted: str) -> None:
    """Show the run document FILE in another format, on standard output.

    Exit status: 0, or 2 if FILE is no run document.
    """
    from storecheck.report import html, junit, markdown, notices
    from storecheck.report.document import dumps

    run = _load(file)
    if wanted == "terminal":
        _show(run)
    elif wanted == "github":
        for line in notices.github(run):
            click.echo(line)
    elif wanted == "gitlab":
        click.echo(json.dumps(notices.gitlab(run), indent=1, ensure_ascii=False))
    else:
        render = {"html": html.render, "markdown": markdown.render, "junit": junit.render, "json": dumps}[wanted]
        click.echo(render(run), nl=False)


@click.command("open")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path(REPORT_DIRECTORY))
def open_command(directory: Path) -> None:
    """Open the report in DIRECTORY in the browser, and print its address.

    Exit status: 0, or 2 if there is no report.
    """
    page = directory / "report.html"
    if not page.is_file():
        raise click.UsageError(f"{page} does not exist. Run pytest --report-dir {directory} first.")
    address = page.resolve().as_uri()
    webbrowser.open(address)
    click.echo(address)


def _complete_target(
    context: click.Context,  # noqa: ARG001 - click's signature
    parameter: click.Parameter,  # noqa: ARG001
    incomplete: str,
) -> list[CompletionItem]:
    try:
        listed = [promise for promise in _promises(None) if promise.id.startswith(incomplete.upper())]
    except click.UsageError:  # no list of promises here: there are still files
        listed = []
    return [
        *(CompletionItem(promise.id, help=promise.title) for promise in listed),
        *([] if listed else [CompletionItem(incomplete, type="file")]),
    ]


@click.command("explain")
@click.argument("target", shell_complete=_complete_target)
@click.option("--promises", help="The project's list, module:attribute; default: as pyproject.toml says.")
@click.option("--run", "run_file", type=_FILE, help=f"Run document; default: {REPORT_DIRECTORY}/run.json if it exists.")
def explain_command(target: str, promises: str | None, run_file: Path | None) -> None:
    """Explain TARGET: a promise by its id, or the counterexample in a file, without executing anything.

    Exit status: 0, or 2 if there is no such promise or file.
    """
    path = Path(target)
    if path.is_file():
        explain_file(path)
        return
    listed = {promise.id: promise for promise in _promises(promises)}
    if target.upper() not in listed:
        known = ", ".join(listed)
        raise click.UsageError(f"{target} is neither a file nor a promise. Promises are {known}.")
    default = Path(REPORT_DIRECTORY, "run.json")
    chosen = run_file if run_file is not None else default if default.is_file() else None
    _explain_promise(listed[target.upper()], None if chosen is None else _load(chosen))


def explain_file(path: Path) -> None:
    """Show what is recorded in a counterexample, of any kind."""
    explained = _explain_schedule
    for says_so, explain in ((is_crash, _explain_crash), (is_told, _explain_told), (is_history, _explain_history)):
        explained = explain if says_so(path) else explained
    try:
        explained(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _explain_crash(path: Path) -> None:
    from storecheck.report import examples

    crash = examples.load_crash(path)
    click.secho(crash.title, bold=True)
    click.echo(f"Power lost after event {crash.event} under {crash.model}; lost: {'; '.join(crash.lost)}")
    click.secho(f"Finding: {crash.violation}", fg="red")


def _explain_told(path: Path) -> None:
    from storecheck.report import told

    document = told.load(path)
    click.secho(document.title, bold=True)
    for number, call in enumerate(document.calls, start=1):
        click.echo(f"{number:3} {call}")
    click.secho(f"Finding: {document.finding}", fg="red")


def _explain_history(path: Path) -> None:
    from storecheck.report import histories

    document = histories.load(path)
    _show_history(document)
    click.secho(f"Finding: {document.finding}", fg="red")


def _show_history(document: HistoryCounterexample) -> None:
    """The operations that cannot be explained, and why."""
    from storecheck.report import histories, words

    told = histories.told_history(document)
    click.secho(told.title, bold=True)
    for point in told.race.points:
        line = f"{point.step:>9,} us  {told.race.lanes[point.process].name:6} {point.verb:7} {point.what}"
        click.secho(line, fg="red" if point.importance else None)
    click.echo(words.plain(" ".join(told.verdict)))


def _explain_schedule(path: Path) -> None:
    from storecheck import counterexample

    document = counterexample.load(path)
    show_schedule(document, document.trace)


def show_schedule(document: Counterexample, trace: tuple[Line, ...]) -> None:
    """Show the lanes of a run of a counterexample, between its title and its finding."""
    from storecheck.lanes import render

    click.secho(document.title, bold=True)
    for line in render(trace, processes=len(document.program.processes)):
        marked = "STALE" in line or "OVERWRITES" in line or "AT THE SAME TIME" in line
        click.secho(line, fg="red" if marked else None)
    click.secho(f"Finding: {document.finding.message}", fg="red")


def describe(path: Path) -> str | None:
    """A counterexample in one line, of its finding the first; None for a file of any other kind.

    Raises:
        CounterexampleError: it says that it is one, but cannot be read.
    """
    described = _described(path)
    # A finding may go on with a whole history: who wants it asks for this file with `explain`.
    return None if described is None else described.partition("\n")[0]


def _described(path: Path) -> str | None:
    from storecheck import counterexample
    from storecheck.report import examples, histories, told, words

    if is_crash(path):
        crash = examples.load_crash(path)
        return f"{crash.title} (power lost after event {crash.event} under {crash.model}): {crash.violation}"
    if is_told(path):
        document = told.load(path)
        return f"{document.title} ({len(document.calls)} calls): {document.finding}"
    if is_history(path):
        recorded = histories.load(path)
        return f"{recorded.title} ({len(recorded.history.operations)} recorded operations of real processes)"
    if not _says(path, counterexample.FORMAT):
        return None
    found = counterexample.load(path)
    processes, operations = len(found.program.processes), found.program.operations()
    size = f"{words.plural(processes, 'process')}, {words.plural(operations, 'operation')}"
    return f"{found.title} ({size}): {found.finding.message}"


def is_crash(path: Path) -> bool:
    """Whether a file says that it is a crash counterexample."""
    from storecheck.report.crashes import FORMAT as CRASH_FORMAT

    return _says(path, CRASH_FORMAT)


def is_told(path: Path) -> bool:
    """Whether a file says that it is a counterexample of a test that is no program."""
    from storecheck.report.told import FORMAT as TOLD_FORMAT

    return _says(path, TOLD_FORMAT)


def is_history(path: Path) -> bool:
    """Whether a file says that it is a recorded history."""
    from storecheck.report.histories import FORMAT as HISTORY_FORMAT

    return _says(path, HISTORY_FORMAT)


def _says(path: Path, wanted: str) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return f'"{wanted}"' in file.read(HEAD_CHARACTERS)


def replay_told(path: Path, *, times: int) -> int:
    """Replay a counterexample of a test that is no program; the exit status."""
    from storecheck.report import told

    try:
        document = told.load(path)
        plays = [document.play() for _ in range(times)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    failed = sum(play.played is not None and play.played == document.played for play in plays)
    click.secho(document.title, bold=True)
    click.secho(f"Finding: {document.finding}", fg="red")
    click.echo(f"{failed} of {times} replays failed as recorded.{_otherwise(document, plays[0])}")
    return 0 if failed == times else 1


def _otherwise(document: ToldCounterexample, play: Told) -> str:
    if play.finding is None:
        return " In the first nothing failed."
    return "" if play.played == document.played else f" The first failed otherwise: {play.finding.message}"


def otherwise(found: Finding | None, *, recorded: Finding) -> str:
    """What the first replay of a schedule came to, if that is not what is recorded."""
    if found is None:
        return " In the first nothing failed."
    return "" if found == recorded else f" The first failed otherwise: {found.message}"


def diverged(path: Path, error: ReplayDiverged) -> str:
    """Why a recording cannot be done again, and what to do then: it is one of the calls that the code made."""
    return (
        f"{path} does not replay: {error}. The code makes other calls than it made then, so that this says nothing of "
        "the bug. Run the test that found it."
    )


def replay_history(path: Path, *, times: int) -> int:
    """Judge a recorded history again, and run its race again; the exit status.

    A race of real processes is not deterministic: a run that goes well shows nothing.
    """
    from storecheck.report import histories

    try:
        document = histories.load(path)
        _show_history(document)
        click.echo("This is what the record says; it was judged again just now.")
        if document.race is None:
            click.echo("It does not say what ran: run the test that wrote it.")
            return 0
        problems = [problem for problem in histories.rerun(document, times=times) if problem]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.secho(f"{len(problems)} of {times} new runs broke a promise, too.", fg="red" if problems else None)
    for problem in problems[:1]:
        click.echo(problem)
    if not problems:
        click.echo("Real processes are not deterministic: that is no proof that the bug is gone. Try --times 20.")
    return 0 if problems else 1


def replay_crash(path: Path, *, times: int) -> int:
    """Replay a crash counterexample; the exit status."""
    from storecheck.report import crashes, examples
    from storecheck.schedule import ReplayDiverged as Diverged

    try:
        document = examples.load_crash(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    transform = examples.transform_of(document)
    try:
        exact = sum(crashes.replay(document, transform=transform)[2] for _ in range(times))
    except Diverged as error:
        raise click.ClickException(diverged(path, error)) from error
    click.secho(document.title, bold=True)
    click.secho(f"Finding: {document.violation}", fg="red")
    click.echo(f"{exact} of {times} replays did exactly what was recorded.")
    return 0 if exact == times else 1


def _explain_promise(promise: PromiseText, run: Run | None) -> None:
    from storecheck.report import words

    click.secho(f"{promise.id}: {promise.title}", bold=True)
    click.echo(promise.text)
    if run is None:
        click.echo(f"No run is at hand. pytest --report-dir {REPORT_DIRECTORY} leaves one.")
        return
    for verdict in run.promises:
        if verdict.id == promise.id:
            click.echo(f"\nIn the run of {words.day(run.started_at)}: {verdict.outcome}")
            click.echo(f"tests: {words.tests_cell(verdict)}; sampled: {words.sampled(verdict)}")
            click.echo(f"planted bugs killed: {words.mutants_cell(verdict)}")
            for test in verdict.tests:
                click.echo(f"  {test}")
    for example in run.examples:
        if example.promise == promise.id:
            click.secho(f"{words.kind_name(example)}: {example.title}", fg="red")
            click.echo(f"  {example.replay}")


def _promises(location: str | None) -> tuple[PromiseText, ...]:
    import pytest

    from storecheck.pytest_plugin import load_promises

    chosen = location or _location_in_pyproject(Path("pyproject.toml"))
    if chosen is None:
        raise click.UsageError("pyproject.toml names no list of promises. Give --promises module:attribute.")
    try:
        return load_promises(chosen)
    except pytest.UsageError as error:
        raise click.UsageError(str(error)) from error


def _location_in_pyproject(path: Path) -> str | None:
    """The value of pytest's option `promises`. A regular expression, since Python 3.10 cannot read TOML."""
    if not path.is_file():
        return None
    match = re.search(r'^promises\s*=\s*"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    return None if match is None else match[1]


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL: eval "$(storecheck completion bash)"."""
    found = get_completion_class(shell)
    assert found is not None, "click has these three"
    click.echo(found(context.find_root().command, {}, "storecheck", "_STORECHECK_COMPLETE").source())


def _load(path: Path) -> Run:
    from storecheck.report.document import load, printable

    try:
        return printable(load(path))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _show(run: Run) -> None:
    from rich.console import Console

    from storecheck.report import terminal

    terminal.show(run, Console(file=sys.stdout, highlight=False))


def register(main: click.Group) -> None:
    """Add the commands to `storecheck`."""
    for command in (merge_command, show_command, open_command, explain_command, completion_command):
        main.add_command(command)
