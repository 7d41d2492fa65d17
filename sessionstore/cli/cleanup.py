"""What maintenance would do to a store, and doing it now.

Maintenance belongs to the writes of the programs that use the store; in mode `warn`, the default, they only say that
it is due. This does it once, under the write lock, with the limits in force and the store's own durable write.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sessionstore import maintenance
from sessionstore.files import resolve
from sessionstore.settings import Settings
from sessionstore.snapshot import Snapshot, normalise_key
from sessionstore.store import SessionStore


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What maintenance does to one version of a store.

    Attributes:
        too_old: keys of entries to remove for their age.
        too_many: keys of entries to remove because newer ones fill the store.
        backed_up_bytes: size of the file, if it is large enough to be backed up; else None.
        backup: where it was copied, once that has been done.
    """

    too_old: tuple[str, ...]
    too_many: tuple[str, ...]
    backed_up_bytes: int | None
    backup: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.too_old or self.too_many or self.backed_up_bytes is not None)


def plan(snapshot: Snapshot, settings: Settings, *, active_session: str | None = None) -> Cleanup:
    """What `enforce` would do to this version now.

    Args:
        snapshot: the version.
        settings: the limits.
        active_session: normalised key of a session that would be kept in any case.
    """
    too_old, too_many = maintenance.sessions_to_remove(
        _times(snapshot), now_ms=time.time_ns() // 1_000_000, settings=settings, active_session=active_session
    )
    size_bytes = 0 if snapshot.content is None else snapshot.content.size_bytes
    return Cleanup(tuple(too_old), tuple(too_many), size_bytes if size_bytes > settings.rotate_bytes else None)


def _times(snapshot: Snapshot) -> Iterator[tuple[str, float]]:
    for key, ordinals in snapshot.index.table.ordinals.items():
        yield key, snapshot.index.updated_at[snapshot.winner(ordinals)]


def warn(path: str, snapshot: Snapshot, settings: Settings, *, active_session: str) -> None:
    """Log what `enforce` would do to this version, if anything; the session written for would be kept."""
    due = plan(snapshot, settings, active_session=normalise_key(active_session))
    maintenance.warn_of(
        resolve(path),
        pruned=len(due.too_old),
        capped=len(due.too_many),
        rotated_bytes=due.backed_up_bytes,
        settings=settings,
    )


def preview(path: str, settings: Settings) -> Cleanup:
    """What `enforce` would do to the store now. Reads only."""
    return plan(SessionStore(path, settings).load(skip_cache=True), settings)


def enforce(path: str, settings: Settings) -> Cleanup:
    """Do it, durably, and tell what was done. Raises what `SessionStore.edit` raises."""
    # Off: the store would do the same as this once more, and does nothing at all if no entry changes.
    store = SessionStore(path, replace(settings, maintenance_mode="off"))
    snapshot = store.load(skip_cache=True)
    if snapshot.raw is None:
        return plan(snapshot, settings)
    edit = store.edit(base=snapshot)
    with edit as draft:
        if not edit.reused:
            snapshot = store.load(skip_cache=True)
        due = plan(snapshot, settings)
        if due.backed_up_bytes is not None and snapshot.raw is not None:
            resolved = resolve(store.path)
            backup = maintenance.back_up(
                resolved,
                snapshot.raw,
                now_ms=time.time_ns() // 1_000_000,
                mode=stat.S_IMODE(os.stat(resolved).st_mode),
            )
            due = replace(due, backup=backup)
        for key in (*due.too_old, *due.too_many):
            del draft[key]
    return due
