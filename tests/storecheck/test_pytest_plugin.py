"""The pytest plugin, seen from outside: each test writes a small project and runs pytest on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from storecheck import cli, verdict
from storecheck.pytest_plugin import MUTANT_VARIABLE

RUN_TIMEOUT_S = 240
"""For one run of pytest in a child process: seconds, with room for a loaded machine, and less than the test's own."""

PROMISES = """
    from typing import NamedTuple

    class Promise(NamedTuple):
        id: str
        title: str
        text: str

    ALL = [
        Promise("SNAP1", "an old base overwrites nothing", "An update keeps what others wrote."),
        Promise("WRITE6", "no change, no write", "An update that changes nothing writes nothing."),
        Promise("LOCK3", "fair", "No writer starves."),
    ]
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest with `--verdict` on the given test module, in a process of its own."""
    # The run under test is a run of its own, not a part of the one that tests it.
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS", MUTANT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("COLUMNS", "100")
    pytester.makepyfile(project_promises=PROMISES)
    pytester.makeini("[pytest]\npythonpath = .\npromises = project_promises:ALL\naddopts = --strict-markers\n")

    def run_pytest(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        # Importing Hypothesis takes longer than everything else in most of these runs.
        lean = () if "hypothesis" in source else ("-p", "no:hypothesispytest")
        always = ("--verdict", "--verdict-json=out/verdict.json", "-p", "no:cacheprovider")
        return pytester.runpytest_subprocess(*always, *lean, *arguments, timeout=RUN_TIMEOUT_S)

    return run_pytest


def row(*cells: str) -> str:
    """A pattern for one row of the table: the cells, at least two spaces apart."""
    return r" {2,}".join(cells)


def document(pytester: pytest.Pytester) -> dict[str, Any]:
    """What `--verdict-json` wrote."""
    loaded: dict[str, Any] = json.loads((pytester.path / "out/verdict.json").read_text(encoding="utf-8"))
    return loaded


def outcomes(pytester: pytest.Pytester) -> dict[str, str]:
    """Outcome by promise id, from the JSON document."""
    return {promise["id"]: promise["outcome"] for promise in document(pytester)["promises"]}


PASSING = """
    import pytest

    @pytest.mark.promise("SNAP1", "WRITE6")
    def test_one(evidence):
        evidence.add(steps=1200, histories=1)
        evidence.add(steps=34)

    @pytest.mark.promise("SNAP1")
    def test_two(evidence):
        evidence.add(schedules=5, crash_states=6)

    def test_of_nothing():
        pass
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_promises_without_a_test_are_not_verified(
    run: Run, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """A promise passes if its tests did; one that no test names is not verified, and the counts are summed."""
    result = run(PASSING, *arguments)

    assert result.ret == 0
    assert outcomes(pytester) == {"SNAP1": "passed", "WRITE6": "passed", "LOCK3": "not verified"}
    result.stdout.re_match_lines(
        [
            r"=+ verdict: of 3 promises 2 passed, 0 FAILED, 1 not verified =+",
            row("SNAP1", "passed", "2", "1,234 steps, 1 histories, 5 schedules, 6 crash states", "-", "an old base .*"),
            row("WRITE6", "passed", "1", "1,234 steps, 1 histories", "-", "no change, no write"),
            row("LOCK3", "not verified", "none", "-", "fair"),
            r"Tests that name no promise: 1, of which 0 failed\.",
            r"=+ 3 passed in .* =+",
        ]
    )
    assert document(pytester)["failed"] is False


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_each_finished_test_is_one_plain_line(run: Run, arguments: tuple[str, ...]) -> None:
    """Live progress has one line per test with percent, outcome, seconds and promises, without colour codes or dots."""
    result = run(PASSING, *arguments)

    lines = [line for line in result.outlines if line.startswith("[")]
    assert [line[:6] for line in lines] == ["[ 33%]", "[ 66%]", "[100%]"]
    shown = sorted(line[7:] for line in lines)
    assert all("passed" in line and " s  test_it.py::" in line for line in shown)
    assert sorted(line.split("::")[1] for line in shown) == [
        "test_of_nothing",
        "test_one  SNAP1 WRITE6",
        "test_two  SNAP1",
    ]
    assert "\x1b" not in result.stdout.str()
    assert "..." not in result.stdout.str()


FAILING = """
    import pytest
    from hypothesis import given, settings, strategies as st

    @pytest.mark.promise("SNAP1")
    @settings(derandomize=True, database=None)
    @given(st.integers(min_value=0))
    def test_small(evidence, number):
        evidence.add(steps=1)
        assert number < 10, f"{number} is not small"

    @pytest.mark.promise("SNAP1")
    def test_fine():
        pass

    def test_other():
        assert "left" == "right"
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_failing_promise_shows_its_minimal_example(
    run: Run, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """One failing test fails its promise; the example Hypothesis shrank to and the command to replay it are shown."""
    result = run(FAILING, "--hypothesis-profile=default", *arguments)

    assert result.ret == 1
    assert outcomes(pytester)["SNAP1"] == "FAILED"
    result.stdout.re_match_lines(
        [
            row("SNAP1", "FAILED", "1, 1 failed", r"\d+ steps", ".*"),
            r"SNAP1 FAILED: An update keeps what others wrote\.",
            r"  test_it\.py::test_small",
            r"    AssertionError: 10 is not small",
            r"    (Falsifying example|Failing test case): test_small\(",
            r"        number=10,",
            r"  replay: PYTHONHASHSEED=7 .*python.* -m pytest test_it\.py::test_small --hypothesis-profile=default",
            r"Failures of tests that name no promise:",
            r"  test_it\.py::test_other",
            r"    AssertionError: assert 'left' == 'right'",
        ],
    )
    assert "FAILED test_it.py::test_other" in result.stdout.str(), "pytest's own short summary stays whole"


def test_the_replay_command_replays(run: Run, pytester: pytest.Pytester) -> None:
    """The command that is shown for a failure, given to a shell in the project's root, fails the same test again."""
    run(FAILING, "--hypothesis-profile=default")
    (failure,) = document(pytester)["promises"][0]["failures"]

    again = pytester.run("bash", "-c", failure["replay"] + " -p no:cacheprovider", timeout=RUN_TIMEOUT_S)

    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*number=10,"])


def test_a_crashed_worker_fails_the_promise_it_worked_on(run: Run, pytester: pytest.Pytester) -> None:
    """A test that takes its worker down leaves no report of its own, and still fails the promise that it names."""
    result = run(
        """
        import os
        import pytest

        @pytest.mark.promise("SNAP1")
        def test_crash():
            os._exit(3)

        @pytest.mark.promise("WRITE6")
        def test_fine():
            pass
        """,
        "-n",
        "2",
    )

    assert result.ret == 1
    assert outcomes(pytester) == {"SNAP1": "FAILED", "WRITE6": "passed", "LOCK3": "not verified"}
    result.stdout.fnmatch_lines(["*worker 'gw?' crashed while running 'test_it.py::test_crash'*"])


def test_a_crash_of_the_only_worker_fails_the_promise(run: Run, pytester: pytest.Pytester) -> None:
    """Even when no worker lives to say what it collected, the promise of the test that crashed is known."""
    result = run(
        """
        import os
        import pytest

        @pytest.mark.promise("SNAP1")
        def test_crash():
            os._exit(3)
        """,
        "-n",
        "1",
        "--max-worker-restart=0",
    )

    assert result.ret == 1
    assert outcomes(pytester) == {"SNAP1": "FAILED", "WRITE6": "not verified", "LOCK3": "not verified"}


def test_collecting_lists_the_tests_of_each_promise(run: Run, pytester: pytest.Pytester) -> None:
    """`--collect-only` runs nothing and passes nothing, and still says which tests check which promise."""
    result = run(PASSING, "--collect-only")

    assert result.ret == 0
    tests = {promise["id"]: promise["tests"] for promise in document(pytester)["promises"]}
    assert tests == {
        "SNAP1": ["test_it.py::test_one", "test_it.py::test_two"],
        "WRITE6": ["test_it.py::test_one"],
        "LOCK3": [],
    }
    assert set(outcomes(pytester).values()) == {"not verified"}


@pytest.mark.parametrize("body", ["pytest.skip('no permission')", "pytest.xfail('known')"])
def test_a_skipped_test_verifies_nothing(run: Run, pytester: pytest.Pytester, body: str) -> None:
    """A promise whose only test was skipped, or failed as expected, is not verified."""
    result = run(
        f"""
        import pytest

        @pytest.mark.promise("SNAP1")
        def test_skipped():
            {body}
        """
    )

    assert result.ret == 0
    assert outcomes(pytester)["SNAP1"] == "not verified"
    result.stdout.re_match_lines([row("SNAP1", "not verified", "1 skipped", ".*")])


def test_an_unfinished_run_passes_no_promise(run: Run, pytester: pytest.Pytester) -> None:
    """A promise is not passed while one of its tests never ran, as after `-x`."""
    run(
        """
        import pytest

        @pytest.mark.promise("SNAP1", "WRITE6")
        def test_first():
            pass

        @pytest.mark.promise("LOCK3")
        def test_second():
            assert False

        @pytest.mark.promise("SNAP1")
        def test_third():
            pass
        """,
        "-x",
    )

    assert outcomes(pytester) == {"SNAP1": "not verified", "WRITE6": "passed", "LOCK3": "FAILED"}
    assert document(pytester)["promises"][0]["tests_unfinished"] == 1


def test_an_error_in_a_fixture_fails_the_promise(run: Run, pytester: pytest.Pytester) -> None:
    """Setup and teardown belong to the test: an error in either fails its promise."""
    run(
        """
        import pytest

        @pytest.fixture
        def before():
            raise RuntimeError("no disk")

        @pytest.fixture
        def after():
            yield
            raise RuntimeError("left a file behind")

        @pytest.mark.promise("SNAP1")
        def test_setup(before):
            pass

        @pytest.mark.promise("WRITE6")
        def test_teardown(after):
            pass
        """
    )

    assert outcomes(pytester) == {"SNAP1": "FAILED", "WRITE6": "FAILED", "LOCK3": "not verified"}


def test_a_test_of_several_promises_shows_its_example_once(run: Run, pytester: pytest.Pytester) -> None:
    """One failure of a test that names three promises fails all three, and is explained with the first."""
    result = run(
        """
        import pytest

        @pytest.mark.promise("SNAP1", "WRITE6", "LOCK3")
        def test_all():
            assert False, "the reason"
        """
    )

    assert set(outcomes(pytester).values()) == {"FAILED"}
    result.stdout.re_match_lines(
        [
            r"SNAP1 FAILED: .*",
            r"  test_it\.py::test_all",
            r"    AssertionError: the reason",
            r"  replay: .*",
            r"WRITE6 FAILED: .*",
            r"  test_it\.py::test_all: see SNAP1",
            r"LOCK3 FAILED: .*",
            r"  test_it\.py::test_all: see SNAP1",
        ]
    )
    assert sum(line.startswith("  replay:") for line in result.outlines) == 1


MUTANTS = """
    import pytest

    @pytest.mark.promise("SNAP1", "WRITE6", "LOCK3")
    def test_promises():
        pass

    @pytest.mark.parametrize(
        "mutant",
        [
            pytest.param("B64", marks=pytest.mark.mutant("B64", promise="WRITE6")),
            pytest.param("B65", marks=pytest.mark.mutant("B65", promise="WRITE6")),
            pytest.param("B76", marks=pytest.mark.mutant("B76", promise="SNAP1")),
        ],
    )
    def test_killed(mutant):
        if mutant == "B65":
            pytest.skip("cannot be planted here")
        assert mutant != "B76"
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_mutants_killed_are_counted_per_promise(
    run: Run, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """A kill test counts for the promise that the mutant breaks; a survivor fails that promise."""
    result = run(MUTANTS, *arguments)

    assert result.ret == 1
    assert outcomes(pytester) == {"SNAP1": "FAILED", "WRITE6": "passed", "LOCK3": "passed"}
    snap1, write6, lock3 = document(pytester)["promises"]
    assert (snap1["mutants_killed"], snap1["mutants_survived"]) == ([], ["B76"])
    assert (write6["mutants_killed"], write6["mutants_untried"]) == (["B64"], ["B65"])
    assert lock3["mutants_killed"] == []
    result.stdout.re_match_lines(
        [
            row("SNAP1", "FAILED", "1", "0 of 1", ".*"),
            row("WRITE6", "passed", "1", "1 of 2", ".*"),
            row("LOCK3", "passed", "1", "-", ".*"),
            r"  Planted bug B76 survived: no test noticed it\.",
        ]
    )


def test_kills_alone_do_not_pass_a_promise(run: Run, pytester: pytest.Pytester) -> None:
    """That a planted bug was noticed says nothing of the real store: without a passing test, not verified."""
    run(
        """
        import pytest

        @pytest.mark.mutant("B64", promise="WRITE6")
        def test_killed():
            pass
        """
    )

    assert outcomes(pytester)["WRITE6"] == "not verified"


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('promise("SNAP9")', "names promise SNAP9, which project_promises:ALL does not list"),
        ('mutant("B1", promise="SNAP9")', "names promise SNAP9, which project_promises:ALL does not list"),
        ("promise()", "names no promise"),
        ('mutant("B1")', "a marker mutant names no bug or no promise"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_marker_that_means_nothing_fails_its_test(
    run: Run, marker: str, message: str, arguments: tuple[str, ...]
) -> None:
    """A misspelt promise would silently check nothing, so the test that names it fails."""
    result = run(f"import pytest\n@pytest.mark.{marker}\ndef test_marked():\n    pass\n", *arguments)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*test_it.py::test_marked*{message}*"])


@pytest.mark.parametrize(
    ("promises", "message"),
    [
        ("", "*--verdict needs the list of promises*"),
        ("project_promises", "*Give module:attribute*"),
        ("project_promises:NONE", "*project_promises:NONE*cannot be loaded*"),
        ("no_such_module:ALL", "*no_such_module:ALL*cannot be loaded*"),
    ],
)
def test_without_a_list_of_promises_there_is_no_verdict(run: Run, promises: str, message: str) -> None:
    """A missing or wrong list of promises is a usage error, not an empty table."""
    result = run(PASSING, "-o", f"promises={promises}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_ids_of_promises_are_unique(run: Run, pytester: pytest.Pytester) -> None:
    """Two promises with one id would share their tests, so the list is refused."""
    pytester.makepyfile(doubled="from project_promises import ALL\nTWICE = [*ALL, ALL[0]]\n")

    result = run(PASSING, "-o", "promises=doubled:TWICE")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*doubled:TWICE has more than one promise with the id SNAP1*"])


def test_the_mutant_is_chosen_before_any_conftest(run: Run, pytester: pytest.Pytester) -> None:
    """`--mutant` is in the environment when the first conftest is imported, also in workers, and in the replay."""
    pytester.makeconftest(f"import os\nCHOSEN = os.environ[{MUTANT_VARIABLE!r}]\n")
    source = """
        import pytest
        from conftest import CHOSEN

        @pytest.mark.promise("SNAP1")
        def test_chosen():
            assert CHOSEN != "B64"
    """

    result = run(source, "--mutant", "B64", "-n", "2")

    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"  replay: .*test_it\.py::test_chosen --mutant=B64"])
    assert document(pytester)["environment"][MUTANT_VARIABLE] == "B64"


def test_without_verdict_pytest_looks_as_always(run: Run, pytester: pytest.Pytester) -> None:
    """A project that has `storecheck` installed and asks for nothing sees nothing of it."""
    pytester.makepyfile(test_plain="def test_plain():\n    pass\n")

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=RUN_TIMEOUT_S)

    result.stdout.re_match_lines([r"test_plain\.py \. +\[100%\]"])
    assert "verdict:" not in result.stdout.str()


def test_negative_evidence_is_refused(run: Run) -> None:
    """Evidence is counted, never taken back."""
    result = run("def test_less(evidence):\n    evidence.add(steps=-1)\n")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*evidence steps=-1 is negative*"])


# -- the saved verdict ------------------------------------------------------------------------------------------------


def test_a_saved_verdict_is_shown_again(run: Run, pytester: pytest.Pytester) -> None:
    """`storecheck verdict FILE` shows the table and the failures of the run, and exits 1 as the run did."""
    result = run(FAILING)
    shown = CliRunner().invoke(cli.main, ["verdict", str(pytester.path / "out/verdict.json")])

    assert shown.exit_code == 1
    table = [line for line in result.outlines if line.startswith(("SNAP1 ", "WRITE6 ", "LOCK3 ", "  replay:"))]
    assert table
    assert [line for line in table if line not in shown.output] == []


def test_a_saved_pass_exits_with_zero(run: Run, pytester: pytest.Pytester) -> None:
    """A run without failures stays one when it is read back, whole."""
    run(PASSING)
    path = pytester.path / "out/verdict.json"

    assert CliRunner().invoke(cli.main, ["verdict", str(path)]).exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert verdict.to_json(verdict.from_json(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a storecheck.verdict document"),
        ('{"format": "storecheck.verdict", "version": 99}', "version 99 cannot be read"),
        ("{", "Expecting property name"),
    ],
)
def test_a_file_without_a_verdict_is_wrong_usage(tmp_path: Path, text: str, message: str) -> None:
    """Anything else than a verdict of a known version is refused with what it is, exit 2."""
    path = tmp_path / "verdict.json"
    path.write_text(text, encoding="utf-8")

    result = CliRunner().invoke(cli.main, ["verdict", str(path)])

    assert result.exit_code == 2
    assert message in result.output


def test_a_long_example_is_cut_and_says_so() -> None:
    """What is left out of a minimal example is counted, never dropped silently."""
    text = "\n".join(["def test():", "E   first", *(f"E   line {n}" for n in range(verdict.EXAMPLE_MAX_LINES + 4))])

    shown = verdict.minimal_example(text).splitlines()

    assert shown[0] == "first"
    assert len(shown) == verdict.EXAMPLE_MAX_LINES + 1
    assert shown[-1] == "… and 5 more lines, shown by the replay"
