"""Controlled runs: what the simulation says is what real processes on a real disk do, call by call.

Goal: a schedule or counterexample of the simulation counts only if reality answers every call the same way. Method:
schedules of counters and of the store are run in both worlds; scripts are falsified to see that differences show.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from storecheck import Execution, Fault, FaultPlan, Operation, PreemptionBounded, Program, RandomSchedules, process
from storecheck.counterexample import load
from storecheck.processes import ControlledRunner, Script, confirm
from storecheck.processes.script import Step
from storecheck.pytest_plugin import Evidence
from storecheck.schedule import Strategy
from tests.races.reconfirming import PROGRAMS, program

ADD = Operation("add")
TESTS = Path(__file__).parent.parent
COMMITTED = sorted(
    path for part in ("storecheck", "concurrency") for path in (TESTS / part / "counterexamples").glob("*.json")
)
"""Of small counters, and of bugs planted into the store."""


def counting(adapter: str, *, processes: int = 2, kills: int = 0) -> Program:
    """Each process adds one."""
    return Program(
        adapter=f"storecheck.adapters:{adapter}",
        files={"counter": b"0"},
        processes=tuple(process(ADD) for _ in range(processes)),
        kills=kills,
    )


def storing(*, processes: int = 2) -> Program:
    """Each process increases a counter of its own, twice, in one store."""
    additions = [Operation("add", {"key": f"k{index}"}) for index in range(processes)]
    return Program(adapter="tests.crash.adapter:Writer", processes=tuple(process(each, each) for each in additions))


def scripts(runner: ControlledRunner, strategy: Strategy, *, at_most: int) -> Iterator[Script]:
    """The schedules of a search, as far as asked for."""
    search = strategy.search(runner.program)
    for _ in range(at_most):
        chooser = search.next_chooser()
        if chooser is None:
            return
        script = runner.record(chooser)
        search.executed(script.execution.choices)
        yield script


def agreeing(program: Program, strategy: Strategy, *, at_most: int) -> int:
    """How many schedules reality agreed with; fails at the first it did not."""
    with ControlledRunner(program) as runner:
        recorded = list(scripts(runner, strategy, at_most=at_most))
        for script, real in zip(recorded, runner.replay_scripts(recorded), strict=True):
            assert real.agrees, f"schedule {script.execution.choices}: {real.divergence}"
            assert real.calls == sum(step.kind == "call" for _, _, step in script.steps)
    return len(recorded)


@pytest.mark.parametrize("adapter", ["BareCounter", "RenamingCounter", "LockedCounter"])
def test_every_schedule_with_one_preemption_does_the_same_in_reality(adapter: str) -> None:
    """All calls, answers and files agree, whatever the counter loses; a lock that is taken makes the real one wait."""
    assert agreeing(counting(adapter), PreemptionBounded(1), at_most=200) >= 10


@pytest.mark.parametrize("name", ["flags", "copies", "records"])
def test_descriptors_are_the_kernels(name: str) -> None:
    """Status flags, copies of a descriptor and locks of a range are asked of the kernel, and it says the same."""
    program = Program(
        adapter="tests.storecheck.controlled_subjects:Descriptors",
        files={"file": b"0"},
        processes=(process(Operation(name)), process(Operation(name))),
    )
    assert agreeing(program, PreemptionBounded(1), at_most=40) >= 5


def test_what_is_no_descriptor_any_more_is_refused_in_both_worlds() -> None:
    """A closed file is an argument that has no number: the call is made, and fails in both worlds."""
    program = Program(
        adapter="tests.storecheck.controlled_subjects:Descriptors",
        files={"file": b"0"},
        processes=(process(Operation("locks_closed")), process(Operation("flags"))),
    )
    with ControlledRunner(program) as runner:
        assert [step.answer for _, _, step in first_script(runner).steps if step.name == "flock"] == [
            ("raised", "ValueError")
        ]
    assert agreeing(program, PreemptionBounded(1), at_most=20) >= 5


def test_three_processes_agree() -> None:
    """The order of several waiting for one lock is the simulation's."""
    assert agreeing(counting("LockedCounter", processes=3), RandomSchedules(executions=15, seed=3), at_most=15) == 15


SAMPLED = {"two updates each": storing(), **{f"gateway, {name}": program(name) for name in PROGRAMS}}


@pytest.mark.promise("WRITE1", "WRITE2")
@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_of_schedules_does_the_same_in_reality(name: str, evidence: Evidence) -> None:
    """Operations of two processes on the store, interleaved at random: calls, results and files agree in both worlds.

    Deeper profiles sample more, and `search`, which runs at night, draws a new sample each time.
    """
    assert settings.default is not None
    count = 10 * max(1, settings.default.max_examples // 60)
    seed = 1 if settings.default.derandomize else secrets.randbelow(2**32)
    print(f"seed of the sample: {seed}")  # noqa: T201 - shown by pytest if the test fails
    assert agreeing(SAMPLED[name], RandomSchedules(executions=count, seed=seed), at_most=count) == count
    evidence.add(schedules=count)


def test_threads_of_a_process_are_led_too() -> None:
    """A contended lock starts a thread that waits; so does the led process."""
    program = replace(storing(), processes=(storing().processes[0], storing().processes[1]))
    strategy = PreemptionBounded(1)
    waited = 0
    with ControlledRunner(program) as runner:
        for script in scripts(runner, strategy, at_most=60):
            if any(thread for _, thread, _ in script.steps):
                waited += 1
                real = runner.replay_script(script)
                assert real.agrees, real.divergence
    assert waited >= 5


def test_killing_at_every_call_leaves_the_same_in_both_worlds() -> None:
    """SIGKILL of a real process at each of its calls: its lock is free, the other goes on, the files are the same."""
    program = replace(counting("LockedCounter"), kills=1)
    with ControlledRunner(program) as runner:
        killed = 0
        calls = runner.record(PreemptionBounded(0).search(program).next_chooser()).steps  # type: ignore[arg-type]
        for call in range(sum(step.kind == "call" and owner == 0 for owner, _, step in calls)):
            chooser = PreemptionBounded(0).search(program).next_chooser()
            assert chooser is not None
            plan = FaultPlan([Fault(process=0, call=call, kind="kill")])
            script, real = runner.run(chooser, faults=plan)
            assert real.agrees, f"killed at call {call}: {real.divergence}"
            assert script.execution.ends == ("killed", "ended")
            killed += real.kills
    assert killed >= 10


def test_injected_errors_are_the_same_in_both_worlds() -> None:
    """A call that fails in the script fails in the real process, without being made."""
    program = storing()
    with ControlledRunner(program) as runner:
        for call, error in ((5, "EIO"), (12, "ENOSPC"), (20, "EIO"), (30, "EIO")):
            chooser = PreemptionBounded(0).search(program).next_chooser()
            assert chooser is not None
            plan = FaultPlan([Fault(process=1, call=call, kind="errno", error=error)])
            script, real = runner.run(chooser, faults=plan)
            assert real.agrees, f"{error} at call {call}: {real.divergence}"
            assert script.execution.faults


def test_a_failing_close_closes_in_both_worlds() -> None:
    """Whose close fails holds its lock no longer: it can take it again itself, and both worlds agree."""
    program = replace(counting("LockedCounter"), processes=(process(ADD, ADD), process(ADD)))
    with ControlledRunner(program) as runner:
        calls = [step.name for owner, _, step in first_script(runner).steps if owner == 0 and step.kind == "call"]
        closes = [at for at, name in enumerate(calls) if name == "close"]
        at = closes[len(closes) // 2 - 1]
        chooser = PreemptionBounded(0).search(program).next_chooser()
        assert chooser is not None
        script, real = runner.run(chooser, faults=FaultPlan([Fault(process=0, call=at, kind="errno", error="EIO")]))
    assert real.agrees, real.divergence
    assert script.execution.faults
    assert [record.outcome for record in script.execution.operations] == ["raised", "returned", "returned"]
    assert script.execution.deadlock is None


def first_script(runner: ControlledRunner) -> Script:
    """The schedule that nobody interrupts."""
    return next(scripts(runner, PreemptionBounded(0), at_most=1))


def falsify_read(script: Script) -> int:
    """Let the first read of the script answer something else; whose read it is."""
    owner, thread, step = next(each for each in script.steps if each[2].name == "read")
    script.steps[script.steps.index((owner, thread, step))] = (owner, thread, replace(step, answer=("value", b"7")))
    return owner


def test_a_different_answer_is_reported_at_its_call() -> None:
    """If the kernel answers other than the simulation, the run stops there and shows both."""
    with ControlledRunner(counting("BareCounter")) as runner:
        script = first_script(runner)
        owner = falsify_read(script)
        real = runner.replay_script(script)
        assert real.divergence.startswith(f"P{owner + 1}: read(")
        assert "the simulation answers ('value', b'7'), reality ('value', b'0')" in real.divergence
        assert runner.replay_script(first_script(runner)).agrees


def test_another_result_or_file_is_reported_although_every_call_agrees() -> None:
    """What operations returned and what is on the disk are compared as well, and both sides are shown."""
    with ControlledRunner(counting("RenamingCounter")) as runner:
        script = first_script(runner)
        first = script.execution.operations[0]
        told = replace(script.execution, operations=[replace(first, result=7), *script.execution.operations[1:]])
        divergence = runner.replay_script(replace(script, execution=told)).divergence
        assert "the simulation says ('returned', 7, None, None)" in divergence
        assert f"reality ('returned', {first.result}, None, None)" in divergence
        script.execution.machine.mount.entries["store"].entries["counter"].content[:] = b"9"
        divergence = runner.replay_script(script).divergence
        assert divergence == "counter: the simulation left b'9', reality b'2'"


def test_a_lock_that_the_kernel_refuses_is_reported() -> None:
    """A script that lets two processes hold one lock is no script of this world."""
    with ControlledRunner(counting("LockedCounter")) as runner:
        script = first_script(runner)
        one = [each for each in script.steps if each[0] == script.steps[0][0]]
        other = [each for each in script.steps if each[0] != script.steps[0][0]]
        held = next(at for at, each in enumerate(one) if each[2].name == "flock") + 1
        script.steps[:] = [*one[:held], *other, *one[held:]]
        divergence = runner.replay_script(script).divergence
    assert "flock has to wait" in divergence
    assert "in the simulation it did not" in divergence


def test_other_code_is_reported_at_its_first_other_call() -> None:
    """A schedule of one program does not pass for one of another."""
    with ControlledRunner(counting("BareCounter")) as runner:
        script = first_script(runner)
        with ControlledRunner(counting("RenamingCounter")) as another:
            real = another.replay_script(script)
    assert not real.agrees
    assert "expected" in real.divergence


def test_which_file_is_which_is_compared_although_numbers_differ() -> None:
    """Inode numbers are the script's, but one file must stay one and two must stay two."""
    with ControlledRunner(storing()) as runner:
        script = first_script(runner)
        looked_at = [step for _, _, step in script.steps if step.answer[0] == "stat"]
        assert all(step.serial for step in looked_at)
        serials = sorted(serials_of(looked_at))
        assert len(serials) >= 3, "too few files were looked at: this shows nothing"
        assert runner.replay_script(script).agrees

        merged = with_serials(script, {serials[0]: serials[1]})
        assert f"one file of the simulation (inode {serials[1]}) is two" in runner.replay_script(merged).divergence
        again = next(step for number, step in enumerate(looked_at) if step.serial in serials_of(looked_at[:number]))
        again.serial = 1_000_000
        assert "are one in reality" in runner.replay_script(script).divergence


def serials_of(steps: list[Step]) -> set[int]:
    """The inodes that these steps looked at."""
    return {step.serial for step in steps}


def with_serials(script: Script, renamed: dict[int, int]) -> Script:
    """The script, with other serials of inodes."""
    steps = [
        (owner, thread, replace(step, serial=renamed.get(step.serial, step.serial)))
        for owner, thread, step in script.steps
    ]
    return replace(script, steps=steps)


def test_several_runs_at_once_do_the_same_as_one_after_the_other() -> None:
    """Lanes have children and files of their own; runs come back in the order of their scripts."""
    program = replace(counting("LockedCounter"), kills=1)
    with ControlledRunner(program) as runner:
        few = list(scripts(runner, PreemptionBounded(1), at_most=25))
        killed = [sum(end == "killed" for end in script.execution.ends) for script in few]
        assert 0 < sum(killed) < len(few)
        found = runner.replay_scripts(few, lanes=3)
        assert len(runner.pids()) == 6
        falsify_read(few[1])
        assert [real.agrees for real in runner.replay_scripts(few[:3], lanes=2)] == [True, False, True]
    assert [real.divergence for real in found] == [""] * len(few)
    assert [real.kills for real in found] == killed
    assert [real.execution.choices for real in found] == [script.execution.choices for script in few]


def no_addition_lost(execution: Execution) -> str | None:
    """The counter counts every acknowledged addition."""
    done = sum(record.outcome == "returned" for record in execution.operations)
    counted = int(execution.files()["counter"] or b"0")
    return None if counted >= done else f"{done} acknowledged, {counted} counted"


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_counterexamples_are_confirmed(path: Path) -> None:
    """Every counterexample of the simulation fails the same way with real processes, deadlocks included."""
    document = load(path)
    confirmation = confirm(document)
    assert confirmation.confirmed, confirmation.divergence or "the real run is fine"
    assert confirmation.finding == document.finding


def test_what_reality_does_not_show_is_not_confirmed() -> None:
    """A run in which nothing is wrong confirms nothing, nor does one that went another way."""
    document = load(COMMITTED[0])
    fine = confirm(document, check=lambda _: None)
    assert (fine.confirmed, fine.finding, fine.divergence) == (False, None, "")
    elsewhere = replace(confirm(document), divergence="P1: another answer")
    assert elsewhere.finding is not None
    assert not elsewhere.confirmed


def test_a_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """Children are ended and the real directory is removed."""
    with ControlledRunner(counting("LockedCounter"), directory=tmp_path) as runner:
        assert runner.replay_script(first_script(runner)).agrees
        base = next(tmp_path.iterdir())
        assert json.loads((base / "storecheck-simulated/store/counter").read_text()) == 2
        pids = runner.pids()
    assert list(tmp_path.iterdir()) == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
