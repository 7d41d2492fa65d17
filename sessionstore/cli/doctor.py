"""What is wrong with a store, where, and what to do about it, in words."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sessionstore.cli.repair import Problem, Repair, Salvage, salvage
from sessionstore.cli.status import describe_lock
from sessionstore.cli.survey import Survey
from sessionstore.cli.terminal import counted, printable
from sessionstore.errors import StoreError
from sessionstore.files import OpenFile

Level = Literal["problem", "remark", "fine"]

MAX_TOLD_PROBLEMS = 20
MAX_TOLD_KEYS = 20
_EXCERPT_BEFORE_BYTES = 40
_EXCERPT_AFTER_BYTES = 32
_MAX_FOREIGN_LOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know, and lines of detail. `name` is what a problem is called where the text has been told."""

    level: Level
    text: str
    details: tuple[str, ...] = ()
    name: str = ""


def findings(found: Survey) -> Iterator[Finding]:
    """What there is to say of a store, the file itself first."""
    yield from _of_content(found)
    yield from _of_access(found)
    yield from _of_lock(found)
    yield from _of_neighbours(found)
    for misread in found.misread:
        yield Finding("remark", str(misread))
    if found.is_oversized and found.settings.object_cache_max_bytes:
        yield Finding(
            "remark",
            f"larger than the object cache's limit of {found.settings.object_cache_max_bytes:,} bytes: loads read the "
            "whole file. Raise OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES to keep it in memory.",
        )


def _of_content(found: Survey) -> Iterator[Finding]:
    if found.unreadable is not None:
        yield Finding("problem", f"the file cannot be read: {found.unreadable}")
    elif found.content is None:
        yield Finding("fine", "there is no file yet, so the store is empty; the first write creates it")
    elif found.content.corruption is None:
        yield Finding(
            "fine",
            f"{counted(found.content.sessions or 0, 'session')} in {found.content.size_bytes:,} bytes, all readable",
        )
    else:
        yield from _of_corruption(found)


def _of_corruption(found: Survey) -> Iterator[Finding]:
    if found.content is None or found.content.corruption is None or found.resolved_path is None:
        return
    first = found.content.corruption
    try:
        with OpenFile(found.resolved_path) as file:
            raw = file.read()[0].joined()
    except (OSError, StoreError) as error:
        yield Finding("problem", f"the file cannot be read again: {error}")
        return
    saved = salvage(raw)
    # What stopped the reader is often the first thing that the salvage met, which knows the session as well.
    first_met = next((problem for problem in saved.problems if problem.offset == first.offset), None)
    told = Problem(first.offset, first.reason) if first_met is None else first_met
    place = f"corrupt at {_place(raw, first.offset)}"
    yield Finding(
        "problem",
        f"{place}: {_told(told)}. Programs refuse to read or write it.",
        excerpt(raw, first.offset),
        name=place,
    )
    others = [problem for problem in saved.problems if problem is not first_met]
    for problem in others[:MAX_TOLD_PROBLEMS]:
        yield Finding("problem", f"{_place(raw, problem.offset)}: {_told(problem)}", excerpt(raw, problem.offset))
    untold = len(others) - MAX_TOLD_PROBLEMS + saved.untold
    if untold > 0:
        yield Finding("problem", f"{untold} more problems of this kind")
    yield Finding("remark", f"--repair would keep {outcome(saved)}")


def _told(problem: Problem) -> str:
    return f"{problem.reason}; {problem.consequence}" if problem.consequence else problem.reason


def _place(raw: bytes, offset: int) -> str:
    line = raw.count(b"\n", 0, offset) + 1
    column = offset - (raw.rfind(b"\n", 0, offset) + 1) + 1
    return f"byte {offset:,} (line {line:,}, column {column:,})"


def excerpt(raw: bytes, offset: int) -> tuple[str, str]:
    """The bytes around `offset` as one printable line, and a line with a mark under them."""
    before = raw[max(0, offset - _EXCERPT_BEFORE_BYTES) : offset]
    after = raw[offset : offset + _EXCERPT_AFTER_BYTES]
    left = ("" if offset <= _EXCERPT_BEFORE_BYTES else "...") + _shown(before)
    right = _shown(after) + ("" if offset + _EXCERPT_AFTER_BYTES >= len(raw) else "...")
    return left + (right or "(end of file)"), " " * len(left) + "^"


def _shown(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "backslashreplace"))


def outcome(saved: Salvage) -> str:
    """What a salvage keeps and loses, in words."""
    kept = counted(len(saved.kept), "session")
    if not saved.lost:
        return f"{kept} and lose no session whose key can be read"
    return f"{kept} and lose {len(saved.lost):,}: {_named(saved.lost)}"


def _of_access(found: Survey) -> Iterator[Finding]:
    if found.resolved_path is None:
        return
    directory = os.path.dirname(found.resolved_path)
    if os.path.isdir(directory) and not os.access(directory, os.W_OK | os.X_OK):
        yield Finding("problem", f"{directory}: this user may not create files there, which every write has to")
    if found.content is None:
        return
    if not os.access(found.resolved_path, os.W_OK):
        yield Finding("problem", f"mode {found.content.mode:04o}: this user may not write the file; every write fails")
    if found.content.mode & 0o077:
        yield Finding("remark", f"mode {found.content.mode:04o}: other users of this machine have access; see chmod(1)")


def _of_lock(found: Survey) -> Iterator[Finding]:
    if not found.lock.path:
        return
    try:
        status = os.lstat(found.lock.path)
    except OSError:
        status = None
    if status is not None and not stat.S_ISREG(status.st_mode):
        yield Finding("problem", f"{found.lock.path}: not a regular file, so no write can lock it. Remove it.")
    elif found.lock.held:
        yield Finding("remark", f"the write lock is {describe_lock(found.lock)}")


def _of_neighbours(found: Survey) -> Iterator[Finding]:
    near = found.neighbours
    if near.temporary and not found.lock.held:
        yield Finding(
            "remark",
            f"{counted(len(near.temporary), 'temporary file')} of killed writers; the next write removes them, and so "
            "does --repair",
            near.temporary,
        )
    for name in near.foreign_locks:
        yield Finding("remark", f"{name}: another program's lock file. It does not lock this store and is left alone.",
                      _foreign_holder(name))  # fmt: skip
    if near.corrupt_copies:
        yield Finding("remark", "copies of corrupt content, kept until you remove them", near.corrupt_copies)


def _foreign_holder(path: str) -> tuple[str, ...]:
    """What the original system wrote into its lock file, if that can be read."""
    try:
        with open(path, "rb") as lock:
            holder = json.loads(lock.read(_MAX_FOREIGN_LOCK_BYTES))
    except (OSError, ValueError, RecursionError):
        return ()
    pid = holder.get("pid") if isinstance(holder, dict) else None
    if not isinstance(pid, int) or isinstance(pid, bool):
        return ()
    living = "is running" if os.path.exists(f"/proc/{pid}") else "is not running here"
    return (f"it names process {pid}, which {living}",)


def told_repair(done: Repair) -> Iterator[Finding]:
    """What a repair did."""
    if done.swept.removed:
        yield Finding("fine", f"removed {counted(done.swept.removed, 'temporary file')} of killed writers")
    if done.swept.kept:
        yield Finding(
            "remark",
            f"{counted(len(done.swept.kept), 'temporary file')} of killed writers cannot be removed by this user; "
            "remove as their owner or as the directory's",
            done.swept.kept,
        )
    if done.copy is None or done.salvage is None:
        yield Finding("fine", "nothing to repair: the file was left alone")
        return
    yield Finding("fine", f"the exact bytes of the corrupt file are in {done.copy}; remove it when you are sure")
    kept = counted(len(done.salvage.kept), "session")
    yield Finding("fine", f"the file now holds what could be read: {kept}")
    if done.salvage.lost:
        yield Finding("remark", f"lost, but for their bytes in the copy: {_named(done.salvage.lost)}")


def _named(keys: tuple[str, ...]) -> str:
    more = len(keys) - MAX_TOLD_KEYS
    return ", ".join(map(repr, keys[:MAX_TOLD_KEYS])) + (f" and {more:,} more" if more > 0 else "")
