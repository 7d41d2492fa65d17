"""The workflow files do what they say: their commands run here, shard by shard, and then the merge.

Method: the commands are taken from the files as they are, with CI's variables filled in, and run on a small project.
What tox adds in front of pytest (an environment with the same packages) is left out.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from storecheck.report.document import load
from storecheck.report.plugin import RUN_VARIABLES, SHARD_VARIABLES
from tests.report.test_plugin import PROMISES
from tests.unit.test_packaging import PROJECT

ROOT = Path(__file__).parents[2]
GITHUB: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/verify.yml").read_text(encoding="utf-8"))
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))

CI_SCRIPT = (ROOT / ".ci/run").read_text(encoding="utf-8")

STORECHECK = "from storecheck.cli import main; main()"
COMMAND_TIMEOUT_S = 240
"""For one command of a workflow: seconds, with room for a loaded machine."""

PROFILES = """
from hypothesis import settings

settings.register_profile("verify", derandomize=True, database=None)
settings.register_profile("search", max_examples=20)
"""

TESTS = """
import pytest
from hypothesis import given, strategies as st

@pytest.mark.promise("A1")
@pytest.mark.parametrize("number", range(12))
def test_sums(number, evidence):
    evidence.add(steps=1)

@given(st.integers())
def test_draws(number):
    assert number < LIMIT
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project whose tests pass."""
    (tmp_path / "promise_list.py").write_text(PROMISES, encoding="utf-8")
    (tmp_path / "test_small.py").write_text(TESTS.replace("LIMIT", "10**100"), encoding="utf-8")
    (tmp_path / "conftest.py").write_text(PROFILES, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npromises = promise_list:ALL\npythonpath = .\n", encoding="utf-8")
    return tmp_path


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text of a workflow with the expressions of GitHub replaced; an unknown one is an error."""
    return re.sub(r"\$\{\{ *([^}]*?) *\}\}", lambda found: values[found[1]], text)


def run(command: str, *, where: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of a workflow in a shell and a process group of its own, on a machine without other variables."""
    for_pytest = shlex.join([sys.executable, "-m", "pytest"])
    command = re.sub(r"\btox run -e verify -- ", f"{for_pytest} --hypothesis-profile verify ", command)
    command = command.replace("storecheck merge", f"{shlex.join([sys.executable, '-c', STORECHECK])} merge")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "TMPDIR") if name in os.environ}
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        cwd=where,
        env={**kept, "PYTHONHASHSEED": "0", **variables},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        start_new_session=True,
    )


def github_shards(job: str, project: Path) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """Run the shards of a job of GitHub's workflow, each in a clone; yields the artifact's place and the outcome."""
    steps = [step["run"] for step in GITHUB["jobs"][job]["steps"] if "run" in step]
    commands = [step for step in steps if not step.startswith(("pip install", "sudo apt-get"))]
    upload = next(step["with"] for step in GITHUB["jobs"][job]["steps"] if "upload" in step.get("uses", ""))
    for number in GITHUB["jobs"][job]["strategy"]["matrix"]["shard"]:
        clone = project.parent / f"{project.name}-{job}-{number}"
        shutil.copytree(project, clone)
        values = {"matrix.shard": str(number), "github.run_id": "77"}
        variables = {"CI": "true", "GITHUB_RUN_ID": "77", "GITHUB_SHA": "c0ffee"}
        done = run("\n".join(filled(step, values) for step in commands), where=clone, variables=variables)
        artifact = project / "shards" / filled(upload["name"], values)
        if (clone / upload["path"]).is_dir():
            shutil.copytree(clone / upload["path"], artifact)
        yield artifact, done


def github_merge(job: str, project: Path) -> subprocess.CompletedProcess[str]:
    """Run the step of the report's job that merges."""
    report = GITHUB["jobs"]["report"]
    shards = next(each["shards"] for each in report["strategy"]["matrix"]["include"] if each["job"] == job)
    assert len(GITHUB["jobs"][job]["strategy"]["matrix"]["shard"]) == shards
    (step,) = [step["run"] for step in report["steps"] if "storecheck merge" in step.get("run", "")]
    summary = {"GITHUB_STEP_SUMMARY": str(project / "step-summary.md")}
    return run(filled(step, {"matrix.shards": str(shards)}), where=project, variables=summary)


def gitlab_shards(job: str, project: Path) -> Iterator[tuple[Path, subprocess.CompletedProcess[str]]]:
    """Run the shards of a job of GitLab's, each in a clone; yields the artifact's place and the outcome."""
    count = GITLAB[job]["parallel"]
    for number in range(1, count + 1):
        clone = project.parent / f"{project.name}-{job}-{number}"
        shutil.copytree(project, clone)
        variables = {"CI_NODE_INDEX": str(number), "CI_NODE_TOTAL": str(count), "CI_PIPELINE_ID": "77", "CI": "true"}
        done = run("\n".join(GITLAB[job]["script"]), where=clone, variables=variables)
        shutil.copytree(clone / "shards", project / "shards", dirs_exist_ok=True)
        yield project / "shards" / f"{job}-{number}", done


def gitlab_merge(job: str, project: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of the job that merges."""
    variables = {name: value for name, value in GITLAB["variables"].items() if name.endswith("SHARDS")}
    return run("\n".join(GITLAB[f"report-of-{job}"]["script"]), where=project, variables=variables)


def test_the_gate_of_github_passes_and_misses_a_shard(project: Path) -> None:
    """Four shards and the merge are green, the next run has something to compare with; a lost shard is exit 3."""
    with (project / "pytest.ini").open("a", encoding="utf-8") as options:
        options.write("addopts = -n 1\n")  # xdist inside each shard
    places = []
    for place, done in github_shards("gate", project):
        assert done.returncode in (0, 5), done.stdout + done.stderr
        places.append(place)
    merged = github_merge("gate", project)
    assert merged.returncode == 0, merged.stdout + merged.stderr
    run_document = load(project / "report" / "run.json")
    assert sum(shard.passed for shard in run_document.shards) == 13
    assert {(shard.seed, shard.ci_run) for shard in run_document.shards} == {("none", "77")}
    assert run_document.commit == "c0ffee"
    assert [promise.evidence for promise in run_document.promises] == [{"steps": 12}]
    assert (project / "step-summary.md").read_text(encoding="utf-8").startswith("#")
    assert len(list((project / "kept").iterdir())) == 1
    shutil.rmtree(places[2])
    merged = github_merge("gate", project)
    assert (merged.returncode, "No report of shard 3." in merged.stdout) == (3, True)
    last_run = (places[1] / "run.json").read_text(encoding="utf-8").replace('"ci_run": "77"', '"ci_run": "76"')
    (places[1] / "run.json").write_text(last_run, encoding="utf-8")
    merged = github_merge("gate", project)
    assert (merged.returncode, "::error title=No report::shards of different runs" in merged.stdout) == (3, True)


def test_the_search_of_gitlab_finds_a_bug_and_passes_it_on(project: Path) -> None:
    """Shards draw from seeds of their own; the find fails the merge, and is among the examples of the next search."""
    small = (project / "test_small.py").read_text(encoding="utf-8")
    (project / "test_small.py").write_text(small.replace("10**100", "1000"), encoding="utf-8")
    failed = [place for place, done in gitlab_shards("search", project) if done.returncode == 1]
    assert len(failed) == 1
    merged = gitlab_merge("search", project)
    assert merged.returncode == 1, merged.stdout + merged.stderr
    run_document = load(project / "report" / "run.json")
    assert len({shard.seed for shard in run_document.shards}) == GITLAB["search"]["parallel"]
    assert [example.test for example in run_document.examples] == ["test_small.py::test_draws"]
    assert any((project / ".hypothesis" / "examples").rglob("*"))


def test_both_files_start_the_same_jobs() -> None:
    """GitHub and GitLab split into as many shards, which the merge expects, and give pytest the same options."""
    for job in ("gate", "search"):
        shards = len(GITHUB["jobs"][job]["strategy"]["matrix"]["shard"])
        assert GITLAB[job]["parallel"] == shards == int(GITLAB["variables"][f"{job.upper()}_SHARDS"])
        on_github = next(step["run"] for step in GITHUB["jobs"][job]["steps"] if "tox run" in step.get("run", ""))
        on_gitlab = next(line for line in GITLAB[job]["script"] if "tox run" in line)
        assert re.findall(r"--[a-z-]+", on_github) == re.findall(r"--[a-z-]+", on_gitlab)
    assert "--hypothesis-profile" in on_github


def test_no_test_of_a_shard_is_skipped_for_want_of_a_program() -> None:
    """Every job with shards installs what the project's own CI does, where the tests that need it say it is missing."""
    packages = set(re.findall(r"[\w.-]+:([\w-]+)", re.search(r"for wanted in (.*); do", CI_SCRIPT)[1]))  # type: ignore[index]
    assert {"strace", "redis-server"} <= packages
    for job in ("gate", "search", "interpreters"):
        steps = [step.get("run", "") for step in GITHUB["jobs"][job]["steps"]]
        (on_github,) = [step for step in steps if "apt-get install" in step]
        assert steps.index(on_github) < next(at for at, step in enumerate(steps) if "tox run" in step)
        assert packages <= set(on_github.split()), job
        assert GITLAB[job]["extends"] == ".shard"
    (on_gitlab,) = [line for line in GITLAB[".shard"]["before_script"] if "apt-get install" in line]
    assert packages <= set(on_gitlab.split())


def test_every_interpreter_that_the_project_names_runs_its_tests() -> None:
    """One is that of the gate, the others have a job; a package that says "3.14" and never ran there says too much."""
    named = {
        name.rpartition(" ")[2]
        for name in PROJECT["project"]["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", name)
    }
    assert {f"py{version.replace('.', '')}" for version in named} == {
        name for name in re.split(r",\s*", tox_configuration()["tox"]["env_list"]) if name.startswith("py")
    }
    jobs = GITHUB["jobs"]
    (of_the_gate,) = [
        step["with"]["python-version"] for step in jobs["gate"]["steps"] if "setup-python" in step.get("uses", "")
    ]
    assert {of_the_gate, *jobs["interpreters"]["strategy"]["matrix"]["python"]} == named
    (versions,) = GITLAB["interpreters"]["parallel"]["matrix"]
    assert {GITLAB[".shard"]["image"].partition(":")[2], *versions["PYTHON"]} == named
    for job in (
        " ".join(step.get("run", "") for step in jobs["interpreters"]["steps"]),
        " ".join(GITLAB["interpreters"]["script"]),
    ):
        assert "tox run -e py" in job


def uploads() -> list[dict[str, Any]]:
    """What the steps of GitHub's workflow that leave an artifact say of it."""
    steps = [step for job in GITHUB["jobs"].values() for step in job["steps"]]
    return [step["with"] for step in steps if "upload-artifact" in step.get("uses", "")]


def test_a_job_that_runs_again_replaces_what_it_left() -> None:
    """An artifact's name is taken for the whole run: without this, the report of the first attempt would be merged."""
    assert len(uploads()) == 5
    assert [upload["name"] for upload in uploads() if upload.get("overwrite") is not True] == []


def test_pictures_are_kept_where_the_job_looks_for_them() -> None:
    """Inside a container the checkout has another path than outside, and pictures that are missing are an error."""
    browser = GITHUB["jobs"]["browser"]
    assert "container" in browser
    assert "github.workspace" not in json.dumps(browser)
    assert [upload["if-no-files-found"] for upload in uploads() if upload["name"] == "pictures"] == ["error"]
    (command,) = [step["run"] for step in browser["steps"] if "tox run" in step.get("run", "")]
    assert 'STORECHECK_SCREENSHOTS="$GITHUB_WORKSPACE/pictures"' in command


def test_the_variables_that_tests_read_reach_them() -> None:
    """What names the shard, the run, the commit, and the right to read examples of a private repository."""
    passed = set(tox_configuration()["testenv"]["pass_env"].split())
    names = {name for index, count, _ in SHARD_VARIABLES for name in (index, count)}
    assert names | set(RUN_VARIABLES) | {"GITHUB_SHA", "CI_COMMIT_SHA", "BUILDKITE_COMMIT", "GITHUB_TOKEN"} <= passed


def tox_configuration() -> configparser.ConfigParser:
    """The configuration of tox."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", encoding="utf-8")
    return parser


def test_what_a_shard_needs_comes_with_the_extra_that_its_error_names() -> None:
    """Whoever installs `sessionstore[verify]` can split a run and share examples by redis."""
    extra = PROJECT["project"]["optional-dependencies"]["verify"]
    assert {"pytest-split", "redis", "pytest-xdist"} <= {re.split(r"[<>=]", each)[0] for each in extra}


def test_recorded_durations_are_of_these_tests() -> None:
    """What shards are cut by is not about another suite: its files exist, and files that take long are in it."""
    durations: dict[str, float] = json.loads((ROOT / ".test_durations").read_text(encoding="utf-8"))
    files = {nodeid.partition("::")[0] for nodeid in durations}
    gone = sorted(file for file in files if not (ROOT / file).is_file())
    assert len(gone) <= len(files) // 10, f"record durations anew, as docs/reports.md says: there is no {gone}"
    assert {"tests/stateful/test_machines.py", "tests/mutants/test_mutants.py"} <= files
    assert all(duration_s >= 0 for duration_s in durations.values())
