"""The store file on disk: reading it whole, telling its versions apart, replacing it durably.

Only ordinary `os` calls. A version is published by writing a temporary file in the same directory, syncing it,
renaming it over the store file and syncing the directory, in this order (Pillai et al., "All File Systems Are Not
Created Equal", OSDI 2014, shows what each missing step costs). There is no fallback that writes in place: when a
rename is impossible the error is raised and the old content stays.

Nothing here takes the lock; `publish`, `copy_aside` and `sweep_temporary_files` must be called by its holder.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import operator
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sessionstore.content import CHUNK_BYTES, Content
from sessionstore.digest import ContentDigest
from sessionstore.errors import ConflictError, StoreError, UnknownOutcomeError

RACY_WINDOW_NS = 20_000_000
"""Two ticks of a kernel whose clock for time stamps runs at 100 Hz. A younger file may change again without any
change of its stamps (the "racy git" problem), so its stat identity proves nothing yet."""

_COARSE_WINDOWS_NS = ((1_000_000_000, 4_000_000_000), (10_000_000, 200_000_000))
"""(multiple, extra window): stamps that are whole seconds come from a file system that keeps 1 s or 2 s (FAT, HFS+),
whole hundredths perhaps from one that keeps 10 ms to 100 ms. Two of its ticks are added. Fine stamps look like that
by chance once in ten million times, which costs a read and nothing else."""

_COMPARED_CHUNKS = 8  # read at a time when comparing; with the file's pages they still fit a processor's cache

MAX_UNSTABLE_READS = 16  # attempts to read a file that a program keeps rewriting in place
_RENAME_ATTEMPTS = 20  # on Windows a rename fails while a reader has the file open, which takes milliseconds
_WINDOWS_RETRY_S = 0.01
_WINDOWS_SHARING_ERRORS = (5, 32)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION

# O_NONBLOCK: opening a FIFO that someone put in the file's place must not hang. Without effect on regular files.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_CREATE_FLAGS = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)
_HAS_DIRECTORY_SYNC = sys.platform != "win32"


@dataclass(frozen=True, slots=True)
class Identity:
    """What `stat` says of one version of a file.

    Two reads with equal identities saw the same bytes only if `is_settled` held before the first of them: stamps are
    as coarse as the kernel's tick, and inode numbers come back. Not a content hash.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity that `status` shows."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now_ns: int) -> bool:
        """Whether no later write can leave these stamps, given the wall clock from before the file was opened."""
        return max(_settled_from_ns(self.mtime_ns), _settled_from_ns(self.ctime_ns)) <= now_ns


def _settled_from_ns(stamp_ns: int) -> int:
    for multiple_ns, window_ns in _COARSE_WINDOWS_NS:
        if stamp_ns % multiple_ns == 0:
            return stamp_ns + window_ns + RACY_WINDOW_NS
    return stamp_ns + RACY_WINDOW_NS


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What is known, besides its bytes, of a version of the file that was read whole.

    Attributes:
        identity: its identity when it was read.
        settled: whether that identity can stand for the bytes from now on.
        mode: permission bits.
        owner, group: numeric ids.
    """

    identity: Identity
    settled: bool
    mode: int
    owner: int
    group: int

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.identity.size_bytes


def require_regular(path: str, status: os.stat_result) -> None:
    """Raise `StoreError` for what is no regular file: the store could not replace it."""
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: not a regular file. Give the path of a file that the store may replace.")


class OpenFile:
    """The store file, open for reading; keeps that version's inode alive until closed."""

    __slots__ = ("_descriptor", "_opened_ns", "path", "status")

    def __init__(self, path: str) -> None:
        """Open `path`.

        Raises:
            FileNotFoundError: there is no file.
            StoreError: it is not a regular file.
            OSError: anything else that the system reports.
        """
        self.path = path
        self._opened_ns = time.time_ns()
        self._descriptor: int | None = os.open(path, _READ_FLAGS)
        try:
            self.status = os.fstat(self._descriptor)
            require_regular(path, self.status)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close; doing it twice is fine."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # Open for reading only: an error says nothing about what was read, and must not hide what was written.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def descriptor(self) -> int:
        """The open descriptor."""
        if self._descriptor is None:
            raise ValueError(f"{self.path}: used after close")
        return self._descriptor

    def identity(self) -> Identity:
        """Identity now."""
        self.status = os.fstat(self.descriptor)
        return Identity.of(self.status)

    def _version(self, identity: Identity) -> FileVersion:
        status = self.status
        return FileVersion(
            identity,
            identity.is_settled(self._opened_ns),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
        )

    def read(self) -> tuple[Content, FileVersion]:
        """The whole content as it was at one instant.

        A program that writes in place can change the bytes under the reader. A read counts only if the identity was
        the same before and after; while the stamps are too young to show a change, only if a second read returns the
        same bytes.

        Raises:
            StoreError: the file kept changing for `MAX_UNSTABLE_READS` reads.
            OSError: what the system reports.
        """
        identity = self.identity()
        previous: Content | None = None
        for _ in range(MAX_UNSTABLE_READS):
            content = self._read_once(identity.size_bytes)
            after = self.identity()
            if after == identity and content.size_bytes == identity.size_bytes:
                if identity.is_settled(self._opened_ns) or (previous is not None and content.is_same(previous)):
                    return content, self._version(identity)
                previous = content
            else:
                previous = None
                self._opened_ns = time.time_ns()
            identity = after
        raise StoreError(
            f"{self.path}: changed during each of {MAX_UNSTABLE_READS} reads. Stop the program that rewrites it."
        )

    def _read_once(self, size_bytes: int) -> Content:
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        chunks: list[bytes] = []
        # One byte more than expected, so that a file that grew is noticed.
        rest = size_bytes + 1
        while rest:
            chunk = os.read(self.descriptor, min(CHUNK_BYTES, rest))
            if not chunk:
                break
            chunks.append(chunk)
            rest -= len(chunk)
            if rest == 1 and len(chunk) < CHUNK_BYTES:
                break  # all that was expected, and less than asked for: the end
        return Content(chunks)

    def slice(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`; shorter only if the file is."""
        os.lseek(self.descriptor, start, os.SEEK_SET)
        return os.read(self.descriptor, end - start)

    def holds(self, content: Content) -> FileVersion | None:
        """This version if its bytes are `content`, else None; compares without keeping a second copy."""
        identity = self.identity()
        if identity.size_bytes != content.size_bytes:
            return None
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        if not self._goes_on_with(content.chunks):
            return None
        # Changed during the comparison: whether it was ever equal as a whole is unknown, so the answer is no.
        return self._version(identity) if self.identity() == identity else None

    def read_if(self, digest: ContentDigest) -> tuple[Content, FileVersion] | None:
        """The content, in the chunks of `digest`, if it is what that is the digest of; else None."""
        identity = self.identity()
        if identity.size_bytes != digest.size_bytes:
            return None
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        content = Content(os.read(self.descriptor, length) for length, _ in digest.segments)
        is_same = ContentDigest.of(content) == digest and self.identity() == identity
        return (content, self._version(identity)) if is_same else None

    def _goes_on_with(self, chunks: Sequence[bytes]) -> bool:
        """Whether the next bytes are these. False also if the system returned less than it could: costs only work."""
        if len(chunks) == 1 or sys.platform == "win32":
            return all(os.read(self.descriptor, len(chunk)) == chunk for chunk in chunks)
        # Several chunks a call, into the same memory again and again: takes a quarter less than a call for each.
        memory = [bytearray() for _ in range(_COMPARED_CHUNKS)]
        for first in range(0, len(chunks), _COMPARED_CHUNKS):
            expected = chunks[first : first + _COMPARED_CHUNKS]
            memory = [
                old if len(old) == len(chunk) else bytearray(len(chunk))
                for old, chunk in zip(memory, expected, strict=False)
            ]
            # A short read would leave earlier bytes in the memory, which may be the expected ones.
            if os.readv(self.descriptor, memory) != sum(map(len, expected)) or any(map(operator.ne, memory, expected)):
                return False
        return True


def resolve(path: str) -> str:
    """The one name of the file that all its aliases share: absolute, symbolic links followed, also the last one.

    Works alike before and after the file exists. Raises `OSError` (ELOOP) for a circle of links.
    """
    resolved = os.path.realpath(path)
    if os.path.islink(resolved):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return resolved


def stat_identity(path: str) -> Identity | None:
    """Identity of the file at `path` now, or None if there is none."""
    try:
        return Identity.of(os.stat(path))
    except FileNotFoundError:
        return None


def make_parents(path: str) -> None:
    """Create the missing directories above `path`. `publish` makes them durable before the file is there."""
    missing: list[str] = []
    directory = os.path.dirname(path)
    while not os.path.isdir(directory):
        missing.append(directory)
        parent = os.path.dirname(directory)
        if parent == directory:
            break
        directory = parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)


def sync_ancestors(directory: str) -> None:
    """Make the names of `directory` and of all directories above it durable, as far as this file system goes.

    Whoever made them: another process may have been killed between making and syncing one.
    """
    device = os.stat(directory).st_dev
    while (parent := os.path.dirname(directory)) != directory and os.stat(parent).st_dev == device:
        # Syncing takes the right to read. Where a user has none, other programs made the directories.
        if os.access(parent, os.R_OK):
            sync_directory(parent)
        directory = parent


def sync_directory(directory: str) -> None:
    """Make the names in `directory` durable. A file system that cannot sync directories is accepted as it is."""
    if not _HAS_DIRECTORY_SYNC:
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # "Not supported here" is a property of the file system; EIO is a loss.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def temporary_prefix(path: str) -> str:
    """What the names of temporary files for `path` begin with."""
    return f".{os.path.basename(path)}.sessionstore-"


_TEMPORARY_SUFFIX = ".tmp"


def _temporary_name(path: str) -> str:
    unique = os.urandom(8).hex()
    return os.path.join(os.path.dirname(path), f"{temporary_prefix(path)}{unique}{_TEMPORARY_SUFFIX}")


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of the temporary files that killed writers left.

    Attributes:
        removed: how many are gone.
        kept: those that this user may not remove: another user's in a directory with the sticky bit.
    """

    removed: int
    kept: tuple[str, ...]


def sweep_temporary_files(path: str) -> Swept:
    """Remove what killed writers of `path` left behind.

    The caller holds the write lock. Temporary files exist only while it is held, so every one found now has no
    living owner. One that may not be removed is no reason to fail a write: it does no harm but to take room.
    """
    prefix = temporary_prefix(path)
    removed = 0
    kept: list[str] = []
    with os.scandir(os.path.dirname(path)) as entries:
        stray = [
            entry.path
            for entry in entries
            if entry.name.startswith(prefix)
            and entry.name.endswith(_TEMPORARY_SUFFIX)
            and entry.is_file(follow_symlinks=False)
        ]
    for name in stray:
        try:
            os.unlink(name)
            removed += 1
        except FileNotFoundError:  # noqa: PERF203 - hardly ever more than one
            pass
        except PermissionError:
            kept.append(name)
    return Swept(removed, tuple(kept))


@dataclass(frozen=True, slots=True)
class Replaced:
    """The file that the new version goes in the place of, for its mode and owner."""

    mode: int
    owner: int
    group: int


def require_writable(path: str) -> None:
    """Refuse a file that this process may not write, although a rename would not ask.

    Raises:
        PermissionError: as opening it for writing would.
    """
    # One that is gone is no one's to refuse: what comes next tells what that means.
    if not os.access(path, os.W_OK) and os.access(path, os.F_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def publish(
    path: str, content: Content, *, replaced: Replaced | None, unchanged: Callable[[], bool] | None
) -> Identity:
    """Replace what `path` holds by `content`, durably and at once for every reader; returns the new identity.

    The caller holds the write lock. A new file gets mode 0600; `replaced` gives its mode and owner on.

    Args:
        path: the resolved store file.
        content: the new bytes.
        replaced: mode and owner to keep, or None for a new file.
        unchanged: asked right before the rename whether the file is still what the new content was made from; None not
            to ask.

    Raises:
        ConflictError: it is not; nothing was written.
        UnknownOutcomeError: the new content is in place but the directory could not be synced.
        OSError: anything else; the file is as it was and no temporary file is left.
    """
    if replaced is None:
        # Before the file is there: a later writer that finds the file relies on its directories.
        sync_ancestors(os.path.dirname(path))
    temporary = _temporary_name(path)
    renamed = False
    try:
        descriptor = os.open(temporary, _CREATE_FLAGS, 0o600)
        try:
            if replaced is not None:
                _keep_mode_and_owner(descriptor, replaced)
            _write_all(descriptor, content.chunks)
            # Not retried: after a failed fsync the kernel drops the dirty state, and a second one would lie.
            os.fsync(descriptor)
            if unchanged is not None and not unchanged():
                raise ConflictError(path)
            _replace(temporary, path)
            renamed = True
            # From the descriptor: by name it could already be a later version. The rename changed its ctime.
            identity = Identity.of(os.fstat(descriptor))
        finally:
            _close(descriptor, quiet=renamed)
        sync_directory(os.path.dirname(path))
        return identity
    except OSError as error:
        if renamed:
            raise UnknownOutcomeError(path, error) from error
        raise
    finally:
        if not renamed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _close(descriptor: int, *, quiet: bool) -> None:
    # Before the rename a failing close (quota, network) is a failed write. After it, and after fsync, it is nothing.
    with contextlib.suppress(OSError) if quiet else contextlib.nullcontext():
        os.close(descriptor)


def _keep_mode_and_owner(descriptor: int, replaced: Replaced) -> None:
    if sys.platform == "win32":
        return
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (replaced.owner, replaced.group):
        try:
            os.fchown(descriptor, replaced.owner, replaced.group)
        except PermissionError:
            # Only root gives files away. The group alone can be kept by its members.
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, -1, replaced.group)
    # After chown, which clears set-id bits.
    if stat.S_IMODE(status.st_mode) != replaced.mode:
        os.fchmod(descriptor, replaced.mode)


_MAX_VECTOR = 1024  # IOV_MAX of Linux; POSIX promises 16


def _write_all(descriptor: int, chunks: Sequence[bytes]) -> None:
    """Write all chunks. Many in one call: a call for each takes twice as long."""
    rest: collections.deque[bytes | memoryview] = collections.deque(chunks)
    while rest:
        written = _write_some(descriptor, list(itertools.islice(rest, _MAX_VECTOR)))
        if written == 0 and any(rest):
            raise OSError(errno.EIO, "the system wrote 0 bytes without an error")
        while rest and written >= len(rest[0]):
            written -= len(rest.popleft())
        if written:
            rest[0] = memoryview(rest[0])[written:]


def _write_some(descriptor: int, chunks: list[bytes | memoryview]) -> int:
    if len(chunks) == 1 or sys.platform == "win32":
        return os.write(descriptor, chunks[0])
    return os.writev(descriptor, chunks)


def _replace(temporary: str, path: str) -> None:
    for attempt in range(_RENAME_ATTEMPTS):
        try:
            os.replace(temporary, path)
            return
        except PermissionError as error:  # noqa: PERF203 - one attempt, but for Windows
            # Only Windows sets `winerror`.
            shared = getattr(error, "winerror", None) in _WINDOWS_SHARING_ERRORS
            if not shared or attempt == _RENAME_ATTEMPTS - 1:
                raise
            time.sleep(_WINDOWS_RETRY_S)


def copy_aside(path: str, raw: bytes, *, suffix: str, mode: int) -> str:
    """Write `raw` durably to a new file named `path` + `suffix`, numbered if taken; returns its name.

    The name appears with whole content or not at all, and an existing file is never overwritten.
    """
    temporary = _temporary_name(path)
    try:
        descriptor = os.open(temporary, _CREATE_FLAGS, 0o600)
        try:
            if sys.platform != "win32":
                os.fchmod(descriptor, mode)
            _write_all(descriptor, (raw,))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        name = _give_free_name(temporary, path + suffix)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_directory(os.path.dirname(path))
    return name


_MAX_SAME_NAMES = 1000
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # exFAT, some FUSE systems


def _give_free_name(temporary: str, wanted: str) -> str:
    for name in _candidates(wanted):
        try:
            _give_name(temporary, name)
            return name
        except FileExistsError:  # noqa: PERF203 - almost always one attempt
            continue
    raise FileExistsError(errno.EEXIST, f"{_MAX_SAME_NAMES} files of this name exist; remove some", wanted)


def _give_name(temporary: str, name: str) -> None:
    """Let the file appear under `name`, whole, unless there is one of that name (`FileExistsError`)."""
    try:
        os.link(temporary, name)
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    # A rename would replace a file of that name, so it is looked for; whoever else makes such names waits for the lock.
    # An empty file of ours could take the name first, but a power cut would leave it there as a backup.
    try:
        os.lstat(name)
    except FileNotFoundError:
        os.replace(temporary, name)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _candidates(wanted: str) -> Iterator[str]:
    yield wanted
    for number in range(1, _MAX_SAME_NAMES):
        yield f"{wanted}-{number}"
