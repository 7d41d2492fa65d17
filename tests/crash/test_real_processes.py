"""Real processes on a real directory, recorded in two ways: the same recordings as from the simulated machine.

Goal: what the simulation says about crash states is about the store, not about the simulation. Method: the same
programs run for real, behind the interception layer and under strace at once, and are held event by event against the
simulated recording; programs without the layer, under strace alone, against the same oracle and the same counts.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.crashes import SCENARIOS, Recovery, Scenario, record_scenario, store_bytes, store_process
from models.mutants.crash_writes import CRASH_MUTANTS
from storecheck.crash import MODELS, Entry, Oracle, Recording, SerialProcess, Tree, record
from storecheck.crash.calibration import FILE, GROWTH_BYTES, SIZE_BYTES, content_of, count_states, record_saver
from storecheck.crash.real import RealRunError, plant, record_real
from storecheck.crash.recovery import check
from storecheck.crash.savers import SAVERS
from storecheck.crash.strace import launcher, record_process, recording_from, why_not
from storecheck.crash.trees import scan
from storecheck.machine import MOUNT, Machine, MachineParameters, Process
from storecheck.machine.events import (
    AttributesChanged,
    Created,
    DiskEvent,
    Linked,
    Marked,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)
from storecheck.pytest_plugin import Evidence
from tests.crash.ground_truth import ROOT

PROGRAM = """
import os, sys
from storecheck.crash.calibration import content_of
from storecheck.crash.savers import SAVERS
path, marks, name = sys.argv[1:]
descriptor = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
for generation in (1, 2):
    os.write(descriptor, b"begin %d" % generation)
    SAVERS[name](path, content_of(generation), lambda: os.write(descriptor, b"ack %d" % generation))
"""

STORE_PROGRAM = """
import os, sys
from sessionstore import Settings, SessionStore
path, marks, _ = sys.argv[1:]
descriptor = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
store = SessionStore(path, Settings(maintenance_mode="enforce", rotate_bytes=1_000))
for generation in (1, 2, 3):
    os.write(descriptor, b"begin %d" % generation)
    text = ("generation %06d " % generation) * 300 * generation
    store.update(lambda draft: draft.__setitem__("agent:main:%d" % generation, {"text": text}))
    os.write(descriptor, b"ack %d" % generation)
"""


def trace_real(program: str, path: Path, *, directory: Path, scratch: Path, name: str = "") -> Recording:
    """Run a program under strace on files below `directory`."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return record_process(
        [sys.executable, "-c", program, str(path), str(scratch / "marks"), name],
        directory=directory,
        environment=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        log=scratch / "strace.log",
    )


@pytest.mark.parametrize("name", ["correct", "no fsync", "in place, truncating", "backup by rename first"])
def test_a_real_saver_has_the_crash_states_of_the_simulated_one(name: str, tmp_path: Path) -> None:
    """The same saver, run for real, has as many crash states of as many kinds in every model."""
    assert name in SAVERS
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "store").write_bytes(content_of(0))
    real = trace_real(PROGRAM, directory / "store", directory=directory, scratch=tmp_path, name=name)
    simulated, oracle = record_saver(name)
    assert real.marks() == simulated.marks()
    assert len(content_of(1)) == SIZE_BYTES + GROWTH_BYTES
    for model in MODELS:
        for cuts in (0, 1, 2):
            found = count_states(real, model, cuts=cuts, judge=oracle.judge)
            assert found == count_states(simulated, model, cuts=cuts, judge=oracle.judge)


@pytest.mark.promise("WRITE3")
def test_the_real_store_survives_every_crash_state(tmp_path: Path, evidence: Evidence) -> None:
    """WRITE3: a real process that saves into new directories, grows and backs up loses nothing, in any model."""
    directory = tmp_path / "directory"
    directory.mkdir()
    file = directory / "new" / "er" / "sessions.json"
    real = trace_real(STORE_PROGRAM, file, directory=directory, scratch=tmp_path)
    assert real.marks() == [f"{what} {number}" for number in (1, 2, 3) for what in ("begin", "ack")]
    kinds = {type(event) for event in real.events}
    assert {Created, Written, Synced, Renamed} <= kinds
    versions = versions_of(real)
    assert versions[-1] == file.read_bytes()
    report = check(real, Oracle(path="new/er/sessions.json", versions=versions, marks=real.marks(), mode=0o600))
    evidence.add(crash_states=report.states)
    assert not report.failures, str(report)
    assert len(list(file.parent.glob("*.bak.*"))) == 2


def versions_of(recording: Recording) -> list[bytes | None]:
    """What each rename to the store file put there; nothing before the first."""
    contents: dict[int, bytearray] = {}
    versions: list[bytes | None] = [None]
    for event in recording.events:
        if isinstance(event, Created):
            contents[event.serial] = bytearray()
        elif isinstance(event, Written):
            contents[event.serial] += event.content
        elif isinstance(event, Renamed) and event.name == "sessions.json":
            versions.append(bytes(contents[event.serial]))
    return versions


# The same process recorded by the interception layer and by strace at once


def ours() -> MachineParameters:
    """A simulated machine whose processes are the user who runs the tests."""
    return MachineParameters(uid=os.geteuid(), gid=os.getegid())


def as_us(scenario: Scenario) -> Scenario:
    """The scenario as the user who runs the tests, with files of that user: only root could give them to others."""
    if scenario.parameters == ours():
        return scenario
    if scenario.parameters != MachineParameters():
        pytest.skip("only root has a file of another user in its place")
    user = ours()
    tree = {path: replace(entry, uid=user.uid, gid=user.gid) for path, entry in scenario.tree.items()}
    return replace(scenario, tree=tree, parameters=user)


def plain(recording: Recording) -> list[DiskEvent]:
    """Events with inodes named in the order of their appearance, as far as they are about the disk itself.

    A sync of a directory above the mount is no event of a real recording.
    """
    numbers: dict[int | None, int | None] = {None: None, recording.disk.root: 0}
    known = set(recording.disk.inodes)
    events: list[DiskEvent] = []
    for event in recording.events:
        if isinstance(event, Created):
            known.add(event.serial)
        if isinstance(event, Synced) and event.serial not in known:
            continue
        named = {
            name: numbers.setdefault(getattr(event, name), len(numbers))
            for name in ("directory", "source", "serial", "replaced")
            if hasattr(event, name) and not isinstance(getattr(event, name), bool)
        }
        events.append(replace(event, step=0, process=0, **named))
    return events


def record_both(act: str, *arguments: Any, tree: Tree, scratch: Path) -> tuple[Recording, Recording | None]:
    """One real process, recorded by the layer and, where strace may run, by strace."""
    directory, log = scratch / "directory", scratch / "strace.log"
    mount = directory / MOUNT.strip("/")
    directory.mkdir()
    traced = not why_not()
    if traced:
        mount.mkdir()
        plant(tree, mount)
        before = scan(mount)
        shutil.rmtree(mount)
    recording = record_real(
        act,
        *arguments,
        directory=directory,
        tree=tree,
        parameters=ours(),
        launcher=launcher(log) if traced else (),
        marks=scratch / "marks",
    )
    if not traced:
        return recording, None
    return recording, recording_from(log, directory=mount, before=before, umask=ours().umask)


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_real_process_does_to_a_real_disk_what_the_simulated_one_does(
    scenario: Scenario, tmp_path: Path, evidence: Evidence
) -> None:
    """WRITE3: event by event, the layer on a real disk, strace and the simulated machine record the same."""
    scenario = as_us(scenario)
    simulated, oracle = record_scenario(scenario)
    real, traced = record_both("models.crashes:live", scenario, tree=scenario.tree, scratch=tmp_path)
    assert plain(real) == plain(simulated)
    if traced is not None:
        assert plain(traced) == plain(real)
    report = check(real, oracle, recover=Recovery(scenario, store_process()))
    evidence.add(crash_states=report.states)
    assert not report.failures, str(report)
    assert report.states_by_model == check(simulated, oracle).states_by_model


@pytest.mark.parametrize("name", SAVERS)
def test_every_saver_recorded_for_real_has_its_crash_states(name: str, tmp_path: Path) -> None:
    """Careful and careless savers alike have, recorded on a real disk, the crash states that were counted."""
    simulated, oracle = record_saver(name)
    real = record_real(
        "storecheck.crash.calibration:save_all",
        name,
        directory=tmp_path,
        tree={FILE: Entry("file", content_of(0))},
        parameters=ours(),
    )
    assert plain(real) == plain(simulated)
    for model in MODELS:
        expected = count_states(simulated, model, cuts=1, judge=oracle.judge)
        assert count_states(real, model, cuts=1, judge=oracle.judge) == expected


@pytest.mark.parametrize("identifier", ["B24", "B27", "B39"])
def test_a_planted_bug_shows_in_the_recording_of_a_real_process(identifier: str, tmp_path: Path) -> None:
    """A real process with a bug is recorded with it: its crash states are wrong in the models where they should be."""
    mutant = next(mutant for mutant in CRASH_MUTANTS if mutant.id == identifier)
    scenario = as_us(next(each for each in SCENARIOS if each.name == "growth over several blocks"))
    simulated, oracle = record_scenario(scenario, store_process(mutant))
    real = record_real(
        "models.crashes:live", scenario, mutant, directory=tmp_path, tree=scenario.tree, parameters=ours()
    )
    assert plain(real) == plain(simulated)
    report = check(real, oracle)
    assert report.failures
    assert [report.kinds(model) for model in MODELS] == [check(simulated, oracle).kinds(model) for model in MODELS]


def everything(machine: Machine) -> None:
    """Every call that changes a disk, once or more, in ways that the store does not use."""
    process = SerialProcess("os", "tempfile")
    system: Any = process.modules["os"]

    def act(kernel_process: Process) -> None:
        machine.mark(kernel_process, "begin 1")
        system.chdir(MOUNT)
        system.makedirs("a/b")
        descriptor = system.open("a/file", os.O_RDWR | os.O_CREAT, 0o666)
        system.write(descriptor, b"0123456789")
        system.lseek(descriptor, 4, os.SEEK_SET)
        system.write(descriptor, b"abc")
        system.pwrite(descriptor, b"far", 20)
        system.ftruncate(descriptor, 15)
        system.posix_fallocate(descriptor, 0, 5000)
        system.fdatasync(descriptor)
        system.close(descriptor)
        system.truncate("a/file", 3)
        descriptor = system.open("a/file", os.O_WRONLY | os.O_APPEND)
        system.write(descriptor, b"end")
        system.close(descriptor)
        system.close(system.open("a/file", os.O_WRONLY | os.O_TRUNC))
        system.link("a/file", "a/b/second")
        system.rename("a/file", "a/b/second")
        system.symlink("b", "a/link")
        system.close(system.open("a/link/third", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        system.replace("a/link/third", "a/b/second")
        system.chmod("a/b/second", 0o640)
        system.utime("a/b/second", ns=(1, 2))
        system.unlink("a/b/second")
        system.unlink("a/file")
        system.rmdir("a/b")
        directory = system.open("a", os.O_RDONLY)
        system.close(system.open("inside", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
        system.fsync(directory)
        system.close(directory)
        machine.mark(kernel_process, "ack 1")

    process.run(machine, act)


def test_every_call_that_changes_a_disk_is_recorded(tmp_path: Path) -> None:
    """Calls that the store does not make are recorded on a real disk as on the simulated one, too."""
    machine = Machine(ours())
    simulated = record(machine, lambda: everything(machine))
    real = record_real("tests.crash.test_real_processes:everything", directory=tmp_path, parameters=ours())
    assert plain(real) == plain(simulated)
    kinds = {Created, Written, Truncated, Synced, Renamed, Linked, Unlinked, AttributesChanged, Marked}
    assert {type(event) for event in real.events} == kinds


def failing(machine: Machine) -> None:
    """A program that ends with an error."""
    raise ValueError(f"no good on {type(machine).__name__}")


def stranger(machine: Machine) -> None:
    """A file that somebody made past the recording is written to."""
    Path(machine._base + MOUNT, "strange").write_bytes(b"")  # type: ignore[attr-defined]
    process = SerialProcess("os")
    system: Any = process.modules["os"]
    process.run(machine, lambda _: system.write(system.open(f"{MOUNT}/strange", os.O_WRONLY), b"x"))


@pytest.mark.parametrize(
    ("program", "says"), [("failing", "no good on RecordedDisk"), ("stranger", "strange is none of the files")]
)
def test_a_recording_that_proves_nothing_is_an_error(program: str, says: str, tmp_path: Path) -> None:
    """A program that fails, or a file that came from elsewhere, gives no recording."""
    with pytest.raises(RealRunError, match=says):
        record_real(f"tests.crash.test_real_processes:{program}", directory=tmp_path)


def test_names_that_end_in_a_slash_are_those_of_directories(tmp_path: Path) -> None:
    """CPython 3.13 lists directories by such names; programs may make and rename them so."""
    directory = tmp_path / "directory"
    directory.mkdir()
    program = "import os, sys; os.mkdir(sys.argv[1] + '{0}'); os.rename(sys.argv[1] + '{0}', sys.argv[1] + '2{0}')"
    program += "; os.close(os.open(sys.argv[1] + '2{0}', os.O_RDONLY)); os.rmdir(sys.argv[1] + '2{0}')"
    with_slash, without = (
        trace_real(program.format(slash), directory / "sub", directory=directory, scratch=tmp_path)
        for slash in ("/", "")
    )
    assert len(without.events) > 2
    assert plain(with_slash) == plain(without)


def test_what_is_not_understood_is_an_error(tmp_path: Path) -> None:
    """A call that changes files and has no meaning for the recorder stops it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "store").write_bytes(store_bytes(sessions=1))
    with pytest.raises(Exception, match="no meaning is known for"):
        trace_real(
            "import os, sys; os.truncate(sys.argv[1], 1)", directory / "store", directory=directory, scratch=tmp_path
        )
