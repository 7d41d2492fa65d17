"""Recording, merging and reading histories: what a run did survives kills, and nothing broken passes as a history."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import multiprocess
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storecheck import history as histories
from storecheck.history import Call, FileRecorder, History, HistoryError, Json, Operation, Recorder, merge, parse

JOIN_TIMEOUT_S = 60.0

HEADER = b'{"format":"storecheck-history","version":1}\n'
INVOKE = b'{"event":"invoke","at":5,"process":"p","id":0,"task":"t","operation":"read","argument":null}\n'
RETURNED = b'{"event":"returned","at":7,"process":"p","id":0,"result":3}\n'

json_values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)


def _read(*, invoked_at: int, responded_at: int, result: Json) -> Operation:
    return Operation(
        process="p",
        task="t",
        identifier=0,
        call=Call(name="read", result=result),
        invoked_at=invoked_at,
        responded_at=responded_at,
    )


class TestRecording:
    """What one process writes."""

    def test_outcomes_are_recorded_with_stamps_task_and_error(self, tmp_path: Path) -> None:
        """Results, errors, unknown outcomes and missing responses come back as they were recorded."""
        clock = iter(range(100, 200))
        with FileRecorder(tmp_path / "a", process="writer", clock=lambda: next(clock)) as recorder:
            recorder.returned(recorder.invoke("read", ["k"], task="one"), {"n": 1})
            recorder.raised(recorder.invoke("write", 2), "LockTimeoutError: waited 10 s")
            recorder.unknown(recorder.invoke("write", 3), "EIO after the rename")
            recorder.invoke("write", 4)
        read, refused, unknown, killed = merge([tmp_path / "a"]).operations
        assert read == Operation(
            process="writer",
            task="one",
            identifier=0,
            call=Call(name="read", argument=["k"], result={"n": 1}),
            invoked_at=100,
            responded_at=101,
        )
        assert (refused.call.outcome, refused.call.error) == ("raised", "LockTimeoutError: waited 10 s")
        assert refused.task == "MainThread"
        assert (unknown.call.outcome, unknown.responded_at) == ("unknown", 105)
        assert (killed.call.outcome, killed.responded_at) == ("unknown", None)

    def test_two_recorders_never_share_a_file(self, tmp_path: Path) -> None:
        """A second recorder on the same path is refused instead of mixing up operations."""
        with FileRecorder(tmp_path / "a"), pytest.raises(FileExistsError):
            FileRecorder(tmp_path / "a")

    def test_every_event_is_in_the_file_before_the_call_returns(self, tmp_path: Path) -> None:
        """An event is the kernel's before the operation goes on, so that a kill cannot lose it."""
        with FileRecorder(tmp_path / "a") as recorder:
            for expected in range(1, 4):
                recorder.invoke("write", expected)
                assert len(merge([tmp_path / "a"]).operations) == expected

    def test_a_forked_child_is_refused(self, tmp_path: Path) -> None:
        """A fork must open its own file: its numbers would collide with its parent's."""
        with FileRecorder(tmp_path / "a") as recorder:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    recorder.invoke("write", 1)
                except HistoryError:
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
        assert merge([tmp_path / "a"]).operations == ()

    def test_a_value_that_is_no_json_is_refused_at_once(self) -> None:
        """What cannot be written down is an error of the caller, where it happens."""
        lines: list[bytes] = []
        recorder = Recorder(lines.append, process="p")
        with pytest.raises(ValueError, match="Out of range"):
            recorder.invoke("write", float("nan"))

    def test_a_full_disk_is_not_mistaken_for_a_record(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A short write of an event is an error that names the file."""
        monkeypatch.setattr(histories, "_write", lambda _descriptor, line: len(line) - 1)
        with pytest.raises(HistoryError, match="only 43 of 44 bytes"):
            FileRecorder(tmp_path / "a")


def _record_until_killed(path: str, turns: int) -> None:
    with FileRecorder(path, process=Path(path).name) as recorder:
        for turn in range(turns):
            recorder.returned(recorder.invoke("write", turn), None)
        recorder.invoke("write", "last")
        os.kill(os.getpid(), signal.SIGKILL)


class TestMerging:
    """What the files of a run say together."""

    def test_killed_processes_leave_operations_of_unknown_outcome(self, tmp_path: Path) -> None:
        """After SIGKILL everything recorded is there, and exactly the open operation is pending."""
        context = multiprocess.get_context("forkserver")
        before = time.monotonic_ns()
        children = [
            context.Process(target=_record_until_killed, args=(str(tmp_path / f"p{number}"), 20), daemon=True)
            for number in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(JOIN_TIMEOUT_S)
            assert child.exitcode == -signal.SIGKILL
        history = merge(sorted(tmp_path.iterdir()))
        stamps = [operation.invoked_at for operation in history.operations]
        assert stamps == sorted(stamps)
        assert before < stamps[0]
        assert stamps[-1] < time.monotonic_ns()
        assert sorted(operation.process for operation in history.pending) == ["p0", "p1"]
        assert len(history.operations) == 42

    def test_operations_of_all_files_are_ordered_by_invocation(self, tmp_path: Path) -> None:
        """The merged order is the order of the stamps, whatever the order of the files; numbers may repeat."""
        for name, stamps in (("a", [1, 6, 9, 12]), ("b", [2, 3, 4, 5])):
            clock = iter(stamps)
            with FileRecorder(tmp_path / name, process=name, clock=clock.__next__) as recorder:
                for _ in range(2):
                    recorder.returned(recorder.invoke("read"))
        history = merge([tmp_path / "b", tmp_path / "a"])
        assert [(each.process, each.invoked_at) for each in history.operations] == [
            ("a", 1),
            ("b", 2),
            ("b", 4),
            ("a", 9),
        ]

    @pytest.mark.parametrize("cut", range(len(HEADER), len(HEADER + INVOKE + RETURNED) + 1))
    def test_any_cut_of_a_file_is_a_history(self, cut: int) -> None:
        """Wherever a kill cuts a file, the whole lines count and the torn one is reported with file, line and size."""
        content = (HEADER + INVOKE + RETURNED)[:cut]
        history = parse(content, source="p.jsonl")
        lines, tail = content.count(b"\n"), content.rpartition(b"\n")[2]
        complete = tail.endswith(b"}")  # only the line end is missing
        assert len(history.operations) == (lines + complete >= 2)
        assert len(history.pending) == (lines + complete == 2)
        if tail and not complete:
            (torn,) = history.torn
            assert (torn.source, torn.line, torn.size_bytes) == ("p.jsonl", lines + 1, len(tail))
        else:
            assert history.torn == ()

    @pytest.mark.parametrize("content", [b"", HEADER[:-5]])
    def test_a_process_killed_before_its_first_line_is_reported(self, content: bytes) -> None:
        """An empty file, or a torn header, is a torn tail and no error."""
        history = parse(content, source="p.jsonl")
        assert history.operations == ()
        assert [torn.line for torn in history.torn] == [1]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (HEADER + b"{torn\n" + INVOKE, "p.jsonl:2 is not JSON"),
            (HEADER + INVOKE + b"{torn\n", "p.jsonl:3 is not JSON"),
            (HEADER + INVOKE[:-1] + INVOKE, "p.jsonl:2 is not JSON"),
            (HEADER + b"7\n", "p.jsonl:2 is not an object"),
            (HEADER + b"7", "p.jsonl:2 is not an object"),
            (INVOKE, "p.jsonl:1 is not the header"),
            (b'{"format":"storecheck-history","version":2}\n', "p.jsonl:1 has an unknown header"),
            (HEADER + INVOKE.replace(b"invoke", b"begin"), "p.jsonl:2 has the unknown event 'begin'"),
            (HEADER + INVOKE.replace(b'"at":5,', b""), "p.jsonl:2 has no valid 'at': None"),
            (HEADER + INVOKE.replace(b'"at":5', b'"at":true'), "p.jsonl:2 has no valid 'at': True"),
            (HEADER + INVOKE.replace(b'"t"', b"9"), "p.jsonl:2 has no valid 'task': 9"),
            (HEADER + INVOKE + INVOKE, "p.jsonl:3 invokes operation 0 of process p again"),
            (HEADER + RETURNED, "p.jsonl:2 answers operation 0 of process p, which was never invoked"),
            (HEADER + INVOKE + RETURNED + RETURNED, "p.jsonl:4 answers operation 0 of process p again"),
            (HEADER + INVOKE + RETURNED.replace(b"7", b"4"), "p.jsonl:3 answers operation 0 of process p at 4, before"),
        ],
    )
    def test_anything_else_malformed_names_file_and_line(self, content: bytes, message: str) -> None:
        """Only a torn last line is tolerated; every other damage is an error that says where."""
        with pytest.raises(HistoryError) as caught:
            parse(content, source="p.jsonl")
        assert str(caught.value).startswith(message)

    @given(values=st.lists(st.tuples(json_values, json_values), max_size=4))
    def test_a_history_survives_its_own_format(self, values: Sequence[tuple[Json, Json]]) -> None:
        """Any JSON values, as arguments and results, come back equal from the lines of a history."""
        operations = tuple(
            Operation(
                process="p",
                task="t",
                identifier=number,
                call=Call(name="write", argument=argument, result=result),
                invoked_at=number * 2,
                responded_at=number * 2 + 1,
            )
            for number, (argument, result) in enumerate(values)
        )
        content = "".join(f"{line}\n" for line in History(operations=operations).lines())
        assert parse(content.encode(), source="again").operations == operations

    def test_operations_with_the_same_number_stay_apart_when_written(self, tmp_path: Path) -> None:
        """A history merged from several files can be written as one file."""
        history = History(
            operations=(_read(invoked_at=1, responded_at=4, result=1), _read(invoked_at=2, responded_at=3, result=2))
        )
        (tmp_path / "one").write_text("".join(f"{line}\n" for line in history.lines()))
        again = merge([tmp_path / "one"])
        assert [each.call.result for each in again.operations] == [1, 2]
        assert [each.responded_at for each in again.operations] == [4, 3]


class TestForeignLogs:
    """Histories in the formats of Jepsen and porcupine."""

    def test_a_jepsen_register_log_is_read(self) -> None:
        """Answers, refusals, timeouts and open operations of a Jepsen log get the outcome that they stand for."""
        log = """\
INFO  jepsen.core - Worker 4 starting
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:invoke\t:cas\t[4 2]
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 0\t:ok\t:read\tnil
INFO  jepsen.util - 1\t:fail\t:cas\t[4 2]
INFO  jepsen.util - 0\t:invoke\t:cas\t[0 1]
INFO  jepsen.util - 1\t:invoke\t:write\t3
INFO  jepsen.util - 1\t:ok\t:write\t3
INFO  jepsen.util - 0\t:ok\t:cas\t[0 1]
INFO  jepsen.util - 0\t:invoke\t:write\t2
INFO  jepsen.util - 1\t:invoke\t:read\tnil
INFO  jepsen.util - 0\t:info\t:write\t:timed-out
INFO  jepsen.util - 1\t:fail\t:read\t:timed-out
INFO  jepsen.util - 5\t:invoke\t:cas\t[1 1]
INFO  jepsen.util - 1\t:invoke\t:write\t4
INFO  jepsen.util - 1\t:fail\t:write\t4
"""
        operations = histories.from_jepsen_edn_lines(log.splitlines()).operations
        assert [(each.invoked_at, each.responded_at, str(each.call)) for each in operations] == [
            (2, 5, "read() -> None"),
            (3, 6, "cas(4, 2) -> False"),
            (7, 10, "cas(0, 1) -> True"),
            (8, 9, "write(3) -> None"),
            (11, 13, "write(2) unknown: :timed-out"),
            (12, 14, "read() raised: :timed-out"),
            (15, None, "cas(1, 1) unknown"),
            (16, 17, "write(4) raised: 4"),
        ]

    def test_newer_jepsen_lines_and_edn_maps_mean_the_same(self) -> None:
        """Stamped log lines and EDN maps are read like the old log."""
        lines = [
            "2020-01-01 00:00:00,000{GMT}\tINFO\t[jepsen worker 3] jepsen.util: 3\t:invoke\t:write\t1",
            "INFO [2018-02-02 09:25:52,583] jepsen worker 3 - jepsen.util 3\t:ok\t:write\t1",
            "{:process 4, :type :invoke, :f :cas, :value [1 2], :index 7}",
            "{:process 4, :type :fail, :f :cas, :value [1 2], :error :duplicate-key}",
            "#jepsen.history.Op{:process 4, :type :invoke, :f :cas, :value [1 2]}",
            "{:process :nemesis, :type :info, :f :kill, :value nil}",
            "{:type :fail :process 4 :f :cas :value [1 2]}",
        ]
        operations = histories.from_jepsen_edn_lines(lines).operations
        assert [str(each.call) for each in operations] == [
            "write(1) -> None",
            "cas(1, 2) raised: :duplicate-key",
            "cas(1, 2) -> False",
        ]

    def test_a_porcupine_key_value_log_is_read(self) -> None:
        """Puts, appends and gets of porcupine's logs get their key; an absent value is the empty string."""
        lines = [
            '{:process 0, :type :invoke, :f :put, :key "0", :value "x \\"0\\" y"}',
            '{:process 1, :type :invoke, :f :get, :key "0", :value nil}',
            '{:process 0, :type :ok, :f :put, :key "0", :value "x \\"0\\" y"}',
            '{:process 1, :type :ok, :f :get, :key "0", :value nil}',
            '{:process 0, :type :invoke, :f :append, :key "0", :value "x"}',
        ]
        operations = histories.from_porcupine_kv_lines(lines).operations
        assert [(each.call.name, each.call.argument, each.call.result, each.call.outcome) for each in operations] == [
            ("put", ["0", 'x "0" y'], None, "returned"),
            ("get", ["0"], "", "returned"),
            ("append", ["0", "x"], None, "unknown"),
        ]

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["nothing here"], "log: no operation found"),
            (["INFO  jepsen.util - 0\t:ok\t:read\t3"], "log:1 answers 'read' of process 0, which has no such"),
            (
                ["INFO  jepsen.util - 0\t:invoke\t:write\t3", "INFO  jepsen.util - 0\t:ok\t:read\t3"],
                "log:2 answers 'read' of process 0, which has no such",
            ),
            (["", "{:process 0, :type :invoke, :f :cas, :value [1"], "log:2 ends inside a value"),
            (["{:process 0, :type :invoke, :f :cas, :value }"], "log:1 has a map with a key without a value"),
            (["{:process 0, :type :perhaps, :f :read, :value nil}"], "log:1 has the unknown :type 'perhaps'"),
            (["{:process 0, :f :read, :value nil}"], "log:1 has no :type"),
        ],
    )
    def test_an_unreadable_log_names_its_line(self, lines: list[str], message: str) -> None:
        """A log that cannot be understood is an error that says where, never a shorter history."""
        with pytest.raises(HistoryError) as caught:
            histories.from_jepsen_edn_lines(lines, source="log")
        assert str(caught.value).startswith(message)

    def test_a_key_value_line_needs_a_key(self) -> None:
        """A key-value log without keys is refused."""
        with pytest.raises(HistoryError, match="log:1 has no :key"):
            histories.from_porcupine_kv_lines(["{:process 0, :type :invoke, :f :get, :value nil}"], source="log")
