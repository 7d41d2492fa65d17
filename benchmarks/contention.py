"""Several processes at once: updates per second with a check that none is lost, fairness, and what a lock costs."""

import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from benchmarks.locks import LOCKS
from benchmarks.ours import RaisedLimits, SessionStorePeer
from benchmarks.peers import DiskCache, JsonWithFilelock, PickleDb, SqliteWal, TinyDb
from benchmarks.rounds import (
    Bar,
    Rounds,
    Turn,
    TurnFailedError,
    Verdict,
    estimate,
    interleave,
    jain_index,
    judge,
    percentile,
    ratio,
)
from benchmarks.runner import TOTAL_FIELD, Contention, PeerClass, Runner
from benchmarks.sections import Bench, Quantity, Section, discard
from benchmarks.stores import COUNTER_KEY, LARGE, SMALL, StoreShape
from benchmarks.workers import Crew, Worker

WRITERS = 4
HOLDERS = 8
HOLD_S = 0.008
# Every worker has its command in hand well before this has passed, so that all begin together.
START_DELAY_S = 0.25
UNCONTENDED_COUNT = 300
KINDS: tuple[PeerClass, ...] = (
    SessionStorePeer,
    RaisedLimits,
    JsonWithFilelock,
    SqliteWal,
    DiskCache,
    TinyDb,
    PickleDb,
)

RATE_BAR = Bar(f"{WRITERS} writers, updates/s, against json + filelock + fsync", "at least", 5.0, "x")
LOST_BAR = Bar(f"{WRITERS} writers, acknowledged updates lost", "at most", 0, "updates")
JAIN_BAR = Bar(f"{HOLDERS} writers with {HOLD_S * 1e3:g} ms holds, Jain index", "at least", 0.95, "")
WAIT_BAR = Bar(
    f"{HOLDERS} writers with {HOLD_S * 1e3:g} ms holds, p99 wait", "at most", 2 * HOLDERS * HOLD_S * 1e3, "ms"
)


def run_writers(bench: Bench, *, shape: StoreShape) -> Section:
    """Four processes increment one counter as fast as they can; afterwards it is compared with the acknowledgements."""
    window_s = bench.plan.large_contention_window_s if shape is LARGE else bench.plan.contention_window_s
    section = f"writers-{shape.name.replace(' ', '').lower()}"
    stopped: dict[str, str] = {}
    with Crew(Runner, size=WRITERS) as crew:
        turns: dict[str, Turn] = {
            kind.name: functools.partial(_contend, bench, kind, shape, crew, window_s=window_s, stopped=stopped)
            for kind in KINDS
        }
        rounds = interleave(turns, rounds=bench.plan.contention_rounds, before_turn=bench.before_turn(section))
    baseline = rounds.of(subject=JsonWithFilelock.name, quantity="updates_per_s")
    return Section(
        name=section,
        title=f"{WRITERS} processes update one entry of {shape.name}",
        method=f"{window_s:g} s per turn on a new copy; the counters are read back afterwards",
        quantities=(
            Quantity("updates_per_s", "updates/s", "higher"),
            Quantity("p99_ms", "p99 ms"),
            Quantity("max_ms", "max ms"),
            Quantity("lost", "lost", shown_as="total"),
            Quantity("acknowledged", "of", "neither", shown_as="total"),
        ),
        rounds=rounds,
        remarks=(*((kind.name, kind.durability) for kind in KINDS), *stopped.items()),
        reference=JsonWithFilelock.name,
        limit_line=baseline.median * RATE_BAR.limit if baseline and shape is LARGE else None,
        verdicts=judge_writers(rounds) if shape is LARGE else (),
    )


def judge_writers(rounds: Rounds) -> tuple[Verdict, ...]:
    """The rate against the baseline's, and that nothing acknowledged is missing."""
    verdicts: list[Verdict] = []
    baseline = rounds.of(subject=JsonWithFilelock.name, quantity="updates_per_s")
    for kind in (SessionStorePeer, RaisedLimits):
        ours = rounds.of(subject=kind.name, quantity="updates_per_s")
        remark = kind.name if ours and baseline else rounds.why_missing(kind.name, JsonWithFilelock.name)
        verdicts.append(judge(RATE_BAR, ratio(ours, baseline) if ours and baseline else None, remark=remark))
        lost = rounds.of(subject=kind.name, quantity="lost")
        # One lost update in one round breaks the promise, so all rounds are judged together.
        total = estimate([sum(lost.rounds)]) if lost else None
        verdicts.append(judge(LOST_BAR, total, remark=kind.name if lost else rounds.why_missing(kind.name)))
    return tuple(verdicts)


def run_fairness(bench: Bench) -> Section:
    """Eight processes hold the lock for 8 ms each, again and again: who gets it how often, after how long."""
    with Crew(Runner, size=HOLDERS) as crew:
        turns: dict[str, Turn] = {kind: functools.partial(_hold, bench, kind, crew) for kind in LOCKS}
        rounds = interleave(turns, rounds=bench.plan.contention_rounds, before_turn=bench.before_turn("fairness"))
    return Section(
        name="fairness",
        title=f"{HOLDERS} processes hold one lock for {HOLD_S * 1e3:g} ms each",
        method=f"{bench.plan.hold_window_s:g} s per turn; waits that overrun the window count as waits",
        quantities=(
            Quantity("p99_ms", "wait p99 ms"),
            Quantity("median_ms", "wait median ms", "neither"),
            Quantity("max_ms", "wait max ms"),
            Quantity("jain", "Jain index", "higher"),
            Quantity("holds_per_s", "holds/s", "higher"),
        ),
        rounds=rounds,
        remarks=(("sessionstore", "an update that changes nothing, on a 2 KB store: its read is part of the wait"),),
        reference="flock alone",
        limit_line=WAIT_BAR.limit,
        verdicts=judge_fairness(rounds),
    )


def judge_fairness(rounds: Rounds) -> tuple[Verdict, ...]:
    """Jain's index and the 99th percentile of the waits, of the store's lock."""
    verdicts: list[Verdict] = []
    for bar, quantity in ((JAIN_BAR, "jain"), (WAIT_BAR, "p99_ms")):
        series = rounds.of(subject="sessionstore", quantity=quantity)
        remark = "" if series else rounds.why_missing("sessionstore")
        verdicts.append(judge(bar, estimate(series.rounds) if series else None, remark=remark))
    return tuple(verdicts)


def run_uncontended(bench: Bench) -> Section:
    """The lock when nobody else wants it."""

    def turn(kind: str, worker: Worker[Runner]) -> Mapping[str, float]:
        directory = _lock_directory(bench, worker)
        return {"us": statistics.median(worker.call(Runner.time_uncontended, kind, directory, UNCONTENDED_COUNT))}

    with ExitStack() as stack:
        turns: dict[str, Turn] = {
            kind: functools.partial(turn, kind, stack.enter_context(Worker(Runner)))
            for kind in LOCKS
            if kind != "filelock, 1 ms poll"  # no wait, so no poll: the same as the default
        }
        rounds = interleave(turns, rounds=bench.plan.rounds, before_turn=bench.before_turn("lock"))
    return Section(
        name="lock",
        title="Take and free a lock that nobody else wants",
        method=f"median of {UNCONTENDED_COUNT} per turn",
        quantities=(Quantity("us", "us"),),
        rounds=rounds,
        remarks=(("sessionstore", "an update that changes nothing, on a 2 KB store: includes reading the file"),),
        reference="filelock, default poll",
    )


def count_lost(*, acknowledged: Mapping[str, int], found: Mapping[str, object], found_total: object) -> int:
    """How many acknowledged increments the file does not show; a file that cannot be read shows none.

    Each writer's own field says whose update is gone, and the common field catches one that overwrote another's. An
    update that raised may have been applied, so fields may be ahead of the acknowledgements.
    """
    by_writer = sum(max(0, count - _as_count(found.get(writer))) for writer, count in acknowledged.items())
    in_total = max(0, sum(acknowledged.values()) - _as_count(found_total))
    return max(by_writer, in_total)


def _contend(
    bench: Bench,
    kind: PeerClass,
    shape: StoreShape,
    crew: Crew[Runner],
    *,
    window_s: float,
    stopped: dict[str, str],
) -> Mapping[str, float]:
    crew.restore()
    workers = crew.workers
    directory = bench.new_directory("writers")
    workers[0].call(Runner.create, kind, str(directory), bench.store(shape).sessions)
    for worker in workers:
        worker.call(Runner.open, kind, str(directory))
    start_at_ns = time.monotonic_ns() + int(START_DELAY_S * 1e9)
    names = [f"writer{number}" for number in range(len(workers))]
    common = {"key": COUNTER_KEY, "start_at_ns": start_at_ns, "window_s": window_s}
    results = crew.together(Runner.contend, [{"writer": name, **common} for name in names])
    lost = count_lost(
        acknowledged={name: result.acknowledged for name, result in zip(names, results, strict=True)},
        found={name: _read_back(workers[0], kind, str(directory), name) for name in names},
        found_total=_read_back(workers[0], kind, str(directory), TOTAL_FIELD),
    )
    for worker in workers:
        worker.call(Runner.close)
    discard(directory)
    if failures := [result.failure for result in results if result.failure]:
        stopped.setdefault(kind.name, f"{len(failures)} of {len(workers)} writers stopped: {failures[0]}")
    return _summary(results, lost)


def _summary(results: Sequence[Contention], lost: int) -> Mapping[str, float]:
    acknowledged = sum(result.acknowledged for result in results)
    durations_ms = [duration for result in results for duration in result.durations_ms]
    if not durations_ms:
        raise TurnFailedError(f"no update succeeded: {results[0].failure}")
    return {
        "updates_per_s": acknowledged / max(result.seconds for result in results),
        "p99_ms": percentile(durations_ms, percent=99),
        "max_ms": max(durations_ms),
        "lost": float(lost),
        "acknowledged": float(acknowledged),
    }


def _read_back(worker: Worker[Runner], kind: PeerClass, directory: str, field: str) -> object:
    try:
        worker.call(Runner.open, kind, directory)
        return worker.call(Runner.field_of, COUNTER_KEY, field)
    except TurnFailedError:
        return None  # unreadable: count_lost counts everything as lost


def _hold(bench: Bench, kind: str, crew: Crew[Runner]) -> Mapping[str, float]:
    crew.restore()
    directory = _lock_directory(bench, crew.workers[0])
    window_s = bench.plan.hold_window_s
    start_at_ns = time.monotonic_ns() + int(START_DELAY_S * 1e9)
    arguments = {
        "kind": kind,
        "directory": directory,
        "start_at_ns": start_at_ns,
        "window_s": window_s,
        "hold_s": HOLD_S,
    }
    results = crew.together(Runner.hold_lock, [arguments] * len(crew.workers))
    waits_ms = [wait for result in results for wait in result.waits_ms]
    holds = [result.holds for result in results]
    return {
        "p99_ms": percentile(waits_ms, percent=99),
        "median_ms": statistics.median(waits_ms),
        "max_ms": max(waits_ms),
        "jain": jain_index(holds),
        "holds_per_s": sum(holds) / window_s,
    }


def _lock_directory(bench: Bench, worker: Worker[Runner]) -> str:
    directory = str(bench.new_directory("lock"))
    worker.call(Runner.create, SessionStorePeer, directory, bench.store(SMALL).sessions)
    return directory


def _as_count(value: object) -> int:
    return value if isinstance(value, int) else 0
