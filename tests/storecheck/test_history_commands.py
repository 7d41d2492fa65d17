"""`storecheck check-history`: the verdict on recorded histories, whoever recorded them.

Goal: logs of Jepsen and of porcupine's kind are read as they are, and judged right. Method: small logs written out here
line by line, with all that real ones hold, and the benchmark's histories of full size written in both formats.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.linearizability import write_logs
from storecheck.cli import main
from storecheck.history import FileRecorder


def check_history(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["check-history", *map(str, arguments)])


def log(path: Path, *lines: str) -> Path:
    """A log of these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


JEPSEN = (
    "INFO  jepsen.core - Worker 0 starting",
    "INFO  jepsen.util - 0\t:invoke\t:read\tnil",
    "INFO  jepsen.util - 0\t:ok\t:read\tnil",
    "INFO  jepsen.util - :nemesis\t:info\t:start\tnil",
    "INFO  jepsen.util - 1\t:invoke\t:write\t3",
    "INFO  jepsen.util - 2\t:invoke\t:cas\t[3 4]",
    "INFO  jepsen.util - 1\t:info\t:write\t:timed-out",
    "INFO  jepsen.util - 0\t:invoke\t:cas\t[1 2]",
    "INFO  jepsen.util - 0\t:fail\t:cas\t[1 2]",
    "INFO  jepsen.util - 2\t:ok\t:cas\t[3 4]",
    "INFO  jepsen.util - 0\t:invoke\t:read\tnil",
    "INFO  jepsen.util - 0\t:fail\t:read\t:timed-out",
    "INFO  jepsen.util - 6\t:invoke\t:read\tnil",
)
"""A register, with timeouts whose client goes on under another name. What reads 4 last is right, 3 is not."""


@pytest.mark.parametrize(("read", "status"), [("4", "ok"), ("3", "illegal"), ("nil", "illegal")])
def test_a_log_of_jepsen_is_judged(read: str, status: str, tmp_path: Path) -> None:
    """A write that timed out may explain what follows; a failed compare-and-swap saw another value."""
    done = check_history(log(tmp_path / "etcd.log", *JEPSEN, f"INFO  jepsen.util - 6\t:ok\t:read\t{read}"))
    assert done.exit_code == (status == "illegal"), done.output
    assert f"etcd.log: {status}: 6 operations against a register" in done.output
    assert "4 processes, 1 of unknown outcome" in done.output
    if status == "illegal":
        shown = "None" if read == "nil" else read
        assert f"first operation that does not fit: 6/6 read() -> {shown} [13..14]" in done.output


def test_what_follows_a_value_is_passed_over(tmp_path: Path) -> None:
    """Some logs have further fields after the value, and blanks beside the tabs."""
    lines = (
        "INFO  jepsen.util - 10 \t:invoke :write \t29 \t:hint 0",
        "INFO  jepsen.util - 1 \t:invoke :read \tnil \t:hint 0",
        "INFO  jepsen.util - 10 \t:ok :write \t29 \t:hint 5914",
        "INFO  jepsen.util - 1 \t:ok :read \t29 \t:hint 5914",
    )
    done = check_history(log(tmp_path / "log", *lines))
    assert (done.exit_code, "ok: 2 operations" in done.output) == (0, True), done.output


def maps(*events: tuple[int, str, str, str, str | None]) -> list[str]:
    """EDN maps of (process, type, operation, key, value)."""
    return [
        f'{{:process {process}, :type :{kind}, :f :{name}, :key "{key}", :value '
        + ("nil}" if value is None else f'"{value}"}}')
        for process, kind, name, key, value in events
    ]


def test_a_key_value_log_is_judged(tmp_path: Path) -> None:
    """An acknowledged append that a later get does not show makes the history illegal, and is shown with its key."""
    before = maps(
        (0, "invoke", "append", "7", "x 0 0 y"),
        (1, "invoke", "get", "7", None),
        (0, "ok", "append", "7", "x 0 0 y"),
        (1, "ok", "get", "7", ""),
        (2, "invoke", "put", "8", "x 2 0 y"),
        (0, "invoke", "append", "7", "x 0 1 y"),
        (0, "ok", "append", "7", "x 0 1 y"),
        (1, "invoke", "get", "7", None),
    )
    for number, (read, status) in enumerate([("x 0 0 yx 0 1 y", "ok"), ("x 0 0 y", "illegal"), ("", "illegal")]):
        path = log(tmp_path / f"{number}.edn", *before, *maps((1, "ok", "get", "7", read)))
        done = check_history(path)
        assert f"{status}: 5 operations against a key-value store" in done.output
        assert done.exit_code == (status == "illegal")
        assert ("longest order that fits on '7' (3 operations)" in done.output) == (status == "illegal"), done.output
        assert ("these answers cannot all be true, whatever" in done.output) == (status == "illegal"), done.output


def test_histories_of_full_size_get_the_verdict_they_were_made_for(tmp_path: Path) -> None:
    """Registers and key-value stores of 50 clients, written as logs: legal, with a stale read, and cut off."""
    for path in write_logs(tmp_path, histories=2):
        done = check_history("--brief", path)
        if "legal" in path.name:
            assert ": ok: " in done.output, done.output
        elif path.name.startswith("key-value"):
            assert ": illegal: " in done.output, done.output
        assert len(done.output.splitlines()) == 1
        assert done.exit_code in (0, 1)


def test_parts_of_one_history_are_merged(tmp_path: Path) -> None:
    """What one process recorded fits alone; together with another's it does not."""
    ticks = iter(range(100))
    with (
        FileRecorder(tmp_path / "one", process="P1", clock=lambda: next(ticks)) as one,
        FileRecorder(tmp_path / "two", process="P2", clock=lambda: next(ticks)) as two,
    ):
        one.returned(one.invoke("write", 1, task="main"))
        two.returned(two.invoke("read", task="main"), None)
    assert check_history(tmp_path / "one", tmp_path / "two").exit_code == 0
    merged = check_history("--merge", tmp_path / "one", tmp_path / "two")
    assert merged.exit_code == 1
    assert "first operation that does not fit: P2/main read() -> None" in merged.output


def test_giving_up_is_not_a_verdict(tmp_path: Path) -> None:
    """A history that exceeds the cap is undecided, which has a status of its own."""
    done = check_history("--cap", 1, log(tmp_path / "log", *JEPSEN))
    assert (done.exit_code, "undecided" in done.output) == (3, True), done.output


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["nothing", "of interest"], "no event in the first"),
        (['{:process 0, :type :ok, :f :get, :key "1", :value "x"}'], "bad:1 answers 'get' of process 0"),
        (["INFO  jepsen.util - 0\t:invoke\t:increment\t3"], "(increment) fit no known object. Give --object"),
    ],
)
def test_what_cannot_be_judged_is_a_usage_error(lines: list[str], said: str, tmp_path: Path) -> None:
    """The message names file and line, or says which option helps."""
    done = check_history(log(tmp_path / "bad", *lines))
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")


def test_logs_of_others_are_not_merged(tmp_path: Path) -> None:
    """Their stamps are line numbers, which say nothing across files."""
    paths = [log(tmp_path / name, *JEPSEN) for name in ("one", "two")]
    done = check_history("--merge", *paths)
    assert (done.exit_code, "only histories of storecheck's own" in done.output) == (2, True)
