"""`stress` and `measure`: the tables they print, the work behind them, and that they leave nothing behind."""

from __future__ import annotations

import json
import mmap
import os
import selectors
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import pytest

from sessionstore import SessionStore, Settings
from sessionstore.cli import memory, scratch
from sessionstore.cli.memory import MB, memory_now
from sessionstore.cli.scratch import build_store, entry_of, scratch_directory
from sessionstore.cli.stress import Sample, growth_bytes, run_cycles
from tests.unit.cli_runs import TIMEOUT_S, assert_one_message, clean_environment, interruptible, invoke, run

HEADING = ["cycle", "rss_mb", "heap_mb", "external_mb", "store_kb", "elapsed_ms"]
MAX_PEAK_MB = 60.0

needs_proc_status = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="only Linux tells heap from files"
)


@pytest.fixture(autouse=True)
def temporary_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made, so that a test can see what is left there."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    for name in list(os.environ):
        if name.startswith("OPENCLAW_SESSION"):
            monkeypatch.delenv(name)
    return place


def rows_of(text: str) -> list[list[float]]:
    """The numbers of the table, whose heading is checked."""
    heading, *lines = text.splitlines()
    assert heading.split() == HEADING
    return [[float(cell) for cell in line.split()] for line in lines]


@needs_proc_status
@pytest.mark.promise("CLI2")
@pytest.mark.parametrize("reuse", [(), ("--reuse-loaded-store",)])
def test_the_table_samples_memory_size_and_time(reuse: tuple[str, ...], temporary_place: Path) -> None:
    """CLI2: one line before the first cycle, after every Nth and after the last; heap and external make up rss."""
    arguments = ("stress", "--target-kb", "300", "--cycles", "25", "--sample-every", "10", *reuse)
    done = invoke(*arguments)
    assert done.exit_code == 0, done.stderr
    rows = rows_of(done.stdout)
    assert [row[0] for row in rows] == [0, 10, 20, 25]
    for _, rss_mb, heap_mb, external_mb, store_kb, _ in rows:
        assert 0 < heap_mb < rss_mb
        assert abs(heap_mb + external_mb - rss_mb) <= 0.11  # each is rounded to a tenth
        assert 300 <= store_kb <= 310
    times = [row[5] for row in rows]
    assert times == sorted(times)
    assert "growth after cycle 10" in done.stderr
    assert list(temporary_place.iterdir()) == []


@needs_proc_status
@pytest.mark.promise("CLI2")
def test_memory_stays_within_the_bar_at_full_size(tmp_path: Path) -> None:
    """CLI2: with the defaults on a 7.6 MB store, reusing what was loaded, peak memory is at most 60 MB."""
    done = run("stress", "--reuse-loaded-store", "--cycles", "12", "--json", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [sample["cycle"] for sample in told["samples"]] == [0, 10, 12]
    assert 7_600_000 <= told["samples"][-1]["store_bytes"] <= 7_650_000
    assert told["peak_rss_bytes"] <= MAX_PEAK_MB * MB


@pytest.mark.promise("CLI2", "SNAP4")
@pytest.mark.parametrize("reuse", [False, True])
def test_each_cycle_is_a_load_and_an_update_of_the_next_session(
    reuse: bool, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLI2, SNAP4: sessions are touched in turn; reusing what was loaded, only the first load parses."""
    build_store(str(store_path), size_bytes=20_000, payload_bytes=1000)
    stores: list[SessionStore] = []
    original = SessionStore.__init__

    def remember(self: SessionStore, path: str, settings: Settings | None = None) -> None:
        stores.append(self)
        original(self, path, settings)

    monkeypatch.setattr(SessionStore, "__init__", remember)
    settings = Settings(maintenance_mode="off", cache_ttl_ms=0)
    for _ in run_cycles(str(store_path), settings, cycles=7, sample_every=100, unique_touches=3, reuse_loaded=reuse):
        pass
    labels = [entry["label"] for entry in SessionStore(store_path).load().values()]
    assert labels[:4] == ["touched in cycle 7", "touched in cycle 5", "touched in cycle 6", "session 3"]
    stats = stores[0].stats()
    assert stats.writes == 7
    assert stats.snapshot_reuses == (7 if reuse else 0)
    assert stats.parses == (1 if reuse else 14)


@pytest.mark.promise("CLI2")
def test_the_options_reach_the_store(temporary_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI2: payload size, number of touched sessions and lifetime of caches are those that were asked for."""
    seen: dict[str, object] = {}
    original = run_cycles

    def remember(path: str, settings: Settings, **options: object) -> object:
        entries = list(SessionStore(path).load().values())
        seen.update(
            options, ttl=settings.cache_ttl_ms, payloads={len(e["skillsSnapshot"]["prompt"].encode()) for e in entries}
        )
        return original(path, settings, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("sessionstore.cli.stress.run_cycles", remember)
    arguments = ["--target-kb", "50", "--cycles", "2", "--payload-size", "5000", "--unique-touches", "3"]
    assert invoke("stress", *arguments, "--cache-ttl-ms", "7").exit_code == 0
    assert seen["ttl"] == 7
    assert seen["unique_touches"] == 3
    assert seen["payloads"] <= set(range(4997, 5001))  # type: ignore[operator]  # a cut character counts less
    assert invoke("stress", *arguments).exit_code == 0
    assert seen["ttl"] == Settings().cache_ttl_ms


@pytest.mark.promise("CLI2")
@pytest.mark.parametrize("content", [b"{}", b"", b"not a store"])
def test_an_existing_file_is_never_touched(content: bytes, store_path: Path) -> None:
    """CLI2: stress refuses a store that is there, in any state, and ignores the one that the variable names."""
    store_path.write_bytes(content)
    arguments = ("stress", "--target-kb", "10", "--cycles", "1")
    refused = invoke("--store", str(store_path), *arguments)
    assert refused.exit_code == 2
    assert_one_message(refused.stderr, contains=["never touches an existing store"])
    done = run(*arguments, directory=store_path.parent, environ={"OPENCLAW_SESSION_STORE": str(store_path)})
    assert done.returncode == 0
    assert store_path.read_bytes() == content
    assert sorted(path.name for path in store_path.parent.iterdir()) == ["sessions.json", "temporary"]


@pytest.mark.promise("CLI2")
def test_a_new_store_is_built_where_it_is_asked_for(store_path: Path, temporary_place: Path) -> None:
    """CLI2: --store with a new name builds the store there, on that disk, and leaves it."""
    assert invoke("--store", str(store_path), "stress", "--target-kb", "10", "--cycles", "1").exit_code == 0
    assert 10_000 <= store_path.stat().st_size <= 13_000
    assert list(temporary_place.iterdir()) == []


def first_line(stream: IO[bytes]) -> bytes:
    """The next line of a pipe, within bounds."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        assert selector.select(TIMEOUT_S), "nothing was printed"
    return stream.readline()


@pytest.mark.promise("CLI1", "CLI2")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_ended_run_cleans_up(number: signal.Signals, status: int, tmp_path: Path, temporary_place: Path) -> None:
    """CLI1: ended by a signal, stress leaves no temporary directory and no traceback; its table was live until then."""
    process = subprocess.Popen(
        interruptible("stress", "--target-kb", "50", "--cycles", "1000000", "--sample-every", "1"),
        cwd=tmp_path,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        assert process.stdout is not None
        assert first_line(process.stdout).split() == [name.encode() for name in HEADING]
        assert first_line(process.stdout).split()[0] == b"0"
        assert len(list(temporary_place.iterdir())) == 1
        process.send_signal(number)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    assert process.returncode == status
    assert b"Traceback" not in stderr
    assert list(temporary_place.iterdir()) == []


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("content", [None, b"{}", b'{"A ": {"n": 1}, "a": {}}'])
def test_measure_times_a_copy_next_to_the_store(content: bytes | None, store_path: Path) -> None:
    """CLI1: all operations are timed, the store itself is only read, and nothing is left in its directory."""
    if content is not None:
        store_path.write_bytes(content)
    before = sorted(path.name for path in store_path.parent.iterdir())
    done = invoke("--store", str(store_path), "measure", "--rounds", "2", "--json")
    told = json.loads(done.stdout)
    assert "cache" not in done.stderr, "what is measured as cached is cached"
    assert told["size_bytes"] == (len(content) if content is not None else told["size_bytes"])
    if content is None:
        assert 900_000 <= told["size_bytes"] < Settings().object_cache_max_bytes
    operations = {timing["operation"]: timing for timing in told["timings"]}
    assert list(operations) == [
        "load, past the caches",
        "load, as cached",
        "read one entry, as cached",
        "update one entry, with base",
        "update one entry, without base",
        "raw: write + fdatasync + replace",
    ]
    assert operations["raw: write + fdatasync + replace"]["ratio_to_raw"] == 1
    for timing in told["timings"]:
        assert len(timing["rounds_ms"]) == 2
        assert min(timing["rounds_ms"]) <= timing["median_ms"] <= max(timing["rounds_ms"])
    assert sorted(path.name for path in store_path.parent.iterdir()) == before
    if content is not None:
        assert store_path.read_bytes() == content


@pytest.mark.promise("CLI1")
def test_measure_prints_a_table(store_path: Path) -> None:
    """CLI1: for people, one line per operation with its ratio to what the disk needs anyway."""
    store_path.write_bytes(b'{"a": {}}')
    lines = invoke("--store", str(store_path), "measure", "--rounds", "1").stdout.splitlines()
    assert lines[0] == f"{store_path}: 9 bytes, 1 round, medians"
    assert lines[1].split() == ["OPERATION", "MS", "MIN", "MAX", "OF", "RAW"]
    assert lines[-1].split()[-1] == "1.00"


def sample(cycle: int, rss_bytes: int) -> Sample:
    """A sample of which only these two matter."""
    return Sample(cycle, rss_bytes, None, None, 0, 0.0)


@pytest.mark.parametrize(
    ("samples", "growth"),
    [
        ([], None),
        ([sample(0, 1), sample(5, 100)], None),
        ([sample(0, 1), sample(10, 100)], None),
        ([sample(10, 100), sample(20, 90), sample(30, 107), sample(40, 101)], 7),
        ([sample(4, 500), sample(12, 100), sample(16, 90)], 0),
    ],
)
def test_growth_is_what_memory_rises_above_the_settled_cycle(samples: list[Sample], growth: int | None) -> None:
    """CLI2: compared is the highest later sample with the first from cycle 10 on."""
    assert growth_bytes(samples) == growth


@needs_proc_status
@pytest.mark.parametrize("kind", ["heap", "external"])
def test_memory_is_counted_as_the_kernel_does(kind: str) -> None:
    """Private anonymous memory in use is heap, any other is external; both are in rss, and neither in the other."""
    size = 40_000_000
    flags = mmap.MAP_ANONYMOUS | (mmap.MAP_PRIVATE if kind == "heap" else mmap.MAP_SHARED)
    before = memory_now()
    with mmap.mmap(-1, size, flags=flags) as buffer:
        for _ in range(size // 1_000_000):
            buffer.write(b"x" * 1_000_000)
        holding = memory_now()
    after = memory_now()
    rises = {
        "heap": (holding.heap_bytes or 0) - (before.heap_bytes or 0),
        "external": (holding.external_bytes or 0) - (before.external_bytes or 0),
    }
    falls = holding.rss_bytes - after.rss_bytes
    assert rises.pop(kind) >= 38_000_000
    assert max(rises.values()) <= 5_000_000
    assert falls >= 38_000_000
    assert memory.peak_rss_bytes() >= holding.rss_bytes - 1_000_000


def test_without_proc_the_peak_stands_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system tells only the peak, that is what is shown, and the split is left out."""

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr("builtins.open", refuse)
    found = memory_now()
    monkeypatch.undo()
    assert found.rss_bytes > 1_000_000
    assert (found.heap_bytes, found.external_bytes) == (None, None)


@pytest.mark.parametrize("payload_bytes", [1, 100, 2048, 100_000])
def test_a_made_up_store_has_the_size_asked_for(payload_bytes: int, store_path: Path) -> None:
    """The store is at least as large as asked, by less than one entry, the same in every run, each entry its own."""
    build_store(str(store_path), size_bytes=50_000, payload_bytes=payload_bytes)
    first = store_path.read_bytes()
    assert 50_000 <= len(first) <= 50_000 + payload_bytes + 1000
    store_path.unlink()
    build_store(str(store_path), size_bytes=50_000, payload_bytes=payload_bytes)
    assert store_path.read_bytes() == first
    entries = list(SessionStore(store_path).load().values())
    assert entries[0] == entry_of(0, payload_bytes)
    assert len({json.dumps(entry) for entry in entries}) == len(entries)
    assert abs(len(entries[0]["skillsSnapshot"]["prompt"].encode()) - payload_bytes) <= 3


def test_a_scratch_directory_goes_away_with_an_error(temporary_place: Path) -> None:
    """Whatever happens inside, the directory is removed and the handler of SIGTERM is the old one."""
    before = signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with scratch_directory() as directory:
            Path(directory, "file").touch()
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert list(temporary_place.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
    assert scratch.size_of(__file__) == os.stat(__file__).st_size
