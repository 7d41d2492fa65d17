"""Recorded histories that no sequential order explains, told as races: who asked what when, and what they were told.

The document holds the history of real processes as it was recorded, and the race that it was, so that it can be run
again. The record can be judged again at any time; a new run of real processes may go well, whatever the code does, and
the report says so. When within its time an operation took effect is not known, and nothing is said of it.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from storecheck.contradiction import Contradiction, contradiction, forgotten
from storecheck.counterexample import CounterexampleError, expect_members, load_as
from storecheck.history import Call, History, Operation, parse
from storecheck.linearizability import KEY_VALUE, MUTEX, REGISTER, Specification, check, versioned_map
from storecheck.program import Json, expect_list, expect_number, expect_object, expect_text
from storecheck.report.document import Importance, Lane, Point, Race, SequentialOrder
from storecheck.report.masking import BASE64, content_of

if TYPE_CHECKING:
    from storecheck.processes import Race as RealRace

FORMAT: Final = "storecheck-history-counterexample"
VERSION: Final = 1

SPECIFICATIONS: Final[Mapping[str, Specification[Any]]] = {
    "register": REGISTER,
    "key-value": KEY_VALUE,
    "mutex": MUTEX,
    "sessions": versioned_map(),
}

FILES_MAX_BYTES: Final = 1_000_000
"""Initial files of a race that a document holds; one with more is run again by its test only."""

MAX_ORDERS_SHOWN: Final = 6
MAX_ORDERED: Final = 5
"""Operations of which all orders are tried to show why none fits."""

MAX_POINTS: Final = 60
"""Points of a recorded race shown, those before the refused answer; their numbers say how many were left out."""

NS_PER_US: Final = 1_000

_MEMBERS: Final = frozenset({"format", "version", "title", "specification", "history", "race", "files", "finding"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryCounterexample:
    """A recorded history that breaks a promise.

    Attributes:
        title: one line.
        specification: name of the sequential object, one of `SPECIFICATIONS`.
        history: what was recorded, and what was found at the end.
        race: what ran: `storecheck.processes.Race` as JSON without files; None if it cannot be run again.
        files: content of the initial files.
        finding: what was wrong, as the test said it.
    """

    title: str
    specification: str
    history: History
    race: Mapping[str, Json] | None
    files: Mapping[str, bytes]
    finding: str

    def to_json(self) -> dict[str, Json]:
        """The document."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "title": self.title,
            "specification": self.specification,
            "history": [json.loads(line) for line in self.history.lines()],
            "race": cast("Json", self.race),
            "files": {
                path: {BASE64: base64.b64encode(content).decode("ascii")} for path, content in self.files.items()
            },
            "finding": self.finding,
        }

    def contradiction(self) -> Contradiction | None:
        """Why no order explains what was recorded; None if one does, or if an operation failed instead."""
        return contradiction(self.history, SPECIFICATIONS[self.specification])

    def failed(self) -> Operation | None:
        """The first operation that failed, if one did."""
        return next((each for each in self.history.operations if each.call.outcome == "raised"), None)


def from_json(document: object) -> HistoryCounterexample:
    """The inverse of `HistoryCounterexample.to_json`.

    Raises:
        CounterexampleError, ProgramError: with the place of what is wrong.
    """
    fields = expect_members(document, format_=FORMAT, version=VERSION, members=_MEMBERS)
    specification = expect_text(fields.get("specification"), "specification")
    if specification not in SPECIFICATIONS:
        raise CounterexampleError(f"specification is {specification!r}; known are {', '.join(SPECIFICATIONS)}")
    events = expect_list(fields.get("history"), "history")
    lines = "".join(json.dumps(event) + "\n" for event in events)
    files = expect_object(fields.get("files"), "files")
    race = fields.get("race")
    return HistoryCounterexample(
        title=expect_text(fields.get("title"), "title"),
        specification=specification,
        history=parse(lines.encode(), source="history"),
        race=None if race is None else expect_object(race, "race"),
        files={path: _content(held, f"files.{path}") for path, held in files.items()},
        finding=expect_text(fields.get("finding"), "finding"),
    )


def _content(held: object, where: str) -> bytes:
    found = content_of(expect_object(held, where))
    if found is None:
        raise CounterexampleError(f"{where} is no content; expected one member {BASE64!r}")
    return found


def load(path: Path) -> HistoryCounterexample:
    """Read a document.

    Raises:
        CounterexampleError: naming the file and what is wrong.
    """
    return load_as(path, from_json)


# Failing, and running again


def attach(
    error: BaseException, history: History, *, specification: str, race: RealRace | None = None, promise: str = ""
) -> None:
    """Give an exception the history that it is about, for the report to find.

    Args:
        error: what the test raises.
        history: what was recorded, and after it what was found at the end.
        specification: name of the sequential object, one of `SPECIFICATIONS`.
        race: what ran, to be run again.
        promise: which of the test's promises is broken; the first that the test checks if left out.
    """
    message = str(error) or type(error).__name__
    kept = race is not None and sum(map(len, race.files.values())) <= FILES_MAX_BYTES
    told: Any = error
    told.counterexample = HistoryCounterexample(
        title=message.splitlines()[0],
        specification=specification,
        history=history,
        race=None if race is None or not kept else _race_json(race),
        files={} if race is None or not kept else race.files,
        finding=message,
    )
    told.found_sizes = None
    told.broken_promise = promise


def _race_json(race: RealRace) -> Mapping[str, Json] | None:
    if race.transform is not None:
        return None  # a planted bug that only the test knows
    return {"teams": [asdict(team) for team in race.teams], "kills": race.kills, "seed": race.seed}


def race_of(document: HistoryCounterexample) -> RealRace | None:
    """What ran, to be run again with other moments; None if the document does not say.

    Raises:
        CounterexampleError: it says something that is no race.
    """
    from storecheck.processes import Race, Team

    if document.race is None:
        return None
    teams = expect_list(document.race.get("teams"), "race.teams")
    try:
        return Race(
            teams=tuple(Team(**expect_object(team, f"race.teams[{at}]")) for at, team in enumerate(teams)),
            files=document.files,
            kills=expect_number(document.race.get("kills"), "race.kills"),
            seed=expect_number(document.race.get("seed"), "race.seed"),
        )
    except TypeError as error:
        raise CounterexampleError(f"race.teams: {error}") from error


def rerun(document: HistoryCounterexample, *, times: int) -> Iterator[str]:
    """Run the race again, with the same work and whatever moments the machine gives; what was wrong with each run.

    A run that went well gives an empty text. Judges what the operations were told, and not what is left on the disk.
    Real processes: bounded, not deterministic.

    Raises:
        CounterexampleError: the document does not say what ran.
    """
    from storecheck.processes import run_race

    race = race_of(document)
    if race is None:
        raise CounterexampleError("the document has no race that could be run again; run the test that wrote it")
    for _ in range(times):
        result = run_race(race)
        failed = replace(document, history=result.history).failed()
        if result.stuck:
            yield result.stuck[0]
        elif failed is not None:
            yield str(failed)
        else:
            verdict = check(result.history, SPECIFICATIONS[document.specification])
            yield str(verdict) if verdict.status == "illegal" else ""


# Telling it


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldHistory:
    """A history as a race, with what is said of it.

    Attributes:
        race: the operations that matter, in lanes.
        title, verdict: sentences.
        cause: the same for the same bug.
    """

    race: Race
    title: str
    verdict: tuple[str, ...]
    cause: tuple[str, ...]


def told_history(document: HistoryCounterexample) -> ToldHistory:
    """What cannot be true of a history, or which operation failed.

    Raises:
        CounterexampleError: an order explains it, and no operation failed.
    """
    failed = document.failed()
    if failed is not None:
        return _told_failed(document, failed)
    found = document.contradiction()
    if found is None:
        raise CounterexampleError("an order explains what was recorded, and no operation failed")
    names = _names([*found.answers, *found.writers])
    shown = sorted([*found.answers, *found.writers], key=lambda each: each.invoked_at)
    orders, tried = _orders(document, found, names)
    race = Race(
        file=_subject(found),
        lanes=_lanes(shown, names),
        points=_points(shown, names, answers=found.answers, refused=found.refused),
        out_of_date=(),
        versions=(),
        fields=(),
        orders=orders,
        orders_tried=tried,
        found="; ".join(f"{_short_name(each, names)} found {_shown(each.call.result)}" for each in found.answers),
        recorded=True,
    )
    # Where the processes were nobody saw: one bug shows as a lost update in one run and as an old answer in the next.
    verdict = tuple(_verdict(document, found, names))
    return ToldHistory(race=race, title=_title(found, names), verdict=verdict, cause=("no order",))


def _told_failed(document: HistoryCounterexample, failed: Operation) -> ToldHistory:
    end = failed.responded_at or failed.invoked_at
    meanwhile = [
        each for each in document.history.operations
        if each.invoked_at <= end and (each.responded_at is None or each.responded_at >= failed.invoked_at)
    ]  # fmt: skip
    names = _names(meanwhile)
    race = Race(
        file=_session_of(failed), lanes=_lanes(meanwhile, names),
        points=_points(meanwhile, names, answers=(failed,), refused=failed), out_of_date=(), versions=(), fields=(),
        orders=(), orders_tried=0, found="", recorded=True,
    )  # fmt: skip
    error = failed.call.error or "an error"
    kind = error.partition(":")[0]
    return ToldHistory(
        race=race,
        title=f"{_short_name(failed, names)} raises {kind} while others work on the same file",
        verdict=(
            f"`{_call(failed)}` of {names[_who(failed)]} raised `{error}`.",
            "What the others did meanwhile is below; none of them is at fault for it by itself.",
            _NOT_DETERMINISTIC,
        ),
        cause=("raised", failed.call.name, kind),
    )


_NOT_DETERMINISTIC: Final = (
    "A race of real processes is **not deterministic**: the record can be judged again, a new run may go well."
)


def _who(operation: Operation) -> tuple[str, str]:
    return operation.process, operation.task


def _names(operations: Sequence[Operation]) -> dict[tuple[str, str], str]:
    """What to call whom: the process, and its thread if several threads of a process are shown."""
    who = dict.fromkeys(_who(each) for each in operations)
    several = {process for process, _ in who if sum(each == process for each, _ in who) > 1}
    return {each: f"{each[0]}/{each[1]}" if each[0] in several else each[0] for each in who}


def _lanes(operations: Sequence[Operation], names: Mapping[tuple[str, str], str]) -> tuple[Lane, ...]:
    return tuple(
        Lane(name=name, role=", ".join(dict.fromkeys(each.call.name for each in operations if _who(each) == who)))
        for who, name in sorted(names.items())
    )


def _call(operation: Operation) -> str:
    return str(Call(name=operation.call.name, argument=operation.call.argument)).partition(" -> ")[0]


def _short_name(operation: Operation, names: Mapping[tuple[str, str], str]) -> str:
    return f"{names[_who(operation)]}'s {operation.call.name}"


def _session_of(operation: Operation) -> str:
    argument = operation.call.argument
    return str(argument[0]) if isinstance(argument, list | tuple) and argument else "the store"


def _subject(found: Contradiction) -> str:
    sessions = {_session_of(each) for each in found.answers}
    return sessions.pop() if len(sessions) == 1 else "the store"


def _points(
    operations: Sequence[Operation],
    names: Mapping[tuple[str, str], str],
    *,
    answers: Sequence[Operation],
    refused: Operation,
) -> tuple[Point, ...]:
    """Where each operation begins and where it is answered, in the order of the shared clock."""
    lanes = {who: number for number, who in enumerate(sorted(names))}
    events: list[tuple[int, int, Operation]] = []
    for each in operations:
        events.append((each.invoked_at, 0, each))
        if each.responded_at is not None:
            events.append((each.responded_at, 1, each))
    events.sort(key=lambda event: event[:2])
    start = events[0][0]
    running: set[int] = set()
    points: list[Point] = []
    for number, (at, ends, each) in enumerate(events, start=1):
        lane = lanes[_who(each)]
        running = running | {lane}
        points.append(
            Point(
                number=number, step=(at - start) // NS_PER_US, process=lane, verb="answer" if ends else "begin",
                what=_answer(each.call) if ends else _call(each), loose=(),
                note=_note(each, answers=answers, refused=refused) if ends else "", sees=None, stale=False,
                publishes=None, overwrites=None, held=tuple(sorted(running)), disk=0,
                importance=_importance(each, answers=answers, refused=refused) if ends else "", source="",
            )
        )  # fmt: skip
        running = running - {lane} if ends else running
    if len(points) <= MAX_POINTS:
        return tuple(points)
    # Those before what the checker refused: what came after it changes nothing.
    end = 1 + next(index for index, point in enumerate(points) if point.importance == "loss")
    first = max(0, end - MAX_POINTS)
    return tuple(points[first : first + MAX_POINTS])


def _answer(call: Call) -> str:
    if call.outcome == "returned":
        return f"found {_shown(call.result)}"
    return f"{call.outcome}: {call.error}" if call.error else call.outcome


def _importance(operation: Operation, *, answers: Sequence[Operation], refused: Operation) -> Importance:
    return "loss" if operation == refused else "check" if operation in answers else ""


def _note(operation: Operation, *, answers: Sequence[Operation], refused: Operation) -> str:
    if operation.call.outcome == "raised":
        return "It must not fail"
    if operation == refused and len(answers) > 1:
        return "This cannot be true together with the other marked answers"
    if operation == refused:
        return "No order of the operations gives this answer"
    return ""


def _title(found: Contradiction, names: Mapping[tuple[str, str], str]) -> str:
    """A sentence about the data."""
    refused = found.refused
    shown = _shown(refused.call.result)
    others = [each for each in found.answers if each is not refused and each.call.result == refused.call.result]
    replacing = next((each for each in others if each.call.name not in ("get", "load", "read")), None)
    where = _session_of(refused)
    if replacing is None or len(found.answers) > 2:
        return f"{_short_name(refused, names)} of {where} found {shown}, and no order explains it"
    if refused.call.name in ("get", "load", "read"):
        asked, wrote = _short_name(refused, names), _short_name(replacing, names)
        if refused.call.result is None:
            return f"{asked} finds no {where}, which {wrote} had written"
        return f"{asked} of {where} still answers {shown}, which {wrote} had replaced"
    both = " and ".join(names[_who(each)] for each in sorted((refused, replacing), key=lambda each: each.invoked_at))
    replaced = f"found no {where} and wrote it" if refused.call.result is None else f"replaced {shown} in {where}"
    return f"{both} both {replaced}: one of the two updates is lost"


def _verdict(
    document: HistoryCounterexample, found: Contradiction, names: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    told = " and ".join(f"{_short_name(each, names)} found `{_shown(each.call.result)}`" for each in found.answers[-3:])
    these = "these answers" if len(found.answers) > 1 else "this answer"
    yield f"{told}. **In no order of the operations can {these} be given.**"
    writers = [_short_name(each, names) for each in found.writers[:2]]
    if writers:
        yield f"What they found was written by {' and '.join(writers)}."
    yield (
        f"Of {len(document.history.operations)} recorded operations the {len(found.answers)} marked are enough: "
        f"whatever {found.forgotten} more on {_subject(found)} were told, and whether or not they took effect."
    )
    yield _NOT_DETERMINISTIC


def _orders(
    document: HistoryCounterexample, found: Contradiction, names: Mapping[tuple[str, str], str]
) -> tuple[tuple[SequentialOrder, ...], int]:
    """The orders of the shown operations that real time allows, and where each goes wrong."""
    shown = sorted([*found.answers, *found.writers], key=lambda each: each.invoked_at)
    if len(shown) > MAX_ORDERED:
        return (), 0
    specification = SPECIFICATIONS[document.specification]
    tried = [
        _order(order, found, specification, names)
        for order in itertools.permutations(shown)
        if _is_in_time(order)
    ]  # fmt: skip
    return tuple(each for each in tried[:MAX_ORDERS_SHOWN]), len(tried)


def _is_in_time(order: Sequence[Operation]) -> bool:
    """Whether nothing comes after what began when it had been answered. Equal stamps order nothing."""
    return not any(
        later.responded_at is not None and later.responded_at < earlier.invoked_at
        for at, earlier in enumerate(order)
        for later in order[at + 1 :]
    )


def _order(
    order: Sequence[Operation],
    found: Contradiction,
    specification: Specification[Any],
    names: Mapping[tuple[str, str], str],
) -> SequentialOrder:
    state = specification.initial
    differs = ""
    for each in order:
        told = each in found.answers
        after = specification.step(state, each.call if told else forgotten(each).call)
        if not after:
            differs = f"{_short_name(each, names)} found {_shown(each.call.result)} where {_shown_state(state)}"
            break
        state = after[0]
    return SequentialOrder(
        operations=tuple(f"{names[_who(each)]}.{each.call.name}" for each in order),
        would_leave="-" if differs else _shown_state(state),
        differs=differs or "other operations would have to come between",
    )


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _shown_state(state: Any) -> str:
    if isinstance(state, tuple):
        return ", ".join(f"{key} is {value}" for key, value in state) or "nothing is there"
    return f"{_shown(state)} is there"
