"""`python -m storecheck.peers [NAME…]`: a table of promises kept and broken by the built-in adapters' stores.

Exit status: 0 the table was made, whatever it says; 1 a counterexample was not confirmed by real processes, or a
store that was named is not installed.
"""

from __future__ import annotations

from pathlib import Path

import click

from storecheck.peers import PEERS
from storecheck.peers.examine import Finding, examine, table, write_counterexamples


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write counterexamples here.")
def main(names: tuple[str, ...], out: Path | None) -> None:
    """Examine the stores NAMES, or all that are installed."""
    if unknown := [name for name in names if name not in PEERS]:
        raise click.UsageError(f"there is no adapter for {unknown[0]!r}. Give some of: {', '.join(PEERS)}.")
    found: dict[str, list[Finding]] = {}
    missing = 0
    for name in names or PEERS:
        try:
            found[name] = examine(PEERS[name])
        except ImportError as error:
            click.echo(f"{name}: not examined: {error}", err=True)
            missing += name in names
            continue
        for line in table({name: found[name]}):
            click.echo(line)
    if out is not None:
        for path in write_counterexamples(found, out):
            click.echo(f"storecheck replay {path}", err=True)
    doubtful = any(finding.is_doubtful for findings in found.values() for finding in findings)
    raise SystemExit(1 if missing or doubtful else 0)


if __name__ == "__main__":
    main()
