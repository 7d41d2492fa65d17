"""How much memory this process has in use, as the kernel counts it.

`rss` is what is resident. `heap` is the anonymous part of it: everything that Python's allocators and malloc hold, free
or not, and the stacks. `external` is the rest: the interpreter, libraries and other mapped files. A leak shows in
`heap`; `sys.getsizeof` and tracemalloc would miss what is freed but not given back. Linux tells all three (proc(5)).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use now; `heap` is None where the system does not tell it from the rest."""

    rss_bytes: int
    heap_bytes: int | None

    @property
    def external_bytes(self) -> int | None:
        """What is resident but not heap."""
        return None if self.heap_bytes is None else self.rss_bytes - self.heap_bytes


def memory_now() -> Memory:
    """What this process has in use; elsewhere than on Linux its peak so far, which is all that POSIX tells."""
    fields = _process_status()
    rss, heap = fields.get("VmRSS"), fields.get("RssAnon")
    return Memory(peak_rss_bytes(), None) if rss is None else Memory(rss, heap)


def peak_rss_bytes() -> int:
    """Most that was ever resident in this process."""
    peak = _process_status().get("VmHWM")
    if peak is not None:
        # Not getrusage: on Linux that counts what the parent had resident when it forked, too.
        return peak
    if sys.platform == "win32":
        return 0
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on the BSDs, bytes on macOS (getrusage(2)).
    return largest if sys.platform == "darwin" else largest * 1024


def _process_status() -> dict[str, int]:
    """Bytes by name from /proc/self/status, whose lines look like `VmRSS:     23456 kB`; empty where there is none."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            words = [line.split() for line in status.read(16_384).splitlines()]
    except OSError:
        return {}
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in words if len(line) == 3 and line[2] == "kB"}
