"""How simulated system calls fail: with the same `OSError` that CPython raises for a real one."""

from __future__ import annotations

import os
from typing import NoReturn

Named = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int | None


def fail(code: int, first: object = None, second: object = None) -> NoReturn:
    """Raise `OSError(code)` (which picks the subclass) with the path or paths of the call, as CPython does."""
    if second is not None:
        raise OSError(code, os.strerror(code), first, None, second)
    if first is not None:
        raise OSError(code, os.strerror(code), first)
    raise OSError(code, os.strerror(code))
