"""How real children are started: one server that has the verifier loaded forks them, which takes milliseconds.

`spawn` where there is no forkserver, and where a bug is to be planted into what a child imports: a program has one such
server, and another part of it may have started that one with the code under test loaded.
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


def child_context(*, imports_anew: bool = False) -> Any:
    """The start method for real children, as `multiprocess` has it.

    Args:
        imports_anew: a child must find no module of the code under test loaded; costs a new interpreter each.
    """
    if imports_anew or sys.platform == "win32":
        return multiprocess.get_context("spawn")
    context = multiprocess.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
