"""Shards: one report of all, one entry per cause, and nothing missing is ever green."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis.database import DirectoryBasedExampleDatabase

from storecheck.cli import main
from storecheck.report.document import KnownFailure, Run, dumps, load
from storecheck.report.merging import MergeError, exit_status, join_examples, keep, merge
from storecheck.report.plugin import ShardChoice, parse_shard, seed_of, shard_of_ci
from storecheck.verdict import PromiseVerdict
from tests.report.making import GOLDEN


def shard(index: int, count: int = 3, *, mutant: str | None = None) -> Run:
    """A shard that found one bug, or nothing."""
    run = load(GOLDEN / f"{mutant or 'B76'}.json")
    failed = mutant is not None
    part = replace(run.shards[0], index=index, count=count, failed=int(failed), exit_status=int(failed), passed=5)
    part = replace(part, job="search", seed=f"{index:016x}")
    examples = tuple(replace(each, shards=(index,)) for each in run.examples) if failed else ()
    return replace(run, shards=(part,), examples=examples, figures={"schedules": 100})


def with_shard(run: Run, **changes: Any) -> Run:
    """The document of a shard that says something else of itself."""
    return replace(run, shards=(replace(run.shards[0], **changes),))


KEPT = PromiseVerdict(
    id="SNAP1",
    title="an old base overwrites nothing",
    text="An update keeps what others wrote.",
    outcome="passed",
    tests=("test_x.py::test_x",),
    tests_passed=1,
    tests_failed=0,
    tests_skipped=0,
    tests_unfinished=0,
    evidence={"steps": 7},
    mutants_killed=(),
    mutants_survived=(),
    mutants_untried=(),
    failures=(),
)


def write(tmp_path: Path, *runs: Run) -> Path:
    """Put documents where CI puts artifacts."""
    for run in runs:
        directory = tmp_path / f"shard-{run.shards[0].index}"
        directory.mkdir(parents=True)
        (directory / "run.json").write_text(dumps(run), encoding="utf-8")
    return tmp_path


def merged(directory: Path, *options: str) -> tuple[int, str]:
    """The command's exit status and output."""
    result = CliRunner().invoke(main, ["merge", str(directory), "-o", str(directory / "out"), *options])
    return result.exit_code, result.output


def test_the_same_bug_of_two_shards_is_one_entry() -> None:
    """One fingerprint, one example, found by both; another bug stays apart."""
    run = merge([shard(1, mutant="B76"), shard(2, mutant="B76"), shard(3, mutant="B27")])
    assert [(each.id[:5], each.shards) for each in run.examples] == [("race-", (1, 2)), ("crash", (3,))]
    assert run.figures["schedules"] == 300
    assert exit_status(run) == 1


def test_no_cause_is_dropped_and_the_smallest_example_is_shown() -> None:
    """Two races with different causes stay two entries; of one cause the smallest example is shown."""
    (race,) = shard(1, mutant="B76").examples
    large, small = replace(race, inputs="a long program"), replace(race, inputs="short", shards=(2,))
    other = replace(race, id="race-other", fingerprint="other", shards=(3,))
    run = merge(
        [replace(shard(number), examples=(example,)) for number, example in enumerate((large, small, other), start=1)]
    )
    assert [(each.inputs, each.shards) for each in run.examples] == [("short", (1, 2)), (race.inputs, (3,))]


def test_an_example_names_the_other_tests_of_its_cause() -> None:
    """Each once, and none if all shards met it in the same test."""
    (race,) = shard(1, mutant="B76").examples
    found = [replace(race, test=f"t.py::{name}", inputs=size) for name, size in (("b", "2"), ("a", "1"), ("c", "3"))]
    (joined,) = join_examples([*found, found[0]])
    assert joined.verdict == (*race.verdict, "By the same cause fail `t.py::b` and `t.py::c`.")
    assert join_examples([race, race])[0].verdict == race.verdict


@pytest.mark.parametrize(("tests", "last"), [("abcd", "and `d`"), ("abcde", "and 1 more"), ("abcdef", "and 2 more")])
def test_of_many_tests_of_a_cause_some_are_named_and_the_rest_counted(tests: str, last: str) -> None:
    """The first three besides that of the example."""
    (race,) = shard(1, mutant="B76").examples
    (joined,) = join_examples(replace(race, test=test) for test in tests)
    assert joined.verdict[-1] == f"By the same cause fail `b`, `c`{'' if tests == 'abcd' else ', `d`'} {last}."


def test_what_shards_have_joined_is_joined_again() -> None:
    """One sentence names the tests of all shards, and counts those that a shard only counted."""
    (race,) = shard(1, mutant="B76").examples
    parts = [join_examples(replace(race, test=test) for test in tests)[0] for tests in ("ab", "cdefgh", "i")]
    (joined,) = join_examples(parts)
    assert joined.verdict == (*race.verdict, "By the same cause fail `b`, `c`, `d` and 5 more.")
    assert join_examples([joined]) == (joined,)


def test_the_smallest_example_is_the_one_with_least_to_look_at() -> None:
    """Not the one with the shortest inputs: nothing on disk is said shortly, and begins with many calls."""
    (race,) = shard(1, mutant="B76").examples
    assert race.race is not None
    longer = replace(race, inputs="", race=replace(race.race, points=race.race.points * 2))
    assert join_examples([longer, race])[0].race == race.race


def test_what_explains_itself_is_shown_first() -> None:
    """Tests that left no counterexample come after those that did, in their order."""
    (race,) = shard(1, mutant="B76").examples
    found = [
        replace(race, kind="test", fingerprint="a"),
        replace(race, fingerprint="b"),
        replace(race, kind="test", fingerprint="c"),
        replace(race, fingerprint="d"),
    ]
    assert [each.fingerprint for each in join_examples(found)] == ["b", "d", "a", "c"]


def test_what_several_shards_say_is_counted_once() -> None:
    """A known failure that two shards met, a planted bug that two promises kill; the run began with its first shard."""
    known = KnownFailure(test="t.py::known", reason="issue 1", fingerprint="f")
    promises = tuple(replace(KEPT, id=each, mutants_killed=("B1",)) for each in ("SNAP1", "SNAP2"))
    parts = [replace(shard(n), known=(known,), promises=promises, started_at=f"2026-01-0{n}") for n in (2, 1, 3)]
    run = merge(parts)
    assert (run.known, run.figures["mutants_killed"], run.started_at) == ((known,), 1, "2026-01-01")


def test_a_run_with_nothing_but_known_failures_is_exit_0() -> None:
    """Its tests ran, and failed as they were expected to."""
    assert exit_status(merge([with_shard(shard(1, 1), passed=0, known=1)])) == 0


def test_no_path_to_files_that_are_not_there(tmp_path: Path) -> None:
    """A directory whose counterexample was taken away, because it could not be masked, is none to replay from."""
    run = shard(1, 1, mutant="B76")
    write(tmp_path, run)
    (tmp_path / "shard-1" / "failures" / run.examples[0].id / "__pycache__").mkdir(parents=True)
    assert merged(tmp_path)[0] == 1
    assert load(tmp_path / "out" / "run.json").examples[0].replay == run.examples[0].replay


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([{}, {"tests_passed": 2}], {"outcome": "passed", "tests_passed": 3, "evidence": {"steps": 14}}),
        ([{}, {"outcome": "FAILED", "tests_failed": 1}], {"outcome": "FAILED", "tests_failed": 1}),
        ([{}, {"outcome": "not verified", "tests_passed": 0}], {"outcome": "passed"}),
        ([{}, {"outcome": "not verified", "tests_unfinished": 1}], {"outcome": "not verified", "tests_unfinished": 1}),
        ([{"outcome": "not verified", "tests_passed": 0}] * 2, {"outcome": "not verified"}),
        ([{"tests": ("b", "a")}, {"tests": ("c", "a")}], {"tests": ("a", "b", "c")}),
        (
            [{"mutants_killed": ("B2", "B1")}, {"mutants_survived": ("B1",)}],
            {"outcome": "FAILED", "mutants_killed": ("B2",), "mutants_survived": ("B1",)},
        ),
        (
            [{"mutants_untried": ("B1", "B2", "B3")}, {"mutants_killed": ("B2",), "mutants_untried": ("B1", "B3")}],
            {"outcome": "passed", "mutants_killed": ("B2",), "mutants_untried": ("B1", "B3")},
        ),
        ([{"mutants_untried": ("B1",)}, {"mutants_survived": ("B1",)}], {"outcome": "FAILED", "mutants_untried": ()}),
    ],
    ids=["passed", "failed", "elsewhere", "unfinished", "nowhere", "tests", "survivor", "untried", "both"],
)
def test_a_promise_is_what_all_shards_say_of_it(parts: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """Passed only if it was verified somewhere and failed nowhere; a bug that survived anywhere has survived."""
    shards = [
        replace(shard(number, len(parts)), promises=(replace(KEPT, **changes),))
        for number, changes in enumerate(parts, start=1)
    ]
    (promise,) = merge(shards).promises
    assert {name: getattr(promise, name) for name in expected} == expected


def test_a_missing_shard_is_exit_3(tmp_path: Path) -> None:
    """A shard that did not report makes the run incomplete, though nothing failed."""
    status, output = merged(write(tmp_path, shard(1), shard(3)))
    assert status == 3
    assert "No report of shard 2." in output
    assert "1 of 3 shards did not report" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_unreadable_shard_is_exit_3(tmp_path: Path) -> None:
    """Half a document is no document."""
    directory = write(tmp_path, shard(1), shard(2), shard(3))
    (directory / "shard-3" / "run.json").write_text('{"format": "storecheck-run"', encoding="utf-8")
    status, output = merged(directory)
    assert (status, "shard-3/run.json: Expecting" in output, "No report of shard 3." in output) == (3, True, True)


def test_a_broken_document_beside_complete_ones_makes_no_green_page(tmp_path: Path) -> None:
    """Nobody knows whose it is: perhaps it is the newer one of a shard, and says that something failed."""
    directory = write(tmp_path, shard(1), shard(2), shard(3))
    (directory / "again").mkdir()
    (directory / "again" / "run.json").write_text('{"format": "storecheck-run"', encoding="utf-8")
    status, output = merged(directory)
    assert (status, "all 3 shards reported, and yet 1 more run.json cannot be read" in output) == (3, True), output
    assert not (directory / "out").exists()


def test_nothing_at_all_is_exit_3(tmp_path: Path) -> None:
    """An empty directory is not a pass, and an annotation says so."""
    status, output = merged(tmp_path, "--annotate")
    assert (status, "::error title=No report::no shard left a run.json " in output) == (3, True)


def test_fewer_shards_than_expected_is_exit_3(tmp_path: Path) -> None:
    """What CI started counts, not what the documents say."""
    assert merged(write(tmp_path, shard(1, 1)), "--expect", "2")[0] == 3


def test_expecting_fewer_than_there_were_hides_no_missing_shard(tmp_path: Path) -> None:
    """The shards say themselves that they were three; a smaller number given does not make two of them all."""
    status, output = merged(write(tmp_path, shard(1), shard(2)), "--expect", "2")
    assert (status, "No report of shard 3." in output) == (3, True)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((shard(1), shard(1), shard(2), shard(3)), "shard 1 reported more than once"),
        (
            (shard(1), shard(2), replace(shard(3), commit="other")),
            "shards of different commits: none (shard 1, 2), other (shard 3)",
        ),
        (
            (with_shard(shard(1), ci_run="77"), with_shard(shard(2), ci_run="76"), with_shard(shard(3), ci_run="77")),
            "shards of different runs: 76 (shard 2), 77 (shard 1, 3)",
        ),
        ((shard(1), shard(2, 2)), "shards of different splits: 2 (shard 2), 3 (shard 1)"),
    ],
    ids=["twice", "another commit", "another run", "another split"],
)
def test_shards_that_do_not_belong_together_are_exit_3(tmp_path: Path, parts: tuple[Run, ...], message: str) -> None:
    """Nobody knows what the shards that should have been there would have found; no report is made of them."""
    for number, part in enumerate(parts):
        write(tmp_path / str(number), part)
    status, output = merged(tmp_path, "--annotate")
    assert (status, message in output) == (3, True), output
    assert "::error title=No report::shard" in output
    assert not (tmp_path / "out").exists()


def test_all_shards_and_no_failure_is_exit_0(tmp_path: Path) -> None:
    """Complete and green."""
    status, output = merged(write(tmp_path, shard(1), shard(2), shard(3)))
    assert (status, "nothing failed" in output) == (0, True)


def test_a_failure_is_exit_1_and_annotated(tmp_path: Path) -> None:
    """A failing example fails the merge."""
    status, output = merged(write(tmp_path, shard(1, 1, mutant="B27")), "--annotate")
    assert status == 1
    assert "::error file=sessionstore/files.py,line=" in output


def test_shards_that_do_not_belong_together_are_refused() -> None:
    """Two of the same, of differently split runs, of different commits."""
    with pytest.raises(MergeError, match="shard 1 reported more than once"):
        merge([shard(1), shard(1)])
    with pytest.raises(MergeError, match="different splits"):
        merge([shard(1, 2), shard(2, 3)])
    with pytest.raises(MergeError, match="different commits"):
        merge([shard(1), replace(shard(2), commit="other")])
    with pytest.raises(MergeError, match=r"different jobs: gate \(shard 2\), search \(shard 1\)"):
        merge([shard(1), with_shard(shard(2), job="gate")])
    with pytest.raises(MergeError, match="same seed"):
        merge([shard(1), with_shard(shard(2), seed=f"{1:016x}")])
    assert merge([with_shard(shard(n), job="gate", seed="none") for n in (1, 2, 3)]).missing_shards == ()


def test_a_run_without_a_test_is_exit_3(tmp_path: Path) -> None:
    """Shards that all selected nothing show nothing."""
    empty = (with_shard(shard(n, 2), passed=0, exit_status=5) for n in (1, 2))
    assert merged(write(tmp_path, *empty))[0] == 3


def test_runs_are_kept_and_compared(tmp_path: Path) -> None:
    """A merge compares with the newest run kept before it; failures keep their first date; half a run is not kept."""
    history = tmp_path / "history"
    for day, found in enumerate(("B76", None, "B76"), start=1):
        began = f"2026-01-0{day}T00:00:00+00:00"
        run = replace(shard(1, 1, mutant=found), started_at=began, figures={"schedules": 100 * day})
        run = replace(run, promises=(KEPT,), examples=tuple(replace(each, first_seen="") for each in run.examples))
        status, output = merged(write(tmp_path / str(day), run), "--keep", str(history))
        assert (status, "Kept: " in output) == (1 if found else 0, True)
    last = load(tmp_path / "3" / "out" / "run.json")
    assert last.kept is not None
    assert (last.kept.started_at, last.kept.figures["schedules"]) == ("2026-01-02T00:00:00+00:00", 200)
    assert last.figures["schedules"] == 300
    assert last.examples[0].first_seen == "2026-01-01T00:00:00+00:00"
    page = (tmp_path / "2" / "out" / "report.html").read_text(encoding="utf-8")
    assert "Compared with the last kept run" in page
    assert [path.name for path in sorted(history.iterdir())] == [
        f"2026-01-0{day}T000000Z-unknown.json" for day in (1, 2, 3)
    ]
    # The first of three shards only: nothing to compare later runs with.
    late = replace(shard(1), started_at="2026-01-04T00:00:00+00:00")
    with pytest.raises(MergeError, match="not kept"):
        keep(merge([late]), history)
    assert merged(write(tmp_path / "4", late), "--keep", str(history))[0] == 3
    assert len(list(history.iterdir())) == 3


def test_a_kept_run_that_cannot_be_read_is_said_and_passed_over(tmp_path: Path) -> None:
    """Runs kept by another version neither stop a merge nor go unmentioned."""
    history = tmp_path / "history"
    history.mkdir()
    (history / "2020.json").write_text('{"format": "storecheck-run", "version": 0}', encoding="utf-8")
    status, output = merged(write(tmp_path / "shards", shard(1, 1)), "--keep", str(history))
    assert status == 0
    assert "Not compared with a kept run: " in output
    assert load(tmp_path / "shards" / "out" / "run.json").kept is None


def test_only_the_newest_kept_runs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory does not grow for ever."""
    monkeypatch.setattr("storecheck.report.merging.KEPT_RUNS_MAX", 2)
    for day in (1, 2, 3):
        keep(replace(shard(1, 1), started_at=f"2026-01-0{day}T00:00:00+00:00"), tmp_path)
    assert [path.name[:10] for path in sorted(tmp_path.iterdir())] == ["2026-01-02", "2026-01-03"]


def test_durations_and_examples_of_shards_are_joined(tmp_path: Path) -> None:
    """One file of durations for the next split, one database of examples for the next search."""
    directory = write(tmp_path / "shards", shard(1, 2), shard(2, 2))
    for index in (1, 2):
        part = directory / f"shard-{index}"
        (part / "durations.json").write_text(json.dumps({f"test_{index}": float(index)}), encoding="utf-8")
        own = DirectoryBasedExampleDatabase(part / "examples")
        own.save(b"key", f"value {index}".encode())
        own.save(b"key", b"found by both")
    shared = DirectoryBasedExampleDatabase(tmp_path / "shared")
    shared.save(b"key", b"known")
    assert merged(directory, "--examples", str(tmp_path / "shared"))[0] == 0
    assert set(shared.fetch(b"key")) == {b"known", b"value 1", b"value 2", b"found by both"}
    found = json.loads((directory / "out" / "durations.json").read_text(encoding="utf-8"))
    assert found == {"test_1": 1.0, "test_2": 2.0}


@pytest.mark.parametrize("broken", ['{"test_1": 1.', "[]", '{"test_1": "long"}', '{"test_1": NaN}'])
def test_durations_that_cannot_be_read_are_left_out(tmp_path: Path, broken: str) -> None:
    """They only say where to cut the next run: the report is made, and what was left out is said."""
    directory = write(tmp_path, shard(1, 2), shard(2, 2))
    (directory / "shard-1" / "durations.json").write_text(broken, encoding="utf-8")
    (directory / "shard-2" / "durations.json").write_text('{"test_2": 2}', encoding="utf-8")
    status, output = merged(directory)
    assert (status, "Durations left out: " in output, "shard-1/durations.json" in output) == (0, True, True), output
    assert json.loads((directory / "out" / "durations.json").read_text(encoding="utf-8")) == {"test_2": 2}


def with_files(directory: Path, run: Run, text: str) -> None:
    """Put the files of a shard's example beside its document."""
    place = directory / f"shard-{run.shards[0].index}" / "failures" / run.examples[0].id
    (place / "__pycache__").mkdir(parents=True)
    (place / "counterexample.json").write_text(text, encoding="utf-8")


def test_the_report_has_the_files_of_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two shards with the same cause, those of the example that is shown; its commands name them there."""
    large, small = shard(1, 2, mutant="B76"), shard(2, 2, mutant="B76")
    small = replace(small, examples=tuple(replace(each, inputs="short") for each in small.examples))
    write(tmp_path, large, small)
    with_files(tmp_path, large, "large")
    with_files(tmp_path, small, "small")
    monkeypatch.chdir(tmp_path)
    assert merged(tmp_path)[0] == 1
    (example,) = load(tmp_path / "out" / "run.json").examples
    assert example.replay == f"storecheck replay out/failures/{example.id}/counterexample.json"
    place = tmp_path / "out" / "failures" / example.id
    assert [path.name for path in place.iterdir()] == ["counterexample.json"]
    assert (place / "counterexample.json").read_text(encoding="utf-8") == "small"
    assert example.replay in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_report_is_merged_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is not split is merged into its own directory, to be compared and kept: its files stay."""
    (run,) = (shard(1, 1, mutant="B76"),)
    write(tmp_path, run)
    with_files(tmp_path, run, "as it was")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["merge", "shard-1", "-o", "shard-1"])
    assert result.exit_code == 1, result.output
    (example,) = load(tmp_path / "shard-1" / "run.json").examples
    assert example.replay == f"storecheck replay shard-1/failures/{example.id}/counterexample.json"
    assert Path(example.replay.split()[-1]).read_text(encoding="utf-8") == "as it was"


@pytest.mark.parametrize("name", ["../../elsewhere", "..", ".", "", "/"])
def test_no_file_is_taken_from_elsewhere(tmp_path: Path, name: str) -> None:
    """An id that is a path is none of ours: nothing outside a shard's failures is copied, and nothing outside ours."""
    run = shard(1, 1, mutant="B76")
    run = replace(run, examples=tuple(replace(each, id=name) for each in run.examples))
    write(tmp_path / "shards", run)
    failures = tmp_path / "shards" / "shard-1" / "failures"
    failures.mkdir()
    (tmp_path / "shards" / "elsewhere").mkdir()
    for place in (tmp_path / "shards" / "elsewhere", failures.parent, failures):
        (place / "counterexample.json").touch()
    out = tmp_path / "other" / "out"
    assert CliRunner().invoke(main, ["merge", str(tmp_path / "shards"), "-o", str(out)]).exit_code == 1
    assert not list((tmp_path / "other").rglob("counterexample.json"))


@pytest.mark.parametrize("names", [("../../elsewhere", "race-own"), ("race-own", "../../elsewhere")])
def test_of_two_examples_of_a_cause_neither_leads_elsewhere(tmp_path: Path, names: tuple[str, str]) -> None:
    """Neither the one that is shown, by where its files are put, nor the other, by where they are taken from."""
    run = shard(1, 1, mutant="B76")
    (race,) = run.examples
    write(tmp_path / "shards", replace(run, examples=tuple(replace(race, id=name) for name in names)))
    failures = tmp_path / "shards" / "shard-1" / "failures"
    # The first one is shown, and only the second one has files.
    (failures / names[1]).mkdir(parents=True)
    (failures / names[1] / "counterexample.json").touch()
    out = tmp_path / "other" / "out"
    assert CliRunner().invoke(main, ["merge", str(tmp_path / "shards"), "-o", str(out)]).exit_code == 1
    assert not list((tmp_path / "other").rglob("counterexample.json"))


def test_a_kept_run_gives_trend_and_first_seen() -> None:
    """Known failures keep their date; figures are compared."""
    kept = merge([replace(shard(1, 1, mutant="B76"), started_at="2026-01-01T00:00:00+00:00")])
    now = replace(shard(1, 1, mutant="B76"), started_at="2026-02-01T00:00:00+00:00")
    run = merge([now], kept=[kept])
    assert run.examples[0].first_seen == "2026-01-01T00:00:00+00:00"
    assert run.kept is not None
    assert run.kept.figures["schedules"] == 100


def test_a_failure_keeps_the_earliest_date_of_all_kept_runs() -> None:
    """Whichever of them has it."""
    (race,) = shard(1, mutant="B76").examples
    kept = [replace(shard(1, 1), examples=(replace(race, first_seen=day),)) for day in ("2026-01-02", "2026-01-05")]
    for order in (kept, kept[::-1]):
        assert merge([shard(1, 1, mutant="B76")], kept=order).examples[0].first_seen == "2026-01-02"


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    """The same shards merged once more replace what was kept of them."""
    directory = write(tmp_path / "shards", replace(shard(1, 1), started_at="2026-01-01T00:00:00+00:00"))
    for _ in range(2):
        assert merged(directory, "--keep", str(tmp_path / "history"))[0] == 0
        shutil.move(directory / "out", tmp_path / "out")
        assert load(tmp_path / "out" / "run.json").kept is None
        shutil.rmtree(tmp_path / "out")
    assert len(list((tmp_path / "history").iterdir())) == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STORECHECK_SHARD_INDEX": "3", "STORECHECK_SHARD_COUNT": "8"}, ShardChoice(3, 8)),
        ({"CI_NODE_INDEX": "1", "CI_NODE_TOTAL": "4"}, ShardChoice(1, 4)),
        ({"BUILDKITE_PARALLEL_JOB": "0", "BUILDKITE_PARALLEL_JOB_COUNT": "5"}, ShardChoice(1, 5)),
        ({}, None),
    ],
)
def test_the_variables_of_ci_say_which_shard(environ: dict[str, str], expected: ShardChoice | None) -> None:
    """Our own variables and GitLab's count from 1, Buildkite's from 0."""
    assert shard_of_ci(environ) == expected


@pytest.mark.parametrize(("index", "count"), [("x", "3"), ("1", "x")])
def test_variables_of_ci_that_are_no_numbers_are_named(index: str, count: str) -> None:
    """Both, with what they are."""
    with pytest.raises(ValueError, match=f'CI_NODE_INDEX is "{index}" and CI_NODE_TOTAL is "{count}"'):
        shard_of_ci({"CI_NODE_INDEX": index, "CI_NODE_TOTAL": count})


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/2/3", "a/b", "", "-1/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    """The error says what to give."""
    with pytest.raises(ValueError, match="such as 3/8"):
        parse_shard(text)


def test_every_shard_and_test_has_a_seed_of_its_own() -> None:
    """Different for each shard and test, the same for the same run."""
    seeds = {seed_of("run", ShardChoice(i, 8), test) for i in range(1, 9) for test in ("a", "b")}
    assert len(seeds) == 16
    assert seed_of("run", ShardChoice(1, 8), "a") == seed_of("run", ShardChoice(1, 8), "a")
    assert seed_of("other", ShardChoice(1, 8), "a") not in seeds
