"""The command `sessionstore`: looking at a store, changing it, repairing it, putting it under stress.

Results go to stdout, progress and logs to stderr. Exit status 0: all is well; 1: the store has a problem, which is
named on stderr; 2: wrong usage; 130 and 143: ended by Ctrl-C or SIGTERM.

`status --json` is what monitors call every few seconds, so it is answered before anything but the survey itself is
imported. All else, and every unusual spelling of that one, is for `sessionstore.cli.commands`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

STORE_VARIABLE = "OPENCLAW_SESSION_STORE"
DEFAULT_STORE = "sessions.json"
INTERRUPTED = 130  # what shells report for a program ended by SIGINT


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    try:
        _run()
    except KeyboardInterrupt:
        # While the rest was imported, or where nothing else was waiting for it.
        _say("interrupted")
        _end(INTERRUPTED)


def _run() -> NoReturn:
    _open_missing_streams()
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
            _say(f"Error: standard output: {error}")
        _discard(sys.stdout)
        status = status or 1
    _end(status if isinstance(status, int) else 1)


def _open_missing_streams() -> None:
    """Put something in the place of standard streams that this process was started without (`>&-`).

    Otherwise the numbers 0 to 2 go to the store's own files, and the streams are None. What takes the place fails as a
    closed stream does: reading standard input, and writing results, is an error of the system. Remarks are just lost.
    """
    for number, name, flags, mode in ((0, "stdin", os.O_WRONLY, "r"), (1, "stdout", os.O_RDONLY, "w"),
                                      (2, "stderr", os.O_WRONLY, "w")):  # fmt: skip
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the whole life


def _discard(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _end(status: int) -> NoReturn:
    """Exit with `status`, which the interpreter would change if it could not write what is left for stderr."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    sys.exit(status)


def chosen_store(option: str | None) -> str:
    """The store file that a command is about: the option, or else the environment's, or else the default."""
    return option or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE


def _say(line: str) -> None:
    # Where stderr cannot be written either, the exit status has to do.
    with contextlib.suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


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


def _exit_with_status(path: str) -> NoReturn:
    from sessionstore.cli import status

    try:
        status_code = status.print_json(path)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the answer has gone. Nothing is left to say, and the flush at exit must not say that.
        _discard(sys.stdout)
        status_code = 1
    except OSError as error:
        _say(f"Error: standard output: {error}")
        _discard(sys.stdout)
        status_code = 1
    _end(status_code)
