"""What a file system promises about power loss, as four models.

A model says which changes must reach the disk before which others, and what a sync forces. The weaker the model, the
more states it allows. `ALICE` follows Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014; the two ext4
models follow Documentation/admin-guide/ext4.rst (`data=ordered`, `auto_da_alloc`), which holds for mounts with
`dioread_lock`, and are compared with real ext4 by `tests/crash/test_ground_truth.py`; `POSIX_STRICT` allows what
fsync(2) and rename(2) do not forbid.

Not modelled: garbage (lost content reads as zeros), bit rot, misdirected writes, disks that lie about their cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceModel:
    """One file system's rules.

    Attributes:
        name: as reports show it.
        journal: names and attributes reach the disk in the order of the calls, and fsync of a file commits all earlier
            ones of any file. Without it only changes of the same name, or of the same file's attributes, keep order,
            and a sync forces nothing but its own file or directory.
        atomic_rename: both names of a rename change together.
        content_before_size: a file never shows zeros where content was lost: its size grows after its content.
        content_before_replace: a rename over an existing file waits for the content of what is renamed
            (`auto_da_alloc`). It does not for a new name.
        size_before_replace: it waits for the size only; the content is on its way.
    """

    name: str
    journal: bool
    atomic_rename: bool
    content_before_size: bool
    content_before_replace: bool
    size_before_replace: bool = False


EXT4_ORDERED: Final = PersistenceModel(
    name="ext4-ordered", journal=True, atomic_rename=True, content_before_size=True, content_before_replace=True
)
EXT4_NOAUTO: Final = PersistenceModel(
    name="ext4-noauto", journal=True, atomic_rename=True, content_before_size=True, content_before_replace=False
)
ALICE: Final = PersistenceModel(
    name="alice", journal=False, atomic_rename=True, content_before_size=False, content_before_replace=False
)
POSIX_STRICT: Final = PersistenceModel(
    name="posix-strict", journal=False, atomic_rename=False, content_before_size=False, content_before_replace=False
)

EXT4_NOLOCK: Final = PersistenceModel(
    name="ext4-nolock",
    journal=True,
    atomic_rename=True,
    content_before_size=False,
    content_before_replace=False,
    size_before_replace=True,
)
"""ext4 as Linux mounts it by default since 5.6 (`dioread_nolock`): blocks are allocated as unwritten extents, and the
journal does not wait for what fills them. Seen for real: a file of full size, all zeros, in the place of the old one.
Every state that it allows `ALICE` allows, too, so that it is used for comparing with real file systems only."""

MODELS: Final = (EXT4_ORDERED, EXT4_NOAUTO, ALICE, POSIX_STRICT)
"""From the strongest promise to the weakest."""
