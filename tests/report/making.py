"""Makes the golden documents: runs the verifier on the store with planted bugs and keeps what it reports.

`python -m tests.report.making` writes `golden/<name>.json`, each a run document with one failing example, and
`golden/<name>.counterexample.json`. `CASES` are programs that are explored; `FAILING_TESTS` are tests of this project
that are run with a planted bug, as `pytest --mutant` does. Run it when the store, the bugs or the document change. A
bug that is not found is an error: nothing here is written by hand.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.mutants import mutant_by_id
from models.promises import PROMISES
from storecheck import MachineParameters, Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.counterexample import Counterexample, from_failure
from storecheck.explore import explore, sizes_of
from storecheck.program import Json, ProcessProgram
from storecheck.report import crashes
from storecheck.report.document import Run, Shard, dumps, load
from storecheck.report.examples import FAILURES_DIRECTORY, Origin, crash_example_of, example_of, placed
from tests.report.subject import FILE, explained

GOLDEN = Path(__file__).parent / "golden"
ADAPTER = "tests.report.subject:Gateway"
CHECK = "tests.report.subject:explained"
PLANTED = "tests.report.subject:planted"
MAX_EXECUTIONS = 3_000
TEST_TIMEOUT_S = 600

START: dict[str, Json] = {"agent:main": {"model": "opus", "lastHeartbeatText": "ok", "totalTokens": 1204}}
HUGE: dict[str, Json] = {"agent:main": {"model": "opus", "totalTokens": 12345678901234567890123}}


def op(name: str, **arguments: Json) -> Operation:
    """An operation of `Gateway`."""
    return Operation(name, arguments)


def set_(field: str, value: Json, *, name: str = "set") -> Operation:
    """Set a field of the main session."""
    return op(name, key="agent:main", field=field, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A bug, and a program that shows it."""

    mutant: str
    processes: tuple[ProcessProgram, ...]
    start: Mapping[str, Json] | None = None
    granularity_ns: int = 1
    crash: bool = False

    def program(self) -> Program:
        """The program."""
        start = self.start if self.start is not None else START
        return Program(
            adapter=ADAPTER,
            processes=self.processes,
            files={FILE: json.dumps(start, indent=2).encode()},
            machine=MachineParameters(stamp_granularity_ns=self.granularity_ns),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingTest:
    """A test of this project that fails with a planted bug, and whose failure is shown."""

    name: str
    mutant: str
    node: str


FAILING_TESTS = (
    FailingTest(
        name="machine-B54",
        mutant="B54",
        node="tests/stateful/test_machines.py::test_what_is_served_is_what_the_file_holds[0]",
    ),
    FailingTest(
        name="history-B27",
        mutant="B27",
        node="tests/crash/test_power_loss.py::test_every_crash_state_of_a_history_recovers[file behind symbolic links]",
    ),
    FailingTest(
        name="fault-B33",
        mutant="B33",
        node="tests/crash/test_failing_calls.py::test_a_failing_call_leaves_nothing_wrong[save-errno]",
    ),
    FailingTest(
        name="fault-B27",
        mutant="B27",
        node="tests/crash/test_failing_calls.py::test_a_failing_call_leaves_nothing_wrong[save-errno]",
    ),
    FailingTest(
        name="command-B30",
        mutant="B30",
        node="tests/crash/test_failing_commands.py"
        "::test_a_command_with_a_failing_call_says_so_and_breaks_nothing[set-errno]",
    ),
    FailingTest(
        name="task-B32",
        mutant="B32",
        node="tests/crash/test_failing_tasks.py::test_a_failing_call_of_a_task_leaves_nothing_wrong[save-errno]",
    ),
    FailingTest(
        name="recorded-B76",
        mutant="B76",
        node="tests/races/test_races.py::test_free_running_processes_are_linearizable[2 KB, 8 processes]",
    ),
    FailingTest(
        name="recovery-B25",
        mutant="B25",
        node="tests/crash/test_power_loss.py::test_power_loss_during_recovery_recovers[growth over several blocks]",
    ),
    FailingTest(
        name="refused-B84",
        mutant="B84",
        node="tests/crash/test_refused_files.py::test_corrupt_files_are_refused_and_stay[array]",
    ),
    FailingTest(
        name="refused-B41",
        mutant="B41",
        node="tests/crash/test_refused_files.py::test_a_read_only_file_is_not_replaced",
    ),
    FailingTest(
        name="machine-B27",
        mutant="B27",
        node="tests/crash/test_power_loss_machine.py::test_histories_with_power_losses",
    ),
)

HEARTBEAT = process(set_("lastHeartbeatText", "alert"))
CASES = (
    Case(mutant="B76", processes=(process(op("load"), set_("model", "sonnet", name="set_from_base")), HEARTBEAT)),
    Case(mutant="B48", processes=(process(set_("model", "sonnet")), HEARTBEAT)),
    Case(
        mutant="B49",
        processes=(process(set_("model", "sonnet")), process(op("save", sessions={"agent:main": {"model": "haiku"}}))),
    ),
    Case(
        mutant="B54",
        processes=(process(op("load"), op("load")), process(set_("model", "opal"))),
        granularity_ns=4_000_000,
    ),
    Case(mutant="B64", processes=(process(op("load"), op("save", sessions=START)), process(set_("model", "opal")))),
    Case(
        mutant="B65",
        processes=(process(set_("enabled", 1), set_("enabled", True), op("read", key="agent:main")),),
    ),
    Case(mutant="B87", processes=(process(set_("model", "sonnet"), op("read", key="agent:main")),), start=HUGE),
    Case(mutant="B25", processes=(process(set_("model", "sonnet")),), crash=True),
    Case(mutant="B27", processes=(process(set_("model", "sonnet")),), crash=True),
    Case(mutant="B26", processes=(process(set_("model", "sonnet")),), crash=True),
)

NAMES = (*(case.mutant for case in CASES), *(test.name for test in FAILING_TESTS))
"""Of the golden documents."""


def make(case: Case) -> tuple[Run, dict[str, Any]]:
    """Run the verifier on a bug, and tell what it finds."""
    promise = next(each for each in PROMISES if each.id == mutant_by_id(case.mutant).promise)
    origin = Origin(promise=promise.id, promise_text=promise.text, shards=(1,))
    document, sizes = find(case)
    if isinstance(document, crashes.CrashCounterexample):
        return run_of(crash_example_of(document, origin)), document.to_json()
    return run_of(example_of(document, replace(origin, found=sizes))), document.to_json()


def find(case: Case) -> tuple[Counterexample | crashes.CrashCounterexample, Mapping[str, int] | None]:
    """Run the verifier on a bug: the counterexample, and its sizes when it was found.

    Raises:
        LookupError: the bug was not found.
    """
    mutant = mutant_by_id(case.mutant)
    if case.crash:
        found = crashes.find(
            case.program(), file=FILE, title=mutant.bug_class, transform=mutant.transform, transform_path=PLANTED,
            transform_argument=mutant.id,
        )  # fmt: skip
        if found is None:
            raise LookupError(f"{mutant.id} was not found")
        return found, None
    parallel = len(case.processes) > 1
    result = explore(
        case.program(),
        strategy=PreemptionBounded(2) if parallel else RandomSchedules(executions=1),
        check=explained,
        transform=mutant.transform,
        max_executions=MAX_EXECUTIONS,
    )
    if result.failure is None or result.found is None:
        raise LookupError(f"{mutant.id} was not found: {result.verdict}")
    document = from_failure(
        result.failure,
        title=result.failure.finding.message,
        verdict=str(result.verdict),
        check=CHECK,
        transform=PLANTED,
        transform_argument=mutant.id,
    )
    return document, sizes_of(result.found)


def fail(test: FailingTest) -> tuple[Run, dict[str, Any]]:
    """Run a test with a planted bug, in a process of its own, and take its failing example from the report.

    Raises:
        LookupError: the test did not fail, or left no counterexample.
    """
    with tempfile.TemporaryDirectory() as scratch:
        options = ["-q", "-p", "no:cacheprovider", "--job", "gate", "--mutant", test.mutant, "--report-dir", scratch]
        command = [sys.executable, "-m", "pytest", test.node, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TEST_TIMEOUT_S, check=False)
        report = Path(scratch, "run.json")
        examples = load(report).examples if report.is_file() else ()
        if not examples or examples[0].kind == "test":
            raise LookupError(f"{test.node} left no counterexample with {test.mutant}:\n{done.stdout[-2000:]}")
        document = json.loads(Path(scratch, "failures", examples[0].id, "counterexample.json").read_text("utf-8"))
    found = placed(examples[0], Path(FAILURES_DIRECTORY, examples[0].id))
    return run_of(replace(found, first_seen="", shards=(1,))), document


def run_of(*examples: Any) -> Run:
    """A run that found these, and nothing else is known of."""
    shard = Shard(
        index=1, count=1, seed="0", job="golden", ci_run="", started_at="2026-01-01T00:00:00+00:00", duration_s=0.0,
        passed=0, failed=len(examples), known=0, skipped=0, unfinished=0, exit_status=1, environment={},
    )  # fmt: skip
    return Run(
        commit="", started_at=shard.started_at, duration_s=0.0, shards=(shard,), missing_shards=(), promises=(),
        other_tests=0, other_failures=(), examples=tuple(examples), known=(), bounds=(), figures={}, kept=None,
        made_by="storecheck",
    )  # fmt: skip


def main(wanted: list[str]) -> None:
    """Write all golden documents, or those named."""
    GOLDEN.mkdir(exist_ok=True)
    jobs: dict[str, Callable[[], tuple[Run, dict[str, Any]]]] = {
        **{case.mutant: functools.partial(make, case) for case in CASES},
        **{test.name: functools.partial(fail, test) for test in FAILING_TESTS},
    }
    for name, job in jobs.items():
        if wanted and name not in wanted:
            continue
        run, document = job()
        (GOLDEN / f"{name}.json").write_text(dumps(run), encoding="utf-8")
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (GOLDEN / f"{name}.counterexample.json").write_text(text, encoding="utf-8")
        example = run.examples[0]
        sys.stdout.write(f"{name} {example.kind} {example.id} {example.promise}: {example.title}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
