"""One process at a time: one durable update, one warm read, loading everything. 7.6 MB throughout."""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from benchmarks.ours import OnDemand, RaisedLimits, RaisedLimitsWithoutBase, SessionStorePeer, WithoutBase
from benchmarks.peers import DiskCache, JsonWithFilelock, Peer, PickleDb, RawLimit, SqliteWal, TinyDb
from benchmarks.rounds import Bar, Rounds, Turn, Verdict, estimate, interleave, judge, ratio
from benchmarks.runner import PeerClass, Runner
from benchmarks.sections import Bench, Quantity, Section
from benchmarks.stores import LARGE
from benchmarks.workers import Worker

OTHERS: tuple[PeerClass, ...] = (JsonWithFilelock, TinyDb, PickleDb, DiskCache, SqliteWal)
UPDATERS: tuple[PeerClass, ...] = (
    RawLimit,
    SessionStorePeer,
    WithoutBase,
    RaisedLimits,
    RaisedLimitsWithoutBase,
    *OTHERS,
)
READERS: tuple[PeerClass, ...] = (SessionStorePeer, RaisedLimits, *OTHERS)
LOADERS: tuple[PeerClass, ...] = (RawLimit, SessionStorePeer, OnDemand, *OTHERS)

RAW_BAR = Bar("durable one-entry update, against the raw limit", "at most", 1.3, "x")
BASELINE_BAR = Bar("durable one-entry update, faster than json + filelock + fsync by", "at least", 5.0, "x")
READ_BAR = Bar("warm read of one entry", "at most", 0.1, "ms")

Act = Callable[["_Opened", int], list[float]]


class _Opened:
    """A peer in its own worker, made and opened at its first turn, which is a warm-up."""

    def __init__(self, bench: Bench, kind: type[Peer], worker: Worker[Runner]) -> None:
        self.bench = bench
        self.worker = worker
        self.kind = kind
        self._turns = 0

    def turn(self, act: Act) -> float:
        if not self._turns:
            directory = str(self.bench.new_directory("single"))
            self.worker.call(Runner.create, self.kind, directory, self.bench.store(LARGE).sessions)
            self.worker.call(Runner.open, self.kind, directory)
        self._turns += 1
        return statistics.median(act(self, self._turns))

    def keys(self, *, count: int, turn: int) -> list[str]:
        return self.bench.store(LARGE).keys_spread(count=count, start=turn)


def run_updates(bench: Bench) -> Section:
    """One entry changed in a 7.6 MB store, durable when the call returns (where the peer can)."""

    def act(opened: _Opened, turn: int) -> list[float]:
        return opened.worker.call(Runner.time_updates, opened.keys(count=bench.plan.updates_per_turn, turn=turn))

    rounds = _measure(bench, section="update", kinds=UPDATERS, act=act)
    return Section(
        name="update",
        title="Update one entry of 7.6 MB",
        method=f"median of {bench.plan.updates_per_turn} updates per turn, each of another entry",
        quantities=(Quantity("ms", "ms"),),
        rounds=rounds,
        remarks=_durability(UPDATERS),
        reference=RawLimit.name,
        limit_line=raw.median * RAW_BAR.limit if (raw := rounds.of(subject=RawLimit.name, quantity="ms")) else None,
        verdicts=judge_updates(rounds),
    )


def judge_updates(rounds: Rounds) -> tuple[Verdict, ...]:
    """Each form of the store against the raw limit and against the hand-written baseline."""
    verdicts: list[Verdict] = []
    raw = rounds.of(subject=RawLimit.name, quantity="ms")
    baseline = rounds.of(subject=JsonWithFilelock.name, quantity="ms")
    for kind in (SessionStorePeer, WithoutBase, RaisedLimits, RaisedLimitsWithoutBase):
        ours = rounds.of(subject=kind.name, quantity="ms")
        remark = kind.name if ours and raw else rounds.why_missing(kind.name, RawLimit.name)
        verdicts.append(judge(RAW_BAR, ratio(ours, raw) if ours and raw else None, remark=remark))
        remark = kind.name if ours and baseline else rounds.why_missing(kind.name, JsonWithFilelock.name)
        verdicts.append(judge(BASELINE_BAR, ratio(baseline, ours) if ours and baseline else None, remark=remark))
    return tuple(verdicts)


def run_reads(bench: Bench) -> Section:
    """One entry read fresh from a 7.6 MB store by a process that has looked at it before."""

    def act(opened: _Opened, turn: int) -> list[float]:
        # Peers that read the whole file each time take a hundred times as long: fewer reads say as much.
        whole_file = opened.kind in (JsonWithFilelock, TinyDb, PickleDb)
        count = bench.plan.loads_per_turn if whole_file else bench.plan.reads_per_turn
        return opened.worker.call(Runner.time_reads, opened.keys(count=count, turn=turn))

    rounds = _measure(bench, section="read", kinds=READERS, act=act)
    return Section(
        name="read",
        title="Read one entry of 7.6 MB, warm",
        method=f"median of {bench.plan.reads_per_turn} reads per turn (fewer for peers that load everything)",
        quantities=(Quantity("ms", "ms"),),
        rounds=rounds,
        remarks=(
            (SessionStorePeer.name, "oversized: positions kept, one slice of the file read"),
            (RaisedLimits.name, "cached: bytes kept, checked by stat"),
            (PickleDb.name, "loads again to see other writers"),
        ),
        reference=SessionStorePeer.name,
        limit_line=READ_BAR.limit,
        verdicts=judge_reads(rounds),
    )


def judge_reads(rounds: Rounds) -> tuple[Verdict, ...]:
    """Both the oversized and the cached read stand under the same bar."""
    verdicts: list[Verdict] = []
    for kind, way in ((SessionStorePeer, "oversized"), (RaisedLimits, "cached")):
        series = rounds.of(subject=kind.name, quantity="ms")
        measured = estimate(series.rounds) if series else None
        verdicts.append(judge(READ_BAR, measured, remark=way if series else rounds.why_missing(kind.name)))
    return tuple(verdicts)


def run_loads(bench: Bench) -> Section:
    """Every entry of a 7.6 MB store read and decoded; sessionstore also without decoding, as a snapshot is used."""

    def act(opened: _Opened, _turn: int) -> list[float]:
        return opened.worker.call(Runner.time_loads, bench.plan.loads_per_turn)

    rounds = _measure(bench, section="load", kinds=LOADERS, act=act)
    return Section(
        name="load",
        title="Load all of 7.6 MB",
        method=f"median of {bench.plan.loads_per_turn} loads per turn, no cache",
        quantities=(Quantity("ms", "ms"),),
        rounds=rounds,
        remarks=((RawLimit.name, "reads the bytes and decodes nothing"),),
        reference=JsonWithFilelock.name,
    )


def _measure(bench: Bench, *, section: str, kinds: Sequence[PeerClass], act: Act) -> Rounds:
    with ExitStack() as stack:
        turns: dict[str, Turn] = {}
        for kind in kinds:
            opened = _Opened(bench, kind, stack.enter_context(Worker(Runner)))
            turns[kind.name] = functools.partial(_turn, opened, act)
        return interleave(turns, rounds=bench.plan.rounds, before_turn=bench.before_turn(section))


def _turn(opened: _Opened, act: Act) -> Mapping[str, float]:
    return {"ms": opened.turn(act)}


def _durability(kinds: Sequence[PeerClass]) -> tuple[tuple[str, str], ...]:
    return tuple((kind.name, kind.durability) for kind in kinds)
