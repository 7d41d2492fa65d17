"""Real processes race for one store on a real disk, and every history they leave is linearizable.

Goal: what the simulation cannot know shows here: real locks, real kills, real forks, real threads, other programs.
Method: free-running processes record what they ask and are told; the checker decides. Each race also shows that it was
one: what must be met at least once is counted. The races are longer with the profiles `verify` and `search`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from models.strategies import realistic_store
from storecheck.history import Call, History
from storecheck.linearizability import check, versioned_map
from storecheck.processes import Race, RaceResult, Team, run_race, seen_at_end
from storecheck.pytest_plugin import Evidence
from storecheck.report.histories import attach
from tests.races import gateway

PARTICIPANTS = "tests.races.gateway"
GATEWAY = f"{PARTICIPANTS}:Gateway"
GATE_EXAMPLES = 60
"""Hypothesis examples of the default profile: deeper profiles repeat each race so many times more."""

SIZES = {"2 KB": 2_000, "220 KB": 220_000, "8 MB": 8_000_000}


def store_of(size: str) -> Mapping[str, bytes]:
    """A store file of that size, whose entries the race leaves alone."""
    return {gateway.FILE: realistic_store(SIZES[size], seed=1)}


def rounds() -> int:
    """How often each race is run."""
    assert settings.default is not None
    return max(1, settings.default.max_examples // GATE_EXAMPLES)


def gateways(workers: int, *, workload: str = "gateway", threads: int = 1, forks: bool = False) -> Team:
    """Processes that use the store."""
    return Team(adapter=GATEWAY, workload=f"{PARTICIPANTS}:{workload}", workers=workers, threads=threads, forks=forks)


def with_what_is_left(result: RaceResult) -> History:
    """The history, and after it what the file says, read by nothing of ours."""
    left = gateway.versions_of(json.loads(result.files[gateway.FILE]))
    whole = any(each.call.name in ("load", "save") for each in result.history.operations)
    if whole:
        return seen_at_end(result.history, [Call(name="load", result=left)])
    return seen_at_end(
        result.history, [Call(name="get", argument=[key], result=left.get(key)) for key in gateway.SESSIONS]
    )


def filler(content: bytes) -> dict[str, object]:
    """The entries that no participant touches."""
    return {key: entry for key, entry in json.loads(content).items() if not key.startswith(gateway.PREFIX)}


def hold(history: History, race: Race) -> None:
    """Fail if an operation failed, or if no order explains what all were told; the report shows it as a race.

    Raises:
        AssertionError: with the history attached.
    """
    raised = next((each for each in history.operations if each.call.outcome == "raised"), None)
    verdict = check(history, versioned_map())
    if raised is not None or verdict.status != "ok":
        error = AssertionError(str(verdict) if raised is None else str(raised))
        if verdict.status != "undecided" or raised is not None:
            attach(error, history, specification="sessions", race=race)
        raise error


def run_and_check(
    race: Race, *, directory: Path, evidence: Evidence, must_meet: tuple[str, ...], keeps_filler: bool = True
) -> None:
    """Run the race as often as the profile wants; each history must fit, each "sometimes" must have happened."""
    met: dict[str, int] = {}
    for number in range(rounds()):
        result = run_race(replace(race, seed=race.seed + number), directory=directory)
        print(f"round {number}: {result}")  # noqa: T201 - shown by pytest if the test fails, or with -s
        assert not result.stuck, result.stuck
        history = with_what_is_left(result)
        hold(history, replace(race, seed=race.seed + number))
        if keeps_filler:
            assert filler(result.files[gateway.FILE]) == filler(race.files[gateway.FILE])
        strays = [path for path in result.files if path.endswith(".tmp")]
        assert len(strays) <= result.met["kills"], strays
        evidence.add(histories=1, steps=len(history.operations))
        for name, count in result.met.items():
            met[name] = met.get(name, 0) + count
    missed = [name for name in ("overlaps", *must_meet) if not met.get(name)]
    assert not missed, f"the race never met {missed}: it shows nothing of that. Met: {met}"


@pytest.mark.promise("WRITE1", "WRITE2", "WRITE7", "SNAP1", "SNAP5")
@pytest.mark.parametrize(
    ("size", "team"),
    [
        ("2 KB", gateways(8, workload="some")),
        ("220 KB", gateways(4)),
        ("8 MB", gateways(3, workload="few")),
    ],
    ids=["2 KB, 8 processes", "220 KB, 4 processes", "8 MB, 3 processes"],
)
def test_free_running_processes_are_linearizable(size: str, team: Team, tmp_path: Path, evidence: Evidence) -> None:
    """Updates, removals and reads of shared sessions fit one order; untouched entries stay as they were."""
    met = ("another's version found", "bases outdated")
    race = Race(teams=(team,), files=store_of(size))
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=met)


@pytest.mark.promise("WRITE1", "WRITE2", "SNAP1", "SNAP3")
def test_loads_and_saves_of_everything_are_linearizable(tmp_path: Path, evidence: Evidence) -> None:
    """With whole-store loads and saves between updates, the history fits as one, not only session by session."""
    race = Race(teams=(gateways(4, workload="whole"),), files=store_of("2 KB"))
    met = ("another's version found", "bases outdated")
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=met, keeps_filler=False)


@pytest.mark.promise("WRITE1", "LOCK1")
def test_threads_in_processes_are_linearizable(tmp_path: Path, evidence: Evidence) -> None:
    """Two queues in a row, of threads and of processes, let nobody through twice."""
    race = Race(teams=(gateways(3, workload="some", threads=4),), files=store_of("2 KB"))
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=("another's version found", "bases outdated"))


@pytest.mark.promise("WRITE4", "LOCK2", "WRITE1")
@pytest.mark.parametrize(("size", "kills"), [("2 KB", 10), ("8 MB", 4)])
def test_killed_processes_leave_whole_files_and_free_locks(
    size: str, kills: int, tmp_path: Path, evidence: Evidence
) -> None:
    """SIGKILL at random moments: successors go on at once, and no acknowledged update is lost."""
    workload = "gateway" if size == "2 KB" else "few"
    race = Race(teams=(gateways(4, workload=workload),), files=store_of(size), kills=kills)
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=("kills", "killed in an operation"))


@pytest.mark.promise("LOCK4", "WRITE1")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks_in_the_middle_are_linearizable(tmp_path: Path, evidence: Evidence) -> None:
    """A child forked while other threads update goes on with the same store; nobody hangs, nothing is lost."""
    race = Race(teams=(gateways(3, workload="gateway", threads=2, forks=True),), files=store_of("2 KB"))
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=("forks", "another's version found"))


@pytest.mark.promise("LOCK1", "SNAP1", "CACHE6")
def test_a_program_that_takes_the_lock_loses_nothing(tmp_path: Path, evidence: Evidence) -> None:
    """A program with json and filelock works beside the store, each seeing and keeping what the other writes."""
    others = Team(adapter=f"{PARTICIPANTS}:LockingProgram", workload=f"{PARTICIPANTS}:some", workers=2)
    race = Race(teams=(gateways(2, workload="some"), others), files=store_of("2 KB"))
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=("another's version found", "bases outdated"))


@pytest.mark.promise("CACHE6", "WRITE2")
def test_cached_reads_beside_a_program_without_locks_are_fresh(tmp_path: Path, evidence: Evidence) -> None:
    """A program replaces the file by others of the same size and time; each load is what the file held during it."""
    writer = Team(adapter=f"{PARTICIPANTS}:LocklessWriter", workload=f"{PARTICIPANTS}:replacements", workers=1)
    race = Race(teams=(gateways(3, workload="readers"), writer), files={gateway.FILE: b"{}"})
    run_and_check(race, directory=tmp_path, evidence=evidence, must_meet=("looks that saw news",))
