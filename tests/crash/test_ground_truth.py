"""The models and the fault loops beside reality: each outcome that is seen for real must be one that is expected.

Goal: no model is too strong, and no simulated failure is a fairy tale. Method: the same programs on a real ext4 whose
image is copied while mounted, on a full tmpfs, under RLIMIT_FSIZE and under `strace -e inject`. What the machine does
not permit is skipped, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.crashes import store_bytes
from storecheck.crash import EXT4_NOLOCK
from storecheck.pytest_plugin import Evidence
from tests.crash import ground_truth
from tests.crash.ground_truth import PROBES, ROOT, Probe, allowed, pull_the_plug, shown

CHILD_TIMEOUT_S = 60
IN_EVERY_RUN = [
    probe
    for probe in PROBES
    if not probe.delay_s
    and ((probe.program == "no fsync" and not probe.first) or (probe.program == "store" and probe.model is EXT4_NOLOCK))
]
"""A probe takes one to three seconds. `python -m tests.crash.ground_truth` runs all of them."""


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("probe", IN_EVERY_RUN, ids=str)
def test_what_a_real_ext4_loses_is_what_the_model_allows(probe: Probe, tmp_path: Path, evidence: Evidence) -> None:
    """WRITE3: what is left on a real ext4 after the plug was pulled is one of the model's states."""
    reason = ground_truth.missing()
    if reason:
        pytest.skip(reason)
    outcome, legal = pull_the_plug(probe, tmp_path), allowed(probe)
    evidence.add(crash_states=1)
    assert outcome in legal, f"found {shown(outcome, probe)}, allowed {sorted(shown(each, probe) for each in legal)}"
    if probe.program in ("store", "correct"):
        assert outcome[0] == ground_truth.contents(probe)[1]


# Failing calls

BEFORE = store_bytes(sessions=3, size_bytes=6_000)
CHILD = """
import json, os, resource, sys
from sessionstore import SessionStore
path, limit = sys.argv[1], int(sys.argv[2])
store = SessionStore(path)
store.load()
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    store.save({"agent:main:0": {"text": "x" * 60_000}})
    error = None
except OSError as raised:
    error = [type(raised).__name__, raised.errno]
shown = {key: dict(entry) for key, entry in store.load().items()}
print(json.dumps({"error": error, "sessions": len(shown), "same": shown == json.load(open(path))}))
"""


def outcome_of(*command: str, path: Path, limit: int = 0) -> dict[str, Any]:
    """Run the child; its own report, with what is in the directory afterwards."""
    done = subprocess.run(
        [*command, sys.executable, "-c", CHILD, str(path), str(limit)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        timeout=CHILD_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if path.parent.exists():
        report["left"] = sorted(entry.name for entry in path.parent.iterdir())
    return report


@pytest.mark.promise("WRITE5")
@pytest.mark.parametrize("limit", [4_096, 30_000])
def test_a_file_size_limit_leaves_the_old_version(limit: int, store_path: Path) -> None:
    """WRITE5: a write cut short by RLIMIT_FSIZE raises, and file, directory and cache are as before."""
    resource = pytest.importorskip("resource", reason="RLIMIT_FSIZE needs POSIX")
    assert resource.RLIMIT_FSIZE >= 0
    store_path.write_bytes(BEFORE)
    report = outcome_of(path=store_path, limit=limit)
    assert report == {
        "error": ["OSError", 27],
        "sessions": 3,
        "same": True,
        "left": ["sessions.json", "sessions.json.flock"],
    }
    assert store_path.read_bytes() == BEFORE


TMPFS_CHILD = """
set -eu
mount -t tmpfs -o size=64k none "$1"
cp "$2" "$1/sessions.json"
shift 2
"$@"
ls -A "$(dirname "$3")" >&2
"""


@pytest.mark.promise("WRITE5")
def test_a_full_disk_leaves_the_old_version(tmp_path: Path) -> None:
    """WRITE5: on a real file system without room the save raises ENOSPC, and the old version and no more is there."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small tmpfs needs root and unshare")
    (tmp_path / "before").write_bytes(BEFORE)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    script = tmp_path / "script"
    script.write_text(TMPFS_CHILD)
    store = mounted / "sessions.json"
    command = ["unshare", "-m", "sh", str(script), str(mounted), str(tmp_path / "before")]
    child = [sys.executable, "-c", CHILD, str(store), "0"]
    done = subprocess.run(
        [*command, *child],
        capture_output=True,
        check=False,
        cwd=ROOT,
        timeout=CHILD_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if b"permission denied" in done.stderr.lower() or b"not permitted" in done.stderr.lower():
        pytest.skip(f"mounting is not permitted: {done.stderr.decode(errors='replace').strip()}")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert json.loads(done.stdout) == {"error": ["OSError", 28], "sessions": 3, "same": True}


INJECTED = {
    # what strace makes fail: what the operation must say, and which version must be there
    "fsync:error=EIO:when=1": (["OSError", 5], 3),
    "fsync:error=ENOSPC:when=1": (["OSError", 28], 3),
    "fsync:error=EIO:when=2": (["UnknownOutcomeError", 5], 1),
    "rename,renameat,renameat2:error=EXDEV:when=1": (["OSError", 18], 3),
    "rename,renameat,renameat2:error=EACCES:when=1": (["PermissionError", 13], 3),
    "write:error=EDQUOT:when=1": (["OSError", 122], 3),
    "write:error=EINTR:when=1": (None, 1),
    "flock:error=ENOLCK:when=1": (["OSError", 37], 3),
}


@pytest.mark.promise("WRITE5")
@pytest.mark.parametrize("injection", INJECTED)
def test_errors_injected_by_the_kernel_surface_as_promised(injection: str, store_path: Path, tmp_path: Path) -> None:
    """WRITE5: a real process whose system calls fail for real does what the simulated one does."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trial = subprocess.run(
        [strace, "-o", "/dev/null", "true"], capture_output=True, check=False, timeout=CHILD_TIMEOUT_S
    )
    if trial.returncode:
        pytest.skip(f"strace may not trace here: {trial.stderr.decode(errors='replace').strip()}")
    store_path.write_bytes(BEFORE)
    log = tmp_path / "strace.log"
    error, sessions = INJECTED[injection]
    calls = injection.partition(":")[0]
    report = outcome_of(
        strace, "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={injection}", path=store_path
    )
    assert "(INJECTED)" in log.read_text(), "the call was never made"
    report["left"].remove("strace.log")
    assert report == {
        "error": error,
        "sessions": sessions,
        "same": True,
        "left": ["sessions.json", "sessions.json.flock"],
    }
