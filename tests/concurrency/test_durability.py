"""The system calls of a save, as the kernel sees them.

Goal: WRITE3 and LOCK1. A save is durable only if its steps reach the kernel in one order: the temporary file is
created, written and synced, then renamed over the store, then the directory is synced, and only then the lock is
given back. That no crash state breaks the promise is for the crash model to show; this test ties it to real calls.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sessionstore import SessionStore
from tests.concurrency.crew import WAIT_S
from tests.concurrency.payload import SETTINGS

CALLS = (
    "openat,open,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,flock,close"
)


def refusal_of_strace() -> str:
    """Why strace cannot be used here, or nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-e", "trace=close", "true"], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    return "" if tried.returncode == 0 else f"strace is not allowed here: {tried.stderr.strip()[:200]}"


def steps_of_a_save(path: Path, log: Path) -> list[str]:
    """What a save does to the store's files, step by step, in a process that strace watches."""
    command = [sys.executable, "-m", "tests.concurrency.traced_save", str(path)]
    subprocess.run(
        ["strace", "-f", "-y", "-e", f"trace={CALLS}", "-o", str(log), *command],
        check=True,
        capture_output=True,
        timeout=WAIT_S,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    text = log.read_text()
    save = text[text.index('"begin') : text.index('"end')]
    steps = [step for line in save.splitlines() if (step := named_step(line, path))]
    return [step for step, _ in itertools.groupby(steps)]  # content may be written in several pieces


def named_step(line: str, path: Path) -> str:
    """One line of strace as a step of the protocol, or nothing if it is none."""
    temporary = re.escape(f"{path.parent}/.{path.name}.sessionstore-") + r"[0-9a-f]+\.tmp"
    patterns = {
        "lock": rf"flock\(\d+<{re.escape(str(path))}\.flock>, LOCK_EX",
        "create temporary": rf'open(at)?\((AT_FDCWD[^,]*, )?"{temporary}", [A-Z_|]*O_CREAT[A-Z_|]*O_EXCL',
        "write temporary": rf"p?write(64)?\(\d+<{temporary}>",
        "sync temporary": rf"f(data)?sync\(\d+<{temporary}>\)",
        "rename": rf'rename(at2?)?\(.*"{temporary}", .*"{re.escape(str(path))}"',
        "sync directory": rf"fsync\(\d+<{re.escape(str(path.parent))}>\)",
        "sync parent": rf"fsync\(\d+<{re.escape(str(path.parent.parent))}>\)",
        "make directory": rf'mkdir(at)?\(.*"{re.escape(str(path.parent))}"',
        "unlock": rf"flock\(\d+<{re.escape(str(path))}\.flock>, LOCK_UN",
        "write store in place": rf"p?write(64)?\(\d+<{re.escape(str(path))}>",
        "unlink": rf'unlink(at)?\(.*"{re.escape(str(path))}"',
    }
    call = line.split(maxsplit=1)[-1]
    if " = -1 " in call:
        return ""
    return next((step for step, pattern in patterns.items() if re.match(pattern, call)), "")


PUBLISHING = ["create temporary", "write temporary", "sync temporary", "rename", "sync directory"]


@pytest.mark.promise("WRITE3", "LOCK1")
@pytest.mark.parametrize("exists", [True, False], ids=["existing file", "new directory"])
def test_a_save_reaches_the_kernel_in_the_durable_order(tmp_path: Path, *, exists: bool) -> None:
    """WRITE3, LOCK1: write, sync, rename, sync the directory, and unlock only then; new directories first."""
    refusal = refusal_of_strace()
    if refusal:
        pytest.skip(refusal)
    path = tmp_path.resolve() / "new" / "sessions.json"
    if exists:
        SessionStore(path, SETTINGS).save({"agent:main:main": {"n": 1}})
    steps = steps_of_a_save(path, tmp_path / "strace.log")
    made, synced = ([], []) if exists else (["make directory"], ["sync parent"])
    assert steps == [*made, "lock", *synced, *PUBLISHING, "unlock"]
