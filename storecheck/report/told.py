"""Failures of tests that are no programs: a test writes down its calls, and a player of the project does them again.

State machines and crash histories work through code of their own, which the verifier does not know. Such a test
attaches a `ToldCounterexample` to its exception: calls as lines, and the import path of a *player*, a function that
does them and says for each step what was seen. So their failures are shown and replayed like all others, without
Hypothesis. `retelling` makes the failing example. Only the player does calls; nothing here evaluates one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from storecheck.counterexample import CounterexampleError, expect_members, import_path, load_as
from storecheck.program import Json, expect_list, expect_number, expect_object, expect_text
from storecheck.report.crashes import RecordedCrash
from storecheck.report.document import Difference, Step
from storecheck.report.faults import RecordedFault

FORMAT: Final = "storecheck-told-counterexample"
VERSION: Final = 1

_MEMBERS: Final = frozenset({"format", "version", "title", "player", "calls", "finding", "played"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldFinding:
    """What went wrong.

    Attributes:
        about: what differs, such as `returned`; the same for the same failure.
        message: as the test said it.
        differences: expected against found, field by field; empty if it was no comparison.
        title: a sentence about the data, where the differences alone do not say what they mean.
    """

    about: str
    message: str
    differences: tuple[Difference, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What makes two plays the same failure: what differs (`ToldFinding.about`), after so many steps."""

    about: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a player saw.

    Attributes:
        file: the file that the failure is about.
        steps: one per call that is worth showing; the last one failed, if there is a finding.
        finding: what went wrong, or None if nothing did.
        environment: what the run depended on, in words.
        crash: the power loss that broke the promise, or None.
        fault: the failing call that broke the promise, or None.
    """

    file: str
    steps: tuple[Step, ...]
    finding: ToldFinding | None
    environment: Mapping[str, str] = field(default_factory=dict)
    crash: RecordedCrash | None = None
    fault: RecordedFault | None = None

    @property
    def played(self) -> Played | None:
        """To compare plays by; None if nothing failed."""
        return None if self.finding is None else Played(about=self.finding.about, steps=len(self.steps))


Player = Callable[[Sequence[str]], Told]
"""Does the calls, in order, until one fails. Raises CallError for a line that it does not understand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldCounterexample:
    """A failing test as calls.

    Attributes:
        title: one line.
        player: import path of what does the calls, `module:function`.
        calls: one line each.
        finding: what was wrong, as the test said it.
        played: what a play showed when the test failed, or None if it showed nothing.
    """

    title: str
    player: str
    calls: tuple[str, ...]
    finding: str
    played: Played | None

    def to_json(self) -> dict[str, Json]:
        """The document."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "title": self.title,
            "player": self.player,
            "calls": list(self.calls),
            "finding": self.finding,
            "played": None if self.played is None else {"about": self.played.about, "steps": self.played.steps},
        }

    def play(self) -> Told:
        """Do the calls again.

        Raises:
            CounterexampleError: the player cannot be imported, or does not understand a call.
        """
        return play(self.player, self.calls)


def play(player: str, lines: Sequence[str]) -> Told:
    """Have a player do calls.

    Raises:
        CounterexampleError: the player cannot be imported, or does not understand a call.
    """
    try:
        return cast("Player", import_path(player))(lines)
    except Exception as error:  # a player is code of the project: whatever it raises, there is no play to be told
        raise CounterexampleError(
            f"{player!r} cannot play these {len(lines)} calls: {type(error).__name__}: {error}"
        ) from error


def from_json(document: object) -> ToldCounterexample:
    """The inverse of `ToldCounterexample.to_json`.

    Raises:
        CounterexampleError, ProgramError: with the place of what is wrong.
    """
    fields = expect_members(document, format_=FORMAT, version=VERSION, members=_MEMBERS)
    lines = expect_list(fields.get("calls"), "calls")
    return ToldCounterexample(
        title=expect_text(fields.get("title"), "title"),
        player=expect_text(fields.get("player"), "player"),
        calls=tuple(expect_text(line, f"calls[{index}]") for index, line in enumerate(lines)),
        finding=expect_text(fields.get("finding"), "finding"),
        played=None if fields.get("played") is None else _played_from_json(fields["played"]),
    )


def _played_from_json(value: object) -> Played:
    fields = expect_object(value, "played")
    return Played(
        about=expect_text(fields.get("about"), "played.about"),
        steps=expect_number(fields.get("steps"), "played.steps"),
    )


def load(path: Path) -> ToldCounterexample:
    """Read a document.

    Raises:
        CounterexampleError: naming the file and what is wrong.
    """
    return load_as(path, from_json)


def attach(
    error: BaseException,
    *,
    player: str,
    lines: Iterable[str],
    title: str = "",
    first_steps: int | None = None,
    promise: str = "",
) -> None:
    """Give an exception its counterexample, for the report to find. The calls are played once.

    Args:
        error: what the test raises.
        player: see `ToldCounterexample`.
        lines: the calls of the failing run.
        title: one line; the first of the exception's text if left out.
        first_steps: calls of the first failing run, before shrinking.
        promise: which of the test's promises is broken; the first that the test checks if left out.
    """
    message = "\n".join(line for line in str(error).splitlines() if line.strip()) or type(error).__name__
    calls = tuple(lines)
    told: Any = error
    told.counterexample = ToldCounterexample(
        title=title or message.splitlines()[0].rstrip(":"),
        player=player,
        calls=calls,
        finding=message,
        played=_played(player, calls),
    )
    told.found_sizes = None if first_steps is None else {"steps": first_steps}
    told.broken_promise = promise


def _played(player: str, calls: Sequence[str]) -> Played | None:
    try:
        return play(player, calls).played
    except CounterexampleError:
        # The report says so when it tells the example; here the test's own failure must get through.
        return None
