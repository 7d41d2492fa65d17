"""Runs a counterexample again and keeps what a report shows of it: calls, versions of files, source lines.

`observe` executes one schedule with a recorder that adds to the lanes where in the code under test each call was made,
and what the files held after it. `Observation` is the material from which races and sequences are told; it judges
nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from storecheck.lanes import Line, TraceRecorder, with_operations
from storecheck.program import ROOT, Program
from storecheck.runner import Execution, Runner
from storecheck.schedule import Fault, FaultPlan, Replay
from storecheck.schedule.executor import Chooser
from storecheck.syscalls import Context, Transform

MAX_FRAMES: Final = 60
"""Frames looked at to find the line of the code under test that made a call."""

_SEES: Final = re.compile(r"(?:STALE: )?sees v(\d+) of (.+?)(?:, the disk holds v(\d+))?$")
_PUBLISHES: Final = re.compile(r"publishes v(\d+) of (.+)|(.+) is gone \(v(\d+)\)")
_OVERWRITES: Final = re.compile(r"OVERWRITES v(\d+) \((.+)\): built from v(\d+)")
_HOLDS: Final = re.compile(r"(holds|frees) (.+)")
_CALL: Final = re.compile(r"(\w+)\((.*)\)(.*)$", re.DOTALL)
_FAILED: Final = re.compile(r" !\w+$")
_TARGET: Final = re.compile(r"""<([^>]+)>|'([^']+)'""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of the code under test. `text` is the line as it ran, planted bugs included; `frame` tells calls apart."""

    path: str
    line: int
    text: str
    function: str
    frame: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line of the lanes, read.

    `verb` and `target` name the call; `number` counts calls of that verb on that target by that process, so that the
    same call is found in another schedule. `stack` are the lines of the code under test, outermost first.
    """

    line: Line
    verb: str
    target: str
    number: int
    stack: tuple[Place, ...]
    sees: int | None = None
    stale_against: int | None = None
    publishes: int | None = None
    file: str = ""
    overwrites: int | None = None
    takes: str = ""
    frees: str = ""

    @property
    def failed(self) -> bool:
        """Whether the call raised."""
        return bool(_FAILED.search(self.line.text))

    @property
    def place(self) -> str:
        """The innermost line of the code under test, `path:line`, or empty."""
        return str(self.stack[-1]) if self.stack else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One observed run.

    Attributes:
        execution: the run.
        happenings: lanes, in order.
        contents: content of each file by version, None where there is none.
        authors: who made a version: process and index of the happening; (-1, -1) for the start.
        sources: text of the code under test by path.
    """

    execution: Execution
    happenings: tuple[Happening, ...]
    contents: Mapping[str, list[bytes | None]]
    authors: Mapping[tuple[str, int], tuple[int, int]]
    sources: Mapping[str, list[str]]


@dataclass(slots=True)
class Places:
    """Finds the lines of the code under test that made a call, and keeps the text of what it met.

    Attributes:
        transform: what plants a bug, so that the lines shown are those that ran.
        sources: text of the code under test, by path.
    """

    transform: Transform | None = None
    sources: dict[str, list[str]] = field(default_factory=dict)

    def stack(self, frame: FrameType | None) -> tuple[Place, ...]:
        """The frames that are neither the verifier's nor the standard library's, outermost first."""
        found: list[Place] = []
        for _ in range(MAX_FRAMES):
            if frame is None:
                break
            module = str(frame.f_globals.get("__name__", ""))
            if not module.startswith("storecheck") and _is_project_file(frame.f_code.co_filename):
                found.append(self._place_of(module, frame))
            frame = frame.f_back
        return tuple(reversed(found))

    def _place_of(self, module: str, frame: FrameType) -> Place:
        path, line = frame.f_code.co_filename, frame.f_lineno
        shown = os.path.relpath(path)
        lines = self.sources.get(shown)
        if lines is None:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if self.transform is not None:
                text = self.transform(module, text)
            lines = self.sources[shown] = text.splitlines()
        text = lines[line - 1].strip() if line <= len(lines) else ""
        return Place(path=shown, line=line, text=text, function=frame.f_code.co_name, frame=id(frame))


@dataclass(slots=True)
class _Recorder:
    """Adds places and contents to what `TraceRecorder` notes."""

    inner: TraceRecorder
    places_of: Places
    files: Mapping[str, bytes]
    with_places: bool = True
    places: list[tuple[Place, ...]] = field(default_factory=list)
    contents: dict[str, list[bytes | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contents.update({path: [content] for path, content in self.files.items()})

    def call_ended(
        self, *, context: Context, name: str, arguments: tuple[object, ...], result: object, error: BaseException | None
    ) -> None:
        """After every intercepted call."""
        before = len(self.inner.lines)
        self.inner.call_ended(context=context, name=name, arguments=arguments, result=result, error=error)
        if len(self.inner.lines) == before:
            return
        self.places.append(self.places_of.stack(sys._getframe(1)) if self.with_places else ())  # noqa: SLF001 - the documented way to the caller's frame
        for note in self.inner.lines[-1].notes:
            published = _PUBLISHES.fullmatch(note)
            if published is not None:
                path = published[2] or published[3]
                content = context.machine.files().get(f"{ROOT}/{path}")
                self.contents.setdefault(path, [None]).append(content)


def _is_project_file(path: str) -> bool:
    return path.endswith(".py") and "site-packages" not in path and not path.startswith((sys.prefix, sys.base_prefix))


def observe(
    program: Program,
    *,
    chooser: Chooser,
    faults: tuple[Fault, ...] = (),
    transform: Transform | None = None,
    runner: Runner | None = None,
    with_places: bool = True,
) -> Observation:
    """Execute one schedule and keep what happened; without places it is several times faster.

    Raises:
        ReplayDiverged: the code under test took another way than the schedule was recorded with.
    """
    runner = runner or Runner(program, transform=transform)
    recorder = _Recorder(TraceRecorder(program.files), Places(transform), program.files, with_places)
    policy = FaultPlan(faults) if faults else None
    execution = runner.run(chooser, policy=policy, recorder=recorder, trace=True)
    places = {id(line): place for line, place in zip(recorder.inner.lines, recorder.places, strict=True)}
    lines = with_operations(recorder.inner.lines, execution)
    return _read(execution, lines, places, recorder)


def _read(
    execution: Execution, lines: list[Line], places: Mapping[int, tuple[Place, ...]], recorder: _Recorder
) -> Observation:
    counts: dict[tuple[int, str, str], int] = {}
    happenings: list[Happening] = []
    authors: dict[tuple[str, int], tuple[int, int]] = {(path, 0): (-1, -1) for path in recorder.contents}
    for line in lines:
        happening = read_line(line, places.get(id(line), ()), counts)
        if happening.publishes is not None:
            authors[happening.file, happening.publishes] = (line.process, len(happenings))
        happenings.append(happening)
    return Observation(
        execution=execution,
        happenings=tuple(happenings),
        contents=recorder.contents,
        authors=authors,
        sources=recorder.places_of.sources,
    )


def read_line(line: Line, stack: tuple[Place, ...], counts: dict[tuple[int, str, str], int]) -> Happening:
    """What a line of the lanes says, as values."""
    verb, target = _verb_and_target(line.text)
    key = (line.process, verb, target)
    counts[key] = counts.get(key, 0) + 1
    found: dict[str, object] = {}
    for note in line.notes:
        if (sees := _SEES.fullmatch(note)) is not None:
            found |= {"sees": int(sees[1]), "file": sees[2]}
            found["stale_against"] = None if sees[3] is None else int(sees[3])
        elif (published := _PUBLISHES.fullmatch(note)) is not None:
            found |= {"publishes": int(published[1] or published[4]), "file": published[2] or published[3]}
        elif (overwrites := _OVERWRITES.fullmatch(note)) is not None:
            found["overwrites"] = int(overwrites[1])
        elif (lock := _HOLDS.fullmatch(note)) is not None:
            found["takes" if lock[1] == "holds" else "frees"] = lock[2]
    if verb == "close" and not found:
        found["frees"] = target
    return Happening(line=line, verb=verb, target=target, number=counts[key], stack=stack, **found)  # type: ignore[arg-type]


def _verb_and_target(text: str) -> tuple[str, str]:
    if text.startswith("> "):
        return "begin", text[2:].partition("(")[0]
    if text.startswith("< "):
        return "end", ""
    call = _CALL.match(text)
    if call is None:
        return text.split("(", maxsplit=1)[0], ""
    named = _TARGET.findall(call[2])
    # The last path is what a rename makes; every other call has one. Random parts of temporary names do not count.
    target = (named[-1][0] or named[-1][1]) if named and call[1] in ("rename", "replace", "link") else ""
    target = target or ((named[0][0] or named[0][1]) if named else "")
    verb = call[1]
    if verb in ("flock", "lockf"):
        verb = "unlock" if "unlock" in call[2] else "lock"
    return verb, re.sub(r"[0-9a-f]{8,}|\d+", "*", target)


def following(choices: tuple[int, ...], program: Program) -> Chooser:
    """The chooser that follows a recorded schedule."""
    chooser = Replay(choices).search(program).next_chooser()
    assert chooser is not None
    return chooser
