"""Writes down what a state machine does, and does it again without Hypothesis.

`TellingChecker` is the checker of every machine: it keeps each operation as a line. `play` does such lines again, in a
world of their own, and says for each what the model, the disk and the cache were afterwards, for the report.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from models import specification, workloads
from models.caches import Limits
from models.specification import Maintenance
from models.workloads import Change, Manner
from storecheck.report.calls import Call, CallError, spell, understand
from storecheck.report.document import Step
from storecheck.report.sequences import CACHED, changes, differences
from storecheck.report.told import Told, ToldFinding
from tests.stateful.checker import (
    HERE,
    STORE,
    VARIABLES,
    Checker,
    DisagreementError,
    Taken,
    Target,
    Way,
)
from tests.stateful.world import World, reachable

PLAYER = "tests.stateful.telling:play"
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class FromStep:
    """The snapshot that a step returned, as the base of another."""

    number: int


class TellingWorld(World):
    """A world whose clocks are moved by calls that are written down."""

    def __init__(self, lines: list[str], **options: Any) -> None:
        self.lines = lines
        lines.append(spell("world", **options))
        super().__init__(**options)

    def advance(self, duration_ns: int) -> None:
        """Let time pass."""
        self.lines.append(spell("advance", duration_ns))
        super().advance(duration_ns)

    def step_wall(self, difference_ns: int) -> None:
        """Set the wall clock."""
        self.lines.append(spell("step_wall", difference_ns))
        super().step_wall(difference_ns)


class TellingChecker(Checker):
    """A checker that keeps every operation as a line."""

    def __init__(self, world: TellingWorld) -> None:
        super().__init__(world)
        self.lines = world.lines
        self.broken = False
        self._told: tuple[Limits, Maintenance] = (self.limits, self.rules)
        self._told_environment: dict[str, str | None] = {}
        self._taken_at: dict[int, int] = {}

    def load(self, target: Target = HERE, *, skip_cache: bool = False) -> None:
        """Load everything."""
        with self._step("load", *_target(target), **_given(skip_cache=skip_cache)):
            super().load(target, skip_cache=skip_cache)

    def read(self, key: str, target: Target = HERE) -> None:
        """Read one session."""
        with self._step("read", key, *_target(target)):
            super().read(key, target)

    def update(
        self,
        change: Change,
        target: Target = HERE,
        *,
        base: Taken | None = None,
        active_session: str | None = None,
        way: Way = "update",
    ) -> None:
        """Run a change."""
        from_step = None if base is None else FromStep(self._taken_at[id(base)])
        with self._step(way, change, *_target(target), **_given(base=from_step, active_session=active_session)):
            super().update(change, target, base=base, active_session=active_session, way=way)

    def save(self, sessions: Mapping[Any, Any], target: Target = HERE, *, active_session: str | None = None) -> None:
        """Replace everything."""
        with self._step("save", dict(sessions), *_target(target), **_given(active_session=active_session)):
            super().save(sessions, target, active_session=active_session)

    def rewrite(self, content: bytes, manner: Manner, *, name: str = STORE) -> None:
        """A foreign program changes the file."""
        with self._step("rewrite", content, manner, **_given(name=None if name == STORE else name)):
            super().rewrite(content, manner, name=name)

    def restart(self, image: int) -> None:
        """The process ends and another begins."""
        with self._step("restart", image):
            super().restart(image)

    def check_taken(self, number: int) -> None:
        """An old snapshot still says what it said."""
        with self._step("check_taken", number):
            super().check_taken(number)

    def check(self) -> None:
        """Every invariant that holds between operations."""
        try:
            super().check()
        except Exception:
            self.broken = True
            raise

    @contextlib.contextmanager
    def _step(self, verb: str, /, *arguments: object, **keywords: object) -> Iterator[None]:
        self._tell_settings()
        self.lines.append(spell(verb, *arguments, **keywords))
        try:
            yield
        except Exception:
            self.broken = True
            raise
        finally:
            if self.taken:
                self._taken_at.setdefault(id(self.taken[-1]), len(self.lines) - 1)

    def _tell_settings(self) -> None:
        """Settings are attributes: what changed since the last operation is told before the next."""
        limits, rules = self._told
        if self.limits != limits and not self.by_environment:
            self.lines.append(spell("limits", self.limits))
        if self.rules != rules:
            self.lines.append(spell("rules", self.rules))
        self._told = (self.limits, self.rules)
        if self.by_environment:
            now = {variable: os.environ.get(variable) for variable in VARIABLES}
            if now != self._told_environment:
                self.lines.append(spell("environment", now, self.limits))
                self._told_environment = now


def _target(target: Target) -> tuple[Target, ...]:
    return () if target == HERE else (target,)


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value not in (None, False)}


# Doing it again

NAMES: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        FromStep, Limits, Maintenance, Target, workloads.DropField, workloads.EditAndRevert, workloads.FailAfter,
        workloads.Nothing, workloads.PutEntry, workloads.ReassignEntry, workloads.RemoveEntry, workloads.SetField,
        workloads.Together,
    )
}  # fmt: skip
"""What may stand in a line."""


def play(lines: Sequence[str]) -> Told:
    """Do the calls of a state machine again.

    Raises:
        CallError: a line is not understood.
    """
    understood = [understand(line, NAMES) for line in lines]
    if not understood or understood[0].name != "world":
        raise CallError("the first call makes the world")
    before = {variable: os.environ.get(variable) for variable in VARIABLES}
    world = TellingWorld([], **understood[0].keywords)
    try:
        return _Play(world, lines, understood).play()
    finally:
        world.close()
        for variable, value in before.items():
            _set_variable(variable, value)


def _set_variable(variable: str, value: str | None) -> None:
    os.environ.pop(variable, None)
    if value is not None:
        os.environ[variable] = value


@dataclass(slots=True)
class _Seen:
    """What a step was seen to do, besides what the checker compares."""

    result: Any = None
    returned: str = ""
    work: str = ""


class _WatchedChecker(Checker):
    """A checker that also keeps what an operation returned, and how much work it was."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.seen_last = _Seen()

    def _perform(self, target: Target, outcome: Any, call: Callable[[Any], Any], work: Callable[[], Any]) -> Any:
        store = self.store(target)
        before = store.stats()
        self.seen_last = _Seen()

        def watched(each: Any) -> Any:
            try:
                result = call(each)
            except Exception as error:
                self.seen_last.returned = f"raises {type(error).__name__}"
                raise
            self.seen_last.result, self.seen_last.returned = result, _shown_result(result)
            return result

        try:
            return super()._perform(target, outcome, watched, work)
        finally:
            self.seen_last.work = _shown_work(before, store.stats())


def _shown_result(result: Any) -> str:
    if isinstance(result, tuple):  # of an update: result of the mutator, snapshot, reused and written
        result = result[0]
    if isinstance(result, Mapping) and not isinstance(result, dict):
        return f"{len(result)} session{'' if len(result) == 1 else 's'}"
    text = repr(result)
    return "" if result is None else text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _shown_work(before: Any, after: Any) -> str:
    if after.parses > before.parses:
        return "file read and parsed"
    if after.file_reads > before.file_reads:
        return "file read, same as cached"
    return CACHED


@dataclass(slots=True)
class _Play:
    world: TellingWorld
    lines: Sequence[str]
    calls: Sequence[Call]
    checker: _WatchedChecker = field(init=False)
    versions: dict[str, list[bytes | None]] = field(default_factory=lambda: {STORE: [None]})
    taken: dict[int, Taken] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.checker = _WatchedChecker(self.world)

    def play(self) -> Told:
        """All calls, until one fails."""
        finding = None
        for number, call in enumerate(self.calls):
            if number and finding is None:
                finding = self._do(number, call)
        options = self.calls[0].keywords
        return Told(
            file=self._name(self.calls[-1]),
            steps=tuple(self.steps),
            finding=finding,
            environment={
                "Machine": "real files, with a clock that only moves when a step moves it",
                "Time stamps": f"{options.get('granularity_ns', 1):,} ns apart at best",
                "Inode numbers": "all the same" if options.get("reused_inodes") else "as the file system gives them",
                "Processes": f"{options.get('images', 1)} images of the package in one process",
            },
        )

    def _do(self, number: int, call: Call) -> ToldFinding | None:
        name = self._name(call)
        before, existed = self._sessions(name), self.checker.contents.get(name) is not None
        self.checker.seen_last = _Seen()
        finding = None
        try:
            self._operation(call)
            self.checker.check()
        except DisagreementError as error:
            finding = self._wrong_answer(call, name) or _finding(error)
        except CallError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the store raises is what is looked for
            finding = ToldFinding(about=type(error).__name__, message=f"{type(error).__name__}: {error}")
        if self.checker.taken:
            self.taken.setdefault(number, self.checker.taken[-1])
        self._tell(number, call, name=name, before=before, existed=existed, finding=finding)
        return finding if finding is None or finding.about != "work done" else self._with_title(finding)

    def _with_title(self, finding: ToldFinding) -> ToldFinding:
        """Counters that differ say something about the data: which version was taken for another."""
        step, first = self.steps[-1], finding.differences[0]
        fewer = int(first.found or 0) < int(first.expected or 0)
        meant = _MEANT.get((first.field, fewer))
        if meant is None:
            return finding
        name = step.call.partition("(")[0]
        return replace(finding, title=f"P{step.process + 1}'s {name} {meant.format(version=f'v{step.disk}')}")

    def _wrong_answer(self, call: Call, name: str) -> ToldFinding | None:
        """What is wrong with the answer: where the work differs, the answer mostly does, and says more."""
        content, result = self.checker.contents.get(name), self.checker.seen_last.result
        if call.name == "load" and isinstance(result, Mapping):
            outcome, found = specification.load(content), {key: result[key] for key in result}
        elif call.name == "read":
            outcome, found = specification.read(content, str(call.arguments[0])), result
        else:
            return None
        told = tuple(differences(outcome.result, found))
        if outcome.failure is not None or not told:
            return None
        message = f"{call.name} answers {found!r}, the model says {outcome.result!r}"
        return ToldFinding(about="returned", message=message, differences=told)

    def _operation(self, call: Call) -> None:
        arguments, keywords = list(call.arguments), dict(call.keywords)
        base = keywords.get("base")
        if isinstance(base, FromStep):
            keywords["base"] = self.taken[base.number]
        match call.name:
            case "update" | "edit":
                self.checker.update(*arguments, **keywords, way=call.name)  # type: ignore[arg-type]
            case "load" | "read" | "save" | "rewrite" | "restart" | "check_taken":
                getattr(self.checker, call.name)(*arguments, **keywords)
            case "advance" | "step_wall":
                getattr(self.world, call.name)(*arguments)
            case "limits":
                self.checker.limits = arguments[0]  # type: ignore[assignment]
            case "rules":
                self.checker.rules = arguments[0]  # type: ignore[assignment]
            case "environment":
                self.checker.by_environment, self.checker.limits = True, arguments[1]  # type: ignore[assignment]
                for variable, value in arguments[0].items():  # type: ignore[attr-defined]
                    _set_variable(variable, value)
            case _:
                raise CallError(f"{call.name!r} is no operation of a checker")

    def _name(self, call: Call) -> str:
        """The file that a call is about."""
        targets = [each for each in call.arguments if isinstance(each, Target)]
        return targets[0].name if targets else str(call.keywords.get("name", STORE))

    def _image(self, call: Call) -> int:
        targets = [each for each in call.arguments if isinstance(each, Target)]
        restarted = call.arguments[0] if call.name == "restart" else 0
        return targets[0].image if targets else int(str(restarted))

    def _sessions(self, name: str) -> Any:
        content = self.checker.contents.get(name)
        outcome = specification.load(content)
        return "corrupt" if outcome.failure is not None else outcome.result

    def _tell(
        self, number: int, call: Call, *, name: str, before: Any, existed: bool, finding: ToldFinding | None
    ) -> None:
        content = self.world.content(self.world.path(name))
        versions = self.versions.setdefault(name, [None])
        made = content != versions[-1]
        if made:
            versions.append(content)
        first = finding.differences[0] if finding is not None and finding.differences else None
        seen = self.checker.seen_last
        answered = seen.returned
        expected = None
        if finding is not None and finding.about == "returned" and first is not None:
            answered, expected = (f"{_field(first.field)}{text or 'nothing'}" for text in (first.found, first.expected))
        work = seen.work if existed else "no file to read"
        self.steps.append(
            Step(
                number=number,
                process=self._image(call),
                call=self.lines[number],
                loose=(),
                model=changes(before, self._sessions(name)),
                disk=len(versions) - 1,
                disk_changed=made,
                disk_bytes=None if content is None else len(content),
                returned=answered,
                expected=expected,
                cache=f"{work}, {self._held(self._image(call), versions)}" if seen.work else "",
            )
        )

    def _held(self, image: int, versions: list[bytes | None]) -> str:
        """Which version the process holds in memory."""
        process = self.world.images[image].process
        held = {bytes(found) for found in reachable(process) if isinstance(found, bytes | bytearray)}
        numbers = [number for number, content in enumerate(versions) if content is not None and content in held]
        return f"holds v{numbers[-1]}" if numbers else "holds no content"


_MEANT: Mapping[tuple[str, bool], str] = {
    ("file_reads", True): "answers for {version} of the file without having read it",
    ("file_reads", False): "reads {version} of the file again, which it knew",
    ("parses", True): "takes {version} of the file for content that it knew",
    ("parses", False): "parses {version} of the file again, which it knew",
    ("snapshot_reuses", True): "does not build on a base that is {version} of the file",
    ("snapshot_reuses", False): "builds on a base that is not {version} of the file",
    ("writes", True): "leaves {version} of the file, which it had to replace",
    ("writes", False): "writes {version} of the file although nothing changed",
}
"""What it means for the data that a counter of the store is lower (True) or higher than the model's."""


def _finding(error: DisagreementError) -> ToldFinding:
    about = error.what.removeprefix("content of ")
    if about.startswith(("snapshot", "read(", "result of the mutator")):
        about = "returned"
    told = tuple(differences(_readable(error.expected), _readable(error.found)))
    told = told or tuple(differences(repr(error.expected), repr(error.found)))
    return ToldFinding(about=about, message=str(error), differences=told)


def _readable(value: object) -> object:
    """File contents as the sessions in them, if they can be read."""
    outcome = specification.load(value) if isinstance(value, bytes) else None
    return outcome.result if outcome is not None and outcome.failure is None else value


def _field(name: str) -> str:
    return "" if name == "(all)" else f"{name} = "
