"""Inodes, clocks and records of the simulated machine: the part under paths, descriptors and locks.

Holds the tree of inodes, hands out inode numbers, stamps files, accounts for room, appends to the trace and to the
footprint. `trace` (see `events`) is for crash states and reports. `footprint` is for partial order reduction: what the
call now running touched, as (object, access) with access READ, WRITE or COMMUTE (two COMMUTEs do not conflict).
Both are None unless somebody wants them.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Iterator
from typing import Final

from storecheck.machine.errors import fail
from storecheck.machine.events import DiskEvent
from storecheck.machine.inode import DIRECTORY, REGULAR, SYMLINK, Inode, Process
from storecheck.machine.parameters import MOUNT, MachineParameters

READ: Final = 0
WRITE: Final = 1
COMMUTE: Final = 2

FIRST_INODE: Final = 11
"""ext4 keeps the numbers below for itself."""

MONOTONIC_START_NS: Final = 1_000_000_000_000

FootprintKey = tuple[object, ...]
Footprint = list[tuple[FootprintKey, int]]

CLOCK: Final[FootprintKey] = ("clock",)
NUMBERS: Final[FootprintKey] = ("inode numbers",)
TREE: Final[FootprintKey] = ("directory tree",)
ROOM: Final[FootprintKey] = ("free room",)

KIND_NAMES: Final = {REGULAR: "file", DIRECTORY: "directory", SYMLINK: "symlink"}


class Disk:
    """The tree of inodes with its clocks and records. Base of `Machine`; not used alone."""

    def __init__(self, parameters: MachineParameters) -> None:
        self.parameters = parameters
        self.monotonic_ns = MONOTONIC_START_NS
        self.wall_offset_ns = parameters.wall_start_ns - MONOTONIC_START_NS
        self.granularity_ns = parameters.stamp_granularity_ns
        self.step = 0
        self.trace: list[DiskEvent] | None = None
        self.footprint: Footprint | None = None
        self.used_bytes = 0
        self._free_numbers: list[int] = []
        self._next_number = FIRST_INODE
        self._next_serial = 1
        self._reuse = parameters.inode_reuse == "lowest"
        self._directories: dict[tuple[int, int, str], Inode] = {}
        self.root = self.new_inode(kind=DIRECTORY, mode=0o755, uid=0, gid=0)
        self.root.links = 2
        self.mount = self.root
        for name in MOUNT.strip("/").split("/"):
            self.mount = self.plant_directory(self.mount, name)

    def plant_directory(self, parent: Inode, name: str) -> Inode:
        """Put an initial directory on the disk (no process did it)."""
        inode = self.new_inode(kind=DIRECTORY, mode=0o755, uid=self.parameters.uid, gid=self.parameters.gid)
        inode.links = 2
        inode.parent = parent
        parent.entries[name] = inode
        parent.links += 1
        return inode

    # Clocks

    def wall_ns(self) -> int:
        """The wall clock, nanoseconds since 1970."""
        return self.monotonic_ns + self.wall_offset_ns

    def jump_wall(self, delta_ns: int) -> None:
        """Move the wall clock, as an administrator or NTP step does. The monotonic clock does not move."""
        self.wall_offset_ns += delta_ns

    def stamp_ns(self) -> int:
        """The time that a file changed now gets: the wall clock cut down to the granularity."""
        if self.footprint is not None:
            self.footprint.append((CLOCK, READ))
        now_ns = self.monotonic_ns + self.wall_offset_ns
        return now_ns - now_ns % self.granularity_ns

    # Records

    def touch(self, key: FootprintKey, access: int) -> None:
        """Note what the running call touches, if anybody asks."""
        if self.footprint is not None:
            self.footprint.append((key, access))

    # Inodes

    def new_inode(self, *, kind: int, mode: int, uid: int, gid: int) -> Inode:
        """A fresh inode, not yet in any directory."""
        self.touch(NUMBERS, WRITE)
        if self._free_numbers:
            number = heapq.heappop(self._free_numbers)
        else:
            number = self._next_number
            self._next_number += 1
        serial = self._next_serial
        self._next_serial += 1
        return Inode(number=number, serial=serial, kind=kind, mode=mode, uid=uid, gid=gid, stamp_ns=self.stamp_ns())

    def drop_if_unused(self, inode: Inode) -> None:
        """Free the inode once no name and no descriptor is left; its number may be used again."""
        if inode.links == 0 and inode.open_count == 0:
            self.touch(NUMBERS, WRITE)
            self.touch(ROOM, WRITE)
            self.used_bytes -= len(inode.content)
            inode.content = bytearray()
            if self._reuse:
                heapq.heappush(self._free_numbers, inode.number)

    def room_for(self, inode: Inode, *, offset: int, size: int) -> int:
        """How many of `size` bytes can be written at `offset`; fails with EFBIG or ENOSPC if none."""
        limits = self.parameters
        self.touch(("inode", inode.serial), READ)
        if limits.write_bytes is not None:
            size = min(size, limits.write_bytes)
        if limits.file_bytes is not None and size:
            size = min(size, limits.file_bytes - offset)
            if size <= 0:
                fail(errno.EFBIG)
        if limits.disk_bytes is not None and size:
            self.touch(ROOM, WRITE)
            growth_bytes = offset + size - len(inode.content)
            free_bytes = limits.disk_bytes - self.used_bytes
            if growth_bytes > free_bytes:
                size -= growth_bytes - free_bytes
                if size <= 0:
                    fail(errno.ENOSPC)
        return size

    def resize(self, inode: Inode, size: int) -> None:
        """Cut the content, or extend it with zeros."""
        growth_bytes = size - len(inode.content)
        limits = self.parameters
        if growth_bytes > 0:
            if limits.file_bytes is not None and size > limits.file_bytes:
                fail(errno.EFBIG)
            inode.content.extend(bytes(growth_bytes))
        else:
            del inode.content[size:]
        self.used_bytes += growth_bytes

    # What a check looks at when the run is over

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Every path below the mount, with its inode, in the order of names; links are not followed."""
        pending = [("", self.mount)]
        while pending:
            prefix, directory = pending.pop()
            for name in sorted(directory.entries, reverse=True):
                inode = directory.entries[name]
                path = f"{prefix}{name}"
                if inode.kind == DIRECTORY:
                    pending.append((f"{path}/", inode))
                yield path, inode

    def files(self) -> dict[str, bytes]:
        """The content of every regular file, by path relative to the mount."""
        return {path: bytes(inode.content) for path, inode in sorted(self.walk()) if inode.kind == REGULAR}

    def may(self, process: Process, inode: Inode, wanted: int) -> bool:
        """Whether the process may read (4), write (2), search or execute (1) the inode; all bits of `wanted`."""
        if process.uid == 0:
            return wanted & 1 == 0 or inode.kind == DIRECTORY or inode.mode & 0o111 != 0
        if process.uid == inode.uid:
            granted = inode.mode >> 6
        elif process.gid == inode.gid:
            granted = inode.mode >> 3
        else:
            granted = inode.mode
        return granted & wanted == wanted
