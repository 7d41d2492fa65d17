"""What searches looked at and how far: `explore` and the crash checks say it, the pytest plugin listens and counts.

So a report's bounds are those of the searches that ran, not what a profile would have allowed. Does not count by
itself: without a listener nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

Listener = Callable[[Mapping[str, int]], None]

LISTENERS: Final[list[Listener]] = []
"""Called with what one search did, by the names of `verdict.SEARCH_KINDS` and `verdict.BOUND_KINDS`."""


def tell(**did: int) -> None:
    """Tell all listeners what one search did."""
    for listener in LISTENERS:
        listener(did)
