"""The pytest side of reports: shards, jobs, counterexamples that cross xdist, and the report at the end.

Method: pytest runs small projects in processes of their own.
"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.database import DirectoryBasedExampleDatabase, ReadOnlyDatabase

from storecheck.cli import main
from storecheck.report.document import load
from storecheck.report.plugin import RUN_VARIABLES, _counterexample_in, open_database, shared_database
from tests.report.making import GOLDEN

PROMISES = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Promise:
    id: str
    title: str
    text: str

ALL = (Promise("A1", "adds up", "Nothing added is lost."),)
"""

RACE = """
import pytest
from storecheck import Operation, PreemptionBounded, Program, process
from storecheck.drawing import verify

def lost(execution):
    return None if int(execution.files()["counter"]) == len(execution.operations) else "an addition is lost"

@pytest.mark.promise("A1")
def test_additions_are_kept():
    add = process(Operation("add", {"amount": 1}))
    program = Program(adapter="storecheck.adapters:RenamingCounter", processes=(add,) * 3, files={"counter": b"0"})
    verify(program, strategy=PreemptionBounded(1), check=lost, check_path="test_race:lost", shrink_program=True)

@pytest.mark.promise("A1")
def test_nothing():
    pass

def test_plain():
    assert 1 == 2, "one is not two"
"""


SAME_CAUSE = """
@pytest.mark.promise("A1")
def test_additions_of_SIZE_are_kept():
    add = process(Operation("add", {"amount": SIZE}))
    program = Program(adapter="storecheck.adapters:RenamingCounter", processes=(add,) * 2, files={"counter": b"0"})
    verify(program, strategy=PreemptionBounded(1), check=lost_SIZE, check_path="test_race:lost_SIZE")

def lost_SIZE(execution):
    return None if execution.files()["counter"] == str(2 * SIZE).encode() else "an addition is lost"
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A small project with a promise."""
    pytester.makepyfile(promise_list=PROMISES, test_race=RACE)
    pytester.makeini("[pytest]\npromises = promise_list:ALL\npythonpath = .\n")
    return pytester


def run(project: pytest.Pytester, *options: str) -> Any:
    """Run pytest in a process of its own."""
    return project.runpytest_subprocess("-p", "no:randomly", "--report-dir", "report", *options, timeout=120)


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_race_becomes_an_example_with_files(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """The counterexample reaches the report, from a worker too, with its replay and its test beside it."""
    run(project, *workers)
    report = load(project.path / "report" / "run.json")
    race = next(example for example in report.examples if example.kind == "race")
    assert (race.promise, race.test) == ("A1", "test_race.py::test_additions_are_kept")
    assert race.replays is not None
    assert (race.replays.failed, race.replays.tried) == (20, 20)
    assert race.deciding is not None
    assert race.deciding.with_failed == race.deciding.with_tried > 0
    assert {each.what: (each.before, each.after) for each in race.shrunk if each.what != "points"} == {
        "processes": (3, 2),
        "operations": (3, 2),
    }
    (plain,) = [example for example in report.examples if example.test == "test_race.py::test_plain"]
    assert (plain.kind, "one is not two" in plain.raw) == ("test", True)
    assert (report.shards[0].passed, report.shards[0].failed) == (1, 2)
    assert (project.path / "report" / "failures" / race.id / "counterexample.json").is_file()
    assert "overwrote" in race.title
    assert race.title in (project.path / "report" / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("first", ["small", "large"])
def test_tests_that_fail_by_one_cause_are_one_entry(project: pytest.Pytester, first: str) -> None:
    """The smaller example is shown, with its own files, and names the other test; the page has no id twice."""
    sizes = ("1", "100000") if first == "small" else ("100000", "1")
    names = [f"test_race.py::test_additions_of_{size}_are_kept" for size in sizes]
    project.makepyfile(test_race=RACE.partition("@")[0] + "".join(SAME_CAUSE.replace("SIZE", size) for size in sizes))
    run(project)
    report = load(project.path / "report" / "run.json")
    assert report.shards[0].failed == 2
    (race,) = report.examples
    shown, other = sorted(names, key=len)
    assert race.test == shown
    assert race.verdict[-1] == f"By the same cause fails `{other}`."
    (written,) = (project.path / "report" / "failures").rglob("counterexample.json")
    document = json.loads(written.read_text(encoding="utf-8"))
    del document["trace"]
    assert document == json.loads(race.inputs)
    assert race.replay == f"storecheck replay report/failures/{race.id}/counterexample.json"


def test_the_reproducer_fails_without_hypothesis(project: pytest.Pytester) -> None:
    """The written test is plain pytest, fails by the same finding, and imports no Hypothesis."""
    run(project)
    found = next((project.path / "report" / "failures").glob("race-*/test_*.py"))
    assert "hypothesis" not in found.read_text(encoding="utf-8").lower().replace("no hypothesis", "")
    result = project.runpytest_subprocess("-p", "no:hypothesispytest", str(found), timeout=60)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*an addition is lost*"])


def test_shards_share_the_tests_and_merge(project: pytest.Pytester) -> None:
    """Every test runs in exactly one shard, and together they are one run, with a replay and a test that work."""
    for index in (1, 2):
        # Hidden: pytest must not collect what it writes.
        run(project, "--shard", f"{index}/2", "--report-dir", f".shards/{index}")
    done = CliRunner().invoke(main, ["merge", ".shards", "-o", "merged"])
    assert done.exit_code == 1, done.output
    merged = load(project.path / "merged" / "run.json")
    assert merged.missing_shards == ()
    assert sum(shard.passed + shard.failed for shard in merged.shards) == 3
    shutil.rmtree(project.path / ".shards")
    race = next(example for example in merged.examples if example.kind == "race")
    program, *arguments = shlex.split(race.replay)
    assert (program, CliRunner().invoke(main, arguments).exit_code) == ("storecheck", 0)
    program, *arguments = shlex.split(race.run_as_test)
    assert program == "pytest"
    project.runpytest_subprocess(*arguments, timeout=60).assert_outcomes(failed=1)


@pytest.mark.parametrize("variable", ["GITHUB_RUN_ID", "CI_PIPELINE_ID", "BUILDKITE_BUILD_NUMBER"])
def test_a_report_says_which_run_of_ci_it_is_of(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """So that a report left by an earlier run of the same commit is not merged as this one's."""
    for name in RUN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "77")
    run(project, "-k", "nothing")
    assert [shard.ci_run for shard in load(project.path / "report" / "run.json").shards] == ["77"]


HALVES = """
import pytest

def test_text():
    assert "a\\ud83d" == "b\\ud83d"

@pytest.mark.skip(reason="skipped \\ud83d")
def test_skipped():
    pass

def test_passes():
    pass
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_failure_in_text_that_is_no_utf_8_is_reported(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Half a surrogate pair in what a test says ends no worker and breaks no report."""
    project.makepyfile(test_halves=HALVES)
    run(project, "test_halves.py", *workers).assert_outcomes(failed=1, skipped=1, passed=1)
    report = load(project.path / "report" / "run.json")
    assert r"a\ud83d" in report.examples[0].raw
    (part,) = report.shards
    assert (part.failed, part.skipped, part.passed) == (1, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shard", "9/8"), "*such as 3/8*"),
        (("--shard", "auto"), "*--shard auto found none of*"),
        (("--example-database", "x"), "*--example-database needs --job search*"),
        (("--job", "gate", "--new-examples", "x"), "*--new-examples needs --job search*"),
        (("--job", "search", "--example-database", "github:nobody"), "*Give github:OWNER/REPOSITORY*"),
        (("--job", "search", "--example-database", "nowhere"), "*is no directory*"),
    ],
)
def test_wrong_options_are_usage_errors(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    """The error says what to give; the exit status is pytest's for wrong usage."""
    for name in ("STORECHECK_SHARD_INDEX", "CI_NODE_INDEX", "BUILDKITE_PARALLEL_JOB"):
        monkeypatch.delenv(name, raising=False)
    result = run(project, *options)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])


LONG = """
import pytest
from hypothesis import given, settings, strategies as st
from storecheck import Operation, Program, RandomSchedules, process
from storecheck.drawing import verify

def lost(execution):
    return None if int(execution.files()["counter"]) == len(execution.operations) else "an addition is lost"

@pytest.mark.promise("A1")
def test_long():
    add = process(*[Operation("add", {"amount": 1})] * 4)
    program = Program(adapter="storecheck.adapters:RenamingCounter", processes=(add, add), files={"counter": b"0"})
    verify(program, strategy=RandomSchedules(executions=5, seed=1), check=lost, shrink_program=True)

@settings(max_examples=50, derandomize=True, database=None)
@given(st.lists(st.integers(), min_size=2))
def test_numbers(numbers):
    assert sum(numbers) < 100, f"numbers {numbers}"

def test_profile():
    assert settings.get_current_profile_name() in ("default", "ci")  # whichever Hypothesis takes here
"""


@pytest.mark.parametrize(
    "options", [(), ("--as-found",), ("--as-found", "-n", "1")], ids=["small", "as found", "xdist"]
)
def test_what_is_told_as_found_is_not_made_small(project: pytest.Pytester, options: tuple[str, ...]) -> None:
    """With the option neither the explorer nor Hypothesis makes a failure smaller, and the profile keeps its name."""
    project.makepyfile(test_long=LONG)
    result = project.runpytest_subprocess("-p", "no:randomly", "test_long.py", *options, timeout=120)
    result.assert_outcomes(failed=2, passed=1)
    small = ["*minimised to 2 processes, 2 operations*", "*numbers [[]0, 100[]]*"]
    if options:
        result.stdout.fnmatch_lines("*as found: 2 processes, 8 operations*")
        result.stdout.no_fnmatch_line(small[1])
    else:
        result.stdout.fnmatch_lines_random(small)


DRAWS = """
from hypothesis import given, settings, strategies as st
SEEN = []

@settings(max_examples=5)
@given(st.integers())
def test_draw(number):
    SEEN.append(number)

def test_show():
    print("DRAWN", SEEN)
"""


@pytest.mark.parametrize(("job", "same"), [("gate", True), ("search", False)])
def test_seeds_of_a_search_differ_and_a_gate_repeats(pytester: pytest.Pytester, job: str, same: bool) -> None:
    """Another seed draws other examples in a search, and the same seed the same; a gate always the same."""
    pytester.makepyfile(test_draws=DRAWS)

    def drawn(seed: str) -> str:
        result = pytester.runpytest_subprocess("-s", "--job", job, "--shard-seed", seed, timeout=60)
        return next(line for line in result.outlines if "DRAWN" in line)

    first = drawn("one")
    assert drawn("one") == first
    assert (drawn("two") == first) is same


NARROW = """
from hypothesis import given, settings, strategies as st

@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_narrow(number):
    with open("drawn", "a") as drawn:
        print(number, file=drawn)
    assert number < 1000
"""


def test_what_one_search_finds_the_next_one_tries_first(pytester: pytest.Pytester) -> None:
    """A shard keeps its finds in its report; merged, they are the first that another shard tries, whatever its seed."""
    pytester.makepyfile(promise_list=PROMISES, test_narrow=NARROW)
    pytester.makeini("[pytest]\npromises = promise_list:ALL\npythonpath = .\n")

    def search(number: int, *options: str) -> list[int]:
        (pytester.path / "drawn").unlink(missing_ok=True)
        always = ("--job", "search", "--shard-seed", str(number), "--report-dir", f".shards/{number}/1")
        pytester.runpytest_subprocess(*always, *options, timeout=120).assert_outcomes(failed=1)
        return [int(line) for line in (pytester.path / "drawn").read_text(encoding="utf-8").split()]

    found = search(1)
    assert (found[0], found[-1]) != (1000, 1000), "drawn by chance: choose another seed"
    shards = str(pytester.path / ".shards" / "1")
    shared = str(pytester.path / "shared")
    merged = CliRunner().invoke(main, ["merge", shards, "-o", str(pytester.path / "out"), "--examples", shared])
    assert merged.exit_code == 1, merged.output
    before = sorted(pytester.path.joinpath("shared").rglob("*"))
    assert before
    assert search(2, "--example-database", shared)[0] == 1000
    assert sorted(pytester.path.joinpath("shared").rglob("*")) == before


@pytest.mark.parametrize("where", ["cause", "context", "group"])
def test_a_counterexample_is_found_wherever_an_error_carries_it(where: str) -> None:
    """On the error that it came of, or on one of several that were raised together."""
    inner, outer = ValueError("x"), RuntimeError("y")
    vars(inner)["counterexample"] = "found"
    if where == "group":
        vars(outer)["exceptions"] = (KeyError("z"), inner)
    else:
        setattr(outer, f"__{where}__", inner)
    inner.__context__ = outer  # a circle
    assert _counterexample_in(outer) is inner
    assert _counterexample_in(KeyError("z")) is None


def test_a_run_that_is_killed_leaves_no_earlier_report(project: pytest.Pytester) -> None:
    """What an earlier run left there is gone before the first test: a dead shard is missing, and not the last one."""
    report = project.path / "report"
    run(project, "-k", "nothing")
    assert (report / "run.json").is_file()
    project.makepyfile(test_dies="import os\n\ndef test_dies():\n    os._exit(0)\n")
    assert run(project, "test_dies.py").ret == 0, "nothing in the exit status says that it died"
    assert not (report / "run.json").exists()


def test_a_report_has_the_durations_of_its_tests(project: pytest.Pytester) -> None:
    """Every test with the seconds it took, in the form that pytest-split reads."""
    run(project, "-k", "plain or nothing")
    durations = json.loads((project.path / "report" / "durations.json").read_text(encoding="utf-8"))
    assert set(durations) == {"test_race.py::test_nothing", "test_race.py::test_plain"}
    (project.path / ".test_durations").write_text(json.dumps(durations | {"test_race.py::test_plain": 50.0}))
    result = run(project, "-k", "plain or nothing", "--shard", "1/2")
    result.stdout.fnmatch_lines(["*Running group 1/2 (estimated duration: 50.00s)*"])


def test_the_artifact_of_a_repository_is_only_read(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The database that CI left as an artifact on GitHub is looked into; a fresh copy on disk needs no network."""
    kept = DirectoryBasedExampleDatabase(tmp_path / "examples")
    kept.save(b"key", b"value")
    cache = tmp_path / "home" / "github-artifacts" / "hypothesis-example-db"
    cache.mkdir(parents=True)
    now = datetime.now(timezone.utc).isoformat().replace(":", "_")
    shutil.make_archive(str(cache / now), "zip", tmp_path / "examples")
    set_hypothesis_home_dir(tmp_path / "home")
    request.addfinalizer(lambda: set_hypothesis_home_dir(None))
    shared = shared_database("github:somebody/something")
    assert isinstance(shared, ReadOnlyDatabase)
    shared.save(b"key", b"other")
    assert set(shared.fetch(b"key")) == {b"value"}


def test_a_shared_directory_of_examples_is_only_read(tmp_path: Path) -> None:
    """What is there is found; what is saved is not."""
    DirectoryBasedExampleDatabase(tmp_path).save(b"key", b"value")
    shared = shared_database(str(tmp_path))
    assert isinstance(shared, ReadOnlyDatabase)
    shared.save(b"key", b"other")
    assert set(shared.fetch(b"key")) == {b"value"}


@pytest.fixture
def redis_address(tmp_path: Path) -> Iterator[str]:
    """A real redis-server of Debian's."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_examples_shared_by_redis_are_only_read(redis_address: str) -> None:
    """What a search kept in redis is found by a shard, which writes nothing there."""
    from hypothesis.extra.redis import RedisExampleDatabase
    from redis import Redis

    with Redis.from_url(redis_address) as client:
        RedisExampleDatabase(client).save(b"key", b"value")
        shared = shared_database(redis_address)
        shared.save(b"key", b"other")
        assert set(shared.fetch(b"key")) == {b"value"}
        open_database(redis_address).save(b"key", b"found by a shard")
        assert set(shared.fetch(b"key")) == {b"value", b"found by a shard"}


def test_a_search_reads_and_keeps_examples_in_redis(pytester: pytest.Pytester, redis_address: str) -> None:
    """The first shard keeps its find in one database of the server; the second, reading there, tries it first."""
    pytester.makepyfile(test_narrow=NARROW)
    always = ("--job", "search", "--shard-seed")
    pytester.runpytest_subprocess(*always, "1", "--new-examples", redis_address, timeout=120).assert_outcomes(failed=1)
    (pytester.path / "drawn").unlink()
    pytester.runpytest_subprocess(*always, "2", "--example-database", redis_address, timeout=120)
    assert (pytester.path / "drawn").read_text(encoding="utf-8").startswith("1000\n")


def test_golden_counterexamples_still_replay() -> None:
    """A committed document fails the same way again, with the bug it belongs to."""
    from storecheck.counterexample import load as load_counterexample
    from storecheck.counterexample import replay

    document = load_counterexample(GOLDEN / "B87.counterexample.json")
    replayed = replay(document)
    assert replayed.finding == document.finding
    assert json.loads((GOLDEN / "B87.json").read_text(encoding="utf-8"))["examples"][0]["promise"] == "WRITE7"
