"""Backups that maintenance makes: which ones are kept, and how they get their names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

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


@pytest.mark.promise("MAINT2")
def test_the_newest_backups_are_kept_by_time_and_not_by_name(store_path: Path) -> None:
    """A time with more digits is later, also where its name sorts first."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    for now_ms in (8, 9, 10, 11, 100):
        back_up(str(store_path), b"%d" % now_ms, now_ms=now_ms, mode=0o600)
    assert [Path(name).read_bytes() for name in backups(str(store_path))] == [b"100", b"11", b"10"]


def forbid_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let the file system have no hard links, and say so by this error."""

    def link(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.promise("MAINT2")
@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links_a_backup_is_made_all_the_same(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """On a file system without hard links (exFAT) a backup is whole, synced, alone, and takes no other file's name."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    forbid_links(monkeypatch, code)
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    names = [Path(back_up(str(store_path), b"first", now_ms=7, mode=0o640))]
    names.append(Path(back_up(str(store_path), b"second", now_ms=7, mode=0o640)))
    assert [name.read_bytes() for name in names] == [b"first", b"second"]
    assert [stat.S_IMODE(name.stat().st_mode) for name in names] == [0o640, 0o640]
    assert sorted(store_path.parent.iterdir()) == sorted(names)
    assert {name.stat().st_ino for name in names} <= set(synced)
    assert synced[-1] == store_path.parent.stat().st_ino


@pytest.mark.promise("WRITE5", "MAINT2")
def test_a_backup_that_cannot_get_its_name_leaves_nothing(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the copy cannot be renamed either, the error is raised and no copy stays."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    forbid_links(monkeypatch, errno.EPERM)

    def replace(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        back_up(str(store_path), b"all", now_ms=7, mode=0o600)
    assert list(store_path.parent.iterdir()) == []


@pytest.mark.promise("WRITE5", "MAINT2")
def test_another_failure_of_link_is_an_error(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or failing disk is not taken for a file system without hard links."""
    store_path.parent.mkdir(parents=True, exist_ok=True)
    forbid_links(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        back_up(str(store_path), b"all", now_ms=7, mode=0o600)
    assert list(store_path.parent.iterdir()) == []
