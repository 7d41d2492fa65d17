"""The command `sessionstore`: looking at a store, changing it, repairing it, putting it under stress.

Results go to stdout, progress and logs to stderr. Exit status 0: all is well; 1: the store has a problem, which is
named on stderr; 2: wrong usage; 130 and 143: ended by Ctrl-C or SIGTERM.

`status --json` is what monitors call every few seconds, so it is answered before anything but the survey itself is
imported. All else, and every unusual spelling of that one, is for `sessionstore.cli.commands`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

STORE_VARIABLE = "OPENCLAW_SESSION_STORE"
DEFAULT_STORE = "sessions.json"
INTERRUPTED = 130  # what shells report for a program ended by SIGINT


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Keys and labels hold any character; an ASCII terminal must not end a repair with a UnicodeEncodeError.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    if _is_plain_status(arguments):
        _exit_with_status(chosen_store(_store_option(arguments)))
    from sessionstore.cli.commands import sessionstore

    status: object = 0
    try:
        sessionstore.main(args=arguments, prog_name="sessionstore")
    except SystemExit as end:
        status = end.code
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer cannot be written; the interpreter must not try it again when it ends.
        if not status and not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"Error: {error}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 1
    sys.exit(status if isinstance(status, int) else 1)


def chosen_store(option: str | None) -> str:
    """The store file that a command is about: the option, or else the environment's, or else the default."""
    return option or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE


def _is_plain_status(arguments: Sequence[str]) -> bool:
    """Whether these are `status` and `--json`, once each, and at most one `--store FILE` with a name."""
    rest = list(arguments)
    if "--store" in rest[:-1]:
        at = rest.index("--store")
        if not rest[at + 1]:
            return False
        del rest[at : at + 2]
    return rest == ["status", "--json"]


def _store_option(arguments: Sequence[str]) -> str | None:
    return arguments[arguments.index("--store") + 1] if "--store" in arguments else None


def _exit_with_status(path: str) -> None:
    from sessionstore.cli import status

    try:
        status_code = status.print_json(path)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the answer has gone. Nothing is left to say, and the flush at exit must not say that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status_code = 1
    except OSError as error:
        sys.stderr.write(f"Error: {error}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status_code = 1
    except KeyboardInterrupt:
        status_code = INTERRUPTED
    sys.exit(status_code)
