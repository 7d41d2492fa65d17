"""Real processes on a real directory, recorded by strace: the same recordings as from the simulated machine.

Goal: what the simulation says about crash states is about the store, not about the simulation. Method: the same
programs run for real under strace, and are held against the same oracle and the same counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from models.crashes import store_bytes
from storecheck.crash import MODELS, Oracle, Recording
from storecheck.crash.calibration import GROWTH_BYTES, SIZE_BYTES, content_of, count_states, record_saver
from storecheck.crash.recovery import check
from storecheck.crash.savers import SAVERS
from storecheck.crash.strace import record_process, why_not
from storecheck.machine.events import Created, Renamed, Synced, Written
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


def record_real(program: str, path: Path, *, directory: Path, scratch: Path, name: str = "") -> Recording:
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
    real = record_real(PROGRAM, directory / "store", directory=directory, scratch=tmp_path, name=name)
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
    real = record_real(STORE_PROGRAM, file, directory=directory, scratch=tmp_path)
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


def test_what_is_not_understood_is_an_error(tmp_path: Path) -> None:
    """A call that changes files and has no meaning for the recorder stops it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "store").write_bytes(store_bytes(sessions=1))
    with pytest.raises(Exception, match="no meaning is known for"):
        record_real(
            "import os, sys; os.truncate(sys.argv[1], 1)", directory / "store", directory=directory, scratch=tmp_path
        )
