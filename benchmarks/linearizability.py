"""How fast the checker of linearizability is, and what recording a history costs.

`python -m benchmarks.linearizability` makes its own histories, of the shape of public ones: registers with
compare-and-swap as Jepsen recorded them on etcd (5 workers, about 85 operations, timeouts), and key-value stores with
50 clients, some of them slow (about 2,000 operations). The illegal ones have one stale read, or were cut off: when the
servers end, reads that are still open are answered with nothing. `--jepsen FILE...` and `--key-value FILE...` check
recorded logs instead; `--write DIRECTORY` writes the made-up histories as such logs, for this and other checkers.
Processor time of one core: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from storecheck.history import (
    Call,
    FileRecorder,
    History,
    Json,
    Operation,
    from_jepsen_edn_lines,
    from_porcupine_kv_lines,
)
from storecheck.linearizability import KEY_VALUE, REGISTER, Specification, Verdict, check

REGISTER_OPERATIONS_PER_S = 40_000
KEY_VALUE_LIMIT_S = 1.0
RECORDING_LIMIT_PERCENT = 5.0
RECORDED_OPERATION_MS = 0.5
"""A durable update of a small store: the shortest operation that runs record."""

REPEATS = 3
HISTORIES = 100
KEY_VALUE_HISTORIES = 10
CUT_OFF_BEFORE_LAST = 40
"""Operations that a history which was cut off never began."""

RECORDED_OPERATIONS = 20_000
RECORDING_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a made-up history looks like. Latencies are exponential, in units of the usual mean latency."""

    clients: int
    operations: int
    slow_share: float
    slow_latency: float
    timeout_share: float


ETCD = Shape(clients=5, operations=85, slow_share=0.0, slow_latency=1.0, timeout_share=0.2)
KEY_VALUE_50 = Shape(clients=50, operations=2_000, slow_share=0.2, slow_latency=40.0, timeout_share=0.0)


def simulate(
    shape: Shape, *, seed: int, draw: Callable[[random.Random, int], Call], apply: Callable[[Call], Json]
) -> Iterator[Operation]:
    """A legal execution: each operation takes effect at one moment between invocation and response.

    Of those that time out, half have taken effect. A client that timed out goes on under a new name, as Jepsen's do.
    """
    rng = random.Random(seed)
    latency = [shape.slow_latency if rng.random() < shape.slow_share else 1.0 for _ in range(shape.clients)]
    order = itertools.count()
    moments: list[tuple[float, int, int, str, Operation | None]] = []

    def schedule(now: float, client: int, what: str, operation: Operation | None) -> None:
        delay = rng.expovariate(1.0 / latency[client]) if operation else rng.expovariate(20.0)
        heapq.heappush(moments, (now + delay, next(order), client, what, operation))

    for client in range(shape.clients):
        schedule(0.0, client, "invoke", None)
    names = list(range(shape.clients))
    invoked = 0
    while moments:
        now, _, client, what, operation = heapq.heappop(moments)
        stamp = int(now * 1e9)
        if operation is None:
            if invoked == shape.operations:
                continue
            invoked += 1
            call = draw(rng, names[client])
            begun = Operation(
                process=str(names[client]), task="", identifier=invoked, call=call, invoked_at=stamp, responded_at=None
            )
            schedule(now, client, "time out" if rng.random() < shape.timeout_share else "act", begun)
        elif what == "time out":
            if rng.random() < 0.5:
                apply(operation.call)
            yield replace(operation, call=replace(operation.call, outcome="unknown"), responded_at=stamp)
            names[client] += shape.clients
            schedule(now, client, "invoke", None)
        elif what == "act":
            answered = replace(operation, call=replace(operation.call, result=apply(operation.call)))
            schedule(now, client, "respond", answered)
        else:
            yield replace(operation, responded_at=stamp)
            schedule(now, client, "invoke", None)


def register_history(seed: int) -> list[Operation]:
    """A register with compare-and-swap over five values."""
    value: Json = None

    def draw(rng: random.Random, _: int) -> Call:
        name = rng.choice(("read", "write", "cas"))
        argument: Json = None if name == "read" else rng.randrange(5)
        return Call(name=name, argument=[rng.randrange(5), rng.randrange(5)] if name == "cas" else argument)

    def apply(call: Call) -> Json:
        nonlocal value
        if call.name == "read":
            return value
        if call.name == "write":
            value = call.argument
            return None
        assert isinstance(call.argument, list)
        expected, new = call.argument
        swapped = bool(value == expected)
        value = new if swapped else value
        return swapped

    return list(simulate(ETCD, seed=seed, draw=draw, apply=apply))


def key_value_history(seed: int) -> list[Operation]:
    """Ten keys; half gets, some puts, the rest appends. Clients number their values, and some start over."""
    values: dict[str, str] = {}
    written = [0] * KEY_VALUE_50.clients

    def draw(rng: random.Random, client: int) -> Call:
        name = rng.choices(("get", "put", "append"), weights=(50, 7, 43))[0]
        key = str(rng.randrange(10))
        if name == "get":
            return Call(name=name, argument=[key])
        written[client] = 0 if rng.random() < 0.01 else written[client] + 1
        return Call(name=name, argument=[key, f"x {client} {written[client]} y"])

    def apply(call: Call) -> Json:
        assert isinstance(call.argument, list)
        key, *rest = call.argument
        if call.name == "get":
            return values.get(key, "")
        values[key] = rest[0] if call.name == "put" else values.get(key, "") + rest[0]
        return None

    return list(simulate(KEY_VALUE_50, seed=seed, draw=draw, apply=apply))


def with_stale_read(operations: Sequence[Operation], *, seed: int, name: str) -> list[Operation]:
    """The history with one late read that returned what an earlier read of the same thing did."""
    rng = random.Random(seed)
    reads = [
        index for index, each in enumerate(operations) if each.call.name == name and each.call.outcome == "returned"
    ]
    while True:
        late = rng.choice(reads[len(reads) // 2 :])
        call = operations[late].call
        earlier = [
            operations[index].call.result
            for index in reads
            if index < late and operations[index].call.argument == call.argument
        ]
        stale = [result for result in earlier[: len(earlier) * 3 // 4] if result != call.result]
        if stale:
            changed = replace(operations[late], call=replace(call, result=rng.choice(stale)))
            return [*operations[:late], changed, *operations[late + 1 :]]


def cut_off(operations: Sequence[Operation]) -> list[Operation]:
    """The history until the servers were ended: what is open then is answered at once, reads with nothing."""
    invocations = sorted(each.invoked_at for each in operations)
    end = invocations[-CUT_OFF_BEFORE_LAST]
    left = []
    for each in operations:
        if each.invoked_at <= end:
            assert each.responded_at is not None
            if each.responded_at > end:
                result = "" if each.call.name == "get" else None
                each = replace(each, call=replace(each.call, result=result), responded_at=end + 1)  # noqa: PLW2901
            left.append(each)
    return left


def jepsen_lines(operations: Sequence[Operation]) -> Iterator[str]:
    """The history of a register as a log of Jepsen."""
    kinds = {"returned": "ok", "unknown": "info"}
    for stamp, operation in _events(operations):
        call = operation.call
        kind, value = "invoke", call.argument
        if stamp:
            kind = "fail" if call.name == "cas" and call.result is False else kinds[call.outcome]
            value = call.result if call.name == "read" else call.argument
        shown = "nil" if value is None else str(value).replace(",", "")
        shown = ":timed-out" if kind == "info" else shown
        yield f"INFO  jepsen.util - {operation.process}\t:{kind}\t:{call.name}\t{shown}"


def key_value_lines(operations: Sequence[Operation]) -> Iterator[str]:
    """The history of a key-value store as EDN maps."""
    for stamp, operation in _events(operations):
        call = operation.call
        assert isinstance(call.argument, list)
        key, *rest = call.argument
        value = rest[0] if rest else call.result if stamp else None
        shown = "nil" if value is None else f'"{value}"'
        kind = "ok" if stamp else "invoke"
        yield f'{{:process {operation.process}, :type :{kind}, :f :{call.name}, :key "{key}", :value {shown}}}'


def _events(operations: Sequence[Operation]) -> Iterator[tuple[bool, Operation]]:
    """(whether it is the answer, operation), by stamp: of equal stamps invocations first, as they overlap."""
    events = []
    for number, each in enumerate(operations):
        assert each.responded_at is not None
        events += [(each.invoked_at, False, number), (each.responded_at, True, number)]
    for _, is_answer, number in sorted(events):
        yield is_answer, operations[number]


def write_logs(directory: Path, *, histories: int = KEY_VALUE_HISTORIES) -> list[Path]:
    """Write histories of each kind as logs, named after what they hold."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for seed in range(histories):
        register, key_value = register_history(seed), key_value_history(seed)
        logs = {
            f"register-{seed:02d}-legal.log": jepsen_lines(register),
            f"register-{seed:02d}-stale-read.log": jepsen_lines(with_stale_read(register, seed=seed, name="read")),
            f"key-value-{seed:02d}-legal.edn": key_value_lines(key_value),
            f"key-value-{seed:02d}-stale-read.edn": key_value_lines(with_stale_read(key_value, seed=seed, name="get")),
            f"key-value-{seed:02d}-cut-off.edn": key_value_lines(cut_off(key_value)),
        }
        for name, lines in logs.items():
            path = directory / name
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            written.append(path)
    return written


def timed(history: Sequence[Operation] | History, specification: Specification[object]) -> tuple[Verdict, float]:
    """The verdict, and the processor time it took in seconds: the best of a few, as others use the caches as well."""
    elapsed_s = []
    for _ in range(REPEATS):
        began = time.process_time()
        verdict = check(history, specification)
        elapsed_s.append(time.process_time() - began)
    return verdict, min(elapsed_s)


def measure_register() -> None:
    """Print the rate on registers."""
    histories = [register_history(seed) for seed in range(HISTORIES)]
    histories += [with_stale_read(each, seed=seed, name="read") for seed, each in enumerate(histories)]
    measured = [(len(history), *timed(history, REGISTER)) for history in histories]  # type: ignore[arg-type]
    for wanted in ("ok", "illegal"):
        chosen = [(count, elapsed_s) for count, verdict, elapsed_s in measured if verdict.status == wanted]
        rates = [count / elapsed_s for count, elapsed_s in chosen]
        tenths = statistics.quantiles(rates, n=10)
        median = statistics.median(rates)
        together = sum(count for count, _ in chosen) / sum(elapsed_s for _, elapsed_s in chosen)
        print(
            f"register, {ETCD.operations} operations, {wanted}: {median:,.0f} operations/s (median of {len(rates)} "
            f"histories; slowest tenth {tenths[0]:,.0f}; all together {together:,.0f}); "
            f"bar {REGISTER_OPERATIONS_PER_S:,}: {_said(median >= REGISTER_OPERATIONS_PER_S)}"
        )


def measure_key_value() -> None:
    """Print the time on key-value stores. An undecided history misses the bar."""
    legal = [key_value_history(seed) for seed in range(KEY_VALUE_HISTORIES)]
    illegal = [with_stale_read(each, seed=seed, name="get") for seed, each in enumerate(legal)]
    elapsed_s: dict[str, list[float]] = {"ok": [], "illegal": [], "undecided": []}
    for history in [*legal, *illegal, *map(cut_off, legal)]:
        verdict, seconds = timed(history, KEY_VALUE)  # type: ignore[arg-type]
        elapsed_s[verdict.status].append(seconds)
    for status, times in elapsed_s.items():
        if times:
            print(
                f"key-value, {KEY_VALUE_50.clients} clients, {KEY_VALUE_50.operations} operations, {status}: "
                f"{statistics.median(times):.3f} s (median of {len(times)} histories; slowest {max(times):.3f}); "
                f"bar {KEY_VALUE_LIMIT_S} s: {_said(status != 'undecided' and max(times) <= KEY_VALUE_LIMIT_S)}"
            )


def measure_recording() -> None:
    """Print what recording one operation, its invocation and its response, costs."""
    costs_us = []
    with tempfile.TemporaryDirectory() as directory, FileRecorder(Path(directory) / "history") as recorder:
        argument: Json = ["agent:main:main", {"updatedAt": 1_774_000_000_000, "label": "renamed"}]
        for _ in range(RECORDED_OPERATIONS // RECORDING_BATCH):
            began = time.process_time_ns()
            for _ in range(RECORDING_BATCH):
                recorder.returned(recorder.invoke("update", argument), {"reused": True, "written": True})
            costs_us.append((time.process_time_ns() - began) / RECORDING_BATCH / 1000)
    median_us = statistics.median(costs_us)
    percent = median_us / (RECORDED_OPERATION_MS * 1000) * 100
    print(
        f"recording: {median_us:.1f} us an operation (median of {len(costs_us)} batches; best {min(costs_us):.1f}), "
        f"{percent:.1f} % of {RECORDED_OPERATION_MS} ms; "
        f"bar {RECORDING_LIMIT_PERCENT} %: {_said(percent < RECORDING_LIMIT_PERCENT)}"
    )


def check_logs(paths: Sequence[Path], read: Callable[..., History], specification: Specification[object]) -> None:
    """Print verdict and speed for recorded logs."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            history = read(lines, source=str(path))
        verdict, elapsed_s = timed(history, specification)
        rate = len(history.operations) / elapsed_s
        print(f"{path.name}: {verdict.status}, {len(history.operations)} operations, {elapsed_s:.4f} s, {rate:,.0f}/s")


def _said(hit: bool) -> str:
    return "hit" if hit else "MISSED"


def main(arguments: Sequence[str]) -> None:
    """Measure everything, or check the logs given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linearizability", description=__doc__)
    parser.add_argument("--jepsen", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--key-value", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--write", type=Path, metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    if options.write:
        print(f"{len(write_logs(options.write))} logs written to {options.write}")
        return
    check_logs(options.jepsen, from_jepsen_edn_lines, REGISTER)  # type: ignore[arg-type]
    check_logs(options.key_value, from_porcupine_kv_lines, KEY_VALUE)  # type: ignore[arg-type]
    if not options.jepsen and not options.key_value:
        measure_register()
        measure_key_value()
        measure_recording()


if __name__ == "__main__":
    main(sys.argv[1:])
