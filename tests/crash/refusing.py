"""Puts files before the store that it must refuse, and says at which operation it did not: for tests and the report.

`play` does what a test wrote down: `file(content, mode=…)` puts the store file there, the operations are the store's,
each in the same process. An operation on a file that is corrupt, or may not be read or written, must raise the error
that says so and leave every byte alone; `repair` must keep a copy of what it repairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from models.crashes import (
    CORRUPT_MARK,
    FILE,
    Scenario,
    content_at,
    inode_at,
    open_store,
    store_process,
)
from storecheck.crash import Entry, machine_with
from storecheck.machine import MOUNT, Machine, MachineParameters, Process
from storecheck.report import document
from storecheck.report.calls import Call, CallError, spell, understand
from storecheck.report.document import Difference
from storecheck.report.faults import shown_error
from storecheck.report.told import Told, ToldFinding, attach

PLAYER = "tests.crash.refusing:play"
OPERATIONS: Mapping[str, Callable[[Any], object]] = {
    "load": lambda store: dict(store.load()),
    "load_uncached": lambda store: dict(store.load(skip_cache=True)),
    "read": lambda store: store.read("agent:main:0"),
    "update": lambda store: store.update(lambda draft: draft.clear()).result,
    "add": lambda store: store.update(lambda draft: draft.__setitem__("agent:main:new", {})).result,
    "save": lambda store: store.save({}),
}
"""By name in a line."""

WRITING = ("update", "add", "save")
CORRUPT = "CorruptStoreError"
FORBIDDEN = "PermissionError"
MAX_SHOWN_CHARACTERS = 120


@dataclass(slots=True)
class Refusals:
    """One store file in a simulated machine, and everything that is done to it; each line is one step.

    Attributes:
        parameters: of the machine, such as the user.
        lines: what was done.
        steps: the same for people.
        wrong: what the first operation that went wrong did, or None.
    """

    parameters: MachineParameters = field(default_factory=MachineParameters)
    lines: list[str] = field(default_factory=list)
    steps: list[document.Step] = field(default_factory=list)
    wrong: ToldFinding | None = None
    corrupt: set[bytes] = field(default_factory=set)
    is_corrupt: bool = False
    machine: Machine = field(init=False)
    process: Any = field(default_factory=store_process)

    def __post_init__(self) -> None:
        self.machine = machine_with({}, self.parameters)

    def file(self, content: bytes, mode: int = 0o644, *, corrupt: bool = False) -> None:
        """Another program puts this there, as the file that is there if there is one; `corrupt`: it must be refused."""
        there = self.machine.mount.entries.get(FILE)
        if there is None:
            self.machine = machine_with({FILE: Entry("file", content, mode=mode)}, self.parameters)
        else:
            there.content[:] = content
        self.is_corrupt = corrupt
        self._note(spell("file", content, mode=f"{mode:o}", corrupt=corrupt), "", disk_changed=True)

    def do(self, name: str) -> None:
        """An operation of the store; what it must raise depends on the file."""
        before, wanted = content_at(self.machine, FILE), self._wanted(name)
        found = self.process.run(self.machine, lambda _: self._answer(OPERATIONS[name]))
        right = found[0] == wanted
        self._note(spell(name), found[1], expected=None if right else wanted or "no error")
        if not right:
            self._go_wrong("returned", wanted or "no error", found[1], title=_title(name, wanted, found))
        elif wanted is not None and content_at(self.machine, FILE) != before:
            self._go_wrong(FILE, repr(before), repr(content_at(self.machine, FILE)))
        elif wanted is not None and self._strays():
            self._go_wrong("the directory", f"{FILE} and its lock file", f"also {self._strays()[0]}")

    def repair(self) -> None:
        """The command's repair; every content that was corrupt must have a copy afterwards."""
        before = content_at(self.machine, FILE)
        if before is not None:
            self.corrupt.add(before)
        self.is_corrupt = False
        repair = self.process.modules["sessionstore.cli.repair"].repair

        def act(_: Process) -> None:
            repair(f"{MOUNT}/{FILE}", lock_timeout_s=0)

        self.process.run(self.machine, act)
        copies = {content for path, content in self.machine.files().items() if CORRUPT_MARK in path}
        self._note(spell("repair"), f"copies kept: {len(copies)}", disk_changed=True)
        if copies != self.corrupt:
            lost = next(iter(self.corrupt - copies), b"")
            title = f"A repair leaves no copy of a damaged {FILE} that was there before"
            self._go_wrong("copies of what was corrupt", repr(lost), "no copy", title=title)

    def _wanted(self, name: str) -> str | None:
        inode = inode_at(self.machine, FILE)
        assert inode is not None
        allowed = inode.mode if self.parameters.uid else 0o600
        if not allowed & 0o400 or (name in WRITING and not allowed & 0o200):
            return FORBIDDEN
        return CORRUPT if self.is_corrupt else None

    def _answer(self, operation: Callable[[Any], object]) -> tuple[str | None, str]:
        """Name of the error, and what to show of the answer."""
        store = open_store(self.process.modules, Scenario(name="", processes=()))
        size = len(content_at(self.machine, FILE) or b"")
        try:
            result = operation(store)
        except self.process.modules["sessionstore"].CorruptStoreError as error:
            if error.path != f"{MOUNT}/{FILE}" or not 0 <= error.offset <= size:
                return "wrong place", f"{CORRUPT} for {error.path} at byte {error.offset}"
            return CORRUPT, CORRUPT
        except Exception as error:  # noqa: BLE001 - which one escaped is what is told
            return type(error).__name__, _cut(shown_error(error))
        return None, _cut(f"accepted, returned {result!r}")

    def _strays(self) -> list[str]:
        known = (FILE, f"{FILE}.flock")
        return [path for path, _ in self.machine.walk() if path not in known and CORRUPT_MARK not in path]

    def _note(self, line: str, returned: str, *, expected: str | None = None, disk_changed: bool = False) -> None:
        content = content_at(self.machine, FILE)
        version = (self.steps[-1].disk if self.steps else 0) + disk_changed
        self.lines.append(line)
        self.steps.append(
            document.Step(
                number=len(self.steps) + 1, process=0, call=line, loose=(), model="", disk=version,
                disk_changed=disk_changed, disk_bytes=None if content is None else len(content), returned=returned,
                expected=expected, cache="",
            )
        )  # fmt: skip

    def _go_wrong(self, about: str, expected: str, found: str, *, title: str = "") -> None:
        if self.wrong is None:
            differs = Difference(field="(all)", expected=_cut(expected), found=_cut(found))
            message = f"{self.lines[-1].partition('(')[0]}: {about} is {found[:200]}, expected {expected[:200]}"
            self.wrong = ToldFinding(about=about, message=message, differences=(differs,), title=title)

    def hold(self, *, promise: str) -> None:
        """Fail if an operation went wrong, and carry what was done up to it into the report.

        Raises:
            AssertionError: with a counterexample attached.
        """
        if self.wrong is not None:
            error = AssertionError(self.wrong.message)
            attach(error, player=PLAYER, lines=_lines(self), promise=promise)
            raise error


def _title(name: str, wanted: str | None, found: tuple[str | None, str]) -> str:
    """A sentence about the file and the answer."""
    if wanted is None:
        return f"{name}() refuses a {FILE} that is as it should be: {found[0]}"
    file = (
        f"a damaged {FILE}"
        if wanted == CORRUPT
        else f"a {FILE} that it may not {'write' if name in WRITING else 'read'}"
    )
    if found[0] is not None:
        return f"{name}() of {file} raises {found[0]} instead of {wanted}"
    return f"{name}() {'replaces' if name in WRITING else 'believes'} {file}"


def _lines(refusals: Refusals) -> list[str]:
    user = refusals.parameters.uid
    first = [] if refusals.parameters == MachineParameters() else [spell("user", user)]
    return [*first, *refusals.lines]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}…"


def play(lines: Sequence[str]) -> Told:
    """Do what was written down again, up to the first operation that goes wrong.

    Raises:
        CallError: a line is not understood.
    """
    understood = [understand(line, {}) for line in lines]
    refusals = Refusals()
    for call in understood:
        if refusals.wrong is None:
            _do(refusals, call)
    return Told(file=FILE, steps=tuple(refusals.steps), finding=refusals.wrong, environment={"Machine": "simulated"})


def _do(refusals: Refusals, call: Call) -> None:
    if call.name == "user":
        uid = cast("int", call.arguments[0])
        refusals.parameters = MachineParameters(uid=uid, gid=uid)
        refusals.machine = machine_with({}, refusals.parameters)
    elif call.name == "file":
        mode, corrupt = int(str(call.keywords["mode"]), 8), bool(call.keywords["corrupt"])
        refusals.file(cast("bytes", call.arguments[0]), mode, corrupt=corrupt)
    elif call.name == "repair":
        refusals.repair()
    elif call.name in OPERATIONS:
        refusals.do(call.name)
    else:
        raise CallError(f"{call.name!r} is nothing that can be done to a file here")
