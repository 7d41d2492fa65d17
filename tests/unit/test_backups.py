"""Backups that maintenance makes: which ones are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionstore.maintenance import KEPT_BACKUPS, back_up, backups


@pytest.mark.promise("MAINT2")
@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (5, 4, 3, 2, 1), (3, 3, 3, 3, 3)])
def test_a_backup_just_made_is_never_the_one_that_is_removed(store_path: Path, order: tuple[int, ...]) -> None:
    """Also after the clock was set back, or twice in a millisecond, the new backup stays, and three in all."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    for number, now_ms in enumerate(order):
        name = back_up(str(store_path), b"%d" % number, now_ms=now_ms, mode=0o600)
        assert Path(name).read_bytes() == b"%d" % number
        assert len(backups(str(store_path))) == min(number + 1, KEPT_BACKUPS)
