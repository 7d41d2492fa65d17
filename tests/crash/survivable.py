"""Failures that an operation may survive if its result is right, with the reasons."""

from __future__ import annotations

from collections.abc import Iterable

from storecheck.faults import Failure
from storecheck.faults.injector import Hit

SURVIVABLE = {
    "close": "what was synced is durable, and what was only read is known, whatever close says then",
    "fchown": "only root gives files away, and the content matters more",
    "lstat": "looking for symbolic links in the path: if it matters, the next call on that path fails too",
    "stat": "looking whether the directory is there: creating it finds out",
}
"""By call, whatever the error."""

SURVIVABLE_ERRORS = {
    ("fsync", "EINVAL"): "a file system that cannot sync directories, and need not",
    ("link", "EPERM"): "a file system without hard links: a copy gets its name by a rename",
    ("unlink", "EPERM"): "another user's stray file in a sticky directory: it stays, and is named",
    ("unlink", "EACCES"): "as EPERM",
}
"""By call and error."""


def is_survivable(failure: Failure, hits: Iterable[Hit]) -> bool:
    """Whether every call that failed is one whose failure an operation may survive."""
    return all(hit.name in SURVIVABLE or (hit.name, failure.error) in SURVIVABLE_ERRORS for hit in hits)
