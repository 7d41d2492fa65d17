"""Words and numbers that all formats share, so that a page, a summary and a terminal say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from storecheck.report.document import KIND_NAMES, Crash, Cut, Deciding, Example, Point, Race, Run
from storecheck.verdict import EVIDENCE_KINDS, PromiseVerdict

SECONDS_PER_MINUTE = 60
MILLION = 1_000_000

_BOUND_NOUNS = {
    "processes_max": "process",
    "operations_max": "operation",
    "points_max": "point",
    "preemptions_max": "preemption",
    "cuts_max": "lost change",
    "rule_steps_max": "rule step",
}

FIGURE_NAMES = {
    "passed": "Passed",
    "failed": "Failed",
    "known": "Known, still failing",
    "skipped": "Not run",
    "unfinished": "Not finished",
    "schedules": "Schedules tried",
    "histories": "Histories",
    "steps": "Rule steps",
    "crash_states": "Crash states",
    "exhausted": "Programs exhausted within their bound",
    "sampled": "Programs sampled",
    "processes_max": "Most processes",
    "operations_max": "Most operations",
    "points_max": "Longest run, points",
    "preemptions_max": "Most preemptions",
    "cuts_max": "Most changes lost by choice",
    "rule_steps_max": "Longest rule sequence, steps",
    "promises_passed": "Promises passed",
    "promises_not_verified": "Promises not verified",
    "mutants_killed": "Planted bugs killed",
    "mutants_survived": "Planted bugs survived",
    "duration_s": "Seconds of the longest shard",
}


def headline(run: Run) -> str:
    """One line: what the run says."""
    if run.missing_shards:
        return f"{plural(len(run.missing_shards), 'shard')} did not report"
    if run.examples:
        return plural(len(run.examples), "failing example")
    if run.failed:
        return f"{plural(int(run.figures.get('failed', 0)), 'test')} failed"
    if not run.ran:
        return "no test ran"
    return promise_headline(run) if run.promises else "nothing failed"


def promise_headline(run: Run) -> str:
    """How many promises passed, failed, and were not verified."""
    counts = {name: sum(p.outcome == name for p in run.promises) for name in ("passed", "FAILED", "not verified")}
    total = plural(len(run.promises), "promise")
    return f"Of {total} {counts['passed']} passed, {counts['FAILED']} failed, {counts['not verified']} not verified"


def plural(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count:,} {noun if count == 1 else f'{noun}es' if noun.endswith('s') else f'{noun}s'}"


def number(value: float) -> str:
    """With thousands separated; fractions with one digit."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.1f}"


def duration(seconds: float) -> str:
    """`14 min 12 s`."""
    minutes, rest = divmod(round(seconds), SECONDS_PER_MINUTE)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def clock(seconds: float) -> str:
    """`14:12`."""
    minutes, rest = divmod(round(seconds), SECONDS_PER_MINUTE)
    return f"{minutes}:{rest:02d}"


def day(stamp: str) -> str:
    """`22 Nov 2026, 11:20 UTC`; what is no ISO 8601 stamp stays as it is."""
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def seen(first: str, this_run: str) -> str:
    """When a failure was first seen."""
    return "this run" if first == this_run else day(first)


def example_size(example: Example) -> str:
    """What kind of failing example, in a few words."""
    if example.race is not None and example.race.recorded:
        operations = sum(point.verb == "begin" for point in example.race.points)
        size = f"recorded, {plural(operations, 'operation')} shown"
    elif example.race is not None:
        lanes = len(example.race.lanes)
        size = f"{lanes} process{'' if lanes == 1 else 'es'} · {plural(len(example.race.points), 'point')}"
    elif example.crash is not None:
        noun = "failing call" if example.crash.is_failing_call else "disk state"
        size = f"{example.crash.broken} of {plural(example.crash.states, noun)}"
    elif example.sequence is not None:
        size = plural(len(example.sequence.steps), "step")
    else:
        size = "no counterexample"
    shards = f" · shard{'s' if len(example.shards) > 1 else ''} {', '.join(map(str, example.shards))}"
    return size + (shards if example.shards else "")


def kind_name(example: Example) -> str:
    """`Race`."""
    if example.crash is not None and example.crash.is_failing_call:
        return "Failing call"
    return KIND_NAMES[example.kind]


def grid_sentence(crash: Crash) -> str:
    """How many states, or failing calls, break the promise."""
    if crash.is_failing_call:
        return f"{crash.broken} of {plural(crash.states, 'run')} with a failing call break the promise."
    return f"{crash.broken} of {plural(crash.states, 'state')} under {crash.model} break the promise."


def point_at(race: Race, point: Point) -> str:
    """When a point of a recorded race was, since the first; empty for a simulated one, which has no time."""
    return f"+{point.step:,} µs" if race.recorded else ""


def cut_at(crash: Crash, number: int) -> Cut | None:
    """Where the run was cut short after an operation of that number, if it was."""
    return next((cut for cut in crash.cuts if cut.after == number), None)


def cut_text(cut: Cut) -> str:
    """What cut a run short, in a few words."""
    return cut.text if cut.kind == "power loss" else f"{cut.kind}: {cut.text}"


def counts_sentence(deciding: Deciding) -> str:
    """What was counted with and without the order, without promising more."""
    d = deciding
    if d.with_failed == d.with_tried:
        having = f"All **{d.with_failed}** of {d.with_tried} tried schedules with this order fail."
    else:
        having = f"**{d.with_failed}** of {d.with_tried} tried schedules with this order fail."
    if d.without_tried == 0:
        return f"{having} None without it was tried."
    if d.without_passed == d.without_tried:
        return f"{having} All **{d.without_passed:,}** without it pass."
    failing = d.without_tried - d.without_passed
    return (
        f"{having} Of {d.without_tried:,} without it **{d.without_passed:,}** pass; {failing:,} fail by another order."
    )


def author_colours(race: Race) -> list[str]:
    """Per version, which process's colour it has; `bad` for one that overwrote another."""
    losses = {point.publishes for point in race.points if point.overwrites is not None}
    return [
        "bad" if version.number in losses else "p0" if version.author == "start" else f"p{_colour(version.author)}"
        for version in race.versions
    ] or ["p0"]


def _colour(author: str) -> int:
    return (int(author.removeprefix("P")) - 1) % 3 + 1


def size_text(size_bytes: int | None) -> str:
    """`1,204 B`."""
    return "no file" if size_bytes is None else f"{size_bytes:,} B"


def sampled(promise: PromiseVerdict) -> str:
    """What the tests of a promise counted."""
    counts = [(promise.evidence[kind], kind.replace("_", " ")) for kind in EVIDENCE_KINDS if kind in promise.evidence]
    return ", ".join(f"{number(count)} {kind}" for count, kind in counts) or "-"


def known_cause(example: Example, run: Run) -> str:
    """Whether a known failure has the same cause; empty if no known one has an example to compare with."""
    same = [failure.test for failure in run.known if failure.fingerprint == example.fingerprint]
    if same:
        return f"same cause as the known failure {same[0]}"
    return "no known failure has this cause" if any(failure.fingerprint for failure in run.known) else ""


def bounds(evidence: Mapping[str, float]) -> str:
    """How far the searches went; empty if there were none with bounds."""
    far = [plural(int(evidence[kind]), noun) for kind, noun in _BOUND_NOUNS.items() if evidence.get(kind)]
    text = f"up to {joined(far)}" if far else ""
    exhausted, looked = int(evidence.get("exhausted", 0)), int(evidence.get("sampled", 0))
    parts = [f"{plural(exhausted, 'program')} exhausted within {'its' if exhausted == 1 else 'their'} bound"]
    parts = [*(parts if exhausted else []), *([f"{looked:,} sampled"] if looked else [])]
    return "; ".join(filter(None, [text, ", ".join(parts)]))


def bounds_sentence(run: Run) -> str:
    """How far the searches of a run went, as they counted it themselves."""
    text = bounds(run.figures)
    return f"Searched {text}." if text else ""


def joined(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def tests_cell(promise: PromiseVerdict) -> str:
    """How its tests ended."""
    counts = {
        "passed": promise.tests_passed,
        "failed": promise.tests_failed,
        "skipped": promise.tests_skipped,
        "not finished": promise.tests_unfinished,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"


def mutants_cell(promise: PromiseVerdict) -> str:
    """How many planted bugs were noticed."""
    tried = len(promise.mutants_killed) + len(promise.mutants_survived)
    if not tried and not promise.mutants_untried:
        return "-"
    text = f"{len(promise.mutants_killed)} of {tried}" if tried else ""
    if promise.mutants_survived:
        text += f", survived: {', '.join(promise.mutants_survived)}"
    if promise.mutants_untried:
        text += f"{', ' if text else ''}{len(promise.mutants_untried)} not tried"
    return text


def totals(run: Run) -> Iterator[tuple[str, str, bool]]:
    """The figures of the run for the margin: name, value, whether it is bad."""
    for name in (
        "passed",
        "failed",
        "known",
        "skipped",
        "unfinished",
        "schedules",
        "histories",
        "steps",
        "crash_states",
    ):
        if name in run.figures:
            value = run.figures[name]
            text = f"{value / MILLION:.1f} M" if value >= MILLION else number(value)
            yield FIGURE_NAMES[name], text, bool(value) and name in ("failed", "unfinished")


def figure_rows(run: Run) -> Iterator[tuple[str, str, str, str]]:
    """Every figure with what it was in the kept run, and the change."""
    before = run.kept.figures if run.kept is not None else {}
    for name, value in run.figures.items():
        shown = FIGURE_NAMES.get(name, name)
        if name not in before:
            yield shown, number(value), "-", "new" if run.kept is not None else ""
            continue
        difference = value - before[name]
        share = f" ({difference / before[name]:+.0%})" if before[name] else ""
        change = "same" if not difference else f"{'+' if difference > 0 else '-'}{number(abs(difference))}{share}"
        yield shown, number(value), number(before[name]), change


def plain(prose: str) -> str:
    """Running text without its marks for code and emphasis."""
    return prose.replace("**", "").replace("`", "")
