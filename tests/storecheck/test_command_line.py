"""What `storecheck` says where it cannot work: without the extra that it needs, or on what is no adapter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from storecheck import cli

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("greenlet", ("replay", "{file}")),
        ("greenlet", ("list", "{directory}")),
        ("greenlet", ("run", "os:path")),
        ("pytest", ("explain", "WRITE1")),
        ("jinja2", ("merge", "{directory}", "-o", "{directory}")),
    ],
)
def test_without_the_extra_the_command_says_what_to_install(
    missing: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """Where only the store is installed, a command that needs more names it, without a traceback."""
    file = tmp_path / "counterexample.json"
    file.write_text("{}", encoding="utf-8")
    filled = [argument.format(file=file, directory=tmp_path) for argument in arguments]
    program = f"import sys; sys.modules[{missing!r}] = None; from storecheck.cli import main; main({filled!r})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )

    assert done.returncode == 2, done.stderr
    assert f"Error: {missing} is not installed" in done.stderr
    assert "sessionstore[verify]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("adapter", ["os:path", "os:getcwd", "os:no_such_name", "no_such_module:make"])
def test_what_is_no_adapter_is_wrong_usage(adapter: str) -> None:
    """`storecheck run` of something that makes no store says so and exits 2."""
    done = CliRunner().invoke(cli.main, ["run", adapter])

    assert done.exit_code == 2, done.output
    assert f"{adapter} makes no store" in done.stderr or f"{adapter} cannot be imported" in done.stderr


def test_a_list_has_a_line_for_each_counterexample() -> None:
    """Whatever a finding goes on to say: the list shows its first line, and numbers that agree with their nouns."""
    directory = ROOT / "tests" / "concurrency" / "counterexamples"
    listed = CliRunner().invoke(cli.main, ["list", str(directory)]).output.splitlines()

    assert [line.partition(": ")[0] for line in listed] == list(map(str, sorted(directory.glob("*.json"))))
    assert any("(1 process, 6 operations)" in line for line in listed)


def test_a_module_that_is_missing_for_another_reason_is_not_explained_away() -> None:
    """Only what the extra brings is asked for; any other missing module is a defect, and is shown as one."""
    assert cli.is_of_the_extra("greenlet")
    assert cli.is_of_the_extra("xdist.workermanage")
    assert not cli.is_of_the_extra("storecheck.nothing")
    assert not cli.is_of_the_extra("click")
    assert not cli.is_of_the_extra("")
