"""What is read, what is refused, and what the environment says: READ1 to READ4, SET1 to SET4, WARN1, KEY1."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessionstore import CorruptStoreError, SessionStore, Settings, UnstorableValueError, process
from sessionstore.settings import CACHE_TTL_VARIABLE, OBJECT_CACHE_VARIABLE, SERIALIZED_CACHE_VARIABLE

QUIET = Settings(maintenance_mode="off", lock_timeout_s=0.0)

VERBS: dict[str, Callable[[SessionStore], object]] = {
    "load": lambda store: store.load(),
    "load, uncached": lambda store: store.load(skip_cache=True),
    "read": lambda store: store.read("k"),
    "update": lambda store: store.update(lambda draft: draft.update({"k": {}})),
    "save": lambda store: store.save({"k": {}}),
}


@pytest.mark.promise("READ1")
@pytest.mark.parametrize("verb", VERBS)
def test_only_a_missing_file_is_empty(tmp_path: Path, verb: str) -> None:
    """READ1: a path through a file, and a directory in the file's place, are errors of every verb."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "file" / "sessions.json", tmp_path / "directory"):
        with pytest.raises(Exception, match=r"[Nn]ot a (directory|regular file)|File exists|Is a directory"):
            VERBS[verb](SessionStore(path, QUIET))
    assert dict(SessionStore(tmp_path / "missing" / "sessions.json", QUIET).load()) == {}


CORRUPT = {
    "zero bytes": b"",
    "NUL": b"\0" * 64,
    "white space": b" \n",
    "truncated": b'{"k": {"n": 1}, "m": {"n": ',
    "truncated at the end": b'{"k": {"n": 1}',
    "not JSON": b"sessions!",
    "an array": b"[]",
    "null": b"null",
    "a string": b'"k"',
    "a number": b"5",
    "an entry that is null": b'{"k": null}',
    "an entry that is an array": b'{"a": {}, "k": []}',
    "an entry that is a number": b'{"k": 1}',
    "not UTF-8": b'{"k": {"text": "\xff"}}',
    "UTF-16": '{"k": {}}'.encode("utf-16"),
    "overlong UTF-8": b'{"k": {"text": "\xc0\xaf"}}',
    "two documents": b"{}{}",
    "too deep": b'{"k": {"d": ' + b"[" * 200 + b"]" * 200 + b"}}",
    "absurdly deep": b'{"k": {"d": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}",
    "absurdly deep and open": b'{"k": {"d": ' + b"[" * 200_000,
    "an integer of 5000 digits": b'{"k": {"n": ' + b"9" * 5000 + b"}}",
    "two byte order marks": b"\xef\xbb\xbf\xef\xbb\xbf{}",
}
REFUSED = {
    "duplicate key": b'{"k": {"n": 1}, "k": {"n": 2}}',
    "duplicate key in an entry": b'{"k": {"n": 1, "n": 2}}',
    "duplicate key deep inside": b'{"k": {"d": [{"n": 1, "n": 2}]}}',
    "duplicate key, spelled twice": b'{"k": {"n": 1, "\\u006e": 2}}',
    "NaN": b'{"k": {"n": NaN}}',
    "Infinity": b'{"k": {"n": Infinity}}',
    "-Infinity": b'{"k": {"n": [-Infinity]}}',
    "overflow": b'{"k": {"n": 1e999}}',
}


def check_refused(path: Path, content: bytes, verb: str) -> None:
    """Every verb raises CorruptStoreError about this file, and leaves it as it is."""
    path.write_bytes(content)
    with pytest.raises(CorruptStoreError) as caught:
        VERBS[verb](SessionStore(path, QUIET))
    assert path.read_bytes() == content
    assert caught.value.path == str(path)
    assert 0 <= caught.value.offset <= len(content)
    assert "doctor --repair" in str(caught.value)


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("content", CORRUPT.values(), ids=list(CORRUPT))
@pytest.mark.parametrize("verb", VERBS)
def test_a_corrupt_file_is_refused_and_kept(store_path: Path, verb: str, content: bytes) -> None:
    """READ2: whatever is wrong with it, no verb takes it for empty and none overwrites it."""
    check_refused(store_path, content, verb)


@pytest.mark.promise("READ3")
@pytest.mark.parametrize("content", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("verb", ["load", "update"])
def test_what_only_python_would_read_is_refused(store_path: Path, verb: str, content: bytes) -> None:
    """READ3: duplicate keys at any depth, NaN and infinities are corrupt."""
    check_refused(store_path, content, verb)


@pytest.mark.promise("READ3", "WRITE9")
@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"k": {"n": 1}}',
        b'{"k":{"n":1}}\r\n',
        b'\n\t{ "k"\r\n:\t{"n" : 1 } }  ',
        b'{"\\u006b": {"n": 1}}',
    ],
)
def test_any_valid_layout_is_read(store_path: Path, content: bytes) -> None:
    """READ3, WRITE9: a byte order mark, any white space and any spelling of a key."""
    store_path.write_bytes(content)
    store = SessionStore(store_path, QUIET)
    assert dict(store.load()) == {"k": {"n": 1}}
    store.update(lambda draft: draft["k"].update(n=2))
    assert dict(store.load(skip_cache=True)) == {"k": {"n": 2}}


class _Opaque:
    pass


def _cycle() -> dict[str, Any]:
    entry: dict[str, Any] = {}
    entry["self"] = entry
    return entry


UNSTORABLE: dict[str, tuple[Any, str]] = {
    "a function": ({"a": [1, len]}, '["a"][1]'),
    "an object": ({"a": {"b": _Opaque()}}, '["a"]["b"]'),
    "bytes": ({"a": b"x"}, '["a"]'),
    "a set": ({"a": {1}}, '["a"]'),
    "NaN": ({"a": [math.nan]}, '["a"][0]'),
    "infinity": ({"a": -math.inf}, '["a"]'),
    "an integer as key": ({"a": {1: "x"}}, '["a"]'),
    "two keys that would be one": ({1: "x", "1": "y"}, ""),
    "None as key": ({None: "x"}, ""),
    "a cycle": (_cycle(), '["self"]'),
    "not an object": ([], ""),
}


@pytest.mark.promise("READ4")
@pytest.mark.parametrize(("entry", "place"), UNSTORABLE.values(), ids=list(UNSTORABLE))
@pytest.mark.parametrize("way", ["save", "update"])
def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    store_path: Path, way: str, entry: Any, place: str
) -> None:
    """READ4: the error names session and place; the file is as it was."""
    store = SessionStore(store_path, QUIET)
    store.save({"old": {}})
    ways: dict[str, Callable[[], object]] = {
        "save": lambda: store.save({"k": entry}),
        "update": lambda: store.update(lambda draft: draft.update({"k": entry})),
    }
    with pytest.raises(UnstorableValueError) as caught:
        ways[way]()
    assert (caught.value.session_key, caught.value.value_path) == ("k", place)
    assert store_path.read_bytes() == b'{\n  "old": {}\n}'


UNDERSTOOD = {
    "2048": 2048,
    " 2048 ": 2048,
    "5\n": 5,
    "+5": 5,
    "007": 7,
    "-0": 0,
    "00": 0,
    "9007199254740991": 2**53 - 1,
}
NOT_UNDERSTOOD = ["", "  ", "-1", "--5", "+", "5\x00", "\x855", "1 2", "1e3", "1.0", "1_000", "0x10", "80abc", "abc"]
NOT_UNDERSTOOD += ["Infinity", "9007199254740992", "9" * 5000, "\N{SUPERSCRIPT TWO}", "\N{FULLWIDTH DIGIT FIVE}"]
NOT_UNDERSTOOD += ["\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT TWO}"]
VARIABLES = {
    OBJECT_CACHE_VARIABLE: ("object_cache_max_bytes", 1_000_000),
    CACHE_TTL_VARIABLE: ("cache_ttl_ms", 45_000),
    SERIALIZED_CACHE_VARIABLE: ("serialized_cache_max_bytes", 64 * 1024 * 1024),
}


@pytest.mark.promise("SET1", "SET2", "SET3")
@pytest.mark.parametrize("variable", VARIABLES)
def test_the_grammar_of_the_environment(variable: str) -> None:
    """SET1, SET2, SET3: exactly these spellings are numbers; everything else means the default."""
    field, default = VARIABLES[variable]
    for text, value in UNDERSTOOD.items():
        assert getattr(Settings.from_env({variable: text}), field) == value, repr(text)
    for text in NOT_UNDERSTOOD:
        assert getattr(Settings.from_env({variable: text}), field) == default, repr(text)
    assert getattr(Settings.from_env({}), field) == default


@pytest.mark.promise("SET1", "SET2", "SET3")
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_misread_variable_is_reported_once(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    """SET1, SET2, SET3: one warning per process names variable, value and accepted form; 0 is no mistake."""
    process.reset()
    monkeypatch.setenv(variable, "45s")
    with caplog.at_level(logging.WARNING, "sessionstore"):
        for _ in range(3):
            SessionStore(store_path).load()
    assert len(caplog.records) == 1
    assert variable in caplog.text
    assert "'45s'" in caplog.text
    caplog.clear()
    process.reset()
    monkeypatch.setenv(variable, "0")
    SessionStore(store_path).load()
    assert not caplog.records


@pytest.mark.promise("SET1", "SET2")
@pytest.mark.parametrize("variable", [OBJECT_CACHE_VARIABLE, CACHE_TTL_VARIABLE])
def test_zero_switches_the_cache_off(store_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """SET1, SET2: 0 is a value, not the absence of one."""
    process.reset()
    monkeypatch.setenv(variable, "0")
    store = SessionStore(store_path)
    store.save({"k": {}})
    store.load()
    assert (store.stats().cached_paths, store.stats().object_hits) == (0, 0)


@pytest.mark.promise("SET4")
def test_the_environment_is_read_at_each_operation(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SET4: a change takes effect with the next operation of the same store, and explicit settings win."""
    process.reset()
    store = SessionStore(store_path)
    store.save({"k": {"text": "x" * 100}})
    assert store.stats().cached_paths == 1
    monkeypatch.setenv(OBJECT_CACHE_VARIABLE, "0")
    store.load()
    assert store.stats().cached_paths == 0
    monkeypatch.setenv(OBJECT_CACHE_VARIABLE, "1000")
    store.load()
    assert store.stats().cached_paths == 1
    explicit = SessionStore(store_path, Settings(object_cache_max_bytes=0))
    explicit.load()
    assert explicit.stats().cached_paths == 0


@pytest.mark.promise("WARN1")
def test_a_large_store_is_warned_about_once(store_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """WARN1: once per path and process, whatever happens to the file, by whatever verb and object."""
    process.reset()
    settings = Settings(maintenance_mode="off", object_cache_max_bytes=50)
    large = {"k": {"text": "x" * 100}}
    with caplog.at_level(logging.WARNING, "sessionstore"):
        store = SessionStore(store_path, settings)
        store.save({"k": {}})
        assert not caplog.records, "a small store was warned about"
        for _ in range(2):
            store.save(large)
            SessionStore(store_path, settings).load()
            SessionStore(store_path, settings).update(lambda draft: draft["k"].update(n=1))
            os.unlink(store_path)
            store.load()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "session object cache disabled for large store"
    ]
    record = caplog.records[0]
    assert (record.levelno, record.name) == (logging.WARNING, "sessionstore")
    assert (vars(record)["store_path"], vars(record)["limit_bytes"]) == (str(store_path), 50)
    for text in (str(store_path), "50", OBJECT_CACHE_VARIABLE, str(vars(record)["size_bytes"])):
        assert text in record.getMessage()


@pytest.mark.promise("KEY1")
def test_spellings_of_one_session_are_one_session(store_path: Path) -> None:
    """KEY1: the newest counts, equal ages favour the normal spelling, and a write folds all into one."""
    store_path.write_bytes(
        b'{"Agent:A": {"updatedAt": 3, "n": "new"}, "agent:a": {"updatedAt": 2, "n": "old"}, '
        b'" B ": {"updatedAt": 5, "n": "other"}, "b": {"updatedAt": 5, "n": "normal"}}'
    )
    store = SessionStore(store_path, QUIET)
    assert store.read(" AGENT:a\n") == {"updatedAt": 3, "n": "new"}
    assert store.load()["B"] == {"updatedAt": 5, "n": "normal"}
    assert len(store.load()) == 2
    store.update(lambda draft: draft["agent:A"].update(n="written"))
    assert list(store.load().index.table.keys) == ["agent:a", " B ", "b"]
    assert store.read("agent:a") == {"updatedAt": 3, "n": "written"}


@pytest.mark.promise("KEY1")
def test_every_way_to_look_a_key_up_trims_it_and_lowers_it(store_path: Path) -> None:
    """KEY1: `in`, `get`, `[]` and `read`, of a snapshot and of a draft, mean the same session."""
    store = SessionStore(store_path, Settings(maintenance_mode="off"))
    store.save({"agent:main": {"n": 1}})
    key = "\u00a0Agent:MAIN\n"
    snapshot = store.load()
    assert key in snapshot
    assert snapshot.get(key) == snapshot[key] == store.read(key) == {"n": 1}
    with store.edit() as draft:
        assert key in draft
        assert draft.get(key) == draft[key] == {"n": 1}
        assert draft.pop(key) == {"n": 1}
        assert key not in draft
    assert key not in store.load()


@pytest.mark.parametrize("newest", [2**53 + 1, 10**400], ids=["beyond 53 bits", "beyond every float"])
def test_the_newest_spelling_is_found_among_times_that_no_float_tells_apart(store_path: Path, newest: int) -> None:
    """KEY1: times are compared as the whole numbers that stand in the file."""
    store = SessionStore(store_path, Settings(maintenance_mode="off"))
    for first, second in ((newest, newest - 1), (newest - 1, newest)):
        store_path.write_text(f'{{"K": {{"updatedAt": {first}}}, "k": {{"updatedAt": {second}}}}}')
        assert (store.read("k") or {})["updatedAt"] == newest
        assert store.load(skip_cache=True)["k"]["updatedAt"] == newest
