"""Controlled runs: a schedule of the simulation, replayed call by call by real processes on a real disk.

`ControlledRunner` keeps one real child per process of a program (multiprocess, forkserver, daemon) and leads them
through scripts: one acts, all others stand before their next call. A killed process is killed with SIGKILL, and a new
child takes its place. `replay_script` says what came of it on the disk and where, if anywhere, reality went another
way than the simulation; `confirm` does that for a counterexample.

Not a search: schedules come from the simulation. Power loss cannot be had this way; see `storecheck.crash`.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from storecheck.counterexample import Counterexample, _transform_of, import_path
from storecheck.explore import Check, Finding, judge
from storecheck.machine import MOUNT
from storecheck.processes import following
from storecheck.processes.children import child_context
from storecheck.processes.following import WAIT_S, Errand, limit_silence
from storecheck.processes.script import Script, record
from storecheck.program import ROOT, Program
from storecheck.runner import DIRECTORIES, Execution, OperationRecord, Runner
from storecheck.schedule import FaultPlan, Policy, Replay
from storecheck.schedule.executor import Chooser
from storecheck.syscalls import Transform

FAST_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one
"""Where runs go unless told otherwise: system calls take microseconds there, and nothing waits for a disk."""


LANES: Final = 2
"""Runs led at the same time by `replay_scripts`: while the processes of one wait for each other, another's act."""


class ControlError(RuntimeError):
    """A child died, or said nothing: the run shows nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRun:
    """What real processes did.

    Attributes:
        execution: as the simulation's, with the operations' real outcomes and the real files.
        divergence: where reality went another way than the simulation, or "": then every call agreed, and every
            outcome and every file does.
        calls: system calls made.
        kills: processes killed.
    """

    execution: Execution
    divergence: str
    calls: int
    kills: int

    @property
    def agrees(self) -> bool:
        """Whether reality and simulation agree on every call, outcome and file."""
        return not self.divergence


@dataclass(frozen=True, slots=True)
class _RealFiles:
    """The files that a run left on the disk, in the place of a machine."""

    content: dict[str, bytes]

    def files(self) -> dict[str, bytes]:
        """By path relative to the mount."""
        return self.content


class _Child:
    """One real process and the pipe to it."""

    def __init__(self, errand: Errand) -> None:
        context = child_context()
        self._pipe, theirs = context.Pipe()
        limit_silence(self._pipe)
        self._process = context.Process(target=following.serve, args=(theirs, errand), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False

    @property
    def pid(self) -> int:
        """Its process id."""
        pid: int = self._process.pid
        return pid

    def wait_ready(self) -> None:
        """Until its modules are loaded."""
        if not self._ready:
            self._ready = self.hear()[0] == "ready"

    def tell(self, message: Any) -> None:
        try:
            self._pipe.send_bytes(marshal.dumps(message))
        except OSError as error:
            raise ControlError(f"a controlled process is gone: {error}") from error

    def hear(self) -> Any:
        try:
            return marshal.loads(self._pipe.recv_bytes())  # noqa: S302 - from our own child
        except BlockingIOError:
            raise ControlError(f"a controlled process said nothing for {WAIT_S} s") from None
        except (EOFError, ConnectionResetError):
            self._process.join(WAIT_S)
            raise ControlError(f"a controlled process died with exit code {self._process.exitcode}") from None

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone, with its descriptors and locks."""
        if self._process.is_alive():
            # Another process collects it, the fork server: it may be gone since the last line.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(WAIT_S)
        self._pipe.close()


class _Lane:
    """Real children for one run at a time, and the directory that they share.

    Args:
        program: what they run.
        transform: a planted bug, or None.
        parent: where the directory is made.
    """

    def __init__(self, program: Program, *, transform: Transform | None, parent: Path | None) -> None:
        self._program = program
        self._transform = transform
        # On a file system in memory inode numbers do not return: there, other files have other numbers.
        self._numbers_return = parent != FAST_DIRECTORY
        self._base = tempfile.mkdtemp(prefix="storecheck-", dir=parent)
        os.chmod(self._base, 0o755)  # noqa: S103 - as the simulated root: stat shows it, and the children may be another user
        self._children = [self._new_child(index) for index in range(len(program.processes))]

    def close(self) -> None:
        """End the children, remove the files."""
        for child in self._children:
            child.kill()
        shutil.rmtree(self._base, ignore_errors=True)

    def _new_child(self, process: int) -> _Child:
        return _Child(Errand(self._program, process, self._base, self._transform))

    def pids(self) -> tuple[int, ...]:
        """Process ids of the children that live now."""
        return tuple(child.pid for child in self._children)

    def replay_script(self, script: Script) -> RealRun:
        """As `ControlledRunner.replay_script`."""
        self._prepare_disk()
        for child in self._children:
            child.wait_ready()
        killed, divergence, calls = self._lead(script)
        living = [index for index in range(len(self._children)) if index not in killed]
        for index in living:
            self._children[index].tell(("end",))
        outcomes: list[Any] = [None] * len(self._children)
        met: list[tuple[int, int]] = []
        for index in living:
            answer = self._children[index].hear()
            while answer[0] != "over":
                answer = self._children[index].hear()
            outcomes[index] = answer[1]
            divergence = divergence or (f"P{index + 1}: {answer[2]}" if answer[2] else "")
            met += answer[3]
        for index in killed:
            self._children[index] = self._new_child(index)
        execution = self._real_execution(script, outcomes)
        divergence = divergence or _confusion(met, numbers_return=self._numbers_return)
        return RealRun(
            execution=execution,
            divergence=divergence or _difference(script.execution, execution),
            calls=calls,
            kills=len(killed),
        )

    def _lead(self, script: Script) -> tuple[set[int], str, int]:
        """Portion by portion; who was killed, what went another way, how many calls were made."""
        killed: set[int] = set()
        calls = 0
        for process, portion in script.portions():
            dies = portion[-1][1] == "kill"
            steps = portion[:-1] if dies else portion
            child = self._children[process]
            if steps:
                child.tell(("steps", steps))
                answer = child.hear()
                calls += sum(step[1] == "call" for step in steps)
                if answer[0] != "done":
                    return killed, f"P{process + 1}: {answer[1]}", calls
            if dies:
                child.kill()
                killed.add(process)
        return killed, "", calls

    def _prepare_disk(self) -> None:
        """The initial files, and nothing else."""
        base, machine = self._base, self._program.machine
        owner = (machine.uid, machine.gid) if os.geteuid() == 0 else (-1, -1)
        mount = base + MOUNT
        for entry in os.scandir(base):
            _clear(entry)
        os.mkdir(mount)
        os.chown(mount, *owner)
        for name in (*DIRECTORIES, ROOT):
            os.mkdir(f"{mount}/{name}")
            os.chown(f"{mount}/{name}", *owner)
        for path, content in self._program.files.items():
            whole = f"{mount}/{ROOT}/{path}"
            if "/" in path:
                _make_parents(f"{mount}/{ROOT}", path, owner)
            descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                os.write(descriptor, content)
                os.fchown(descriptor, *owner)
                os.fchmod(descriptor, 0o644)
            finally:
                os.close(descriptor)

    def _real_execution(self, script: Script, outcomes: list[Any]) -> Execution:
        """The simulated run with real outcomes; an operation of a killed process has none in either world."""
        remaining = [None if found is None else list(found) for found in outcomes]
        operations = []
        for simulated in script.execution.operations:
            found = remaining[simulated.process]
            operations.append(replace(simulated) if found is None else _with_outcome(simulated, found))
        files = _files_below(self._base + MOUNT)
        return replace(script.execution, operations=operations, machine=_RealFiles(files))  # type: ignore[arg-type]


class ControlledRunner:
    """Real processes that follow scripts of one program. Use as a context manager: leaving ends the children.

    Args:
        program: what to run.
        transform: a planted bug, or None.
        directory: where the real files go; a temporary directory in memory if left out.
    """

    def __init__(self, program: Program, *, transform: Transform | None = None, directory: Path | None = None) -> None:
        self.program = program
        self._transform = transform
        self._simulation = Runner(program, transform=transform)
        self._parent = directory or (FAST_DIRECTORY if FAST_DIRECTORY.is_dir() else None)
        self._lanes: list[_Lane] = []

    def __enter__(self) -> ControlledRunner:
        self._need_lanes(1)
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.close()

    def _need_lanes(self, count: int) -> list[_Lane]:
        while len(self._lanes) < count:
            self._lanes.append(_Lane(self.program, transform=self._transform, parent=self._parent))
        return self._lanes[:count]

    def pids(self) -> tuple[int, ...]:
        """Process ids of the children that live now."""
        return tuple(pid for lane in self._lanes for pid in lane.pids())

    def run(self, chooser: Chooser, *, faults: Policy | None = None) -> tuple[Script, RealRun]:
        """Run a schedule in the simulation, then in reality."""
        script = record(self._simulation, chooser, faults=faults)
        return script, self.replay_script(script)

    def record(self, chooser: Chooser, *, faults: Policy | None = None) -> Script:
        """Run a schedule in the simulation only."""
        return record(self._simulation, chooser, faults=faults)

    def replay_script(self, script: Script) -> RealRun:
        """Lead the children through a run of the simulation.

        Raises:
            ControlError: a child died or hung, which no script asks for.
        """
        return self._need_lanes(1)[0].replay_script(script)

    def replay_scripts(self, scripts: Sequence[Script], *, lanes: int = LANES) -> list[RealRun]:
        """Lead children through many runs, some at once: each lane has children and a directory of its own.

        The runs are returned in the order of `scripts`.

        Raises:
            ControlError: as `replay_script`; runs that have begun are finished first.
        """
        taken = self._need_lanes(lanes)
        with ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane") as pool:
            parts = [
                pool.submit(lambda lane, mine: [lane.replay_script(script) for script in mine], lane, scripts[n::lanes])
                for n, lane in enumerate(taken)
            ]
        replayed: list[RealRun | None] = [None] * len(scripts)
        for number, part in enumerate(parts):
            replayed[number::lanes] = part.result()
        return [real for real in replayed if real is not None]


def _confusion(met: Iterable[tuple[int, int]], *, numbers_return: bool) -> str:
    """Where reality saw two files in the place of one, or one in the place of two, or "".

    `met` holds (serial of the simulated inode, number of the real one). Where numbers return, two files may have had
    the same one, one after the other.
    """
    real_of: dict[int, int] = {}
    simulated_of: dict[int, int] = {}
    for serial, number in met:
        if not serial:
            continue
        if real_of.setdefault(serial, number) != number:
            return f"one file of the simulation (inode {serial}) is two in reality: {real_of[serial]} and {number}"
        if not numbers_return and simulated_of.setdefault(number, serial) != serial:
            return (
                f"two files of the simulation (inodes {simulated_of[number]} and {serial}) are one in reality: {number}"
            )
    return ""


def _with_outcome(simulated: OperationRecord, outcomes: list[Any]) -> OperationRecord:
    """The record with what the real process says of its next operation in the same thread."""
    for position, (thread, outcome, result, error, message) in enumerate(outcomes):
        if thread == simulated.thread:
            del outcomes[position]
            return replace(simulated, outcome=outcome, result=result, error=error, message=message)
    return replace(simulated, outcome="unknown", result=None, error=None, message="never begun in reality")


def _difference(simulated: Execution, real: Execution) -> str:
    for one, other in zip(simulated.operations, real.operations, strict=True):
        said, done = (one.outcome, one.result, one.error, one.message), (
            other.outcome, other.result, other.error, other.message,
        )  # fmt: skip
        if said != done:
            return f"{one.operation}: the simulation says {said}, reality {done}"
    expected, found = simulated.files(), real.files()
    for path in sorted({*expected, *found}):
        if expected.get(path) != found.get(path):
            return f"{path}: the simulation left {expected.get(path)!r:.200}, reality {found.get(path)!r:.200}"
    return ""


def _clear(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        for inner in os.scandir(entry.path):
            _clear(inner)
        os.rmdir(entry.path)
    else:
        os.unlink(entry.path)


def _make_parents(root: str, path: str, owner: tuple[int, int]) -> None:
    directory = root
    for part in path.split("/")[:-1]:
        directory = f"{directory}/{part}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            os.chown(directory, *owner)


def _files_below(directory: str) -> dict[str, bytes]:
    return {path[len(directory) + 1 :]: Path(path).read_bytes() for path in sorted(_regular_files(directory))}


def _regular_files(directory: str) -> Iterator[str]:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            yield from _regular_files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a real disk says of a counterexample.

    Attributes:
        finding: what is wrong with the real run, judged by the same check; None if nothing is.
        divergence: where reality went another way, or "".
        real: the run.
    """

    finding: Finding | None
    divergence: str
    real: RealRun

    @property
    def confirmed(self) -> bool:
        """Whether the real run does the same, call by call, and fails."""
        return self.finding is not None and not self.divergence


def confirm(
    counterexample: Counterexample,
    *,
    check: Check | None = None,
    planted: Transform | None = None,
    directory: Path | None = None,
) -> Confirmation:
    """Replay a counterexample with real processes on a real disk.

    Args:
        counterexample: what to replay.
        check: judges the real run, instead of the one the document names.
        planted: the planted bug, instead of the one the document names.
        directory: where the real files go; in memory if left out.

    A deadlock is confirmed by real processes that stand where the simulated ones do: each at a lock that the kernel
    refuses.
    """
    if check is None and counterexample.check is not None:
        check = import_path(counterexample.check)
    transform = planted or _transform_of(counterexample)
    chooser = Replay(counterexample.choices).search(counterexample.program).next_chooser()
    assert chooser is not None
    with ControlledRunner(counterexample.program, transform=transform, directory=directory) as runner:
        _, real = runner.run(chooser, faults=FaultPlan(counterexample.faults))
    return Confirmation(finding=judge(real.execution, check), divergence=real.divergence, real=real)


__all__ = ["Confirmation", "ControlError", "ControlledRunner", "RealRun", "confirm"]
