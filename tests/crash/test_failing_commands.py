"""Every system call of every command fails once: the exit status tells, and the store is whole.

Goal: WRITE5 and LOCK5 for the command line. Method: as `test_failing_calls`, with whole commands, run in the simulated
machine. A command must end with 0 and have done its work, or with another status and a message, and never anything
between; then the file, the directory and the lock are looked at, and an update must work.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

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
from storecheck.crash.recovery import check
from storecheck.faults import FAILURES, Failure, HandlerRaisedError, Injector, one_by_one
from storecheck.machine import MOUNT, Machine, Process
from storecheck.pytest_plugin import Evidence
from tests.crash.depth import cuts_of_many
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

    def __str__(self) -> str:
        ended = f"exit {self.status}" if self.error is None else repr(self.error)
        return f"{self.injector}, {ended}: {self.out.getvalue()}{self.err.getvalue()}"


@functools.cache
def command_process() -> SerialProcess:
    """A process that has the whole command line loaded."""
    process = SerialProcess("logging", "sessionstore", "sessionstore.cli.commands")
    process.image.seal()
    return process


def run_command(arguments: Sequence[str], tree: Tree, injector: Injector) -> Ran:
    """Run a command in a process of its own; then, without failures, let another one update."""
    process = command_process()
    machine = machine_with(tree)
    machine.monotonic_ns += 60_000_000_000
    injector.attach(machine)
    ran = Ran(machine, injector)
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

    ran.recording = record(machine, lambda: process.run(machine, act, enter=injector.enter, recorder=injector))
    return ran


def update_afterwards(ran: Ran) -> None:
    """Another process gets the lock with its first try and updates."""
    process = command_process()
    surroundings = Scenario(name="afterwards", processes=(), settings={"lock_timeout_s": 0})

    def act(_: Process) -> None:
        open_store(process.modules, surroundings).update(lambda draft: draft.__setitem__(RECOVERED_KEY, {}))

    process.run(ran.machine, act)


def problems_of(ran: Ran, name: str, before: bytes, finished: bytes | None, answer: str) -> list[str]:
    """Everything about a run that breaks a promise. `finished` and `answer`: what the command does undisturbed."""
    return [
        problem
        for problem in (
            _problem_with_end(ran, name, before, finished, answer),
            None if ran.after in (before, finished) else f"the file is neither old nor new: {ran.after!r:.80}",
            "the lock is still held" if ran.held else None,
            _problem_with_leftovers(ran),
            _problem_afterwards(ran),
        )
        if problem is not None
    ]


def _problem_with_end(ran: Ran, name: str, before: bytes, finished: bytes | None, answer: str) -> str | None:
    kind = ran.injector.failure.kind
    if kind == "handler raises":
        raised_or_done = isinstance(ran.error, HandlerRaisedError) or (ran.error is None and not ran.injector.hits)
        return None if raised_or_done else "not the HandlerRaisedError that was raised"
    if ran.error is not None:
        return f"a traceback: {ran.error!r}"
    if ran.status == 0:
        return _problem_with_success(ran, name, finished, answer)
    wanted = 130 if kind.startswith("interrupt") else 1
    if ran.status != wanted:
        return f"exit status {ran.status} instead of {wanted}"
    if not (ran.err.getvalue() or ran.out.getvalue()):
        return "failed without a word"
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
        return "exit status 0, but the work is not done"
    # Who holds the lock is told where the system tells.
    hits = [hit for hit in ran.injector.hits if "/proc/locks" not in hit.arguments]
    if ran.injector.failure.kind == "short" or is_survivable(ran.injector.failure, hits):
        return None
    if name not in ("set", "remove", "cleanup --enforce") and ran.out.getvalue() != answer:
        return None  # a look, before the repair or without one, that failed: the answer tells what is not known
    return "the failure was swallowed"


def _problem_with_leftovers(ran: Ran) -> str | None:
    if ran.injector.hit("unlink", "scandir", "listdir"):
        return None  # nobody can remove what cannot be removed; a later process sweeps
    left = [path for path, _ in ran.machine.walk() if path.endswith(STRAY_SUFFIX)]
    return f"left {left[0]}" if left else None


def _problem_afterwards(ran: Ran) -> str | None:
    content = content_at(ran.machine, FILE)
    sessions = expected_sessions(None if content is None else Entry("file", content))
    if sessions is None:
        return None  # corrupt before, and not repaired: nothing can be updated
    update_afterwards(ran)
    now = content_at(ran.machine, FILE)
    assert now is not None
    return None if json.loads(now) == sessions | {RECOVERED_KEY: {}} else "the next update did not do what it should"


def lost_to_power(ran: Ran, before: bytes, finished: bytes | None) -> str | None:
    """What a command acknowledged survives power loss; what it did not is whole."""
    assert ran.recording is not None
    oracle = Oracle(path=FILE, versions=[before, finished], marks=ran.recording.marks())
    report = check(ran.recording, oracle, cuts=cuts_of_many())
    return str(report) if report.failures else None


def undisturbed(arguments: Sequence[str], tree: Tree) -> Ran:
    """The command when nothing fails."""
    ran = run_command(arguments, tree, Injector(Failure(kind="short"), at=10**9))
    assert ran.error is None, str(ran)
    return ran


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_do_their_work_undisturbed(name: str) -> None:
    """What fails below works here: each command ends well, and only those that write change the file."""
    arguments, store = COMMANDS[name]
    ran = undisturbed(arguments, {FILE: store})
    assert ran.status == 0, str(ran)
    assert (ran.after != store.content) == (name in WRITING)


@pytest.mark.promise("WRITE5")
@pytest.mark.promise("READ1")
@pytest.mark.promise("LOCK5")
@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("kind", ["errno", "short", "interrupt before", "interrupt after", "handler raises"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_with_a_failing_call_says_so_and_breaks_nothing(name: str, kind: str, evidence: Evidence) -> None:
    """WRITE5, LOCK5: whichever call of a command fails or is interrupted, status and store are right afterwards."""
    arguments, store = COMMANDS[name]
    tree = {FILE: store}
    whole = undisturbed(arguments, tree)
    finished, answer = whole.after, whole.out.getvalue()
    for failure in FAILURES:
        if failure.kind != kind:
            continue
        for injector in one_by_one(failure):
            ran = run_command(arguments, tree, injector)
            evidence.add(histories=1)
            problems = problems_of(ran, name, store.content, finished, answer)
            assert not problems, f"{ran}: {problems}"
            # EINVAL is a file system that cannot sync directories: none of the models.
            if name in WRITING and injector.hits and failure.error != "EINVAL":
                lost = lost_to_power(ran, store.content, finished)
                assert lost is None, f"{ran}: {lost}"
