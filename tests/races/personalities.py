"""Simulated computers that are not like the one the tests run on."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from storecheck import Machine
from storecheck.machine import Inode, Process, Waiter
from storecheck.runner import Runner

ERROR_SHARING_VIOLATION = 32


class WindowsSharing(Machine):
    """As Windows does, refuses to replace a file that another process has open."""

    refusals = 0

    def rename(
        self,
        process: Process,
        source: object,
        path: object,
        *,
        source_at: Inode | None = None,
        at: Inode | None = None,
    ) -> None:
        """MoveFileEx, with the sharing modes that Python opens files with."""
        target = self.locate(process, self.text_of(path), shown=path, at=at)[2]  # type: ignore[arg-type]
        others = [other for other in self.processes if other is not process and other.alive]
        if any(opened.inode is target for other in others for opened in other.descriptors.values()):
            WindowsSharing.refusals += 1
            error = PermissionError(errno.EACCES, "The process cannot access the file", path)
            error.winerror = ERROR_SHARING_VIOLATION  # type: ignore[attr-defined,unused-ignore]
            raise error
        super().rename(process, source, path, source_at=source_at, at=at)


class HostLocalLocks(Machine):
    """Each process is on a host of its own, and `flock` is known to that host only (NFS with local_lock or nolock)."""

    def _host_locks(self) -> dict[tuple[int, int], Any]:
        found: dict[tuple[int, int], Any] = self.__dict__.setdefault("locks_of_hosts", {})
        return found

    @contextlib.contextmanager
    def _on_the_host_of(self, process: Process, inode: Inode) -> Iterator[None]:
        kept = inode.flocks, inode.flock_queue
        locks = self._host_locks()
        own = locks.setdefault((inode.serial, process.index), ([], type(inode.flock_queue)()))
        inode.flocks, inode.flock_queue = own
        try:
            yield
        finally:
            inode.flocks, inode.flock_queue = kept

    def flock(self, process: Process, descriptor: int, operation: int) -> Waiter | None:
        """flock(2)."""
        opened = self.opened(process, descriptor)
        with self._on_the_host_of(process, opened.inode):
            return super().flock(process, descriptor, operation)

    def unlock(self, opened: Any) -> None:
        """Give up the lock on the host that holds it."""
        if opened.flock and opened in opened.inode.flocks:
            super().unlock(opened)
            return
        with self._on_the_host_of(opened.opener, opened.inode):
            super().unlock(opened)


class OnWindows(Runner):
    """On a computer that refuses to replace open files."""

    machine_type = WindowsSharing


class OnTwoHosts(Runner):
    """On hosts that share files, not locks."""

    machine_type = HostLocalLocks
