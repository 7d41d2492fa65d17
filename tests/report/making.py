"""Makes the golden documents: runs the verifier on the store with planted bugs and keeps what it reports.

`python -m tests.report.making` writes `golden/<mutant>.json`, each a run document with one failing example, and
`golden/<mutant>.counterexample.json`. Run it when the store, the bugs or the document change. A bug that is not found
is an error: nothing here is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.mutants import mutant_by_id
from models.promises import PROMISES
from storecheck import MachineParameters, Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.counterexample import from_failure
from storecheck.explore import explore, sizes_of
from storecheck.program import Json, ProcessProgram
from storecheck.report import crashes
from storecheck.report.document import Run, Shard, dumps
from storecheck.report.examples import Origin, crash_example_of, example_of
from tests.report.subject import FILE, explained

GOLDEN = Path(__file__).parent / "golden"
ADAPTER = "tests.report.subject:Gateway"
CHECK = "tests.report.subject:explained"
PLANTED = "tests.report.subject:planted"
MAX_EXECUTIONS = 3_000

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


def make(case: Case) -> tuple[Run, dict[str, Any]]:
    """Run the verifier on a bug.

    Raises:
        LookupError: the bug was not found.
    """
    mutant = mutant_by_id(case.mutant)
    promise = next(each for each in PROMISES if each.id == mutant.promise)
    origin = Origin(promise=promise.id, promise_text=promise.text, shards=(1,))
    if case.crash:
        found = crashes.find(
            case.program(), file=FILE, title=mutant.bug_class, transform=mutant.transform, transform_path=PLANTED,
            transform_argument=mutant.id,
        )  # fmt: skip
        if found is None:
            raise LookupError(f"{mutant.id} was not found")
        return run_of(crash_example_of(found, origin)), found.to_json()
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
    example = example_of(document, replace(origin, found=sizes_of(result.found)))
    return run_of(example), document.to_json()


def run_of(*examples: Any) -> Run:
    """A run that found these, and nothing else is known of."""
    shard = Shard(
        index=1, count=1, seed="0", job="golden", started_at="2026-01-01T00:00:00+00:00", duration_s=0.0, passed=0,
        failed=len(examples), skipped=0, unfinished=0, exit_status=1, environment={},
    )  # fmt: skip
    return Run(
        commit="", started_at=shard.started_at, duration_s=0.0, shards=(shard,), missing_shards=(), promises=(),
        other_tests=0, other_failures=(), examples=tuple(examples), bounds=(), figures={}, kept=None,
        made_by="storecheck",
    )  # fmt: skip


def main(wanted: list[str]) -> None:
    """Write the golden documents of all bugs, or of those named."""
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        if wanted and case.mutant not in wanted:
            continue
        run, document = make(case)
        (GOLDEN / f"{case.mutant}.json").write_text(dumps(run), encoding="utf-8")
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (GOLDEN / f"{case.mutant}.counterexample.json").write_text(text, encoding="utf-8")
        example = run.examples[0]
        sys.stdout.write(f"{case.mutant} {example.kind} {example.id} {example.promise}: {example.title}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
