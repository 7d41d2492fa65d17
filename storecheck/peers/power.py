"""What is left of a store after a power loss, for any adapter.

Two updates are recorded, call by call: in the simulation, or, for stores that make their system calls in C, of a real
process through `strace`. `storecheck.crash` says which disks a power loss may leave at every moment, in four models of
file systems; on each distinct one the store is opened, read, and written to once more, for real. A loss found in the
simulation is confirmed if the calls of a real process allow it too. No plug is pulled: that a disk may do such a thing
is what the model says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storecheck.crash import (
    MODELS,
    CrashState,
    PersistenceModel,
    Recording,
    SerialProcess,
    TooManyStatesError,
    crash_states,
    record,
)
from storecheck.crash.oracle import windows
from storecheck.crash.strace import UnreadableTraceError, record_process, why_not
from storecheck.machine import MachineParameters, Process
from storecheck.peers.contract import FIRST, SESSIONS, left_in, written_to_again
from storecheck.processes.directories import lay_out
from storecheck.program import ROOT, Program, process
from storecheck.runner import ROOT_PATH, Runner
from storecheck.syscalls import ImageOptions, NotSimulated

VERSIONS: Final = ("P1.0", "P1.1")
"""What the two updates write, to the same session."""

_REAL_PROGRAM: Final = """
import importlib, os, sys
path, root, marks, session, *versions = sys.argv[1:]
module, _, name = path.partition(":")
adapter = getattr(importlib.import_module(module), name)(root)
descriptor = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
for number, version in enumerate(versions, start=1):
    os.write(descriptor, b"begin %d" % number)
    adapter.update(session, version)
    os.write(descriptor, b"ack %d" % number)
adapter.close()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLoss:
    """A disk that a power loss may leave, and on which the store has lost something.

    Attributes:
        model: the strongest model of a file system that allows it.
        event: the power went after so many changes of the disk had been asked for.
        events: how many there were.
        lost: what of that had not reached the disk.
        problem: what is wrong with the store then.
        confirmed: whether the calls of a real process allow a loss too; None if none could be recorded.
        why_not: why none could be recorded, or "".
    """

    model: str
    event: int
    events: int
    lost: tuple[str, ...]
    problem: str
    confirmed: bool | None
    why_not: str = ""

    def __str__(self) -> str:
        lost = f"; lost: {', '.join(self.lost)}" if self.lost else ""
        return f"on {self.model}, power lost after change {self.event} of {self.events}: {self.problem}{lost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerExamination:
    """How far was looked, and what was found first.

    Attributes:
        states: distinct states of the disk, over all models.
        real: whether the recording is that of a real process.
        loss: the one found in the strongest model, with the fewest lost changes; None if nothing was.
    """

    states: int
    real: bool
    loss: PowerLoss | None


class NotExaminedError(RuntimeError):
    """Nothing can be said: the updates could not be recorded, or leave more disks than can be looked at."""


def examine_power(path: str, files: Mapping[str, bytes], *, simulated: bool) -> PowerExamination:
    """Every state within one lost change, at every moment of two updates.

    Raises:
        NotExaminedError: see there.
        NotSimulated: `simulated`, and the store needs something that is not.
        ProgramError: `simulated`, and the adapter cannot be loaded into the simulation.
    """
    if not simulated:
        return _examined(path, _record_real(path, files), real=True)
    found = _examined(path, _record_simulated(path, files), real=False)
    if found.loss is None:
        return found
    try:
        really = _examined(path, _record_real(path, files), real=True, only=found.loss.model).loss is not None
        reason = ""
    except NotExaminedError as error:
        really, reason = None, str(error)
    loss = found.loss
    return PowerExamination(
        states=found.states,
        real=False,
        loss=PowerLoss(
            model=loss.model, event=loss.event, events=loss.events, lost=loss.lost, problem=loss.problem,
            confirmed=really, why_not=reason,
        ),
    )  # fmt: skip


def _record_simulated(path: str, files: Mapping[str, bytes]) -> Recording:
    program = Program(adapter=path, files=files, processes=(process(),), machine=MachineParameters(time_choice="none"))
    machine = Runner(program).new_machine()
    module, _, name = path.partition(":")
    alone = SerialProcess(module, options=ImageOptions(private=(module,)))

    def body(kernel_process: Process) -> None:
        adapter = getattr(alone.modules[module], name)(ROOT_PATH)
        for number, version in enumerate(VERSIONS, start=1):
            machine.mark(kernel_process, f"begin {number}")
            adapter.update(SESSIONS[0], version)
            machine.mark(kernel_process, f"ack {number}")
        adapter.close()

    try:
        return record(machine, lambda: alone.run(machine, body))
    except NotSimulated:
        raise
    except Exception as error:
        # Whatever a store raises, or waits for: it does not come to its end when it is alone in the simulation.
        raise NotExaminedError(f"two updates in the simulation: {type(error).__name__}: {error}") from error


def _record_real(path: str, files: Mapping[str, bytes]) -> Recording:
    if reason := why_not():
        raise NotExaminedError(reason)
    with tempfile.TemporaryDirectory(prefix="storecheck-peer-") as scratch:
        root = Path(scratch, ROOT)
        root.mkdir()
        lay_out(root, files)
        command = [sys.executable, "-c", _REAL_PROGRAM, path, str(root), f"{scratch}/marks", SESSIONS[0], *VERSIONS]
        # Where this process finds the adapter, that one does.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path)}
        try:
            return record_process(command, directory=root, environment=environment, log=Path(scratch, "strace.log"))
        except UnreadableTraceError as error:
            raise NotExaminedError(str(error)) from error
        except subprocess.TimeoutExpired as error:
            raise NotExaminedError(f"two updates under strace did not end within {error.timeout} s") from error
        except subprocess.CalledProcessError as error:
            last = (error.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
            why = f"two updates under strace ended with status {error.returncode}: {last}"
            raise NotExaminedError(why) from error


def _examined(path: str, recording: Recording, *, real: bool, only: str = "") -> PowerExamination:
    """The strongest model that allows a loss; with `only`, that model."""
    reopened = _Reopened(path)
    marks = windows(recording.marks())
    count = 0
    for model in MODELS:
        if only in ("", model.name):
            states = _states_under(recording, model)
            count += len(states)
            # The simplest first: nothing lost but what was never asked for, then one change, at the earliest moment.
            for state in sorted(states, key=lambda state: (len(state.lost), state.event)):
                window = marks[state.marks]
                problem = reopened.problem(_files_in(state, real=real), window.acknowledged, window.begun)
                if problem:
                    return PowerExamination(states=count, real=real, loss=_loss(model, state, problem, recording, real))
    return PowerExamination(states=count, real=real, loss=None)


def _states_under(recording: Recording, model: PersistenceModel) -> list[CrashState]:
    try:
        return list(crash_states(recording, model))
    except TooManyStatesError as error:
        raise NotExaminedError(str(error)) from error


def _loss(model: PersistenceModel, state: CrashState, problem: str, recording: Recording, real: bool) -> PowerLoss:
    return PowerLoss(
        model=model.name,
        event=state.event,
        events=len(recording.events),
        lost=tuple(change.text for change in state.lost),
        problem=problem,
        confirmed=True if real else None,
    )


def _files_in(state: CrashState, *, real: bool) -> dict[str, bytes]:
    """The files of the store's directory. Empty directories are made by who needs them."""
    prefix = "" if real else f"{ROOT}/"
    return {
        path.removeprefix(prefix): entry.content
        for path, entry in state.tree.items()
        if entry.kind == "file" and path.startswith(prefix)
    }


class _Reopened:
    """Opens the store on what is left, once for each distinct disk."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._found: dict[frozenset[tuple[str, bytes]], dict[str, str] | str] = {}

    def problem(self, files: Mapping[str, bytes], acknowledged: int, begun: int) -> str:
        """What is wrong if updates up to `acknowledged` had returned, and those up to `begun` had begun; or ""."""
        key = frozenset(files.items())
        if key not in self._found:
            left = left_in(self._path, files).result
            assert isinstance(left, Mapping)
            problem = f"the store cannot be read any more: {left['unreadable']}" if "unreadable" in left else None
            problem = problem or written_to_again(self._path, files)
            self._found[key] = problem or {str(session): str(version) for session, version in left.items()}
        found = self._found[key]
        if isinstance(found, str):
            return found
        states = list(_states())
        if found in states[acknowledged : begun + 1]:
            return ""
        if acknowledged and found in states[:acknowledged]:
            return f"acknowledged {VERSIONS[acknowledged - 1]!r} is lost, the store holds {found}"
        return f"the store holds {found}, which nobody wrote"


def _states() -> Iterator[dict[str, str]]:
    """What the store holds at first, and after each update."""
    state = dict(FIRST)
    yield dict(state)
    for version in VERSIONS:
        state[SESSIONS[0]] = version
        yield dict(state)


__all__ = ["NotExaminedError", "PowerExamination", "PowerLoss", "examine_power"]
