"""A directory of the real disk behind the interface of the simulated machine: the "control" personality.

The interception layer asks a `Machine` for everything. Here every such request becomes the system call it stands for,
on real descriptors below one real directory: the simulated path /a/b is `<base>/a/b`. The real kernel decides about
existence, content, sizes, modes, link counts, errors and locks. What no two computers agree on is dictated by the
script instead: clocks, process ids, random bytes, descriptor numbers, inode numbers, owners and time stamps in answers
of `stat`, and the order of names in a directory. A stale cache that needs coarse stamps or returning inode numbers is
therefore replayed as well, but it is the script that makes them so, not this disk. Which simulated inode met which
real number is noted in `met_inodes`: the same file must stay the same, whatever it is called.

A request that is not overridden meets the empty simulated disk that this class derives from, and fails: nothing is
passed off as real.
"""

# ruff: noqa: ARG002 - the signatures are those of the simulated machine, whose processes all are this one

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat as stat_bits
from collections.abc import Iterator
from typing import Any, NoReturn

from storecheck.machine import LOCK_NB, LOCK_UN, MOUNT, Inode, Machine, MachineParameters, Process, Waiter
from storecheck.machine.errors import fail

_REAL_FLAGS_KEPT = os.O_CLOEXEC


class RealInode:
    """What a path or descriptor leads to, with the attributes that the interception layer reads.

    `size()` looks again: `stat_of` asks for it first, and whoever reads the rest then sees the same moment.
    """

    def __init__(self, disk: RealDisk, status: os.stat_result, *, path: str = "", descriptor: int = -1) -> None:
        self.disk = disk
        self.path = path
        self.descriptor = descriptor
        self.private_to: Process | None = None
        self.record_locks: tuple[()] = ()
        self.flocks: tuple[()] = ()
        self.serial = 0
        self._take(status)

    def _take(self, status: os.stat_result) -> None:
        self.kind = stat_bits.S_IFMT(status.st_mode)
        self.mode = stat_bits.S_IMODE(status.st_mode)
        self.links = status.st_nlink
        self.bytes = status.st_size
        dictated = self.disk.dictated_status()
        if dictated is None:
            self.number, self.uid, self.gid = status.st_ino, status.st_uid, status.st_gid
            self.atime_ns, self.mtime_ns, self.ctime_ns = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
        else:
            self.disk.met_inodes.add((self.disk.dictated_serial, status.st_ino))
            _, self.number, links, self.uid, self.gid, size, self.atime_ns, self.mtime_ns, self.ctime_ns = dictated
            if self.kind == stat_bits.S_IFDIR:
                # File systems count subdirectories and the room for names each in their own way.
                self.links, self.bytes = links, size

    def size(self) -> int:
        """Bytes now."""
        if self.descriptor >= 0:
            self._take(os.fstat(self.descriptor))
        return self.bytes

    @property
    def entries(self) -> _Entries:
        """What is in the directory."""
        return _Entries(self)


class _Entries:
    """The entries of a real directory, looked at one by one."""

    def __init__(self, directory: RealInode) -> None:
        self._directory = directory

    def __getitem__(self, name: str) -> RealInode:
        directory = self._directory
        return RealInode(directory.disk, os.lstat(os.path.join(directory.path, name)))


class RealOpen:
    """An open file description."""

    def __init__(self, inode: RealInode, *, descriptor: int, flags: int, opener: Process, path: str) -> None:
        self.inode = inode
        self.descriptor = descriptor
        self.flags = flags
        self.opener = opener
        self.path = path
        self.flock = 0

    @property
    def position(self) -> int:
        """Where the next read or write happens."""
        return os.lseek(self.descriptor, 0, os.SEEK_CUR)


class RealDisk(Machine):
    """See the module. One per run of a child.

    Args:
        parameters: of the program's machine; only what is dictated is used.
        base: the real directory that stands for the root.
    """

    def __init__(self, parameters: MachineParameters, base: str) -> None:
        super().__init__(parameters)
        self._base = base
        self.dictated: tuple[str, Any] = ("value", None)
        self.dictated_serial = 0
        self.met_inodes: set[tuple[int, int]] = set()
        self.waiting: list[tuple[Waiter, int, int, tuple[int, int, int] | None]] = []

    # Names and numbers

    def dictated_status(self) -> tuple[int, ...] | None:
        """The answer of `stat` in the script, if the running call has one."""
        kind, value = self.dictated
        return value if kind == "stat" else None

    def _real(self, path: object, at: Any = None) -> str:
        text = self.text_of(path)
        if text.startswith("/"):
            return self._base + text
        # Relative paths begin in the simulated working directory, or at the directory that a descriptor names.
        return text if at is not None or not text else os.path.join(self._base + MOUNT, text)

    @contextlib.contextmanager
    def _failing(self, *shown: object) -> Iterator[None]:
        """Errors name the path that the code under test gave, as they do on the simulated machine."""
        try:
            yield
        except OSError as error:
            _fail_as(error, shown)

    def real_descriptor(self, process: Process, descriptor: int) -> int:
        """The real number behind the one that the code under test sees; EBADF if there is none."""
        return self._open_file(process, descriptor).descriptor

    def _open_file(self, process: Process, descriptor: int) -> RealOpen:
        return self.opened(process, descriptor)  # type: ignore[return-value]

    def _inode_of(self, path: object, at: Any, *, follow: bool) -> RealInode:
        real = self._real(path, at)
        directory = None if at is None else at.descriptor
        with self._failing(path):
            status = os.stat(real, dir_fd=directory, follow_symlinks=follow)
        return RealInode(self, status, path=real)

    # Files by name

    def open(self, process: Process, path: object, flags: int, mode: int = 0o777, *, at: Inode | None = None) -> int:
        """open(2)."""
        if len(process.descriptors) >= process.open_files:
            fail(errno.EMFILE, path)
        real = self._real(path, at)
        with self._failing(path):
            descriptor = os.open(real, flags | _REAL_FLAGS_KEPT, mode, dir_fd=_descriptor_of(at))
        number = process.lowest_free()
        inode = RealInode(self, os.fstat(descriptor), path=real, descriptor=descriptor)
        opened = RealOpen(inode, descriptor=descriptor, flags=flags, opener=process, path=self.text_of(path))
        process.descriptors[number] = opened  # type: ignore[assignment]
        return number

    def existing(self, process: Process, path: object, *, at: Inode | None = None, follow: bool = True) -> Inode:
        """What a path leads to."""
        return self._inode_of(path, at, follow=follow)  # type: ignore[return-value]

    def rename(
        self, process: Process, source: object, path: object, *, source_at: Inode | None = None, at: Inode | None = None
    ) -> None:
        """rename(2)."""
        old, new = self._real(source, source_at), self._real(path, at)
        with self._failing(source, path):
            os.rename(old, new, src_dir_fd=_descriptor_of(source_at), dst_dir_fd=_descriptor_of(at))

    def link(
        self,
        process: Process,
        source: object,
        path: object,
        *,
        source_at: Inode | None = None,
        at: Inode | None = None,
        follow: bool = False,
    ) -> None:
        """link(2)."""
        old, new = self._real(source, source_at), self._real(path, at)
        with self._failing(source, path):
            os.link(
                old, new, src_dir_fd=_descriptor_of(source_at), dst_dir_fd=_descriptor_of(at), follow_symlinks=follow
            )

    def symlink(self, process: Process, target: object, path: object, *, at: Inode | None = None) -> None:
        """symlink(2); an absolute target leads into the real directory."""
        text, real = self.text_of(target), self._real(path, at)
        with self._failing(target, path):
            os.symlink(self._base + text if text.startswith("/") else text, real, dir_fd=_descriptor_of(at))

    def readlink(self, process: Process, path: object, *, at: Inode | None = None) -> str:
        """readlink(2)."""
        real = self._real(path, at)
        with self._failing(path):
            target = os.readlink(real, dir_fd=_descriptor_of(at))
        return target[len(self._base) :] if target.startswith(f"{self._base}/") else target

    def unlink(self, process: Process, path: object, *, at: Inode | None = None) -> None:
        """unlink(2)."""
        real = self._real(path, at)
        with self._failing(path):
            os.unlink(real, dir_fd=_descriptor_of(at))

    def mkdir(self, process: Process, path: object, mode: int, *, at: Inode | None = None) -> None:
        """mkdir(2)."""
        real = self._real(path, at)
        with self._failing(path):
            os.mkdir(real, mode, dir_fd=_descriptor_of(at))

    def rmdir(self, process: Process, path: object, *, at: Inode | None = None) -> None:
        """rmdir(2)."""
        real = self._real(path, at)
        with self._failing(path):
            os.rmdir(real, dir_fd=_descriptor_of(at))

    def access(
        self, process: Process, path: object, mode: int, *, at: Inode | None = None, follow: bool = True
    ) -> bool:
        """access(2), with the effective user: the child has changed it to the program's."""
        directory = _descriptor_of(at)
        return os.access(self._real(path, at), mode, dir_fd=directory, follow_symlinks=follow, effective_ids=True)

    def names_in(self, process: Process, directory: Inode, *, shown: object = None) -> list[str]:
        """The names in a directory, in the script's order if they are the script's."""
        real: RealInode = directory  # type: ignore[assignment]
        with self._failing(shown):
            names = os.listdir(real.descriptor if real.descriptor >= 0 else real.path)
        kind, value = self.dictated
        if kind == "names":
            order = {os.fsdecode(name): position for position, name in enumerate(value)}
            names.sort(key=lambda name: (order.get(name, len(order)), name))
        return names

    def truncate_path(self, process: Process, path: object, size: int) -> None:
        """truncate(2)."""
        real = self._real(path)
        with self._failing(path):
            os.truncate(real, size)

    # Attributes

    def chmod(self, process: Process, inode: Inode, mode: int, *, shown: object = None) -> None:
        """chmod(2), fchmod(2)."""
        with self._failing(shown):
            os.chmod(_target_of(inode), mode)

    def chown(self, process: Process, inode: Inode, uid: int, gid: int, *, shown: object = None) -> None:
        """chown(2), fchown(2)."""
        with self._failing(shown):
            os.chown(_target_of(inode), uid, gid)

    def set_times(
        self, process: Process, inode: Inode, times_ns: tuple[int, int] | None, *, shown: object = None
    ) -> None:
        """utimensat(2)."""
        with self._failing(shown):
            if times_ns is None:
                os.utime(_target_of(inode))
            else:
                os.utime(_target_of(inode), ns=times_ns)

    def may(self, process: Process, inode: Inode, wanted: int) -> bool:
        """Asked by chdir only: the kernel decides."""
        return os.access(_target_of(inode), wanted, effective_ids=True)

    def path_of(self, directory: Inode) -> str:
        """getcwd(2) as the code under test sees it."""
        if directory is self.mount:
            return MOUNT
        real: RealInode = directory  # type: ignore[assignment]
        return real.path[len(self._base) :]

    def directory_of(self, opened: Any) -> Inode:
        """The directory that a descriptor names."""
        if opened.inode.kind != stat_bits.S_IFDIR:
            fail(errno.ENOTDIR)
        return opened.inode  # type: ignore[no-any-return]

    # Descriptors

    def end_process(self, process: Process) -> None:
        """The process of the script is over, the real one goes on to the next run: nothing stays open, or locked."""
        process.alive = False
        self.waiting.clear()
        for descriptor in list(process.descriptors):
            self.close(process, descriptor)

    def close(self, process: Process, descriptor: int) -> None:
        """close(2)."""
        opened: Any = process.descriptors.pop(descriptor, None)
        if opened is None:
            fail(errno.EBADF)
        process.inheritable.discard(descriptor)
        os.close(opened.descriptor)

    def duplicate(self, process: Process, descriptor: int, *, start: int = 0, onto: int | None = None) -> int:
        """dup(2), dup2(2), fcntl(F_DUPFD)."""
        opened = self._open_file(process, descriptor)
        number = self.number_of_copy(process, descriptor, start=start, onto=onto)
        if number == descriptor:
            return number
        with self._failing():
            real = os.dup(opened.descriptor)
        inode = RealInode(self, os.fstat(real), path=opened.inode.path, descriptor=real)
        copied = RealOpen(inode, descriptor=real, flags=opened.flags, opener=process, path=opened.path)
        process.descriptors[number] = copied  # type: ignore[assignment]
        return number

    def status_flags(self, process: Process, descriptor: int, flags: int | None = None) -> int:
        """fcntl(F_GETFL) and, with `flags`, fcntl(F_SETFL)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            if flags is not None:
                fcntl.fcntl(real, fcntl.F_SETFL, flags)
            return fcntl.fcntl(real, fcntl.F_GETFL) & ~_flags_unasked_for()

    def read(self, process: Process, descriptor: int, size: int, *, offset: int | None = None) -> bytes:
        """read(2), pread(2)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            return os.read(real, size) if offset is None else os.pread(real, size, offset)

    def write(self, process: Process, descriptor: int, content: bytes, *, offset: int | None = None) -> int:
        """write(2), pwrite(2)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            return os.write(real, content) if offset is None else os.pwrite(real, content, offset)

    def truncate_open(self, process: Process, descriptor: int, size: int) -> None:
        """ftruncate(2)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            os.ftruncate(real, size)

    def allocate(self, process: Process, descriptor: int, offset: int, size: int) -> None:
        """posix_fallocate(3)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            os.posix_fallocate(real, offset, size)

    def seek(self, process: Process, descriptor: int, offset: int, whence: int) -> int:
        """lseek(2)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            return os.lseek(real, offset, whence)

    def sync(self, process: Process, descriptor: int, *, content_only: bool = False) -> None:
        """fsync(2), fdatasync(2)."""
        real = self.real_descriptor(process, descriptor)
        with self._failing():
            (os.fdatasync if content_only else os.fsync)(real)

    # Locks: never blocking, because a child that hangs in the kernel cannot be led any further. One that has to wait is
    # parked, and tries again when the script says that the lock is its own.

    def flock(self, process: Process, descriptor: int, operation: int) -> Waiter | None:
        """flock(2)."""
        opened = self._open_file(process, descriptor)
        try:
            fcntl.flock(opened.descriptor, operation | LOCK_NB)
        except BlockingIOError as error:
            if operation & LOCK_NB:
                _fail_as(error, ())
            return self._parked(opened, operation, None)
        except OSError as error:
            _fail_as(error, ())
        return None

    def record_lock(self, process: Process, descriptor: int, operation: int, *, start: int, size: int) -> Waiter | None:
        """fcntl(F_SETLK), as `fcntl.lockf` has it."""
        opened = self._open_file(process, descriptor)
        try:
            # Python knows LOCK_UN alone only.
            fcntl.lockf(opened.descriptor, operation if operation == LOCK_UN else operation | LOCK_NB, size, start)
        except (BlockingIOError, PermissionError) as error:
            if operation & LOCK_NB:
                _fail_as(error, ())
            return self._parked(opened, operation, (size, start, 0))
        except OSError as error:
            _fail_as(error, ())
        return None

    def _parked(self, opened: RealOpen, operation: int, lockf: tuple[int, int, int] | None) -> Waiter:
        waiter = Waiter(inode=opened.inode, exclusive=operation & fcntl.LOCK_EX != 0)  # type: ignore[arg-type]
        self.waiting.append((waiter, opened.descriptor, operation | LOCK_NB, lockf))
        return waiter

    def try_again(self, task: object) -> bool:
        """The script says that what this thread waits for is its own now. False if the kernel disagrees."""
        for position, (waiter, descriptor, operation, lockf) in enumerate(self.waiting):
            if waiter.task is task:
                del self.waiting[position]
                try:
                    if lockf is None:
                        fcntl.flock(descriptor, operation)
                    else:
                        fcntl.lockf(descriptor, operation, *lockf)
                except OSError:
                    return False
        return True


@functools.cache
def _flags_unasked_for() -> int:
    """What the kernel adds to the flags of every open file: O_LARGEFILE, on most machines."""
    with open(os.devnull, "rb") as stream:
        return fcntl.fcntl(stream, fcntl.F_GETFL)


def _descriptor_of(at: Any) -> int | None:
    return None if at is None else at.descriptor


def _target_of(inode: Any) -> Any:
    return inode.descriptor if inode.descriptor >= 0 else inode.path


def _fail_as(error: OSError, shown: tuple[object, ...]) -> NoReturn:
    assert error.errno is not None
    fail(error.errno, *(path for path in shown if path is not None))


__all__ = ["RealDisk"]
