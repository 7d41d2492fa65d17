"""The things that live on the simulated machine: inodes, open file descriptions, processes.

Plain mutable records; `kernel.Machine` gives them their meaning.
"""

from __future__ import annotations

import stat as stat_bits

from storecheck.machine.parameters import FIRST_DESCRIPTOR

REGULAR = stat_bits.S_IFREG
DIRECTORY = stat_bits.S_IFDIR
SYMLINK = stat_bits.S_IFLNK


class Inode:
    """A file, directory or symbolic link.

    `serial` names it for ever; `number` is its inode number, which a later file may get. `private_to` is the process
    that created it with O_EXCL, until another process, a rename or a link can have made it known to others.
    """

    __slots__ = (
        "atime_ns",
        "content",
        "ctime_ns",
        "entries",
        "flock_queue",
        "flocks",
        "gid",
        "kind",
        "links",
        "mode",
        "mtime_ns",
        "number",
        "open_count",
        "parent",
        "private_to",
        "record_locks",
        "record_queue",
        "serial",
        "target",
        "uid",
    )

    def __init__(self, *, number: int, serial: int, kind: int, mode: int, uid: int, gid: int, stamp_ns: int) -> None:
        self.number = number
        self.serial = serial
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.links = 1
        self.open_count = 0
        self.content = bytearray()
        self.entries: dict[str, Inode] = {}
        self.parent: Inode = self
        self.target = ""
        self.atime_ns = self.mtime_ns = self.ctime_ns = stamp_ns
        self.flocks: list[OpenFile] = []
        self.flock_queue: list[Waiter] = []
        self.record_locks: list[RecordLock] = []
        self.record_queue: list[Waiter] = []
        self.private_to: Process | None = None

    def size(self) -> int:
        """Bytes of content, as `st_size` shows them."""
        if self.kind == REGULAR:
            return len(self.content)
        if self.kind == SYMLINK:
            return len(self.target.encode("utf-8", "surrogateescape"))
        return 4096


class OpenFile:
    """An open file description: shared by the descriptors that `dup` made; owner of a flock."""

    __slots__ = ("flags", "flock", "inode", "opener", "path", "position", "references")

    def __init__(self, inode: Inode, *, flags: int, opener: Process, path: str) -> None:
        self.inode = inode
        self.flags = flags
        self.opener = opener
        self.path = path
        self.position = 0
        self.references = 1
        self.flock = 0


class RecordLock:
    """A POSIX (lockf) lock of one process on the bytes from `start` up to, not including, `end`."""

    __slots__ = ("end", "exclusive", "owner", "start")

    def __init__(self, *, owner: Process, start: int, end: float, exclusive: bool) -> None:
        self.owner = owner
        self.start = start
        self.end = end
        self.exclusive = exclusive


class Waiter:
    """One blocked lock request; `granted` turns true in the very call that frees the lock (first in, first out)."""

    __slots__ = ("abandoned", "exclusive", "granted", "inode", "opened", "record", "task")

    def __init__(
        self, *, inode: Inode, exclusive: bool, opened: OpenFile | None = None, record: RecordLock | None = None
    ) -> None:
        self.inode = inode
        self.exclusive = exclusive
        self.opened = opened
        self.record = record
        self.granted = False
        self.abandoned = False
        self.task: object = None


class Process:
    """A process as the kernel sees it: ids, mask, working directory, descriptors."""

    __slots__ = (
        "alive",
        "cwd",
        "descriptors",
        "gid",
        "index",
        "inheritable",
        "open_files",
        "pid",
        "ppid",
        "random_drawn",
        "uid",
        "umask",
    )

    def __init__(self, *, index: int, pid: int, uid: int, gid: int, umask: int, cwd: Inode, open_files: int) -> None:
        self.index = index
        self.pid = pid
        self.ppid = 1
        self.uid = uid
        self.gid = gid
        self.umask = umask
        self.cwd = cwd
        self.open_files = open_files
        self.descriptors: dict[int, OpenFile] = {}
        self.inheritable: set[int] = set()
        self.alive = True
        self.random_drawn = 0

    def lowest_free(self, start: int = FIRST_DESCRIPTOR) -> int:
        """The lowest descriptor number that is free, as POSIX demands."""
        number = max(start, FIRST_DESCRIPTOR)
        while number in self.descriptors:
            number += 1
        return number
