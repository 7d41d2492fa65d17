"""What happens inside a worker: open a peer, time its acts, contend with other workers.

Only the act itself stands between the two clock readings. Everything here runs in the worker process; results are
plain numbers and small frozen values.
"""

import functools
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.locks import LOCKS
from benchmarks.peers import Peer, Sessions

PeerClass: TypeAlias = type[Peer]

TOTAL_FIELD = "counter"
# Longer than the store's racy window (20 ms), in which a file is read again to be sure.
SETTLE_S = 0.06
FAILURE_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Contention:
    """What one writer did in one window of contention.

    Attributes:
        acknowledged: updates that returned.
        seconds: from the common start to its last acknowledgement.
        durations_ms: how long each update took, waiting included.
        failure: the error that stopped it, or "".
    """

    acknowledged: int
    seconds: float
    durations_ms: tuple[float, ...]
    failure: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What one writer saw of a lock.

    Attributes:
        holds: how many began inside the window.
        waits_ms: every wait, also the one that overran the window.
        got_ns: when each hold began, on the monotonic clock.
    """

    holds: int
    waits_ms: tuple[float, ...]
    got_ns: tuple[int, ...]


class Runner:
    """Measures one peer at a time in this process."""

    def __init__(self) -> None:
        self._peer: Peer | None = None

    def create(self, kind: PeerClass, directory: str, sessions: Sessions) -> None:
        """Put `sessions` into the empty `directory`, as this kind of peer keeps them."""
        kind.create(directory, sessions)

    def open(self, kind: PeerClass, directory: str) -> None:
        """Open what `create` made; whatever was open before is closed."""
        self.close()
        self._peer = kind(directory)

    def close(self) -> None:
        """Close the peer and give back its memory."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None
            gc.collect()

    def time_updates(self, keys: Sequence[str]) -> list[float]:
        """Milliseconds of one update for each of `keys`."""
        peer = self._opened()
        return [_milliseconds(functools.partial(peer.increment, key, (TOTAL_FIELD,))) for key in keys]

    def time_reads(self, keys: Sequence[str]) -> list[float]:
        """Milliseconds of one warm read of each of `keys`; a key that is missing is an error."""
        peer = self._opened()
        # Warm: the first look may parse, the second one, past the racy window, confirms what is kept.
        peer.read_one(keys[0])
        time.sleep(SETTLE_S)
        if peer.read_one(keys[0]) is None:
            raise KeyError(keys[0])
        return [_milliseconds(functools.partial(peer.read_one, key)) for key in keys]

    def time_loads(self, count: int) -> list[float]:
        """Milliseconds of `count` loads of everything, decoded."""
        peer = self._opened()
        return [_milliseconds(peer.load_all) for _ in range(count)]

    def field_of(self, key: str, field: str) -> object:
        """What a fresh look at the disk finds in that field."""
        peer = self._opened()
        entry = peer.read_one(key)
        return None if entry is None else entry.get(field)

    def contend(self, *, writer: str, key: str, start_at_ns: int, window_s: float) -> Contention:
        """Increment the counter of `key`, and this writer's own beside it, as often as the window allows.

        `start_at_ns` is on the monotonic clock, which all processes of a machine share.
        """
        peer = self._opened()
        end_ns = start_at_ns + int(window_s * 1e9)
        durations_ms: list[float] = []
        failure = ""
        _sleep_until(start_at_ns)
        # At least one each: a writer that comes late is then seen as slow, and not missing from the figures.
        while not durations_ms or time.monotonic_ns() < end_ns:
            try:
                durations_ms.append(_milliseconds(lambda: peer.increment(key, (TOTAL_FIELD, writer))))
            except Exception as error:  # noqa: BLE001, PERF203  # some peers destroy their file here; that is the finding
                failure = f"{type(error).__name__}: {error}"[:FAILURE_CHARACTERS]
                break
        seconds = (time.monotonic_ns() - start_at_ns) / 1e9
        return Contention(len(durations_ms), seconds, tuple(durations_ms), failure)

    def hold_lock(self, *, kind: str, directory: str, start_at_ns: int, window_s: float, hold_s: float) -> Holding:
        """Take the lock again and again, keep it `hold_s` each time, and note how long each wait was."""
        hold_once = LOCKS[kind](directory)
        end_ns = start_at_ns + int(window_s * 1e9)
        waits_ms: list[float] = []
        held_from_ns: list[int] = []
        _sleep_until(start_at_ns)
        while (asked_ns := time.monotonic_ns()) < end_ns or not waits_ms:
            got_ns = hold_once(hold_s)
            waits_ms.append((got_ns - asked_ns) / 1e6)
            held_from_ns.append(got_ns)
        holds = sum(got_ns < end_ns for got_ns in held_from_ns)
        return Holding(holds, tuple(waits_ms), tuple(held_from_ns))

    def time_uncontended(self, kind: str, directory: str, count: int) -> list[float]:
        """Microseconds of taking and freeing the lock when nobody else wants it."""
        hold_once = LOCKS[kind](directory)
        hold_once(0.0)
        return [_milliseconds(lambda: hold_once(0.0)) * 1e3 for _ in range(count)]

    def _opened(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("no peer is open in this worker: call open first")
        return self._peer


def _milliseconds(act: Callable[[], object]) -> float:
    began_ns = time.perf_counter_ns()
    act()
    return (time.perf_counter_ns() - began_ns) / 1e6


def _sleep_until(start_at_ns: int) -> None:
    time.sleep(max(0.0, (start_at_ns - time.monotonic_ns()) / 1e9))
