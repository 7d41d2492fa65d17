"""Command line of the verifier: `storecheck verdict FILE`.

Shows the verdict of an earlier run, from the file that `pytest --verdict-json FILE` wrote. Runs no tests: pytest is the
runner.
"""

from __future__ import annotations

from pathlib import Path

import click

from storecheck import verdict as verdicts

_COLOURS = {"passed": "green", "FAILED": "red", "not verified": "yellow"}


@click.group()
@click.version_option(package_name="sessionstore")
def main() -> None:
    """Look at what a run of the verifier found."""


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
