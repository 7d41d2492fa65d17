"""Planted bugs that only a real system shows, or a simulated one with a personality of its own.

What a fork copies, where a planted link leads, and what Windows refuses. Of the same kind, but not a bug that could be
planted into the store: a network file system on which `flock` is local to each host (`tests/races/test_reality.py`
shows that the simulation finds what it does).
"""

from __future__ import annotations

from models.mutants.planting import Mutant, Patch

_REALITY = "tests/races/test_reality.py::"

REALITY_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B15",
        "lock: held by a forked child, it believes",
        "Whether a lock is held is remembered in memory, and a forked child inherits the memory.",
        "LOCK4",
        (
            Patch(
                "lock",
                "return self._entered is not None and self._path == path and self.is_of_this_process",
                "return self._entered is not None and self._path == path",
            ),
        ),
        (f"{_REALITY}test_a_forked_child_does_not_believe_to_hold_the_lock",),
    ),
    Mutant(
        "B19",
        "lock: symbolic link followed",
        "The lock file is opened through whatever link is planted at its name, and truncated.",
        "LOCK1",
        (
            Patch(
                "lock",
                "os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW",
                "os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_TRUNC",
            ),
        ),
        (f"{_REALITY}test_a_link_planted_at_the_lock_file_is_not_followed",),
    ),
    Mutant(
        "B44",
        "write: Windows sharing violation",
        "A rename that fails because a reader has the file open is not tried again.",
        "WRITE1",
        (Patch("files", "_RENAME_ATTEMPTS = 20", "_RENAME_ATTEMPTS = 1"),),
        (f"{_REALITY}test_a_reader_does_not_make_an_update_fail_on_windows",),
    ),
)
