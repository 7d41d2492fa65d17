"""Running the command: inside this process, where output and exit status are at hand, and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from click.testing import CliRunner, Result

from sessionstore.cli.commands import sessionstore

TIMEOUT_S = 120.0


def clean_environment(**added: str) -> dict[str, str]:
    """This process's environment without what would change the command's behaviour, and with `added`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENCLAW_SESSION", "LC_")) and name not in ("LANG", "NO_COLOR", "PYTHONIOENCODING")
    }
    return {**kept, **added}


def invoke(*arguments: str, stdin: bytes | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(sessionstore, arguments, input=stdin, prog_name="sessionstore")


def command(*arguments: str) -> list[str]:
    """The command as a program with arguments."""
    return [sys.executable, "-m", "sessionstore", *arguments]


def interruptible(*arguments: str) -> list[str]:
    """The command as a program that SIGINT interrupts, also where the tests run in the background and ignore it."""
    unignored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return [sys.executable, "-c", f"{unignored}; from sessionstore.cli import main; main()", *arguments]


def run(
    *arguments: str, directory: Path, environ: Mapping[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a process of its own, in `directory`."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=clean_environment(**(environ or {})),
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def assert_one_message(stderr: str, *, contains: Sequence[str] = ()) -> None:
    """An error is one message, and never a traceback."""
    assert "Traceback" not in stderr, stderr
    assert stderr.count("Error:") == 1, stderr
    for part in contains:
        assert part in stderr, stderr
