"""Any store can be examined: broken promises come with a minimal schedule that real processes confirm.

Goal: the verifier must neither believe a store nor accuse one without evidence. Method: adapters with one known bug
each, a correct one, and the built-in ones that are quick; the table says how far each promise was looked at.
"""

from __future__ import annotations

import functools
import json
import os
import select
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from storecheck.cli import main as storecheck
from storecheck.counterexample import load, replay
from storecheck.crash.strace import record_process, why_not
from storecheck.linearizability import check
from storecheck.peers import PEERS
from storecheck.peers.__main__ import main
from storecheck.peers.contract import FIRST, first_files
from storecheck.peers.examine import Finding, examine, table, update
from storecheck.peers.failing_calls import failing_calls
from storecheck.peers.power import NotExaminedError, PowerLoss, examine_power
from storecheck.peers.protocol import PROMISES
from storecheck.processes import Race, RaceResult, run_race
from storecheck.program import Program, at_path, process

ROOT = Path(__file__).parents[2]
SUBJECTS = "tests.storecheck.peer_subjects"
FILES = {"store.json": json.dumps(FIRST).encode()}


def skip_without_strace() -> None:
    """Real processes are recorded by it."""
    if reason := why_not():
        pytest.skip(reason)


def outcomes(findings: list[Finding]) -> dict[str, str]:
    """Outcome by promise."""
    return {finding.promise: finding.outcome for finding in findings}


def of_promise(subject: str, promise: str) -> Finding:
    """What the examination says of one promise."""
    (found,) = examine(f"{SUBJECTS}:{subject}", promises=[promise])
    return found


def test_a_correct_store_keeps_everything_exhaustively() -> None:
    """A lock, a rename, and two syncs: every schedule within the bound was run, and the report says so."""
    found = examine(f"{SUBJECTS}:Durable")
    assert outcomes(found) == dict.fromkeys(PROMISES, "kept"), table({"Durable": found})
    assert all("exhausted with" in each.evidence for each in found if each.promise != "errors")
    assert "calls, each alone" in next(each.evidence for each in found if each.promise == "errors")


@pytest.mark.parametrize(
    ("subject", "promise", "processes"),
    [("Unlocked", "updates", 2), ("InPlace", "reads", 2), ("StaleLock", "kills", 1), ("Swallows", "errors", 1)],
)
def test_each_bug_breaks_its_promise_and_reality_confirms_it(subject: str, promise: str, processes: int) -> None:
    """The counterexample is minimal, and real processes do the same call by call."""
    found = of_promise(subject, promise)
    assert found.outcome == "BROKEN", found.evidence
    assert found.counterexample is not None
    assert found.confirmation is not None
    assert found.confirmation.confirmed, found.confirmation.divergence
    assert len(found.counterexample.program.processes) <= processes
    assert found.counterexample.program.operations() <= 2


@pytest.mark.parametrize(
    ("subject", "model", "said", "lost"),
    [
        ("Locked", "ext4-ordered", "acknowledged 'P1.0' is lost", "rename of"),
        ("ForgetsTheDirectory", "ext4-ordered", "acknowledged 'P1.0' is lost", "rename of"),
        ("InPlace", "ext4-ordered", "the store cannot be read any more", ""),
        ("StaleLock", "ext4-ordered", "the next writer cannot go on: TimeoutError", ""),
    ],
)
def test_a_power_loss_is_told_with_what_was_lost(subject: str, model: str, said: str, lost: str) -> None:
    """The strongest file system and the fewest lost changes are shown; the calls of a real process allow it too."""
    examined = examine_power(f"{SUBJECTS}:{subject}", FILES, simulated=True)
    assert examined.loss is not None
    assert examined.loss.model == model
    assert said in examined.loss.problem
    assert len(examined.loss.lost) == bool(lost)
    assert lost in "".join(examined.loss.lost)
    reason = why_not()
    assert (examined.loss.confirmed, examined.loss.why_not) == ((None, reason) if reason else (True, ""))


def test_a_store_that_cannot_be_simulated_is_recorded_by_the_kernels_calls() -> None:
    """Of a store in C, `strace` shows what it asked the disk for: the same states, and the same loss."""
    skip_without_strace()
    found = examine_power(f"{SUBJECTS}:NotDurableInC", FILES, simulated=False)
    simulated = examine_power(f"{SUBJECTS}:Locked", FILES, simulated=True)
    assert found.real
    assert found.states == simulated.states
    assert found.loss is not None
    assert simulated.loss is not None
    assert (found.loss.model, found.loss.problem) == (simulated.loss.model, simulated.loss.problem)
    line = table({"It": [Finding(promise="power", promised=True, outcome="BROKEN", evidence="E", power=found.loss)]})
    assert line == ["It  power    BROKEN: E [1 process, 2 operations; confirmed by the calls of a real process]"]


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("WaitsForItself", "two updates in the simulation: WaitsForEverError: the process waits for flock"),
        ("FailsInC", "two updates under strace ended with status 1: RuntimeError: session0"),
        ("NeverEndsInC", "two updates under strace did not end within 1 s"),
    ],
)
def test_updates_that_do_not_come_to_their_end_are_not_examined_for_power(
    subject: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that waits, fails or does not end when it is alone: it is said which of them, and nothing else."""
    if "simulation" not in said:
        skip_without_strace()
    if "did not end" in said:
        monkeypatch.setattr("storecheck.crash.strace.TIMEOUT_S", 1)
    with pytest.raises(NotExaminedError, match=f"^{said}"):
        examine_power(f"{SUBJECTS}:{subject}", FILES, simulated="simulation" in said)


def test_more_disks_than_can_be_looked_at_are_not_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them would be a sample, of nobody knows what; it costs the table that line, and no other."""
    monkeypatch.setattr("storecheck.crash.states.MAX_STATES", 3)
    found = of_promise("Durable", "power")
    assert (found.outcome, found.evidence[:27]) == ("not examined", "more than 3 sets of changes")


def test_a_process_that_strace_gave_up_on_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killing strace lets its process go on: that one is killed as well."""
    skip_without_strace()
    monkeypatch.setattr("storecheck.crash.strace.TIMEOUT_S", 2)
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        program = "import os, sys; os.open(sys.argv[1], os.O_WRONLY); os.read(os.pipe()[0], 1)"
        command = [sys.executable, "-ISc", program, str(tmp_path / "alive")]
        (tmp_path / "store").mkdir()
        with pytest.raises(subprocess.TimeoutExpired):
            record_process(command, directory=tmp_path / "store", environment=os.environ, log=tmp_path / "log")
        ends = select.poll()
        ends.register(reader, select.POLLIN)
        assert [event for _, event in ends.poll(10_000)] == [select.POLLHUP]
    finally:
        os.close(reader)


def test_an_adapter_that_cannot_be_loaded_into_the_simulation_is_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its base class would make real calls: the examination says so, and looks at it from outside."""
    monkeypatch.setattr("storecheck.peers.examine.RACES", 1)
    found = {each.promise: each for each in examine("tests.storecheck.peer_subjects_apart:Inherits")}
    assert found["updates"].outcome == "kept", found["updates"].evidence
    assert "raced only (it cannot be simulated: adapter" in found["updates"].evidence
    assert found["power"].outcome == ("not examined" if why_not() else "BROKEN"), found["power"].evidence


def test_sqlite_keeps_its_word_after_a_power_loss() -> None:
    """A database with synchronous=FULL loses no acknowledged row, in any model: a store by others is believed too."""
    skip_without_strace()
    path = PEERS["sqlite3"]
    found = examine_power(path, first_files(path), simulated=False)
    assert found.loss is None, str(found.loss)
    assert found.states > 100


@pytest.mark.parametrize("subject", ["Durable", "NotDurableInC"])
def test_what_the_checker_gives_up_on_is_neither_kept_nor_broken(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history too hard to judge is told as that, whether it was searched or raced."""
    monkeypatch.setattr("storecheck.peers.contract.check", functools.partial(check, cap_configurations=1))
    found = of_promise(subject, "updates")
    assert found.outcome == "not examined", found.evidence
    assert "undecided: " in found.evidence


@pytest.mark.parametrize(("subject", "promise"), [("UnlockedInC", "reads"), ("Owned", "kills")])
def test_a_race_accuses_nobody_of_what_was_not_promised(subject: str, promise: str) -> None:
    """Who does not promise updates by several has one writer, beside readers, or one at a time to be killed."""
    found = of_promise(subject, promise)
    assert (found.outcome, found.promised) == ("kept", True), found.evidence
    assert "raced only" in found.evidence
    assert ("kills" in found.evidence) == (promise == "kills")


def test_a_race_of_readers_does_not_judge_the_writer() -> None:
    """What its updates answer is another promise."""
    found = of_promise("LiesInC", "reads")
    assert found.outcome == "kept", found.evidence


@pytest.mark.parametrize(
    ("subject", "promise", "nothing"), [("UnlockedInC", "reads", "overlaps"), ("Owned", "kills", "kills")]
)
def test_a_race_in_which_nothing_happened_shows_nothing(
    subject: str, promise: str, nothing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody met anybody, or nobody was killed before the end."""

    def uneventful(race: Race) -> RaceResult:
        result = run_race(race)
        return replace(result, met={**result.met, nothing: 0})

    monkeypatch.setattr("storecheck.peers.examine.run_race", uneventful)
    assert of_promise(subject, promise).outcome == "not examined"


def test_a_store_that_does_otherwise_each_time_is_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No schedule of it can be replayed, so none proves anything."""
    monkeypatch.setattr("storecheck.peers.examine.RACES", 1)
    found = of_promise("Unsteady", "updates")
    assert "raced only (it cannot be simulated: " in found.evidence


def test_a_search_of_runs_that_do_not_end_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """None was judged."""
    monkeypatch.setattr("storecheck.peers.examine.SEARCH_EXECUTIONS", 2)
    found = of_promise("NeverComesBack", "updates")
    assert found.outcome == "not examined", found.evidence
    assert found.evidence.startswith("no run came to its end: ")


def test_calls_that_open_the_store_are_not_made_to_fail() -> None:
    """They are no part of an update: the same calls fail as without them, each by the number that it has then."""
    plain, more = (
        failing_calls(Program(adapter=f"{SUBJECTS}:{name}", files=FILES, processes=(process(update(1)),)))
        for name in ("Locked", "OpensMore")
    )
    assert [(name, fault.call + 2) for name, fault in plain.failures] == [
        (name, fault.call) for name, fault in more.failures
    ]


def test_calls_that_other_stores_make_fail_too() -> None:
    """A failing write at a place is one that the store must report."""
    found = of_promise("SwallowsPwrite", "errors")
    assert found.outcome == "BROKEN", found.evidence
    assert found.confirmation is not None
    assert found.confirmation.confirmed, found.confirmation.divergence


def test_a_close_that_fails_has_closed() -> None:
    """The lock is free whatever close(2) reports: who takes it again does not wait for himself."""
    found = of_promise("TriesAgain", "errors")
    assert found.outcome == "kept", found.evidence


def test_the_table_says_how_many_calls_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures, calls, and those that were left out are counted apart."""
    program = Program(adapter=f"{SUBJECTS}:Locked", files=FILES, processes=(process(update(1)),))
    planned = failing_calls(program)
    names = [name for name, _ in planned.failures]
    # An open that makes a file may find no room; one that does not, a read and a close may find a broken disk only.
    assert names == [
        *["open"] * 3,
        "read",
        "close",
        "open",
        "open",
        "write",
        "write",
        "close",
        *["replace"] * 2,
        "close",
    ]
    assert str(planned) == "13 failures (ENOSPC or EIO) of 9 calls, each alone"
    monkeypatch.setattr("storecheck.peers.failing_calls.CALLS_MAX", 2)
    assert str(failing_calls(program)) == "3 failures (ENOSPC or EIO) of 2 calls, each alone; 7 more were not tried"


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("NeverEnds", "after ENOSPC of open (call "),
        ("WritesNothing", "an update makes no call that can fail"),
    ],
)
def test_what_was_not_looked_at_is_not_kept(subject: str, said: str) -> None:
    """An update that did not end was not judged, and one without calls shows nothing."""
    found = of_promise(subject, "errors")
    assert found.outcome == "not examined", found.evidence
    assert found.evidence.startswith(said)


def test_a_written_counterexample_replays(tmp_path: Path) -> None:
    """The document names a check that needs nothing else: `storecheck replay` judges it anew."""
    found = of_promise("Swallows", "errors")
    assert found.counterexample is not None
    found.counterexample.write(tmp_path / "found.json")
    replayed = replay(load(tmp_path / "found.json"))
    assert replayed.same
    assert replayed.finding == found.counterexample.finding


def test_the_table_tells_searched_from_raced() -> None:
    """What was only raced is never called exhausted, and what was not promised is not held against a store."""
    findings = [
        Finding(promise="updates", promised=False, outcome="BROKEN", evidence="race 1 of real processes: lost"),
        Finding(promise="errors", promised=True, outcome="not examined", evidence="its calls cannot be made to fail"),
    ]
    lines = table({"A store": findings})
    assert lines[0] == "A store  updates  BROKEN (not promised): race 1 of real processes: lost"
    assert lines[1] == "A store  errors   not examined: its calls cannot be made to fail"


@pytest.mark.parametrize("name", PEERS)
def test_built_in_adapters_keep_what_they_are_given(name: str, tmp_path: Path) -> None:
    """Each adapter's first files hold the first version, and an update tells what it found."""
    try:
        adapter = at_path(PEERS[name])(str(tmp_path))
    except ImportError as error:
        pytest.skip(f"{name} is an optional peer: {error}")
    try:
        adapter.save(dict(FIRST))
        (session, version), *_ = FIRST.items()
        assert adapter.update(session, "second") == version
        assert adapter.load() == {session: "second"}
    finally:
        adapter.close()
    assert first_files(PEERS[name])


def example_in(text: str) -> str:
    """The adapter that a page or a module shows."""
    lines = text[text.index("import json, os, filelock") :].splitlines()
    end = next((at for at, line in enumerate(lines) if line.startswith(("```", "The class"))), None)
    return textwrap.dedent("\n".join(["", *lines[1:end]])).replace("\n", f"{lines[0]}\n", 1)


@pytest.mark.parametrize("shown", ["docs/other-stores.md", "storecheck/peers/protocol.py"])
def test_the_adapter_that_is_shown_works(shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever copies the example has a store that keeps what it promises, and not what it does not."""
    name = f"shown_in_{Path(shown).stem.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(example_in((ROOT / shown).read_text(encoding="utf-8")), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    errors, power = examine(f"{name}:Adapter", promises=["errors", "power"])
    assert (errors.outcome, errors.promised) == ("kept", True), errors.evidence
    assert (power.outcome, power.promised) == ("BROKEN", False), power.evidence
    assert "acknowledged 'P1.0' is lost" in power.evidence


def test_a_store_that_is_not_known_is_a_usage_error() -> None:
    """`python -m storecheck.peers NAME` says which there are."""
    done = CliRunner().invoke(main, ["no such store"])
    assert done.exit_code == 2
    assert "there is no adapter for 'no such store'" in done.output


def test_the_command_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each promise, kept or broken, and a counterexample that is said how to replay: exit status 0."""
    monkeypatch.setattr("storecheck.peers.__main__.PEERS", {"one that swallows": f"{SUBJECTS}:Swallows"})
    done = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[3] for line in lines] == list(PROMISES)
    assert "one that swallows  updates  kept: exhausted within 2 preemptions" in lines[0]
    assert "one that swallows  errors   BROKEN: " in lines[3]
    assert done.stderr == f"storecheck replay {tmp_path}/one-that-swallows-errors.json\n"
    assert (tmp_path / "one-that-swallows-errors.json").exists()


def test_the_command_fails_if_a_store_that_was_named_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is passed over, unless it was asked for."""
    monkeypatch.setattr("storecheck.peers.__main__.PEERS", {"not installed": "storecheck_nowhere:Adapter"})
    assert CliRunner().invoke(main, []).exit_code == 0
    done = CliRunner().invoke(main, ["not installed"])
    assert done.exit_code == 1
    assert "not installed: not examined: No module named 'storecheck_nowhere'" in done.stderr


def test_the_command_fails_if_real_processes_do_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that the simulation says and a real process does not allow is an error of the verifier, and told."""
    loss = PowerLoss(model="ext4-ordered", event=1, events=2, lost=(), problem="gone", confirmed=False)
    finding = Finding(promise="power", promised=True, outcome="BROKEN", evidence=str(loss), power=loss)
    monkeypatch.setattr("storecheck.peers.__main__.examine", lambda _: [finding])
    done = CliRunner().invoke(main, ["sqlite3"])
    assert done.exit_code == 1
    assert "NOT confirmed by the calls of a real process" in done.output


def test_run_examines_another_store(tmp_path: Path) -> None:
    """`storecheck run module:factory` is the same for any adapter; a broken promise is exit status 1."""
    done = CliRunner().invoke(storecheck, ["run", f"{SUBJECTS}:Swallows", "--out", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "errors   BROKEN: " in done.output
    assert "confirmed by real processes" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["Swallows-errors.json"]
