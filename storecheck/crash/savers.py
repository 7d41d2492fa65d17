"""Savers of one file, each with one known mistake or none: what the models are calibrated on.

Published counts of crash states exist for them (docs/crash-states.md), so that a change of a model or of the
enumeration shows. They write what they are told and know no format. Not examples to follow, but for `correct`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Final

Acknowledge = Callable[[], None]
Saver = Callable[[str, bytes, Acknowledge], None]
"""Writes the content to the path and calls `acknowledge` when it claims that this is durable."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def _create_temporary(path: str) -> tuple[str, int]:
    # Another name each time. With one name for all, a model that keeps changes of a name in order hides states.
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    return temporary, os.open(temporary, _CREATE, 0o600)


def _write_temporary(path: str, content: bytes, *, sync: bool) -> str:
    temporary, descriptor = _create_temporary(path)
    os.write(descriptor, content)
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)
    return temporary


def _sync_directory(path: str) -> None:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def correct(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """Temporary file, fsync, rename, fsync of the directory."""
    temporary = _write_temporary(path, content, sync=True)
    os.replace(temporary, path)
    _sync_directory(path)
    acknowledge()


def no_fsync(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The file is not synced before the rename."""
    temporary = _write_temporary(path, content, sync=False)
    os.replace(temporary, path)
    _sync_directory(path)
    acknowledge()


def no_directory_fsync(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The directory is not synced after the rename."""
    temporary = _write_temporary(path, content, sync=True)
    os.replace(temporary, path)
    acknowledge()


def no_sync_at_all(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """Neither is synced."""
    temporary = _write_temporary(path, content, sync=False)
    os.replace(temporary, path)
    acknowledge()


def in_place_truncating(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The file itself is truncated and written."""
    _write_in_place(path, content, os.O_WRONLY | os.O_TRUNC)
    acknowledge()


def in_place(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The file itself is written over."""
    _write_in_place(path, content, os.O_WRONLY)
    acknowledge()


def _write_in_place(path: str, content: bytes, flags: int) -> None:
    descriptor = os.open(path, flags)
    os.write(descriptor, content)
    os.fsync(descriptor)
    os.close(descriptor)


def fsync_after_rename(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The file is synced, but only after it has replaced the old one."""
    temporary = _write_temporary(path, content, sync=False)
    os.replace(temporary, path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    _sync_directory(path)
    acknowledge()


def unlink_first(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The old file is removed before the new one takes its place."""
    temporary = _write_temporary(path, content, sync=True)
    os.unlink(path)
    os.replace(temporary, path)
    _sync_directory(path)
    acknowledge()


def fsync_before_last_write(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """A tail is written after the file was synced."""
    temporary, descriptor = _create_temporary(path)
    half = len(content) // 2
    os.write(descriptor, content[:half])
    os.fsync(descriptor)
    os.write(descriptor, content[half:])
    os.close(descriptor)
    os.replace(temporary, path)
    _sync_directory(path)
    acknowledge()


def directory_fsync_before_rename(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The directory is synced too early."""
    temporary = _write_temporary(path, content, sync=True)
    _sync_directory(path)
    os.replace(temporary, path)
    acknowledge()


def backup_by_rename(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """The old file is moved away to be the backup before the new one takes its place."""
    temporary = _write_temporary(path, content, sync=True)
    os.replace(path, f"{path}.bak")
    os.replace(temporary, path)
    _sync_directory(path)
    acknowledge()


def acknowledged_early(path: str, content: bytes, acknowledge: Acknowledge) -> None:
    """Success is reported before the directory is synced."""
    temporary = _write_temporary(path, content, sync=True)
    os.replace(temporary, path)
    acknowledge()
    _sync_directory(path)


SAVERS: Final[dict[str, Saver]] = {
    "correct": correct,
    "no fsync": no_fsync,
    "no directory fsync": no_directory_fsync,
    "no sync at all": no_sync_at_all,
    "in place, truncating": in_place_truncating,
    "in place": in_place,
    "fsync after rename": fsync_after_rename,
    "unlink first": unlink_first,
    "fsync before last write": fsync_before_last_write,
    "directory fsync before rename": directory_fsync_before_rename,
    "backup by rename first": backup_by_rename,
    "acknowledged before directory fsync": acknowledged_early,
}
"""By the name that tables use."""
