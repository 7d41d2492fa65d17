"""One peer over many cycles of load and update, in a process of its own: `python -m benchmarks.cycles PEER DIR CYCLES`.

Prints the columns that `sessionstore stress` prints and that make sense for any store. Imports nothing but the peer,
so that what the kernel counts is the peer's.
"""

import sys
import time

from benchmarks import ours, peers
from benchmarks.runner import TOTAL_FIELD
from benchmarks.stores import COUNTER_KEY

SAMPLE_EVERY = 10


def run_cycles(kind: type[peers.Peer], directory: str, *, cycles: int) -> None:
    """Load everything, update one entry; print the memory in use before the first cycle and after every tenth."""
    import psutil

    process = psutil.Process()
    peer = kind(directory)
    began_ns = time.perf_counter_ns()
    print("cycle rss_mb elapsed_ms")
    for cycle in range(cycles + 1):
        if cycle % SAMPLE_EVERY == 0:
            rss_mb = process.memory_info().rss / 1e6
            print(f"{cycle} {rss_mb:.1f} {(time.perf_counter_ns() - began_ns) / 1e6:.0f}")
        if cycle < cycles:
            peer.load_all()
            peer.increment(COUNTER_KEY, (TOTAL_FIELD,))
    peer.close()


if __name__ == "__main__":
    kinds = {
        kind.__name__: kind for module in (ours, peers) for kind in vars(module).values() if isinstance(kind, type)
    }
    run_cycles(kinds[sys.argv[1]], sys.argv[2], cycles=int(sys.argv[3]))
