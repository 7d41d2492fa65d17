"""Histories of the store for the crash checks: what is done, what must be found after a power loss, how to recover.

A `Scenario` is a plain value: files, processes one after the other, and the steps of each. `record_scenario` runs it in
the simulated machine and gives the recording with its oracle; `Recovery` boots a crash state, opens the store with a
fresh process, saves once more and compares with what was written. All content names the generation that wrote it.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models.mutants import Mutant
from storecheck.crash import CrashState, Entry, Oracle, Recording, SerialProcess, Tree, Violation, machine_with, record
from storecheck.crash.recording import BOOT_TAKES_NS
from storecheck.machine import MOUNT, Inode, Machine, MachineParameters, Process
from storecheck.syscalls import ImageOptions

FILE = "sessions.json"
MAX_BACKUPS = 3
STRAY_SUFFIX = ".tmp"
BACKUP_MARK = ".bak."
CORRUPT_MARK = ".corrupt-"
STEP_TAKES_NS = 1_000_000_000
NOW_MS = MachineParameters().wall_start_ns // 1_000_000

StepKind = Literal["save", "update", "update with base", "edit", "remove", "no change", "load", "read", "repair"]
Settings = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation.

    Attributes:
        kind: which.
        sessions: how many sessions a save writes; which one the others are about.
        size_bytes: about how large an entry that is written gets.
    """

    kind: StepKind
    sessions: int = 1
    size_bytes: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A history of one store file.

    Attributes:
        name: for reports.
        processes: the steps of each process; a process begins when the one before has ended.
        tree: the disk before.
        file: path of the store file, links followed.
        given: path that the store is given; `file` unless it is another name of it.
        settings: of the store.
        parameters: of the machine, such as the user.
    """

    name: str
    processes: tuple[tuple[Step, ...], ...]
    tree: Tree = field(default_factory=dict)
    file: str = FILE
    given: str = ""
    settings: Settings = field(default_factory=dict)
    parameters: MachineParameters = field(default_factory=MachineParameters)

    @property
    def path(self) -> str:
        """What the store is given."""
        return f"{MOUNT}/{self.given or self.file}"


def entry_of(generation: int, size_bytes: int) -> dict[str, Any]:
    """A session's entry that says in every few bytes who wrote it."""
    word = f"generation {generation:06d} "
    return {
        "sessionId": f"session-{generation}",
        "updatedAt": NOW_MS + generation,
        "text": (word * (size_bytes // len(word) + 1))[:size_bytes],
    }


def store_bytes(*, sessions: int, size_bytes: int = 100, generation: int = 0) -> bytes:
    """A store file in the store's own layout."""
    entries = {key_of(number): entry_of(generation, size_bytes) for number in range(sessions)}
    return json.dumps(entries, indent=2).encode()


def store_file(*, sessions: int, size_bytes: int = 100, mode: int = 0o644) -> Entry:
    """The same as an entry of a disk."""
    return Entry("file", store_bytes(sessions=sessions, size_bytes=size_bytes), mode=mode)


def key_of(number: int) -> str:
    """The key of a session."""
    return f"agent:main:{number}"


# Running the steps


@functools.lru_cache(maxsize=4)
def store_process(mutant: Mutant | None = None) -> SerialProcess:
    """A process that has the store loaded, perhaps with a planted bug."""
    options = ImageOptions(transform=None if mutant is None else mutant.transform)
    process = SerialProcess("logging", "sessionstore", "sessionstore.cli.repair", options=options)
    logging = process.modules["logging"]
    logging.getLogger("sessionstore").addHandler(logging.NullHandler())  # thousands of warnings of large stores
    process.image.seal()
    return process


def do_step(modules: Mapping[str, Any], store: Any, step: Step, generation: int) -> Any:
    """Do one step with the store of a process; returns what a reading step read, and None for the others."""
    key = key_of(step.sessions)
    entry = entry_of(generation, step.size_bytes)
    if step.kind == "save":
        store.save({key_of(number): entry for number in range(step.sessions)})
    elif step.kind == "update":
        store.update(lambda draft: draft.__setitem__(key, entry))
    elif step.kind == "update with base":
        store.update(lambda draft: draft.__setitem__(key, entry), base=store.load())
    elif step.kind == "edit":
        with store.edit() as draft:
            draft[key] = entry
    elif step.kind == "remove":
        store.update(lambda draft: draft.pop(key, None))
    elif step.kind == "no change":
        store.update(len)
    elif step.kind == "load":
        return {key: dict(found) for key, found in store.load().items()}
    elif step.kind == "read":
        return store.read(key)
    else:
        modules["sessionstore.cli.repair"].repair(store.path, lock_timeout_s=0)
    return None


def open_store(modules: Mapping[str, Any], scenario: Scenario) -> Any:
    """The store of a process."""
    package = modules["sessionstore"]
    return package.SessionStore(scenario.path, package.Settings(**scenario.settings))


def inode_at(machine: Machine, path: str) -> Inode | None:
    """What is at a path on the machine now, links not followed; None if there is nothing."""
    inode = machine.mount
    for name in path.split("/"):
        found = inode.entries.get(name)
        if found is None:
            return None
        inode = found
    return inode


def content_at(machine: Machine, path: str) -> bytes | None:
    """What a file on the machine holds now; None if there is none."""
    inode = inode_at(machine, path)
    return None if inode is None else bytes(inode.content)


def run_scenario(
    machine: Machine, scenario: Scenario, process: SerialProcess, look: Callable[[], object] = lambda: None
) -> None:
    """Do the steps of a scenario on a machine that has its tree; `look` is called after each."""
    generations = itertools.count(1)

    def live(steps: tuple[Step, ...], kernel_process: Process) -> None:
        store = open_store(process.modules, scenario)
        for step in steps:
            generation = next(generations)
            machine.mark(kernel_process, f"begin {generation}")
            do_step(process.modules, store, step, generation)
            machine.mark(kernel_process, f"ack {generation}")
            look()
            machine.monotonic_ns += STEP_TAKES_NS

    for steps in scenario.processes:
        process.run(machine, functools.partial(live, steps))


def live(machine: Machine, scenario: Scenario, mutant: Mutant | None = None) -> None:
    """The same, for a process of its own: `record_real("models.crashes:live", scenario, …)`."""
    run_scenario(machine, scenario, store_process(mutant))


def record_scenario(scenario: Scenario, process: SerialProcess | None = None) -> tuple[Recording, Oracle]:
    """Run a scenario in the simulated machine; what it did to the disk, and what must be found after a power loss."""
    machine = machine_with(scenario.tree, scenario.parameters)
    versions = [content_at(machine, scenario.file)]
    companions = [_companions(machine, scenario.file)]

    def look() -> None:
        versions.append(content_at(machine, scenario.file))
        companions.append(_companions(machine, scenario.file))

    recording = record(machine, lambda: run_scenario(machine, scenario, process or store_process(), look))
    return recording, oracle_of(scenario, recording, versions, companions)


def _companions(machine: Machine, file: str) -> dict[str, bytes]:
    """The backups and copies of corrupt content beside the store file."""
    return {path: content for path, content in machine.files().items() if _is_companion(path, file)}


def _is_companion(path: str, file: str) -> bool:
    # Most paths are none, and this is asked for every path of every state.
    return path.startswith(file) and path.startswith((file + BACKUP_MARK, file + CORRUPT_MARK))


# What must be found


def oracle_of(
    scenario: Scenario,
    recording: Recording,
    versions: list[bytes | None],
    companions: list[dict[str, bytes]],
) -> Oracle:
    """The oracle of a recorded scenario: versions, mode and owner, other files, backups and copies."""
    before = scenario.tree.get(scenario.file)
    untouched = {path: entry for path, entry in scenario.tree.items() if path != scenario.file}
    copies = CompanionRule(file=scenario.file, versions=tuple(versions), companions=tuple(companions))
    return Oracle(
        path=scenario.file,
        versions=versions,
        marks=recording.marks(),
        mode=0o600 if before is None else before.mode,
        owner=recording.owner if before is None else (before.uid, before.gid),
        untouched=untouched,
        rules=(copies,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompanionRule:
    """Backups and copies are whole wherever they show, and there before what they were made of is replaced.

    An older backup goes only when enough newer ones are there.

    Attributes:
        file: the store file.
        versions: its content by number.
        companions: the backups and copies that operation n left, by number.
    """

    file: str
    versions: tuple[bytes | None, ...]
    companions: tuple[dict[str, bytes], ...]

    def __call__(self, state: CrashState, acknowledged: int, begun: int) -> Violation | None:
        """What is wrong with the backups and copies of a state."""
        for path, entry in state.tree.items():
            if _is_companion(path, self.file) and entry.content not in self.versions:
                return Violation("other file", f"{path} is there with {entry}, and is no version of the store")
        kept = min(MAX_BACKUPS, sum(BACKUP_MARK in path for path in self.companions[acknowledged]))
        backups = sum(path.startswith(self.file + BACKUP_MARK) for path in state.tree)
        if backups < kept:
            return Violation("other file", f"{backups} backups are there of {kept} that are to be kept")
        found = state.tree.get(self.file)
        content = None if found is None else found.content
        number = next(n for n in range(begun, acknowledged - 1, -1) if self.versions[n] == content)
        required = self.companions[number]
        if begun > number:  # the next operation may have pruned already, and may have been lost
            required = {path: required[path] for path in required.keys() & self.companions[begun].keys()}
        for path, copied in required.items():
            there = state.tree.get(path)
            if there is None or there.content != copied:
                return Violation("other file", f"{path} is {there or 'missing'}, but version {number} is in place")
        return None


# Recovery

RECOVERED_KEY = "agent:main:recovered"


@dataclass(frozen=True, slots=True)
class Recovery:
    """Opens the store of a scenario on crash states.

    Attributes:
        scenario: whose states.
        process: the process that opens it.
    """

    scenario: Scenario
    process: SerialProcess

    def __call__(self, state: CrashState, _version: int) -> str | None:
        """What is wrong with the store that comes up on a state, or None."""
        machine = machine_with(state.tree, self.scenario.parameters)
        machine.monotonic_ns += BOOT_TAKES_NS
        return self.recover(machine, state.tree.get(self.scenario.file))

    def recover(self, machine: Machine, entry: Entry | None) -> str | None:
        """Open, compare, save and compare, on a machine whose store file is `entry`."""
        expected = expected_sessions(entry)
        if expected is None:
            return self._recover_corrupt(machine)
        addition = {"recovered": True}

        def reopen(_: Process) -> str | None:
            store = open_store(self.process.modules, self.scenario)
            found = {key: dict(session) for key, session in store.load().items()}
            if found != expected:
                return f"load() after the crash shows {len(found)} sessions, not the {len(expected)} of the file"
            done = store.update(lambda draft: draft.__setitem__(RECOVERED_KEY, addition))
            return None if done.written else "the save after the crash says that it wrote nothing"

        problem = self.process.run(machine, reopen)
        return problem or self._look_at_disk(machine, expected | {RECOVERED_KEY: addition}, entry)

    def _recover_corrupt(self, machine: Machine) -> str | None:
        """A corrupt file, there before the history began, must be refused and stay as it is."""
        modules = self.process.modules
        before = content_at(machine, self.scenario.file)

        def reopen(_: Process) -> str | None:
            store = open_store(modules, self.scenario)
            for operation in (store.load, lambda: store.save({}), lambda: store.update(dict)):
                try:
                    operation()
                except modules["sessionstore"].CorruptStoreError:
                    continue
                return "a corrupt file was accepted after the crash"
            modules["sessionstore.cli.repair"].repair(self.scenario.path, lock_timeout_s=0)
            store.load()
            return None

        problem = self.process.run(machine, reopen)
        if problem is None and before not in _companions(machine, self.scenario.file).values():
            problem = "the repair after the crash kept no copy of the corrupt bytes"
        return problem or _look_at_names(machine, self.scenario.file)

    def _look_at_disk(self, machine: Machine, expected: dict[str, Any], before: Entry | None) -> str | None:
        inode = inode_at(machine, self.scenario.file)
        if inode is None or json.loads(inode.content) != expected:
            return f"the save after the crash left {None if inode is None else bytes(inode.content)!r:.100}"
        mode = 0o600 if before is None else before.mode
        if inode.mode != mode:
            return f"the save after the crash left mode {inode.mode:o} instead of {mode:o}"
        user = self.scenario.parameters
        owner = (user.uid, user.gid) if before is None else (before.uid, before.gid)
        if (inode.uid, inode.gid) != owner:
            return f"the save after the crash left a file of {inode.uid}:{inode.gid} instead of {owner}"
        return _look_at_names(machine, self.scenario.file)


def _look_at_names(machine: Machine, file: str) -> str | None:
    """Strays and surplus backups of a store file, after a save."""
    backups = 0
    for path, _ in machine.walk():
        if path.endswith(STRAY_SUFFIX):
            return f"the save after the crash left {path}"
        backups += path.startswith(file + BACKUP_MARK)
    return f"the save after the crash left {backups} backups" if backups > MAX_BACKUPS else None


@functools.lru_cache(maxsize=64)
def expected_sessions(entry: Entry | None) -> dict[str, Any] | None:
    """The sessions in a store file, read by Python's own parser; empty if there is none, None if it is corrupt.

    Not to be changed: most states of a history have one of few contents, and share what was read of it.
    """
    if entry is None:
        return {}
    try:
        found = json.loads(entry.content.decode("utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


# The histories that are checked in every run


def _steps(*kinds: StepKind | Step) -> tuple[Step, ...]:
    return tuple(kind if isinstance(kind, Step) else Step(kind=kind) for kind in kinds)


def _directory(mode: int = 0o755) -> Entry:
    return Entry("directory", mode=mode)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="first save into new directories",
        file="state/agents/main/sessions.json",
        processes=(_steps("save", "update"), _steps("update")),
    ),
    Scenario(
        name="first save into an existing directory",
        processes=(_steps("update"), _steps("save")),
        tree={"other.json": Entry("file", b"{}")},
    ),
    Scenario(
        name="growth over several blocks",
        processes=(
            (
                Step(kind="update", sessions=3, size_bytes=9_000),
                Step(kind="update with base", sessions=4, size_bytes=9_000),
            ),
            _steps(Step(kind="edit", sessions=1, size_bytes=12_000)),
        ),
        tree={FILE: store_file(sessions=3, size_bytes=300)},
    ),
    Scenario(
        name="large enough to be written in several pieces",
        processes=(_steps(Step(kind="update with base", sessions=2, size_bytes=60_000)),),
        tree={FILE: store_file(sessions=3, size_bytes=50_000)},
    ),
    Scenario(
        name="shrinking",
        processes=(_steps(Step(kind="remove", sessions=1), Step(kind="save", sessions=1), "no change"),),
        tree={FILE: store_file(sessions=4, size_bytes=6_000, mode=0o640)},
    ),
    Scenario(
        name="oversized for the cache",
        processes=(
            _steps("load", Step(kind="update with base", sessions=7, size_bytes=5_000), "read"),
            _steps("update", "read"),
        ),
        tree={FILE: store_file(sessions=6, size_bytes=5_000)},
        settings={"object_cache_max_bytes": 20_000},
    ),
    Scenario(
        name="backups by maintenance",
        processes=(
            tuple(Step(kind="update", sessions=number, size_bytes=3_000) for number in range(3)),
            tuple(Step(kind="update", sessions=number, size_bytes=3_000) for number in range(3, 5)),
        ),
        tree={FILE: store_file(sessions=3, size_bytes=3_000)},
        settings={"maintenance_mode": "enforce", "rotate_bytes": 5_000},
    ),
    Scenario(
        name="repair of a corrupt file",
        processes=(_steps("repair", "update"),),
        tree={FILE: Entry("file", store_bytes(sessions=4, size_bytes=3_000)[:9_000], mode=0o640)},
    ),
    Scenario(
        name="file behind symbolic links",
        given="here/link.json",
        file="there/real.json",
        processes=(_steps("update", "save"), _steps("update with base")),
        tree={
            "here": _directory(),
            "here/link.json": Entry("symlink", mode=0o777, target="../there/real.json"),
            "there": _directory(),
            "there/real.json": store_file(sessions=2, size_bytes=5_000, mode=0o660),
        },
    ),
    Scenario(
        name="file of another user, saved by root",
        processes=(_steps("update", "save"), _steps("update with base")),
        tree={FILE: store_file(sessions=2, size_bytes=5_000, mode=0o640)},
        parameters=MachineParameters(uid=0, gid=0),
    ),
)
