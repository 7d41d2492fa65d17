"""Keeps what pytest left out of this session, so that tests of planted bugs know what runs beside them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

DESELECTED = pytest.StashKey[list[str]]()
"""Ids of the tests that `-k`, `-m` or a shard left out."""


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember what was left out."""
    if items:
        items[0].config.stash.setdefault(DESELECTED, []).extend(item.nodeid for item in items)
