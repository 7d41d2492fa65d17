"""What is shipped, what it needs, and that CI runs what the README says."""

from __future__ import annotations

import ast
import configparser
import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SCRIPT_TIMEOUT_S = 60
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from this tree by the build backend itself."""
    directory = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(directory), versions=["standard"])
    return zipfile.ZipFile(path)


def names_of(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that `requirements` ask for."""
    return {Requirement(requirement).name for requirement in requirements}


def imported_by(package: str) -> set[str]:
    """Names of third-party packages that any module of `package` imports, wherever the import stands."""
    imported: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    return imported - set(sys.stdlib_module_names) - {"sessionstore", "storecheck", "models", "tests", "__future__"}


def test_the_wheel_ships_the_store_and_the_verifier_only(wheel: zipfile.ZipFile) -> None:
    """The wheel has both packages whole, each with its marker for type checkers, and nothing else."""
    packages = [name for name in wheel.namelist() if ".dist-info/" not in name]

    assert {name.partition("/")[0] for name in packages} == {"sessionstore", "storecheck"}
    assert {
        "sessionstore/py.typed",
        "storecheck/py.typed",
        "sessionstore/store.py",
        "storecheck/pytest_plugin.py",
    } <= set(packages)


def test_the_wheel_has_every_file_of_its_packages(wheel: zipfile.ZipFile) -> None:
    """Templates, style sheets and schemas are shipped like modules: a report needs them at run time."""
    sources = {
        str(path.relative_to(ROOT))
        for package in ("sessionstore", "storecheck")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {Path(name).suffix for name in sources} > {".py", ".json", ".j2", ".css"}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == sources


def test_the_wheel_alone_makes_reports(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """With nothing of this tree but the wheel, the commands merge a shard and write every format."""
    site, shards, report = tmp_path / "site", tmp_path / "shards", tmp_path / "report"
    wheel.extractall(site)
    shards.mkdir()
    shutil.copyfile(ROOT / "tests/report/golden/B76.json", shards / "run.json")
    script = """
import sys
import sessionstore, storecheck.cli
for module in (sessionstore, storecheck.cli):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
sys.argv[:2] = ["storecheck"]
storecheck.cli.main()
"""

    def storecheck(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, str(site), *arguments],
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
        )

    done = storecheck("merge", "shards", "-o", "report")

    assert done.returncode == 1, done.stderr  # the shard found a bug
    assert {path.name for path in report.iterdir()} == {
        "run.json",
        "report.html",
        "summary.md",
        "junit.xml",
        "codequality.json",
    }
    assert "<!doctype html>" in (report / "report.html").read_text(encoding="utf-8")
    assert storecheck("open", "nowhere").returncode == 2


def test_the_wheel_offers_both_commands_and_the_plugin(wheel: zipfile.ZipFile) -> None:
    """Installing the wheel gives the commands `sessionstore` and `storecheck` and pytest's plugin."""
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(name).decode())

    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"sessionstore": "sessionstore.cli:main", "storecheck": "storecheck.cli:main"},
        "pytest11": {"storecheck": "storecheck.pytest_plugin"},
    }


def test_the_wheel_carries_licence_and_versions(wheel: zipfile.ZipFile) -> None:
    """Metadata name the licence and its file, and the oldest Python that is supported."""
    (name,) = [name for name in wheel.namelist() if name.endswith("METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))

    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Provides-Extra"] == "verify"


def test_the_store_imports_what_it_depends_on() -> None:
    """Every third-party import of the store is a dependency, and every dependency is imported somewhere."""
    assert imported_by("sessionstore") == names_of(PROJECT["project"]["dependencies"])


def test_the_verifier_imports_nothing_undeclared() -> None:
    """`sessionstore[verify]` is enough to import every module of the verifier."""
    declared = names_of(PROJECT["project"]["dependencies"]) | names_of(
        PROJECT["project"]["optional-dependencies"]["verify"]
    )

    # An adapter of another store imports that store, and is imported only by whoever has it.
    groups = PROJECT["dependency-groups"]
    stores = names_of([each for group in ("peers", "bench") for each in groups[group] if isinstance(each, str)])
    assert imported_by("storecheck/peers") <= declared | stores
    assert imported_by("storecheck") - imported_by("storecheck/peers") <= declared


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("sessionstore", {"storecheck", "models", "tests"}), ("storecheck", {"sessionstore", "models", "tests"})],
)
def test_imports_go_in_one_direction(package: str, forbidden: set[str]) -> None:
    """The store knows nothing of tests, and the verifier nothing of the store."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found = {module.partition(".")[0] for module in modules} & forbidden
            assert not found, f"{path.relative_to(ROOT)} line {getattr(node, 'lineno', '?')} imports {found}"


@pytest.mark.parametrize("command", ["sessionstore", "storecheck"])
def test_both_commands_start(command: str) -> None:
    """Each command line is importable under the name its entry point gives, and explains itself."""
    module, _, function = PROJECT["project"]["scripts"][command].partition(":")
    script = f"import sys; sys.argv = [{command!r}, '--help']; from {module} import {function}; sys.exit({function}())"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=SCRIPT_TIMEOUT_S, check=False, cwd=ROOT
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: {command} ")


# -- what CI runs -----------------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/bash
echo "python3 $*" >> "$TRACE"
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    cp "$FAKES/python3" "$FAKES/tox" "$3/bin/"
fi
"""
FAKE_TOX = """#!/bin/bash
echo "tox $*" >> "$TRACE"
printf '%b' "$TOX_OUTPUT"
exit "$TOX_STATUS"
"""
FAKE_APT = """#!/bin/bash
echo "apt-get $*" >> "$TRACE"
exit 100
"""

SUMMARY = "============================== 2 passed in 0.10s ==============================="


class FakeClone:
    """A clone of what CI needs, on a machine whose `python3` and `tox` only note what they were asked."""

    def __init__(self, directory: Path) -> None:
        self.clone = directory / "clone"
        self.trace = directory / "trace"
        self.fakes = directory / "bin"
        (self.clone / ".ci").mkdir(parents=True)
        self.fakes.mkdir()
        for name, source in (("python3", FAKE_PYTHON), ("tox", FAKE_TOX), ("apt-get", FAKE_APT)):
            (self.fakes / name).write_text(source, encoding="utf-8")
            (self.fakes / name).chmod(0o755)
        (self.clone / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
        (self.clone / "README.md").write_bytes((ROOT / "README.md").read_bytes())

    def run(self, *, output: str, status: int, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
        """Run CI with a tox that prints `output` and exits with `status`, and with the other programs of `path`."""
        environment = {
            **os.environ,
            "PATH": f"{self.fakes}{os.pathsep}{path}",
            "FAKES": str(self.fakes),
            "TRACE": str(self.trace),
            "TOX_OUTPUT": output,
            "TOX_STATUS": str(status),
            "CI": "true",
        }
        return subprocess.run(
            ["bash", ".ci/run"],
            cwd=self.clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SCRIPT_TIMEOUT_S,
            check=False,
        )

    @property
    def commands(self) -> list[str]:
        """What was run, one command a line, after the private environment was made."""
        lines = self.trace.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith("apt-get")][1:]


@pytest.fixture
def fake_clone(tmp_path: Path) -> FakeClone:
    """A clone in which CI can run without installing anything."""
    return FakeClone(tmp_path)


def test_ci_runs_the_command_of_the_readme(fake_clone: FakeClone) -> None:
    """CI runs exactly the README's test command, once, and prints pytest's summary line last."""
    done = fake_clone.run(output=f"{SUMMARY}\\n  py311: OK\\n  congratulations :)\\n", status=0)

    assert done.returncode == 0, done.stderr
    (command,) = re.findall(
        r"<!-- test-command -->\n +(\S.*)\n<!-- /test-command -->", (ROOT / "README.md").read_text(encoding="utf-8")
    )
    assert " && ".join(fake_clone.commands) == command == "python3 -m pip install tox && tox run"
    assert done.stdout.splitlines()[-1] == SUMMARY


@pytest.mark.parametrize(
    ("output", "status"),
    [(f"{SUMMARY}\\n", 1), ("no interpreter was found\\n", 0), ("===== no tests ran in 0.01s =====\\n", 0)],
    ids=["tox failed", "nothing ran", "no test was found"],
)
def test_ci_fails_when_tests_fail_or_did_not_run(fake_clone: FakeClone, output: str, status: int) -> None:
    """A failing command fails CI, and so does one that succeeds without having run a test."""
    assert fake_clone.run(output=output, status=status).returncode != 0


def test_ci_goes_on_without_packages_that_cannot_be_installed(fake_clone: FakeClone, tmp_path: Path) -> None:
    """On a machine that lacks the programs of some tests and has no packages either, CI says so and runs the tests."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for program in ("bash", "dirname", "sed", "grep", "mktemp", "rm", "mkdir", "cp", "tee", "tail", "timeout", "id"):
        found = shutil.which(program)
        assert found is not None
        (bare / program).symlink_to(found)

    done = fake_clone.run(output=f"{SUMMARY}\\n", status=0, path=str(bare))

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == SUMMARY
    if os.geteuid() == 0:
        missing = "strace e2fsprogs redis-server zsh fish"
        assert f"could not be installed: {missing}" in done.stderr


def test_ci_refuses_a_readme_without_its_command(fake_clone: FakeClone) -> None:
    """Without the markers CI would run nothing, and says so instead."""
    readme = fake_clone.clone / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace("test-command", "tests"), encoding="utf-8")

    done = fake_clone.run(output=SUMMARY, status=0)

    assert done.returncode == 2
    assert "README.md must have exactly one command" in done.stderr
