"""The answers of `sessionstore status`, as JSON and as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from sessionstore.cli.survey import LockState, Survey, survey
from sessionstore.cli.terminal import printable


def print_json(path: str) -> int:
    """Print the survey of the store at `path` on stdout as one JSON object; returns the exit status."""
    found = survey(path)
    # ASCII: fit for every pipe, and an undecodable file name comes out as the escapes that Python reads back.
    sys.stdout.write(json.dumps(as_json(found), indent=2) + "\n")
    return report_problem(found)


def print_text(path: str) -> int:
    """Print the survey of the store at `path` on stdout for people; returns the exit status."""
    found = survey(path)
    for name, value in lines(found):
        sys.stdout.write(f"{name:<16} {printable(value)}\n")
    return report_problem(found)


def report_problem(found: Survey) -> int:
    """Name the problem, if there is one, on stderr; returns the exit status."""
    if found.problem is None:
        return 0
    sys.stdout.flush()
    sys.stderr.write(f"Error: {printable(found.problem)}\n")
    return 1


def as_json(found: Survey) -> dict[str, Any]:
    """The survey as JSON values."""
    content, near, lock = found.content, found.neighbours, found.lock
    corruption = None if content is None else content.corruption
    return {
        "ok": found.problem is None,
        "path": found.path,
        "resolved_path": found.resolved_path,
        "exists": content is not None,
        "size_bytes": None if content is None else content.size_bytes,
        "mode": None if content is None else f"{content.mode:04o}",
        "sessions": None if content is None else content.sessions,
        "oversized": found.is_oversized,
        "unreadable": found.unreadable,
        "corrupt": None if corruption is None else {"offset": corruption.offset, "reason": corruption.reason},
        "settings": {field.name: getattr(found.settings, field.name) for field in fields(found.settings)},
        "misread_variables": [
            {"variable": misread.variable, "value": misread.value, "message": str(misread)} for misread in found.misread
        ],
        "lock": {
            "path": lock.path,
            "held": lock.held,
            "holder_pid": lock.holder_pid,
            "holder_name": lock.holder_name,
        },
        "foreign_locks": list(near.foreign_locks),
        "temporary_files": list(near.temporary),
        "backups": list(near.backups),
        "corrupt_copies": list(near.corrupt_copies),
    }


def lines(found: Survey) -> Iterator[tuple[str, str]]:
    """The survey as names and values."""
    content, near = found.content, found.neighbours
    yield "store", found.path
    if found.resolved_path not in (None, found.path):
        yield "resolves to", str(found.resolved_path)
    if content is not None:
        yield "size", f"{content.size_bytes:,} bytes, {_size_remark(found)}"
        yield "mode", f"{content.mode:04o}"
        if content.sessions is not None:
            yield "sessions", f"{content.sessions:,}"
    yield "content", _content_remark(found)
    yield "lock", describe_lock(found.lock)
    for name in near.foreign_locks:
        yield "foreign lock", f"{name}: another program's lock file, left alone"
    for title, names in (
        ("temporary file", near.temporary),
        ("backup", near.backups),
        ("corrupt copy", near.corrupt_copies),
    ):
        for name in names:
            yield title, name
    for field in fields(found.settings):
        yield "setting", f"{field.name} = {getattr(found.settings, field.name)}"
    for misread in found.misread:
        yield "misread", str(misread)


def _size_remark(found: Survey) -> str:
    limit = found.settings.object_cache_max_bytes
    if limit == 0 or found.settings.cache_ttl_ms == 0:
        return "the object cache is switched off"
    comparison = "more than" if found.is_oversized else "within"
    return f"{comparison} the object cache's limit of {limit:,}"


def _content_remark(found: Survey) -> str:
    if found.unreadable is not None:
        return f"unreadable: {found.unreadable}"
    if found.content is None:
        return "there is no file yet, so the store is empty"
    corruption = found.content.corruption
    return "valid" if corruption is None else f"corrupt at byte {corruption.offset}: {corruption.reason}"


def describe_lock(lock: LockState) -> str:
    """Who holds the write lock, in words."""
    if lock.held is None:
        return "unknown: this system does not tell who holds it"
    if not lock.held:
        return "free"
    if lock.holder_pid is None:
        return "held, by a process outside this container"
    return f"held by process {lock.holder_pid}" + ("" if lock.holder_name is None else f" ({lock.holder_name})")
