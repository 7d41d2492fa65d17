"""What counts as a violation, how versions of several writers are numbered, and processes that run alone."""

from __future__ import annotations

import gc
import stat
from typing import Any

import pytest

from storecheck.crash import (
    ALICE,
    CrashState,
    Disk,
    Entry,
    Oracle,
    Recording,
    SerialProcess,
    machine_with,
    record,
    states,
)
from storecheck.crash.calibration import count_states, record_saver
from storecheck.crash.publications import number_publications
from storecheck.crash.recording import WaitsForEverError
from storecheck.crash.recovery import check
from storecheck.crash.states import TooManyStatesError, crash_states
from storecheck.machine import MOUNT, Machine, Process
from storecheck.machine.events import Created, DiskEvent, Marked, Renamed, Written

VERSIONS = (b"version 0" * 3, b"version 1" * 3, b"version 2" * 3)
MARKS = ("begin 1", "ack 1", "begin 2")


def kind_of(content: bytes | None, *, marks_passed: int = 3, entry: Entry | None = None) -> str | None:
    """What is wrong with a state whose file holds this."""
    oracle = Oracle(
        path="f", versions=VERSIONS, marks=MARKS, mode=0o600, owner=(7, 7), untouched={"other": Entry("file", b"o")}
    )
    tree = {"other": Entry("file", b"o")}
    if content is not None:
        tree["f"] = entry or Entry("file", content, mode=0o600, uid=7, gid=7)
    state = CrashState(model=ALICE, event=0, marks=marks_passed, lost=(), tree=tree)
    violation = oracle.judge(state)
    return None if violation is None else violation.kind


@pytest.mark.parametrize(
    ("content", "marks_passed", "kind"),
    [
        (VERSIONS[0], 0, None),
        (VERSIONS[0], 1, None),
        (VERSIONS[1], 1, None),
        (VERSIONS[1], 0, "future"),
        (VERSIONS[0], 2, "lost acknowledged"),
        (VERSIONS[2], 3, None),
        (VERSIONS[0], 3, "lost acknowledged"),
        (b"", 1, "corrupt: empty"),
        (bytes(9), 1, "corrupt: zeros"),
        (VERSIONS[1][:10], 1, "corrupt: torn"),
        (VERSIONS[1][:9] + VERSIONS[0][:9], 1, "corrupt: mixed"),
        (None, 1, "lost file"),
    ],
)
def test_contents_are_classified(content: bytes | None, marks_passed: int, kind: str | None) -> None:
    """Every kind of loss has its name, and what lies between acknowledged and begun is right."""
    assert kind_of(content, marks_passed=marks_passed) == kind


def test_mode_owner_and_other_files_are_judged() -> None:
    """A whole version with the wrong mode or owner is wrong, and so is any change of another file."""
    assert kind_of(VERSIONS[1], entry=Entry("file", VERSIONS[1], mode=0o644, uid=7, gid=7)) == "attributes"
    assert kind_of(VERSIONS[1], entry=Entry("file", VERSIONS[1], mode=0o600, uid=8, gid=7)) == "attributes"
    oracle = Oracle(path="f", versions=(None,), marks=(), untouched={"other": Entry("file", b"o")})
    violation = oracle.judge(CrashState(model=ALICE, event=0, marks=0, lost=(), tree={}))
    assert violation is not None
    assert violation.kind == "other file"


def test_an_oracle_without_enough_versions_is_refused() -> None:
    """An operation whose version nobody gave cannot be judged."""
    with pytest.raises(ValueError, match="begins operation 2"):
        Oracle(path="f", versions=VERSIONS[:2], marks=MARKS)


def test_what_recovery_finds_is_a_violation() -> None:
    """A store that does not come up fails the state, and each distinct tree is tried once."""
    recording, oracle = record_saver("correct", saves=1)
    tried: list[int] = []

    def recover(state: CrashState, version: int) -> str | None:
        tried.append(version)
        return "does not start" if version == 1 else None

    report = check(recording, oracle, recover=recover)
    assert {failure.violation.kind for failure in report.failures} == {"recovery"}
    assert len(tried) == report.recoveries < report.states
    assert "does not start" in str(report)


def test_versions_of_several_writers_are_numbered_by_their_renames() -> None:
    """Version n is what the n-th rename put there, and each process's return acknowledges its own."""
    disk = Disk.from_tree({"f": Entry("file", b"0")})

    def publication(process: int, serial: int, content: bytes) -> list[DiskEvent]:
        name = f"t{serial}"
        return [
            Created(step=0, process=process, directory=1, name=name, serial=serial, kind="file", mode=0o600),
            Written(step=0, process=process, serial=serial, offset=0, content=content),
            Renamed(
                step=0,
                process=process,
                source=1,
                source_name=name,
                directory=1,
                name="f",
                serial=serial,
                replaced=serial - 1,
            ),
        ]

    events: list[DiskEvent] = [
        Marked(step=0, process=0, label="begin 0"),
        *publication(0, 3, b"a"),
        *publication(1, 4, b"b"),
        Marked(step=0, process=1, label="returned 1"),
        Marked(step=0, process=0, label="returned 0"),
    ]
    numbered, versions = number_publications(Recording(disk=disk, events=tuple(events)), name="f")
    assert versions == [b"0", b"a", b"b"]
    assert numbered.marks() == ["begin 1", "begin 2", "ack 2", "ack 1"]


def test_a_tree_survives_the_way_to_a_machine_and_back() -> None:
    """Content, modes, owners and links of a tree are what the booted machine has."""
    tree = {
        "d": Entry("directory", mode=0o700),
        "d/f": Entry("file", b"content", mode=0o640, uid=5, gid=6),
        "link": Entry("symlink", mode=0o777, target="d/f"),
    }
    assert Disk.of(machine_with(tree)).tree() == tree
    assert Disk.from_tree(tree).tree() == tree


def test_a_process_that_runs_alone_lets_time_pass_and_does_not_wait_for_others() -> None:
    """A sleep ends at once on the machine's clock; a lock that another process holds is an error, not a hang."""
    process = SerialProcess("time", "fcntl", "os")
    machine = Machine(files={"f": b""})
    before_ns = machine.monotonic_ns
    process.run(machine, lambda _: process.modules["time"].sleep(5))
    assert machine.monotonic_ns - before_ns == 5_000_000_000

    def lock_twice(_: Process) -> None:
        system, locks = process.modules["os"], process.modules["fcntl"]
        for _attempt in range(2):
            locks.flock(system.open(f"{MOUNT}/f", system.O_RDWR), locks.LOCK_EX)

    with pytest.raises(WaitsForEverError, match="flock"):
        process.run(machine, lock_twice)
    assert all(not inode.flocks for _, inode in machine.walk())


def test_a_leaked_file_is_closed_by_the_end_of_its_process_alone() -> None:
    """Garbage collection would close it, and free its locks, at another call in each run."""
    process = SerialProcess("io", "os")
    collected_before = gc.isenabled()

    def leak(_: Process) -> bool:
        file = process.modules["io"].open(f"{MOUNT}/f", "rb")
        cycle: list[Any] = [file]
        cycle.append(cycle)
        descriptor = file.fileno()
        del file, cycle
        assert [[number] for number in range(100_000)]  # far more than any generation of the collector waits for
        return stat.S_ISREG(process.modules["os"].fstat(descriptor).st_mode)

    gc.enable()
    try:
        assert process.run(Machine(files={"f": b""}), leak)
        assert gc.isenabled()
    finally:
        if not collected_before:
            gc.disable()


def test_too_many_states_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enumeration that would be cut says so instead of checking a part."""
    monkeypatch.setattr(states, "MAX_STATES", 100)
    process = SerialProcess("os")
    machine = Machine(files={"f": b""})

    def write_often(_: Process) -> None:
        system = process.modules["os"]
        for number in range(20):
            system.close(system.open(f"{MOUNT}/{number}", system.O_CREAT | system.O_WRONLY))

    recording = record(machine, lambda: process.run(machine, write_often))
    with pytest.raises(TooManyStatesError, match="more than"):
        for _ in crash_states(recording, ALICE, cuts=None):
            pass


def test_savers_are_judged_by_one_loop() -> None:
    """Counting keeps the kinds of violations, sorted, and each once."""
    recording, oracle = record_saver("in place")
    assert count_states(recording, ALICE, cuts=2, judge=oracle.judge).violations == (
        "corrupt: mixed",
        "corrupt: torn",
        "corrupt: zeros",
    )
