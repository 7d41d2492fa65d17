"""A mutex that no interruption leaves locked.

`with lock:` is safe from signal handlers that raise (Ctrl-C is one) in CPython 3.10 to 3.13: nothing can happen between
taking the lock and entering the block. In 3.14 a handler can run there, and the lock stays taken for ever
(python/cpython issue 148874). Here taking it is inside a `try`. Giving it back stays the C method, which a handler can
only precede or follow. A second signal while the first is answered is not provided for.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:

    class _Base:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

else:
    # A lock that knows its thread: only that can tell, after an interruption, whether it was taken.
    _Base = type(threading.RLock())


class Mutex(_Base):
    """For `with` statements that do not nest. Blocks; belongs to one process."""

    def __enter__(self) -> bool:
        try:
            return self.acquire()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # interrupted while it waited: not taken
                self.release()
            raise
