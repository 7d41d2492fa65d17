"""Fails call 1, then call 2, and so on, until the operation makes no such call any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .injector import Failure, Injector

MAX_CALLS: Final = 1_000
"""Calls of one operation. One that makes more retries for ever."""


class TooManyCallsError(RuntimeError):
    """An operation makes more calls than any operation should."""


def one_by_one(failure: Failure) -> Iterator[Injector]:
    """Injectors for call 1, 2, …; ends after the first that was not reached. Use each in a run before asking on.

    Raises:
        TooManyCallsError: after `MAX_CALLS` calls.
    """
    for at in range(1, MAX_CALLS + 1):
        injector = Injector(failure, at=at)
        yield injector
        if not injector.hits:
            return
    raise TooManyCallsError(f"more than {MAX_CALLS} calls could be made to fail with {failure}: is something retried?")
