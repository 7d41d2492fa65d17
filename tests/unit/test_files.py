"""Strangers that write in place while the file is read or compared, and what a new version takes over from the old."""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sessionstore import CorruptStoreError, SessionStore, Settings, files
from sessionstore.content import CHUNK_BYTES, Content

QUIET = Settings(maintenance_mode="off", lock_timeout_s=0.0)
OVERSIZED = Settings(maintenance_mode="off", lock_timeout_s=0.0, object_cache_max_bytes=1000)

LATER_NS = 3_600_000_000_000


def two_chunks(letter: str) -> bytes:
    """A store file of two chunks whose every entry says `letter`."""
    entry = f'{{\n    "text": "{letter * CHUNK_BYTES}"\n  }}'
    return f'{{\n  "a": {entry},\n  "b": {{\n    "by": "{letter}"\n  }}\n}}'.encode()


def after_first_read(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Call `then` once, after the next read."""
    pending = [then]

    def followed(real: Callable[..., Any]) -> Callable[..., Any]:
        def read(descriptor: int, wanted: object) -> Any:
            found = real(descriptor, wanted)
            if pending:
                pending.pop()()
            return found

        return read

    for name in ("read", "readv"):
        monkeypatch.setattr(os, name, followed(getattr(os, name)))


def rewrite(path: Path, raw: bytes) -> None:
    """Write in place, keeping inode and size, with another time stamp."""
    with path.open("r+b") as file:
        file.write(raw)
    os.utime(path, ns=(1, 1))


@pytest.mark.promise("SNAP2", "SNAP5")
def test_a_base_is_not_reused_if_the_file_changed_while_it_was_compared(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that a stranger changed behind the comparison are read by the update, not taken for the base's."""
    store = SessionStore(store_path, QUIET)
    store_path.write_bytes(two_chunks("x"))
    base = store.load()
    changed = two_chunks("x").replace(b"xxx", b"yyy", 1)
    after_first_read(monkeypatch, lambda: rewrite(store_path, changed))
    done = store.update(lambda draft: draft["a"]["text"][:4], base=base)
    assert (done.result, done.reused) == ("yyyx", False)


MANY_CHUNKS = Content(bytes([65 + number]) * (100 + number % 3) for number in range(26))
"""More chunks, of several lengths, than are compared at a time."""


@pytest.mark.promise("SNAP2")
def test_a_difference_in_any_chunk_is_found(tmp_path: Path) -> None:
    """A file is a base's version only if every byte of it is; where the difference is does not matter."""
    raw = MANY_CHUNKS.joined()
    path = tmp_path / "sessions.json"
    path.write_bytes(raw)
    with files.OpenFile(str(path)) as file:
        assert file.holds(MANY_CHUNKS) is not None
    for place in range(0, len(raw), 50):
        path.write_bytes(raw[:place] + b"!" + raw[place + 1 :])
        with files.OpenFile(str(path)) as file:
            assert file.holds(MANY_CHUNKS) is None, place


@pytest.mark.promise("SNAP2")
@pytest.mark.skipif(not hasattr(os, "readv"), reason="this system has no readv(2)")
def test_what_a_short_read_left_out_is_not_taken_for_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that a read did not deliver count as a difference, also if equal ones were read before them."""
    same = Content([b"x" * 100] * 20)
    path = tmp_path / "sessions.json"
    path.write_bytes(same.joined())
    calls: list[int] = []
    real = os.readv

    def readv(descriptor: int, buffers: Sequence[bytearray]) -> int:
        calls.append(len(buffers))
        return real(descriptor, buffers if len(calls) == 1 else buffers[:-1])

    monkeypatch.setattr(os, "readv", readv)
    with files.OpenFile(str(path)) as file:
        assert file.holds(same) is None
    assert len(calls) == 2


@pytest.mark.promise("SNAP2", "SNAP5", "WRITE1")
@pytest.mark.parametrize("settings", [QUIET, OVERSIZED], ids=["cached", "oversized"])
@pytest.mark.parametrize("with_base", [True, False], ids=["base", "no base"])
def test_what_a_stranger_wrote_is_found_whatever_the_stamps_say(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, with_base: bool
) -> None:
    """An update starts from other bytes of the same size and stamps, and never from what is remembered of the file."""
    store = SessionStore(store_path, settings)
    long, other_path = {"text": "x" * CHUNK_BYTES}, store_path.with_name("other.json")
    SessionStore(other_path, settings).save({"b": {"by": "y"}, "a": long})
    store.save({"a": long, "b": {"by": "x"}})
    base = store.load()
    frozen = files.Identity.of(os.stat(store_path))
    rewrite(store_path, other_path.read_bytes())
    assert store_path.stat().st_size == frozen.size_bytes
    monkeypatch.setattr(files.Identity, "of", classmethod(lambda _, __: frozen))
    done = store.update(lambda draft: draft["b"], base=base if with_base else None)
    assert (done.result, done.reused) == ({"by": "y"}, False)


@pytest.mark.promise("SNAP2", "SNAP5", "WRITE1")
@pytest.mark.parametrize("settings", [QUIET, OVERSIZED], ids=["cached", "oversized"])
def test_a_version_is_not_recognised_if_the_file_changed_meanwhile(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Without a base, too, bytes that a stranger changed behind the comparison are what the update starts from."""
    store = SessionStore(store_path, settings)
    store_path.write_bytes(two_chunks("x"))
    store.load()
    changed = two_chunks("x").replace(b"xxx", b"yyy", 1)
    after_first_read(monkeypatch, lambda: rewrite(store_path, changed))
    assert store.update(lambda draft: draft["a"]["text"][:4]).result == "yyyx"


@pytest.mark.promise("SNAP4")
@pytest.mark.parametrize("settings", [QUIET, OVERSIZED], ids=["cached", "oversized"])
@pytest.mark.parametrize("with_base", [True, False], ids=["base", "no base"])
def test_an_update_of_a_known_version_reads_it_once(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, with_base: bool
) -> None:
    """What this process has written a moment ago is recognised by reading it once, and parsed not at all."""
    store = SessionStore(store_path, settings)
    done = store.update(lambda draft: draft.update({"a": {"text": "x" * 3 * CHUNK_BYTES}, "b": {}}))
    sizes: list[int] = []

    def counted(real: Callable[..., Any], size_of: Callable[[Any], int]) -> Callable[..., Any]:
        def read(descriptor: int, wanted: object) -> Any:
            found = real(descriptor, wanted)
            sizes.append(size_of(found))
            return found

        return read

    monkeypatch.setattr(os, "read", counted(os.read, len))
    monkeypatch.setattr(os, "readv", counted(os.readv, int))
    before = store.stats()
    store.update(lambda draft: draft["b"], base=done.snapshot if with_base else None)
    assert sum(sizes) == len(done.snapshot.raw or b"")
    assert (store.stats().parses, store.stats().file_reads) == (before.parses, before.file_reads + 1)


@pytest.mark.promise("CACHE6", "WRITE2")
def test_a_read_that_a_stranger_wrote_into_is_done_again(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file younger than a tick, whose stamps show no change, two equal reads count and a mixture does not."""
    store_path.write_bytes(two_chunks("x"))
    frozen = files.Identity.of(os.stat(store_path))
    monkeypatch.setattr(files.Identity, "of", classmethod(lambda _, __: frozen))
    monkeypatch.setattr(files.Identity, "is_settled", lambda *_: False)
    after_first_read(monkeypatch, lambda: rewrite(store_path, two_chunks("y")))
    snapshot = SessionStore(store_path, QUIET).load()
    assert snapshot.raw == two_chunks("y")


def settled_positions(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the file, as if it had been written long ago, so that positions stay."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + LATER_NS)
    store.load()
    assert store.stats().cached_paths


@pytest.mark.promise("CACHE6")
def test_an_entry_read_alone_is_read_again_if_a_stranger_writes_meanwhile(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slice of an entry counts only if the file is the same before and after; else the whole file is read."""
    store = SessionStore(store_path, OVERSIZED)
    store_path.write_bytes(two_chunks("x"))
    settled_positions(store, monkeypatch)
    reads = store.stats().file_reads
    assert store.read("b") == {"by": "x"}
    assert store.stats().file_reads == reads
    shifted = two_chunks("x").replace(b'"by": "x"', b'"xy": "b"')
    after_first_read(monkeypatch, lambda: rewrite(store_path, shifted))
    assert store.read("b") == {"xy": "b"}


@pytest.mark.promise("KEY1")
def test_of_a_large_file_too_the_newest_spelling_is_read(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one entry by its position does not take the first of several spellings for the one that counts."""
    pad = b"x" * 2000
    store_path.write_bytes(b'{"A": {"updatedAt": 1}, "a": {"updatedAt": 2, "pad": "%s"}, "A ": {"updatedAt": 3}}' % pad)
    store = SessionStore(store_path, OVERSIZED)
    settled_positions(store, monkeypatch)
    assert store.read("a") == {"updatedAt": 3}


@pytest.mark.promise("WARN1")
def test_a_look_past_the_caches_warns_of_nothing(store_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`skip_cache` neither warns of a large file nor uses up the warning that a later load owes."""
    store_path.write_bytes(two_chunks("x"))
    store = SessionStore(store_path, OVERSIZED)
    with caplog.at_level(logging.WARNING, logger="sessionstore"):
        store.load(skip_cache=True)
        assert not caplog.records
        store.load()
        assert len(caplog.records) == 1


@pytest.mark.promise("WRITE5", "WRITE8")
def test_a_file_that_may_not_be_written_is_not_replaced(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to a file without write permission fails as opening it would, although a rename would work."""
    store = SessionStore(store_path, QUIET)
    store.save({"a": {}})
    before = store_path.read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: not (str(path) == str(store_path) and mode & os.W_OK))
    with pytest.raises(PermissionError) as caught:
        store.save({"b": {}})
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(store_path))
    assert store_path.read_bytes() == before


@pytest.mark.promise("WRITE8")
def test_the_group_is_kept_where_the_owner_cannot_be(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that may not give files away still hands the group on; where that fails too, it writes all the same."""
    store = SessionStore(store_path, QUIET)
    store.save({"a": {"n": 0}})
    real = os.fstat
    strangers = (os.getuid() + 1, os.getgid() + 1)

    def fstat(descriptor: int) -> os.stat_result | SimpleNamespace:
        status = real(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}") != str(store_path):
            return status
        shown = {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        return SimpleNamespace(**{**shown, "st_uid": strangers[0], "st_gid": strangers[1]})

    monkeypatch.setattr(os, "fstat", fstat)
    refused: list[tuple[int, int]] = []

    def fchown(_: int, owner: int, group: int) -> None:
        refused.append((owner, group))
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", fchown)
    store.save({"a": {"n": 1}})
    assert refused == [strangers, (-1, strangers[1])]
    assert store.load()["a"] == {"n": 1}


@pytest.mark.promise("READ3")
@pytest.mark.parametrize("verb", [SessionStore.load, lambda store: store.update(len)])
def test_a_stranger_that_repeats_a_key_is_noticed_by_who_knows_the_rest(
    store_path: Path, verb: Callable[[SessionStore], object]
) -> None:
    """A duplicate of a key that stands in the part of the file that did not change is corrupt all the same."""
    store = SessionStore(store_path, QUIET)
    store.save({key: {"text": key * 50} for key in "abcd"})
    corrupt = store_path.read_bytes().replace(b'"c": ', b'"a": ')
    store_path.write_bytes(corrupt)
    with pytest.raises(CorruptStoreError, match="duplicate session key 'a'"):
        verb(store)
    assert store_path.read_bytes() == corrupt


@pytest.mark.promise("WRITE8")
@pytest.mark.parametrize("mode", [0o700, 0o640])
def test_a_mode_without_or_with_rights_for_others_is_kept(store_path: Path, mode: int) -> None:
    """The new version has the old one's mode, whether others may read it or only the owner may do more."""
    store = SessionStore(store_path, QUIET)
    store.save({"a": {}})
    os.chmod(store_path, mode)
    store.save({"b": {}})
    assert stat.S_IMODE(os.stat(store_path).st_mode) == mode


@pytest.mark.promise("WRITE1")
def test_a_save_replaces_what_a_stranger_writes_meanwhile(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save is made of nothing that was in the file, so no change of it is a conflict."""
    store = SessionStore(store_path, QUIET)
    store.save({"a": {}})
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        store_path.write_bytes(b'{"theirs": {}}')
        monkeypatch.setattr(os, "fsync", real)

    monkeypatch.setattr(os, "fsync", fsync)
    store.save({"mine": {}})
    assert list(store.load()) == ["mine"]


@pytest.mark.promise("CACHE6")
@pytest.mark.parametrize(
    ("stamp_ns", "window_ns"),
    [(7_000_000_000, 4_020_000_000), (7_010_000_000, 220_000_000), (7_010_000_001, 20_000_000)],
    ids=["whole seconds", "hundredths", "fine"],
)
def test_a_coarser_stamp_takes_longer_to_settle(stamp_ns: int, window_ns: int) -> None:
    """Stamps of 2 s (FAT), 1 s (HFS+) or 10 ms prove nothing until two such ticks are over; the later one counts."""
    for mtime_ns, ctime_ns in ((stamp_ns, 3), (3, stamp_ns)):
        identity = files.Identity(1, 1, 1, mtime_ns, ctime_ns)
        assert not identity.is_settled(stamp_ns + window_ns - 1)
        assert identity.is_settled(stamp_ns + window_ns)
