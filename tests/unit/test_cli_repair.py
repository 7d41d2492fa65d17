"""`doctor` and `doctor --repair`: what is told of a corrupt file, what is kept of it, and that no byte is lost.

Method: files are damaged at drawn places whose neighbours are known, and what is kept is compared byte by byte with
what stood there before.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.strategies import CORRUPT_FILES, Layout, corrupt_files, foreign_sessions, render, store_files
from sessionstore import ConflictError, CorruptStoreError, LockTimeoutError, SessionStore
from sessionstore.cli import repair as repair_module
from sessionstore.cli.doctor import excerpt
from sessionstore.cli.repair import MAX_PROBLEMS, repair, salvage
from sessionstore.files import copy_aside
from sessionstore.snapshot import parse
from tests.unit.cli_runs import assert_one_message, invoke

LOCK_TIMEOUT_S = 5.0


def members(raw: bytes) -> dict[str, tuple[int, int, bytes]]:
    """Of a valid file, by key: where the member's line begins, where its entry ends, and the entry's bytes."""
    index = parse("", raw)
    return {
        key: (raw.rfind(b"\n", 0, index.key_start(number)), index.span(number)[1], raw[slice(*index.span(number))])
        for number, key in enumerate(index.table.keys)
    }


def kept_bytes(raw: bytes) -> dict[str, bytes]:
    """What salvage keeps, by key."""
    return {key: entry.value for key, entry in salvage(raw).kept.items()}


def is_refused(raw: bytes) -> bool:
    """Whether the store takes these bytes for a corrupt file."""
    try:
        parse("", raw)
    except CorruptStoreError:
        return True
    return False


def copies(path: Path) -> list[Path]:
    """What repairs set aside."""
    return sorted(path.parent.glob("sessions.json.corrupt-*"))


@pytest.mark.promise("READ2")
@given(store_files(any_range=True))
def test_a_valid_file_has_no_problem_and_all_of_it_can_be_kept(raw: bytes) -> None:
    """READ2: salvage of a healthy file, in any layout, keeps every entry's bytes and finds nothing wrong."""
    found = salvage(raw)
    assert found.problems == ()
    assert found.lost == ()
    assert kept_bytes(raw) == {key: value for key, (_, _, value) in members(raw).items()}


@pytest.mark.promise("READ2", "READ3")
@given(st.one_of(corrupt_files().map(lambda found: found[1]), st.binary(max_size=200), store_files()))
def test_whatever_the_bytes_the_result_is_a_valid_store(raw: bytes) -> None:
    """READ2: a file has problems exactly if the store refuses it, and what is made of it is accepted."""
    found = salvage(raw)
    parse("", found.composed())
    assert bool(found.problems) == is_refused(raw)


@pytest.mark.promise("READ2")
@given(foreign_sessions(), st.sampled_from(["ours", "crlf", "tabs", "four spaces", "compact", "bom"]), st.data())
def test_a_truncated_file_keeps_every_entry_before_the_cut(
    sessions: list[tuple[str, dict[str, object]]], layout: Layout, data: st.DataObject
) -> None:
    """READ2: cut anywhere, in any layout, all entries that end before the cut are kept with their bytes."""
    raw = render(sessions, layout)
    whole = members(raw)
    cut = data.draw(st.integers(0, len(raw)), label="cut")
    assert kept_bytes(raw[:cut]) == {key: value for key, (_, end, value) in whole.items() if end <= cut}


@pytest.mark.promise("READ2")
@given(foreign_sessions(), st.sampled_from(["ours", "crlf", "tabs", "four spaces"]), st.data())
def test_a_hole_in_the_file_costs_only_the_entries_it_touches(
    sessions: list[tuple[str, dict[str, object]]], layout: Layout, data: st.DataObject
) -> None:
    """READ2: blocks that a crash left as NUL bytes take the entries they touch with them, and no other."""
    raw = render(sessions, layout)
    whole = members(raw)
    begin = data.draw(st.integers(0, len(raw)), label="begin")
    size = data.draw(st.integers(1, 600), label="size")
    end = min(begin + size, len(raw))
    damaged = raw[:begin] + b"\0" * (end - begin) + raw[end:]
    kept = kept_bytes(damaged)
    untouched = {key: value for key, (line, stop, value) in whole.items() if stop <= begin or line >= end}
    assert kept.items() >= untouched.items()
    # Nothing is invented: what else is kept stood there with these bytes.
    assert {key: value for key, (_, _, value) in whole.items()}.items() >= kept.items()


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("layout", ["ours", "crlf", "tabs", "four spaces"])
def test_a_damaged_first_line_costs_only_its_session(layout: Layout) -> None:
    """READ2: how far sessions are indented is learned from the end of the file if its beginning does not tell."""
    raw = render([(name, {"origin": {"channel": {}}}) for name in "abc"], layout)
    for begin in range(raw.index(b"\n"), raw.index(b'"a"')):
        assert list(kept_bytes(raw[:begin] + b"\0" + raw[begin + 1 :])) == ["b", "c"], begin


@pytest.mark.promise("READ2")
def test_a_file_whose_head_is_gone_keeps_what_follows() -> None:
    """READ2: a first block of NUL bytes costs the entries in it, and never makes a session of what is in an entry."""
    sessions: dict[str, object] = {name: {"origin": {"channel": {}}} for name in "abc"}
    raw = json.dumps(sessions, indent=2).encode()
    for at in range(1, raw.index(b'"b"') - 3):
        assert sorted(kept_bytes(b"\0" * at + raw[at:])) == (["a", "b", "c"] if at == 1 else ["b", "c"]), at
    in_one_line = json.dumps(sessions).encode()
    for at in range(1, len(in_one_line)):
        assert kept_bytes(b"\0" * at + in_one_line[at:]) == {}
    assert sorted(kept_bytes(b"\0" * 512 + in_one_line)) == ["a", "b", "c"]


@pytest.mark.promise("READ3")
@pytest.mark.parametrize(("times", "expected"), [((1, 2), 2), ((2, 1), 2), ((None, 1), 1), ((1, None), 1)])
def test_of_duplicate_sessions_the_newest_is_kept(times: tuple[int | None, int | None], expected: int) -> None:
    """READ3: of two entries under one key the one with the newer `updatedAt` is kept, and both places are told."""
    first, second = (json.dumps({} if time is None else {"updatedAt": time}) for time in times)
    raw = f'{{"a": {first}, "b": {{}}, "a": {second}}}'.encode()
    found = salvage(raw)
    assert json.loads(found.composed()) == {"a": {"updatedAt": expected}, "b": {}}
    (problem,) = found.problems
    assert problem.offset == raw.rindex(b'"a"')
    assert "duplicate session key 'a', also at byte 1" in problem.reason
    assert found.lost == ()


@pytest.mark.promise("READ3")
def test_of_duplicate_sessions_of_one_time_the_last_is_kept() -> None:
    """READ3: without a difference in time the later entry counts, as in any JSON program."""
    assert kept_bytes(b'{"a": {"n": 1}, "a": {"n": 2}}') == {"a": b'{"n": 2}'}


@pytest.mark.promise("READ3")
def test_duplicates_inside_an_entry_leave_the_last() -> None:
    """READ3: an entry that other programs can read is kept as they read it; integers stay exact."""
    found = salvage(b'{"a": {"n": 1, "m": 12345678901234567890123, "n": 2}, "b": {}}')
    assert json.loads(found.composed()) == {"a": {"n": 2, "m": 12345678901234567890123}, "b": {}}
    assert [problem.consequence for problem in found.problems] == ["the last of the duplicates is kept"]


@pytest.mark.promise("READ2", "READ3")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"null", "not an object"),
        (b'{"n": NaN}', "NaN"),
        (b'{"n": 1e999}', "overflows"),
        (b'{"n": ' + b"9" * 4301 + b"}", "4301 digits"),
        (b'{"n": 1, "n": NaN}', "NaN"),
        (b'{"n": "\xff"}', "UTF-8"),
        (b'{"x":' * 129 + b"1" + b"}" * 129, "deeper than 128"),
        (b'{"n": 007}', "not JSON"),
    ],
)
@pytest.mark.parametrize("separator", [b"\n  ", b" "])
def test_an_entry_that_no_one_can_read_is_lost_by_name(broken: bytes, reason: str, separator: bytes) -> None:
    """READ2: an unreadable entry is named with the reason, and its neighbours are kept."""
    raw = separator.join([b"{", b'"a": {"n": 1},', b'"broken": ' + broken + b",", b'"b": {"n": 2}'])[:-1] + b"}\n}"
    found = salvage(raw)
    assert found.lost == ("broken",)
    assert any("'broken'" in problem.reason and reason in problem.reason for problem in found.problems)
    # In one line, nothing tells where the next session begins once an entry is torn.
    torn_in_one_line = separator == b" " and reason == "not JSON"
    assert list(found.kept) == (["a"] if torn_in_one_line else ["a", "b"])


@pytest.mark.promise("READ2")
def test_every_problem_is_told_with_its_place() -> None:
    """READ2: several kinds of damage in one file are all found, in file order."""
    raw = b'{\n  "a": {},,\n  "b": 7,\n  "c": {"x": \n  "d": {"n": 1}\n  "e": {"n": 2},\n}x'
    found = salvage(raw)
    places = [b',\n  "b"', b"7,", b': {"n": 1}', b'"e"', b"}x"]
    expected = [raw.index(place) for place in places] + [len(raw) - 1]
    assert [problem.offset for problem in found.problems] == expected, found.problems
    assert list(found.kept) == ["a", "d", "e"]
    assert found.lost == ("b", "c")


def test_noise_is_told_in_bounds() -> None:
    """A file with a problem in every line is told in bounds and counted to the end."""
    found = salvage(b"{" + b'\n  "x": {' * (MAX_PROBLEMS + 10))
    assert len(found.problems) == MAX_PROBLEMS
    assert found.untold == 10
    assert found.lost == ("x",)


def test_an_excerpt_marks_the_place_and_is_printable() -> None:
    """Control characters of a damaged file do not reach the terminal, and the mark stands under the byte."""
    line, mark = excerpt("{ü\x1b\n".encode() + b"\xff" + b"x" * 200, 5)
    assert line.isprintable()
    assert line[mark.index("^") :].startswith("\\xff")
    assert line.endswith("...")


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("kind", sorted(CORRUPT_FILES))
def test_repair_sets_the_exact_bytes_aside_and_leaves_a_readable_store(kind: str, store_path: Path) -> None:
    """READ2: whatever is wrong, the bytes are in a copy, the store can be read and written, and only then exit 0."""
    raw = CORRUPT_FILES[kind]
    store_path.write_bytes(raw)
    told = invoke("--store", str(store_path), "doctor")
    assert told.exit_code == 1
    assert_one_message(told.stderr)
    assert "problem: corrupt at byte" in told.stdout
    assert store_path.read_bytes() == raw
    assert copies(store_path) == []

    done = invoke("--store", str(store_path), "doctor", "--repair")
    assert done.exit_code == 0, done.output
    (copy,) = copies(store_path)
    assert copy.read_bytes() == raw
    assert str(copy) in done.stdout
    store = SessionStore(store_path)
    assert set(store.load()) == set(salvage(raw).kept)
    store.update(lambda draft: draft.update({"after": {"n": 1}}))
    assert invoke("--store", str(store_path), "doctor").exit_code == 0


@pytest.mark.promise("READ2", "CLI1")
def test_a_problem_is_explained_once(store_path: Path) -> None:
    """READ2: what stops programs and what a repair does about it is one finding; stderr only names it."""
    store_path.write_bytes(b'{"a": {}, "b": 3, "c": {}')
    done = invoke("--store", str(store_path), "doctor")
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "problem: corrupt at byte 15 (line 1, column 16): session 'b': an entry is not an object; "
        "this entry is lost. Programs refuse to read or write it."
    )
    assert lines[3].startswith("problem: byte 25 (line 1, column 26): the file ends")
    assert sum(line.startswith("problem: ") for line in lines) == 2
    assert done.stderr == f"Error: {store_path}: corrupt at byte 15 (line 1, column 16)\n"


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("raw", [b"", b"\0" * 4096])
def test_an_empty_file_becomes_an_empty_store_only_by_repair(raw: bytes, store_path: Path) -> None:
    """READ2: zero bytes and NUL bytes become `{}` when the operator says so, after being set aside."""
    store_path.write_bytes(raw)
    with pytest.raises(CorruptStoreError):
        SessionStore(store_path).load()
    assert invoke("--store", str(store_path), "doctor", "--repair").exit_code == 0
    assert store_path.read_bytes() == b"{}"
    assert [copy.read_bytes() for copy in copies(store_path)] == [raw]


@pytest.mark.promise("READ2")
def test_a_healthy_file_is_left_alone(store_path: Path) -> None:
    """READ2: repairing a healthy store changes not even its time stamps, and a missing one is not created."""
    assert invoke("--store", str(store_path), "doctor", "--repair").exit_code == 0
    assert list(store_path.parent.iterdir()) == []
    store_path.write_bytes(b'\xef\xbb\xbf{"a":{"n":1e2}}\r\n')
    before = store_path.stat()
    done = invoke("--store", str(store_path), "doctor", "--repair")
    assert done.exit_code == 0
    assert "nothing to repair" in done.stdout
    after = store_path.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert copies(store_path) == []


@pytest.mark.promise("READ2")
def test_copies_never_collide_and_are_all_kept(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READ2: repairs in the same second, even with the same random number, leave one copy each."""
    monkeypatch.setattr("time.strftime", lambda *_: "20261122T120000Z")
    random_bytes = os.urandom
    monkeypatch.setattr("os.urandom", lambda size: b"\0" * size if size == 4 else random_bytes(size))
    for number in range(5):
        store_path.write_bytes(b'{"a": {"n": %d}' % number)
        repair(str(store_path), lock_timeout_s=LOCK_TIMEOUT_S)
    assert sorted(copy.read_bytes() for copy in copies(store_path)) == [b'{"a": {"n": %d}' % n for n in range(5)]


@pytest.mark.promise("READ2", "WRITE8")
def test_repair_keeps_mode_and_link(tmp_path: Path) -> None:
    """WRITE8: the repaired file and the copy have the mode of the corrupt one; a link stays a link."""
    real = tmp_path / "sessions.json"
    real.write_bytes(b'{"a": {"n": 1},')
    real.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(real)
    done = repair(str(link), lock_timeout_s=LOCK_TIMEOUT_S)
    assert link.is_symlink()
    assert json.loads(real.read_bytes()) == {"a": {"n": 1}}
    assert [path.stat().st_mode & 0o777 for path in (real, *copies(real))] == [0o640, 0o640]
    assert done.copy == str(copies(real)[0])


@pytest.mark.promise("READ2", "LOCK1")
def test_repair_waits_for_the_write_lock(store_path: Path) -> None:
    """LOCK1: while another writer holds the lock nothing is copied or replaced."""
    store_path.write_bytes(b"{")
    descriptor = os.open(f"{store_path}.flock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        done = invoke("--store", str(store_path), "--lock-timeout", "0", "doctor", "--repair")
        with pytest.raises(LockTimeoutError):
            repair(str(store_path), lock_timeout_s=0)
    finally:
        os.close(descriptor)
    assert done.exit_code == 1
    assert_one_message(done.stderr, contains=["for the write lock, held by", "Nothing was written"])
    assert store_path.read_bytes() == b"{"
    assert copies(store_path) == []


@pytest.mark.promise("READ2", "WRITE5")
@pytest.mark.parametrize("call", ["os.write", "os.fsync", "os.link"])
def test_nothing_is_replaced_before_the_copy_is_durable(
    call: str, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WRITE5: if the disk refuses the copy, the corrupt file stays as it is and no other file is left."""
    store_path.write_bytes(b'{"a": {}')

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(call, refuse)
    done = invoke("--store", str(store_path), "doctor", "--repair")
    assert done.exit_code == 1
    assert_one_message(done.stderr, contains=["No space left"])
    assert store_path.read_bytes() == b'{"a": {}'
    assert sorted(path.name for path in store_path.parent.iterdir()) == ["sessions.json", "sessions.json.flock"]


@pytest.mark.promise("READ2")
def test_repair_replaces_only_what_it_has_read(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """READ2: a program without the lock that restores the file meanwhile is not overwritten."""
    store_path.write_bytes(b'{"a": {}')
    original = copy_aside

    def copy_then_restore(path: str, raw: bytes, *, suffix: str, mode: int) -> str:
        name = original(path, raw, suffix=suffix, mode=mode)
        store_path.write_bytes(b'{"restored": {}}')
        return name

    monkeypatch.setattr(repair_module, "copy_aside", copy_then_restore)
    with pytest.raises(ConflictError):
        repair(str(store_path), lock_timeout_s=LOCK_TIMEOUT_S)
    assert store_path.read_bytes() == b'{"restored": {}}'
    assert [copy.read_bytes() for copy in copies(store_path)] == [b'{"a": {}']


@pytest.mark.promise("WRITE4")
def test_doctor_tells_of_stray_files_and_repair_sweeps_them(store_path: Path) -> None:
    """WRITE4: temporary files of killed writers are named, and removed under the lock."""
    store_path.write_bytes(b"{}")
    stray = store_path.with_name(".sessions.json.sessionstore-00ff.tmp")
    stray.write_bytes(b"half")
    told = invoke("--store", str(store_path), "doctor")
    assert told.exit_code == 0
    assert "1 temporary file of killed writers" in told.stdout
    assert str(stray) in told.stdout
    assert stray.exists()
    assert "removed 1 temporary file" in invoke("--store", str(store_path), "doctor", "--repair").stdout
    assert not stray.exists()


@pytest.fixture
def foreign_lock(store_path: Path) -> Path:
    """A lock file as the original system writes it, naming this process."""
    lock = Path(f"{store_path}.lock")
    lock.write_text(json.dumps({"pid": os.getpid(), "createdAt": "2026-11-22T12:00:00.000Z"}))
    return lock


@pytest.mark.promise("LOCK1")
@pytest.mark.parametrize("arguments", [("status",), ("doctor",), ("doctor", "--repair")])
def test_a_foreign_lock_is_mentioned_and_left_alone(
    arguments: tuple[str, ...], foreign_lock: Path, store_path: Path
) -> None:
    """LOCK1: `<store file>.lock` belongs to another program: said, never read as a lock, written or removed."""
    store_path.write_bytes(b'{"a": {"n": 1}')
    before = foreign_lock.read_bytes()
    done = invoke("--store", str(store_path), *arguments)
    assert str(foreign_lock) in done.stdout
    assert "another program's lock file" in done.stdout
    if arguments[0] == "doctor":
        assert f"it names process {os.getpid()}, which is running" in done.stdout
    assert foreign_lock.read_bytes() == before


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_bytes(b"{}") and path.chmod(0o644), "remark: mode 0644: other users"),
        (lambda path: path.mkdir(), "problem: the file cannot be read"),
        (lambda path: Path(f"{path}.flock").symlink_to(path), "problem: "),
        (lambda path: path.write_bytes(b"{" + b" " * 1_000_000 + b"}"), "remark: larger than the object cache's limit"),
    ],
)
def test_doctor_names_what_will_go_wrong_later(make: object, expected: str, store_path: Path) -> None:
    """What is not damage of the content is told as well, with the next step."""
    assert callable(make)
    make(store_path)
    done = invoke("--store", str(store_path), "doctor")
    assert expected in done.stdout
    assert done.exit_code == (1 if expected.startswith("problem") else 0)


def test_a_misread_variable_is_told(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator learns that a limit is not the one that was meant."""
    monkeypatch.setenv("OPENCLAW_SESSION_CACHE_TTL_MS", "45s")
    assert (
        "remark: OPENCLAW_SESSION_CACHE_TTL_MS is '45s'; using 45000"
        in invoke("--store", str(store_path), "doctor").stdout
    )


def test_the_members_of_this_test_are_those_of_the_file() -> None:
    """The oracle itself: places and bytes of members, checked by hand."""
    raw = b'{\n  "a": {"n": 1},\n  "b": {}\n}'
    expected: Mapping[str, tuple[int, int, bytes]] = {"a": (1, 17, b'{"n": 1}'), "b": (18, 28, b"{}")}
    assert members(raw) == expected
