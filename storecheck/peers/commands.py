"""`storecheck run module:factory`: the contract for an adapter named on the command line."""

from __future__ import annotations

from pathlib import Path

import click

from storecheck.peers.examine import examine, table, write_counterexamples


def run_adapter(path: str, *, out: Path | None) -> int:
    """Examine the adapter, print a line for each promise, write counterexamples into the directory `out`.

    Returns the exit status: 0 everything that the store promises was kept as far as was looked, 1 it was not.

    Raises:
        click.UsageError: the adapter cannot be imported.
    """
    try:
        found = examine(path)
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"adapter {path} cannot be imported: {error}") from error
    for line in table({path: found}):
        click.echo(line)
    if out is not None:
        for written in write_counterexamples({path.rpartition(":")[2]: found}, out):
            click.echo(f"Replay it with: storecheck replay {written}")
    return int(any(each.promised and each.outcome == "BROKEN" for each in found))
