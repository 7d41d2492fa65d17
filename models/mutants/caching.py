"""Planted bugs in what a process keeps, for how long, and when it believes it."""

from __future__ import annotations

from models.mutants.planting import Mutant, Patch

_CACHE = "tests/unit/test_promises_cache.py::"
_REWRITE = f"{_CACHE}test_a_rewrite_of_the_same_size_is_seen"
_ALIASES = "tests/concurrency/test_aliases.py::test_one_record_and_one_warning_for_all_names"

_IDENTITY = "        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)\n"
_SETTLED = "        return max(_settled_from_ns(self.mtime_ns), _settled_from_ns(self.ctime_ns)) <= now_ns\n"
_FRESH = """            if identity == record.identity:
                return Snapshot("""
_PUT = """        self._remove(path)
        if not is_enabled(settings):
            return
        if record.content is not None"""
_ENOUGH_ROOM = "    whole = _fits_whole(content.size_bytes, settings)\n"
_COST = "        return self.index.cost_bytes if self.content is None else self.content.size_bytes\n"
_CHARACTERS = "len(content.joined().decode())"
_TOO_COSTLY = """        if record.cost_bytes > settings.object_cache_max_bytes:
            return
"""

CACHE_MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "B09",
        "cache: path aliases",
        "Caches, lock and warnings go by the spelling of the path; only the file that is written is resolved.",
        "CACHE8",
        (
            Patch("store", "        return Operation(resolve(self._path), ", "        return Operation(self._path, "),
            Patch(
                "files",
                "            _replace(temporary, path)\n",
                "            _replace(temporary, os.path.realpath(path))\n",
            ),
        ),
        (_ALIASES,),
    ),
    Mutant(
        "B53",
        "cache: modification time only",
        "A cached store is believed as long as the file's time of modification is the same.",
        "CACHE6",
        (
            Patch(
                "store",
                _FRESH,
                _FRESH.replace(
                    "identity == record.identity",
                    "identity is not None and identity.mtime_ns == record.identity.mtime_ns",
                ),
            ),
        ),
        (_REWRITE,),
    ),
    Mutant(
        "B54",
        "cache: size and time within one tick",
        "Size and time of modification stand for the content, also of a file that was written a moment ago.",
        "CACHE6",
        (
            Patch("files", _IDENTITY, "        return cls(status.st_dev, 0, status.st_size, status.st_mtime_ns, 0)\n"),
            Patch("files", _SETTLED, "        return self.mtime_ns <= now_ns\n"),
        ),
        (_REWRITE,),
    ),
    Mutant(
        "B55",
        "cache: inode numbers return",
        "Inode, size and time of modification stand for the content; the time of change is not looked at.",
        "CACHE6",
        (
            Patch(
                "files",
                _IDENTITY,
                _IDENTITY.replace("status.st_ctime_ns", "status.st_mtime_ns"),
            ),
        ),
        (f"{_REWRITE}[kept-in place]",),
    ),
    Mutant(
        "B56",
        "cache: time running backwards",
        "A file that is not newer than what is cached counts as unchanged.",
        "CACHE6",
        (
            Patch(
                "store",
                _FRESH,
                _FRESH.replace(
                    "identity == record.identity",
                    "identity is not None and identity.mtime_ns <= record.identity.mtime_ns",
                ),
            ),
        ),
        (f"{_CACHE}test_a_file_that_is_older_than_what_is_cached_is_seen",),
    ),
    Mutant(
        "B58",
        "cache: stat after read",
        "The content is kept with the identity that the path has after it was read, whoever it belongs to by then.",
        "CACHE6",
        (
            Patch(
                "files",
                """        return FileVersion(
            identity,
""",
                """        return FileVersion(
            Identity.of(os.stat(self.path)),
""",
            ),
        ),
        (f"{_CACHE}test_a_foreign_writer_at_any_moment_of_a_load_is_seen_by_the_next",),
    ),
    Mutant(
        "B61",
        "cache: aliased value",
        "Decoded entries are memoized and handed out to every caller.",
        "CACHE7",
        (
            Patch("encoding", "import json\nimport math\n", "import functools\nimport json\nimport math\n"),
            Patch("encoding", "def decode_entry(", "@functools.lru_cache(maxsize=4096)\ndef decode_entry("),
        ),
        (f"{_CACHE}test_editing_what_a_call_returned_changes_nothing_else",),
    ),
    Mutant(
        "B62",
        "cache: aliased on put",
        "An asynchronous save encodes what it was given when the lock has come, not when it was called.",
        "CACHE7",
        (
            Patch(
                "aio",
                "        encoded = encode_all(sessions)\n",
                "",
            ),
            Patch("aio", "edit.sync.replace_all(encoded)", "edit.sync.replace_all(encode_all(sessions))"),
        ),
        (f"{_CACHE}test_what_an_awaited_save_writes_is_what_it_was_given",),
    ),
    Mutant(
        "B66",
        "cache: age by the wall clock",
        "Ages are differences of the wall clock, which may be set.",
        "CACHE4",
        (Patch("store", "Moment(time.monotonic_ns(), time.time_ns())", "Moment(time.time_ns(), time.time_ns())"),),
        (f"{_CACHE}test_the_wall_clock_does_not_matter_for_ages",),
    ),
    Mutant(
        "B69",
        "cache: seconds for milliseconds",
        "The lifetime is a thousand times as long as configured.",
        "CACHE4",
        (Patch("cache", "settings.cache_ttl_ms * 1_000_000", "settings.cache_ttl_ms * 1_000_000_000"),),
        (f"{_CACHE}test_what_is_as_old_as_the_lifetime_is_served_and_older_is_not",),
    ),
    Mutant(
        "B70",
        "cache: lifetime off by one",
        "What is exactly as old as the lifetime is not served any more.",
        "CACHE4",
        (Patch("cache", "record.stored.monotonic_ns > ttl_ns", "record.stored.monotonic_ns >= ttl_ns"),),
        (f"{_CACHE}test_what_is_as_old_as_the_lifetime_is_served_and_older_is_not",),
    ),
    Mutant(
        "B71",
        "cache: hits renew the life",
        "A record that is used often enough never expires.",
        "CACHE4",
        (
            Patch("cache", "from dataclasses import dataclass\n", "from dataclasses import dataclass, replace\n"),
            Patch(
                "cache",
                "        for path in expired:\n            self._remove(path)\n",
                "        for path in expired:\n            self._remove(path)\n        self._now = now\n",
            ),
            Patch(
                "cache",
                "        self._records.move_to_end(path)\n",
                "        record = self._records[path] = replace(record, stored=self._now)\n"
                "        self._records.move_to_end(path)\n",
            ),
        ),
        (f"{_CACHE}test_hits_do_not_prolong_a_life",),
    ),
    Mutant(
        "B72",
        "cache: characters for bytes",
        "The limit is compared with the number of characters.",
        "CACHE1",
        (
            Patch("cache", _ENOUGH_ROOM, _ENOUGH_ROOM.replace("content.size_bytes", _CHARACTERS)),
            Patch("cache", '            raise ValueError("an oversized record holds bytes")\n', "            pass\n"),
            Patch(
                "cache", _COST, _COST.replace("self.content.size_bytes", f"{_CHARACTERS}").replace("len(", "len(self.")
            ),
        ),
        (f"{_CACHE}test_the_limit_is_in_bytes_and_inclusive",),
    ),
    Mutant(
        "B73",
        "cache: accounting drifts",
        "A record that is replaced is not subtracted from the bytes held.",
        "CACHE5",
        (Patch("cache", _PUT, _PUT.replace("self._remove(path)", "self._records.pop(path, None)")),),
        (f"{_CACHE}test_the_byte_count_is_what_is_held",),
    ),
    Mutant(
        "B74",
        "cache: not dropped on growth",
        "A file that has become too large returns early and leaves the small record that was kept of it.",
        "CACHE2",
        (Patch("cache", _PUT, _TOO_COSTLY + _PUT),),
        (f"{_CACHE}test_a_file_that_grows_over_the_limit_is_dropped",),
    ),
    Mutant(
        "B75",
        "cache: limit on one way only",
        "What was written last is remembered for every file, however large.",
        "CACHE3",
        (
            Patch(
                "process",
                "        self.cache = Cache()\n",
                "        self.cache = Cache()\n        self.last_written: dict[str, bytes] = {}\n",
            ),
            Patch(
                "store",
                '        operation.count("writes")\n',
                '        operation.count("writes")\n'
                "        operation.process.last_written[operation.path] = content.joined()\n",
            ),
        ),
        (f"{_CACHE}test_the_limit_is_in_bytes_and_inclusive",),
    ),
    Mutant(
        "B92",
        "warning: given again",
        "Dropping a file from the caches forgets that it was warned about.",
        "WARN1",
        (
            Patch(
                "store",
                '        """Keep nothing of this file."""\n',
                '        """Keep nothing of this file."""\n        self.process.warned_paths.discard(self.path)\n',
            ),
        ),
        ("tests/unit/test_promises_read.py::test_a_large_store_is_warned_about_once",),
    ),
)
