"""Every subcommand: what it prints where, how it exits, what it leaves on disk."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import NoReturn

import pytest

from sessionstore import SessionStore, Settings
from sessionstore.cli.commands import sessionstore as group
from sessionstore.cli.terminal import Progress, is_decorated, json_text, printable, table
from tests.unit.cli_runs import TIMEOUT_S, assert_one_message, clean_environment, command, interruptible, invoke, run

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests says which store to use or how."""
    for name in list(os.environ):
        if name.startswith("OPENCLAW_SESSION"):
            monkeypatch.delenv(name)


@pytest.fixture
def stored(store_path: Path) -> Path:
    """A store of three sessions, the second in a legacy spelling."""
    store_path.write_bytes(
        b'{\n  "agent:a": {\n    "updatedAt": 1774000000000,\n    "label": "first",\n    "n": 1e2\n  },\n'
        b'  "Agent:B": {\n    "updatedAt": 1774000001500\n  },\n  "c": {}\n}'
    )
    return store_path


# --- wrong usage, errors, output ---------------------------------------------------------------------------------


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("arguments", [[], *([name] for name in sorted(group.commands))])
def test_every_command_explains_itself(arguments: list[str]) -> None:
    """CLI1: --help of the command and of each subcommand exits 0 and says what it does."""
    done = invoke(*arguments, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: sessionstore")
    assert done.stderr == ""


@pytest.mark.promise("CLI1")
def test_the_subcommands_are_those_of_the_contract() -> None:
    """CLI1: nine subcommands, no more and no fewer."""
    assert sorted(group.commands) == [
        "cleanup", "doctor", "list", "measure", "remove", "set", "show", "status", "stress",
    ]  # fmt: skip


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "--yaml"],
        ["status", "extra"],
        ["--store", "", "status"],
        ["--store"],
        ["show"],
        ["set", "a"],
        ["set", "a", "{"],
        ["set", "a", "[]"],
        ["set", "a", '{"n": NaN}'],
        ["set", "a", '{"n": 1e999}'],
        ["set", "a", '{"n": 1, "n": 2}'],
        ["set", "a", '{"x":' * 129 + "1" + "}" * 129],
        ["set", "a", '{"x":' * 100_000],
        ["set", "a", '{"x": "\udcff"}'],
        ["set", "\udcff", "{}"],
        ["set", "", "{}"],
        ["set", " \t", "{}"],
        ["--lock-timeout", "-1", "list"],
        ["--lock-timeout", "nan", "list"],
        ["stress", "--target-kb", "0"],
        ["stress", "--cycles", "0"],
        ["stress", "--cache-ttl-ms", "-1"],
        ["measure", "--rounds", "0"],
    ],
)
def test_wrong_usage_exits_2_and_touches_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLI1: what cannot be meant is refused with one message on stderr, before any file is made."""
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert_one_message(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("CLI1", "READ2")
@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "a"], ["set", "a", "{}"], ["remove", "a"], ["cleanup"], ["cleanup", "--enforce"], ["measure"]],
)
def test_a_corrupt_store_is_one_message_and_status_1(arguments: list[str], store_path: Path) -> None:
    """CLI1, READ2: no command but `doctor --repair` works on a corrupt store, or changes a byte of it."""
    store_path.write_bytes(b'{"a": {}')
    done = invoke("--store", str(store_path), *arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert_one_message(done.stderr, contains=[str(store_path), "doctor --repair"])
    assert store_path.read_bytes() == b'{"a": {}'


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("arguments", [["list"], ["set", "a", "{}"], ["cleanup"], ["doctor"], ["status"], ["measure"]])
def test_what_the_disk_refuses_is_one_message_and_status_1(arguments: list[str], tmp_path: Path) -> None:
    """CLI1: a directory in the store's place is a problem of the store, told without a traceback."""
    path = tmp_path / "directory"
    path.mkdir()
    done = invoke("--store", str(path), *arguments)
    assert done.exit_code == 1
    assert_one_message(done.stderr, contains=[str(path)])


@pytest.mark.promise("CLI1", "LOCK2")
@pytest.mark.parametrize("arguments", [["set", "a", "{}"], ["remove", "a"], ["cleanup", "--enforce"]])
def test_a_held_lock_is_told_with_its_holder(arguments: list[str], stored: Path) -> None:
    """LOCK2: a command that writes gives up after --lock-timeout, names the holder, and has written nothing."""
    before = stored.read_bytes()
    descriptor = os.open(f"{stored}.flock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        done = run("--store", str(stored), "--lock-timeout", "0", *arguments, directory=stored.parent)
    finally:
        os.close(descriptor)
    assert done.returncode == 1
    assert_one_message(
        done.stderr.decode(), contains=["for the write lock", f"held by process {os.getpid()}", "--lock-timeout"]
    )
    assert stored.read_bytes() == before


@pytest.mark.promise("CLI1")
def test_results_and_messages_do_not_mix(stored: Path) -> None:
    """CLI1: stdout has the result alone, also while a log line and an error go to stderr."""
    environ = {"OPENCLAW_SESSION_CACHE_TTL_MS": "45s"}
    done = run("--store", str(stored), "list", "--json", directory=stored.parent, environ=environ)
    assert [session["key"] for session in json.loads(done.stdout)] == ["Agent:B", "agent:a", "c"]
    assert done.stderr.decode().startswith("warning: OPENCLAW_SESSION_CACHE_TTL_MS is '45s'")
    corrupt = stored.with_name("corrupt.json")
    corrupt.touch()
    done = run("--store", str(corrupt), "status", "--json", directory=stored.parent)
    assert done.returncode == 1
    assert json.loads(done.stdout)["corrupt"] == {
        "offset": 0,
        "reason": "the file is empty (zero bytes), not an empty JSON object",
    }
    assert_one_message(done.stderr.decode(), contains=["zero bytes"])


@pytest.mark.promise("CLI1")
def test_which_store_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLI1: --store, before or after the subcommand, wins over the variable, which wins over ./sessions.json."""
    monkeypatch.chdir(tmp_path)
    for name in ("sessions", "variable", "option", "later"):
        (tmp_path / f"{name}.json").write_text(json.dumps({name: {}}))

    def listed(*arguments: str) -> str:
        (session,) = json.loads(invoke(*arguments).stdout)
        return str(session["key"])

    assert listed("list", "--json") == "sessions"
    monkeypatch.setenv("OPENCLAW_SESSION_STORE", "")
    assert listed("list", "--json") == "sessions"
    monkeypatch.setenv("OPENCLAW_SESSION_STORE", "variable.json")
    assert listed("list", "--json") == "variable"
    assert listed("--store", "option.json", "list", "--json") == "option"
    assert listed("list", "--store", "option.json", "--json") == "option"
    assert listed("--store", "option.json", "list", "--json", "--store", "later.json") == "later"


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_ascii_terminal_gets_escapes_not_a_crash(stream: str, store_path: Path) -> None:
    """CLI1: whatever a key or label holds, output can be encoded everywhere; JSON stays the same JSON."""
    store_path.write_text(json.dumps({"ключ🧵": {"label": "ü"}}, ensure_ascii=False), encoding="utf-8")
    environ = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    if stream == "stderr":
        done = run("--store", str(store_path), "show", "нет", directory=store_path.parent, environ=environ)
        assert done.returncode == 1
        assert rb"\u043d\u0435\u0442" in done.stderr
        return
    for arguments in (["list"], ["show", "КЛЮЧ🧵"], ["cleanup"], ["doctor"], ["status"]):
        done = run("--store", str(store_path), *arguments, directory=store_path.parent, environ=environ)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
        if arguments[0] == "show":
            assert json.loads(done.stdout) == {"label": "ü"}


@pytest.mark.promise("CLI1")
def test_keys_cannot_reach_the_terminal_as_commands(store_path: Path) -> None:
    """CLI1: escape sequences, line breaks and overrides in keys and labels are shown, never sent."""
    store_path.write_text(json.dumps({"a\x1b[2J\n\u202eb": {"label": "x\x9by\ttab", "updatedAt": 1e300}}))
    done = invoke("--store", str(store_path), "list")
    _heading, line = done.stdout.splitlines()
    assert line.isprintable()
    assert line.split() == ["a\\u001b[2J\\n\\u202eb", "1e+300", "47", "x\\u009by\\ttab"]
    done = invoke("--store", str(store_path), "show", "no\x1b[2Jsuch")
    assert "\x1b" not in done.stderr


def on_a_terminal(*arguments: str, directory: Path, **environ: str) -> bytes:
    """What the command writes when stdout is a terminal."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command(*arguments),
            cwd=directory,
            env=clean_environment(**{"TERM": "xterm", **environ}),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        chunks: list[bytes] = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:
            pass  # Linux says EIO when the other side of a terminal has been closed
        process.wait(TIMEOUT_S)
    finally:
        os.close(ours)
    return b"".join(chunks)


@pytest.mark.promise("CLI1")
def test_colours_are_for_terminals_without_no_color(stored: Path) -> None:
    """CLI1: a terminal gets colours, unless NO_COLOR is set; a pipe never does."""
    arguments = ("--store", str(stored), "doctor")
    assert b"\x1b[" in on_a_terminal(*arguments, directory=stored.parent)
    assert b"\x1b[" not in on_a_terminal(*arguments, directory=stored.parent, NO_COLOR="1")
    assert b"\x1b[" not in on_a_terminal(*arguments, directory=stored.parent, TERM="dumb")
    assert b"\x1b[" not in run(*arguments, directory=stored.parent).stdout


@pytest.mark.promise("CLI1")
def test_an_entry_on_a_terminal_is_the_same_json_without_controls(store_path: Path) -> None:
    """CLI1: `show` on a terminal escapes what could act there and stays valid JSON; a pipe gets the file's bytes."""
    store_path.write_text('{"a": {"x": "é\x7f\x9b\u202e🧵"}}', encoding="utf-8")
    shown = on_a_terminal("--store", str(store_path), "show", "a", directory=store_path.parent, PYTHONUTF8="1").decode()
    assert "\\u007f\\u009b\\u202e🧵" in shown
    assert json.loads(shown) == {"x": "é\x7f\x9b\u202e🧵"}
    done = run("--store", str(store_path), "show", "a", directory=store_path.parent, environ={"PYTHONUTF8": "1"})
    assert done.stdout.decode() == '{"x": "é\x7f\x9b\u202e🧵"}\n'


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("arguments", [["list"], ["status", "--json"], ["status"], ["cleanup"]])
def test_a_reader_that_goes_away_ends_the_command_quietly(arguments: list[str], store_path: Path) -> None:
    """CLI1: `sessionstore list | head` leaves no traceback."""
    store_path.write_text(json.dumps({f"session {number}": {"updatedAt": 1} for number in range(5000)}))
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            command("--store", str(store_path), *arguments),
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.promise("CLI1")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["list"], ["status", "--json"], ["status"]])
def test_output_that_cannot_be_written_is_an_error(arguments: list[str], stored: Path) -> None:
    """CLI1: a result that did not reach its file is not reported as success."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("--store", str(stored), *arguments),
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 1
    assert_one_message(done.stderr.decode(), contains=["No space left"])


@pytest.mark.promise("CLI1", "LOCK5")
def test_ctrl_c_ends_a_waiting_command_at_once(stored: Path) -> None:
    """LOCK5: interrupted while it waits for the lock, a command says so, exits 130 and leaves the store as it was."""
    before = stored.read_bytes()
    descriptor = os.open(f"{stored}.flock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    process = subprocess.Popen(
        interruptible("--store", str(stored), "--lock-timeout", "300", "set", "a", "{}"),
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until_queued(f"{stored}.flock")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        os.close(descriptor)
    assert (process.returncode, stdout, stderr) == (130, b"", b"interrupted\n")
    assert stored.read_bytes() == before


def wait_until_queued(lock_path: str) -> None:
    """Wait until a process waits for the lock, as /proc/locks tells."""
    inode = f":{os.stat(lock_path).st_ino} "
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with open("/proc/locks", encoding="ascii") as locks:
            if any(" -> " in line and inode in line for line in locks):
                return
        time.sleep(0.01)
    raise AssertionError(f"no process waited for {lock_path} within {TIMEOUT_S} s")


# --- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize(
    ("content", "status"), [(None, 0), (b"{}", 0), (b'{"a": {}, "b": {}}', 0), (b"", 1), (b"[]", 1), (b'{"a": 1}', 1)]
)
def test_status_by_either_way_is_the_same(content: bytes | None, status: int, store_path: Path) -> None:
    """CLI1: the light start and the ordinary command print the same JSON and exit alike."""
    if content is not None:
        store_path.write_bytes(content)
    light = run("--store", str(store_path), "status", "--json", directory=store_path.parent)
    # Spelled with `=`, it is not the plain form.
    full = run(f"--store={store_path}", "status", "--json", directory=store_path.parent)
    assert light.returncode == full.returncode == status
    assert light.stdout == full.stdout
    assert light.stderr == full.stderr
    told = json.loads(light.stdout)
    assert told["ok"] is (status == 0)
    assert told["exists"] is (content is not None)
    assert list(store_path.parent.glob("sessions.json.*")) == []


@pytest.mark.promise("CLI1", "SET1", "SET2", "SET3")
def test_status_tells_the_settings_in_force(stored: Path) -> None:
    """SET1, SET2, SET3: limits as the environment gives them, misread variables with what is used instead."""
    environ = {
        "OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES": " +0100 ",
        "OPENCLAW_SESSION_CACHE_TTL_MS": "45s",
        "OPENCLAW_SESSION_SERIALIZED_CACHE_MAX_BYTES": "0",
    }
    done = run("--store", str(stored), "status", "--json", directory=stored.parent, environ=environ)
    told = json.loads(done.stdout)
    assert done.returncode == 0
    assert told["settings"] == {
        **{name: getattr(Settings(), name) for name in Settings.__dataclass_fields__},
        "object_cache_max_bytes": 100,
        "serialized_cache_max_bytes": 0,
    }
    assert told["oversized"] is True
    (misread,) = told["misread_variables"]
    assert (misread["variable"], misread["value"]) == ("OPENCLAW_SESSION_CACHE_TTL_MS", "45s")
    text = run("--store", str(stored), "status", directory=stored.parent, environ=environ).stdout.decode()
    assert "more than the object cache's limit of 100\n" in text
    assert "using 45000" in text


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("size_bytes", [999, 1000, 1001])
def test_oversized_is_more_than_the_limit(size_bytes: int, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CACHE1: a file of exactly the limit is not oversized."""
    monkeypatch.setenv("OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES", "1000")
    store_path.write_bytes(b"{" + b" " * (size_bytes - 2) + b"}")
    told = json.loads(invoke("--store", str(store_path), "status", "--json").stdout)
    assert told["size_bytes"] == size_bytes
    assert told["oversized"] is (size_bytes > 1000)


@pytest.mark.promise("CLI1", "LOCK1")
def test_status_tells_who_holds_the_lock(stored: Path) -> None:
    """LOCK1: a holder is named in text and JSON, and is not a problem."""
    descriptor = os.open(f"{stored}.flock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        as_json = run("--store", str(stored), "status", "--json", directory=stored.parent)
        as_text = run("--store", str(stored), "status", directory=stored.parent)
    finally:
        os.close(descriptor)
    assert json.loads(as_json.stdout)["lock"]["holder_pid"] == os.getpid()
    assert f"held by process {os.getpid()} (" in as_text.stdout.decode()
    assert (as_json.returncode, as_text.returncode) == (0, 0)


# --- list, show, set, remove -----------------------------------------------------------------------------------------


@pytest.mark.promise("CLI1", "KEY1")
def test_list_shows_each_session_once_the_newest_first(store_path: Path) -> None:
    """KEY1: of several spellings the winning one is listed, with its time, size and label."""
    store_path.write_text(
        json.dumps({
            "none": {},
            "Key ": {"updatedAt": 1774000002000, "label": "winner"},
            "key": {"updatedAt": 1774000001000},
            "old": {"updatedAt": 1000, "label": 7},
            "bool": {"updatedAt": True},
        })
    )  # fmt: skip
    assert invoke("--store", str(store_path), "list").stdout.splitlines() == [
        "KEY   UPDATED                   BYTES  LABEL",
        "Key   2026-03-20T09:46:42.000Z     47  winner",
        "old   1970-01-01T00:00:01.000Z     31",
        "bool  -                            19",
        "none  -                             2",
    ]
    listed = json.loads(invoke("--store", str(store_path), "list", "--json").stdout)
    assert [(one["key"], one["updatedAt"], one["sizeBytes"], one["label"]) for one in listed] == [
        ("Key ", 1774000002000, 47, "winner"),
        ("old", 1000, 31, 7),
        ("bool", None, 19, None),
        ("none", None, 2, None),
    ]


@pytest.mark.promise("CLI1")
def test_a_missing_store_is_listed_as_empty_and_not_created(store_path: Path) -> None:
    """CLI1: reading a store that is not there yet succeeds and makes no file."""
    assert invoke("--store", str(store_path), "list", "--json").stdout == "[]\n"
    listed = invoke("--store", str(store_path), "list")
    assert listed.stdout == "KEY  UPDATED  BYTES  LABEL\n"
    assert listed.stderr == f"{store_path}: there is no file, so there are no sessions\n"
    assert invoke("--store", str(store_path), "cleanup", "--enforce").stdout == "nothing to do\n"
    assert list(store_path.parent.iterdir()) == []


@pytest.mark.promise("CLI1", "KEY1", "WRITE7")
def test_show_prints_an_entry_as_it_is_spelled(stored: Path) -> None:
    """KEY1, WRITE7: a key is looked up in any spelling, and numbers are shown as they stand in the file."""
    done = invoke("--store", str(stored), "show", " AGENT:a\n")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == '{\n  "updatedAt": 1774000000000,\n  "label": "first",\n  "n": 1e2\n}\n'


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("verb", ["show", "remove"])
def test_a_session_that_is_not_there_is_status_1(verb: str, stored: Path) -> None:
    """CLI1: the message names the key and how to see the keys; nothing is written."""
    before = stored.stat().st_mtime_ns
    done = invoke("--store", str(stored), verb, "nobody")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert_one_message(done.stderr, contains=["no session 'nobody'", "list"])
    assert stored.stat().st_mtime_ns == before


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("verb", ["show", "remove"])
def test_a_mistyped_path_is_told_and_nothing_is_made_there(verb: str, tmp_path: Path) -> None:
    """CLI1: without a file the message says so, and neither directories nor a lock file come into being."""
    mistyped = tmp_path / "mistyped" / "sessions.json"
    done = invoke("--store", str(mistyped), verb, "nobody")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert_one_message(done.stderr, contains=[str(mistyped), "there is no file", "'nobody'"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize(
    "arguments", [["set", "a", "{}"], ["remove", "a"], ["cleanup", "--enforce"], ["doctor", "--repair"]]
)
def test_what_is_no_regular_file_gets_no_lock_file(arguments: list[str], tmp_path: Path) -> None:
    """CLI1: a pipe (or a device) in the store's place is refused before anything is made beside it."""
    pipe = tmp_path / "sessions.json"
    os.mkfifo(pipe)
    done = invoke("--store", str(pipe), *arguments)
    assert done.exit_code == 1
    assert_one_message(done.stderr, contains=["not a regular file"])
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.promise("CLI1", "KEY1")
def test_an_empty_key_of_another_program_is_shown_and_can_be_removed(store_path: Path) -> None:
    """KEY1: this command makes no empty key, but takes one that is there for what it is."""
    store_path.write_bytes(b'{"": {"n": 1}, "a": {}}')
    assert '""  ' in invoke("--store", str(store_path), "list").stdout
    assert invoke("--store", str(store_path), "show", "").stdout == '{"n": 1}\n'
    assert invoke("--store", str(store_path), "remove", "").stdout == 'removed ""\n'
    assert list(SessionStore(store_path).load()) == ["a"]


@pytest.mark.promise("CLI1")
def test_set_takes_a_byte_order_mark_from_stdin(stored: Path) -> None:
    """CLI1: one at the beginning is no part of the entry, as in a store file; a second one is refused."""
    mark = "\ufeff".encode()
    done = invoke("--store", str(stored), "set", "new", "-", stdin=mark + b'{"n": 1}')
    assert (done.exit_code, SessionStore(stored).read("new")) == (0, {"n": 1})
    assert invoke("--store", str(stored), "set", "new", "-", stdin=mark + mark + b"{}").exit_code == 2


@pytest.mark.promise("CLI1", "KEY1", "WRITE7")
def test_set_replaces_one_whole_entry(stored: Path) -> None:
    """WRITE7: the entry is what was given, under its normalised key; others keep their bytes."""
    before = stored.read_bytes()
    done = invoke("--store", str(stored), "set", " agent:B ", '{"n": 12345678901234567890123, "label": "ü\\ud800"}')
    assert (done.exit_code, done.stdout) == (0, "replaced agent:b\n")
    entry = b'{\n    "n": 12345678901234567890123,\n    "label": "\xc3\xbc\\ud800"\n  }'
    old = b'"Agent:B": {\n    "updatedAt": 1774000001500\n  }'
    assert stored.read_bytes() == before.replace(old, b'"agent:b": ' + entry)
    again = invoke("--store", str(stored), "set", "agent:b", '{"n": 12345678901234567890123, "label": "ü\\ud800"}')
    assert (again.exit_code, again.stdout) == (0, "unchanged agent:b\n")
    new = invoke("--store", str(stored), "set", "new", "-", stdin=b'{"from": "stdin"}\n')
    assert (new.exit_code, new.stdout) == (0, "created new\n")
    assert SessionStore(stored).read("new") == {"from": "stdin"}


@pytest.mark.promise("CLI1")
@pytest.mark.parametrize("stdin", [b"", b"\xff", b"{}{}"])
def test_set_refuses_what_stdin_cannot_mean(stdin: bytes, stored: Path) -> None:
    """CLI1: an entry read from stdin is judged as one on the command line."""
    done = invoke("--store", str(stored), "set", "a", "-", stdin=stdin)
    assert done.exit_code == 2
    assert_one_message(done.stderr, contains=["Invalid value for JSON"])


@pytest.mark.promise("MAINT1")
def test_set_never_loses_the_session_it_sets(store_path: Path) -> None:
    """MAINT1: an entry as old as it is given stays, and adding it mentions that maintenance is due."""
    store_path.write_text(json.dumps({"old": {"updatedAt": 1}}))
    done = invoke("--store", str(store_path), "set", "ancient", '{"updatedAt": 2}')
    assert done.exit_code == 0
    assert set(SessionStore(store_path).load()) == {"old", "ancient"}
    # One, not two: the session that is being written for is not among those to be removed.
    assert "maintenance is due" in done.stderr
    assert "remove 1 entry older than 30 days" in done.stderr


@pytest.mark.promise("CLI1")
def test_a_change_that_adds_nothing_does_not_mention_maintenance(store_path: Path) -> None:
    """CLI1: replacing or removing a session says what was done, and not each time that maintenance is due."""
    store_path.write_text(json.dumps({"old": {"updatedAt": 1}, "older": {"updatedAt": 0}}))
    for words in (["set", "old", '{"updatedAt": 2}'], ["set", "old", '{"updatedAt": 2}'], ["remove", "old"]):
        done = invoke("--store", str(store_path), *words)
        assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.promise("CLI1", "KEY1")
def test_remove_takes_out_all_spellings(store_path: Path) -> None:
    """KEY1: removing a session removes every spelling of its key and nothing else."""
    store_path.write_text(json.dumps({"A": {}, "b": {}, "a": {}, " a": {}}))
    done = invoke("--store", str(store_path), "remove", "a")
    assert (done.exit_code, done.stdout) == (0, "removed a\n")
    assert list(SessionStore(store_path).load()) == ["b"]


# --- cleanup ---------------------------------------------------------------------------------------------------------


def aged_store(path: Path, *, sessions: int = 510) -> None:
    """A store with one session of last year, one without a time, and the others from today."""
    now_ms = time.time_ns() // 1_000_000
    content: dict[str, object] = {f"s{number:04}": {"updatedAt": now_ms - number} for number in range(sessions)}
    path.write_text(json.dumps({"old": {"updatedAt": now_ms - 365 * DAY_MS}, "timeless": {}, **content}))


@pytest.mark.promise("MAINT1", "CLI1")
def test_cleanup_shows_what_it_would_do_and_then_does_exactly_that(store_path: Path) -> None:
    """MAINT1: without --enforce nothing changes; with it, what was announced is gone and everything else is there."""
    aged_store(store_path)
    before = store_path.read_bytes()
    shown = invoke("--store", str(store_path), "cleanup")
    assert shown.exit_code == 0
    assert store_path.read_bytes() == before
    assert list(store_path.parent.iterdir()) == [store_path]
    expected = ["old", *(f"s{number:04}" for number in range(499, 510))]
    announced = [line.split()[2].rstrip(":") for line in shown.stdout.splitlines()[:-1]]
    assert sorted(announced) == expected
    assert shown.stdout.splitlines()[-1] == "would remove 12 sessions; --enforce does it"

    done = invoke("--store", str(store_path), "cleanup", "--enforce")
    assert done.exit_code == 0
    assert [line.replace("would remove", "removed") for line in shown.stdout.splitlines()[:-1]] == (
        done.stdout.splitlines()[:-1]
    )
    left = SessionStore(store_path).load()
    assert len(left) == 500
    assert not set(expected) & set(left)
    assert "timeless" in left
    assert invoke("--store", str(store_path), "cleanup", "--enforce").stdout == "nothing to do\n"


@pytest.mark.promise("MAINT2")
@pytest.mark.parametrize("old_sessions", [0, 1])
def test_cleanup_backs_up_a_large_file_before_it_touches_it(old_sessions: int, store_path: Path) -> None:
    """MAINT2: a file over 10 MiB is copied with all its bytes, whether or not entries are removed; three are kept."""
    content = {f"old{number}": {"updatedAt": 1} for number in range(old_sessions)}
    store_path.write_text(json.dumps({**content, "big": {"text": "x" * 10_500_000}}))
    store_path.chmod(0o640)
    before = store_path.read_bytes()
    shown = invoke("--store", str(store_path), "cleanup")
    assert "would back up the file" in shown.stdout
    assert list(store_path.parent.glob("*.bak.*")) == []
    done = invoke("--store", str(store_path), "cleanup", "--enforce")
    assert done.exit_code == 0
    (backup,) = store_path.parent.glob("*.bak.*")
    assert f"backup: {backup}" in done.stdout
    assert backup.read_bytes() == before
    assert backup.stat().st_mode & 0o777 == 0o640
    assert list(SessionStore(store_path).load()) == ["big"]
    for _ in range(4):
        invoke("--store", str(store_path), "cleanup", "--enforce")
    assert len(list(store_path.parent.glob("*.bak.*"))) == 3


@pytest.mark.promise("MAINT1")
def test_cleanup_decides_by_what_is_there_under_the_lock(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAINT1: a session that is updated between the look and the lock is not removed."""
    aged_store(store_path, sessions=1)
    original = SessionStore.edit
    touched: list[None] = []

    def edit_later(self: SessionStore, **options: object) -> object:
        if not touched:
            touched.append(None)
            now_ms = time.time_ns() // 1_000_000
            SessionStore(store_path).update(lambda draft: draft["old"].update(updatedAt=now_ms))
        return original(self, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionStore, "edit", edit_later)
    done = invoke("--store", str(store_path), "cleanup", "--enforce")
    assert (done.exit_code, done.stdout) == (0, "nothing to do\n")
    assert "old" in SessionStore(store_path).load()


# --- text ------------------------------------------------------------------------------------------------------------


class _Terminal(io.StringIO):
    """A terminal of a given encoding."""

    def __init__(self, encoding: str | None = "utf-8", *, terminal: bool = True) -> None:
        super().__init__()
        self._encoding = encoding
        self._terminal = terminal

    @property
    def encoding(self) -> str | None:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 🧵", "plain ü 🧵"),
        ("\x1b[2J\x00\x7f", r"\u001b[2J\u0000\u007f"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\u202e\u2028\ufeff", r"\u202e\u2028\ufeff"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\udb40\udc01"),
    ],
)
def test_what_is_not_printable_is_shown_as_an_escape(text: str, shown: str) -> None:
    """One line of text stays one line and moves nothing on a terminal."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        (_Terminal(terminal=False), '{\n  "é\x7f\u202e🧵": 1\n}'),
        (_Terminal("UTF8"), '{\n  "é\\u007f\\u202e🧵": 1\n}'),
        (_Terminal("ascii", terminal=False), '{\n  "\\u00e9\\u007f\\u202e\\ud83e\\uddf5": 1\n}'),
        (_Terminal("latin-1"), '{\n  "\\u00e9\\u007f\\u202e\\ud83e\\uddf5": 1\n}'),
        (_Terminal(None), '{\n  "\\u00e9\\u007f\\u202e\\ud83e\\uddf5": 1\n}'),
    ],
)
def test_json_for_any_stream_is_the_same_json(stream: _Terminal, shown: str) -> None:
    """Escaped for the stream or not, the value is the same."""
    text = '{\n  "é\x7f\u202e🧵": 1\n}'
    assert json_text(text, stream) == shown
    assert json.loads(json_text(text, stream)) == json.loads(text)


def test_columns_of_a_table_line_up() -> None:
    """Each column is as wide as its widest cell; no line ends in blanks."""
    assert table(("A", "LONG"), [("x", "1"), ("yyy", "")], right=frozenset({"LONG"})) == [
        "A    LONG",
        "x       1",
        "yyy",
    ]


def test_progress_moves_on_a_terminal_and_clears_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets one line that disappears at the end; elsewhere there are whole lines, and few."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    now_ns = [0]
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns[0])
    for stream, expected in (
        (_Terminal(), "\r\x1b[Kwork: 3 of 9\r\x1b[Kwork: 6 of 9\r\x1b[K"),
        (_Terminal(terminal=False), "work: 6 of 9\n"),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        with Progress("work") as progress:
            for done, step_ns in ((1, 0), (3, 1_000_000_000), (4, 1_000), (6, 6_000_000_000)):
                now_ns[0] += step_ns
                progress.show(done, 9)
        assert stream.getvalue() == expected


def test_decoration_needs_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR counts if it is not empty (https://no-color.org)."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    assert is_decorated(_Terminal())
    assert not is_decorated(_Terminal(terminal=False))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_decorated(_Terminal())


def test_an_interrupt_of_any_command_is_status_130(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is neither success nor a problem of the store."""

    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(SessionStore, "load", interrupt)
    done = invoke("--store", str(stored), "list")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")
