"""The simulated machine: descriptors, content and locks on top of the paths, and its processes.

One `Machine` is one computer at one moment; runs begin with a new one. It does what a call asks at once and knows
nothing of schedules: a lock request that has to wait returns a `Waiter`, and `on_wake` is called when one is granted.
Its rules are those of Linux, checked against a real disk by `tests/storecheck/test_machine_conformance.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Final

from storecheck.machine.disk import READ, WRITE
from storecheck.machine.errors import fail
from storecheck.machine.events import Marked, Synced, Truncated, Written
from storecheck.machine.inode import DIRECTORY, REGULAR, SYMLINK, Inode, OpenFile, Process, RecordLock, Waiter
from storecheck.machine.namespace import Namespace
from storecheck.machine.parameters import FIRST_DESCRIPTOR, MachineParameters

LOCK_SH: Final = 1
LOCK_EX: Final = 2
LOCK_NB: Final = 4
LOCK_UN: Final = 8

FIRST_PID: Final = 1001
ENDLESS: Final = float("inf")

_ACCESS_MASK: Final = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_WANTED: Final = {os.O_RDONLY: 4, os.O_WRONLY: 2, os.O_RDWR: 6}
_O_TMPFILE: Final = getattr(os, "O_TMPFILE", 0)
_O_PATH: Final = getattr(os, "O_PATH", 0)
_STATUS_FLAGS: Final = os.O_APPEND | os.O_NONBLOCK


def nobody_waits(waiter: Waiter) -> None:
    """The default `on_wake`: without a scheduler nobody waits."""


class Machine(Namespace):
    """A simulated computer: a disk, clocks, processes.

    Args:
        parameters: what kind of computer.
        files: content of the initial files by path relative to the mount; directories are made as needed.
    """

    def __init__(self, parameters: MachineParameters | None = None, files: Mapping[str, bytes] | None = None) -> None:
        super().__init__(parameters or MachineParameters())
        self.processes: list[Process] = []
        self.on_wake: Callable[[Waiter], None] = nobody_waits
        for path, content in (files or {}).items():
            self.plant(path, content)

    # Setting up

    def plant(self, path: str, content: bytes, *, mode: int = 0o644) -> Inode:
        """Put an initial file on the disk (durable, no process did it)."""
        *parents, name = path.strip("/").split("/")
        directory = self.mount
        for part in parents:
            child = directory.entries.get(part)
            directory = self.plant_directory(directory, part) if child is None else child
        inode = self.new_inode(kind=REGULAR, mode=mode, uid=self.parameters.uid, gid=self.parameters.gid)
        inode.content[:] = content
        inode.parent = directory
        self.used_bytes += len(content)
        directory.entries[name] = inode
        return inode

    def new_process(self) -> Process:
        """A process that has just started: in the mount directory, nothing open."""
        index = len(self.processes)
        settings = self.parameters
        process = Process(
            index=index,
            pid=FIRST_PID + index,
            uid=settings.uid,
            gid=settings.gid,
            umask=settings.umask,
            cwd=self.mount,
            open_files=settings.open_files,
        )
        self.processes.append(process)
        return process

    def end_process(self, process: Process) -> None:
        """What the kernel does when a process is gone, however it went: close its descriptors, free its locks."""
        if process.alive:
            process.alive = False
            self.touch(("process", process.pid), WRITE)
            for descriptor, opened in list(process.descriptors.items()):
                for waiter in opened.inode.record_queue:
                    if waiter.record is not None and waiter.record.owner is process:
                        waiter.abandoned = True
                self.close(process, descriptor)

    def mark(self, process: Process, label: str) -> None:
        """Put a mark into the trace, for a crash oracle."""
        if self.trace is not None:
            self.trace.append(Marked(step=self.step, process=process.index, label=label))

    # Descriptors

    def opened(self, process: Process, descriptor: int) -> OpenFile:
        """The open file description behind a descriptor; EBADF if there is none."""
        found = process.descriptors.get(descriptor)
        if found is None:
            if not isinstance(descriptor, int):
                raise TypeError(f"an integer is required (got type {type(descriptor).__name__})")
            fail(errno.EBADF)
        return found

    def open(self, process: Process, path: object, flags: int, mode: int = 0o777, *, at: Inode | None = None) -> int:
        """open(2); returns the descriptor."""
        if len(process.descriptors) >= process.open_files:
            fail(errno.EMFILE, path)
        if (_O_TMPFILE and flags & _O_TMPFILE == _O_TMPFILE) or flags & _O_PATH:
            fail(errno.EOPNOTSUPP, path)
        text = self.text_of(path)
        creates = flags & os.O_CREAT != 0
        if creates and flags & os.O_DIRECTORY:
            fail(errno.EINVAL, path)
        exclusive = creates and flags & os.O_EXCL != 0
        inode = self._find_to_open(process, text, path, at, flags, creates=creates, exclusive=exclusive)
        created = inode is None
        if inode is None:
            inode = self._create_to_open(process, text, path, mode, at, exclusive=exclusive)
        else:
            self._check_may_open(process, inode, flags, path, creates=creates)
        if flags & os.O_TRUNC and inode.kind == REGULAR and not created:
            self.truncate(process, inode, 0)
        if inode.private_to is not None and inode.private_to is not process:
            inode.private_to = None
        inode.open_count += 1
        descriptor = process.lowest_free()
        process.descriptors[descriptor] = OpenFile(inode, flags=flags, opener=process, path=text)
        return descriptor

    def _find_to_open(
        self,
        process: Process,
        text: str,
        path: object,
        at: Inode | None,
        flags: int,
        *,
        creates: bool,
        exclusive: bool,
    ) -> Inode | None:
        if creates and text.endswith("/"):
            # Whatever is there: only the way to it is looked at.
            self.locate(process, text.rstrip("/") or "/", shown=path, at=at, follow=False)  # type: ignore[arg-type]
            fail(errno.EISDIR, path)
        nofollow = flags & os.O_NOFOLLOW != 0
        follow = not (nofollow or exclusive)
        inode = self.locate(process, text, shown=path, at=at, follow=follow, creates=creates)[2]  # type: ignore[arg-type]
        if inode is None:
            if not creates:
                fail(errno.ENOENT, path)
            return None
        if exclusive:
            fail(errno.EEXIST, path)
        if inode.kind == SYMLINK:
            fail(errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP, path)
        return inode

    def _create_to_open(
        self, process: Process, text: str, path: object, mode: int, at: Inode | None, *, exclusive: bool
    ) -> Inode:
        directory, name, _ = self.locate(process, text, shown=path, at=at, follow=not exclusive)  # type: ignore[arg-type]
        inode = self.create(process, directory, name, kind=REGULAR, mode=mode & 0o7777 & ~process.umask, shown=path)
        if exclusive:
            inode.private_to = process
        return inode

    def _check_may_open(self, process: Process, inode: Inode, flags: int, path: object, *, creates: bool) -> None:
        if self.footprint is not None:
            self.touch(("inode", inode.serial), READ)
        access = flags & _ACCESS_MASK
        if inode.kind == DIRECTORY:
            if access != os.O_RDONLY or creates or flags & os.O_TRUNC:
                fail(errno.EISDIR, path)
        elif flags & os.O_DIRECTORY:
            fail(errno.ENOTDIR, path)
        wanted = _WANTED.get(access, 6)
        if flags & os.O_TRUNC:
            wanted |= 2
        if not self.may(process, inode, wanted):
            fail(errno.EACCES, path)

    def close(self, process: Process, descriptor: int) -> None:
        """close(2): the last descriptor of a description frees its flock; any close frees the process's lockf locks."""
        opened = process.descriptors.pop(descriptor, None)
        if opened is None:
            fail(errno.EBADF)
        process.inheritable.discard(descriptor)
        inode = opened.inode
        if inode.record_locks:
            self._release_records(process, inode, start=0, end=ENDLESS)
        opened.references -= 1
        if opened.references == 0:
            if opened.flock:
                self.unlock(opened)
            inode.open_count -= 1
            # Whoever removes the last name frees the file if nobody has it open: the order of the two is noticed.
            if self.footprint is not None:
                self.touch(("inode", inode.serial), READ if inode.links else WRITE)
            if inode.links == 0:
                self.drop_if_unused(inode)

    def duplicate(self, process: Process, descriptor: int, *, start: int = 0, onto: int | None = None) -> int:
        """dup(2), dup2(2) and fcntl(F_DUPFD): another descriptor for the same description."""
        opened = self.opened(process, descriptor)
        copy = self.number_of_copy(process, descriptor, start=start, onto=onto)
        if copy != descriptor:
            opened.references += 1
            process.descriptors[copy] = opened
        return copy

    def number_of_copy(self, process: Process, descriptor: int, *, start: int, onto: int | None) -> int:
        """The number that a copy of the descriptor gets, free now; its own if it is to stay where it is."""
        if onto is None:
            if len(process.descriptors) >= process.open_files:
                fail(errno.EMFILE)
            return process.lowest_free(start)
        if onto == descriptor:
            return onto
        if onto < FIRST_DESCRIPTOR:
            fail(errno.EBADF)
        if onto in process.descriptors:
            self.close(process, onto)
        return onto

    def status_flags(self, process: Process, descriptor: int, flags: int | None = None) -> int:
        """fcntl(F_GETFL) and, with `flags`, fcntl(F_SETFL)."""
        opened = self.opened(process, descriptor)
        if flags is not None:
            opened.flags = opened.flags & ~_STATUS_FLAGS | flags & _STATUS_FLAGS
        return opened.flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_TRUNC | os.O_CLOEXEC)

    # Content

    def _for_reading(self, process: Process, descriptor: int) -> OpenFile:
        opened = self.opened(process, descriptor)
        if opened.flags & _ACCESS_MASK == os.O_WRONLY:
            fail(errno.EBADF)
        if opened.inode.kind == DIRECTORY:
            fail(errno.EISDIR)
        return opened

    def _for_writing(self, process: Process, descriptor: int) -> OpenFile:
        opened = self.opened(process, descriptor)
        if opened.flags & _ACCESS_MASK == os.O_RDONLY:
            fail(errno.EBADF)
        return opened

    def read(self, process: Process, descriptor: int, size: int, *, offset: int | None = None) -> bytes:
        """read(2), or pread(2) with `offset`."""
        opened = self._for_reading(process, descriptor)
        if size < 0 or (offset is not None and offset < 0):
            fail(errno.EINVAL)
        if self.footprint is not None:
            self.touch(("inode", opened.inode.serial), READ)
        start = opened.position if offset is None else offset
        content = bytes(opened.inode.content[start : start + size])
        if offset is None:
            opened.position = start + len(content)
        return content

    def write(self, process: Process, descriptor: int, content: bytes, *, offset: int | None = None) -> int:
        """write(2), or pwrite(2) with `offset`; returns how many bytes were taken, which may be fewer."""
        opened = self._for_writing(process, descriptor)
        if offset is not None and offset < 0:
            fail(errno.EINVAL)
        inode = opened.inode
        start = opened.position if offset is None else offset
        if opened.flags & os.O_APPEND:
            # Also for pwrite: a documented Linux bug that programs see, pwrite(2) BUGS.
            start = len(inode.content)
        size = self.room_for(inode, offset=start, size=len(content))
        if size:
            self.store(process, inode, start, content[:size])
        if offset is None:
            opened.position = start + size
        return size

    def store(self, process: Process, inode: Inode, offset: int, content: bytes) -> None:
        """Put bytes into a file; a gap before them reads as zeros."""
        held = inode.content
        before = len(held)
        if offset > before:
            held.extend(bytes(offset - before))
        held[offset : offset + len(content)] = content
        self.used_bytes += len(held) - before
        inode.mtime_ns = inode.ctime_ns = self.stamp_ns()
        if inode.mode & 0o6000 and process.uid != 0:
            inode.mode &= ~0o4000
            if inode.mode & 0o010:
                inode.mode &= ~0o2000
        if self.footprint is not None:
            self.touch(("inode", inode.serial), WRITE)
        if self.trace is not None:
            self.trace.append(
                Written(
                    step=self.step, process=process.index, serial=inode.serial, offset=offset, content=bytes(content)
                )
            )

    def truncate(self, process: Process, inode: Inode, size: int) -> None:
        """Cut or extend a file that may be written (permission is checked by the caller)."""
        if size < 0:
            fail(errno.EINVAL)
        self.resize(inode, size)
        inode.mtime_ns = inode.ctime_ns = self.stamp_ns()
        self.touch(("inode", inode.serial), WRITE)
        if self.trace is not None:
            self.trace.append(Truncated(step=self.step, process=process.index, serial=inode.serial, size=size))

    def truncate_path(self, process: Process, path: object, size: int) -> None:
        """truncate(2)."""
        if size < 0:
            fail(errno.EINVAL, path)
        inode = self.existing(process, path)
        if inode.kind == DIRECTORY:
            fail(errno.EISDIR, path)
        if not self.may(process, inode, 2):
            fail(errno.EACCES, path)
        self.truncate(process, inode, size)

    def truncate_open(self, process: Process, descriptor: int, size: int) -> None:
        """ftruncate(2)."""
        opened = self.opened(process, descriptor)
        if size < 0 or opened.flags & _ACCESS_MASK == os.O_RDONLY:
            fail(errno.EINVAL)
        self.truncate(process, opened.inode, size)

    def allocate(self, process: Process, descriptor: int, offset: int, size: int) -> None:
        """posix_fallocate(3): room for the bytes; the file grows with zeros if needed."""
        opened = self._for_writing(process, descriptor)
        if offset < 0 or size <= 0:
            fail(errno.EINVAL)
        inode = opened.inode
        end = offset + size
        self.touch(("inode", inode.serial), READ)
        room = self.parameters.disk_bytes
        if room is not None and end - len(inode.content) > room - self.used_bytes:
            fail(errno.ENOSPC)
        if end > len(inode.content):
            self.truncate(process, inode, end)

    def seek(self, process: Process, descriptor: int, offset: int, whence: int) -> int:
        """lseek(2)."""
        opened = self.opened(process, descriptor)
        if whence == os.SEEK_SET:
            position = offset
        elif whence == os.SEEK_CUR:
            position = opened.position + offset
        elif whence == os.SEEK_END:
            self.touch(("inode", opened.inode.serial), READ)
            position = len(opened.inode.content) + offset
        else:
            fail(errno.EINVAL)
        if position < 0:
            fail(errno.EINVAL)
        opened.position = position
        return position

    def sync(self, process: Process, descriptor: int, *, content_only: bool = False) -> None:
        """fsync(2) and fdatasync(2). On this machine nothing is lost while it runs: only the trace learns of it."""
        inode = self.opened(process, descriptor).inode
        if self.trace is not None:
            self.trace.append(
                Synced(
                    step=self.step,
                    process=process.index,
                    serial=inode.serial,
                    directory=inode.kind == DIRECTORY,
                    content_only=content_only,
                )
            )

    # flock

    def flock(self, process: Process, descriptor: int, operation: int) -> Waiter | None:
        """flock(2). None if done; else the `Waiter` that will be granted, first come first served.

        As on Linux, changing a held lock from one kind to the other gives it up first: flock(2), NOTES.
        """
        opened = self.opened(process, descriptor)
        kind = operation & ~LOCK_NB
        if kind not in (LOCK_SH, LOCK_EX, LOCK_UN):
            fail(errno.EINVAL)
        inode = opened.inode
        if self.footprint is not None:
            self.touch(("flock", inode.serial), WRITE)
        if kind == LOCK_UN:
            self.unlock(opened)
            return None
        if opened.flock == kind:
            return None
        if opened.flock:
            self.unlock(opened)
        if self._flock_free(inode, kind) and (not inode.flock_queue or operation & LOCK_NB):
            self._grant_flock(opened, kind)
            return None
        if operation & LOCK_NB:
            fail(errno.EAGAIN)
        waiter = Waiter(inode=inode, exclusive=kind == LOCK_EX, opened=opened)
        inode.flock_queue.append(waiter)
        return waiter

    def _flock_free(self, inode: Inode, kind: int) -> bool:
        return not inode.flocks or (kind == LOCK_SH and all(held.flock == LOCK_SH for held in inode.flocks))

    def _grant_flock(self, opened: OpenFile, kind: int) -> None:
        opened.flock = kind
        opened.inode.flocks.append(opened)

    def unlock(self, opened: OpenFile) -> None:
        """Give up the flock of a description and hand it to those who wait."""
        inode = opened.inode
        if self.footprint is not None:
            self.touch(("flock", inode.serial), WRITE)
        if opened.flock:
            opened.flock = 0
            inode.flocks.remove(opened)
        if inode.flock_queue:
            self._serve_flock_queue(inode)

    def _serve_flock_queue(self, inode: Inode) -> None:
        queue = inode.flock_queue
        while queue:
            waiter = queue[0]
            assert waiter.opened is not None
            kind = LOCK_EX if waiter.exclusive else LOCK_SH
            if waiter.abandoned or waiter.opened.references == 0:
                queue.pop(0)
                continue
            if not self._flock_free(inode, kind):
                return
            queue.pop(0)
            self._grant_flock(waiter.opened, kind)
            waiter.granted = True
            self.on_wake(waiter)

    def abandon(self, waiter: Waiter) -> None:
        """Nobody waits for this request any more (its process is gone)."""
        waiter.abandoned = True
        if waiter.opened is not None:
            self._serve_flock_queue(waiter.inode)
        else:
            self._serve_record_queue(waiter.inode)

    # lockf

    def record_lock(self, process: Process, descriptor: int, operation: int, *, start: int, size: int) -> Waiter | None:
        """fcntl(F_SETLK, F_SETLKW): a POSIX lock of the process (not of the descriptor) on a range of bytes."""
        opened = self.opened(process, descriptor)
        kind = operation & ~LOCK_NB
        access = opened.flags & _ACCESS_MASK
        if (kind == LOCK_EX and access == os.O_RDONLY) or (kind == LOCK_SH and access == os.O_WRONLY):
            fail(errno.EBADF)
        end = ENDLESS if size == 0 else start + size
        if size < 0:
            start, end = start + size, start
        if start < 0 or kind not in (LOCK_SH, LOCK_EX, LOCK_UN):
            fail(errno.EINVAL)
        inode = opened.inode
        self.touch(("lockf", inode.serial), WRITE)
        if kind == LOCK_UN:
            self._release_records(process, inode, start=start, end=end)
            return None
        wanted = RecordLock(owner=process, start=start, end=end, exclusive=kind == LOCK_EX)
        if self._record_conflicts(inode, wanted) is None:
            self._grant_record(inode, wanted)
            return None
        if operation & LOCK_NB:
            fail(errno.EAGAIN)
        if self._would_deadlock(inode, wanted):
            fail(errno.EDEADLK)
        waiter = Waiter(inode=inode, exclusive=wanted.exclusive, record=wanted)
        inode.record_queue.append(waiter)
        return waiter

    def _record_conflicts(self, inode: Inode, wanted: RecordLock) -> RecordLock | None:
        for held in inode.record_locks:
            overlap = held.start < wanted.end and wanted.start < held.end
            if overlap and held.owner is not wanted.owner and (held.exclusive or wanted.exclusive):
                return held
        return None

    def _would_deadlock(self, inode: Inode, wanted: RecordLock) -> bool:
        """Whether the owner of what is wanted waits, over any number of processes, for the one who wants it."""
        waiting = {
            waiter.record.owner: waiter
            for other in self._inodes_with_record_waiters(inode)
            for waiter in other.record_queue
            if waiter.record is not None and not waiter.granted
        }
        blocker = self._record_conflicts(inode, wanted)
        for _ in range(len(waiting) + 1):
            if blocker is None:
                return False
            if blocker.owner is wanted.owner:
                return True
            waiter = waiting.get(blocker.owner)
            if waiter is None or waiter.record is None:
                return False
            blocker = self._record_conflicts(waiter.inode, waiter.record)
        return False

    def _inodes_with_record_waiters(self, inode: Inode) -> list[Inode]:
        found = {inode.serial: inode}
        for process in self.processes:
            for opened in process.descriptors.values():
                found[opened.inode.serial] = opened.inode
        return list(found.values())

    def _grant_record(self, inode: Inode, wanted: RecordLock) -> None:
        self._cut_records(wanted.owner, inode, start=wanted.start, end=wanted.end)
        inode.record_locks.append(wanted)

    def _cut_records(self, owner: Process, inode: Inode, *, start: int, end: float) -> None:
        kept: list[RecordLock] = []
        for held in inode.record_locks:
            if held.owner is not owner or held.end <= start or end <= held.start:
                kept.append(held)
                continue
            if held.start < start:
                kept.append(RecordLock(owner=owner, start=held.start, end=start, exclusive=held.exclusive))
            if end < held.end:
                kept.append(RecordLock(owner=owner, start=int(end), end=held.end, exclusive=held.exclusive))
        inode.record_locks = kept

    def _release_records(self, process: Process, inode: Inode, *, start: int, end: float) -> None:
        self.touch(("lockf", inode.serial), WRITE)
        self._cut_records(process, inode, start=start, end=end)
        self._serve_record_queue(inode)

    def _serve_record_queue(self, inode: Inode) -> None:
        for waiter in list(inode.record_queue):
            assert waiter.record is not None
            if waiter.abandoned:
                inode.record_queue.remove(waiter)
            elif self._record_conflicts(inode, waiter.record) is None:
                inode.record_queue.remove(waiter)
                self._grant_record(inode, waiter.record)
                waiter.granted = True
                self.on_wake(waiter)


__all__ = ["LOCK_EX", "LOCK_NB", "LOCK_SH", "LOCK_UN", "Machine"]
