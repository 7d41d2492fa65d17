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
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status.read(16_384).splitlines() if ":" in line)
    except OSError:
        return Memory(peak_rss_bytes(), None)
    rss, heap = (_kilobytes(fields.get(name)) for name in ("VmRSS", "RssAnon"))
    return Memory(peak_rss_bytes(), None) if rss is None else Memory(rss, heap)


def _kilobytes(field: str | None) -> int | None:
    # "	   23456 kB"; the kernel's kB are 1024 bytes.
    return None if field is None else int(field.split()[0]) * 1024


def peak_rss_bytes() -> int:
    """Most that was ever resident in this process."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux and the BSDs, bytes on macOS (getrusage(2)).
    return peak if sys.platform == "darwin" else peak * 1024
