"""Reading and refusing: corrupt files, odd but valid ones, values that JSON cannot carry. One operation at a time."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import specification, strategies
from models.specification import Entry
from models.workloads import Change, Nothing, PutEntry, SetField
from tests.stateful.checker import Checker, Taken, Way, same
from tests.stateful.world import World, held_text_bytes, world


def every_operation(checker: Checker, base: Taken | None = None) -> None:
    """All that a caller can do with a file."""
    checker.load()
    checker.load(skip_cache=True)
    checker.read("agent:main:main")
    ways: tuple[Way, ...] = ("update", "edit")
    for way in ways:
        checker.update(Nothing(), way=way)
        checker.update(PutEntry("agent:main:main", {"n": 1}), way=way, base=base)
    checker.save({"agent:main:main": {"n": 2}})
    checker.save({})


@pytest.mark.promise("READ2", "READ3")
@pytest.mark.parametrize("kind", sorted(strategies.CORRUPT_FILES))
def test_every_kind_of_corruption_is_refused_by_every_operation(kind: str) -> None:
    """Nothing is overwritten and every call raises, with a cache and a base from before the damage and without."""
    with world() as opened:
        checker = Checker(opened)
        checker.rewrite(strategies.CORRUPT_FILES[kind], "rename")
        every_operation(checker)
        checker.rewrite(b'{"agent:main:main": {}}', "rename")
        checker.load()
        checker.rewrite(strategies.CORRUPT_FILES[kind], "in-place")
        every_operation(checker, checker.taken[-1])


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("kind", sorted(strategies.CORRUPT_FILES))
def test_the_error_says_where_and_what_to_do(kind: str) -> None:
    """Path, a byte offset inside the file, a reason, the repair command; it is a ValueError and survives pickling."""
    content = strategies.CORRUPT_FILES[kind]
    with world() as opened:
        opened.path().write_bytes(content)
        store = opened.store(0, opened.alias("linked file"))
        package = opened.images[0].package
        with pytest.raises(package.CorruptStoreError) as raised:
            store.load()
        error = raised.value
        assert isinstance(error, ValueError)
        assert isinstance(error, package.StoreError)
        assert error.path == str(opened.path())
        assert 0 <= error.offset <= len(content)
        assert error.reason
        for told in (error.path, str(error.offset), error.reason, "doctor --repair"):
            assert told in str(error)


@pytest.mark.promise("READ2")
def test_errors_of_the_store_survive_pickling() -> None:
    """What was raised in one process can be raised in another, fields included."""
    from sessionstore import CorruptStoreError, LockTimeoutError, UnstorableValueError

    errors: tuple[Exception, ...] = (
        CorruptStoreError("/s.json", 7, "not JSON"),
        LockTimeoutError("/s.json", 1.5, 42),
        UnstorableValueError("agent:main", '["a"][0]', "NaN is not JSON"),
    )
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


@pytest.mark.promise("READ2", "READ3")
@given(broken=strategies.corrupt_files(), manner=strategies.manners(), change=strategies.changes())
def test_a_store_that_breaks_while_in_use_is_refused(broken: tuple[str, bytes], manner: Any, change: Change) -> None:
    """However the damage is done, and whatever was cached."""
    with world() as opened:
        checker = Checker(opened)
        checker.update(PutEntry("agent:main:main", {"sessionId": "a"}))
        checker.load()
        base = checker.taken[-1]
        checker.rewrite(broken[1], manner)
        checker.update(change, base=base)
        checker.read("agent:main:main")
        checker.save({})


@pytest.mark.promise("READ1")
def test_only_a_missing_file_is_empty() -> None:
    """No file, or no directory, is an empty store; a directory, a circle of links, a file in the way are errors."""
    with world() as opened:
        missing = opened.store(0, opened.home / "no" / "such" / "directory" / "sessions.json")
        assert dict(missing.load()) == {}
        assert missing.read("agent:main:main") is None
        for name, make in ODD_PATHS.items():
            make(opened, name)
            store = opened.store(0, opened.home / name)
            for call in (store.load, lambda store=store: store.read("a"), lambda store=store: store.save({})):
                with pytest.raises((OSError, opened.images[0].package.StoreError)):
                    call()
    assert not opened.directory.exists()


def _circle(opened: World, name: str) -> None:
    (opened.home / name).symlink_to(name)


def _file_in_the_way(opened: World, name: str) -> None:
    (opened.home / name).parent.write_bytes(b"{}")


ODD_PATHS = {
    "a-directory": lambda opened, name: (opened.home / name).mkdir(),
    "a-circle": _circle,
    "a-pipe": lambda opened, name: os.mkfifo(opened.home / name),
    "a-file/sessions.json": _file_in_the_way,
}


@pytest.mark.promise("READ3", "WRITE9", "WRITE7")
@given(
    sessions=strategies.foreign_sessions(any_range=True, long_prompts=True), layout=st.sampled_from(strategies.LAYOUTS)
)
def test_any_valid_layout_is_read_and_untouched_entries_keep_their_bytes(
    sessions: list[tuple[str, Entry]], layout: strategies.Layout
) -> None:
    """Compact, CRLF, tabs, BOM, escaped keys, any number spelling: read alike, and spliced without a scratch."""
    with world() as opened:
        checker = Checker(opened)
        checker.rewrite(strategies.render(sessions, layout), "rename")
        checker.load()
        checker.update(SetField("a-new:session", "n", 1))
        checker.update(SetField("a-new:session", "n", 1.0), way="edit", base=checker.taken[-1])
        checker.update(Nothing())
        written = checker.contents["sessions.json"]
        assert written is not None
        assert not written.startswith(specification.BOM)
        assert not written.endswith(b"\n")
        before = {raw.key: raw.value_text for raw in specification.parse(strategies.render(sessions, layout))}
        after = {raw.key: raw.value_text for raw in specification.parse(opened.path().read_bytes())}
        assert {key: after[key] for key in before} == before


@pytest.mark.promise("WRITE7")
def test_what_damaged_other_stores_survives_here() -> None:
    """Huge integers, number spellings, escapes, lone surrogates, `__proto__`: byte for byte, written out by hand."""
    entry = (
        b'{"big": 12345678901234567890123, "odd": [100e-2, 1e-7], "esc": "\\u00e9\\/\\ud800", '
        b'"\\u005f_proto__": {"a":1 , "b" : 2}, "z": -0, "f": 1.10}'
    )
    with world() as opened:
        opened.path().write_bytes(b'{"keep": ' + entry + b', "touch": {}}')
        opened.store(0, opened.path()).update(SetField("touch", "n", 1))
        assert opened.path().read_bytes() == (b'{\n  "keep": ' + entry + b',\n  "touch": {\n    "n": 1\n  }\n}')


@pytest.mark.promise("WRITE9")
@given(st.dictionaries(strategies.spelled_keys(), strategies.entries(long_prompts=True), max_size=4))
def test_files_are_written_as_the_standard_library_would(sessions: dict[str, Entry]) -> None:
    """Two-space indented JSON, UTF-8, no newline at the end; only lone surrogates are escaped."""
    with world() as opened:
        opened.store(0, opened.path()).save(sessions)
        as_read = json.loads(json.dumps(sessions))  # two surrogates in a row are one character
        expected = json.dumps(as_read, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
        same("file", opened.path().read_bytes(), expected)


@pytest.mark.promise("READ4")
@given(poisoned=strategies.unstorable_entries(), key=strategies.session_keys())
def test_what_json_cannot_carry_is_refused_by_name(poisoned: tuple[Any, str], key: str) -> None:
    """Before anything is written, the error names the session and the path inside the entry."""
    entry, value_path = poisoned
    with world() as opened:
        checker = Checker(opened)
        checker.update(PutEntry("other", {"n": 1}))
        checker.save({"other": {}, key: entry})
        checker.update(PutEntry(key, entry))
        package, store = opened.images[0].package, opened.store(0, opened.path())
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.save({key: entry}),
            lambda: store.update(PutEntry(key, entry)),
        )
        for call in calls:
            with pytest.raises(package.UnstorableValueError) as raised:
                call()
            error: Any = raised.value
            same("place", (error.session_key, error.value_path), (key, value_path))
            assert isinstance(error, TypeError)


@pytest.mark.promise("READ4")
def test_cycles_and_depth_are_refused_and_the_deepest_that_fits_is_stored() -> None:
    """A value inside itself, one level too many, a key or an entry of the wrong type; nothing is written."""
    cycle: dict[str, Any] = {}
    cycle["self"] = [cycle]
    deepest: Any = {}
    for _ in range(specification.MAX_DEPTH - 1):
        deepest = {"x": deepest}
    with world() as opened:
        checker = Checker(opened)
        checker.save({"a": deepest})
        store, package = opened.store(0, opened.path()), opened.images[0].package
        refused: list[dict[Any, Any]] = [
            {"a": {"x": deepest}},
            {"a": cycle},
            {"a": []},
            {"a": None},
            {1: {}},
            {None: {}},
        ]
        for sessions in refused:
            with pytest.raises(package.UnstorableValueError):
                store.save(sessions)
        checker.check()


@pytest.mark.promise("CACHE1", "CACHE3")
def test_an_oversized_store_leaves_nothing_of_its_text_in_memory() -> None:
    """Between operations no bytes, no text and no parsed values of a large file are kept, only positions and digest."""
    content = strategies.realistic_store(300_000, seed=1)
    with world() as opened:
        store = opened.store(0, opened.path(), object_cache_max_bytes=100_000)
        opened.path().write_bytes(content)
        keys_bytes = sum(len(raw.key) for raw in specification.parse(content))
        for operation in (
            store.load,
            lambda: store.read("agent:main:main"),
            lambda: store.update(SetField("agent:main:main", "label", "x")),
            lambda: store.save(dict(store.load())),
        ):
            operation()
            held_bytes = held_text_bytes(opened.images[0].process)
            # Keys under two names, the path, a digest: a hundredth of the file, not the file.
            assert held_bytes < 3 * keys_bytes + 8_000, f"{held_bytes} bytes of text are held"
        assert store.stats().cached_paths == 1


@pytest.mark.promise("SNAP4")
def test_a_chain_of_updates_on_the_big_store_parses_once(big_store_bytes: bytes) -> None:
    """On an oversized real-shaped store, updates that each use the snapshot before never parse again."""
    with world() as opened:
        opened.path().write_bytes(big_store_bytes)
        store = opened.store(0, opened.path())
        snapshot = store.load()
        for step in range(5):
            done = store.update(SetField("agent:main:main", "step", step), base=snapshot)
            assert (done.reused, done.written) == (True, True)
            snapshot = done.snapshot
        stats = store.stats()
        assert (stats.parses, stats.snapshot_reuses, stats.writes) == (1, 5, 5)
        expected = specification.update(big_store_bytes, SetField("agent:main:main", "step", 4)).content
        assert opened.path().read_bytes() == expected
