"""What a benchmark run says: misses are shown, failures are named, programs are measured from outside."""

import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
from rich.console import Console

from benchmarks import cli, commands, contention, timing
from benchmarks.launch import launch
from benchmarks.machine import Machine, describe_machine, file_system_of
from benchmarks.ours import RaisedLimits, RaisedLimitsWithoutBase, SessionStorePeer, WithoutBase
from benchmarks.peers import JsonWithFilelock, RawLimit
from benchmarks.report import as_json, count_outcomes, format_number, print_report
from benchmarks.rounds import Rounds, Series, TurnFailedError, Verdict, interleave
from benchmarks.sections import Bench, Quantity, Section

MACHINE = Machine(2, "test processor", "Linux 1", "CPython 3", "ext4", 0.1, (("orjson", "3"),))
FORMS = (SessionStorePeer, WithoutBase, RaisedLimits, RaisedLimitsWithoutBase)
TABLE = "cycle rss_mb heap_mb\n0 30.0 1.0\n10 40.0 1.0\n20 40.5 1.0\n30 43.0 1.0\n50 41.0 1.0\n"


def _ignore(_subject: str, _number: int) -> None:
    pass


def _updates(*, ours_ms: float) -> Rounds:
    """The harness fed with fake measurements instead of workers."""
    fake_ms = {RawLimit.name: 10.0, JsonWithFilelock.name: 70.0, **{kind.name: ours_ms for kind in FORMS}}
    turns = {subject: _answer(value) for subject, value in fake_ms.items()}
    return interleave(turns, rounds=3, before_turn=_ignore)


def _answer(value: float) -> Callable[[], dict[str, float]]:
    return lambda: {"ms": value}


def _update_section(*, ours_ms: float) -> Section:
    rounds = _updates(ours_ms=ours_ms)
    return Section(
        name="update",
        title="Update",
        method="fake",
        quantities=(Quantity("ms", "ms"),),
        rounds=rounds,
        reference=RawLimit.name,
        verdicts=timing.judge_updates(rounds),
    )


def _printed(*sections: Section) -> str:
    out = io.StringIO()
    print_report(Console(file=out, width=200), machine=MACHINE, sections=sections)
    return out.getvalue()


def test_a_slow_store_is_reported_as_a_miss_of_both_update_bars() -> None:
    """Fed with a slow fake, the harness says MISS in the table, in the count and in the document for programs."""
    slow = _update_section(ours_ms=20.0)
    printed = _printed(slow)
    assert printed.count("MISS") == 2 * len(FORMS) + 1
    assert "0 hit, 8 MISS, 0 not measured" in printed
    document = json.loads(as_json(machine=MACHINE, sections=[slow], plan_name="quick"))
    assert {verdict["outcome"] for verdict in document["sections"][0]["verdicts"]} == {"MISS"}


def test_a_near_miss_is_shown_with_the_digits_that_decide_it() -> None:
    """1.302 is a MISS of 1.3, and does not stand there as 1.3 alone."""
    assert "1.302: 1.3 x" in " ".join(_printed(_update_section(ours_ms=13.02)).split())
    assert "1.302" not in _printed(_update_section(ours_ms=13.0))


def test_a_fast_store_hits_both_update_bars() -> None:
    """The same harness, fed with a fast fake, says hit: 1.3 times the raw limit and five times the baseline."""
    assert "8 hit, 0 MISS" in _printed(_update_section(ours_ms=13.0))


def test_a_store_that_failed_is_not_measured_and_its_reason_is_printed() -> None:
    """A crash is neither a hit nor hidden: the bars say so and the reason stands under the table."""

    def crash() -> dict[str, float]:
        raise TurnFailedError("ImportError: no module")

    rounds = interleave({RawLimit.name: _answer(10.0), SessionStorePeer.name: crash}, rounds=2, before_turn=_ignore)
    section = Section(
        "update", "Update", "fake", (Quantity("ms", "ms"),), rounds, verdicts=timing.judge_updates(rounds)
    )
    printed = _printed(section)
    assert "not measured: sessionstore: ImportError: no module" in printed
    assert "sessionstore failed" in printed
    assert "0 hit, 0 MISS, 8 not measured" in printed


def test_a_read_bar_is_absolute_and_stands_for_both_ways_of_reading() -> None:
    """Oversized within 0.1 ms and cached beyond it: one hit, one MISS."""
    rounds = Rounds((Series(SessionStorePeer.name, "ms", (0.09, 0.1)), Series(RaisedLimits.name, "ms", (0.11, 0.12))))
    assert [verdict.outcome for verdict in timing.judge_reads(rounds)] == ["hit", "MISS"]


def test_a_single_lost_update_in_any_round_is_a_miss_whatever_the_median() -> None:
    """Lost updates are added up over the rounds, in the verdict and in the table."""
    series = [
        Series(kind.name, quantity, values)
        for kind in (SessionStorePeer, RaisedLimits, JsonWithFilelock)
        for quantity, values in (("updates_per_s", (100.0, 100.0, 100.0)), ("lost", (0.0, 1.0, 0.0)))
    ]
    rounds = Rounds(tuple(series))
    by_bar = {verdict.bar: verdict.outcome for verdict in contention.judge_writers(rounds)}
    assert by_bar == {contention.RATE_BAR: "MISS", contention.LOST_BAR: "MISS"}
    lost = Section("writers", "Writers", "fake", (Quantity("lost", "lost", shown_as="total"),), rounds)
    assert any(line.split()[-1:] == ["1"] for line in _printed(lost).splitlines())


def test_unfair_or_slow_locks_miss_their_bars() -> None:
    """Jain's index and the p99 wait are judged on their own."""
    fair_but_slow = Rounds((Series("sessionstore", "jain", (0.99,)), Series("sessionstore", "p99_ms", (129.0,))))
    assert [verdict.outcome for verdict in contention.judge_fairness(fair_but_slow)] == ["hit", "MISS"]
    unfair = Rounds((Series("sessionstore", "jain", (0.94,)), Series("sessionstore", "p99_ms", (128.0,))))
    assert [verdict.outcome for verdict in contention.judge_fairness(unfair)] == ["MISS", "hit"]


def test_growth_is_the_largest_sample_after_the_tenth_cycle() -> None:
    """A peak between the tenth and the last cycle is growth, although the last sample is lower."""
    sampled = commands.sample_memory("warning: noise\n" + TABLE, cycles=50)
    assert (sampled.first_mb, sampled.last_mb, sampled.growth_mb) == (30.0, 41.0, 3.0)


@pytest.mark.parametrize(
    "table", ["", "cycle rss_mb\n0 1\n10 1\n20 1\n", "cycle rss_mb\n0 1\n50 1\n"], ids=["none", "no-last", "no-tenth"]
)
def test_a_table_that_ends_early_is_a_failed_turn(table: str) -> None:
    """Half a stress run is not judged."""
    with pytest.raises(TurnFailedError):
        commands.sample_memory(table, cycles=50)


def test_the_worst_stress_round_is_judged() -> None:
    """Memory that grew in one of three runs has grown."""
    rounds = Rounds(
        (
            Series(commands.REUSING, "growth_mb", (0.1, 2.0, 0.1)),
            Series(commands.REUSING, "peak_mb", (50.0, 50.0, 61.0)),
        )
    )
    assert _outcomes(commands.judge_stress(rounds)) == ["MISS", "MISS"]
    assert _outcomes(commands.judge_stress(Rounds(()))) == ["not measured", "not measured"]


def test_status_is_judged_by_what_it_adds_to_a_bare_interpreter() -> None:
    """Memory and time above the interpreter's own, for a large and a small store."""
    rounds = Rounds(
        (
            *_start_series(commands.BARE, peak_mb=9.0, ms=15.0),
            *_start_series(commands.STATUS_LARGE, peak_mb=24.5, ms=165.0),
            *_start_series(commands.STATUS_SMALL, peak_mb=24.0, ms=166.0),
        )
    )
    assert _outcomes(commands.judge_status(rounds)) == ["MISS", "hit", "hit", "MISS"]


def _start_series(subject: str, *, peak_mb: float, ms: float) -> list[Series]:
    return [Series(subject, "peak_mb", (peak_mb, peak_mb)), Series(subject, "ms", (ms, ms))]


def _outcomes(verdicts: tuple[Verdict, ...]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


def test_a_launched_programs_peak_does_not_include_this_process(tmp_path: Path) -> None:
    """Linux hands a parent's peak down over fork and exec; the small launcher between them stops that."""
    ballast = bytearray(150_000_000)
    bare = launch([sys.executable, "-c", "pass"], directory=tmp_path)
    loaded = launch([sys.executable, "-c", "x = bytearray(50_000_000)"], directory=tmp_path)
    assert len(ballast) / 1e6 > bare.peak_rss_mb
    assert bare.peak_rss_mb < 60
    assert loaded.peak_rss_mb > bare.peak_rss_mb + 45
    assert (bare.exit_code, bare.elapsed_ms > 0, bare.cpu_ms > 0) == (0, True, True)


def test_a_launched_program_reports_output_and_exit_code(tmp_path: Path) -> None:
    """What a program printed and how it ended arrive; one that cannot be started is a failed turn."""
    finished = launch([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"], directory=tmp_path)
    assert (finished.exit_code, finished.stdout, finished.stderr) == (1, "out\n", "err\n")
    with pytest.raises(TurnFailedError, match="could not be started"):
        launch([str(tmp_path / "missing")], directory=tmp_path)


def test_a_machine_is_described_with_what_makes_figures_doubtful(tmp_path: Path) -> None:
    """File system and versions are named; memory file systems and busy machines get a warning."""
    described = describe_machine(tmp_path)
    assert described.cores >= 1
    assert described.file_system == file_system_of(tmp_path) != ""
    busy = Machine(2, "p", "Linux", "CPython", "tmpfs", 5.0, ())
    assert "durability is free there" in " ".join(busy.lines())
    assert "Trust ratios before times" in " ".join(busy.lines())
    assert len(MACHINE.lines()) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.3, "1.3"), (12.345, "12.3"), (1234.5, "1234"), (3500.0, "3500")],
)
def test_numbers_are_shown_with_three_significant_digits(value: float, text: str) -> None:
    """Enough to compare, not more than the noise allows."""
    assert format_number(value) == text


def test_outcomes_are_counted_in_one_line() -> None:
    """Zero misses are said as zero, not left out."""
    assert count_outcomes([]) == "0 hit, 0 MISS, 0 not measured"


needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib is in the dependency group `bench`, which is not installed",
)


@needs_matplotlib
def test_a_run_with_misses_writes_table_chart_and_document_and_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar is not a test: exit 0, the MISS on stdout, progress on stderr only, nothing left in the directory."""

    def slow(bench: Bench) -> Section:
        bench.before_turn("update")("sessionstore", 1)
        return _update_section(ours_ms=20.0)

    monkeypatch.setitem(cli.SECTIONS, "update", slow)
    chart, document, scratch = tmp_path / "chart.svg", tmp_path / "results.json", tmp_path / "scratch"
    arguments = ["--quick", "--only", "update", "--chart", str(chart), "--json", str(document)]
    result = click.testing.CliRunner().invoke(cli.main, [*arguments, "--directory", str(scratch)])
    assert result.exit_code == 0, result.output
    assert "MISS" in result.stdout
    assert "update: round 1" in result.stderr
    assert "update: round 1" not in result.stdout
    assert chart.read_text(encoding="utf-8").startswith("<?xml")
    assert json.loads(document.read_text(encoding="utf-8"))["format"] == "sessionstore-benchmarks/1"
    assert list(scratch.iterdir()) == []


@needs_matplotlib
def test_a_run_that_could_not_measure_something_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are missing are an error of the run, unlike figures that are bad."""
    rounds = Rounds((), (("TinyDB", "ImportError"),))
    section = Section("read", "Read", "fake", (Quantity("ms", "ms"),), rounds, verdicts=timing.judge_reads(rounds))
    monkeypatch.setitem(cli.SECTIONS, "read", lambda _bench: section)
    arguments = ["--only", "read", "--chart", str(tmp_path / "chart.png"), "--directory", str(tmp_path / "scratch")]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 1
    assert "not measured: TinyDB: ImportError" in result.stdout


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--chart", "chart.gif"]], ids=["section", "suffix"])
def test_wrong_usage_is_refused_before_anything_is_measured(arguments: list[str]) -> None:
    """An unknown section or chart format ends with 2 and says what is possible."""
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "update" in result.stderr or ".svg" in result.stderr
