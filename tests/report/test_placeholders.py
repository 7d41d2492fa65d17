"""Counterexamples without secrets: placeholders in their place, and the same failure.

Goal: nothing that a report directory holds has the value of a secret-like key, and what it holds still replays as
recorded; what does not replay without its secret is not written. Method: a project whose tests fail in every way that
is told (`leaks`) is run by pytest, and every byte of its report is looked through; documents are changed and run here.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storecheck import Program, RandomSchedules, process
from storecheck.counterexample import from_failure, from_json, replay
from storecheck.explore import Check, explore
from storecheck.history import Call, History
from storecheck.history import Operation as HistoryOperation
from storecheck.program import Json
from storecheck.report import crashes, histories
from storecheck.report.document import Example, Replays, Step, load
from storecheck.report.failures import example_of_payload
from storecheck.report.histories import HistoryCounterexample, ToldHistory
from storecheck.report.placeholders import SecretsNeededError, Substitution, without_secrets
from storecheck.report.told import Told, ToldCounterexample, ToldFinding
from storecheck.runner import Execution
from storecheck.verdict import Failure
from tests.report import making
from tests.report.leaks import ALONE, NUMBER, SECRET, SHORT, SUBJECT, TESTS
from tests.report.making import CASES, op, set_
from tests.report.subject import FILE
from tests.report.test_plugin import PROMISES

TIMEOUT_S = 120
WRITTEN = {"test_race", "test_race_without_path", "test_sequence", "test_crash", "test_machine::runTest"}


@pytest.fixture(scope="module", params=[(), ("-n", "1")], ids=["alone", "xdist"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the project that leaks."""
    project = tmp_path_factory.mktemp("leaks")
    texts = {
        "promise_list.py": PROMISES,
        "subject.py": SUBJECT,
        "test_leaks.py": TESTS,
        "pytest.ini": "[pytest]\npromises = promise_list:ALL\npythonpath = .\n",
    }
    for name, text in texts.items():
        (project / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "--report-dir", "report", *request.param]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert all(text in done.stdout for text in (SECRET, ALONE)), "pytest itself masks nothing: the tests did run"
    return project / "report"


def test_no_file_of_a_report_has_a_secret_and_what_is_written_replays(report: Path) -> None:
    """Race, sequence, power loss, state machine and plain tests: all formats, all files, all 20 replays."""
    run = load(report / "run.json")
    by_test = {example.test.partition("::")[2]: example for example in run.examples}
    assert {example.kind for example in run.examples} == {"race", "sequence", "crash", "test"}
    assert len(by_test) == 14
    for path in (path for path in report.rglob("*") if path.is_file()):
        content = path.read_bytes() + b"".join(in_base64(path))
        shown = [text for text in (SECRET, SECRET[:9], SECRET[-9:], str(NUMBER), ALONE) if text.encode() in content]
        assert not shown, f"{path} shows {shown}"
        assert SHORT.encode() not in content or path.suffix == ".html"  # whose hashes may have any three letters
    places = {name: report / "failures" / example.id / "counterexample.json" for name, example in by_test.items()}
    assert {name for name, place in places.items() if place.is_file()} == WRITTEN
    for name in WRITTEN:
        assert by_test[name].replays == Replays(failed=20, tried=20), name
        assert "20 of 20 replays" in run_command(by_test[name].replay, "--times", "20", cwd=report.parent)


def test_what_fails_with_its_secret_only_is_told_and_not_written(report: Path) -> None:
    """The page says so, and its commands run the test itself."""
    examples = load(report / "run.json").examples
    example = next(example for example in examples if example.test.endswith("test_needs_its_secret"))
    assert example.kind == "sequence"
    assert "**Its counterexample is not written**: it holds what looks like a secret" in example.verdict[-1]
    assert example.verdict[-1].endswith("it does not fail then. Run the test itself.")
    assert example.replay == example.run_as_test
    assert example.replay.endswith("-m pytest test_leaks.py::test_needs_its_secret")
    assert not example.reproducer


def in_base64(path: Path) -> list[bytes]:
    """What a counterexample holds in base64."""
    if path.name != "counterexample.json":
        return []
    files = json.loads(path.read_text(encoding="utf-8")).get("program", {}).get("files", {})
    return [base64.b64decode(content["base64"]) for content in files.values() if isinstance(content, dict)]


def run_command(*words: str, cwd: Path) -> str:
    """Run a printed command in a shell; its output."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": ".",
    }
    command = " ".join(words)
    return subprocess.run(
        command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    ).stdout


# With the store and planted bugs


START: dict[str, Json] = {"agent:main": {"authToken": SECRET, "model": "opus"}}
OTHER = SECRET[::-1]
WITH_SECRETS = {
    "B48": (process(set_("authToken", OTHER)), process(set_("label", SECRET))),
    "B54": (process(op("load"), op("load")), process(set_("authToken", OTHER))),
    "B65": (process(set_("enabled", 1), set_("enabled", True), op("read", key="agent:main")),),
    "B25": (process(set_("authToken", OTHER)),),
}


@functools.cache
def document_of(mutant: str) -> dict[str, Any]:
    """The counterexample of a planted bug in a program with secrets."""
    case = next(case for case in CASES if case.mutant == mutant)
    return making.find(replace(case, processes=WITH_SECRETS[mutant], start=START))[0].to_json()


@pytest.mark.parametrize("mutant", WITH_SECRETS)
def test_a_counterexample_of_the_store_fails_the_same_way_with_placeholders(mutant: str) -> None:
    """Races, caches, sequences and power losses of the real store; equal secrets stay equal, and every size is kept."""
    document = document_of(mutant)
    kept = without_secrets(document)
    assert SECRET in json.dumps(document)
    assert SECRET not in json.dumps(kept)
    assert (kept["schedule"], kept["program"].keys()) == (document["schedule"], document["program"].keys())
    for path, content in document["program"]["files"].items():
        assert len(kept["program"]["files"][path].encode()) == len(content.encode())
    if kept["format"] == crashes.FORMAT:
        _, _, same = crashes.replay(crashes.from_json(kept), transform=None)
        assert not same, "the store as it is does it right"
        return
    again = replay(from_json(kept))
    assert (again.same, again.finding) == (True, from_json(kept).finding)


# Substitution


def of(**environment: Any) -> Substitution:
    """For a document with these environment variables."""
    return Substitution({"program": {"environment": environment}})


@pytest.mark.parametrize(
    "secret",
    [SECRET, "abc", "p", "007", "-12", "1.5e+20", 'with "quotes" and \\', "çé あ 😀", "half \ud800 pair", "a\nb"],
)
def test_a_placeholder_is_as_long_as_its_secret(secret: str) -> None:
    """In UTF-8, in JSON of both kinds and in Python: every write has its size, and a number is one."""
    stand_in = of(API_TOKEN=secret).placeholder(secret)
    assert stand_in != secret
    assert len(stand_in.encode("utf-8", "surrogatepass")) == len(secret.encode("utf-8", "surrogatepass"))
    assert len(json.dumps(stand_in)) == len(json.dumps(secret))
    assert len(repr(stand_in)) == len(repr(secret))
    if secret[0] in "-01":
        float(stand_in)


def test_a_placeholder_says_nothing_of_its_secret() -> None:
    """Another secret of that length has the same one: nobody can try secrets until one gives it, as with a hash."""
    assert of(API_TOKEN="hunter2").placeholder("hunter2") == of(API_TOKEN="7retnuh").placeholder("7retnuh")


def test_what_is_equal_stays_equal_and_what_differs_differs() -> None:
    """Also of secrets that are short, or that hold one another."""
    secrets = [SECRET, OTHER, "abc", "abd", "a", "b", "1234", "12345"]
    substitution = of(**{f"TOKEN_{number}": secret for number, secret in enumerate(secrets)})
    stand_ins = [substitution.placeholder(secret) for secret in secrets]
    assert len(set(stand_ins)) == len(secrets)
    assert not set(stand_ins) & set(secrets)
    assert stand_ins == [substitution.placeholder(secret) for secret in secrets]


def test_a_placeholder_is_no_secret_that_comes_later() -> None:
    """What was told from a secret stays told from it."""
    substitution = of(TOKEN_1="5678", TOKEN_2="1111", TOKEN_3="1mas")
    stand_ins = {substitution.placeholder(secret) for secret in ("5678", "1111", "1mas", "word")}
    assert not stand_ins & {"5678", "1111", "1mas"}


def test_operations_of_all_threads_have_placeholders() -> None:
    """Those of the first thread and of the others."""
    login = {"name": "login", "arguments": {"token": SECRET}}
    team = {"operations": [login], "threads": [[login], [login]]}
    changed = of(API_TOKEN=SECRET).document({"program": {"processes": [team]}})
    assert json.dumps(changed).count("arguments") == 3
    assert SECRET not in json.dumps(changed)


def test_there_are_not_enough_short_values_for_many_short_secrets() -> None:
    """No two secrets get one placeholder: then the document is not written at all."""
    document = {"program": {"environment": {f"TOKEN_{letter}": letter for letter in "abcdefghijklm"}}}
    with pytest.raises(SecretsNeededError, match="no other value of 1 characters"):
        without_secrets(document)


@pytest.mark.parametrize(
    ("spelled", "keeps"),
    [
        (f"SetField('main', 'apiKey', '{SECRET}')", "SetField('main', 'apiKey', '"),
        (f"rewrite(b'{{\\n \"apiKey\": \"{SECRET}\"}}', 'rename')", "', 'rename')"),
        (json.dumps({"a": json.dumps({"b": SECRET})}), '{"a": "'),
        (f"call(https://host/?q={SECRET})", "call(https://host/?q="),
    ],
)
def test_a_secret_is_replaced_however_it_is_spelled(spelled: str, keeps: str) -> None:
    """In calls, bytes, JSON in JSON and addresses; the rest stays as it is."""
    changed = of(API_TOKEN=SECRET).text(spelled)
    assert SECRET not in changed
    assert keeps in changed
    assert len(changed) == len(spelled)


def test_a_secret_with_quotes_is_replaced_in_every_escape() -> None:
    """As JSON, as Python and as bytes in Python have it."""
    secret = 'hun"ter\\2 ü'
    substitution = of(API_TOKEN=secret)
    for spelled in (json.dumps(secret), json.dumps(json.dumps(secret)), repr(secret), repr(secret.encode())):
        changed = substitution.text(spelled)
        assert "ter" not in changed
        assert len(changed) == len(spelled)


def test_numbers_and_content_in_base64_are_replaced_too() -> None:
    """A number stays one; an image has the placeholder where it had the secret."""
    image = base64.b64encode(b'\xff{"apiKey": "' + SECRET.encode() + b'"}').decode()
    document = {"program": {"files": {"image": {"base64": image}}, "parameters": {"token_seed": NUMBER, "n": [NUMBER]}}}
    changed = Substitution(document).document(document)["program"]
    assert SECRET.encode() not in base64.b64decode(changed["files"]["image"]["base64"])
    assert changed["parameters"]["token_seed"] == changed["parameters"]["n"][0] != NUMBER


def test_a_document_without_secrets_is_left_alone() -> None:
    """The very same object: nothing is run."""
    document = json.loads((making.GOLDEN / "B48.counterexample.json").read_text(encoding="utf-8"))
    assert without_secrets(document) is document


# What cannot be written


def found_with(
    check: Check, *, check_path: str | None, adapter: str = "tests.report.subject:Gateway"
) -> dict[str, Any]:
    """The counterexample of a program with a secret, by a check."""
    program = Program(
        adapter=adapter,
        processes=(process(set_("authToken", SECRET)),),
        files={FILE: b"{}"},
    )
    failure = explore(program, strategy=RandomSchedules(executions=1), check=check, shrink_program=False).failure
    assert failure is not None
    return dict(from_failure(failure, title="t", verdict="v", check=check_path).to_json())


def needs_it(execution: Execution) -> str | None:
    """Fails with this secret only."""
    return "it is there" if SECRET.encode() in execution.files()[FILE] else None


def says_its_own(execution: Execution) -> str | None:
    """Fails always, and says a secret that is in no document."""
    return f"{len(execution.ends)} ended, with token='swordfish-{len(execution.ends)}'"


def says_the_length(execution: Execution) -> str | None:
    """Says something of the value that no other has."""
    stored = json.loads(execution.files()[FILE])["agent:main"]["authToken"]
    return f"ends with {stored[-3:]!r}"


@pytest.mark.parametrize(
    ("check", "why"),
    [(needs_it, "does not fail"), (says_its_own, "what it says of its failure"), (says_the_length, "in another way")],
)
def test_what_needs_its_secret_is_refused(check: Check, why: str) -> None:
    """The error says what came instead."""
    with pytest.raises(SecretsNeededError, match=why):
        without_secrets(found_with(check, check_path=f"{__name__}:{check.__name__}"))


def test_without_a_check_the_outcome_must_be_the_same() -> None:
    """No check can be asked, so what operations answer and leave is compared, but for the secrets."""
    document = found_with(needs_it, check_path=None)
    kept = without_secrets(document)
    assert replay(from_json(kept)).same
    # In this spelling the secret is not found, but what is read from the file has it.
    document["program"]["files"][FILE] = json.dumps({"agent:main": {"label": "LABEL"}}).replace(
        "LABEL", r"\u0068" + SECRET[1:]
    )
    document["program"]["processes"][0]["operations"].append({"name": "load", "arguments": {}})
    with pytest.raises(SecretsNeededError, match="differs in more than the secrets"):
        without_secrets(document)


def always(_: Execution) -> str:
    """Fails always."""
    return "always"


def test_what_fails_only_sometimes_without_its_secret_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each replay must fail."""
    document = found_with(always, check_path=f"{__name__}:always")
    assert "it does not fail in the same way each time" not in repr(tell(document, tmp_path / "steady"))
    monkeypatch.setattr("storecheck.report.examples._replays", lambda *_, **__: Replays(failed=19, tried=20))
    assert "it does not fail in the same way each time" in tell(document, tmp_path / "unsteady").verdict[-1]
    assert list((tmp_path / "steady").iterdir())
    assert not (tmp_path / "unsteady").exists()


def play_longer_without(lines: Any) -> Told:
    """The same goes wrong, with the secret in the first step, without it in the second."""
    steps = tuple(
        Step(
            number=number, process=0, call="set", loose=(), model="", disk=0, disk_changed=False, disk_bytes=None,
            returned="", expected=None, cache="",
        )
        for number in range(1 if SECRET in lines[0] else 2)
    )  # fmt: skip
    return Told(file="f", steps=steps, finding=ToldFinding(about="returned", message="it is wrong"))


def test_calls_that_fail_elsewhere_without_their_secret_are_not_written() -> None:
    """The same message after another number of steps is another failure."""
    document = ToldCounterexample(
        title="t",
        player=f"{__name__}:play_longer_without",
        calls=(f"set('authToken', '{SECRET}')",),
        finding="it is wrong",
        played=None,
    ).to_json()
    with pytest.raises(SecretsNeededError, match="fails in another step then"):
        without_secrets(document)


def test_a_record_that_is_judged_otherwise_without_its_secret_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must contradict itself in the same way."""
    told_history = histories.told_history

    def otherwise(document: HistoryCounterexample) -> ToldHistory:
        told = told_history(document)
        return told if SECRET in json.dumps(document.to_json()) else replace(told, cause=(*told.cause, "another"))

    assert without_secrets(record_with("m:Gateway"))
    monkeypatch.setattr(histories, "told_history", otherwise)
    with pytest.raises(SecretsNeededError, match="judged otherwise"):
        without_secrets(record_with("m:Gateway"))


def test_a_secret_in_an_import_path_is_not_written() -> None:
    """There it cannot be replaced."""
    document = found_with(lambda _: "always", check_path=None)
    document["program"]["environment"] = {"API_TOKEN": "Gateway"}
    with pytest.raises(SecretsNeededError, match="where it cannot be replaced"):
        without_secrets(document)


def play_differently(lines: Any) -> Any:
    """Does nothing: a player that fails with no calls but these."""
    raise LookupError(f"no such call: {lines[0]}")


def test_a_told_counterexample_that_cannot_be_played_is_told_as_pytest_showed_it(tmp_path: Path) -> None:
    """And its secret is masked in what the player says of it."""
    told = ToldCounterexample(
        title="t",
        player=f"{__name__}:play_differently",
        calls=(f"set('authToken', '{SECRET}')",),
        finding=f"it is {SECRET}",
        played=None,
    )
    example = tell(told.to_json(), tmp_path)
    assert example.kind == "test"
    assert SECRET not in repr(example)
    assert not list(tmp_path.iterdir())


def record_with(adapter: str) -> dict[str, Any]:
    """A record of real processes with a secret, that contradicts itself."""
    wrote, read = (
        HistoryOperation(
            process=process, task="t0", identifier=at, call=call, invoked_at=2 * at, responded_at=2 * at + 1
        )
        for process, at, call in (
            ("P1", 0, Call(name="set", argument=["s", {"apiKey": SECRET}], result=None)),
            ("P2", 1, Call(name="get", argument=["s"], result="never written")),
        )
    )
    team: dict[str, Json] = {"adapter": adapter, "workload": "m:work", "workers": 1, "parameters": {"api_key": SECRET}}
    return HistoryCounterexample(
        title="t",
        specification="sessions",
        history=History(operations=(wrote, read)),
        race={"teams": [team], "kills": 0, "seed": 1},
        files={},
        finding="x",
    ).to_json()


def test_a_record_of_real_processes_is_written_although_nothing_replays_it(tmp_path: Path) -> None:
    """It is judged; what runs again names the same code, with placeholders for what it is given."""
    example = tell(record_with("m:Gateway"), tmp_path)
    kept = json.loads((tmp_path / example.id / "counterexample.json").read_text(encoding="utf-8"))
    assert SECRET not in json.dumps(kept) + repr(example)
    team = kept["race"]["teams"][0]
    assert (team["adapter"], team["workload"]) == ("m:Gateway", "m:work")
    assert len(team["parameters"]["api_key"]) == len(SECRET)
    with pytest.raises(SecretsNeededError, match="where it cannot be replaced"):
        without_secrets(record_with(f"m:{SECRET}"))


def test_what_an_earlier_run_wrote_there_is_removed(tmp_path: Path) -> None:
    """A counterexample that must not be written does not stay from another time."""
    document = found_with(needs_it, check_path=f"{__name__}:needs_it")
    example = tell(document, tmp_path)
    place = tmp_path / example.id
    place.mkdir()
    (place / "counterexample.json").write_text(json.dumps(document), encoding="utf-8")
    tell(document, tmp_path)
    assert not (place / "counterexample.json").exists()


def tell(document: dict[str, Any], directory: Path) -> Example:
    """The example of a test that left this counterexample."""
    failure = Failure(nodeid="test_x.py::test_x", example=f"it failed with token='{SECRET}'", replay="pytest test_x.py")
    return example_of_payload({"document": document, "found": None}, failure, None, shard=1, directory=directory)
