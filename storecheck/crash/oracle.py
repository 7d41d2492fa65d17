"""What a file must hold after a power loss, and what is wrong with a state in which it does not.

The versions of the file are numbered: 0 is what was there before, `n` what the n-th operation leaves. A run marks when
operation n begins (`begin n`) and when it is acknowledged (`ack n`). A state is right if the file is one whole version
from the last acknowledged to the last begun, with the mode and owner it should have, and nothing else in the tree has
changed. Strays of interrupted writes are allowed; they must be ignored by whoever opens the file, which is for
`recovery` to see.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from .states import CrashState
from .trees import Entry, Tree

ViolationKind = Literal[
    "corrupt: empty",
    "corrupt: zeros",
    "corrupt: torn",
    "corrupt: mixed",
    "lost file",
    "lost acknowledged",
    "future",
    "attributes",
    "other file",
    "recovery",
]

_MARK: Final = re.compile(r"(begin|ack) (\d+)")


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one state: a kind to count by, and a sentence."""

    kind: ViolationKind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


Rule = Callable[[CrashState, int, int], Violation | None]
"""A further demand on a state, given the last acknowledged and the last begun operation."""


@dataclass(frozen=True, slots=True)
class Window:
    """Between which operations a moment of a run lies."""

    acknowledged: int
    begun: int


def windows(marks: Sequence[str]) -> list[Window]:
    """For each number of marks passed, the last acknowledged and the last begun operation. Other marks say nothing."""
    found = [Window(0, 0)]
    for label in marks:
        match = _MARK.fullmatch(label)
        acknowledged, begun = found[-1].acknowledged, found[-1].begun
        if match is not None and match[1] == "ack":
            acknowledged = max(acknowledged, int(match[2]))
        elif match is not None:
            begun = max(begun, int(match[2]))
        found.append(Window(acknowledged, begun))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """Judges states of one recording.

    Attributes:
        path: the file.
        versions: its content by number; None where there is no file.
        marks: the recording's marks.
        mode: permission bits that it must have, by version; None if any will do.
        owner: user and group that it must have; None if any will do.
        untouched: entries that must be exactly these.
        rules: further demands.
    """

    path: str
    versions: Sequence[bytes | None]
    marks: Sequence[str]
    mode: int | None = None
    owner: tuple[int, int] | None = None
    untouched: Mapping[str, Entry] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    _windows: list[Window] = field(init=False, repr=False, default_factory=list)
    _numbers: dict[bytes | None, list[int]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._windows.extend(windows(self.marks))
        for number, content in enumerate(self.versions):
            self._numbers.setdefault(content, []).append(number)
        highest = self._windows[-1].begun
        if highest >= len(self.versions):
            raise ValueError(f"the run begins operation {highest}, but only {len(self.versions)} versions are given")

    def window(self, state: CrashState) -> Window:
        """Between which operations the state lies."""
        return self._windows[state.marks]

    def version_found(self, state: CrashState) -> int | None:
        """The version that the file holds, the one nearest to what is allowed if several are alike; or None."""
        entry = state.tree.get(self.path)
        numbers = self._numbers.get(None if entry is None else entry.content)
        if numbers is None:
            return None
        window = self._windows[state.marks]
        return min(numbers, key=lambda number: (not window.acknowledged <= number <= window.begun, -number))

    def judge(self, state: CrashState) -> Violation | None:
        """What is wrong with a state, or None."""
        window = self._windows[state.marks]
        violation = self._judge_content(state.tree.get(self.path), window) or self._judge_others(state.tree)
        if violation is not None:
            return violation
        for rule in self.rules:
            violation = rule(state, window.acknowledged, window.begun)
            if violation is not None:
                return violation
        return None

    def _judge_content(self, entry: Entry | None, window: Window) -> Violation | None:
        content = None if entry is None else entry.content
        numbers = self._numbers.get(content)
        if numbers is None:
            return self._describe_corruption(content)
        if not any(window.acknowledged <= number <= window.begun for number in numbers):
            number = numbers[-1]
            wanted = f"versions {window.acknowledged} to {window.begun} are allowed"
            if number > window.begun:
                return Violation("future", f"{self.path} holds version {number}, but {wanted}")
            if content is None:
                return Violation("lost file", f"{self.path} is missing, but {wanted}")
            return Violation("lost acknowledged", f"{self.path} holds version {number}, but {wanted}")
        if entry is not None:
            return self._judge_attributes(entry)
        return None

    def _judge_attributes(self, entry: Entry) -> Violation | None:
        if self.mode is not None and entry.mode != self.mode:
            return Violation("attributes", f"{self.path} has mode {entry.mode:o} instead of {self.mode:o}")
        if self.owner is not None and (entry.uid, entry.gid) != self.owner:
            return Violation("attributes", f"{self.path} belongs to {entry.uid}:{entry.gid} instead of {self.owner}")
        return None

    def _describe_corruption(self, content: bytes | None) -> Violation:
        if content is None:
            return Violation("lost file", f"{self.path} is missing, and was there all the time")
        if not content:
            return Violation("corrupt: empty", f"{self.path} has 0 bytes")
        if 0 in content:
            return Violation("corrupt: zeros", f"{self.path} has zeros from byte {content.index(0)} of {len(content)}")
        for number, version in enumerate(self.versions):
            if version is not None and version.startswith(content):
                return Violation(
                    "corrupt: torn", f"{self.path} has {len(content)} of the {len(version)} bytes of version {number}"
                )
        return Violation("corrupt: mixed", f"{self.path} holds {len(content)} bytes of no version")

    def _judge_others(self, tree: Tree) -> Violation | None:
        for path, entry in self.untouched.items():
            found = tree.get(path)
            if found != entry:
                return Violation("other file", f"{path} is {found or 'missing'} instead of {entry}")
        return None
