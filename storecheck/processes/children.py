"""How real children are started: one server that has the verifier loaded forks them, which takes milliseconds.

`spawn` where there is no forkserver. The code under test is never loaded beforehand, so that a planted bug can be.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import multiprocess

PRELOADED: Final = (
    "storecheck.processes.following",
    "storecheck.processes.races",
    "storecheck.pytest_plugin",
    "filelock",
)
"""Loaded once by the server of children; the second half because test packages and stores often import it."""


def child_context() -> Any:
    """The start method for real children, as `multiprocess` has it."""
    if sys.platform == "win32":
        return multiprocess.get_context("spawn")
    context = multiprocess.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
