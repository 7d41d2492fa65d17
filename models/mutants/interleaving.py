"""Planted bugs that need another process, or another thread, at the wrong moment.

Stress meets most of them by luck or never; `models.searches` has a small program for each in which some schedule shows
it, and `tests/concurrency/test_explored_mutants.py` says after how many executions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from models.mutants.planting import Mutant, Patch


def race_id(name: str) -> str:
    """Name of a race as a pytest id."""
    return name.replace(",", "").replace(" ", "-")


RACE_OF: Final[Mapping[str, str]] = {
    "B01": "inside the lock, again and again",
    "B02": "inside the lock, again and again",
    "B02i": "inside the lock, again and again",
    "B03": "inside the lock, again and again",
    "B04": "a killed holder and two heirs",
    "B05i": "a slow holder",
    "B06": "a killed writer",
    "B07": "a writer that does not wait",
    "B08i": "a writer that does not wait",
    "B10": "names of one file",
    "B12": "threads of one process",
    "B17": "an update inside an update",
    "B18": "inside the lock",
    "B35i": "a writer that does not wait",
    "B45": "a chain and a writer",
    "B46": "a chain and a writer",
    "B46i": "own content, two other versions and an update",
    "B47": "filelock beside the store",
    "B47i": "two writers",
    "B48": "inside the lock",
    "B48i": "inside the lock",
    "B49": "own content, two other versions and an update",
    "B49i": "a foreign rename",
    "B52": "an object changed while it is saved",
    "B54i": "own content and two other versions of its size",
    "B54j": "a foreign rewrite in place",
    "B56i": "a clock set back",
    "B56j": "a clock set back",
    "B58": "a cache and a writer",
    "B59": "an old copy put in place",
    "B60": "own content and two other versions of its size",
    "B63i": "a reader beside a writing thread",
    "B71i": "a file that appears",
    "B76": "oversized, with bases",
    "B76i": "a base and a rewrite of its size",
    "B77i": "a base and a rewrite of its size",
    "B77j": "oversized, and a rewrite of its size",
}
"""The race of `models.searches` in which a schedule shows the bug; also for bugs of the other modules."""


def _killer(mutant_id: str) -> tuple[str, ...]:
    return (f"tests/concurrency/test_explored_races.py::test_a_race_is_run_through[{race_id(RACE_OF[mutant_id])}]",)


_FIRST_TRY = "fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)"
_WAIT = "fcntl.flock(self._descriptor, fcntl.LOCK_EX)"
_OPEN_FLAGS = "self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _lock_file_mode(self._path)"
_IS_AT_PATH = "            if _is_file_at(self.descriptor, self._lock_path):\n"
_BUSY = """            except BlockingIOError:
                if self._timeout_s == 0:
                    raise self._timeout_error() from None
"""
_TAKEN = """            else:
                return True
            pending = _KernelWait(self.descriptor)
"""
_GIVE_BACK = """        try:
            _unlock(descriptor)
        finally:
            # The call itself
"""[:-1]
_UNLINK_LOCK = """            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._lock_path)
"""
_BEFORE_GIVING_BACK = _GIVE_BACK.replace(
    "            _unlock(descriptor)\n", _UNLINK_LOCK + "            _unlock(descriptor)\n"
)
_AFTER_GIVING_BACK = _GIVE_BACK.replace(
    "            _unlock(descriptor)\n", "            _unlock(descriptor)\n" + _UNLINK_LOCK
)
_TAKE = """        shared = self._path_lock
        pending = shared.kernel_wait
        if pending is None or not pending.listen_again():
"""
_MAKE_FILE = """        self.descriptor = self._make_pid_file()
        return True

    def _make_pid_file(self) -> int:
        path = self._lock_path + ".pid"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
            except FileExistsError:
                if not _holder_lives(path):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                elif self._remaining_s() == 0:
                    raise self._timeout_error() from None
                else:
                    time.sleep(0.5)

    def _wait_for_descriptor(self) -> bool:
"""
_REMOVE_FILE = _GIVE_BACK.replace(
    "            _unlock(descriptor)\n",
    '            os.unlink(self._lock_path + ".pid")\n            _unlock(descriptor)\n',
)
_HOLDER_LIVES = """def _holder_lives(path: str) -> bool:
    try:
        with open(path) as file:
            os.kill(int(file.read()), 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    except ValueError:
        return True
    return True


def _unlock("""
_HOLDER_ALWAYS_LIVES = """def _holder_lives(path: str) -> bool:
    return os.path.exists(path)


def _unlock("""


def _pid_file(holder_lives: str) -> tuple[Patch, ...]:
    """The lock is a file with the holder's pid, made with O_EXCL."""
    return (
        Patch("lock", _TAKE, _MAKE_FILE + _TAKE),
        Patch("lock", _IS_AT_PATH, "            if self.descriptor:\n"),
        Patch("lock", _GIVE_BACK, _REMOVE_FILE),
        Patch("lock", "def _unlock(", holder_lives),
    )


_RESOLVE = """    resolved = os.path.realpath(path)
    if os.path.islink(resolved):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return resolved
"""
_RELEASE = """                self._lock.release()
                self._lock = None
"""
_PUBLISH = "            identity = self._publish(content)\n"
_SAVE = """        encoded = encode_all(sessions)
        edit = Edit(self, None, active_session)
        edit.run(lambda _: edit.replace_all(encoded))
"""
_OWN_VERSION = "        return operation.remember(FileVersion(identity, False, 0, 0, 0), new)\n"
_LOOKED_ONCE_MORE = "        unchanged = self._is_unchanged if self._replacement is None else None\n"
_SETTLED = "        return max(_settled_from_ns(self.mtime_ns), _settled_from_ns(self.ctime_ns)) <= now_ns\n"
_IDENTITY = """        self.status = os.fstat(self.descriptor)
        return Identity.of(self.status)
"""
_BASE_HOLDS = "            self._version = file.holds(base.content)\n"
_RECORD_HOLDS = "        version = file.holds(self.content)\n"
_NO_FILE = """            self.drop()
            return self.empty(), False
"""
_LOAD = """        self.look_up()
        record = self.record
        if record is not None and record.content is not None and record.is_trusted(_now()):
"""

INTERLEAVING_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B01",
        "lock: file unlinked after unlocking",
        "The lock file is removed when it has been given back, under the feet of whoever got it meanwhile.",
        "LOCK1",
        (Patch("lock", _GIVE_BACK, _AFTER_GIVING_BACK),),
        _killer("B01"),
    ),
    Mutant(
        "B02",
        "lock: file unlinked while held, never looked at again",
        "The lock file is removed at release, and who waited for it does not notice that it locked a dead file.",
        "LOCK1",
        (
            Patch("lock", _GIVE_BACK, _BEFORE_GIVING_BACK),
            Patch("lock", _IS_AT_PATH, "            if self.descriptor:\n"),
        ),
        _killer("B02"),
    ),
    Mutant(
        "B02i",
        "lock: file unlinked while held, only its name looked for",
        "After waiting, a writer looks whether there is a lock file at the path, but not whether it is its own.",
        "LOCK1",
        (
            Patch("lock", _GIVE_BACK, _BEFORE_GIVING_BACK),
            Patch("lock", _IS_AT_PATH, "            if os.path.exists(self._lock_path):\n"),
        ),
        _killer("B02i"),
    ),
    Mutant(
        "B04",
        "lock: stale file stolen, checked too early",
        "A file with the holder's pid is the lock; two heirs of a dead holder unlink it, the second one the first's.",
        "LOCK1",
        _pid_file(_HOLDER_LIVES),
        _killer("B04"),
    ),
    Mutant(
        "B05i",
        "lock: slow holder reaped",
        "A lock file older than a second is taken for forgotten and replaced.",
        "LOCK2",
        (
            Patch(
                "lock",
                _BUSY,
                """            except BlockingIOError:
                if time.time() - os.stat(self._lock_path).st_mtime > 1:
                    os.unlink(self._lock_path)
                    self._give_back()
                    return self._lock_descriptor()
"""
                + _BUSY.split("\n", 1)[1],
            ),
        ),
        _killer("B05i"),
    ),
    Mutant(
        "B06",
        "lock: never reclaimed",
        "A file with the holder's pid is the lock, and a holder counts as alive as long as its file is there.",
        "LOCK2",
        _pid_file(_HOLDER_ALWAYS_LIVES),
        _killer("B06"),
    ),
    Mutant(
        "B07",
        "lock: released without being owned",
        "A writer whose time is over removes the lock file, which is another one's.",
        "LOCK1",
        (
            Patch(
                "lock",
                "        waited_s = (time.monotonic_ns() - self._started_ns) / 1e9\n        return LockTimeoutError(",
                "        waited_s = (time.monotonic_ns() - self._started_ns) / 1e9\n"
                "        os.unlink(self._lock_path)\n        return LockTimeoutError(",
            ),
        ),
        _killer("B07"),
    ),
    Mutant(
        "B08i",
        "lock: a single try that fails open",
        "With a timeout of zero a lock that is busy counts as taken.",
        "LOCK2",
        (Patch("lock", _BUSY, _BUSY.replace("raise self._timeout_error() from None", "return True")),),
        _killer("B08i"),
    ),
    Mutant(
        "B10",
        "lock: another name before the file exists",
        "Links are followed only once the file exists, so the first writers through different names take two locks.",
        "CACHE8",
        (Patch("files", _RESOLVE, "    return os.path.realpath(path) if os.path.exists(path) else path\n"),),
        _killer("B10"),
    ),
    Mutant(
        "B12",
        "lock: record lock for threads",
        "lockf belongs to the process, so two of its threads both get it, and nothing else holds them apart.",
        "LOCK1",
        (
            Patch("lock", _FIRST_TRY, _FIRST_TRY.replace("flock", "lockf", 1)),
            Patch("lock", _WAIT, _WAIT.replace("flock", "lockf", 1)),
            Patch("lock", "fcntl.flock(descriptor, fcntl.LOCK_UN)", "fcntl.lockf(descriptor, fcntl.LOCK_UN)"),
            Patch("lock", "            if shared.owner is None and not shared.turns:\n", "            if turn:\n"),
        ),
        _killer("B12"),
    ),
    Mutant(
        "B18",
        "lock: truncated before it is owned",
        "Whoever wants the lock truncates the file in which its holder is noted, and takes an empty one for free.",
        "LOCK1",
        (
            Patch("lock", _OPEN_FLAGS, _OPEN_FLAGS.replace("os.O_CREAT", "os.O_CREAT | os.O_TRUNC")),
            Patch(
                "lock",
                _BUSY,
                """            except BlockingIOError:
                if os.fstat(self.descriptor).st_size == 0:
                    os.unlink(self._lock_path)
                    self._give_back()
                    return self._lock_descriptor()
"""
                + _BUSY.split("\n", 1)[1],
            ),
            Patch(
                "lock",
                _TAKEN,
                _TAKEN.replace(
                    "                return True\n",
                    "                os.write(self.descriptor, str(os.getpid()).encode())\n"
                    "                return True\n",
                ),
            ),
            Patch(
                "lock",
                _GIVE_BACK,
                _GIVE_BACK.replace(
                    "            _unlock(descriptor)\n",
                    "            os.ftruncate(descriptor, 0)\n            _unlock(descriptor)\n",
                ),
            ),
        ),
        _killer("B18"),
    ),
    Mutant(
        "B35i",
        "write: the loser cleans up",
        "A writer that wrote nothing sweeps temporary files, also if that is because another one has the lock.",
        "WRITE4",
        (
            Patch(
                "store",
                _RELEASE,
                _RELEASE
                + "                if not self.written:\n"
                + "                    sweep_temporary_files(self._operation.path)\n",
            ),
        ),
        _killer("B35i"),
    ),
    Mutant(
        "B46i",
        "update: stamps believed under the lock",
        "An update whose process has cached a version with these stamps starts from that.",
        "WRITE1",
        (
            Patch(
                "cache",
                _RECORD_HOLDS,
                "        identity = file.identity()\n"
                "        known = file._version(identity) if identity == self.identity else None\n"
                "        version = known or file.holds(self.content)\n",
            ),
        ),
        _killer("B46i"),
    ),
    Mutant(
        "B47i",
        "update: lock given back before the publication",
        "The content is composed under the lock and written after it.",
        "WRITE1",
        (Patch("store", _PUBLISH, "            self._require(self._lock)._give_back()\n" + _PUBLISH),),
        _killer("B47i"),
    ),
    Mutant(
        "B48i",
        "lock: shared",
        "The first try asks for a shared lock, which any number of writers may hold.",
        "LOCK1",
        (Patch("lock", _FIRST_TRY, _FIRST_TRY.replace("LOCK_EX", "LOCK_SH")),),
        _killer("B48i"),
    ),
    Mutant(
        "B49i",
        "update: no last look",
        "What a program that ignores the lock has published meanwhile is overwritten.",
        "SNAP1",
        (Patch("store", _LOOKED_ONCE_MORE, "        unchanged = None\n"),),
        _killer("B49i"),
    ),
    Mutant(
        "B52",
        "save: object still shared",
        "What is to be saved is encoded when the lock has come, while other threads may change it.",
        "CACHE7",
        (
            Patch(
                "store",
                _SAVE,
                "        edit = Edit(self, None, active_session)\n"
                "        edit.run(lambda _: edit.replace_all(encode_all(sessions)))\n",
            ),
        ),
        _killer("B52"),
    ),
    Mutant(
        "B54i",
        "cache: own content believed at once",
        "The stamps of a file that was written a moment ago stand for its content.",
        "CACHE6",
        (Patch("store", _OWN_VERSION, _OWN_VERSION.replace("False", "True")),),
        _killer("B54i"),
    ),
    Mutant(
        "B54j",
        "update: last look at the stamps only",
        "Equal stamps count as unchanged, also within the tick in which the file was written.",
        "SNAP1",
        (
            Patch(
                "store",
                "        if identity == version.identity and (version.settled or version.size_bytes > "
                "MAX_COMPARED_TWICE_BYTES):\n",
                "        if identity == version.identity:\n",
            ),
        ),
        _killer("B54j"),
    ),
    Mutant(
        "B59",
        "cache: stat by path, read by descriptor",
        "The identity is that of whatever has the name by then, and its modification time vouches for its age.",
        "CACHE6",
        (
            Patch("files", _IDENTITY, _IDENTITY.replace("os.fstat(self.descriptor)", "os.stat(self.path)")),
            Patch("files", _SETTLED, "        return _settled_from_ns(self.mtime_ns) <= now_ns\n"),
        ),
        _killer("B59"),
    ),
    Mutant(
        "B60",
        "cache: stamped after unlocking",
        "What was written is kept with the stamps that the file has when the lock has been given back.",
        "CACHE6",
        (
            Patch(
                "store",
                _RELEASE,
                _RELEASE
                + """                identity = stat_identity(self._operation.path)
                if self.written and identity is not None and self._draft is not None:
                    self._operation.remember(FileVersion(identity, True, 0, 0, 0), self._draft.snapshot)
""",
            ),
        ),
        _killer("B60"),
    ),
    Mutant(
        "B63i",
        "cache: updated before the file",
        "The new content is in the cache before it is published, for every thread of the process.",
        "CACHE6",
        (
            Patch(
                "store",
                _PUBLISH,
                "            if self._version is not None:\n"
                "                operation.remember(self._version, new)\n" + _PUBLISH,
            ),
        ),
        _killer("B63i"),
    ),
    Mutant(
        "B71i",
        "cache: absence remembered",
        "A file that was not there is taken for missing until this process writes it.",
        "CACHE6",
        (
            Patch(
                "process",
                "        self.cache = Cache()\n",
                "        self.cache = Cache()\n        self.missing: set[str] = set()\n",
            ),
            Patch("store", _NO_FILE, "            self.process.missing.add(self.path)\n" + _NO_FILE),
            Patch(
                "store",
                _LOAD,
                "        if self.path in self.process.missing:\n            return self.empty(), True\n" + _LOAD,
            ),
            Patch(
                "store",
                '        operation.count("writes")\n',
                '        operation.count("writes")\n        operation.process.missing.discard(operation.path)\n',
            ),
        ),
        _killer("B71i"),
    ),
    Mutant(
        "B76i",
        "base: vouched for by the cache",
        "A base that the cache still holds counts as current, whatever the file says by now.",
        "SNAP2",
        (
            Patch(
                "store",
                _BASE_HOLDS,
                "            kept = record is not None and record.content is base.content\n"
                "            self._version = file._version(file.identity()) if kept else file.holds(base.content)\n",
            ),
        ),
        _killer("B76i"),
    ),
    Mutant(
        "B77i",
        "base: compared by size",
        "A base of the file's size counts as what the file holds.",
        "SNAP2",
        (
            Patch(
                "store",
                _BASE_HOLDS,
                "            same = file.identity().size_bytes == base.content.size_bytes\n"
                "            self._version = file._version(file.identity()) if same else None\n",
            ),
        ),
        _killer("B77i"),
    ),
    Mutant(
        "B77j",
        "cache: oversized content recognised by size",
        "Positions that are kept of a large file are used for any other content of its size.",
        "CACHE6",
        (
            Patch(
                "cache",
                "        return laid_out if ContentDigest.of(laid_out) == self.digest else None\n",
                "        return laid_out\n",
            ),
        ),
        _killer("B77j"),
    ),
    Mutant(
        "B56i",
        "cache: a clock set back goes unnoticed",
        "Stamps are believed although the wall clock was set back and hands them out a second time.",
        "CACHE6",
        (Patch("cache", " and now.wall_offset_ns >= self.stored.wall_offset_ns - _CLOCK_TOLERANCE_NS\n", "\n"),),
        _killer("B56i"),
    ),
    Mutant(
        "B56j",
        "cache: a clock set back during a read goes unnoticed",
        "Whether the clock was set back since is judged from the moment when a version was kept, not when it was read.",
        "CACHE6",
        (
            Patch(
                "store",
                "self._looked_up is not None and self._looked_up.wall_offset_ns > stored.wall_offset_ns",
                "self._looked_up is None",
            ),
        ),
        _killer("B56j"),
    ),
    Mutant(
        "B77k",
        "base: compared at its beginning",
        "Of a base of many chunks, those that are read at a time are compared, and no further ones.",
        "SNAP2",
        (
            Patch(
                "files",
                "        for first in range(0, len(chunks), _COMPARED_CHUNKS):\n",
                "        for first in range(0, 1, _COMPARED_CHUNKS):\n",
            ),
        ),
        ("tests/concurrency/test_explored_large.py::test_a_race_over_several_chunks[several-chunks-oversized]",),
    ),
)

_BY_ID = {mutant.id: mutant for mutant in INTERLEAVING_MUTANTS}


def planted(mutant_id: str) -> Callable[[str, str], str]:
    """What plants that bug, for counterexamples, which name it by import path and id."""
    return _BY_ID[mutant_id].transform
