"""The module `posix` of a simulated process; the standard library's `os.py` is executed on top of it.

Three kinds of names: what only computes is shared with the real module (constants, `fspath`, `WIFEXITED`); what the
machine can do is simulated here; everything else raises `NotSimulated` and is noted, so that a run in which the code
under test reached for it is never counted as evidence.
"""

from __future__ import annotations

import errno
import fcntl as real_fcntl
import functools
import hashlib
import os
import posix as real_posix
import stat as stat_bits
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final, NoReturn

from storecheck.machine import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, Inode, Waiter
from storecheck.machine.disk import READ, ROOM, WRITE
from storecheck.machine.errors import fail
from storecheck.machine.inode import DIRECTORY, REGULAR, SYMLINK, Process
from storecheck.schedule.executor import Task
from storecheck.syscalls.context import (
    Context,
    as_built_in,
    close_is_noticed,
    content_is_shared,
    noticed,
    noticed_if_shared,
    unnoticed,
)

DEVICE: Final = 0x801
BLOCK_BYTES: Final = 4096
_SECOND_NS: Final = 1_000_000_000
_LINUX: Final[bool] = sys.platform.startswith("linux")
_NAMED_FIELDS: Final = (
    "st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_blocks",
)  # fmt: skip
"""Fields of `os.stat_result` after the ten that are a tuple: systems other than Linux have them at other places."""

HARMLESS: Final = frozenset(
    {
        "DirEntry", "WCOREDUMP", "WEXITSTATUS", "WIFCONTINUED", "WIFEXITED", "WIFSIGNALED", "WIFSTOPPED", "WSTOPSIG",
        "WTERMSIG", "abort", "cpu_count", "device_encoding", "error", "fspath", "get_terminal_size", "major", "makedev",
        "minor", "sched_param", "stat_result", "statvfs_result", "strerror", "terminal_size", "times_result",
        "uname", "uname_result", "waitid_result", "waitstatus_to_exitcode", "_path_normpath", "_path_splitroot",
        "_path_splitroot_ex", "process_cpu_count", "get_inheritable_default",
    }
)  # fmt: skip
"""Names of `posix` that compute, or tell what does not change, and never touch a file, a clock or another process."""


class NotSimulated(RuntimeError):
    """The code under test asked a simulated process for something that the machine does not do."""


def refusing(context: Context, name: str) -> Callable[..., NoReturn]:
    """A function that refuses, and leaves a note in the run even if the error is swallowed."""

    def refused(*_: object, **__: object) -> NoReturn:
        message = f"{name}() is not simulated: run this part of the program without it, or extend storecheck.syscalls"
        context.refuse(message)
        raise NotSimulated(message)

    refused.__name__ = refused.__qualname__ = name
    return refused


StatFields = tuple[int, int, int, int, int, int, int, int, int]


def stat_fields(inode: Inode) -> StatFields:
    """What stat(2) tells of an inode on this machine: kind and mode, number, links, ids, size, and times in ns."""
    # First: the inodes of a real disk look again for it, and the rest then is of the same moment.
    size = inode.size()
    return (
        inode.kind | inode.mode,
        inode.number,
        inode.links,
        inode.uid,
        inode.gid,
        size,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
    )


@functools.lru_cache(maxsize=4096)
def stat_result(told: StatFields) -> os.stat_result:
    """The `os.stat_result` that CPython makes of it."""
    mode, number, links, uid, gid, size, atime_ns, mtime_ns, ctime_ns = told
    atime_s, mtime_s, ctime_s = atime_ns // _SECOND_NS, mtime_ns // _SECOND_NS, ctime_ns // _SECOND_NS
    fields = (
        mode,
        number,
        DEVICE,
        links,
        uid,
        gid,
        size,
        atime_s,
        mtime_s,
        ctime_s,
        atime_s + atime_ns % _SECOND_NS * 1e-9,
        mtime_s + mtime_ns % _SECOND_NS * 1e-9,
        ctime_s + ctime_ns % _SECOND_NS * 1e-9,
        atime_ns,
        mtime_ns,
        ctime_ns,
    )
    blocks = (size + 511) // 512
    if _LINUX:
        return os.stat_result((*fields, BLOCK_BYTES, blocks, 0))
    return os.stat_result(fields[:10], dict(zip(_NAMED_FIELDS, (*fields[10:], BLOCK_BYTES, blocks), strict=True)))


class DirEntry:
    """What `os.scandir` yields: the kind is remembered from the listing, `stat` asks the machine."""

    __slots__ = ("_inode", "_kind", "_stat", "name", "path")

    def __init__(
        self, *, name: str | bytes, path: str | bytes, kind: int, number: int, stat: Callable[..., os.stat_result]
    ) -> None:
        self.name = name
        self.path = path
        self._kind = kind
        self._inode = number
        self._stat = stat

    def inode(self) -> int:
        """The inode number."""
        return self._inode

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a directory."""
        return self._is(DIRECTORY, follow_symlinks=follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a regular file."""
        return self._is(REGULAR, follow_symlinks=follow_symlinks)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self._kind == SYMLINK

    def is_junction(self) -> bool:
        """Never, on this machine."""
        return False

    def _is(self, kind: int, *, follow_symlinks: bool) -> bool:
        if self._kind != SYMLINK or not follow_symlinks:
            return self._kind == kind
        try:
            return stat_bits.S_IFMT(self._stat(self.path).st_mode) == kind
        except FileNotFoundError:
            return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The `os.stat_result`, asked for now."""
        return self._stat(self.path, follow_symlinks=follow_symlinks)

    def __fspath__(self) -> str | bytes:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"


class Listing:
    """The iterator and context manager that `os.scandir` returns."""

    def __init__(self, entries: list[DirEntry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[DirEntry]:
        return self

    def __next__(self) -> DirEntry:
        return next(self._entries)

    def close(self) -> None:
        """Nothing more to list."""
        self._entries = iter(())

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileLockWait:
    """A thread waits for a flock or lockf lock."""

    def __init__(self, context: Context, waiter: Waiter) -> None:
        self._context = context
        self._waiter = waiter

    def describe(self) -> str:
        """Kind of lock and path."""
        waiter = self._waiter
        kind = "flock" if waiter.opened is not None else "lockf"
        machine = self._context.machine
        path = next((path for path, inode in machine.walk() if inode is waiter.inode), "a removed file")
        return f"{kind} on {path!r}"

    def holders(self) -> list[Task]:
        """The threads of the processes that hold the lock."""
        executor = self._context.executor
        inode = self._waiter.inode
        owners: list[Process] = [held.opener for held in inode.flocks] + [held.owner for held in inode.record_locks]
        if executor is None:
            return []
        return [task for task in executor.tasks if task.member.process in owners and not task.done]

    def copied(self, waiters: Mapping[Waiter, Waiter]) -> FileLockWait:
        """The wait for the lock that is in its place."""
        return FileLockWait(self._context, waiters[self._waiter])


def wait_for_lock(context: Context, waiter: Waiter, key: str) -> None:
    """Block the running thread until the kernel has granted it the lock."""
    executor, _ = context.running()
    waiter.task = executor.current
    executor.block(FileLockWait(context, waiter))
    context.machine.touch((key, waiter.inode.serial), WRITE)


class _Calls:
    """The simulated calls of one image, as CPython's `posix` and `fcntl` have them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # Arguments

    def _path(self, path: object) -> object:
        kind = type(path)
        if kind is str or kind is bytes:
            return path
        return os.fspath(path)  # type: ignore[call-overload]

    def _at(self, dir_fd: int | None) -> Inode | None:
        if dir_fd is None:
            return None
        context = self._context
        return context.machine.directory_of(context.machine.opened(context.process, dir_fd))

    def _inode(self, path: object, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> tuple[Inode, object]:
        """The inode of a path or descriptor, and what to show in an error."""
        context = self._context
        if isinstance(path, int):
            return context.machine.opened(context.process, path).inode, path
        path = self._path(path)
        at = None if dir_fd is None else self._at(dir_fd)
        return context.machine.existing(context.process, path, at=at, follow=follow_symlinks), path

    # Files by name

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        context = self._context
        at = None if dir_fd is None else self._at(dir_fd)
        return context.machine.open(context.process, self._path(path), flags, mode, at=at)

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> StatFields:
        if dir_fd is not None or isinstance(path, int):
            return self._look_at(self._inode(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)[0])
        context = self._context
        return self._look_at(context.machine.existing(context.process, self._path(path), follow=follow_symlinks))

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> StatFields:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def fstat(self, fd: int) -> StatFields:
        context = self._context
        return self._look_at(context.machine.opened(context.process, fd).inode)

    def _look_at(self, inode: Inode) -> StatFields:
        machine = self._context.machine
        if machine.footprint is not None:
            machine.touch(("inode", inode.serial), READ)
            if inode.kind == DIRECTORY:
                # Its stamps and its links change with the names in it.
                machine.touch(("entries", inode.serial), READ)
        return stat_fields(inode)

    def rename(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        context = self._context
        context.machine.rename(
            context.process, self._path(src), self._path(dst), source_at=self._at(src_dir_fd), at=self._at(dst_dir_fd)
        )

    def link(
        self,
        src: Any,
        dst: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        context = self._context
        # CPython calls link(2), which does not follow, unless one of the descriptors is given.
        follows = follow_symlinks and (src_dir_fd is not None or dst_dir_fd is not None)
        context.machine.link(
            context.process,
            self._path(src),
            self._path(dst),
            source_at=self._at(src_dir_fd),
            at=self._at(dst_dir_fd),
            follow=follows,
        )

    def symlink(self, src: Any, dst: Any, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
        context = self._context
        context.machine.symlink(context.process, self._path(src), self._path(dst), at=self._at(dir_fd))

    def readlink(self, path: Any, *, dir_fd: int | None = None) -> str | bytes:
        context = self._context
        path = self._path(path)
        target = context.machine.readlink(context.process, path, at=self._at(dir_fd))
        return os.fsencode(target) if isinstance(path, bytes) else target

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        context = self._context
        context.machine.unlink(context.process, self._path(path), at=self._at(dir_fd))

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        context = self._context
        context.machine.mkdir(context.process, self._path(path), mode, at=self._at(dir_fd))

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        context = self._context
        context.machine.rmdir(context.process, self._path(path), at=self._at(dir_fd))

    def listdir(self, path: Any = ".") -> tuple[str | bytes, ...]:
        inode, shown = self._inode("." if path is None else path)
        context = self._context
        names = context.machine.names_in(context.process, inode, shown=shown)
        return tuple(os.fsencode(name) for name in names) if isinstance(shown, bytes) else tuple(names)

    def access(
        self,
        path: Any,
        mode: int,
        *,
        dir_fd: int | None = None,
        effective_ids: bool = False,
        follow_symlinks: bool = True,
    ) -> bool:
        context = self._context
        return context.machine.access(
            context.process, self._path(path), mode, at=self._at(dir_fd), follow=follow_symlinks
        )

    def chmod(self, path: Any, mode: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        inode, shown = self._inode(path, dir_fd=dir_fd)
        if not follow_symlinks:
            raise NotImplementedError("chmod: follow_symlinks unavailable on this platform")
        self._context.machine.chmod(self._context.process, inode, mode, shown=shown)

    def chown(self, path: Any, uid: int, gid: int, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        inode, shown = self._inode(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        self._context.machine.chown(self._context.process, inode, uid, gid, shown=shown)

    def lchown(self, path: Any, uid: int, gid: int) -> None:
        self.chown(path, uid, gid, follow_symlinks=False)

    def utime(
        self,
        path: Any,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        if times is not None and ns is not None:
            raise ValueError("utime: you may specify either 'times' or 'ns' but not both")
        if times is not None:
            ns = (round(times[0] * 1e9), round(times[1] * 1e9))
        inode, shown = self._inode(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        self._context.machine.set_times(self._context.process, inode, ns, shown=shown)

    def truncate(self, path: Any, length: int) -> None:
        context = self._context
        if isinstance(path, int):
            context.machine.truncate_open(context.process, path, length)
        else:
            context.machine.truncate_path(context.process, self._path(path), length)

    def statvfs(self, path: Any) -> os.statvfs_result:
        self._inode(path)
        machine = self._context.machine
        room = machine.parameters.disk_bytes
        machine.touch(ROOM, READ)
        total = (1 << 40 if room is None else room) // BLOCK_BYTES
        free = total if room is None else (room - machine.used_bytes) // BLOCK_BYTES
        return os.statvfs_result((BLOCK_BYTES, BLOCK_BYTES, total, free, free, 1 << 20, 1 << 19, 1 << 19, 0, 255))

    def listxattr(self, path: Any = None, *, follow_symlinks: bool = True) -> list[str]:
        self._inode("." if path is None else path, follow_symlinks=follow_symlinks)
        return []

    def getxattr(self, path: Any, attribute: Any, *, follow_symlinks: bool = True) -> bytes:
        _, shown = self._inode(path, follow_symlinks=follow_symlinks)
        fail(errno.ENODATA, shown)

    def setxattr(
        self, path: Any, attribute: Any, value: bytes, flags: int = 0, *, follow_symlinks: bool = True
    ) -> None:
        _, shown = self._inode(path, follow_symlinks=follow_symlinks)
        fail(errno.ENOTSUP, shown)

    def chdir(self, path: Any) -> None:
        inode, shown = self._inode(path)
        if inode.kind != DIRECTORY:
            fail(errno.ENOTDIR, shown)
        if not self._context.machine.may(self._context.process, inode, 1):
            fail(errno.EACCES, shown)
        self._context.process.cwd = inode

    def getcwd(self) -> str:
        return self._context.machine.path_of(self._context.process.cwd)

    def getcwdb(self) -> bytes:
        return os.fsencode(self.getcwd())

    # Descriptors

    def close(self, fd: int) -> None:
        self._context.machine.close(self._context.process, fd)

    def closerange(self, fd_low: int, fd_high: int, /) -> None:
        for descriptor in [fd for fd in self._context.process.descriptors if fd_low <= fd < fd_high]:
            self.close(descriptor)

    def read(self, fd: int, length: int, /) -> bytes:
        return self._context.machine.read(self._context.process, fd, length)

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        return self._context.machine.read(self._context.process, fd, length, offset=offset)

    def write(self, fd: int, data: Any, /) -> int:
        content = data if type(data) is bytes else memoryview(data).tobytes()
        return self._context.machine.write(self._context.process, fd, content)

    def pwrite(self, fd: int, data: Any, offset: int, /) -> int:
        return self._context.machine.write(self._context.process, fd, bytes(data), offset=offset)

    def readv(self, fd: int, buffers: Any, /) -> int:
        content = self.read(fd, sum(memoryview(buffer).nbytes for buffer in buffers))
        taken = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            part = content[taken : taken + view.nbytes]
            view[: len(part)] = part
            taken += len(part)
        return taken

    def writev(self, fd: int, buffers: Any, /) -> int:
        return self.write(fd, b"".join(bytes(buffer) for buffer in buffers))

    def lseek(self, fd: int, position: int, how: int, /) -> int:
        return self._context.machine.seek(self._context.process, fd, position, how)

    def ftruncate(self, fd: int, length: int, /) -> None:
        self._context.machine.truncate_open(self._context.process, fd, length)

    def fsync(self, fd: Any) -> None:
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        self._context.machine.sync(self._context.process, descriptor)

    def fdatasync(self, fd: Any) -> None:
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        self._context.machine.sync(self._context.process, descriptor, content_only=True)

    def fchmod(self, fd: int, mode: int) -> None:
        self.chmod(fd, mode)

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        self.chown(fd, uid, gid)

    def dup(self, fd: int, /) -> int:
        return self._context.machine.duplicate(self._context.process, fd)

    def dup2(self, fd: int, fd2: int, inheritable: bool = True) -> int:
        return self._context.machine.duplicate(self._context.process, fd, onto=fd2)

    def isatty(self, fd: int, /) -> bool:
        return False

    def get_inheritable(self, fd: int, /) -> bool:
        self._context.machine.opened(self._context.process, fd)
        return fd in self._context.process.inheritable

    def set_inheritable(self, fd: int, inheritable: int, /) -> None:
        self._context.machine.opened(self._context.process, fd)
        (self._context.process.inheritable.add if inheritable else self._context.process.inheritable.discard)(fd)

    def get_blocking(self, fd: int, /) -> bool:
        return self._context.machine.status_flags(self._context.process, fd) & os.O_NONBLOCK == 0

    def set_blocking(self, fd: int, blocking: bool, /) -> None:
        flags = self._context.machine.status_flags(self._context.process, fd)
        flags = flags & ~os.O_NONBLOCK if blocking else flags | os.O_NONBLOCK
        self._context.machine.status_flags(self._context.process, fd, flags)

    def posix_fallocate(self, fd: int, offset: int, length: int, /) -> None:
        self._context.machine.allocate(self._context.process, fd, offset, length)

    def sendfile(self, out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
        machine, process = self._context.machine, self._context.process
        return machine.write(process, out_fd, machine.read(process, in_fd, count, offset=offset))

    def copy_file_range(
        self, src: int, dst: int, count: int, offset_src: int | None = None, offset_dst: int | None = None
    ) -> int:
        machine, process = self._context.machine, self._context.process
        content = machine.read(process, src, count, offset=offset_src)
        return machine.write(process, dst, content, offset=offset_dst)

    # The process

    def getpid(self) -> int:
        return self._context.process.pid

    def getppid(self) -> int:
        return self._context.process.ppid

    def getuid(self) -> int:
        return self._context.process.uid

    def getgid(self) -> int:
        return self._context.process.gid

    def getgroups(self) -> tuple[int, ...]:
        return (self._context.process.gid,)

    def getlogin(self) -> str:
        return "simulated"

    def umask(self, mask: int, /) -> int:
        process = self._context.process
        before, process.umask = process.umask, mask & 0o777
        return before

    def urandom(self, size: int, /) -> bytes:
        context = self._context
        process = context.process
        process.random_drawn += 1
        # The process's number keeps processes apart; the count keeps draws apart; the seed is the machine's.
        origin = f"{context.machine.parameters.seed} {process.index} {process.random_drawn}".encode()
        return hashlib.shake_128(origin).digest(size)

    def getrandom(self, size: int, flags: int = 0) -> bytes:
        return self.urandom(size)

    def getloadavg(self) -> tuple[float, float, float]:
        return (0.0, 0.0, 0.0)

    def sched_yield(self) -> None:
        """The scheduling point is all there is to it."""

    def sched_getaffinity(self, pid: int, /) -> set[int]:
        return {0}

    def putenv(self, name: bytes, value: bytes, /) -> None:
        """`os.environ` keeps the environment; a simulated process starts no other."""

    def unsetenv(self, name: bytes, /) -> None:
        """See `putenv`."""

    def register_at_fork(self, **callbacks: object) -> None:
        """A simulated process never forks."""

    def kill(self, pid: int, signal: int, /) -> None:
        context = self._context
        context.machine.touch(("process", pid), WRITE if signal else READ)
        executor, own = context.running()
        for member in executor.members:
            if member.process.pid == pid and not member.ended:
                if signal == 0:
                    return
                if signal != 9:
                    refusing(context, f"kill(pid, {signal})")()
                executor.kill(member)
                if member is own:
                    assert executor.current is not None
                    executor.leave_if_dead(executor.current)
                return
        fail(errno.ESRCH)

    def end_at_once(self, status: int, /) -> NoReturn:
        executor, member = self._context.running()
        executor.end_process(member)
        assert executor.current is not None
        executor.leave_if_dead(executor.current)
        raise AssertionError("an ended process goes on")

    # Locks

    def flock(self, fd: Any, operation: int, /) -> None:
        context = self._context
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        waiter = context.machine.flock(context.process, descriptor, operation)
        if waiter is not None:
            wait_for_lock(context, waiter, "flock")

    def lockf(self, fd: Any, cmd: int, len: int = 0, start: int = 0, whence: int = 0, /) -> None:
        context = self._context
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        operation = _lockf_operation(cmd)
        machine, process = context.machine, context.process
        if whence == os.SEEK_CUR:
            start += machine.opened(process, descriptor).position
        elif whence == os.SEEK_END:
            start += machine.opened(process, descriptor).inode.size()
        waiter = machine.record_lock(process, descriptor, operation, start=start, size=len)
        if waiter is not None:
            wait_for_lock(context, waiter, "lockf")

    def fcntl(self, fd: Any, cmd: int, arg: Any = 0, /) -> int:
        context = self._context
        machine, process = context.machine, context.process
        descriptor = fd if isinstance(fd, int) else fd.fileno()
        if cmd == real_fcntl.F_GETFD:
            return 0 if self.get_inheritable(descriptor) else real_fcntl.FD_CLOEXEC
        if cmd == real_fcntl.F_SETFD:
            self.set_inheritable(descriptor, not arg & real_fcntl.FD_CLOEXEC)
            return 0
        if cmd == real_fcntl.F_GETFL:
            return machine.status_flags(process, descriptor)
        if cmd == real_fcntl.F_SETFL:
            machine.status_flags(process, descriptor, arg)
            return 0
        if cmd in (real_fcntl.F_DUPFD, real_fcntl.F_DUPFD_CLOEXEC):
            return machine.duplicate(process, descriptor, start=arg)
        return refusing(context, f"fcntl(fd, {cmd})")()


def _lockf_operation(cmd: int) -> int:
    """What CPython's `fcntl.lockf` makes of its argument: LOCK_UN must stand alone, and LOCK_SH goes before LOCK_EX."""
    if cmd == LOCK_UN:
        return LOCK_UN
    for kind in (LOCK_SH, LOCK_EX):
        if cmd & kind:
            return kind | cmd & LOCK_NB
    raise ValueError("unrecognized lockf argument")


NOTICED: Final = (
    "open", "stat", "lstat", "rename", "link", "symlink", "readlink", "unlink", "mkdir", "rmdir", "listdir", "access",
    "chmod", "chown", "lchown", "utime", "truncate", "statvfs", "listxattr", "getxattr", "setxattr", "chdir", "kill",
    "sendfile", "copy_file_range", "closerange", "sched_yield",
)  # fmt: skip
ON_CONTENT: Final = (
    "fstat", "read", "pread", "readv", "write", "pwrite", "writev", "ftruncate", "fchmod", "fchown", "posix_fallocate",
)  # fmt: skip
UNNOTICED: Final = (
    "fsync", "fdatasync", "lseek", "dup", "dup2", "isatty", "get_inheritable", "set_inheritable", "get_blocking",
    "set_blocking", "getpid", "getppid", "getuid", "getgid", "getgroups", "getlogin", "umask", "urandom", "getrandom",
    "getcwd", "getcwdb",
)  # fmt: skip
DECODED: Final[dict[str, Callable[[Any], object]]] = {
    "stat": stat_result, "lstat": stat_result, "fstat": stat_result, "listdir": list, "getgroups": list,
}  # fmt: skip
"""What the code gets of what the call returns, where that is not the same."""

INTO_ARGUMENTS: Final = ("readv",)
"""Calls whose answer is written into an argument."""

SILENT: Final = ("getloadavg", "sched_getaffinity", "putenv", "unsetenv", "register_at_fork")


def build_posix(context: Context, calls: _Calls) -> ModuleType:
    """The `posix` module of one image."""
    module = ModuleType("posix", real_posix.__doc__)
    space = module.__dict__
    for name, value in vars(real_posix).items():
        if name.startswith("__"):
            continue
        if not callable(value) or name in HARMLESS or isinstance(value, type):
            space[name] = value
        else:
            space[name] = refusing(context, f"os.{name}")
    for name in NOTICED:
        space[name] = noticed(context, name, getattr(calls, name), decode=DECODED.get(name))
    for name in ON_CONTENT:
        space[name] = noticed_if_shared(
            context,
            name,
            getattr(calls, name),
            content_is_shared,
            decode=DECODED.get(name),
            remembered=name not in INTO_ARGUMENTS,
        )
    for name in UNNOTICED:
        space[name] = unnoticed(context, name, getattr(calls, name), decode=DECODED.get(name))
    for name in SILENT:
        space[name] = getattr(calls, name)
    space["close"] = noticed_if_shared(context, "close", calls.close, close_is_noticed)
    space["replace"] = noticed(context, "replace", calls.rename)
    space["remove"] = noticed(context, "remove", calls.unlink)
    space["_exit"] = noticed(context, "_exit", calls.end_at_once)
    space["geteuid"], space["getegid"] = space["getuid"], space["getgid"]
    space["scandir"] = _scandir(context, calls, space["stat"])
    space["environ"] = context.environment
    space["_have_functions"] = list(getattr(real_posix, "_have_functions", []))
    for name in ("preadv", "pwritev", "fchdir", "pipe", "pipe2", "eventfd", "memfd_create"):
        if name in space:
            space[name] = refusing(context, f"os.{name}")
    as_built_in(space)
    return module


Listed = tuple["str | bytes | int", tuple[tuple[str, int, int], ...]]


def _scandir(context: Context, calls: _Calls, stat: Callable[..., os.stat_result]) -> Callable[..., Listing]:
    def scandir(path: Any = None) -> Listed:
        inode, shown = calls._inode("." if path is None else path)
        names = context.machine.names_in(context.process, inode, shown=shown)
        children = [(name, inode.entries[name]) for name in names]
        where = shown if isinstance(shown, bytes | int) else str(shown)
        return where, tuple((name, child.kind, child.number) for name, child in children)

    def listing(listed: Listed) -> Listing:
        where, found = listed
        # Entries of an open directory are looked up in it, wherever the process has moved meanwhile.
        look = functools.partial(stat, dir_fd=where) if isinstance(where, int) else stat
        entries = []
        for name, kind, number in found:
            if isinstance(where, bytes):
                encoded = os.fsencode(name)
                path = os.path.join(where, encoded)
                entries.append(DirEntry(name=encoded, path=path, kind=kind, number=number, stat=look))
            else:
                whole = name if isinstance(where, int) else os.path.join(where, name)
                entries.append(DirEntry(name=name, path=whole, kind=kind, number=number, stat=look))
        return Listing(entries)

    return noticed(context, "scandir", scandir, decode=listing)


def build_fcntl(context: Context, calls: _Calls) -> ModuleType:
    """The `fcntl` module of one image."""
    module = ModuleType("fcntl", real_fcntl.__doc__)
    for name, value in vars(real_fcntl).items():
        if not name.startswith("__") and not callable(value):
            module.__dict__[name] = value
    module.__dict__["flock"] = noticed(context, "flock", calls.flock)
    module.__dict__["lockf"] = noticed(context, "lockf", calls.lockf)
    module.__dict__["fcntl"] = unnoticed(context, "fcntl", calls.fcntl)
    module.__dict__["ioctl"] = _no_ioctl
    as_built_in(module.__dict__)
    return module


def _no_ioctl(fd: object, request: int, *_: object) -> NoReturn:
    """As on a file system without any: callers fall back to plain calls."""
    fail(errno.ENOTTY)


def build_calls(context: Context) -> _Calls:
    """The simulated calls of one image."""
    return _Calls(context)


__all__ = ["HARMLESS", "NotSimulated", "build_calls", "build_fcntl", "build_posix", "refusing"]
assert (LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN) == (
    real_fcntl.LOCK_SH,
    real_fcntl.LOCK_EX,
    real_fcntl.LOCK_NB,
    real_fcntl.LOCK_UN,
), "storecheck.machine uses Linux's numbers for flock"
