"""Keeping the store small: what is too old or too many, and the backup of a file that is too large.

Decides and says; the store carries it out inside the write that it is doing anyway. An entry without a usable
`updatedAt` is never removed, because nothing tells its age, and neither is the session that is being written for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterable

from sessionstore.errors import command_for
from sessionstore.files import copy_aside
from sessionstore.settings import Settings

KEPT_BACKUPS = 3
_DAY_MS = 86_400_000

_log = logging.getLogger("sessionstore")


def sessions_to_remove(
    sessions: Iterable[tuple[str, float]], *, now_ms: int, settings: Settings, active_session: str | None
) -> tuple[list[str], list[str]]:
    """Which sessions `enforce` removes: those that are too old, and of the rest those beyond the newest ones.

    Args:
        sessions: normalised key and `updatedAt` (NaN if there is none) of every session, in file order.
        now_ms: wall clock, in milliseconds since 1970.
        settings: the limits.
        active_session: normalised key of a session to keep in any case.
    """
    oldest_ms = now_ms - settings.prune_after_ms
    pruned: list[str] = []
    removable: list[tuple[float, str]] = []
    kept = 0
    for key, updated_at in sessions:
        if key == active_session or math.isnan(updated_at):
            kept += 1
        elif updated_at < oldest_ms:
            pruned.append(key)
        else:
            removable.append((updated_at, key))
    room = max(0, settings.max_entries - kept)
    # Stable: of entries with the same time the earlier in the file is kept.
    newest_first = sorted(removable, key=lambda session: -session[0])
    return pruned, [key for _, key in newest_first[room:]]


def warn_of(path: str, *, pruned: int, capped: int, rotated_bytes: int | None, settings: Settings) -> None:
    """Log what `enforce` would do to the file that is being written."""
    findings: list[str] = []
    if pruned:
        findings.append(f"remove {_entries(pruned)} older than {_age(settings.prune_after_ms)}")
    if capped:
        findings.append(f"remove {_entries(capped)} beyond the newest {settings.max_entries:,}")
    if rotated_bytes is not None:
        findings.append(f"back up the file, {rotated_bytes:,} bytes being more than {settings.rotate_bytes:,}")
    if findings:
        _log.warning(
            "session store maintenance is due: %s: would %s. Run `%s cleanup --enforce`, or set "
            'Settings(maintenance_mode="enforce").',
            path,
            "; ".join(findings),
            command_for(path),
        )


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count:,} entries"


def _age(age_ms: int) -> str:
    """In days, as people set it; what is shorter than one in milliseconds, as it is set."""
    days = age_ms / _DAY_MS
    return f"{age_ms:,} ms" if days < 1 else "1 day" if days == 1 else f"{days:g} days"


def back_up(path: str, raw: bytes, *, now_ms: int, mode: int) -> str:
    """Copy the file's content durably to `<path>.bak.<now_ms>` and keep the newest backups; returns the copy's name.

    The caller holds the write lock. The file itself is not touched.
    """
    name = copy_aside(path, raw, suffix=f".bak.{now_ms}", mode=mode)
    # Not the new one, whatever its name says: the clock may have been set back.
    for old in [backup for backup in backups(path) if backup != name][KEPT_BACKUPS - 1 :]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old)
    return name


def backups(path: str) -> list[str]:
    """The backups of `path`, newest first."""
    directory, base = os.path.split(path)
    pattern = re.compile(re.escape(base) + r"\.bak\.([0-9]{1,20})(?:-([0-9]{1,4}))?")
    found: list[tuple[int, int, str]] = []
    for name in os.listdir(directory):
        match = pattern.fullmatch(name)
        if match:
            found.append((int(match.group(1)), int(match.group(2) or 0), os.path.join(directory, name)))
    return [name for _, _, name in sorted(found, reverse=True)]
