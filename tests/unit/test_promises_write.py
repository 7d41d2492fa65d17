"""What a write leaves on disk, and in which order: promises WRITE2 to WRITE9, MAINT2, step by step.

The system calls of a write are watched or made to fail where the store calls `os`; files and calls are real.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionstore import SessionStore, Settings, UnknownOutcomeError
from tests.stateful.world import World

QUIET = Settings(maintenance_mode="off", lock_timeout_s=0.0)
OLD = {"k": {"n": 1, "text": "old" * 100}}
NEW = {"k": {"n": 2, "text": "new" * 100}}

_REAL_OPEN, _REAL_READ, _REAL_CLOSE = os.open, os.read, os.close


@pytest.fixture
def two() -> Iterator[World]:
    """Two processes on one directory."""
    world = World(images=2)
    yield world
    world.close()


class Watch:
    """Follows this thread's system calls: `before` each one, and a log of what they did to which file."""

    NAMES = (
        "open",
        "close",
        "read",
        "write",
        "fsync",
        "replace",
        "link",
        "unlink",
        "mkdir",
        "fchmod",
        "chmod",
        "fstat",
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch, look: Callable[[], None] = lambda: None) -> None:
        self.log: list[tuple[str, str]] = []
        self._look = look
        self._paths: dict[int, str] = {}
        self._thread = threading.get_ident()
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != self._thread:
                return real(*arguments, **options)
            self._look()
            result = real(*arguments, **options)
            if name == "open":
                self._paths[result] = os.fspath(arguments[0])
            subject = arguments[1] if name in {"replace", "link"} else arguments[0]
            self.log.append((name, self._paths.get(subject, "") if isinstance(subject, int) else os.fspath(subject)))
            self._look()
            return result

        return call


def content_of(path: Path) -> bytes | None:
    """What a reader finds at this moment, by calls that are not watched."""
    try:
        descriptor = _REAL_OPEN(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _REAL_READ(descriptor, 10_000_000)
    finally:
        _REAL_CLOSE(descriptor)


@pytest.mark.promise("WRITE2", "MAINT2")
@pytest.mark.parametrize("mode", ["off", "enforce"])
def test_between_any_two_calls_of_a_write_a_reader_finds_a_whole_state(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """WRITE2, MAINT2: the old content, from one call on the new one, and never a missing or partial file."""
    store = SessionStore(store_path, Settings(maintenance_mode=mode, rotate_bytes=10))
    store.save(OLD)
    seen: list[bytes | None] = [content_of(store_path)]

    def look() -> None:
        found = content_of(store_path)
        if found != seen[-1]:
            seen.append(found)

    with monkeypatch.context() as patched:
        Watch(patched, look)
        store.save(NEW)
    assert [None if found is None else json.loads(found or b"null") for found in seen] == [OLD, NEW]


@pytest.mark.promise("MAINT2")
def test_a_backup_is_a_copy_of_what_is_replaced(store_path: Path) -> None:
    """MAINT2: three backups are kept, the newest ones, each with the content that was replaced."""
    store = SessionStore(store_path, Settings(maintenance_mode="enforce", rotate_bytes=10))
    for number in range(6):
        store.save({"k": {"n": number, "text": "x" * 20}})
    kept = sorted(name for name in os.listdir(store_path.parent) if ".bak." in name)
    numbers = sorted(json.loads(store_path.with_name(name).read_bytes())["k"]["n"] for name in kept)
    assert numbers == [2, 3, 4]


@pytest.mark.promise("WRITE3")
def test_a_write_is_synced_in_the_durable_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WRITE3: content, then its sync, then the rename, then the sync of the directory; new directories first."""
    path = tmp_path.resolve() / "a" / "b" / "sessions.json"
    with monkeypatch.context() as patched:
        watch = Watch(patched)
        SessionStore(path, QUIET).save(NEW)
    home = str(path.parent)
    steps = [
        (name, "temporary" if subject.endswith(".tmp") else subject)
        for name, subject in watch.log
        if name in {"mkdir", "write", "fsync", "replace"}
    ]
    publishing = [step for step in steps if step[1] in {"temporary", str(path), home}]
    assert steps[:4] == [
        ("mkdir", str(path.parent.parent)),
        ("mkdir", home),
        ("fsync", str(path.parent.parent)),
        ("fsync", str(path.parent.parent.parent)),
    ]
    assert list(dict.fromkeys(publishing[1:])) == [
        ("write", "temporary"),
        ("fsync", "temporary"),
        ("replace", str(path)),
        ("fsync", home),
    ]
    assert publishing[-3:] == [("fsync", "temporary"), ("replace", str(path)), ("fsync", home)]


@pytest.mark.promise("WRITE5")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("failing", ["fsync", "replace", "write", "open"])
@pytest.mark.parametrize("exists", [True, False], ids=["existing file", "new file"])
def test_an_error_of_the_disk_is_raised_and_changes_nothing(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, *, failing: str, number: int, exists: bool
) -> None:
    """WRITE5: the file is as it was, no temporary file is left, the lock is free and the next write succeeds."""
    store = SessionStore(store_path, QUIET)
    if exists:
        store.save(OLD)
    before = content_of(store_path)
    real = getattr(os, failing)

    def fail(subject: Any, *arguments: Any, **options: Any) -> Any:
        if failing != "open" or str(subject).endswith(".tmp"):
            raise OSError(number, os.strerror(number))
        return real(subject, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            store.save(NEW)
    assert (caught.value.errno, type(caught.value)) == (number, OSError)
    assert content_of(store_path) == before
    assert [name for name in os.listdir(store_path.parent) if name.endswith(".tmp")] == []
    assert dict(store.load()) == (OLD if exists else {})
    assert dict(store.save(NEW)) == NEW


@pytest.mark.promise("WRITE5")
def test_an_error_after_the_rename_is_an_unknown_outcome(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WRITE5: when only the sync of the directory fails, the new content is there and the caller is told to look."""
    store = SessionStore(store_path, QUIET)
    store.save(OLD)
    real, calls = os.fsync, []

    def fail_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_second)
        with pytest.raises(UnknownOutcomeError, match="outcome unknown"):
            store.save(NEW)
    assert json.loads(content_of(store_path) or b"") == dict(store.load()) == NEW


@pytest.mark.promise("WRITE5", "WRITE2")
@pytest.mark.parametrize("piece_bytes", [1, 7, 100])
def test_short_writes_are_continued(store_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    """WRITE5, WRITE2: a disk that takes only a few bytes at a time gets them all before the file is published."""
    store = SessionStore(store_path, QUIET)
    store.save(OLD)
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, raw: real(descriptor, bytes(raw)[:piece_bytes]))
        store.save(NEW)
    assert json.loads(content_of(store_path) or b"") == NEW


@pytest.mark.promise("WRITE8")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o604])
def test_mode_and_owner_of_an_existing_file_are_kept(store_path: Path, mode: int) -> None:
    """WRITE8: a write gives them on; what creates the file makes it 0600."""
    store = SessionStore(store_path, QUIET)
    store.save(OLD)
    assert stat.S_IMODE(os.stat(store_path).st_mode) == 0o600
    os.chmod(store_path, mode)
    before = os.stat(store_path)
    store.save(NEW)
    after = os.stat(store_path)
    assert after.st_ino != before.st_ino
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (mode, before.st_uid, before.st_gid)


@pytest.mark.promise("WRITE8")
@pytest.mark.parametrize("exists", [True, False], ids=["existing target", "missing target"])
def test_a_symbolic_link_stays_one(tmp_path: Path, *, exists: bool) -> None:
    """WRITE8: a write through a link replaces the file that it points to, not the link."""
    target, link = tmp_path / "target.json", tmp_path / "sessions.json"
    if exists:
        SessionStore(target, QUIET).save(OLD)
    link.symlink_to("target.json")
    SessionStore(link, QUIET).save(NEW)
    assert os.readlink(link) == "target.json"
    assert json.loads(target.read_bytes()) == NEW


@pytest.mark.promise("WRITE6")
def test_a_save_is_judged_against_the_disk_and_not_against_memory(two: World) -> None:
    """WRITE6: A is saved, another process writes B, A is saved again: the file holds A."""
    mine, other = two.store(0, two.path(), maintenance_mode="off"), two.store(1, two.path(), maintenance_mode="off")
    for _ in range(2):
        mine.save(OLD)
        mine.load()
        assert json.loads(content_of(two.path()) or b"") == OLD
        other.save(NEW)
    two.path().unlink()
    mine.save(NEW)
    assert json.loads(content_of(two.path()) or b"") == NEW


@pytest.mark.promise("WRITE6")
@pytest.mark.parametrize("base", [True, False], ids=["with base", "without"])
def test_an_update_that_changes_nothing_does_not_touch_the_file(store_path: Path, *, base: bool) -> None:
    """WRITE6: also when it set what was there, and when the layout is not ours."""
    store_path.write_bytes(b'\xef\xbb\xbf{"k":{"n":1.50,"m":[1,2]} , "K2":{}}\r\n')
    store = SessionStore(store_path, QUIET)
    before = os.stat(store_path)
    for mutate in (len, lambda draft: draft["k"].update(n=1.5), lambda draft: draft.update(k={"n": 1.5, "m": [1, 2]})):
        assert not store.update(mutate, base=store.load() if base else None).written
    after = os.stat(store_path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (store.stats().writes, store.stats().noop_writes) == (0, 3)


@pytest.mark.promise("WRITE6")
@pytest.mark.parametrize(("old", "new"), [(1, True), (1, 1.0), (0, False), (0, -0.0), (1.0, True)])
def test_a_change_of_type_is_a_change(store_path: Path, old: object, new: object) -> None:
    """WRITE6: values that Python calls equal are written if JSON tells them apart."""
    store = SessionStore(store_path, QUIET)
    store.save({"k": {"n": old}})
    assert store.update(lambda draft: draft["k"].update(n=new)).written
    assert repr(json.loads(store_path.read_bytes())["k"]["n"]) == repr(new)


ODD_ENTRIES = [
    b'{"n": 123456789012345678901234567890}',
    b'{"n": 1e5, "m": 1E+5, "z": -0.0, "s": 1.10}',
    b'{"text": "\\u00e9\xc3\xa9\\/\\ud800 \\uD83D\\uDE00"}',
    b'{"z": 1, "a": {"y": [ ], "b": {\n\n} }, "unknown": null}',
    b'{"b":\t1,\r\n"a":2}',
]


@pytest.mark.promise("WRITE7")
@pytest.mark.parametrize("layout", ["ours", "foreign"])
def test_untouched_entries_keep_their_bytes(store_path: Path, layout: str) -> None:
    """WRITE7: an update of one entry copies the others byte by byte, key included."""
    between, colon = (b",\n  ", b": ") if layout == "ours" else (b" ,\r\n", b" :\t")
    keys = [b'"plain"', b'"Leg\\u0061cy"', b'"\xc3\xa9 \\ud800"', b'" spaced "', b'"\\/"']
    members = [key + colon + entry for key, entry in zip(keys, ODD_ENTRIES, strict=True)]
    frame = (b"{\n  ", b"\n}") if layout == "ours" else (b"\xef\xbb\xbf { ", b"}\n")
    store_path.write_bytes(frame[0] + between.join([*members, b'"touched"' + colon + b'{"n": 1}']) + frame[1])
    SessionStore(store_path, QUIET).update(lambda draft: draft["touched"].update(n=2))
    written = store_path.read_bytes()
    kept = [key + b": " + entry for key, entry in zip(keys, ODD_ENTRIES, strict=True)]
    assert written == b"{\n  " + b",\n  ".join([*kept, b'"touched": {\n    "n": 2\n  }']) + b"\n}"


@pytest.mark.promise("WRITE7")
@pytest.mark.parametrize(
    ("spelled", "value"),
    [
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b"-18446744073709551617", -(2**64) - 1),
        (b'"\\ud800\xc3\xa9"', "\ud800é"),
        (b"9007199254740993", 2**53 + 1),
        (b"1e300", 1e300),
    ],
    ids=["big integer", "negative", "lone surrogate", "2^53 + 1", "float"],
)
def test_a_touched_entry_keeps_its_other_values(store_path: Path, spelled: bytes, value: object) -> None:
    """WRITE7: what else stands in the entry that is changed comes through it unharmed."""
    store_path.write_bytes(b'{"k": {"odd": ' + spelled + b', "n": 1}}')
    store = SessionStore(store_path, QUIET)
    done = store.update(lambda draft: draft["k"].update(n=2))
    expected = {"k": {"odd": value, "n": 2}}
    assert json.loads(store_path.read_bytes()) == dict(done.snapshot) == dict(store.load()) == expected


@pytest.mark.promise("WRITE9")
def test_the_layout_on_disk(store_path: Path) -> None:
    """WRITE9: two-space indentation, no line break at the end, non-ASCII as it is; an empty store is `{}`."""
    store = SessionStore(store_path, QUIET)
    sessions = {"a": {"n": [1, {"x": None}], "é": {}}, "b": {}}
    store.save(sessions)
    assert store_path.read_bytes() == json.dumps(sessions, indent=2, ensure_ascii=False).encode()
    store.save({})
    assert store_path.read_bytes() == b"{}"


@pytest.mark.promise("WRITE1")
def test_an_update_starts_from_the_file_and_not_from_memory(two: World) -> None:
    """WRITE1: what another process wrote since is kept, however sure this one's cache is of itself."""
    mine, other = two.store(0, two.path(), maintenance_mode="off"), two.store(1, two.path(), maintenance_mode="off")
    mine.save({"mine": {"n": 1}})
    two.advance(10**10)
    mine.load()
    before = os.stat(two.path())
    other.update(lambda draft: draft.update({"mine": {"n": 5}}))
    os.utime(two.path(), ns=(before.st_mtime_ns, before.st_mtime_ns))
    mine.update(lambda draft: draft.update({"more": {}}))
    assert json.loads(content_of(two.path()) or b"") == {"mine": {"n": 5}, "more": {}}


@pytest.mark.promise("WRITE1")
@pytest.mark.parametrize("returned", [None, {}, {"other": {"n": 9}}, [], False], ids=repr)
def test_what_a_mutator_returns_means_nothing_to_the_store(store_path: Path, returned: Any) -> None:
    """WRITE1: the acknowledged edits of the draft are written, whatever the mutator returns."""
    store = SessionStore(store_path, QUIET)
    store.save({"k": {"n": 1}})

    def mutator(draft: Any) -> Any:
        draft["k"]["n"] = 2
        return returned

    assert store.update(mutator).result == returned
    assert json.loads(store_path.read_bytes()) == {"k": {"n": 2}}


@pytest.mark.promise("WRITE6")
@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0), (0.0, -0.0), ([1], [True])])
def test_a_save_of_what_python_calls_equal_is_written(store_path: Path, old: object, new: object) -> None:
    """WRITE6: `1`, `1.0` and `True` are three values to whoever reads the file."""
    store = SessionStore(store_path, QUIET)
    store.save({"k": {"n": old}})
    store.save({"k": {"n": new}})
    assert repr(json.loads(store_path.read_bytes())) == repr({"k": {"n": new}})
