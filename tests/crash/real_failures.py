"""Calls that fail for real, beside the same failures in the simulated machine.

A `FailureProbe` lets one real process load and save, with a limit on the size of files, on a file system without room,
or with calls that the kernel itself lets fail (`strace -e inject`). The simulation runs the same operations with the
same failure. What is told apart: the error, which version is in the file, whether a fresh load shows it, and the names
in the directory. A single outcome each: it must be one that the simulation gives.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.crashes import FILE, content_at, store_bytes, store_process
from storecheck.crash import Entry, machine_with
from storecheck.faults import Injector, failure, one_by_one
from storecheck.machine import MOUNT, MachineParameters, Process

ROOT: Final = Path(__file__).resolve().parents[2]
CHILD_TIMEOUT_S: Final = 60
BEFORE: Final = store_bytes(sessions=3, size_bytes=6_000)
SAVED: Final = {"agent:main:0": {"text": "x" * 60_000}}
TMPFS_BYTES: Final = 64 * 1024
RENAMES: Final = "rename,renameat,renameat2"

CHILD = """
import json, resource, sys
from sessionstore import SessionStore
from tests.crash.real_failures import SAVED
path, limit = sys.argv[1], int(sys.argv[2])
store = SessionStore(path)
store.load()
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    store.save(SAVED)
    error = None
except OSError as raised:
    error = [type(raised).__name__, raised.errno]
shown = {key: dict(entry) for key, entry in store.load().items()}
print(json.dumps({"error": error, "sessions": len(shown), "same": shown == json.load(open(path))}))
"""

TMPFS = """
set -eu
mount -t tmpfs -o size="$1" none "$2"
cp "$3" "$4"
store="$4"
shift 4
"$@"
ls -A "$(dirname "$store")"
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What can be seen of a save that met a failure.

    Attributes:
        error: name and number of what was raised; None if nothing was.
        sessions: how many sessions the file has: 3 before the save, 1 after it.
        same: whether the process that met the failure then loads what the file holds.
        left: names in the directory.
    """

    error: tuple[str, int] | None
    sessions: int
    same: bool
    left: tuple[str, ...]

    def __str__(self) -> str:
        raised = "no error" if self.error is None else f"{self.error[0]}, errno {self.error[1]}"
        which = {3: "old version", 1: "new version"}.get(self.sessions, f"{self.sessions} sessions")
        left = [name for name in self.left if name not in (FILE, f"{FILE}.flock")]
        return f"{raised}; {which}{'' if self.same else ', cache differs'}{'; left ' + ', '.join(left) if left else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureProbe:
    """One way to fail.

    Attributes:
        name: for people.
        inject: what strace is told to inject, or "".
        error: the error of the simulated failure; "" if nothing shows: Python calls again after EINTR.
        calls: names of the calls that it befalls in the simulation, and which of them, counted from 1.
        file_bytes: RLIMIT_FSIZE.
        full: whether the disk has no room.
    """

    name: str
    inject: str = ""
    error: str = ""
    calls: tuple[tuple[str, ...], int] = ((), 0)
    file_bytes: int | None = None
    full: bool = False

    def __str__(self) -> str:
        return self.name


def _injected(calls: str, error: str, simulated: tuple[str, ...], *, when: int = 1) -> FailureProbe:
    return FailureProbe(
        name=f"{error} at {simulated[0]} {when}",
        inject=f"{calls}:error={error}:when={when}",
        error=error,
        calls=(simulated, when),
    )


FAILURE_PROBES: Final = (
    FailureProbe(name="RLIMIT_FSIZE of 4096 bytes", file_bytes=4_096),
    FailureProbe(name="RLIMIT_FSIZE of 30000 bytes", file_bytes=30_000),
    FailureProbe(name="tmpfs of 64 KiB, full", full=True),
    _injected("fsync", "EIO", ("fsync",)),
    _injected("fsync", "ENOSPC", ("fsync",)),
    _injected("fsync", "EIO", ("fsync",), when=2),
    _injected(RENAMES, "EXDEV", ("replace", "rename")),
    _injected(RENAMES, "EACCES", ("replace", "rename")),
    _injected("write", "EDQUOT", ("write",)),
    FailureProbe(name="EINTR at write 1, no handler raises", inject="write:error=EINTR:when=1"),
    _injected("flock", "ENOLCK", ("flock",)),
)


# In the simulated machine


def _save(parameters: MachineParameters, injector: Injector | None) -> Outcome:
    process = store_process()
    machine = machine_with({FILE: Entry("file", BEFORE)}, parameters)
    if injector is not None:
        injector.disarm()
        injector.attach(machine)
    raised: list[tuple[str, int]] = []
    shown: list[dict[str, Any]] = []

    def act(_: Process) -> None:
        store = process.modules["sessionstore"].SessionStore(f"{MOUNT}/{FILE}")
        store.load()
        if injector is not None:
            injector.armed = True
        try:
            store.save(SAVED)
        except OSError as error:
            raised.append((type(error).__name__, error.errno or 0))
        if injector is not None:
            injector.disarm()
        shown.append({key: dict(entry) for key, entry in store.load().items()})

    process.run(machine, act, enter=None if injector is None else injector.enter, recorder=injector)
    content = content_at(machine, FILE)
    return Outcome(
        error=raised[0] if raised else None,
        sessions=len(shown[0]),
        same=content is not None and shown[0] == json.loads(content),
        left=tuple(sorted(path for path, _ in machine.walk())),
    )


def _meeting(probe: FailureProbe) -> Iterator[Injector]:
    """Injectors that fail the calls that the probe is about."""
    names, wanted = probe.calls
    met = 0
    for injector in one_by_one(failure(probe.error)):
        _save(MachineParameters(), injector)
        if injector.hits and injector.hits[0].name in names:
            met += 1
            if met == wanted:
                yield Injector(injector.failure, at=injector.at)


@functools.cache
def simulated(probe: FailureProbe) -> frozenset[Outcome]:
    """Every outcome that the simulation gives for a probe."""
    if probe.error:
        return frozenset(_save(MachineParameters(), injector) for injector in _meeting(probe))
    room = TMPFS_BYTES if probe.full else None
    return frozenset({_save(MachineParameters(file_bytes=probe.file_bytes, disk_bytes=room), None)})


# For real


def why_not(probe: FailureProbe) -> str:
    """Why a probe is not possible here; empty if it is."""
    if os.name != "posix":
        return "needs POSIX"
    if probe.full and (os.geteuid() != 0 or shutil.which("unshare") is None):
        return "mounting a small tmpfs needs root and unshare"
    if probe.full:
        trial = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False, timeout=CHILD_TIMEOUT_S)
        return f"mounting is not permitted: {trial.stderr.decode(errors='replace').strip()}" if trial.returncode else ""
    if probe.inject:
        strace = shutil.which("strace")
        if strace is None:
            return "strace is not installed"
        trial = subprocess.run(
            [strace, "-o", os.devnull, "true"], capture_output=True, check=False, timeout=CHILD_TIMEOUT_S
        )
        if trial.returncode:
            return f"strace may not trace here: {trial.stderr.decode(errors='replace').strip()}"
    return ""


def observed(probe: FailureProbe, scratch: Path) -> Outcome:
    """Let a real process meet the failure; `scratch` is an empty directory.

    Raises:
        RuntimeError: the process ended otherwise than it should, or the call that was to fail was never made.
    """
    directory = scratch / "directory"
    directory.mkdir()
    store, before, log = directory / FILE, scratch / "before", scratch / "strace.log"
    before.write_bytes(BEFORE)
    command = [sys.executable, "-c", CHILD, str(store), str(probe.file_bytes or 0)]
    if probe.full:
        script = scratch / "script"
        script.write_text(TMPFS, encoding="ascii")
        sizes_and_paths = [str(TMPFS_BYTES), str(directory), str(before), str(store)]
        command = ["unshare", "-m", "sh", str(script), *sizes_and_paths, *command]
    else:
        store.write_bytes(BEFORE)
    if probe.inject:
        calls = probe.inject.partition(":")[0]
        traced = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={probe.inject}"]
        command = [*traced, *command]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=ROOT,
        timeout=CHILD_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(f"{probe}: ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    if probe.inject and "(INJECTED)" not in log.read_text(encoding="utf-8", errors="replace"):
        raise RuntimeError(f"{probe}: the call was never made")
    said, *listed = done.stdout.decode().splitlines()
    report = json.loads(said)
    left = listed if probe.full else [entry.name for entry in directory.iterdir()]
    return Outcome(
        error=None if report["error"] is None else tuple(report["error"]),
        sessions=report["sessions"],
        same=report["same"],
        left=tuple(sorted(left)),
    )


def failure_table(rows: list[tuple[FailureProbe, Outcome | str]]) -> str:
    """Real outcomes, or why there are none, beside the simulated ones, as Markdown."""
    lines = ["| failure | found | simulated |", "|---|---|---|"]
    for probe, outcome in rows:
        legal = simulated(probe)
        agrees = "" if isinstance(outcome, str) or outcome in legal else " **DISAGREES**"
        found = f"not possible: {outcome}" if isinstance(outcome, str) else str(outcome)
        lines.append(f"| {probe} | {found}{agrees} | {' or '.join(sorted(map(str, legal)))} |")
    return "\n".join(lines) + "\n"
