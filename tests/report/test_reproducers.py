"""The reproducer files of all golden examples, in a clean directory, without Hypothesis.

Goal: what a reviewer is told to run fails as long as the bug is there, and passes when it is mended. Method: pytest
runs the written files in processes of their own, with the planted bug and without.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from storecheck import Operation, PreemptionBounded, Program, process
from storecheck.cli import main
from storecheck.counterexample import from_failure, replay
from storecheck.explore import explore
from storecheck.report.document import KIND_NAMES, load
from storecheck.report.examples import placed, reproduce, write_failure
from storecheck.report.failures import example_of_payload, fingerprint_of_payload
from storecheck.report.reproducer import CRASH, HISTORY, RACE, TOLD, reproducer
from storecheck.runner import Execution
from storecheck.schedule import ReplayDiverged
from storecheck.verdict import Failure
from tests.report.making import CASES, FAILING_TESTS, GOLDEN, NAMES, FailingTest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120
NO_HYPOTHESIS = "import sys\n\ndef test_it_is_not_there():\n    assert 'hypothesis' not in sys.modules\n"


def write(directory: Path, names: Iterable[str], *, planted: bool) -> None:
    """Put the files of golden examples below a directory, as a report does."""
    for name in names:
        example = load(GOLDEN / f"{name}.json").examples[0]
        document = json.loads((GOLDEN / f"{name}.counterexample.json").read_text(encoding="utf-8"))
        if not planted and "transform" in document:
            document |= {"transform": None, "transform_argument": None}
        target = directory / name
        target.mkdir()
        (target / "counterexample.json").write_text(json.dumps(document), encoding="utf-8")
        # Two golden examples of one cause have one id; the directory tells them apart, the module name must, too.
        (target / f"test_{name.replace('-', '_')}.py").write_text(example.reproducer, encoding="utf-8")
    (directory / "test_zz_last.py").write_text(NO_HYPOTHESIS, encoding="utf-8")


def run(directory: Path, *, mutant: str = "") -> str:
    """Run what is below a directory; the last line of pytest's output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STORECHECK", "PYTEST"))}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"STORECHECK_MUTANT": mutant} if mutant else {})
    options = ["-q", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    command = [sys.executable, "-m", "pytest", *options, "."]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("planted", [True, False], ids=["planted", "mended"])
def test_a_reproducer_of_a_program_fails_with_the_bug_only(planted: bool, tmp_path: Path) -> None:
    """All of them fail with what the counterexample plants, and pass without; nothing imports Hypothesis."""
    write(tmp_path, [case.mutant for case in CASES], planted=planted)
    counts = f"{len(CASES)} failed, 1 passed" if planted else f"{len(CASES) + 1} passed"
    assert counts in run(tmp_path)


@pytest.mark.parametrize("test", FAILING_TESTS, ids=lambda test: test.name)
def test_a_reproducer_of_a_failing_test_fails_with_the_bug(test: FailingTest, tmp_path: Path) -> None:
    """State machines and histories are played again without Hypothesis, and fail with the planted bug."""
    write(tmp_path, [test.name], planted=True)
    assert "1 failed, 1 passed" in run(tmp_path, mutant=test.mutant)


def test_a_reproducer_of_a_failing_test_passes_without_the_bug(tmp_path: Path) -> None:
    """The store as it is does all of them right."""
    write(tmp_path, [test.name for test in FAILING_TESTS], planted=False)
    assert f"{len(FAILING_TESTS) + 1} passed" in run(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_reproducers_are_what_is_written_now(name: str) -> None:
    """So that the tests above run what a report would write today."""
    example = load(GOLDEN / f"{name}.json").examples[0]
    kind = TOLD if "-" in name else CRASH if example.kind == "crash" else RACE
    kind = HISTORY if name.startswith("recorded-") else kind
    assert example.reproducer == reproducer(
        template=kind,
        identifier=example.id,
        kind=KIND_NAMES[example.kind],
        title=example.title,
        promise=example.promise_text,
    )


RACE_TEST = """
from storecheck import Operation, PreemptionBounded, Program, process
from storecheck.drawing import verify

def lost(execution):
    return None if execution.files()["counter"] == b"2" else "an addition is lost"

def test_additions_are_kept():
    add = process(Operation("add", {"amount": 1}))
    program = Program(adapter="storecheck.adapters:RenamingCounter", processes=(add, add), files={"counter": b"0"})
    verify(program, strategy=PreemptionBounded(1), check=lost, check_path="test_found:lost")
"""
PROMISE_LIST = "from types import SimpleNamespace\n\nALL = (SimpleNamespace(id='A1', title='adds up', text='Adds.'),)\n"


@pytest.mark.parametrize("where", ["report", "other reports/of today"])
def test_the_printed_commands_are_about_files_that_are_there(pytester: pytest.Pytester, where: str) -> None:
    """Typed where the tests were run, one replays the failure and the other fails as a test."""
    pytester.makepyfile(promise_list=PROMISE_LIST, test_found=RACE_TEST)
    pytester.makeini("[pytest]\npromises = promise_list:ALL\npythonpath = .\n")
    pytester.runpytest_subprocess("-p", "no:randomly", "--report-dir", where, timeout=120)
    example = load(pytester.path / where / "run.json").examples[0]
    ends = ((example.replay, 0, "1 of 1 replays did exactly"), (example.run_as_test, 1, "an addition is lost"))
    for command, status, said in ends:
        words = shlex.split(command)
        assert (pytester.path / words[-1]).is_file(), command
        assert not Path(words[-1]).is_absolute()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, shell=True, cwd=pytester.path, env=os.environ | {"PATH": path, "PYTHONPATH": "."},
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, said in done.stdout) == (status, True), done.stdout + done.stderr


def test_commands_for_files_elsewhere_have_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they can be given from anywhere; below the current directory they are short."""
    example = load(GOLDEN / "B76.json").examples[0]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert placed(example, tmp_path / "elsewhere").replay == (
        f"storecheck replay {tmp_path.resolve()}/elsewhere/counterexample.json"
    )
    assert placed(example, Path("below")).run_as_test == f"pytest below/test_{example.id.replace('-', '_')}.py"


def test_lone_surrogates_are_written_and_read_back(tmp_path: Path) -> None:
    """UTF-8 has none; both files are still written, and say the same when they are read."""
    example = load(GOLDEN / "B76.json").examples[0]
    document = {"title": "a \ud800 b"}
    target = write_failure(dataclasses.replace(example, reproducer='TITLE = "\udfff"\n'), document, tmp_path)
    assert json.loads((target / "counterexample.json").read_text(encoding="utf-8")) == document
    found: dict[str, object] = {}
    exec(next(target.glob("test_*.py")).read_text(encoding="utf-8"), found)
    assert found["TITLE"] == "\udfff"


def diverging(name: str) -> dict[str, Any]:
    """A golden counterexample whose schedule begins with a process that there is not."""
    document = json.loads((GOLDEN / f"{name}.counterexample.json").read_text(encoding="utf-8"))
    document["program"]["processes"] *= 3  # one alone is never asked for
    return dict(document) | {"schedule": [[7, 1]] if name == "B76" else [7]}


@pytest.mark.parametrize("name", ["B76", "B25"])
def test_a_counterexample_that_does_not_replay_is_still_told(name: str, tmp_path: Path) -> None:
    """A test whose code differs outside of it, by a fixture perhaps, is in the report and does not break it."""
    failure = Failure(nodeid="test_x.py::test_x", example="it failed", replay="pytest test_x.py::test_x")
    payload = {"document": diverging(name), "found": None}
    example = example_of_payload(payload, failure, None, shard=1, directory=tmp_path)
    assert example.kind == "test"
    assert "choice 0 of the schedule is 7" in " ".join(example.verdict)
    fingerprint_of_payload(payload, "")  # a known failure whose cause nobody can tell: no error


def test_a_run_that_is_another_does_not_count_as_a_replay(tmp_path: Path) -> None:
    """Although it fails by the same finding: something that is not recorded has changed it."""
    document = json.loads((GOLDEN / "B76.counterexample.json").read_text(encoding="utf-8")) | {"digest": "0" * 64}
    failure = Failure(nodeid="test_x.py::test_x", example="it failed", replay="pytest test_x.py::test_x")
    example = example_of_payload({"document": document}, failure, None, shard=1, directory=tmp_path)
    assert example.replays is not None
    assert example.replays.failed == 0
    assert "It no longer fails when it is replayed." in example.verdict[-1]


@pytest.mark.parametrize("name", ["B76", "B25"])
def test_a_replay_that_diverges_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    """Of a schedule and of a power loss alike: exit status 1, as for everything that is not what was recorded."""
    (tmp_path / "counterexample.json").write_text(json.dumps(diverging(name)), encoding="utf-8")
    result = CliRunner().invoke(main, ["replay", str(tmp_path / "counterexample.json")])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert "does not replay: choice 0 of the schedule is 7" in result.output
    assert result.output.endswith("Run the test that found it.\n")


@pytest.mark.parametrize(
    ("removed", "says"),
    [(("transform", "transform_argument"), "In the first nothing failed."), ((), "")],
    ids=["mended", "as recorded"],
)
def test_a_replay_of_a_mended_bug_says_so(removed: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """What is shown ends in the recorded finding: whether the code of today has it, too, is said below."""
    document = json.loads((GOLDEN / "B76.counterexample.json").read_text(encoding="utf-8"))
    document |= dict.fromkeys(removed)
    path = tmp_path / "counterexample.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    result = CliRunner().invoke(main, ["replay", str(path), "--times", "2"])
    exact = 0 if removed else 2
    last = f"{exact} of 2 replays did exactly what was recorded. {says}".rstrip()
    assert (result.exit_code, result.output.splitlines()[-1]) == (1 if removed else 0, last)


def lost(execution: Execution) -> str | None:
    """What is wrong with three additions."""
    return None if execution.files()["counter"] == b"3" else "an addition is lost"


def test_a_mended_program_passes_where_the_schedule_is_no_longer_possible() -> None:
    """With a lock, the second of three processes waits where the schedule has it go on: that is no failure."""
    add = process(Operation("add", {"amount": 1}))
    program = Program(adapter="storecheck.adapters:RenamingCounter", processes=(add, add, add), files={"counter": b"0"})
    failure = explore(program, strategy=PreemptionBounded(1), check=lost, shrink_program=False).failure
    assert failure is not None
    document = from_failure(failure, title="t", verdict="v", check=f"{__name__}:lost")
    locked = dataclasses.replace(document.program, adapter="storecheck.adapters:LockedCounter")
    # P1 has the lock after a few calls; a schedule that then wants P2 to go on is not possible.
    mended = dataclasses.replace(document, program=locked, choices=(0,) * 4 + (1,) * 20)
    found = reproduce(document)
    assert found is not None
    assert found.message == "an addition is lost"
    with pytest.raises(ReplayDiverged):
        replay(mended)
    assert reproduce(mended) is None
