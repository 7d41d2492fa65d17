"""`storecheck run module:factory`: the contract for an adapter named on the command line."""

from __future__ import annotations

from pathlib import Path

import click

from storecheck.peers.contract import first_files
from storecheck.peers.examine import examine, table, write_counterexamples
from storecheck.program import at_path


def run_adapter(path: str, *, out: Path | None) -> int:
    """Examine the adapter, print a line for each promise, write counterexamples into the directory `out`.

    Returns the exit status: 0 nothing that the store promises was found broken, 1 something was.

    Raises:
        click.UsageError: there is no such adapter, or it cannot make a store.
    """
    try:
        at_path(path)
    except ImportError as error:
        raise click.UsageError(f"adapter {path} cannot be imported: {error}") from error
    try:
        first_files(path)
    except Exception as error:
        # Whatever it is: of a store that does not work when it is alone nothing can be said.
        raise click.UsageError(
            f"{path} makes no store in an empty directory ({type(error).__name__}: {error}). Name a function that "
            "takes a directory and returns an adapter, as storecheck.peers.protocol says."
        ) from error
    found = examine(path)
    for line in table({path: found}):
        click.echo(line)
    if out is not None:
        for written in write_counterexamples({path.rpartition(":")[2]: found}, out):
            click.echo(f"Replay it with: storecheck replay {written}")
    return int(any(each.promised and each.outcome == "BROKEN" for each in found))
