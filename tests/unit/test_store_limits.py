"""The ends of a store's life and reach: closed objects, moved directories, strangers' files, awkward values."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shlex
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionstore import (
    AsyncSessionStore,
    ConflictError,
    CorruptStoreError,
    Draft,
    LockTimeoutError,
    SessionStore,
    Settings,
    StoreError,
    UnstorableValueError,
    clear_session_store_caches,
    files,
    process,
)
from sessionstore import store as store_module
from sessionstore.cli import doctor, repair

SETTINGS = Settings(maintenance_mode="off", lock_timeout_s=0.0)


@pytest.mark.promise("CACHE5")
def test_a_closed_store_holds_nothing_and_does_nothing(store_path: Path) -> None:
    """Closing frees what is cached of the file, once; after it every verb raises."""
    clear_session_store_caches()
    with SessionStore(store_path, SETTINGS) as store:
        store.save({"a": {}})
        assert store.stats().cached_paths == 1
    assert process.PROCESS.cache.paths == 0
    for verb in (store.load, store.edit, lambda: store.read("a"), lambda: store.save({}), lambda: store.update(len)):
        with pytest.raises(StoreError, match="closed"):
            verb()
    SessionStore(store_path, SETTINGS).load()
    store.close()
    assert process.PROCESS.cache.paths == 1


@pytest.mark.promise("CACHE8")
def test_a_relative_path_means_the_directory_it_was_given_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the directory later does not move the store."""
    monkeypatch.chdir(tmp_path)
    store = SessionStore("here.json", SETTINGS)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    store.save({"a": {}})
    assert (tmp_path / "here.json").exists()
    assert store.path == str(tmp_path / "here.json")


@pytest.mark.promise("WRITE4")
def test_temporary_files_are_looked_for_again_after_a_while(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process sweeps at its first write, not at each, and again when a minute is over."""
    clock = [time.monotonic_ns()]
    monkeypatch.setattr(time, "monotonic_ns", lambda: clock[0])
    store = SessionStore(store_path, SETTINGS)
    stray = Path(f"{files.temporary_prefix(str(store_path))}1.tmp")
    stray = store_path.with_name(stray.name)
    for number, (pause_ns, swept) in enumerate([(0, True), (59_999_999_999, False), (1, True)]):
        clock[0] += pause_ns
        stray.write_bytes(b"")
        store.save({"a": {"n": number}})
        assert stray.exists() != swept


@pytest.mark.promise("SNAP1")
@pytest.mark.parametrize("content", [b"{}", b'{"theirs": {}}'])
def test_a_file_that_appears_during_an_update_is_not_overwritten(store_path: Path, content: bytes) -> None:
    """An update that began without a file conflicts with one that a stranger made meanwhile; a save replaces it."""
    store = SessionStore(store_path, SETTINGS)

    def mutator(draft: Draft) -> None:
        draft["mine"] = {}
        store_path.write_bytes(content)

    with pytest.raises(ConflictError):
        store.update(mutator)
    assert store_path.read_bytes() == content
    store.save({"mine": {}})
    assert list(store.load()) == ["mine"]


@pytest.mark.promise("SNAP1")
def test_a_stranger_in_the_same_tick_is_noticed(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes changed in place during an update conflict also when the file's stamps stay the same."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": 1}})
    frozen = files.Identity.of(os.stat(store_path))
    monkeypatch.setattr(files.Identity, "of", classmethod(lambda _, __: frozen))
    monkeypatch.setattr(files.Identity, "is_settled", lambda *_: False)
    content = store_path.read_bytes().replace(b"1", b"2")

    def mutator(draft: Draft) -> None:
        draft["b"] = {}
        store_path.write_bytes(content)

    with pytest.raises(ConflictError):
        store.update(mutator)
    assert store_path.read_bytes() == content


@pytest.mark.promise("CACHE8", "READ1")
def test_a_pipe_in_the_files_place_is_refused_at_once(store_path: Path) -> None:
    """Opening a FIFO does not wait for its writer: it is not a regular file."""
    os.mkfifo(store_path)
    errors: list[BaseException] = []

    def load() -> None:
        try:
            SessionStore(store_path, SETTINGS).load()
        except StoreError as error:
            errors.append(error)

    reader = threading.Thread(target=load, daemon=True)
    reader.start()
    reader.join(5)
    if reader.is_alive():  # let it go, or it would outlive the test
        os.close(os.open(store_path, os.O_RDWR | os.O_NONBLOCK))
    assert [type(error) for error in errors] == [StoreError]


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_directories_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A write does not fail because syncing a directory is "not supported" there."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = SessionStore(tmp_path / "new" / "sessions.json", SETTINGS)
    store.save({"a": {}})
    assert list(store.load()) == ["a"]


@pytest.mark.promise("READ4")
def test_the_place_of_what_cannot_be_stored_is_told_in_full(store_path: Path) -> None:
    """The path inside the entry names every key and number on the way, and the session as it is written."""
    with pytest.raises(UnstorableValueError) as caught, SessionStore(store_path, SETTINGS).edit() as draft:
        draft[" A"] = {"b": [{"c d": {1}}]}
    assert (caught.value.session_key, caught.value.value_path) == ("a", '["b"][0]["c d"]')
    assert not store_path.exists()


@pytest.mark.promise("READ4")
def test_one_value_in_two_places_is_no_cycle(store_path: Path) -> None:
    """A list that an entry holds twice, and two entries share, is stored in all places."""
    shared = [1]
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"x": shared, "y": [shared, shared]}, "b": {"x": shared}})
    assert dict(store.load()) == {"a": {"x": [1], "y": [[1], [1]]}, "b": {"x": [1]}}


@pytest.mark.promise("READ4", "READ2")
def test_what_is_as_deep_as_can_be_read_can_be_written(store_path: Path) -> None:
    """128 levels with the entry itself are written and read back; one more is refused by the write."""

    def nested(levels: int) -> dict[str, object]:
        value: dict[str, object] = {}
        for _ in range(levels - 1):
            value = {"v": value}
        return value

    store = SessionStore(store_path, SETTINGS)
    store.save({"a": nested(128)})
    assert store.load(skip_cache=True)["a"] == nested(128)
    with pytest.raises(UnstorableValueError):
        store.save({"a": nested(129)})
    assert store.load(skip_cache=True)["a"] == nested(128)


class Loud(str):
    """A string whose own idea of equality is not that of its text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = str.__hash__


@pytest.mark.promise("READ4")
def test_two_keys_that_are_spelled_the_same_are_refused(store_path: Path) -> None:
    """Keys that only Python tells apart would become duplicates in the file, or lose one of two values."""
    with pytest.raises(UnstorableValueError, match="two keys"):
        SessionStore(store_path, SETTINGS).save({"a": {Loud("k"): 1, Loud("k"): 2}})
    assert not store_path.exists()


@pytest.mark.promise("SNAP3")
def test_a_base_of_a_missing_file_is_reused_while_it_is_missing(store_path: Path) -> None:
    """The snapshot of no file is a base like any other."""
    store = SessionStore(store_path, SETTINGS)
    base = store.load()
    assert store.update(lambda draft: draft.update({"a": {}}), base=base).reused
    assert not store.update(lambda draft: draft.update({"b": {}}), base=base).reused
    assert set(store.load()) == {"a", "b"}


@pytest.mark.promise("WRITE4")
def test_a_stray_file_that_may_not_be_removed_fails_no_write(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another user's temporary file in a sticky directory stays, is named once, and the others are swept."""
    prefix = os.path.basename(files.temporary_prefix(str(store_path)))
    theirs, ours = (store_path.with_name(f"{prefix}{number}.tmp") for number in (1, 2))
    real = os.unlink

    def unlink(name: str) -> None:
        if name == str(theirs):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
        real(name)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(store_module, "CHORE_INTERVAL_NS", 0)
    store = SessionStore(store_path, SETTINGS)
    with caplog.at_level(logging.WARNING, logger="sessionstore"):
        for number in range(3):
            theirs.write_bytes(b"")
            ours.write_bytes(b"")
            store.save({"a": {"n": number}})
            assert theirs.exists()
            assert not ours.exists()
    assert [str(theirs) in record.getMessage() for record in caplog.records] == [True]
    told = list(doctor.told_repair(repair.repair(str(store_path), lock_timeout_s=1)))
    assert (str(theirs),) in [finding.details for finding in told]


@pytest.mark.promise("WRITE4")
@pytest.mark.parametrize("name", ["{}notes.txt", "{}1.tmp.orig", "x{}1.tmp", ".other.json.sessionstore-1.tmp"])
def test_only_names_that_fit_at_both_ends_are_swept(store_path: Path, name: str) -> None:
    """A file whose name only begins or only ends as those of temporary files is not removed."""
    kept = store_path.with_name(name.format(os.path.basename(files.temporary_prefix(str(store_path)))))
    swept = store_path.with_name(f"{files.temporary_prefix(str(store_path))}1.tmp")
    kept.write_bytes(b"mine")
    swept.write_bytes(b"")
    SessionStore(store_path, SETTINGS).save({"a": {}})
    assert kept.read_bytes() == b"mine"
    assert not swept.exists()


@pytest.mark.promise("CACHE8")
def test_closing_through_another_name_frees_the_same_record(store_path: Path) -> None:
    """A store that was opened through a link frees what is cached of the file that the link leads to."""
    clear_session_store_caches()
    link = store_path.with_name("link.json")
    link.symlink_to(store_path.name)
    with SessionStore(link, SETTINGS) as store:
        store.save({"a": {}})
        assert process.PROCESS.cache.paths == 1
    assert process.PROCESS.cache.paths == 0


@pytest.mark.promise("READ4")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_integer_that_can_be_read_can_be_written_and_no_longer_one(store_path: Path, sign: int) -> None:
    """10**4300 has one digit more than a reader accepts: it is refused before anything is written."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": sign * (10**4300 - 1)}})
    before = store_path.read_bytes()
    assert store.load(skip_cache=True)["a"]["n"] == sign * (10**4300 - 1)
    with pytest.raises(UnstorableValueError, match="4300 digits"):
        store.save({"a": {"n": sign * 10**4300}})
    assert store_path.read_bytes() == before


class _Spelled(str):
    """Equal to nothing but itself, as far as a dict can tell."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


@pytest.mark.promise("READ4", "WRITE7")
def test_two_surrogates_in_a_row_are_the_character_that_they_are_in_the_file(store_path: Path) -> None:
    """What was written is what is read, by key and by value, from memory and from the file."""
    pair, character = "\ud83d\ude00", "\U0001f600"
    store = SessionStore(store_path, SETTINGS)
    store.save({pair: {pair: [pair, "\ud83d"]}})
    expected = {character: {character: [character, "\ud83d"]}}
    assert dict(store.load()) == dict(store.load(skip_cache=True)) == expected
    assert store.read(pair) == store.read(character) == expected[character]
    store.update(lambda draft: draft.update({pair: {"n": 1}}))
    assert dict(store.load()) == dict(store.load(skip_cache=True)) == {character: {"n": 1}}


@pytest.mark.promise("READ4")
@pytest.mark.parametrize(
    "sessions",
    [
        {"\ud83d\ude00": {}, "\U0001f600": {}},
        {_Spelled("a"): {}, _Spelled("a"): {}},
        {"a": {"\ud83d\ude00": 1, "\U0001f600": 2}},
    ],
    ids=["surrogates", "subclass of str", "surrogates in an entry"],
)
def test_nothing_is_written_that_would_be_refused_as_a_duplicate(store_path: Path, sessions: dict[str, Any]) -> None:
    """Keys that a dict tells apart and the file does not are refused before anything is written."""
    with pytest.raises(UnstorableValueError, match=r"two (session )?keys are spelled"):
        SessionStore(store_path, SETTINGS).save(sessions)
    assert not store_path.exists()


@pytest.mark.promise("SNAP1", "WRITE5")
def test_a_file_that_a_stranger_removes_during_an_update_is_a_conflict(store_path: Path) -> None:
    """The update was made from what is gone: it says so and writes nothing. A save replaces whatever is there."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": 1}})

    def removing(draft: Draft) -> None:
        store_path.unlink()
        draft["a"]["n"] = 2

    with pytest.raises(ConflictError, match="changed during this update"):
        store.update(removing)
    assert not store_path.exists()
    assert dict(store.load()) == {}
    store.save({"a": {"n": 1}})
    real = files.require_writable

    def removed_first(path: str) -> None:
        store_path.unlink()
        real(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sessionstore.store.require_writable", removed_first)
        store.save({"a": {"n": 3}})
    assert store.load(skip_cache=True)["a"] == {"n": 3}


@pytest.mark.promise("WRITE1")
@pytest.mark.parametrize("kind", ["coroutine", "generator", "async generator"])
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_mutator_that_has_not_run_is_an_error_and_no_empty_edit(
    store_path: Path, kind: str, *, awaited: bool
) -> None:
    """An `async def` given to the synchronous store, or a function with a `yield`, never runs: its caller is told."""
    store = SessionStore(store_path, SETTINGS)
    store.save({"a": {"n": 1}})

    async def coroutine(draft: Draft) -> None:
        draft["a"]["n"] = 2

    def generator(draft: Draft) -> Iterator[None]:
        draft["a"]["n"] = 2
        yield

    async def async_generator(draft: Draft) -> AsyncIterator[None]:
        draft["a"]["n"] = 2
        yield

    mutator: Callable[[Draft], Any] = {
        "coroutine": coroutine,
        "generator": generator,
        "async generator": async_generator,
    }[kind]
    if awaited and kind == "coroutine":
        assert asyncio.run(AsyncSessionStore(store_path, SETTINGS).update(mutator)).written
        return

    def update() -> None:
        if awaited:
            asyncio.run(AsyncSessionStore(store_path, SETTINGS).update(mutator))
        else:
            store.update(mutator)

    with pytest.raises(TypeError, match=f"returned a {kind}, so it has not run"):
        update()
    assert store.update(lambda draft: draft["a"]["n"]).result == 1


@pytest.mark.promise("READ2")
def test_the_command_in_a_message_can_be_pasted_into_a_shell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A path with spaces and quotes is one word of the command that a message tells to run."""
    path = tmp_path / 'my store\'s "file".json'
    store = SessionStore(path, Settings(maintenance_mode="warn"))
    store.save({"a": {"updatedAt": 1}})
    path.write_bytes(b"{")
    with pytest.raises(CorruptStoreError) as caught:
        store.load()
    for message in (str(caught.value), caplog.messages[0]):
        command = message.split("`")[1]
        assert shlex.split(command)[:3] == ["sessionstore", "--store", str(path)]


@pytest.mark.promise("WRITE4", "MAINT1")
def test_a_write_that_warns_of_maintenance_sweeps_as_well(store_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the default mode, too, the first write of a process removes what killed writers left."""
    process.reset()
    store_path.write_bytes(b'{"old": {"updatedAt": 1}}')
    stray = Path(f"{store_path.parent}/{files.temporary_prefix(str(store_path))}0123456789abcdef.tmp")
    stray.write_bytes(b"{")
    SessionStore(store_path, Settings(maintenance_mode="warn")).update(lambda draft: draft.update({"new": {}}))
    assert not stray.exists()
    assert "maintenance is due" in caplog.text


@pytest.mark.promise("LOCK2")
@pytest.mark.parametrize("seconds", [604_800.5, 604_801, 1e300, float("inf"), float("nan"), -0.5, True, "1"])
def test_a_lock_timeout_is_at_most_a_week(seconds: object) -> None:
    """What threads and the kernel cannot wait for is refused when it is set, and not when the lock is busy."""
    assert Settings(lock_timeout_s=604_800).lock_timeout_s == 604_800
    with pytest.raises(ValueError, match="between 0 and 604800"):
        Settings(lock_timeout_s=seconds)  # type: ignore[arg-type]


@pytest.mark.promise("WRITE4", "READ2")
def test_a_repair_that_waits_for_a_writer_takes_nothing_from_it(store_path: Path) -> None:
    """Temporary files are swept by who holds the lock: one of a living writer stays, and so does the corrupt file."""
    SessionStore(store_path, SETTINGS).save({})
    store_path.write_bytes(b"{")
    living = Path(f"{store_path.parent}/{files.temporary_prefix(str(store_path))}0123456789abcdef.tmp")
    living.write_bytes(b"{")
    holder = os.open(f"{store_path}.flock", os.O_RDWR)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError):
            repair.repair(str(store_path), lock_timeout_s=0.0)
    finally:
        os.close(holder)
    assert living.exists()
    assert store_path.read_bytes() == b"{"
    repair.repair(str(store_path), lock_timeout_s=0.0)
    assert not living.exists()
