"""One save in a process of its own, for `strace` to watch: `python -m tests.concurrency.traced_save PATH`.

The calls of the save stand between two writes to standard error, `begin` and `end`.
"""

from __future__ import annotations

import os
import sys

from sessionstore import SessionStore
from tests.concurrency.payload import SETTINGS


def main(path: str) -> None:
    """Save to `path`."""
    store = SessionStore(path, SETTINGS)
    os.write(2, b"begin\n")
    store.save({"agent:main:main": {"n": 2}})
    os.write(2, b"end\n")


if __name__ == "__main__":
    main(sys.argv[1])
