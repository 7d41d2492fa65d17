"""Records what a real process does to a real directory, through the interception layer.

The same layer as for the simulated machine, the same events: behind the calls is a `RecordedDisk`, which makes each one
on real descriptors of a real directory (`storecheck.processes.disk`) and notes what it changed there. `record_real`
starts an interpreter of its own for that. Clocks, process ids and random bytes are dictated, so that a program does
the same as in the simulation, event by event; existence, content, modes and errors are the kernel's. For one process
at a time; `strace` is the second, independent source of such recordings.
"""

from __future__ import annotations

import importlib
import os
import pickle
import stat as stat_bits
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from storecheck.machine import MOUNT, Inode, MachineParameters, Process
from storecheck.machine.events import (
    AttributesChanged,
    Created,
    DiskEvent,
    Linked,
    Marked,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)
from storecheck.processes.disk import RealDisk

from .changes import SyncFailed
from .states import Recording
from .trees import Tree, scan

TIMEOUT_S: Final = 120
"""For one recorded program. Most take a second, nearly all of it the start of the interpreter."""

_FOLLOWS_NOT: Final = os.O_EXCL | os.O_NOFOLLOW


class RealRunError(RuntimeError):
    """The process that was to be recorded failed, or somebody else changed its directory meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What the child is for.

    Attributes:
        act: what it does, as `module:function`; called with the disk and the arguments.
        arguments: plain values that can be pickled.
        base: the real directory that stands for the root.
        parameters: of the machine; only what is dictated is used.
        marks: a file that gets a line per mark, for who watches from outside; or None.
    """

    act: str
    arguments: tuple[Any, ...]
    base: str
    parameters: MachineParameters
    marks: str | None


class RecordedDisk(RealDisk):
    """A real directory that notes each change which is made to it through this object.

    Args:
        parameters: of the machine; only what is dictated is used.
        base: the real directory that stands for the root; what is below the mount in it is the disk.
        marks: a descriptor to write each mark to, or None.
    """

    def __init__(self, parameters: MachineParameters, base: str, marks: int | None = None) -> None:
        super().__init__(parameters, base)
        self._marks = marks
        scanned = scan(Path(base + MOUNT))
        self.before = scanned.disk
        self._serials = {_identity(os.lstat(path)): serial for path, serial in scanned.serials.items()}
        self._last_serial = max(scanned.disk.inodes)

    # Events

    def _note(self, event: type[DiskEvent], process: Process, **details: Any) -> None:
        if self.trace is not None:
            self.trace.append(event(step=self.step, process=process.index, **details))

    def mark(self, process: Process, label: str) -> None:
        """Put a mark into the trace, and write it down for others."""
        if self._marks is not None:
            os.write(self._marks, f"{label}\n".encode())
        self._note(Marked, process, label=label)

    def _serial(self, status: os.stat_result, shown: object) -> int:
        serial = self._serials.get(_identity(status))
        if serial is None:
            raise RealRunError(f"{shown} is none of the files below the mount, or another process made it")
        return serial

    def _absolute(self, path: object, at: Any) -> str:
        real = self._real(path, at)
        return real if os.path.isabs(real) else os.path.join(at.path, real)

    def _place(self, real: str) -> tuple[int, str]:
        """The directory of a path, and the name in it."""
        directory, name = os.path.split(real.rstrip("/"))
        return self._serial(os.stat(directory), directory), name

    def _created(self, process: Process, real: str, kind: str, *, target: str = "") -> None:
        directory, name = self._place(real)
        status = os.lstat(real)
        self._last_serial += 1
        # The number may have been another file's: those who had it are gone.
        self._serials[_identity(status)] = self._last_serial
        self._note(
            Created,
            process,
            directory=directory,
            name=name,
            serial=self._last_serial,
            kind=kind,
            mode=stat_bits.S_IMODE(status.st_mode),
            target=target,
        )

    # Names

    def open(self, process: Process, path: object, flags: int, mode: int = 0o777, *, at: Inode | None = None) -> int:
        """open(2)."""
        real = self._absolute(path, at)
        if not flags & _FOLLOWS_NOT:
            real = os.path.realpath(real)
        exists = os.path.lexists(real)
        descriptor = super().open(process, path, flags, mode, at=at)
        if not exists:
            self._created(process, real, "file")
        elif flags & os.O_TRUNC:
            self._note(Truncated, process, serial=self._serial(self._status(process, descriptor), path), size=0)
        return descriptor

    def mkdir(self, process: Process, path: object, mode: int, *, at: Inode | None = None) -> None:
        """mkdir(2)."""
        super().mkdir(process, path, mode, at=at)
        self._created(process, self._absolute(path, at), "directory")

    def symlink(self, process: Process, target: object, path: object, *, at: Inode | None = None) -> None:
        """symlink(2)."""
        super().symlink(process, target, path, at=at)
        self._created(process, self._absolute(path, at), "symlink", target=self.text_of(target))

    def rename(
        self, process: Process, source: object, path: object, *, source_at: Inode | None = None, at: Inode | None = None
    ) -> None:
        """rename(2)."""
        old, new = self._absolute(source, source_at), self._absolute(path, at)
        replaced = os.lstat(new) if os.path.lexists(new) else None
        super().rename(process, source, path, source_at=source_at, at=at)
        status = os.lstat(new)
        if replaced is not None and _identity(status) == _identity(replaced):
            return  # two names of one file: rename(2) does nothing
        (from_directory, from_name), (directory, name) = self._place(old), self._place(new)
        self._note(
            Renamed,
            process,
            source=from_directory,
            source_name=from_name,
            directory=directory,
            name=name,
            serial=self._serial(status, path),
            replaced=None if replaced is None else self._serial(replaced, path),
        )

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
        super().link(process, source, path, source_at=source_at, at=at, follow=follow)
        real = self._absolute(path, at)
        directory, name = self._place(real)
        self._note(Linked, process, directory=directory, name=name, serial=self._serial(os.lstat(real), path))

    def unlink(self, process: Process, path: object, *, at: Inode | None = None) -> None:
        """unlink(2)."""
        with self._removing(process, path, at):
            super().unlink(process, path, at=at)

    def rmdir(self, process: Process, path: object, *, at: Inode | None = None) -> None:
        """rmdir(2)."""
        with self._removing(process, path, at):
            super().rmdir(process, path, at=at)

    @contextmanager
    def _removing(self, process: Process, path: object, at: Inode | None) -> Iterator[None]:
        real = self._absolute(path, at)
        status = os.lstat(real) if os.path.lexists(real) else None
        yield
        assert status is not None
        directory, name = self._place(real)
        self._note(Unlinked, process, directory=directory, name=name, serial=self._serial(status, path))

    # Content

    def _status(self, process: Process, descriptor: int) -> os.stat_result:
        return os.fstat(self.real_descriptor(process, descriptor))

    def write(self, process: Process, descriptor: int, content: bytes, *, offset: int | None = None) -> int:
        """write(2), pwrite(2)."""
        taken = super().write(process, descriptor, content, offset=offset)
        if taken:
            opened: Any = self.opened(process, descriptor)
            status = self._status(process, descriptor)
            if opened.flags & os.O_APPEND:
                offset = status.st_size - taken
            elif offset is None:
                offset = opened.position - taken
            serial = self._serial(status, opened.path)
            self._note(Written, process, serial=serial, offset=offset, content=content[:taken])
        return taken

    def truncate_path(self, process: Process, path: object, size: int) -> None:
        """truncate(2)."""
        super().truncate_path(process, path, size)
        self._note(Truncated, process, serial=self._serial(os.stat(self._real(path)), path), size=size)

    def truncate_open(self, process: Process, descriptor: int, size: int) -> None:
        """ftruncate(2)."""
        super().truncate_open(process, descriptor, size)
        serial = self._serial(self._status(process, descriptor), descriptor)
        self._note(Truncated, process, serial=serial, size=size)

    def allocate(self, process: Process, descriptor: int, offset: int, size: int) -> None:
        """posix_fallocate(3)."""
        before = self._status(process, descriptor).st_size
        super().allocate(process, descriptor, offset, size)
        status = self._status(process, descriptor)
        if status.st_size != before:
            self._note(Truncated, process, serial=self._serial(status, descriptor), size=status.st_size)

    def sync(self, process: Process, descriptor: int, *, content_only: bool = False) -> None:
        """fsync(2), fdatasync(2); one that fails is an event, too. Directories above the mount are no part of this."""
        status = self._status(process, descriptor)
        serial = self._serials.get(_identity(status))
        try:
            super().sync(process, descriptor, content_only=content_only)
        except OSError:
            if serial is not None:
                self._note(SyncFailed, process, serial=serial)
            raise
        if serial is not None:
            is_directory = stat_bits.S_ISDIR(status.st_mode)
            self._note(Synced, process, serial=serial, directory=is_directory, content_only=content_only)

    # Attributes

    def chmod(self, process: Process, inode: Inode, mode: int, *, shown: object = None) -> None:
        """chmod(2), fchmod(2)."""
        super().chmod(process, inode, mode, shown=shown)
        self._attributes_changed(process, inode)

    def chown(self, process: Process, inode: Inode, uid: int, gid: int, *, shown: object = None) -> None:
        """chown(2), fchown(2)."""
        super().chown(process, inode, uid, gid, shown=shown)
        self._attributes_changed(process, inode)

    def set_times(
        self, process: Process, inode: Inode, times_ns: tuple[int, int] | None, *, shown: object = None
    ) -> None:
        """utimensat(2)."""
        super().set_times(process, inode, times_ns, shown=shown)
        self._attributes_changed(process, inode)

    def _attributes_changed(self, process: Process, inode: Any) -> None:
        status = os.fstat(inode.descriptor) if inode.descriptor >= 0 else os.stat(inode.path)
        self._note(
            AttributesChanged,
            process,
            serial=self._serial(status, inode.path),
            mode=stat_bits.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
        )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def plant(tree: Tree, directory: Path) -> None:
    """Put a tree into a real directory: its content, modes and links. Owners only as root; others cannot."""
    for path, entry in tree.items():
        real = directory / path
        if entry.kind == "directory":
            real.mkdir()
        elif entry.kind == "symlink":
            real.symlink_to(entry.target)
        else:
            real.write_bytes(entry.content)
        if os.geteuid() == 0:
            os.chown(real, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind != "symlink":
            real.chmod(entry.mode)


def record_real(
    act: str,
    *arguments: Any,
    directory: Path,
    tree: Tree | None = None,
    parameters: MachineParameters | None = None,
    launcher: Sequence[str] = (),
    marks: Path | None = None,
) -> Recording:
    """Run a program in a real process on a real directory; what it did there.

    Args:
        act: what to run, as `module:function`. It is called with the `RecordedDisk` and the arguments, and runs
            processes on it as on a simulated machine (`SerialProcess.run`).
        arguments: plain values that can be pickled.
        directory: where the files go, below the name of the simulated mount; exists.
        tree: what is there before.
        parameters: of the machine; only what is dictated is used.
        launcher: a command that runs the interpreter, such as strace with its options.
        marks: a file that gets a line per mark.

    Raises:
        RealRunError: the program failed, or somebody else changed the directory.
    """
    mount = directory / MOUNT.strip("/")
    mount.mkdir()
    mount.chmod(0o755)
    plant(tree or {}, mount)
    errand = Errand(
        act=act,
        arguments=arguments,
        base=str(directory),
        parameters=parameters or MachineParameters(),
        marks=None if marks is None else str(marks),
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter; the launcher is the caller's
        [*launcher, sys.executable, "-c", "from storecheck.crash.real import serve; serve()"],
        input=pickle.dumps(errand),
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise RealRunError(f"{act} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
    recording: Recording = pickle.loads(done.stdout)  # noqa: S301 - from our own child
    return recording


def run(errand: Errand) -> Recording:
    """Do the errand in this process."""
    module, _, name = errand.act.partition(":")
    act: Callable[..., None] = getattr(importlib.import_module(module), name)
    os.umask(errand.parameters.umask)
    marks = None if errand.marks is None else os.open(errand.marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    disk = RecordedDisk(errand.parameters, errand.base, marks)
    disk.trace = []
    act(disk, *errand.arguments)
    return Recording(disk=disk.before, events=tuple(disk.trace), owner=(os.geteuid(), os.getegid()))


def serve() -> None:
    """The life of the child: an errand from standard input, its recording to standard output."""
    sys.stdout.buffer.write(pickle.dumps(run(pickle.load(sys.stdin.buffer))))  # noqa: S301 - from our parent
