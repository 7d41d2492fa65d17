"""Programs measured from outside: peak memory, elapsed and processor time of a child, as the kernel counted them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rounds import TurnFailedError

PROGRAM_TIMEOUT_S = 300.0
# ru_maxrss is in kilobytes on Linux and the BSDs, in bytes on macOS (getrusage(2)).
_BYTES_PER_MAXRSS = 1 if sys.platform == "darwin" else 1024
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has ended by itself."""

    exit_code: int
    stdout: str
    stderr: str
    peak_rss_mb: float
    elapsed_ms: float
    cpu_ms: float


def launch(
    arguments: Sequence[str],
    *,
    directory: Path,
    environ: Mapping[str, str] | None = None,
    figures_name: str = "figures",
) -> Finished:
    """Run a program in `directory` and wait for it.

    Raises:
        TurnFailedError: it took longer than `PROGRAM_TIMEOUT_S` (it was ended) or could not be started.
    """
    figures_path = directory / figures_name
    launcher = str(Path(__file__).with_name("_launcher.py"))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", launcher, str(figures_path), *arguments],
        cwd=directory,
        env=dict(os.environ if environ is None else environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=PROGRAM_TIMEOUT_S)
    except subprocess.TimeoutExpired as late:
        # The launcher and the program share the new session; ending the launcher alone would leave the program.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TurnFailedError(f"{arguments[0]} took longer than {PROGRAM_TIMEOUT_S:g} s; it was ended") from late
    if process.returncode:
        raise TurnFailedError(f"{arguments[0]} could not be started: {stderr[-300:]}")
    exit_code, maxrss, elapsed_ns, cpu_s = figures_path.read_text(encoding="ascii").split()
    peak_rss_mb = int(maxrss) * _BYTES_PER_MAXRSS / MB
    return Finished(int(exit_code), stdout, stderr, peak_rss_mb, int(elapsed_ns) / 1e6, float(cpu_s) * 1e3)
