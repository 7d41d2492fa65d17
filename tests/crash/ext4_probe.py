"""Pulls the plug on a real ext4: run by `ground_truth` in a mount namespace of its own, as root.

A file system in an image is mounted through a loop device, a program saves, and the image is copied while it is still
mounted. In the copy is what ext4 had sent to its device by then and nothing of the page cache, as after a power loss.
Mounting the copy replays its journal. Reads one probe as JSON from stdin, prints the files found as JSON.

    unshare -m python -m tests.crash.ext4_probe < probe.json
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from storecheck.crash.savers import SAVERS

COMMAND_TIMEOUT_S = 30


def run(*command: str) -> None:
    """Run a command of the system; its failure is the probe's."""
    subprocess.run(command, check=True, timeout=COMMAND_TIMEOUT_S, capture_output=True)


def save(program: str, path: Path, content: bytes) -> None:
    """Do what the probe is about."""
    if program == "store":
        from sessionstore import SessionStore, Settings

        SessionStore(path, Settings(maintenance_mode="off")).save(json.loads(content))
    else:
        SAVERS[program](str(path), content, lambda: None)


def found_below(directory: Path) -> dict[str, str]:
    """Content of every file, in base64, by path relative to the directory."""
    return {
        str(path.relative_to(directory)): base64.b64encode(path.read_bytes()).decode()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "lost+found" not in path.parts
    }


def probe(request: dict[str, Any], scratch: Path) -> dict[str, str]:
    """Save on a fresh file system, pull the plug after a while, and look at what is left."""
    image, copy = scratch / "image", scratch / "copy"
    mounted, again = scratch / "mounted", scratch / "again"
    mounted.mkdir()
    again.mkdir()
    with image.open("wb") as file:
        file.truncate(request["image_bytes"])
    run("mkfs.ext4", "-q", "-F", str(image))
    run("mount", "-o", f"loop,commit=1{request['options']}", str(image), str(mounted))
    try:
        if request["before"] is not None:
            (mounted / "store").write_bytes(base64.b64decode(request["before"]))
            os.sync()
        save(request["program"], mounted / "store", base64.b64decode(request["content"]))
        time.sleep(request["delay_s"])
        run("cp", "--sparse=always", str(image), str(copy))
    finally:
        run("umount", str(mounted))
    run("mount", "-o", "loop", str(copy), str(again))
    try:
        return found_below(again)
    finally:
        run("umount", str(again))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(probe(asked, Path(asked["scratch"])), sys.stdout)
