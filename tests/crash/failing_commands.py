"""Runs a command of `sessionstore` with one failing call, and looks at everything that must hold afterwards.

As `failing_calls`, with whole commands. A command must end with 0 and have done its work, or with another status and a
message, and never anything between.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from models.crashes import (
    FILE,
    NOW_MS,
    RECOVERED_KEY,
    STRAY_SUFFIX,
    Scenario,
    content_at,
    expected_sessions,
    key_of,
    open_store,
    store_file,
)
from storecheck.crash import Entry, Oracle, Recording, SerialProcess, Tree, machine_with, record
from storecheck.crash.recovery import CrashReport, check
from storecheck.faults import Failure, HandlerRaisedError, Injector, one_by_one
from storecheck.machine import MOUNT, Machine, Process
from storecheck.report.document import Aftermath
from storecheck.report.faults import CallLog, Trial, call_name, column_of, shown_error, shown_path
from storecheck.report.points import Places
from tests.crash.failing_calls import NEXT, AfterFailure, alike, shown_version
from tests.crash.survivable import is_survivable

STORE = store_file(sessions=3, size_bytes=3_000, mode=0o640)
OLD = {"agent:main:old": {"sessionId": "old", "updatedAt": NOW_MS - 40 * 86_400_000}}
WITH_OLD = Entry("file", json.dumps(json.loads(STORE.content) | OLD, indent=2).encode(), mode=0o640)
CORRUPT = Entry("file", STORE.content[:-1] + b"\0", mode=0o640)

COMMANDS: dict[str, tuple[tuple[str, ...], Entry]] = {
    "set": (("set", "agent:main:9", '{"label": "new"}'), STORE),
    "remove": (("remove", key_of(1)), STORE),
    "cleanup": (("cleanup",), WITH_OLD),
    "cleanup --enforce": (("cleanup", "--enforce"), WITH_OLD),
    "doctor": (("doctor",), STORE),
    "doctor --repair": (("doctor", "--repair"), CORRUPT),
    "show": (("show", key_of(1)), STORE),
    "list": (("list", "--json"), STORE),
    "status": (("status",), STORE),
}
WRITING = ("set", "remove", "cleanup --enforce", "doctor --repair")


@dataclass(slots=True)
class Ran:
    """One command with one failing call, and what came of it."""

    machine: Machine
    injector: Injector
    status: int | None = None
    error: BaseException | None = None
    out: io.StringIO = field(default_factory=io.StringIO)
    err: io.StringIO = field(default_factory=io.StringIO)
    held: int = 0
    after: bytes | None = None
    recording: Recording | None = None
    log: CallLog | None = None
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        ended = f"exit {self.status}" if self.error is None else repr(self.error)
        return f"{self.injector}, {ended}: {self.said}"

    @property
    def said(self) -> str:
        """What it printed."""
        return f"{self.out.getvalue()}{self.err.getvalue()}"

    @property
    def name(self) -> str:
        """The command and its options, without what it is about."""
        return " ".join(each for each in self.arguments[:2] if each == self.arguments[0] or each.startswith("--"))

    @property
    def ended(self) -> str:
        """How it ended."""
        if self.error is not None:
            return f"raised {shown_error(self.error)}"
        return f"exited with status {self.status}"


@functools.cache
def command_process() -> SerialProcess:
    """A process that has the whole command line loaded."""
    process = SerialProcess("logging", "sessionstore", "sessionstore.cli.commands")
    process.image.seal()
    return process


def run_command(arguments: Sequence[str], tree: Tree, injector: Injector, places: Places | None = None) -> Ran:
    """Run a command in a process of its own; with `places` its calls are noted."""
    process = command_process()
    machine = machine_with(tree)
    machine.monotonic_ns += 60_000_000_000
    injector.attach(machine)
    ran = Ran(machine, injector, arguments=tuple(arguments))
    ran.log = None if places is None else CallLog(injector, machine, places)
    calls = ran.log or injector
    commands = process.modules["sessionstore.cli.commands"]

    def act(kernel_process: Process) -> None:
        machine.mark(kernel_process, "begin 1")
        try:
            with contextlib.redirect_stdout(ran.out), contextlib.redirect_stderr(ran.err):
                commands.sessionstore.main(args=["--store", f"{MOUNT}/{FILE}", *arguments], prog_name="sessionstore")
        except SystemExit as ended:
            ran.status = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - judged by the caller
            ran.error = error
        if ran.status == 0:
            machine.mark(kernel_process, "ack 1")
        injector.disarm()
        ran.after = content_at(machine, FILE)
        ran.held = sum(len(inode.flocks) for _, inode in machine.walk())

    ran.recording = record(machine, lambda: process.run(machine, act, enter=calls.enter, recorder=calls))
    return ran


def update_afterwards(ran: Ran) -> None:
    """Another process gets the lock with its first try and updates."""
    process = command_process()
    surroundings = Scenario(name="afterwards", processes=(), settings={"lock_timeout_s": 0})

    def act(_: Process) -> None:
        open_store(process.modules, surroundings).update(lambda draft: draft.__setitem__(RECOVERED_KEY, {}))

    process.run(ran.machine, act)


@dataclass(frozen=True, slots=True)
class Whole:
    """What a command does when nothing fails: the file before and after it, and what it prints."""

    before: bytes
    finished: bytes | None
    answer: str


def problems_of(ran: Ran, whole: Whole) -> list[Aftermath]:
    """Everything about a run that breaks a promise."""
    return [each for each in aftermath(ran, whole) if each.problem]


def aftermath(ran: Ran, whole: Whole) -> Iterator[Aftermath]:
    """What there was before the command and afterwards, and what of it breaks a promise."""
    before, finished = whole.before, whole.finished
    said = " ".join(ran.said.split())
    yield Aftermath(
        what=f"sessionstore {ran.name}",
        before="",
        after=f"{ran.ended}: {said}" if said else ran.ended,
        problem=_problem_with_end(ran, ran.name, before, finished, whole.answer) or "",
    )
    neither = f"the file is neither old nor new: {ran.after!r:.80}"
    yield Aftermath(
        what=FILE,
        before=shown_version(before, before=before, finished=finished),
        after=shown_version(ran.after, before=before, finished=finished),
        problem="" if ran.after in (before, finished) else neither,
    )
    yield Aftermath(
        what="the lock",
        before="free",
        after="held" if ran.held else "free",
        problem="the lock is still held" if ran.held else "",
    )
    left = [path for path, _ in ran.machine.walk() if path.endswith(STRAY_SUFFIX)]
    # Nobody can remove what cannot be removed; a later process sweeps.
    excused = ran.injector.hit("unlink", "scandir", "listdir")
    yield Aftermath(
        what="files beside it",
        before="",
        after=", ".join(map(shown_path, left)) or "none of its own",
        problem=f"the command leaves {shown_path(left[0])} behind" if left and not excused else "",
    )
    problem = _problem_afterwards(ran) or ""
    yield Aftermath(what=NEXT, before="", after="differs" if problem else "an update works", problem=problem)


def _problem_with_end(ran: Ran, name: str, before: bytes, finished: bytes | None, answer: str) -> str | None:
    kind = ran.injector.failure.kind
    if kind == "handler raises":
        raised_or_done = isinstance(ran.error, HandlerRaisedError) or (ran.error is None and not ran.injector.hits)
        return None if raised_or_done else "the HandlerRaisedError that came is not raised"
    if ran.error is not None:
        return f"the command ends with a traceback: {shown_error(ran.error)}"
    if ran.status == 0:
        return _problem_with_success(ran, name, finished, answer)
    wanted = 130 if kind.startswith("interrupt") else 1
    if ran.status != wanted:
        return f"the command ends with status {ran.status} instead of {wanted}"
    if not (ran.err.getvalue() or ran.out.getvalue()):
        return "the command fails without a word"
    if kind == "errno" and ran.after == finished != before and not _tells_of_the_outcome(ran, name):
        return "the new content is in place, but the message does not say so"
    return None


def _tells_of_the_outcome(ran: Ran, name: str) -> bool:
    # A repair says what it did; what fails then is the look at the repaired file.
    return "outcome unknown" in ran.err.getvalue() or (
        name == "doctor --repair" and "the file now holds" in ran.out.getvalue()
    )


def _problem_with_success(ran: Ran, name: str, finished: bytes | None, answer: str) -> str | None:
    if ran.after != finished:
        return "the command ends with status 0, but the work is not done"
    # Who holds the lock is told where the system tells.
    hits = [hit for hit in ran.injector.hits if "/proc/locks" not in hit.arguments]
    if ran.injector.failure.kind == "short" or is_survivable(ran.injector.failure, hits):
        return None
    if name not in ("set", "remove", "cleanup --enforce") and ran.out.getvalue() != answer:
        return None  # a look, before the repair or without one, that failed: the answer tells what is not known
    return "the command ends with status 0, as if nothing had failed"


def _problem_afterwards(ran: Ran) -> str | None:
    content = content_at(ran.machine, FILE)
    sessions = expected_sessions(None if content is None else Entry("file", content))
    if sessions is None:
        return None  # corrupt before, and not repaired: nothing can be updated
    try:
        update_afterwards(ran)
    except Exception as error:  # noqa: BLE001 - whatever keeps another process from its update
        return f"the next update() raises {shown_error(error)}"
    now = content_at(ran.machine, FILE)
    assert now is not None
    return None if json.loads(now) == sessions | {RECOVERED_KEY: {}} else "the next update did not do what it should"


def until_the_end(ran: Ran, whole: Whole) -> AfterFailure:
    """What a command acknowledged survives power loss; what it did not is whole."""
    assert ran.recording is not None
    oracle = Oracle(path=FILE, versions=[whole.before, whole.finished], marks=ran.recording.marks())
    return AfterFailure(ran.recording, oracle)


def lost_to_power(ran: Ran, whole: Whole, *, cuts: int | None) -> CrashReport:
    """All states that a power loss during a command, or after it, may leave."""
    found = until_the_end(ran, whole)
    return check(found.recording, found.oracle, cuts=cuts)


def undisturbed(arguments: Sequence[str], tree: Tree) -> Ran:
    """The command when nothing fails."""
    ran = run_command(arguments, tree, Injector(Failure(kind="short"), at=10**9))
    assert ran.error is None, str(ran)
    return ran


def whole_of(arguments: Sequence[str], tree: Tree) -> Whole:
    """The same, in short."""
    ran = undisturbed(arguments, tree)
    return Whole(tree[FILE].content, ran.after, ran.out.getvalue())


def trials(arguments: Sequence[str], tree: Tree, failure: Failure) -> Iterator[Trial]:
    """The command with each of its calls failing in each way of that kind."""
    whole = whole_of(arguments, tree)
    for each in alike(failure):
        for injector in one_by_one(each):
            ran = run_command(arguments, tree, injector, Places())
            assert ran.log is not None
            if injector.hits:
                version = shown_version(ran.after, before=whole.before, finished=whole.finished).partition(",")[0]
                came = f"status {ran.status}" if ran.error is None else type(ran.error).__name__
                problem = next((it.problem for it in problems_of(ran, whole)), "")
                yield Trial(
                    call=call_name(ran.log.calls), failure=each, how=column_of(each), came=f"{came}, {version}",
                    problem=problem.partition(": ")[0],
                )  # fmt: skip
