"""A store that is built on a built-in adapter, as somebody may who wants to change it a little."""

from __future__ import annotations

from storecheck.peers.json_filelock import Adapter


class Inherits(Adapter):
    """The same store; but the class that it inherits from would reach the real system."""
