"""Runs an operation of the store with one failing call, and looks at everything that must hold afterwards.

The operation runs in the simulated machine; then, without failures, the same process looks at what it believes and
updates again. `aftermath` is what was looked at, with what breaks a promise; `telling_faults` tells it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.crashes import (
    BACKUP_MARK,
    FILE,
    NOW_MS,
    RECOVERED_KEY,
    STRAY_SUFFIX,
    Scenario,
    Step,
    content_at,
    do_step,
    key_of,
    open_store,
    store_bytes,
    store_file,
    store_process,
)
from storecheck.crash import Entry, Oracle, Recording, machine_with, record
from storecheck.crash.recovery import CrashReport, check
from storecheck.faults import FAILURES, Failure, HandlerRaisedError, Injector, one_by_one
from storecheck.machine import Machine, MachineParameters, Process
from storecheck.report.document import Aftermath
from storecheck.report.faults import CallLog, Trial, call_name, column_of, shown_error, shown_path
from storecheck.report.points import Places
from tests.crash.survivable import is_survivable

STORE = store_file(sessions=3, size_bytes=3_000, mode=0o640)
TREE = {FILE: STORE}
STRAY = f".{FILE}.sessionstore-00{STRAY_SUFFIX}"
LARGE = {"object_cache_max_bytes": 5_000}
BACKUPS = {f"{FILE}{BACKUP_MARK}{number}": Entry("file", store_bytes(sessions=number)) for number in range(3)}


def around(name: str, **options: Any) -> Scenario:
    """The surroundings of one operation."""
    return Scenario(name=name, processes=(), **({"tree": TREE} | options))


LINKED = {"link.json": Entry("symlink", mode=0o777, target=FILE), **TREE}
PIECES = {FILE: store_file(sessions=5, size_bytes=60_000, mode=0o640)}
CORRUPT = {FILE: Entry("file", STORE.content[:-1] + b"\0", mode=0o640)}
ENFORCE = {"maintenance_mode": "enforce", "rotate_bytes": 1_000}
OLD_SESSIONS = {FILE: Entry("file", STORE.content.replace(str(NOW_MS).encode(), b"1"), mode=0o640)}
AS_ROOT = MachineParameters(uid=0, gid=0)

CASES = (
    (Step(kind="load"), around("load")),
    (Step(kind="load"), around("load without a cache", settings={"cache_ttl_ms": 0})),
    (Step(kind="read"), around("read")),
    (Step(kind="read"), around("read of one entry of a large file", settings=LARGE)),
    (Step(kind="update", size_bytes=5_000), around("update")),
    (Step(kind="update with base", size_bytes=5_000), around("update with base")),
    (Step(kind="update with base"), around("update of a large file", settings=LARGE)),
    (Step(kind="update with base", sessions=2, size_bytes=90_000), around("update in several pieces", tree=PIECES)),
    (Step(kind="edit"), around("edit")),
    (Step(kind="save", sessions=2), around("save")),
    (Step(kind="save", size_bytes=5_000), around("first save", file="new/er/sessions.json", tree={})),
    (Step(kind="save"), around("save behind a link", given="link.json", tree=LINKED)),
    (Step(kind="update"), around("update with a backup", tree=TREE | BACKUPS, settings=ENFORCE)),
    (Step(kind="repair"), around("repair", tree=CORRUPT)),
    (Step(kind="remove", sessions=1), around("removal of a session")),
    (Step(kind="no change"), around("update that changes nothing")),
    (Step(kind="update"), around("update that prunes", tree=OLD_SESSIONS, settings=ENFORCE)),
    (Step(kind="update"), around("update of another's file by root", parameters=AS_ROOT)),
    (Step(kind="update"), around("update past a stray file", tree=TREE | {STRAY: Entry("file", b"{")})),
)
OPERATIONS = {surroundings.name: (step, surroundings) for step, surroundings in CASES}
WRITING = tuple(name for name in OPERATIONS if not name.startswith(("load", "read")))


_CALLS = {"update with base": "update", "remove": "update", "no change": "update"}
"""The store's method behind a step, where it has another name."""


@dataclass(slots=True)
class Attempt:
    """One run of an operation with one failing call, and what came of it."""

    machine: Machine
    injector: Injector
    step: Step
    scenario: Scenario
    before: bytes | None
    result: object = None
    expected: object = None
    error: BaseException | None = None
    held: int = 0
    descriptors: int = 0
    shown: dict[str, Any] | None = None
    again: str = ""
    after: bytes | None = None
    recording: Recording | None = None
    log: CallLog | None = None

    def __str__(self) -> str:
        return f"{self.scenario.name}, {self.injector}, raised {self.error!r}"

    @property
    def operation(self) -> str:
        """The operation as a call."""
        return f"{_CALLS.get(self.step.kind, self.step.kind)}()"


def attempt(step: Step, scenario: Scenario, injector: Injector, places: Places | None = None) -> Attempt:
    """Run the operation with the failure; then, without any, look at what the process believes and update again.

    With `places` its calls are noted.
    """
    process = store_process()
    machine = machine_with(scenario.tree, scenario.parameters)
    machine.monotonic_ns += 60_000_000_000
    injector.attach(machine)
    run = Attempt(machine, injector, step, scenario, content_at(machine, scenario.file))
    run.log = None if places is None else CallLog(injector, machine, places)
    calls = run.log or injector
    if run.before is not None and step.kind in ("load", "read"):
        sessions = json.loads(run.before)
        run.expected = sessions if step.kind == "load" else sessions[key_of(step.sessions)]

    def act(kernel_process: Process) -> None:
        injector.disarm()
        store = open_store(process.modules, scenario)
        _warm_up(store, step)
        machine.monotonic_ns += 1_000_000_000
        open_before = len(kernel_process.descriptors)
        machine.mark(kernel_process, "begin 1")
        injector.armed = True
        try:
            run.result = do_step(process.modules, store, step, 1)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - judged by the caller
            run.error = error
        else:
            machine.mark(kernel_process, "ack 1")
        injector.disarm()
        run.after = content_at(machine, scenario.file)
        run.held = sum(len(inode.flocks) for _, inode in machine.walk())
        run.descriptors = len(kernel_process.descriptors) - open_before
        process.modules["sessionstore"].process.PROCESS.cache.check()
        _use_again(process.modules, store, run)

    run.recording = record(machine, lambda: process.run(machine, act, enter=calls.enter, recorder=calls))
    return run


def _warm_up(store: Any, step: Step) -> None:
    """Something is cached that a failure could leave wrong."""
    if step.kind != "repair":
        store.load()


def _use_again(modules: Any, store: Any, run: Attempt) -> None:
    corrupt = modules["sessionstore"].CorruptStoreError
    try:
        run.shown = {key: dict(entry) for key, entry in store.load().items()}
    except corrupt:
        run.shown = None
        return
    # Without maintenance, which would do again what a failure kept it from.
    quiet = replace(run.scenario, settings={**run.scenario.settings, "maintenance_mode": "off"})
    try:
        open_store(modules, quiet).update(lambda draft: draft.__setitem__(RECOVERED_KEY, {"again": True}))
    except Exception as error:  # noqa: BLE001 - judged by the caller
        run.again = shown_error(error)


NEXT = "what the store does next"
PROMISES = {NEXT: "CACHE9"}
"""The promise that is broken where something is wrong afterwards; for the rest it depends on what failed."""


def problems_of(run: Attempt, finished: bytes | None) -> list[Aftermath]:
    """Everything about a run that breaks a promise. `finished`: the file as the operation leaves it undisturbed."""
    return [each for each in aftermath(run, finished) if each.problem]


def aftermath(run: Attempt, finished: bytes | None) -> Iterator[Aftermath]:
    """What there was before the operation and afterwards, and what of it breaks a promise."""
    ended = "reported success" if run.error is None else f"raised {shown_error(run.error)}"
    yield Aftermath(what=run.operation, before="", after=ended, problem=_problem_with_error(run, finished) or "")
    yield Aftermath(
        what=run.scenario.file,
        before=shown_version(run.before, before=run.before, finished=finished),
        after=shown_version(run.after, before=run.before, finished=finished),
        problem=_problem_with_file(run, finished) or "",
    )
    shows = "load() calls the file corrupt" if run.shown is None else f"load() shows {len(run.shown)} sessions"
    yield Aftermath(what=NEXT, before="", after=shows, problem=_problem_with_belief(run) or "")
    left = _left_behind(run)
    yield Aftermath(
        what="files beside it",
        before="",
        after=", ".join(shown_path(path) for path in left) or "none of its own",
        problem=_problem_with_leftovers(run, left) or "",
    )
    yield Aftermath(
        what="the lock",
        before="free",
        after="held" if run.held else "free",
        problem="the lock is still held" if run.held else "",
    )
    # An interrupt may fall between the call and the line that remembers the descriptor; nothing can be done there.
    wrong = run.descriptors and run.injector.failure.kind == "errno"
    yield Aftermath(
        what="descriptors",
        before="none of its own",
        after=f"{run.descriptors} more" if run.descriptors else "none of its own",
        problem=f"{run.descriptors} descriptors are still open" if wrong else "",
    )


def shown_version(content: bytes | None, *, before: bytes | None, finished: bytes | None) -> str:
    """Which version a file holds, and its size."""
    if content is None:
        return "no file"
    name = "old version" if content == before else "new version" if content == finished else "no version"
    return f"{name}, {len(content):,} B"


def _problem_with_error(run: Attempt, finished: bytes | None) -> str | None:
    error, injector = run.error, run.injector
    if not injector.hits:
        return None if error is None else "an error without a failing call"
    if injector.failure.kind == "short":
        return None if error is None else f"{run.operation} raises, although the rest could have been written"
    if error is None:
        return None if is_survivable(injector.failure, injector.hits) else f"{run.operation} reports success"
    if injector.failure.kind == "errno":
        if not isinstance(error, OSError):
            return f"what {run.operation} raises is no OSError"
        published = run.after == finished != run.before
        unknown = type(error).__name__ == "UnknownOutcomeError"
        if published and not unknown:
            return "the new content is in place, but the error does not say so"
        if unknown and not published:
            return "the outcome is called unknown, but nothing was published"
        return None
    wanted = HandlerRaisedError if injector.failure.kind == "handler raises" else KeyboardInterrupt
    return None if isinstance(error, wanted) else f"{run.operation} does not raise the {wanted.__name__} that came"


def _problem_with_file(run: Attempt, finished: bytes | None) -> str | None:
    if run.after not in (run.before, finished):
        return f"the file is neither the old nor the new version: {run.after!r:.80}"
    if run.error is None and run.after != finished:
        return f"{run.operation} reports success, but the new content is not there"
    if run.error is None and run.result is not None and run.result != run.expected:
        return f"{run.operation} returns what is not in the file: {run.result!r:.80}"
    return None


def _problem_with_belief(run: Attempt) -> str | None:
    if run.shown is None:
        return None if run.after == run.before and run.step.kind == "repair" else "load() calls the file corrupt"
    there = {} if run.after is None else json.loads(run.after)
    if run.shown != there:
        return f"load() then shows {_counted(run.shown, there)}"
    if run.again:
        return f"the next update() raises {run.again}"
    now = content_at(run.machine, run.scenario.file)
    if now is None or json.loads(now) != there | {RECOVERED_KEY: {"again": True}}:
        return "the next update did not do what it should"
    inode = next(inode for path, inode in run.machine.walk() if path == run.scenario.file)
    mode = run.scenario.tree[run.scenario.file].mode if run.scenario.file in run.scenario.tree else 0o600
    return None if inode.mode == mode else f"the file has mode {inode.mode:o} instead of {mode:o}"


def _counted(shown: dict[str, Any], there: dict[str, Any]) -> str:
    if len(shown) != len(there):
        return f"{len(shown)} sessions where the file has {len(there)}"
    return f"what the file does not hold: {next(key for key in shown if shown[key] != there.get(key))} differs"


def _left_behind(run: Attempt) -> list[str]:
    strays = [path for path, _ in run.machine.walk() if path.endswith(STRAY_SUFFIX)]
    return [path for path in strays if path not in run.scenario.tree]


def _problem_with_leftovers(run: Attempt, left: Sequence[str]) -> str | None:
    if run.injector.hit("unlink", "scandir", "listdir"):
        return None  # nobody can remove what cannot be removed; a later process sweeps
    return f"{run.operation} leaves {shown_path(left[0])} behind" if left else None


def undisturbed(step: Step, scenario: Scenario) -> bytes | None:
    """The file as the operation leaves it when nothing fails."""
    injector = Injector(Failure(kind="short"), at=10**9)
    return attempt(step, scenario, injector).after


@dataclass(frozen=True, slots=True)
class AfterFailure:
    """A run in which a call failed, as far as the operation went, and what must be found after a power loss."""

    recording: Recording
    oracle: Oracle


def until_the_end(run: Attempt, finished: bytes | None) -> AfterFailure:
    """What was acknowledged in spite of a failure survives power loss; what was not is whole."""
    assert run.recording is not None
    marks = run.recording.marks()
    events = run.recording.events
    end = next(index for index, event in enumerate(events) if getattr(event, "label", "") == marks[-1])
    oracle = Oracle(path=run.scenario.file, versions=[run.before, finished], marks=marks)
    recording = Recording(disk=run.recording.disk, events=events[: end + 1], owner=run.recording.owner)
    return AfterFailure(recording, oracle)


def power_loss_after(run: Attempt, finished: bytes | None, *, cuts: int | None) -> CrashReport:
    """All states that a power loss during such an operation, or after it, may leave."""
    found = until_the_end(run, finished)
    return check(found.recording, found.oracle, cuts=cuts)


def alike(failure: Failure) -> tuple[Failure, ...]:
    """The failures of its kind: the same error once and for ever, or all interrupts."""
    if failure.kind in ("errno", "short"):
        return tuple(each for each in FAILURES if (each.kind, each.error) == (failure.kind, failure.error))
    return tuple(each for each in FAILURES if each.kind not in ("errno", "short"))


def trials(step: Step, scenario: Scenario, failure: Failure) -> Iterator[Trial]:
    """The operation with each of its calls failing in each of these ways."""
    finished = undisturbed(step, scenario)
    for each in alike(failure):
        for injector in one_by_one(each):
            run = attempt(step, scenario, injector, Places())
            assert run.log is not None
            if injector.hits:
                came = "success" if run.error is None else type(run.error).__name__
                version = shown_version(run.after, before=run.before, finished=finished).partition(",")[0]
                problem = next((each.problem for each in problems_of(run, finished)), "")
                yield Trial(
                    call=call_name(run.log.calls), failure=each, how=column_of(each), came=f"{came}, {version}",
                    problem=problem.partition(": ")[0],
                )  # fmt: skip
