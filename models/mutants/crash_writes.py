"""Planted bugs that show only after a power loss, or when a system call fails or is interrupted.

`SIGKILL` shows none of the first kind: the kernel keeps the page cache of a killed process.
`tests/crash/test_mutants.py` says in which models of a file system each of them is visible.
"""

from __future__ import annotations

from models.mutants.planting import Mutant, Patch

_POWER_LOSS = "tests/crash/test_power_loss.py::test_every_crash_state_of_a_history_recovers"
_FAILING = "tests/crash/test_failing_calls.py::test_a_failing_call_leaves_nothing_wrong"
_INTERRUPTED = "tests/crash/test_failing_calls.py::test_an_interrupt_at_any_call_leaves_nothing_wrong"
_REFUSED = "tests/crash/test_refused_files.py"

_FSYNC = """and a second one would lie.
            os.fsync(descriptor)
"""
_NO_FSYNC = "and a second one would lie.\n"
_RENAME = """            _replace(temporary, path)
            renamed = True
"""
_SYNC_NAMES = """        sync_directory(os.path.dirname(path))
        return identity
"""
_WRITE = "            _write_all(descriptor, content.chunks)\n"
_KEEP_MODE = """            if replaced is not None:
                _keep_mode_and_owner(descriptor, replaced)
"""
_CLEAN_UP = """        if not renamed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
"""
_REPLACE = """            os.replace(temporary, path)
            return
"""
_COPY_SYNCED = """            _write_all(descriptor, (raw,))
            os.fsync(descriptor)
"""
_COPY_NAMED = "        name = _give_free_name(temporary, path + suffix)\n"
_BACK_UP = """    name = copy_aside(path, raw, suffix=f".bak.{now_ms}", mode=mode)
    # Not the new one, whatever its name says: the clock may have been set back.
    for old in [backup for backup in backups(path) if backup != name][KEPT_BACKUPS - 1 :]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old)
    return name
"""
_COPY_ASIDE = "    copy = copy_aside(path, raw, suffix=suffix, mode=version.mode)\n"
_PUBLISH_OR_DROP = """            identity = self._publish(content)
        except BaseException:
            # Whatever the disk holds now, nothing in memory may be ahead of it or vouch for it.
            operation.drop()
            raise
"""


_RELEASE = """        finally:
            # Twice, and here instead of in a `with` statement: see `__del__`. Whatever a signal handler interrupts, the
            # other call makes good before the caller goes on.
            try:
                self.release()
            finally:
                self.release()
        return result
"""
_RELEASE_UNLESS_INTERRUPTED = """        except Exception:
            self.release()
            raise
        self.release()
        return result
"""


def _files(*replacements: tuple[str, str]) -> tuple[Patch, ...]:
    return tuple(Patch("files", old, new) for old, new in replacements)


CRASH_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B21c",
        "lock: not given back when interrupted",
        "The lock is given back when an update ends or fails, but not when KeyboardInterrupt comes between.",
        "LOCK5",
        (Patch("store", _RELEASE, _RELEASE_UNLESS_INTERRUPTED),),
        (f"{_INTERRUPTED}[update-interrupt before]",),
    ),
    Mutant(
        "B24",
        "write: no fsync before the rename",
        "The temporary file is renamed into place without having been synced.",
        "WRITE3",
        _files((_FSYNC, _NO_FSYNC)),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B25",
        "write: fsync after the rename",
        "The file is synced when it has already replaced the old one.",
        "WRITE3",
        _files((_FSYNC, _NO_FSYNC), (_RENAME, _RENAME + "            os.fsync(descriptor)\n")),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B26",
        "write: fsync before the last write",
        "The last piece of the content is written after the fsync.",
        "WRITE3",
        _files(
            (_WRITE, "            raw = content.joined()\n            _write_all(descriptor, (raw[:-1],))\n"),
            (_FSYNC, _FSYNC + "            _write_all(descriptor, (raw[-1:],))\n"),
        ),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B27",
        "write: directory not synced",
        "A save is acknowledged before the new name is durable.",
        "WRITE3",
        _files((_SYNC_NAMES, "        return identity\n")),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B28",
        "write: directory synced before the rename",
        "The directory is synced too early, and not again.",
        "WRITE3",
        _files(
            (_RENAME, "            sync_directory(os.path.dirname(path))\n" + _RENAME),
            (_SYNC_NAMES, "        return identity\n"),
        ),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B29",
        "write: new parent directory never synced",
        "Directories are made without syncing their names into the directories above them.",
        "WRITE3",
        _files(
            (
                "    if replaced is None:\n"
                "        # Before the file is there: a later writer that finds the file relies on its directories.\n"
                "        sync_ancestors(os.path.dirname(path))\n",
                "",
            )
        ),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B30",
        "write: fsync error swallowed",
        "A failing fsync is ignored and the rename goes on.",
        "WRITE5",
        _files(
            (
                _FSYNC,
                _NO_FSYNC + "            with contextlib.suppress(OSError):\n                os.fsync(descriptor)\n",
            )
        ),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B30b",
        "write: fsync retried",
        "After a failing fsync a second one is believed, although the kernel has given the content up.",
        "WRITE3",
        _files(
            (
                _FSYNC,
                _NO_FSYNC
                + """            try:
                os.fsync(descriptor)
            except OSError:
                os.fsync(descriptor)
""",
            )
        ),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B31",
        "write: short write ignored",
        "What a single write call did not take is left out.",
        "WRITE5",
        _files(("            rest[0] = memoryview(rest[0])[written:]\n", "            return\n")),
        (f"{_FAILING}[save-short]",),
    ),
    Mutant(
        "B32",
        "write: half a file published on failure",
        "The temporary file is put in place also when writing it has failed.",
        "WRITE5",
        _files((_CLEAN_UP, "        if not renamed:\n            os.replace(temporary, path)\n")),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B33",
        "write: temporary file left on failure",
        "Every failed save leaves its temporary file behind.",
        "WRITE5",
        _files((f"    finally:\n{_CLEAN_UP}", "    finally:\n        pass\n")),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B36",
        "write: rename across devices becomes a copy",
        "shutil.move silently copies where a rename is not possible.",
        "WRITE5",
        _files(
            (_REPLACE, "            import shutil\n\n            shutil.move(temporary, path)\n            return\n")
        ),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B37",
        "write: falls back to writing in place",
        "When the rename fails the file itself is overwritten.",
        "WRITE5",
        _files(
            (
                _REPLACE,
                """            try:
                os.replace(temporary, path)
            except OSError:
                with open(temporary, "rb") as source, open(path, "wb") as target:
                    target.write(source.read())
            return
""",
            )
        ),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B38",
        "write: mode and owner lost",
        "The new version has the mode of a fresh temporary file.",
        "WRITE8",
        _files((_KEEP_MODE, "")),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B38b",
        "write: owner lost",
        "The new version keeps the mode, but belongs to whoever wrote it.",
        "WRITE8",
        _files(
            (
                "            os.fchown(descriptor, replaced.owner, replaced.group)\n        except",
                "            pass\n        except",
            )
        ),
        (f"{_POWER_LOSS}[file of another user, saved by root]",),
    ),
    Mutant(
        "B39",
        "write: chmod by path after the rename",
        "Mode and owner are restored when the file is already in place.",
        "WRITE8",
        _files(
            (_KEEP_MODE, ""),
            (
                _RENAME,
                _RENAME + "            if replaced is not None:\n                os.chmod(path, replaced.mode)\n",
            ),
        ),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B41",
        "write: read-only file overwritten",
        "A file that the process may not write is replaced, because a rename does not ask.",
        "WRITE8",
        (Patch("store", "                require_writable(operation.path)\n", ""),),
        (f"{_REFUSED}::test_a_read_only_file_is_not_replaced",),
    ),
    Mutant(
        "B42",
        "write: old file removed first",
        "The old version is unlinked before the new one is renamed into its place.",
        "WRITE3",
        _files(
            (
                _RENAME,
                "            with contextlib.suppress(FileNotFoundError):\n                os.unlink(path)\n" + _RENAME,
            )
        ),
        (_POWER_LOSS,),
    ),
    Mutant(
        "B42b",
        "write: old file moved away first",
        "A backup is made by renaming the live file.",
        "MAINT2",
        (
            Patch(
                "maintenance",
                '    name = copy_aside(path, raw, suffix=f".bak.{now_ms}", mode=mode)\n',
                '    name = f"{path}.bak.{now_ms}"\n    os.replace(path, name)\n',
            ),
            Patch(
                "store",
                "        unchanged = self._is_unchanged if self._replacement is None else None\n",
                "        unchanged = None\n",
            ),
        ),
        (f"{_POWER_LOSS}[backups by maintenance]",),
    ),
    Mutant(
        "B43",
        "write: backup not durable",
        "The copy that a backup is is not synced before it gets its name.",
        "MAINT2",
        _files((_COPY_SYNCED, "            _write_all(descriptor, (raw,))\n")),
        (f"{_POWER_LOSS}[backups by maintenance]",),
    ),
    Mutant(
        "B43b",
        "write: backup name not durable",
        "The directory is not synced after the copy got its name.",
        "MAINT2",
        _files(("    sync_directory(os.path.dirname(path))\n    return name\n", "    return name\n")),
        (f"{_POWER_LOSS}[backups by maintenance]",),
    ),
    Mutant(
        "B43c",
        "write: old backups removed first",
        "Older backups are removed before the new one is durable, so that for a while there is none.",
        "MAINT2",
        (
            Patch(
                "maintenance",
                _BACK_UP,
                """    for old in backups(path)[: KEPT_BACKUPS]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old)
    return copy_aside(path, raw, suffix=f".bak.{now_ms}", mode=mode)
""",
            ),
        ),
        (f"{_POWER_LOSS}[backups by maintenance]",),
    ),
    Mutant(
        "B63",
        "cache: updated before the write",
        "The cache learns of the new content before it is on disk, and keeps it when the write fails.",
        "CACHE9",
        (
            Patch(
                "store",
                _PUBLISH_OR_DROP,
                """            if self._version is not None:
                operation.remember(self._version, new)
            identity = self._publish(content)
        except BaseException:
            raise
""",
            ),
        ),
        (f"{_FAILING}[save-errno]",),
    ),
    Mutant(
        "B81",
        "repair: corrupt file moved away",
        "The corrupt file is renamed to be its own copy, so that for a while there is no store file.",
        "READ2",
        (
            Patch("cli.repair", _COPY_ASIDE, "    copy = path + suffix\n    os.replace(path, copy)\n"),
            Patch("cli.repair", "unchanged=_still_holds(path, Content.of(raw)))", "unchanged=None)"),
        ),
        (f"{_POWER_LOSS}[repair of a corrupt file]",),
    ),
    Mutant(
        "B81b",
        "repair: copies overwrite each other",
        "The copy's name is made of the second alone, and an older copy of that name is replaced.",
        "READ2",
        (
            Patch("cli.repair", "{when}-{os.urandom(4).hex()}", "{when}"),
            Patch("files", _COPY_NAMED, "        name = path + suffix\n        os.replace(temporary, name)\n"),
        ),
        (f"{_REFUSED}::test_repairs_within_one_second_keep_both_copies",),
    ),
    Mutant(
        "B82",
        "json: I/O error taken for an empty store",
        "Whatever keeps load() from opening the file counts as no file.",
        "READ1",
        (
            Patch(
                "store",
                """        except FileNotFoundError:
            self.drop()
            return self.empty(), False
""",
                """        except OSError:
            self.drop()
            return self.empty(), False
""",
            ),
        ),
        (
            f"{_FAILING}[load without a cache-errno]",
            "tests/unit/test_promises_read.py::test_only_a_missing_file_is_empty[load]",
        ),
    ),
    Mutant(
        "B83",
        "json: errors other than JSONDecodeError escape",
        "Too deep nesting and too long integers are not taken for corruption.",
        "READ2",
        (
            Patch(
                "snapshot",
                """        except RecursionError:
            raise self.too_deep(start) from None
        except ValueError as error:
            raise self.corrupt(start, f"an entry cannot be read: {error}") from None
""",
                "",
            ),
        ),
        (f"{_REFUSED}::test_corrupt_files_are_refused_and_stay",),
    ),
    Mutant(
        "B97",
        "write: relies on auto_da_alloc",
        "Only the first save is synced: ext4 flushes what replaces an existing file, by default.",
        "WRITE3",
        _files((_FSYNC, _NO_FSYNC + "            if replaced is None:\n                os.fsync(descriptor)\n")),
        (_POWER_LOSS,),
    ),
)
