"""What a run did to the simulated disk, as a list of events.

Set `Machine.trace` to a list and every call that changes the disk appends one event, in the order of execution. From
this list the states are enumerated that a power loss may leave; lanes of a counterexample show it too. Inodes are named
by `serial`, which is never used twice (inode numbers are). An event says what was done, not whether it is durable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskEvent:
    """Something `process` did to the disk at scheduling step `step`."""

    step: int
    process: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Created(DiskEvent):
    """Directory `directory` got the new name `name` for the new inode `serial` (`kind`: file, directory, symlink)."""

    directory: int
    name: str
    serial: int
    kind: str
    mode: int
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written(DiskEvent):
    """`content` was written into inode `serial` at `offset` (bytes)."""

    serial: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated(DiskEvent):
    """Inode `serial` was cut or extended to `size` bytes."""

    serial: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced(DiskEvent):
    """`fsync` (or `fdatasync`, if `content_only`) of inode `serial` returned; `directory` tells what kind it is."""

    serial: int
    directory: bool
    content_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed(DiskEvent):
    """`source_name` in `source` became `name` in `directory`; `replaced` is the inode that was there, or None."""

    source: int
    source_name: str
    directory: int
    name: str
    serial: int
    replaced: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked(DiskEvent):
    """Inode `serial` got the further name `name` in `directory`."""

    directory: int
    name: str
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlinked(DiskEvent):
    """`name` was removed from `directory` (also by rmdir)."""

    directory: int
    name: str
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesChanged(DiskEvent):
    """Mode, owner or times of inode `serial` were set."""

    serial: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked(DiskEvent):
    """An operation began or was acknowledged (`label`), for a crash oracle."""

    label: str
