"""Commands of `storecheck` about reports and counterexamples: what they show, how they exit, how shells complete."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from storecheck import counterexample
from storecheck.cli import main
from storecheck.counterexample import Counterexample
from storecheck.report import crashes, told
from storecheck.report.crashes import CrashCounterexample
from storecheck.report.document import Step
from storecheck.report.told import Played, Told, ToldCounterexample, ToldFinding
from tests.report.making import GOLDEN

ROOT = Path(__file__).parents[2]
COUNTEREXAMPLE = GOLDEN / "B87.counterexample.json"
SHELL_TIMEOUT_S = 60


def load_any(path: Path) -> Counterexample | CrashCounterexample | ToldCounterexample:
    """The counterexample in a file, of whichever kind."""
    document = json.loads(path.read_text(encoding="utf-8"))
    readers = {counterexample.FORMAT: counterexample, crashes.FORMAT: crashes, told.FORMAT: told}
    found: Counterexample | CrashCounterexample | ToldCounterexample = readers[document["format"]].from_json(document)
    return found


def storecheck(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_promise_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text, and what a run says of it: the failing example with its replay."""
    monkeypatch.chdir(ROOT)
    result = storecheck("explain", "write1", "--run", GOLDEN / "B76.json")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("WRITE1: updates are linearizable\n")
    assert "storecheck replay" not in result.output
    told = storecheck("explain", "SNAP2", "--run", GOLDEN / "B76.json")
    assert "race: " in told.output.lower()
    assert "storecheck replay" in told.output


def test_what_is_no_promise_is_wrong_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error lists the promises; without a project it says what to give."""
    monkeypatch.chdir(ROOT)
    result = storecheck("explain", "SNAP0")
    assert (result.exit_code, "Promises are SET1, " in result.output) == (2, True)
    monkeypatch.chdir(tmp_path)
    result = storecheck("explain", "SNAP1")
    assert (result.exit_code, "Give --promises module:attribute" in result.output) == (2, True)


def test_counterexamples_are_listed_explained_and_replayed(tmp_path: Path) -> None:
    """A directory's counterexamples are found among other files; each is shown without and with running it."""
    shutil.copyfile(COUNTEREXAMPLE, tmp_path / "found.json")
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    listed = storecheck("list", tmp_path)
    assert (listed.exit_code, listed.output.count("\n")) == (0, 1)
    assert listed.output.startswith(f"{tmp_path / 'found.json'}: ")
    explained = storecheck("explain", tmp_path / "found.json")
    assert (explained.exit_code, "Finding: " in explained.output) == (0, True)
    replayed = storecheck("replay", tmp_path / "found.json", "--times", "2")
    assert replayed.exit_code == 0, replayed.output
    assert "2 of 2 replays did exactly what was recorded." in replayed.output


@pytest.mark.parametrize(
    ("name", "shown"),
    [("B76", " step | P1 "), ("B27", "Power lost after event "), ("machine-B27", "  1 ")],
    ids=["schedule", "crash", "told"],
)
def test_every_kind_is_listed_and_explained(tmp_path: Path, name: str, shown: str) -> None:
    """What a failing program, a crash and a test of its own kind left: a line in the list, and its calls."""
    shutil.copyfile(GOLDEN / f"{name}.counterexample.json", tmp_path / "found.json")
    listed = storecheck("list", tmp_path)
    assert (listed.exit_code, listed.output.count("found.json: ")) == (0, 1), listed.output
    explained = storecheck("explain", tmp_path / "found.json")
    assert explained.exit_code == 0, explained.output
    assert shown in explained.output
    assert "Finding: " in explained.output


@pytest.mark.parametrize("name", ["B76", "B27", "machine-B27"], ids=["schedule", "crash", "told"])
def test_text_that_is_no_utf_8_is_shown_as_escapes(tmp_path: Path, name: str) -> None:
    """A counterexample with half a surrogate pair is written, listed and explained, and comes back the same."""
    document = load_any(GOLDEN / f"{name}.counterexample.json")
    bad = replace(document, title="half \udc80 pair")
    path = tmp_path / "found.json"
    if isinstance(bad, ToldCounterexample):
        path.write_text(json.dumps(bad.to_json()), encoding="utf-8")
    else:
        bad.write(path)
    assert load_any(path) == bad
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    for command in ("list", "explain"):
        target = str(tmp_path if command == "list" else path)
        code = "from storecheck.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, command, target], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=SHELL_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert (done.returncode, r"half \udc80 pair" in done.stdout) == (0, True), done.stderr


def test_a_run_with_text_that_is_no_utf_8_is_shown(tmp_path: Path) -> None:
    """Every format of it, on standard output."""
    run = json.loads((GOLDEN / "B76.json").read_text(encoding="utf-8"))
    run["examples"][0]["title"] = "half \udc80 pair"
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    for wanted in ("terminal", "html", "markdown", "junit", "github", "gitlab", "json"):
        result = storecheck("show", tmp_path / "run.json", "--format", wanted)
        assert result.exit_code == 0, (wanted, result.exception)
        assert r"\udc80 pair" in result.output, wanted


def test_a_broken_counterexample_is_listed_as_such(tmp_path: Path) -> None:
    """Half a file is neither left out nor does it hide the others."""
    whole = COUNTEREXAMPLE.read_text(encoding="utf-8")
    (tmp_path / "a.json").write_text(whole[:300], encoding="utf-8")
    (tmp_path / "b.json").write_text(whole, encoding="utf-8")
    lines = storecheck("list", tmp_path).output.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'a.json'}: cannot be read: ")
    assert lines[1].startswith(f"{tmp_path / 'b.json'}: ")


def test_a_replay_of_something_else_is_exit_1(tmp_path: Path) -> None:
    """A counterexample that says another finding than its run shows does not count as replayed."""
    text = COUNTEREXAMPLE.read_text(encoding="utf-8")
    other = text.replace('"message": "no sequential order', '"message": "some sequential order')
    assert other != text
    (tmp_path / "found.json").write_text(other, encoding="utf-8")
    result = storecheck("replay", tmp_path / "found.json")
    assert (result.exit_code, "0 of 1 replays" in result.output) == (1, True)


def play(lines: Sequence[str]) -> Told:
    """A player: each line is a step, and what the last one says is found, if it says something."""
    steps = tuple(
        Step(
            number=number, process=0, call=line, loose=(), model="", disk=0, disk_changed=False, disk_bytes=None,
            returned="", expected=None, cache="",
        )
        for number, line in enumerate(lines, start=1)
    )  # fmt: skip
    about = lines[-1].partition(" ")[0]
    return Told(file="f", steps=steps, finding=ToldFinding(about=about, message=lines[-1]) if about else None)


@pytest.mark.parametrize(
    ("now", "status", "says"),
    [
        (("do", "returned 10"), 0, "2 of 2 replays failed as recorded."),
        (("do", "returned 12"), 0, "2 of 2 replays failed as recorded."),
        (("returned 10",), 1, "0 of 2 replays failed as recorded. The first failed otherwise: returned 10"),
        (("do", "file is gone"), 1, "0 of 2 replays failed as recorded. The first failed otherwise: file is gone"),
        (("do", ""), 1, "0 of 2 replays failed as recorded. In the first nothing failed."),
    ],
    ids=["same", "another value", "earlier", "something else", "nothing"],
)
def test_a_told_counterexample_replays_as_recorded_or_is_exit_1(
    tmp_path: Path, now: tuple[str, ...], status: int, says: str
) -> None:
    """The same thing goes wrong at the same step; whatever else fails is another failure."""
    error = AssertionError("it failed")
    told.attach(error, player=f"{__name__}:play", lines=("do", "returned 10"))
    document = replace(vars(error)["counterexample"], calls=now)
    path = tmp_path / "found.json"
    path.write_text(json.dumps(document.to_json()), encoding="utf-8")
    result = storecheck("replay", path, "--times", "2")
    assert (result.exit_code, says in result.output) == (status, True), result.output


class Unsteady:
    """A player that sees the failure the first time only."""

    def __init__(self) -> None:
        self.plays = 0

    def __call__(self, lines: Sequence[str]) -> Told:
        """The next play."""
        self.plays += 1
        return play(lines if self.plays == 1 else ("do", ""))


def test_a_told_counterexample_must_replay_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One replay that goes well says that something is not recorded."""
    monkeypatch.setitem(globals(), "unsteady", Unsteady())
    document = ToldCounterexample(
        title="t", player=f"{__name__}:unsteady", calls=("do", "returned 10"), finding="it failed",
        played=Played(about="returned", steps=2),
    )  # fmt: skip
    path = tmp_path / "found.json"
    path.write_text(json.dumps(document.to_json()), encoding="utf-8")
    result = storecheck("replay", path, "--times", "2")
    assert (result.exit_code, "1 of 2 replays failed as recorded." in result.output) == (1, True), result.output


def test_a_crash_counterexample_must_replay_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above."""
    path = tmp_path / "found.json"
    shutil.copyfile(GOLDEN / "B27.counterexample.json", path)
    replay, exact = crashes.replay, iter((True, False))
    monkeypatch.setattr(
        crashes, "replay", lambda *arguments, **options: (*replay(*arguments, **options)[:2], next(exact))
    )
    result = storecheck("replay", path, "--times", "2")
    assert (result.exit_code, "1 of 2 replays did exactly" in result.output) == (1, True), result.output


@pytest.mark.parametrize("command", ["replay", "explain", "show"])
def test_a_file_that_is_no_document_is_exit_2(tmp_path: Path, command: str) -> None:
    """Wrong usage, said in a sentence and not in a stack trace."""
    (tmp_path / "x.json").write_text('{"format": "something"}', encoding="utf-8")
    result = storecheck(command, tmp_path / "x.json")
    assert result.exit_code == 2, result.output
    assert "Error: " in result.output


def test_the_page_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address goes to the browser and to the terminal; no page is wrong usage, and says what makes one."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert storecheck("open", tmp_path).exit_code == 2
    assert "Run pytest --report-dir" in storecheck("open", tmp_path).output
    (tmp_path / "report.html").write_text("<!doctype html>", encoding="utf-8")
    result = storecheck("open", tmp_path)
    assert (result.exit_code, result.output) == (0, f"{opened[0]}\n")
    assert opened == [(tmp_path / "report.html").as_uri()]


# -- shells -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `storecheck` is this interpreter's."""
    program = tmp_path / "bin" / "storecheck"
    program.parent.mkdir()
    program.write_text(f'#!{sys.executable}\nfrom storecheck.cli import main\nmain(prog_name="storecheck")\n')
    program.chmod(0o755)
    kept = {name: os.environ[name] for name in ("LANG", "PYTHONPATH") if name in os.environ}
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": str(tmp_path), "TERM": "dumb"}


def shell(name: str) -> str:
    """The shell's program; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    return found


def completions(name: str, script: str, environment: dict[str, str]) -> set[str]:
    """What a shell proposes: the first word of each line that its script prints."""
    command = [shell(name), *(("--norc",) if name == "bash" else ("--no-config",)), "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SHELL_TIMEOUT_S, check=True
    )
    return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


def test_bash_completes(environment: dict[str, str]) -> None:
    """Commands and ids of promises, by the function that the completion script registers."""
    script = """
eval "$(storecheck completion bash)"
complete -p storecheck > /dev/null
for words in "storecheck re" "storecheck explain SNA"; do
    COMPREPLY=() COMP_WORDS=($words)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _storecheck_completion storecheck
    printf '%s\\n' "${COMPREPLY[@]}"
done
"""
    assert completions("bash", script, environment) == {"replay", *(f"SNAP{n}" for n in range(1, 7))}


def test_fish_completes(environment: dict[str, str]) -> None:
    """Commands and ids of promises, as fish itself would propose them."""
    script = """
storecheck completion fish | source
complete --do-complete "storecheck re"
complete --do-complete "storecheck explain SNA"
"""
    assert completions("fish", script, environment) == {"replay", *(f"SNAP{n}" for n in range(1, 7))}


def test_zsh_completes(environment: dict[str, str]) -> None:
    """Somebody types three letters and a tab at zsh's prompt, and the command that runs is the whole one."""
    command = [shell("zsh"), "-f", "-i"]
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
    finally:
        os.close(theirs)
    try:
        setup = 'autoload -Uz compinit && compinit -u -D && eval "$(storecheck completion zsh)" && echo set-up\n'
        os.write(ours, setup.encode())
        read_until(ours, "set-up\r\n")
        os.write(ours, b"storecheck mer\t--help\n")
        read_until(ours, "Usage: storecheck merge")
    finally:
        process.kill()
        process.wait(timeout=SHELL_TIMEOUT_S)
        os.close(ours)


def read_until(terminal: int, wanted: str) -> None:
    """Read what a terminal shows until it has shown this."""
    shown, deadline = "", time.monotonic() + SHELL_TIMEOUT_S
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} was not shown within {SHELL_TIMEOUT_S} s, but: {shown!r}"
        shown += os.read(terminal, 65_536).decode(errors="replace")
