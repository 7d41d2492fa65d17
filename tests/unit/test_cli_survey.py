"""What `status` and `doctor` find out without changing anything."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.strategies import CORRUPT_FILES, corrupt_files, store_files
from sessionstore import CorruptStoreError
from sessionstore.cli import survey as survey_module
from sessionstore.cli.survey import Content, examine, lock_state, survey
from sessionstore.snapshot import parse

needs_proc_locks = pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="only Linux tells who holds a lock")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store path for all examples of a test."""
    return tmp_path_factory.mktemp("survey") / "sessions.json"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even a small file be read in many pieces."""
    monkeypatch.setattr(survey_module, "PIECE_BYTES", 64)


def expected_content(path: Path, raw: bytes) -> Content:
    """What reading the file as a whole says."""
    mode = path.stat().st_mode & 0o7777
    try:
        return Content(len(raw), mode, len(parse(str(path), raw).table.ordinals), None)
    except CorruptStoreError as error:
        return Content(len(raw), mode, None, survey_module.Corruption(error.offset, error.reason))


@pytest.mark.promise("READ2", "READ3")
@pytest.mark.parametrize("piece_bytes", [7, 64, 256 * 1024])
@given(st.one_of(store_files(any_range=True), corrupt_files().map(lambda found: found[1])))
@example(b'{\n  "a": {\n    "n": 1\n  },\n  "a": {\n    "n": 1\n  }\n}')
@example(b'{\n  "a": {\n    "n": 1\n  },\n  "A": {\n    "n": 1\n  }\n}')
@example(b'{\n  "a": {\n    "n": 1,\n    "n": 1\n  },\n  "b": {}\n}')
@example(b'{\n  "a": {\n    "n": 1\n  },\n  "b": 7\n}')
@example(b'{\n  "a": {\n    "n": {\n  },\n  "b": {}\n}\n}\n}')
@example(b"{\n  }\n}")
def test_reading_by_pieces_gives_the_verdict_of_reading_whole(piece_bytes: int, scratch: Path, raw: bytes) -> None:
    """READ2, READ3: wherever a piece happens to end, size, sessions and the first problem are those of the file."""
    scratch.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_module, "PIECE_BYTES", piece_bytes)
        assert examine(str(scratch)) == expected_content(scratch, raw)


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("depth", [127, 128, 129])
def test_reading_by_pieces_knows_the_limit_of_nesting(depth: int, store_path: Path) -> None:
    """READ2: an entry of 128 levels is fine and one of 129 is corrupt, also in this store's own layout."""
    entry: object = {}
    for _ in range(depth - 1):
        entry = {"x": entry}
    store_path.write_text(json.dumps({"a": entry, "b": {"n": 1}}, indent=2))
    content = examine(str(store_path))
    assert (content.corruption is None) == (depth <= 128)


def test_a_file_that_changes_while_it_is_read_by_pieces_is_read_again(
    store_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count never mixes two versions of a file that a program writes in place."""
    versions = [json.dumps({f"{name}{n}": {"n": n} for n in range(20)}, indent=2) for name in "ab"]
    store_path.write_text(versions[0])
    reads: list[int] = []
    original = os.read

    def read(descriptor: int, size: int) -> bytes:
        reads.append(size)
        if len(reads) == 3:
            with open(store_path, "r+") as file:
                file.write(versions[1])
            os.utime(store_path, ns=(1, 1))
        return original(descriptor, size)

    monkeypatch.setattr("os.read", read)
    assert examine(str(store_path)).sessions == 20
    assert reads[-1] > survey_module.PIECE_BYTES


@pytest.fixture
def held_lock(store_path: Path) -> Iterator[Path]:
    """The store's lock file, locked by this process."""
    lock = Path(f"{store_path}.flock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield lock
    os.close(descriptor)


@needs_proc_locks
@pytest.mark.promise("LOCK1")
def test_the_holder_of_the_write_lock_is_named(store_path: Path, held_lock: Path) -> None:
    """LOCK1: whoever holds `<store file>.flock` is told by process id and name."""
    state = lock_state(str(store_path))
    assert (state.path, state.held, state.holder_pid) == (str(held_lock), True, os.getpid())
    assert state.holder_name == Path("/proc/self/comm").read_text().strip()


@needs_proc_locks
def test_looking_at_the_lock_neither_takes_nor_creates_it(store_path: Path) -> None:
    """A monitor leaves no trace: no lock file appears, and a lock file nobody holds is free."""
    assert lock_state(str(store_path)).held is False
    assert not os.path.exists(f"{store_path}.flock")
    Path(f"{store_path}.flock").touch()
    assert lock_state(str(store_path)).held is False


def test_what_the_system_does_not_tell_is_unknown(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/locks the state of the lock is unknown, not free."""
    Path(f"{store_path}.flock").touch()

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("/proc/locks")

    monkeypatch.setattr("builtins.open", refuse)
    assert lock_state(str(store_path)).held is None


@pytest.mark.promise("LOCK1")
def test_files_next_to_the_store_are_told_apart(store_path: Path) -> None:
    """LOCK1: temporary files, backups, corrupt copies and the other program's lock are listed, and nothing else."""
    store_path.write_bytes(b"{}")
    belonging = {
        "temporary": ".sessions.json.sessionstore-0011.tmp",
        "backup": "sessions.json.bak.1774000000000",
        "corrupt": "sessions.json.corrupt-20260101T000000Z-00ff",
        "foreign": "sessions.json.lock",
    }
    for name in (
        *belonging.values(),
        "other.json.lock",
        ".other.json.sessionstore-1.tmp",
        "sessions.json.bak",
        "x.tmp",
    ):
        store_path.with_name(name).touch()
    near = survey(str(store_path)).neighbours
    assert [os.path.basename(name) for name in near.temporary] == [belonging["temporary"]]
    assert [os.path.basename(name) for name in near.backups] == [belonging["backup"]]
    assert [os.path.basename(name) for name in near.corrupt_copies] == [belonging["corrupt"]]
    assert [os.path.basename(name) for name in near.foreign_locks] == [belonging["foreign"]]


@pytest.mark.promise("CACHE8", "LOCK1")
def test_a_linked_store_is_surveyed_where_it_is(tmp_path: Path) -> None:
    """CACHE8: path and resolved path are told; lock and neighbours are the real file's, foreign locks those of both."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "store.json").write_bytes(b'{"a": {}, "A ": {}}')
    link = tmp_path / "sessions.json"
    link.symlink_to(real / "store.json")
    (tmp_path / "sessions.json.lock").touch()
    (real / "store.json.lock").touch()
    found = survey(str(link))
    assert (found.path, found.resolved_path) == (str(link), str(real / "store.json"))
    assert found.content is not None
    assert found.content.sessions == 1
    assert found.lock.path == str(real / "store.json.flock")
    assert found.neighbours.foreign_locks == (str(real / "store.json.lock"), str(tmp_path / "sessions.json.lock"))


@pytest.mark.promise("READ1")
def test_only_a_missing_file_is_an_empty_store(tmp_path: Path) -> None:
    """READ1: no file and no directory are fine; everything else that cannot be read is a problem."""
    assert survey(str(tmp_path / "sessions.json")).problem is None
    assert survey(str(tmp_path / "no" / "directory" / "sessions.json")).problem is None
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file/sessions.json", "circle", "fifo", "."):
        assert survey(str(tmp_path / name)).problem is not None, name


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("kind", sorted(CORRUPT_FILES))
def test_a_survey_names_the_first_thing_that_is_wrong(kind: str, store_path: Path) -> None:
    """READ2: offset and reason are those with which the store refuses the file."""
    store_path.write_bytes(CORRUPT_FILES[kind])
    found = survey(str(store_path))
    assert found.content == expected_content(store_path, CORRUPT_FILES[kind])
    assert found.problem is not None
    assert "doctor --repair" in found.problem
