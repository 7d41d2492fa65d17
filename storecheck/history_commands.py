"""`storecheck check-history FILE…`: is a recorded history linearizable, whoever recorded it?

Reads what storecheck's recorders write, logs of Jepsen, and EDN maps such as those of porcupine's key-value tests, and
guesses which it is, and what object was recorded, from the first events. The guess is printed and can be overruled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    # Imported where used: `storecheck verdict` needs no checker.
    from storecheck.history import History
    from storecheck.linearizability import Specification, Verdict

FORMATS: Final = ("storecheck", "jepsen", "key-value")
OBJECTS: Final = ("register", "key-value", "mutex", "sessions")

ILLEGAL, UNREADABLE, UNDECIDED = 1, 2, 3
"""Exit statuses, the worst of several files; a file that cannot be read ends the command at once."""

_LINES_LOOKED_AT: Final = 1_000
"""Of a file, to find its first event: logs begin with other programs' lines."""


@click.command("check-history")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="Default: what the first event looks like.")
@click.option("--object", "object_name", type=click.Choice(OBJECTS), help="Default: whose operations they are.")
@click.option("--merge", is_flag=True, help="The files are parts of one history, one for each process.")
@click.option("--cap", type=click.IntRange(1), help="Configurations to visit before giving up.")
@click.option("--brief", is_flag=True, help="One line for each history, without the order that fits.")
def check_history(  # noqa: PLR0917 - click names them
    files: tuple[Path, ...], format_name: str | None, object_name: str | None, merge: bool, cap: int | None, brief: bool
) -> None:
    """Say whether the history recorded in each of FILES is linearizable.

    Reads histories of storecheck's own, logs of Jepsen (a register with compare-and-swap), and EDN maps of a key-value
    store, one event a line.

    Exit status: 0 all are linearizable, 1 one is not, 2 one cannot be read, 3 undecided within --cap.
    """
    from storecheck.history import HistoryError
    from storecheck.linearizability import CAP_CONFIGURATIONS, check

    status = 0
    for group in [list(files)] if merge else [[file] for file in files]:
        name = ", ".join(map(str, group))
        try:
            formats = {format_name or _guess_format(file) for file in group}
            history = _read(group, formats)
            specification = _object(object_name or _guess_object(history, formats))
            began_s = time.perf_counter()
            verdict = check(history, specification, cap_configurations=cap or CAP_CONFIGURATIONS)
        except (HistoryError, ValueError) as error:
            raise click.UsageError(str(error) if name in str(error) else f"{name}: {error}") from error
        _show(name, history, verdict, elapsed_s=time.perf_counter() - began_s, brief=brief)
        if verdict.status == "illegal":
            status = ILLEGAL
            if not brief:
                _show_contradiction(history, specification)
        elif verdict.status == "undecided":
            status = status or UNDECIDED
    raise SystemExit(status)


def _read(files: Sequence[Path], formats: set[str]) -> History:
    from storecheck import history as histories

    if formats == {"storecheck"}:
        return histories.merge(files)
    if len(files) > 1:
        raise ValueError("only histories of storecheck's own can be merged: the stamps of others are line numbers")
    readers: dict[str, Callable[..., History]] = {
        "jepsen": histories.from_jepsen_edn_lines,
        "key-value": histories.from_porcupine_kv_lines,
    }
    with files[0].open(encoding="utf-8") as lines:
        return next(readers[name](lines, source=str(files[0])) for name in formats)


def _guess_format(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for _, line in zip(range(_LINES_LOOKED_AT), lines, strict=False):
            if line.startswith('{"format"'):
                return "storecheck"
            if ":process" in line and "{:" in line:
                return "key-value" if ":key " in line else "jepsen"
            if "jepsen.util" in line and ":invoke" in line:
                return "jepsen"
    raise ValueError(f"no event in the first {_LINES_LOOKED_AT} lines. Give --format: {', '.join(FORMATS)}.")


_OPERATIONS: Final = {
    "register": {"read", "write", "cas"},
    "key-value": {"get", "put", "append"},
    "mutex": {"acquire", "release"},
    "sessions": {"load", "save", "get", "set", "remove"},
}


def _guess_object(history: History, formats: set[str]) -> str:
    if formats == {"key-value"}:
        return "key-value"
    names = {operation.call.name for operation in history.operations}
    fitting = [name for name, operations in _OPERATIONS.items() if names <= operations]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(sorted(names)) or "none"
    found = " and ".join(fitting) or "no known object"
    raise ValueError(f"the operations ({shown}) fit {found}. Give --object: {', '.join(OBJECTS)}.")


def _object(name: str) -> Specification[Any]:
    from storecheck.linearizability import KEY_VALUE, MUTEX, REGISTER, versioned_map

    objects: dict[str, Specification[Any]] = {
        "register": REGISTER,
        "key-value": KEY_VALUE,
        "mutex": MUTEX,
        "sessions": versioned_map(),
    }
    return objects[name]


def _show(name: str, history: History, verdict: Verdict, *, elapsed_s: float, brief: bool) -> None:
    head, *details = str(verdict).splitlines()
    click.echo(f"{name}: ", nl=False)
    click.secho(head, fg={"ok": "green", "illegal": "red"}.get(verdict.status, "yellow"), nl=False)
    click.echo(f" in {elapsed_s:.3f} s, {_counted(history)}")
    for line in () if brief else details:
        click.echo(f"  {line}")


def _show_contradiction(history: History, specification: Specification[Any]) -> None:
    """The answers that are enough, whatever the other operations were told."""
    from storecheck.contradiction import contradiction

    found = contradiction(history, specification)
    if found is None:
        return
    click.echo(f"  these answers cannot all be true, whatever {found.forgotten} others were told:")
    for operation in found.answers:
        click.secho(f"    {operation}", fg="red")
    for operation in found.writers:
        click.echo(f"    {operation} wrote what they found")


def _counted(history: History) -> str:
    processes = len({operation.process for operation in history.operations})
    counts = [f"{processes} processes", f"{len(history.pending)} of unknown outcome"]
    if history.torn:
        counts.append(f"{len(history.torn)} files end in a torn line")
    return ", ".join(counts)


def register(main: click.Group) -> None:
    """Add the command to `storecheck`."""
    main.add_command(check_history)


__all__ = ["check_history", "register"]
