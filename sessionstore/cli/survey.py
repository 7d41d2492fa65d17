"""What there is to know of a store without changing it: the file, its neighbours, the lock, the settings in force.

Takes no lock, writes nothing, and needs little memory: a file in this store's own layout is read and checked piece by
piece. Imports nothing but what that takes, because `status --json` has to start light. Not a diagnosis of damage: see
`repair.salvage`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass

import orjson

from sessionstore.encoding import MAX_DEPTH
from sessionstore.errors import CorruptStoreError, StoreError, command_for
from sessionstore.files import OpenFile, require_regular, resolve, temporary_prefix
from sessionstore.lock import LOCK_SUFFIX
from sessionstore.maintenance import backups
from sessionstore.settings import MisreadVariable, Settings, misread_variables
from sessionstore.snapshot import normalise_key, parse

FOREIGN_LOCK_SUFFIX = ".lock"
"""Of the lock file that the original system creates and unlinks. This store never touches it."""

CORRUPT_COPY_MARK = ".corrupt-"
"""Between a store file's name and the rest of the name of a copy that `doctor --repair` set aside."""

PIECE_BYTES = 64 * 1024
_BETWEEN_ENTRIES = b'\n  },\n  "'
_AFTER_ENTRY = len(b"\n  }")
_TOO_DEEP = b"\n" + b"  " * (MAX_DEPTH + 1)  # indentation of what is inside a container of the deepest level
_MAX_LOCKS_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Corruption:
    """The first thing that is wrong with the content: `offset` in bytes, and why."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Content:
    """What the file holds; `sessions` is None if it is corrupt."""

    size_bytes: int
    mode: int
    sessions: int | None
    corruption: Corruption | None


@dataclass(frozen=True, slots=True)
class LockState:
    """The write lock now.

    Attributes:
        path: the lock file.
        held: whether someone holds it; None where the system does not tell.
        holder_pid: who, if the system tells.
        holder_name: that process's name, if the system tells.
    """

    path: str
    held: bool | None
    holder_pid: int | None = None
    holder_name: str | None = None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Files next to the store file that belong to it, by full name; `foreign_locks` are the original system's."""

    temporary: tuple[str, ...] = ()
    backups: tuple[str, ...] = ()
    corrupt_copies: tuple[str, ...] = ()
    foreign_locks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """One store at one moment.

    Attributes:
        path: absolute, as given.
        resolved_path: with symbolic links followed; None if that is impossible.
        content: of the file; None if there is none or it cannot be read.
        unreadable: why it cannot be read; None otherwise.
        settings: limits in force for a program with this environment.
        misread: variables of the environment that were not understood.
        lock: the write lock.
        neighbours: other files that belong to the store.
    """

    path: str
    resolved_path: str | None
    content: Content | None
    unreadable: str | None
    settings: Settings
    misread: tuple[MisreadVariable, ...]
    lock: LockState
    neighbours: Neighbours

    @property
    def is_oversized(self) -> bool:
        """Whether the file is too large to be kept in memory."""
        return self.content is not None and self.content.size_bytes > self.settings.object_cache_max_bytes

    @property
    def problem(self) -> str | None:
        """What keeps programs from using the store, in one sentence; None if nothing does."""
        if self.unreadable is not None:
            return self.unreadable
        if self.content is not None and self.content.corruption is not None:
            found = self.content.corruption
            return (
                f"{self.path}: {found.reason} (at byte {found.offset}). Restore the file from a backup, or run "
                f"`{command_for(self.path)} doctor --repair`."
            )
        return None


def survey(path: str) -> Survey:
    """Look at the store at `path`. Never raises for the state of the disk: that is what the survey tells."""
    absolute = os.path.abspath(path)
    settings, misread = Settings.from_env(os.environ), misread_variables(os.environ)
    try:
        resolved = resolve(absolute)
    except OSError as error:
        return Survey(absolute, None, None, str(error), settings, misread, LockState("", None), Neighbours())
    content: Content | None = None
    unreadable: str | None = None
    neighbours = Neighbours()
    try:
        neighbours = _neighbours(absolute, resolved)
        content = examine(resolved)
    except (FileNotFoundError, NotADirectoryError) as error:
        # A file in the place of the directory is not "no store yet": nothing can ever be stored there.
        unreadable = str(error) if isinstance(error, NotADirectoryError) else None
    except (OSError, StoreError) as error:
        unreadable = str(error)
    return Survey(absolute, resolved, content, unreadable, settings, misread, lock_state(resolved), neighbours)


def has_file(path: str) -> bool:
    """Whether the store has a file. For commands that write: neither a directory above it nor a lock beside it is made.

    Raises:
        StoreError: there is something, but no regular file; it must not get a lock file, either.
        OSError: the system does not let this user see.
    """
    try:
        status = os.stat(resolve(os.path.abspath(path)))
    except FileNotFoundError:
        return False
    require_regular(path, status)
    return True


def examine(path: str) -> Content:
    """Read and check the store file.

    Raises:
        FileNotFoundError: there is none.
        OSError, StoreError: it cannot be read.
    """
    with OpenFile(path) as file:
        before = file.identity()
        mode = stat.S_IMODE(file.status.st_mode)
        sessions = _count_by_pieces(path, file)
        if sessions is not None and file.identity() == before:
            return Content(before.size_bytes, mode, sessions, None)
        # Another layout, something wrong, or a program that writes in place: the whole file decides.
        whole, _ = file.read()
    try:
        return Content(whole.size_bytes, mode, len(parse(path, whole).table.ordinals), None)
    except CorruptStoreError as error:
        return Content(whole.size_bytes, mode, None, Corruption(error.offset, error.reason))


def _count_by_pieces(path: str, file: OpenFile) -> int | None:
    """How many sessions a valid file in this store's layout has; None if it is something else.

    A piece ends after an entry and is parsed as a store of its own. If every piece is an object of objects, so is the
    whole; only duplicate keys have to be looked for across them.
    """
    keys: set[str] = set()
    sessions: set[str] = set()

    def add(piece: bytes) -> bool:
        try:
            found = _keys_written_here(piece) or parse(path, piece).table.keys
        except CorruptStoreError:
            return False
        count = len(keys) + len(found)
        keys.update(found)
        sessions.update(map(normalise_key, found))
        return len(keys) == count

    os.lseek(file.descriptor, 0, os.SEEK_SET)
    pending = b""
    while chunk := os.read(file.descriptor, PIECE_BYTES):
        pending += chunk
        cut = pending.rfind(_BETWEEN_ENTRIES)
        if cut >= 0:
            end = cut + _AFTER_ENTRY
            if not pending.startswith(b"{") or not add(pending[:end] + b"\n}"):
                return None
            pending = b"{" + pending[end + 1 :]
    return len(sessions) if add(pending) else None


def _keys_written_here(piece: bytes) -> Collection[str] | None:
    """The keys of a piece that is exactly what orjson writes of it; None if it is not, which says nothing.

    What orjson writes is strict UTF-8 JSON without duplicate keys or infinities: only the depth is left to look at.
    Most of a file that this store wrote passes, in half the time that `parse` takes.
    """
    try:
        found = orjson.loads(piece)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or _TOO_DEEP in piece or not all(type(entry) is dict for entry in found.values()):
        return None
    return found.keys() if orjson.dumps(found, option=orjson.OPT_INDENT_2) == piece else None


def _neighbours(path: str, resolved: str) -> Neighbours:
    directory, base = os.path.split(resolved)
    prefix, corrupt_prefix = temporary_prefix(resolved), base + CORRUPT_COPY_MARK
    temporary: list[str] = []
    corrupt_copies: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(".tmp"):
                temporary.append(entry.path)
            elif entry.name.startswith(corrupt_prefix):
                corrupt_copies.append(entry.path)
    # The original system follows links of the directory, but not of the file.
    beside_link = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    foreign = {name + FOREIGN_LOCK_SUFFIX for name in (resolved, beside_link)}
    return Neighbours(
        tuple(sorted(temporary)),
        tuple(backups(resolved)),
        tuple(sorted(corrupt_copies)),
        tuple(sorted(name for name in foreign if os.path.lexists(name))),
    )


def lock_state(resolved: str) -> LockState:
    """Who holds the write lock, from /proc/locks (proc(5)): looking takes no lock and delays no writer."""
    lock_path = resolved + LOCK_SUFFIX
    try:
        status = os.stat(lock_path)
    except (FileNotFoundError, NotADirectoryError):
        return LockState(lock_path, False)
    except OSError:
        return LockState(lock_path, None)
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            lines = locks.read(_MAX_LOCKS_BYTES).splitlines()
    except OSError:
        return LockState(lock_path, None)
    for line in lines:
        words = line.split()
        # "1: FLOCK  ADVISORY  WRITE 4121 fe:00:131 0 EOF"; waiters have "->" as their second word.
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == wanted:
            # A holder outside this container is there, but has no number here.
            pid = int(words[4]) if int(words[4]) > 0 else None
            return LockState(lock_path, True, pid, None if pid is None else _process_name(pid))
    return LockState(lock_path, False)


def _process_name(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as name:
            return name.read(100).strip() or None
    except OSError:
        return None
