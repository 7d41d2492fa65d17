"""The store of one JSON file of sessions, shared by many processes. Reads top to bottom as its protocol.

Reading takes no lock: a version of the file is published whole by a rename. Writing takes the lock, proves by bytes
which version is on disk, edits that one and replaces it durably. A snapshot or a cache can spare a write the parsing,
never the proof.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType, GeneratorType, TracebackType
from typing import Any, Generic, TypeVar

from sessionstore import maintenance, process
from sessionstore.cache import Moment, Record, is_oversized, record_of
from sessionstore.content import Content
from sessionstore.draft import Draft, is_same
from sessionstore.encoding import as_json_reads, decode_entry, encode_entry, private_copy
from sessionstore.errors import StoreError, UnstorableValueError
from sessionstore.files import (
    FileVersion,
    Identity,
    OpenFile,
    Replaced,
    make_parents,
    publish,
    require_writable,
    resolve,
    stat_identity,
    sweep_temporary_files,
)
from sessionstore.lock import WriteLock
from sessionstore.settings import OBJECT_CACHE_VARIABLE, Settings, misread_variables
from sessionstore.snapshot import (
    EMPTY_INDEX,
    Change,
    Snapshot,
    compose,
    normalise_key,
    parse,
    parse_changed,
    parts_of,
)

T = TypeVar("T")
Mutator = Callable[[Draft], T]

CHORE_INTERVAL_NS = 60_000_000_000
"""How often a process, writing a file, looks for temporary files of killed writers and repeats the maintenance
warning. Its first write does both."""

MAX_COMPARED_TWICE_BYTES = 1024 * 1024
"""Up to this size a file that was modified within the last tick is compared once more before it is replaced. For a
larger one, whose comparison takes a tenth of the whole write, equal time stamps count as unchanged."""

_MAX_CHORE_PATHS = 1024

_log = logging.getLogger("sessionstore")


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one `SessionStore`, and what its process holds.

    Attributes:
        file_reads: whole files read.
        parses: files, or changed parts of files, validated and searched for entries.
        snapshot_reuses: updates whose base was what the file still held.
        writes: versions published.
        noop_writes: writes that would have changed nothing and did not touch the file.
        object_hits: loads and reads that needed no parsing thanks to the cache.
        object_misses: the others, except with `skip_cache`.
        cached_bytes: what the caches of this process count against their limits, all files together.
        cached_paths: files of which this process holds something.
    """

    file_reads: int
    parses: int
    snapshot_reuses: int
    writes: int
    noop_writes: int
    object_hits: int
    object_misses: int
    cached_bytes: int
    cached_paths: int


@dataclass(frozen=True, slots=True)
class Updated(Generic[T]):
    """What an update did.

    Attributes:
        result: what the mutator returned.
        snapshot: exactly what is on disk now: the base for the next update.
        reused: whether the base was what the file still held.
        written: whether the file was replaced; False if nothing changed.
    """

    result: T
    snapshot: Snapshot
    reused: bool
    written: bool


_COUNTERS = ("file_reads", "parses", "snapshot_reuses", "writes", "noop_writes", "object_hits", "object_misses")


class SessionStore:
    """One file of sessions. Safe to use from any process, thread or task.

    Not a database: a write costs in proportion to the file's size. Not for network file systems whose `flock` is local
    to a host.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Settings | None = None) -> None:
        """Name the file; nothing is read or created yet.

        Args:
            path: the store file. A relative path means the directory that is current now.
            settings: limits; None means the environment's, read at each operation.
        """
        if settings is not None and not isinstance(settings, Settings):
            raise TypeError(f"settings is {type(settings).__name__}. Give a Settings(...) or None.")
        text: object = os.fspath(path)
        if not isinstance(text, str) or not text:
            raise ValueError(f"path is {path!r}. Give the path of the store file as a non-empty string or a Path.")
        self._path = os.path.abspath(text)
        self._settings = settings
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._closed = False

    @property
    def path(self) -> str:
        """The file's absolute path as given, links not followed."""
        return self._path

    # Reading

    def load(self, *, skip_cache: bool = False) -> Snapshot:
        """The whole store as it is now; empty if there is no file.

        Args:
            skip_cache: read the file in any case, and keep nothing of it.

        Raises:
            CorruptStoreError: the file is not a JSON object of objects.
            OSError: it cannot be read. Only "no such file" means empty.
        """
        operation = self.begin_operation()
        if skip_cache:
            return operation.load_uncached()
        snapshot, hit = operation.load()
        self._count("object_hits" if hit else "object_misses")
        return snapshot

    def read(self, key: str) -> dict[str, Any] | None:
        """One session's entry, or None. The key is looked up trimmed and in lower case.

        Of a large file whose positions are cached only the entry's own bytes are read.

        Raises:
            CorruptStoreError, OSError: as `load`.
        """
        if not isinstance(key, str):
            raise TypeError(f"session key {key!r} is {type(key).__name__}. Give a string.")
        operation = self.begin_operation()
        sliced = operation.read_slice(key)
        if sliced is not None:
            self._count("object_hits")
            return sliced.entry
        snapshot, hit = operation.load()
        self._count("object_hits" if hit else "object_misses")
        return snapshot.get(key)

    # Writing

    def edit(self, *, base: Snapshot | None = None, active_session: str | None = None) -> Edit:
        """A context manager: takes the write lock, gives a `Draft` of the newest content, publishes it at the end.

        Durable when the block has been left. Nothing is written if the block raises or changes nothing. `base` can only
        save work: the outcome is the same without it.

        Args:
            base: an earlier snapshot of this store.
            active_session: key of a session that maintenance must not remove.

        Raises:
            LockTimeoutError: another writer held the lock too long. Nothing is written.
            ReentrantUpdateError: this thread or task is editing the same file.
            CorruptStoreError: the file is not a JSON object of objects. Nothing is written.
            UnstorableValueError: an entry cannot be stored as JSON. Nothing is written.
            ConflictError: a program that does not take the lock changed the file meanwhile. Nothing is written.
            UnknownOutcomeError: written, but perhaps not durable.
            OSError: the disk refused; the file is as it was.
        """
        if base is not None and not isinstance(base, Snapshot):
            raise TypeError(f"base is {type(base).__name__}. Give a Snapshot from load(), update() or edit(), or None.")
        return Edit(self, base, active_session)

    def update(
        self, mutator: Mutator[T], *, base: Snapshot | None = None, active_session: str | None = None
    ) -> Updated[T]:
        """Apply `mutator` to a draft of the newest content and publish the result.

        Durable when it returns. `base` can only save work: the outcome is the same without it. What the mutator
        returns is handed back as `result`. A coroutine or generator is refused: it has not run.

        Raises:
            TypeError: the mutator returned a coroutine or generator. Nothing is written.
            As `edit`, and whatever the mutator raises; then nothing is written.
        """
        edit = self.edit(base=base, active_session=active_session)
        return edit.updated(edit.run(mutator))

    def save(self, sessions: Mapping[str, Mapping[str, Any]], *, active_session: str | None = None) -> Snapshot:
        """Replace the whole content by `sessions`, keys spelled and ordered as given.

        Durable when it returns. Entries that say what is on disk already keep their bytes.

        Raises:
            As `edit`. A corrupt file is not replaced either.
        """
        encoded = encode_all(sessions)
        edit = Edit(self, None, active_session)
        edit.run(lambda _: edit.replace_all(encoded))
        return edit.updated(None).snapshot

    # Everything else

    def stats(self) -> Stats:
        """Counters of this object and what its process holds, as of now."""
        with process.PROCESS.mutex:
            cache = process.PROCESS.cache
            return Stats(**self._counts, cached_bytes=cache.held_bytes, cached_paths=cache.paths)

    def close(self) -> None:
        """End the use of this object and free what the process caches of its file. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            path = resolve(self._path)
            with process.PROCESS.mutex:
                process.PROCESS.cache.drop(path)

    def __enter__(self) -> SessionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SessionStore({self._path!r})"

    def _count(self, counter: str) -> None:
        with process.PROCESS.mutex:
            self._counts[counter] += 1

    def begin_operation(self) -> Operation:
        """Resolve the path and read the settings, once for all that one operation does."""
        if self._closed:
            raise StoreError(f"{self._path}: this SessionStore is closed. Open another one.")
        return Operation(resolve(self._path), self._current_settings(), self._count)

    def _current_settings(self) -> Settings:
        if self._settings is not None:
            return self._settings
        for misread in misread_variables(os.environ):
            if process.PROCESS.first_time(process.PROCESS.warned_variables, misread.variable):
                _log.warning("%s", misread)
        return Settings.from_env(os.environ)


@dataclass(frozen=True, slots=True)
class _Sliced:
    entry: dict[str, Any] | None


class Operation:
    """One operation on one file: its resolved path and the settings in force, from beginning to end."""

    def __init__(self, path: str, settings: Settings, count: Callable[[str], None]) -> None:
        self.path = path
        self.settings = settings
        self.count = count
        self.process = process.PROCESS
        self.record: Record | None = None
        self._looked_up: Moment | None = None

    def look_up(self) -> None:
        """Free what has expired, of any file, and find what is kept of this one."""
        self._looked_up = now = _now()
        with self.process.mutex:
            self.process.cache.begin(now, self.settings)
            self.record = self.process.cache.get(self.path, settings=self.settings)

    def drop(self) -> None:
        """Keep nothing of this file."""
        self.record = None
        with self.process.mutex:
            self.process.cache.drop(self.path)

    def learn_size(self, size_bytes: int) -> None:
        """Say once per process that a file is too large to be kept."""
        settings = self.settings
        if settings.cache_ttl_ms == 0 or settings.object_cache_max_bytes == 0 or not is_oversized(size_bytes, settings):
            return
        if self.process.first_time(self.process.warned_paths, self.path):
            _log.warning(
                "session object cache disabled for large store: %s: %d bytes, limit %d. Every load reads the file. "
                "Raise %s to keep it in memory.",
                self.path,
                size_bytes,
                settings.object_cache_max_bytes,
                OBJECT_CACHE_VARIABLE,
                extra={
                    "store_path": self.path,
                    "size_bytes": size_bytes,
                    "limit_bytes": settings.object_cache_max_bytes,
                    "env_var": OBJECT_CACHE_VARIABLE,
                },
            )

    def sweep(self) -> None:
        """Remove what killed writers left; name, once per process, what this user may not remove."""
        for name in sweep_temporary_files(self.path).kept:
            if self.process.first_time(self.process.warned_strays, name):
                _log.warning(
                    "a killed writer's temporary file cannot be removed: %s: this user may not. It does no harm but "
                    "takes room. Remove it as its owner or as the directory's.",
                    name,
                    extra={"store_path": self.path, "temporary_path": name},
                )

    def is_due(self, last_ns_of: dict[str, int]) -> bool:
        """Whether a chore was not done for this file lately; if so, it counts as done now."""
        now_ns = time.monotonic_ns()
        with self.process.mutex:
            last_ns = last_ns_of.get(self.path)
            if last_ns is not None and now_ns - last_ns < CHORE_INTERVAL_NS:
                return False
            if len(last_ns_of) >= _MAX_CHORE_PATHS:
                last_ns_of.clear()
            last_ns_of[self.path] = now_ns
            return True

    def empty(self) -> Snapshot:
        """The snapshot of a file that does not exist."""
        return Snapshot(self.path, None, EMPTY_INDEX)

    # Reading without the lock

    def load_uncached(self) -> Snapshot:
        """The newest content, past the caches; what they hold of a file that has become too large is dropped."""
        self.look_up()
        try:
            with OpenFile(self.path) as file:
                content, version = file.read()
        except FileNotFoundError:
            self.drop()
            return self.empty()
        self.count("file_reads")
        if (
            self.record is not None
            and self.record.content is not None
            and is_oversized(version.size_bytes, self.settings)
        ):
            self.drop()
        self.count("parses")
        return Snapshot(self.path, content, parse(self.path, content))

    def load(self) -> tuple[Snapshot, bool]:
        """The newest content, and whether the cache spared the parsing."""
        self.look_up()
        record = self.record
        if record is not None and record.content is not None and record.is_trusted(_now()):
            identity = stat_identity(self.path)
            if identity == record.identity:
                return Snapshot(self.path, record.content, record.index), True
        try:
            with OpenFile(self.path) as file:
                content, version = file.read()
        except FileNotFoundError:
            self.drop()
            return self.empty(), False
        self.count("file_reads")
        self.learn_size(version.size_bytes)
        trusted = record is not None and record.is_trusted(_now()) and record.identity == version.identity
        snapshot, hit = self.recognised(content, is_vouched_for=trusted)
        return self.remember(version, snapshot), hit

    def recognised(self, content: Content, *, is_vouched_for: bool) -> tuple[Snapshot, bool]:
        """The snapshot of content just read, and whether the cache spared parsing it. Keeps nothing yet.

        Args:
            content: the file's bytes.
            is_vouched_for: the file's identity has proven that the record is about these bytes; otherwise they decide.
        """
        record = self.record
        known = None if record is None else record.recognised(content, is_vouched_for=is_vouched_for)
        if known is not None and record is not None:
            return Snapshot(self.path, known, record.index, record.digest), True
        return self.parsed(content, None), False

    def parsed(self, content: Content, base: Snapshot | None) -> Snapshot:
        """The snapshot of content that is new, starting from whatever earlier version is at hand."""
        if base is None and self.record is not None and self.record.content is not None:
            base = Snapshot(self.path, self.record.content, self.record.index)
        self.count("parses")
        try:
            if base is None or base.content is None:
                return Snapshot(self.path, content, parse(self.path, content))
            return parse_changed(self.path, content, base)
        except BaseException:
            self.drop()
            raise

    def remember(self, version: FileVersion, snapshot: Snapshot) -> Snapshot:
        """Keep what the limits admit of this version; returns the snapshot with all that was computed about it."""
        stored = _now()
        if self._looked_up is not None and self._looked_up.wall_offset_ns > stored.wall_offset_ns:
            # The wall clock was set back since this operation began: the stamps just read may come again.
            stored = Moment(stored.monotonic_ns, stored.monotonic_ns + self._looked_up.wall_offset_ns)
        record = record_of(version, snapshot, stored=stored, settings=self.settings)
        with self.process.mutex:
            self.process.cache.put(self.path, record, self.settings)
        return Snapshot(self.path, snapshot.content, snapshot.index, record.digest or snapshot.digest)

    def read_slice(self, key: str) -> _Sliced | None:
        """One entry by its position alone, or None where that is not possible."""
        self.look_up()
        record = self.record
        if record is None or not record.is_trusted(_now()):
            return None
        ordinals = record.index.table.ordinals.get(normalise_key(key))
        if record.content is not None or (ordinals is not None and len(ordinals) > 1):
            return None
        try:
            with OpenFile(self.path) as file:
                if file.identity() != record.identity:
                    return None
                self.learn_size(record.identity.size_bytes)
                if ordinals is None:
                    return _Sliced(None)
                raw = file.slice(*record.index.span(ordinals[0]))
                # A program may have written in place between the two looks.
                return _Sliced(decode_entry(raw)) if file.identity() == record.identity else None
        except FileNotFoundError:
            return None


def _now() -> Moment:
    return Moment(time.monotonic_ns(), time.time_ns())


class Edit:
    """A write: from taking the lock to giving it back. Made by `SessionStore.edit`; used once, in a `with` statement.

    Attributes:
        reused: whether the base was what the file still held.
        written: whether the file was replaced.
    """

    _lock: WriteLock | None = None  # here, because `__del__` looks at it, also after an interrupted `__init__`

    def __init__(self, store: SessionStore, base: Snapshot | None, active_session: str | None) -> None:
        self._is_used = False
        self._base = base
        self._active = None if active_session is None else normalise_key(active_session)
        self._operation = store.begin_operation()
        self._file: OpenFile | None = None
        self._version: FileVersion | None = None
        self._current: Snapshot | None = None
        self._draft: Draft | None = None
        self._replacement: list[EncodedSession] | None = None
        self.reused = False
        self.written = False

    def __enter__(self) -> Draft:
        self.claim()
        try:
            lock = self.prepare_lock()
            lock.acquire()
            draft = self.begin()
        except BaseException:
            self.release_twice()
            raise
        return draft

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.publish()
        finally:
            self.release_twice()

    def __del__(self) -> None:
        # A signal handler that raises at the very entry of `__exit__` keeps it from running (bpo-29988). Then the lock
        # is given back when the exception, whose traceback refers to this edit, is done with.
        if self._lock is not None:
            self.release_twice()

    def run(self, mutator: Mutator[T]) -> T:
        """The whole write in one call; returns what the mutator returned."""
        try:
            draft = self.__enter__()
            result = mutator(draft)
            refuse_unrun(result)
            self.publish()
        finally:
            # Twice, and here instead of in a `with` statement: see `__del__`. Whatever a signal handler interrupts, the
            # other call makes good before the caller goes on.
            try:
                self.release()
            finally:
                self.release()
        return result

    def claim(self) -> None:
        """Begin the edit's only use."""
        if self._is_used:
            raise StoreError("an edit is used once. Begin another with store.edit()")
        self._is_used = True

    def prepare_lock(self) -> WriteLock:
        """The lock that this write takes, not taken yet. Makes the directory, which holds the lock file."""
        path = self._operation.path
        make_parents(path)
        shared = self._operation.process.path_lock(path)
        self._lock = WriteLock(path, shared, timeout_s=self._operation.settings.lock_timeout_s)
        return self._lock

    def begin(self) -> Draft:
        """With the lock held: prove which version is on disk, and open a draft of it."""
        operation = self._operation
        operation.look_up()
        current = self._read_under_lock()
        self._current = current
        if self.reused:
            operation.count("snapshot_reuses")
        self._draft = Draft(current)
        return self._draft

    def _read_under_lock(self) -> Snapshot:
        operation, base = self._operation, self._base
        try:
            self._file = file = OpenFile(operation.path)
        except FileNotFoundError:
            operation.drop()
            self.reused = base is not None and base.content is None
            return operation.empty()
        known = self._known_version(file)
        if known is not None:
            self._note_read()
            return known
        content, self._version = file.read()
        self._note_read()
        return operation.parsed(content, base)

    def _note_read(self) -> None:
        self._operation.count("file_reads")
        self._operation.learn_size(self._require(self._version).size_bytes)

    def _known_version(self, file: OpenFile) -> Snapshot | None:
        """The base, or else the version that the cache is about, if the file holds just that.

        By bytes, never by stat: a rewrite may leave the same size, inode and time stamps, and an update that trusted
        them could splice by positions that are wrong.
        """
        base, record = self._base, self._operation.record
        if base is not None and base.content is not None:
            self._version = file.holds(base.content)
            self.reused = self._version is not None
            if self.reused:
                return base
        # A base that the file does not hold has shown it for a record of the same version, too.
        if record is None or (base is not None and record.is_of_version(base)):
            return None
        found = record.found_in(file)
        if found is None:
            return None
        content, self._version = found
        return Snapshot(file.path, content, record.index, record.digest)

    def updated(self, result: T) -> Updated[T]:
        """What the edit did, once it is over."""
        return Updated(result, self._require(self._draft).snapshot, self.reused, self.written)

    def replace_all(self, encoded: list[EncodedSession]) -> None:
        """Let the edit replace the whole content."""
        self._replacement = encoded

    def publish(self) -> None:
        """Write what the draft came to, if it changes anything."""
        draft, current, operation = self._require(self._draft), self._require(self._current), self._operation
        if not self._require(self._lock).is_of_this_process:
            draft.close(None)
            raise StoreError(
                f"{operation.path}: this edit was begun by the parent of this forked process, which holds its lock. "
                "Nothing was written. Begin another edit here."
            )
        try:
            new = self._maintained(self._composed(draft, current), current)
            if new is current:
                operation.count("noop_writes")
                draft.close(current if self._version is None else operation.remember(self._version, current))
            else:
                draft.close(self._write(new))
        except BaseException:
            draft.close(None)
            raise

    def _composed(self, draft: Draft, current: Snapshot) -> Snapshot:
        parts = draft.parts() if self._replacement is None else _replacing_parts(current, self._replacement)
        return current if parts is None else compose(current, parts)

    def _maintained(self, new: Snapshot, current: Snapshot) -> Snapshot:
        """`new` without what maintenance removes; or a warning of that, and of the backup that is due."""
        settings, operation = self._operation.settings, self._operation
        enforce = settings.maintenance_mode == "enforce"
        if settings.maintenance_mode == "off" or not (enforce or operation.is_due(operation.process.warned_ns)):
            return new
        now_ms = time.time_ns() // 1_000_000
        pruned, capped = maintenance.sessions_to_remove(
            _session_times(new), now_ms=now_ms, settings=settings, active_session=self._active
        )
        if not enforce:
            maintenance.warn_of(
                operation.path,
                pruned=len(pruned),
                capped=len(capped),
                rotated_bytes=self._bytes_to_back_up(),
                settings=settings,
            )
            return new
        ordinals = new.index.table.ordinals
        removed: dict[int, Change | None] = {n: None for key in (*pruned, *capped) for n in ordinals[key]}
        if not removed:
            return new
        maintained = compose(new, parts_of(new, removed))
        creates = current.content is None and self._replacement is not None
        # It may have undone just what the edit did: then nothing is written, whatever the layout of the file.
        return current if not creates and maintained.has_same_entries(current) else maintained

    def _bytes_to_back_up(self) -> int | None:
        """Size of the file that is to be replaced, if it is so large that maintenance backs it up."""
        size_bytes = 0 if self._version is None else self._version.size_bytes
        return size_bytes if size_bytes > self._operation.settings.rotate_bytes else None

    def _back_up(self, version: FileVersion) -> None:
        operation = self._operation
        if operation.settings.maintenance_mode == "enforce" and self._bytes_to_back_up() is not None:
            raw = self._require(self._current).raw
            maintenance.back_up(operation.path, raw, now_ms=time.time_ns() // 1_000_000, mode=version.mode)

    def _write(self, new: Snapshot) -> Snapshot:
        operation, content = self._operation, self._require(new.content)
        try:
            if operation.is_due(operation.process.swept_ns):
                operation.sweep()
            if self._version is not None:
                require_writable(operation.path)
                self._back_up(self._version)
            identity = self._publish(content)
        except BaseException:
            # Whatever the disk holds now, nothing in memory may be ahead of it or vouch for it.
            operation.drop()
            raise
        self.written = True
        operation.count("writes")
        operation.learn_size(content.size_bytes)
        # Not settled: a program that writes in place could leave the same stamps within the same tick.
        return operation.remember(FileVersion(identity, False, 0, 0, 0), new)

    def _publish(self, content: Content) -> Identity:
        path, version = self._operation.path, self._version
        # A save replaces whatever is there. An update is made from what was there, so it looks once more: programs that
        # do not take the lock may have written meanwhile.
        unchanged = self._is_unchanged if self._replacement is None else None
        if version is None:
            return publish(path, content, replaced=None, unchanged=unchanged)
        replaced = Replaced(version.mode, version.owner, version.group)
        return publish(path, content, replaced=replaced, unchanged=unchanged)

    def _is_unchanged(self) -> bool:
        """Whether the file still has the bytes that were read under the lock."""
        path, version = self._operation.path, self._version
        identity = stat_identity(path)
        if version is None or identity is None:
            return version is None and identity is None
        if identity == version.identity and (version.settled or version.size_bytes > MAX_COMPARED_TWICE_BYTES):
            return True
        # Other stamps, or stamps that a write within the same tick leaves as they are: the bytes decide.
        try:
            with OpenFile(path) as file:
                return file.holds(self._require(self._current).content) is not None
        except FileNotFoundError:
            return False

    def leave_to_thread(self) -> None:
        """Say that the task which began the edit is gone, and that a thread ends it."""
        if self._lock is not None:
            self._lock.disown()

    def release_twice(self) -> None:
        """Give the lock back, also if a signal handler raises while that is being done."""
        try:
            self.release()
        finally:
            self.release()

    def release(self) -> None:
        """Give the lock back; does nothing the second time."""
        try:
            if self._lock is not None:
                self._lock.release()
                self._lock = None
        finally:
            # Only now: the last descriptor of the replaced version frees its blocks, which takes the kernel a while
            # that no other writer should wait for.
            file, self._file = self._file, None
            if file is not None:
                file.close()
            if self._draft is not None and not self._draft.is_closed:
                self._draft.close(None)

    def _require(self, part: Any) -> Any:
        if part is None:
            raise StoreError("this edit has not begun. Use it in a `with` statement.")
        return part


def refuse_unrun(result: object) -> None:
    """Refuse what a function returns that has not run yet: its edit would be an empty one, and nobody would know."""
    if isinstance(result, (CoroutineType, GeneratorType, AsyncGeneratorType)):
        kind = type(result).__name__.replace("_", " ")
        if isinstance(result, CoroutineType):
            result.close()  # or Python warns that it was never awaited
        raise TypeError(
            f"the mutator returned a {kind}, so it has not run and nothing was written. Give a plain function, or a "
            f"coroutine function to AsyncSessionStore."
        )


@dataclass(frozen=True, slots=True)
class EncodedSession:
    """One session that a save writes."""

    key: str
    entry: dict[str, Any]
    value: bytes


def encode_all(sessions: Mapping[str, Mapping[str, Any]]) -> list[EncodedSession]:
    """Private copies of all that a save is to write, before anything is locked."""
    if not isinstance(sessions, Mapping):
        raise TypeError(f"sessions is {type(sessions).__name__}. Give a mapping of session key to entry.")
    encoded: list[EncodedSession] = []
    seen: set[str] = set()
    for key, entry in list(sessions.items()):
        if not isinstance(key, str):
            raise UnstorableValueError(repr(key), "", f"a session key is a string, not {type(key).__name__}")
        plain_key = as_json_reads(str.__str__(key))
        if plain_key in seen:
            # A subclass of str, another kind of mapping, or surrogates: the file would be corrupt to every reader.
            raise UnstorableValueError(plain_key, "", "two session keys are spelled like this")
        seen.add(plain_key)
        plain = private_copy(plain_key, entry)
        encoded.append(EncodedSession(plain_key, plain, encode_entry(plain)))
    return encoded


def _replacing_parts(current: Snapshot, encoded: Iterable[EncodedSession]) -> list[range | Change] | None:
    """The given sessions as parts: places of `current` that say the same already, and new content; None if all do."""
    place = {key: ordinal for ordinal, key in enumerate(current.index.table.keys)}
    parts: list[range | Change] = []
    for session in encoded:
        ordinal = place.get(session.key)
        if ordinal is None or not is_same(current.entry_bytes(ordinal), session.value):
            parts.append(Change.of(session.key, session.entry, session.value))
            continue
        last = parts[-1] if parts else None
        if isinstance(last, range) and last.stop == ordinal:
            parts[-1] = range(last.start, ordinal + 1)
        else:
            parts.append(range(ordinal, ordinal + 1))
    count = len(current.index)
    unchanged = current.content is not None and parts == ([range(count)] if count else [])
    return None if unchanged else parts


def _session_times(snapshot: Snapshot) -> Iterator[tuple[str, float]]:
    """Normalised key and `updatedAt` of every session."""
    times = snapshot.index.updated_at
    for key, ordinals in snapshot.index.table.ordinals.items():
        yield key, times[ordinals[0]] if len(ordinals) == 1 else times[snapshot.winner(ordinals)]
