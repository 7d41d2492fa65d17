"""Planted bugs in the write lock: what it locks, who gets it, and when it is given back."""

from __future__ import annotations

from models.mutants.planting import Mutant, Patch

_LOCK = "tests/concurrency/test_lock.py::"
_FOREIGN_HOLDER = f"{_LOCK}test_a_foreign_holder_keeps_every_writer_out[0.0-update]"
_FOREIGN_HOLDER_OF_SAVE = f"{_LOCK}test_a_foreign_holder_keeps_every_writer_out[0.0-save]"
_FOREIGN_HOLDER_WAITED_FOR = f"{_LOCK}test_a_foreign_holder_keeps_every_writer_out[0.15-update]"
_SLOW_HOLDER = f"{_LOCK}test_a_slow_holder_keeps_its_lock[foreign]"
_FORKS = "tests/concurrency/test_forks.py::"

_BUSY = """            except BlockingIOError:
                if self._timeout_s == 0:
"""
_IS_AT_PATH = """            if _is_file_at(self.descriptor, self._lock_path):
                return
"""
_FIRST_TRY = "fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)"
_WAIT = "fcntl.flock(self._descriptor, fcntl.LOCK_EX)"
_UNLOCK = """        # Explicitly: closing alone frees nothing while a forked child holds the same open file.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
"""
_CLOSE_INHERITED = """\
with contextlib.suppress(OSError):  # closed in the parent at the very moment of the fork
                    os.close(descriptor)
"""
_NESTED_IN_CONTEXT = """\
if _current_task() is None and any(lock.is_held_on(self._path) for lock in _taken_here.get()):
            raise ReentrantUpdateError(self._path)
"""
_NESTED_IN_THREAD = """\
# Also for another task of this thread: blocking the thread would keep that task from ever releasing.
                raise ReentrantUpdateError(self._path)
"""
_RUN = """            draft = self.__enter__()
            result = mutator(draft)
            refuse_unrun(result)
            self.publish()
"""
_RELEASE_TWICE = """            try:
                self.release()
            finally:
                self.release()
        return result
"""
_FINALIZER = """        if self._lock is not None:
            self.release_twice()

    def run("""

LOCK_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B03",
        "lock: on the replaced data file",
        "The lock is taken on the store file itself, which every publication replaces by another inode.",
        "LOCK1",
        (
            Patch("lock", "self._lock_path = path + LOCK_SUFFIX", "self._lock_path = path"),
            Patch("lock", _IS_AT_PATH, "            return\n"),
        ),
        (_FOREIGN_HOLDER,),
    ),
    Mutant(
        "B05",
        "lock: live holder reaped by age",
        "A lock file older than half a minute is unlinked, whether its holder lives or not.",
        "LOCK2",
        (
            Patch(
                "lock",
                _BUSY,
                """            except BlockingIOError:
                if time.time() - os.stat(self._lock_path).st_mtime > 30:
                    os.unlink(self._lock_path)
                    self._give_back()
                    return self._lock_descriptor()
                if self._timeout_s == 0:
""",
            ),
        ),
        (_SLOW_HOLDER,),
    ),
    Mutant(
        "B08",
        "lock: fail-open on timeout",
        "When the time is over the update goes on without the lock.",
        "LOCK2",
        (
            Patch(
                "lock",
                "                return True\n            raise self._timeout_error()\n",
                "                return True\n            self.descriptor = os.open(self._lock_path, os.O_RDWR)\n"
                "            return True\n",
            ),
        ),
        (_FOREIGN_HOLDER_WAITED_FOR,),
    ),
    Mutant(
        "B11",
        "lock: POSIX record lock",
        "lockf instead of flock: another lock than everybody else's, lost when any descriptor of the file is closed.",
        "LOCK1",
        (
            Patch("lock", _FIRST_TRY, _FIRST_TRY.replace("flock", "lockf", 1)),
            Patch("lock", _WAIT, _WAIT.replace("flock", "lockf", 1)),
        ),
        (_FOREIGN_HOLDER,),
    ),
    Mutant(
        "B13",
        "lock: forked child unlocks its parent",
        "What a fork inherits is unlocked before it is closed, which frees the lock of the parent.",
        "LOCK4",
        (
            Patch(
                "lock",
                _CLOSE_INHERITED,
                "_unlock(descriptor)\n                os.close(descriptor)\n",
            ),
        ),
        (f"{_FORKS}test_a_fork_inside_an_edit_neither_holds_nor_frees_the_lock",),
    ),
    Mutant(
        "B14",
        "lock: descriptor inherited, never freed",
        "The lock is given back by closing alone, and a fork keeps the open lock file.",
        "LOCK4",
        (
            Patch("lock", _UNLOCK, "        pass\n"),
            Patch("lock", _CLOSE_INHERITED, "continue\n"),
        ),
        (f"{_FORKS}test_a_living_fork_does_not_keep_its_parents_lock",),
    ),
    Mutant(
        "B16",
        "lock: state of the process survives a fork",
        "A forked child goes on with what its parent had in memory: its queue, its turn, and its caches.",
        "LOCK4",
        (Patch("process", "    inherited = PROCESS\n    PROCESS = Process()\n", "    inherited = PROCESS\n"),),
        (f"{_FORKS}test_a_fork_starts_with_empty_caches",),
    ),
    Mutant(
        "B17",
        "lock: nested update waits for itself",
        "Nobody looks whether the holder is the one who asks, so a nested update waits until its time is over.",
        "LOCK4",
        (Patch("lock", _NESTED_IN_CONTEXT, "\n"), Patch("lock", _NESTED_IN_THREAD, "pass\n")),
        ("tests/concurrency/test_nesting.py::test_a_nested_write_raises_at_once[update]",),
    ),
    Mutant(
        "B21",
        "lock: signal in the gap",
        "The lock is given back once, and whoever interrupts that leaves it held.",
        "LOCK5",
        (
            Patch("store", _RELEASE_TWICE, "            self.release()\n        return result\n"),
            Patch("store", _FINALIZER, "        del self\n\n    def run("),
        ),
        ("tests/concurrency/test_interrupts.py::test_interrupted_at_every_moment_of_waiting",),
    ),
    Mutant(
        "B21m",
        "lock: a mutex that is taken and not given back",
        "Whoever is interrupted right after taking a mutex, before the block that it guards, leaves it taken.",
        "LOCK5",
        (Patch("mutex", "                self.release()\n", "                pass\n"),),
        ("tests/unit/test_mutex.py::test_an_interruption_right_after_taking_it_leaves_it_free",),
    ),
    Mutant(
        "B45",
        "update: read before the lock",
        "The content is read first and the lock is taken then.",
        "WRITE1",
        (
            Patch(
                "store",
                "            lock.acquire()\n            draft = self.begin()\n",
                "            draft = self.begin()\n            lock.acquire()\n",
            ),
        ),
        (f"{_LOCK}test_a_waiting_update_starts_from_what_the_holder_wrote",),
    ),
    Mutant(
        "B47",
        "update: lock given back while the mutator works",
        "Others may write while a slow mutator works; the lock is taken again to publish.",
        "LOCK1",
        (
            Patch(
                "store",
                _RUN,
                """            draft = self.__enter__()
            lock = self._require(self._lock)
            lock._give_back()
            result = mutator(draft)
            lock.acquire_from_kernel()
            self.publish()
""",
            ),
        ),
        (f"{_LOCK}test_the_lock_is_held_while_a_mutator_works[update]",),
    ),
    Mutant(
        "B48",
        "update: lock of the process only",
        "Threads exclude each other, processes do not.",
        "LOCK1",
        (
            Patch(
                "lock",
                "            self.acquire_from_kernel()\n            self.note_held()\n",
                "            self.note_held()\n",
            ),
        ),
        (_FOREIGN_HOLDER,),
    ),
    Mutant(
        "B49",
        "update: one writer skips the lock",
        "A save takes no lock, a rename being atomic anyway.",
        "LOCK1",
        (
            Patch(
                "store",
                "            lock.acquire()\n            draft = self.begin()\n",
                "            if self._replacement is None:\n                lock.acquire()\n"
                "            draft = self.begin()\n",
            ),
            Patch(
                "store",
                "        edit.run(lambda _: edit.replace_all(encoded))\n",
                "        edit.replace_all(encoded)\n        edit.run(lambda _: None)\n",
            ),
        ),
        (_FOREIGN_HOLDER_OF_SAVE,),
    ),
)
