"""Every planted bug is noticed, by a test of the promise that it breaks; the real store passes the same tests.

Goal: to know that the suite looks. Each mutant's tests run in a pytest of their own with the bug in place, and one that
names the promise must fail there, by what it found and not because the mutant cannot be imported. That they pass
without a bug is seen in the session that runs them anyway; where it runs only some, in one further run of the others.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from models.mutants import MUTANTS, Mutant, MutantError, Patch, hook
from models.mutants.hook import active_mutant
from storecheck import verdict
from storecheck.pytest_plugin import MUTANT_VARIABLE
from storecheck.verdict import Verdict
from tests.mutants.conftest import DESELECTED

ROOT = Path(__file__).parents[2]
RUN_TIMEOUT_S = 240
"""For one run with a bug in place: seconds, with room for a loaded machine."""

BASELINE_TIMEOUT_S = 800
"""For the run without a bug, of all killers together."""

NOT_A_KILL = re.compile(r"\b(SyntaxError|IndentationError|ImportError|ModuleNotFoundError|NameError|MutantError)\b")
"""What a mutant that is broken itself dies of."""

_OF_ANOTHER_RUN = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")


def run_pytest(nodes: Sequence[str], report: Path, *options: str, timeout_s: int) -> tuple[int, str, Verdict | None]:
    """Run these nodes in a process of its own; exit code, output, and what it says about each promise."""
    environment = {name: value for name, value in os.environ.items() if name not in {*_OF_ANOTHER_RUN, MUTANT_VARIABLE}}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--verdict-json", str(report)]
    done = subprocess.run(
        [*command, *options, *nodes],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    found = verdict.from_json(report.read_text(encoding="utf-8")) if report.exists() else None
    return done.returncode, f"$ {shlex.join(command[1:])} {shlex.join([*options, *nodes])}\n{done.stdout}", found


def selected_mutants(session: pytest.Session) -> list[Mutant]:
    """The mutants whose kill tests this session runs."""
    ids = {mark.args[0] for item in session.items for mark in item.iter_markers("mutant")}
    return [mutant for mutant in MUTANTS if mutant.id in ids]


def killers_elsewhere(session: pytest.Session) -> list[str]:
    """Tests that the selected mutants name and that this session does not run, or not with all their parameters.

    Those that it does run need no second run: if one of them fails, so does the session.
    """
    here = [item.nodeid for item in session.items]
    left_out = session.config.stash.get(DESELECTED, [])
    parts = {argument.partition("::")[0] for argument in session.config.args if "::" in argument}

    def is_here(killer: str) -> bool:
        if killer.partition("::")[0] in parts:
            return False  # the command line names some tests of the file, and pytest does not say which it left out

        def matches(nodeid: str) -> bool:
            return nodeid == killer or nodeid.startswith((f"{killer}[", f"{killer}::"))

        return any(map(matches, here)) and not any(map(matches, left_out))

    killers = {node for mutant in selected_mutants(session) for node in mutant.killers}
    return sorted(killer for killer in killers if not is_here(killer))


@pytest.fixture(scope="session")
def failures_without_a_bug(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Output of the run of the real store if anything failed in it, else nothing. One run for all workers."""
    nodes = killers_elsewhere(request.session)
    if not nodes:
        return ""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    outcome = shared / "real-store.json"
    with filelock.FileLock(f"{outcome}.lock", timeout=BASELINE_TIMEOUT_S):
        if not outcome.exists():
            # The other workers wait for this: it may have their processors.
            workers = ("-n", os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"), "--dist", "worksteal")
            report = shared / "real-store-verdict.json"
            status, output, _ = run_pytest(nodes, report, *workers, timeout_s=BASELINE_TIMEOUT_S)
            outcome.write_text(json.dumps("" if status == 0 else output), encoding="utf-8")
        found: str = json.loads(outcome.read_text(encoding="utf-8"))
    return found


@pytest.mark.timeout(RUN_TIMEOUT_S + BASELINE_TIMEOUT_S)
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.id, marks=pytest.mark.mutant(mutant.id, promise=mutant.promise))
        for mutant in MUTANTS
    ],
)
def test_the_suite_notices(mutant: Mutant, tmp_path: Path, failures_without_a_bug: str) -> None:
    """A test of the promise that the bug breaks fails with it, and passes without it."""
    report = tmp_path / "verdict.json"
    options = ("-x", "--as-found", "--mutant", mutant.id)
    status, output, found = run_pytest(mutant.killers, report, *options, timeout_s=RUN_TIMEOUT_S)
    assert status != 0, f"{mutant.id} survived ({mutant.description})\n{output}"
    assert status == 1, f"{mutant.id}: pytest could not run its tests (exit code {status})\n{output}"
    assert found is not None, output
    promise = next(promise for promise in found.promises if promise.id == mutant.promise)
    assert promise.failures, f"{mutant.id} was noticed, but by no test of {mutant.promise}\n{output}"
    died_of = promise.failures[0].example
    assert not NOT_A_KILL.search(died_of), f"{mutant.id} is broken itself:\n{died_of}\n{output}"
    assert not failures_without_a_bug, f"the real store fails the tests of a mutant\n{failures_without_a_bug}"


@pytest.mark.parametrize(
    ("beside", "left_out", "arguments", "again"),
    [
        (("{k}",), (), ("tests",), False),
        ((), (), ("tests/mutants",), True),
        (("{k}",), ("{k}",), ("tests",), True),
        (("{k}",), (), ("tests/mutants", "{k}"), True),
        (("{k}-and-more",), (), ("tests",), True),
    ],
    ids=["runs anyway", "not there", "another shard", "named in part", "another test"],
)
def test_what_a_session_runs_anyway_is_not_run_again(
    beside: tuple[str, ...], left_out: tuple[str, ...], arguments: tuple[str, ...], again: bool
) -> None:
    """Killers are run once more without a bug unless this very session runs them with all their parameters."""
    mutant = MUTANTS[0]
    (killer,) = mutant.killers

    def filled(texts: tuple[str, ...]) -> list[str]:
        return [text.format(k=killer) for text in texts]

    stash = pytest.Stash()
    stash[DESELECTED] = filled(left_out)
    own = SimpleNamespace(nodeid="own", iter_markers=lambda _name: [pytest.mark.mutant(mutant.id).mark])
    others = [SimpleNamespace(nodeid=nodeid, iter_markers=lambda _name: []) for nodeid in filled(beside)]
    config = SimpleNamespace(stash=stash, args=filled(arguments))
    session: Any = SimpleNamespace(items=[own, *others], config=config)
    assert killers_elsewhere(session) == ([killer] if again else [])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_every_patch_fits_the_source(mutant: Mutant) -> None:
    """The text that a patch replaces is in the store's source exactly once, and what results is another program."""
    for module in mutant.modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        patched = mutant.transform(module, source)
        assert ast.dump(ast.parse(patched)) != ast.dump(ast.parse(source)), f"{mutant.id} changes nothing in {module}"


def test_ids_are_unique_and_promises_exist() -> None:
    """No two mutants share an id, and each names a promise that there is."""
    from models.promises import PROMISES

    ids = [mutant.id for mutant in MUTANTS]
    assert len(set(ids)) == len(ids)
    assert {mutant.promise for mutant in MUTANTS} <= {promise.id for promise in PROMISES}


def test_a_patch_that_does_not_fit_is_an_error() -> None:
    """A text that is missing, or there twice, is never replaced silently; other modules are left alone."""
    mutant = Mutant("B01", "class", "description", "WRITE1", (Patch("store", "old", "new"),), ("tests/x.py",))
    assert mutant.transform("sessionstore.store", "an old line") == "an new line"
    assert mutant.transform("sessionstore.lock", "old old") == "old old"
    for source in ("", "old old"):
        with pytest.raises(MutantError, match="write the patch anew"):
            mutant.transform("sessionstore.store", source)


def test_an_unknown_mutant_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled id must not run the real store under a mutant's name."""
    assert hook.MUTANT_VARIABLE == MUTANT_VARIABLE, "pytest and the import hook look at different variables"
    monkeypatch.setenv(MUTANT_VARIABLE, "B64x")
    with pytest.raises(MutantError, match="there is no mutant 'B64x'"):
        active_mutant()
    monkeypatch.delenv(MUTANT_VARIABLE)
    assert active_mutant() is None
