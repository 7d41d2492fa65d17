"""A second machine at the same moment as a first one, which goes its own way from there.

For searches: schedules with a common beginning go on from copies of one machine instead of starting anew. What can
change is copied, what cannot (numbers, texts, parameters) is shared. Only the simulated disk can be copied, and only a
machine that keeps no trace and no footprint: those belong to one run.
"""

from __future__ import annotations

from collections.abc import Mapping

from storecheck.machine.inode import Inode, OpenFile, Process, RecordLock, Waiter
from storecheck.machine.kernel import Machine, nobody_waits


def copy_of(machine: Machine) -> tuple[Machine, Mapping[Waiter, Waiter]]:
    """The copy, and for each request for a lock that waits there the one in the copy.

    The requests in the copy belong to no task, and nobody is told (`on_wake`) when one is granted: see to that.
    """
    assert machine.trace is None and machine.footprint is None
    return _Copying().machine(machine)


class _Copying:
    """One copy being made: for each thing of the first machine the one in its place."""

    def __init__(self) -> None:
        self._inodes: dict[Inode, Inode] = {}
        self._opened: dict[OpenFile, OpenFile] = {}
        self._processes: dict[Process, Process] = {}
        self._waiters: dict[Waiter, Waiter] = {}
        # Inodes that are known by their place only, so that a deep tree is no deep recursion.
        self._unfilled: list[Inode] = []

    def machine(self, old: Machine) -> tuple[Machine, Mapping[Waiter, Waiter]]:
        new = Machine.__new__(type(old))
        vars(new).update(vars(old))
        new.on_wake = nobody_waits
        new._free_numbers = list(old._free_numbers)
        new.root, new.mount = self._inode(old.root), self._inode(old.mount)
        new.processes = [self._process(process) for process in old.processes]
        new._directories = {key: self._inode(inode) for key, inode in old._directories.items()}
        while self._unfilled:
            self._fill(self._unfilled.pop())
        return new, self._waiters

    def _inode(self, old: Inode) -> Inode:
        new = self._inodes.get(old)
        if new is None:
            new = self._inodes[old] = Inode.__new__(Inode)
            self._unfilled.append(old)
        return new

    def _fill(self, old: Inode) -> None:
        new, process = self._inodes[old], self._process
        new.serial = old.serial
        new.number = old.number
        new.kind = old.kind
        new.mode = old.mode
        new.uid = old.uid
        new.gid = old.gid
        new.links = old.links
        new.open_count = old.open_count
        new.target = old.target
        new.atime_ns = old.atime_ns
        new.mtime_ns = old.mtime_ns
        new.ctime_ns = old.ctime_ns
        new.content = old.content[:]
        new.parent = self._inode(old.parent)
        new.private_to = None if old.private_to is None else process(old.private_to)
        new.entries = {name: self._inode(inode) for name, inode in old.entries.items()}
        new.flocks = [self._open_file(opened) for opened in old.flocks] if old.flocks else []
        new.flock_queue = [self._waiter(waiter) for waiter in old.flock_queue] if old.flock_queue else []
        new.record_locks = [self._record(held) for held in old.record_locks] if old.record_locks else []
        new.record_queue = [self._waiter(waiter) for waiter in old.record_queue] if old.record_queue else []

    def _process(self, old: Process) -> Process:
        new = self._processes.get(old)
        if new is None:
            new = self._processes[old] = Process(
                index=old.index,
                pid=old.pid,
                uid=old.uid,
                gid=old.gid,
                umask=old.umask,
                cwd=self._inode(old.cwd),
                open_files=old.open_files,
            )
            new.ppid = old.ppid
            new.alive = old.alive
            new.random_drawn = old.random_drawn
            new.inheritable = set(old.inheritable)
            new.descriptors = {number: self._open_file(opened) for number, opened in old.descriptors.items()}
        return new

    def _open_file(self, old: OpenFile) -> OpenFile:
        new = self._opened.get(old)
        if new is None:
            opener = self._process(old.opener)
            # Copying the opener may just have copied what it has open.
            new = self._opened.get(old)
            if new is None:
                new = self._opened[old] = OpenFile(
                    self._inode(old.inode), flags=old.flags, opener=opener, path=old.path
                )
                new.position = old.position
                new.references = old.references
                new.flock = old.flock
        return new

    def _record(self, old: RecordLock) -> RecordLock:
        return RecordLock(owner=self._process(old.owner), start=old.start, end=old.end, exclusive=old.exclusive)

    def _waiter(self, old: Waiter) -> Waiter:
        new = self._waiters.get(old)
        if new is None:
            new = self._waiters[old] = Waiter(
                inode=self._inode(old.inode),
                exclusive=old.exclusive,
                opened=None if old.opened is None else self._open_file(old.opened),
                record=None if old.record is None else self._record(old.record),
            )
            new.granted = old.granted
            new.abandoned = old.abandoned
        return new
