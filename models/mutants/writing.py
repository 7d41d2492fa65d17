"""Planted bugs in updates and in what they put on disk."""

from __future__ import annotations

from models.mutants.planting import Mutant, Patch

_WRITE = "tests/unit/test_promises_write.py::"
_SNAPSHOT = "tests/unit/test_promises_snapshot.py::"

_RUN = """            result = mutator(draft)
            refuse_unrun(result)
            self.publish()
"""
_FILES = "tests/unit/test_files.py::"
_READ_CONTENT = "        content, self._version = file.read()\n"
_REPLACE = """            os.replace(temporary, path)
            return
"""
_RESOLVE = """    resolved = os.path.realpath(path)
    if os.path.islink(resolved):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return resolved
"""
_CONTENT_TO_WRITE = "        operation, content = self._operation, self._require(new.content)\n"
_BASE_HOLDS = "            self._version = file.holds(base.content)\n"
_LOOKED_ONCE_MORE = "        unchanged = self._is_unchanged if self._replacement is None else None\n"
_TEMPORARY_NAME = """\
return os.path.join(os.path.dirname(path), f"{temporary_prefix(path)}{unique}{_TEMPORARY_SUFFIX}")
"""

WRITE_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B23",
        "write: in place",
        "The new content is written over the old one, truncated first, instead of beside it.",
        "WRITE2",
        (
            Patch(
                "files",
                _REPLACE,
                """            with open(temporary, "rb") as new, open(path, "wb") as file:
                file.write(new.read())
            os.unlink(temporary)
            return
""",
            ),
        ),
        (
            "tests/concurrency/test_readers.py::test_a_version_that_is_open_never_changes",
            f"{_WRITE}test_between_any_two_calls_of_a_write_a_reader_finds_a_whole_state[off]",
        ),
    ),
    Mutant(
        "B34",
        "write: fixed temporary name",
        "The temporary file has one name, which is taken over without a look at whose file that is.",
        "WRITE4",
        (
            Patch("files", _TEMPORARY_NAME, 'del unique\n    return path + ".tmp"\n'),
            Patch("files", "    | os.O_EXCL\n", "    | os.O_TRUNC\n"),
        ),
        ("tests/concurrency/test_killed.py::test_files_that_only_look_alike_are_not_swept",),
    ),
    Mutant(
        "B35",
        "write: clean-up takes a living writer's file",
        "Temporary files are swept before the lock is held, those of a writer at work among them.",
        "WRITE4",
        (
            Patch(
                "store",
                "        make_parents(path)\n",
                "        make_parents(path)\n        sweep_temporary_files(path)\n",
            ),
        ),
        ("tests/concurrency/test_killed.py::test_a_living_writers_temporary_file_is_never_touched",),
    ),
    Mutant(
        "B40",
        "write: symbolic link replaced",
        "Only the directory of the path is resolved, so the rename puts a regular file in the place of a link.",
        "WRITE8",
        (
            Patch(
                "files",
                _RESOLVE,
                "    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))\n",
            ),
        ),
        (f"{_WRITE}test_a_symbolic_link_stays_one",),
    ),
    Mutant(
        "B46",
        "update: cached content under the lock",
        "An update starts from what the process has cached, without a look at the file.",
        "WRITE1",
        (
            Patch(
                "store",
                _READ_CONTENT,
                _READ_CONTENT
                + "        if operation.record is not None and operation.record.content is not None:\n"
                + "            content = operation.record.content\n",
            ),
            Patch("store", _LOOKED_ONCE_MORE, "        unchanged = None\n"),
        ),
        (f"{_WRITE}test_an_update_starts_from_the_file_and_not_from_memory",),
    ),
    Mutant(
        "B50",
        "update: a failing mutator leaves half a change",
        "What a mutator had done when it raised is published.",
        "SNAP6",
        (
            Patch(
                "store",
                _RUN,
                "            try:\n                result = mutator(draft)\n"
                "            finally:\n                self.publish()\n",
            ),
        ),
        (f"{_SNAPSHOT}test_a_mutator_that_raises_leaves_no_trace",),
    ),
    Mutant(
        "B51",
        "update: the result taken for the new store",
        "A mapping that a mutator returns replaces the whole content.",
        "WRITE1",
        (
            Patch(
                "store",
                _RUN,
                """            result = mutator(draft)
            if isinstance(result, Mapping):
                self.replace_all(encode_all(result))
            self.publish()
""",
            ),
        ),
        (f"{_WRITE}test_what_a_mutator_returns_means_nothing_to_the_store",),
    ),
    Mutant(
        "B64",
        "update: no change, judged by a remembered serialization",
        "A write is skipped because it equals what this process last knew, although another one has written since.",
        "WRITE6",
        (
            Patch(
                "store",
                _CONTENT_TO_WRITE,
                _CONTENT_TO_WRITE
                + "        known = None if operation.record is None else operation.record.content\n"
                + "        if known is not None and known.is_same(content):\n"
                + '            operation.count("noop_writes")\n'
                + "            return new\n",
            ),
        ),
        (f"{_WRITE}test_a_save_is_judged_against_the_disk_and_not_against_memory",),
    ),
    Mutant(
        "B65",
        "update: no change, judged by ==",
        "Entries that Python calls equal count as unchanged, so True for 1 is never written.",
        "WRITE6",
        (
            Patch(
                "draft",
                "    return old == new or encode_entry(decode_entry(old)) == new\n",
                "    return old == new or decode_entry(old) == decode_entry(new)\n",
            ),
        ),
        (f"{_WRITE}test_a_change_of_type_is_a_change",),
    ),
    Mutant(
        "B76",
        "base: compared before the lock is taken",
        "The base is compared with the file when the update begins; under the lock that answer is believed.",
        "SNAP2",
        (
            Patch(
                "store",
                "        self._lock = WriteLock(path, shared,",
                "        if self._base is not None and self._base.content is not None:\n"
                "            with OpenFile(path) as file:\n"
                "                self._matched = file.holds(self._base.content)\n"
                "        self._lock = WriteLock(path, shared,",
            ),
            Patch(
                "store",
                "        self.reused = False\n",
                "        self._matched: FileVersion | None = None\n        self.reused = False\n",
            ),
            Patch("store", _BASE_HOLDS, "            self._version = self._matched\n"),
            Patch("store", _LOOKED_ONCE_MORE, "        unchanged = None\n"),
        ),
        ("tests/concurrency/test_lock.py::test_a_waiting_update_starts_from_what_the_holder_wrote",),
    ),
    Mutant(
        "B77",
        "base: digest of normalised content",
        "The digest of an oversized file leaves white space out, so that another layout looks like the same version.",
        "SNAP2",
        (
            Patch(
                "digest",
                "hashlib.sha256(chunk).digest()",
                'hashlib.sha256(chunk.translate(None, b" \\r\\n\\t")).digest()',
            ),
        ),
        (f"{_SNAPSHOT}test_another_layout_of_the_same_content_is_read_anew[same size-oversized]",),
    ),
    Mutant(
        "B77m",
        "update: oversized version recognised by size",
        "An update uses the positions that are kept of a large file for any other content of its size.",
        "SNAP5",
        (
            Patch(
                "files",
                "is_same = ContentDigest.of(content) == digest and self.identity() == identity",
                "is_same = self.identity() == identity",
            ),
        ),
        (f"{_FILES}test_what_a_stranger_wrote_is_found_whatever_the_stamps_say[no base-oversized]",),
    ),
    Mutant(
        "B78",
        "base: the caller's object is the new content",
        "An update with a base starts from the caller's dict, edits that were never acknowledged included.",
        "SNAP3",
        (
            Patch(
                "functions",
                "    done = SessionStore(path).update(mutator, base=base)\n",
                """    def on_base(draft: Any) -> T:
        if base is not None and base_store is not None:
            draft.clear()
            draft.update(base_store)
        return mutator(draft)

    done = SessionStore(path).update(on_base, base=base)
""",
            ),
        ),
        (f"{_SNAPSHOT}test_edits_of_a_base_never_reach_the_file",),
    ),
    Mutant(
        "B87",
        "json: big integers",
        "Entries are decoded by a parser that turns integers beyond 64 bits into floats.",
        "WRITE7",
        (
            Patch(
                "encoding",
                '    value: dict[str, Any] = _decoder.decode(text.decode("utf-8"))\n',
                "    value: dict[str, Any] = orjson.loads(text)\n",
            ),
        ),
        (f"{_WRITE}test_a_touched_entry_keeps_its_other_values[big integer]",),
    ),
    Mutant(
        "B88",
        "json: lone surrogates",
        "An entry with half a surrogate pair cannot be written back.",
        "WRITE7",
        (
            Patch(
                "encoding",
                '    return text.encode("utf-8", "backslashreplace")\n',
                '    return text.encode("utf-8", "replace")\n',
            ),
        ),
        (f"{_WRITE}test_a_touched_entry_keeps_its_other_values[lone surrogate]",),
    ),
)
