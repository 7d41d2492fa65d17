"""What happened in one run, as lanes: one column per process, one line per noticed call, and what the disk held.

`TraceRecorder` listens to every intercepted call of a run and turns it into `Line`s. Files get version numbers: v0 is
what the run began with, each change of what a path shows is the next. From them the recorder tells what each process
saw (marked if it was no longer the newest), and where a process published something built from an older version than
the one it replaced. That is a reading of the trace, not a verdict: the check decides what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from storecheck.machine import LOCK_NB, LOCK_UN, Inode, Process
from storecheck.machine.inode import REGULAR
from storecheck.program import Json, expect_list, expect_number, expect_object, expect_text
from storecheck.runner import ROOT_PATH, Execution
from storecheck.syscalls import Context

COLUMN_WIDTH: Final = 44
"""Characters per process: three lanes and the step fit a terminal of 140."""

SHOWN_CHARACTERS: Final = 28
"""Longest argument shown in a lane; the rest is cut and marked."""

_CHANGES: Final = frozenset(
    {"write", "pwrite", "writev", "ftruncate", "truncate", "rename", "replace", "link", "unlink", "remove", "open"}
    | {"sendfile", "copy_file_range", "posix_fallocate"}
)
_READS: Final = frozenset({"read", "pread", "readv", "sendfile", "copy_file_range"})
_HIDDEN: Final = frozenset(
    {"getpid", "getuid", "geteuid", "monotonic", "monotonic_ns", "time", "time_ns", "perf_counter", "perf_counter_ns"}
    | {"lseek", "getcwd", "urandom", "umask", "getppid", "getgid"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One call of one process.

    Attributes:
        step: the executor's step; operations' begin and end carry the step they happened after.
        process: index of the process.
        thread: number of the thread in the process, 0 for the main one.
        text: what was called and what came of it.
        notes: what it means: versions seen and published, locks taken, stale reads, overwritten changes.
    """

    step: int
    process: int
    thread: int
    text: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As a JSON object."""
        return {
            "step": self.step,
            "process": self.process,
            "thread": self.thread,
            "text": self.text,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: object, where: str) -> Line:
        """The inverse of `to_json`; ProgramError names the place of what is wrong."""
        fields = expect_object(value, where)
        return cls(
            step=expect_number(fields.get("step"), f"{where}.step"),
            process=expect_number(fields.get("process"), f"{where}.process"),
            thread=expect_number(fields.get("thread"), f"{where}.thread"),
            text=expect_text(fields.get("text"), f"{where}.text"),
            notes=tuple(
                expect_text(note, f"{where}.notes") for note in expect_list(fields.get("notes"), f"{where}.notes")
            ),
        )


@dataclass(slots=True)
class _Watched:
    """A path whose versions are counted."""

    path: str
    content: bytes | None
    serial: int | None = None
    version: int = 0
    author: str = "the start"
    based_on: dict[int, int] = field(default_factory=dict)


class TraceRecorder:
    """Listens to a run. Give it to `Runner.run(recorder=…)`, then ask for `lines`. Use once."""

    def __init__(self, files: Iterable[str]) -> None:
        self.lines: list[Line] = []
        self._watched: dict[str, _Watched] = {}
        self._initial = list(files)
        self._versions: dict[int, tuple[_Watched, int]] = {}
        self._started = False

    def call_ended(
        self, *, context: Context, name: str, arguments: tuple[object, ...], result: object, error: BaseException | None
    ) -> None:
        """Called by the interception after every call."""
        self._start(context)
        notes: list[str] = []
        if error is None:
            self._note_read(context, name, arguments, result, notes)
            self._note_lock(context, name, arguments, notes)
            if name in _CHANGES:
                self._note_changes(context, name, arguments, notes)
        if name in _HIDDEN and not notes:
            return
        executor, member = context.running()
        assert executor.current is not None
        self.lines.append(
            Line(
                step=executor.steps,
                process=member.process.index,
                thread=member.tasks.index(executor.current),
                text=f"{name}({_shown_arguments(context, name, arguments)}){_shown_result(name, result, error)}",
                notes=tuple(notes),
            )
        )

    # Versions

    def _start(self, context: Context) -> None:
        if not self._started:
            self._started = True
            for path in self._initial:
                self._watch(context, path, at_start=True)

    def _watch(self, context: Context, path: str, *, at_start: bool = False) -> None:
        inode = _inode_at(context, path)
        watched = _Watched(path, None)
        self._watched[path] = watched
        if inode is not None and at_start:
            watched.content = bytes(inode.content)
            watched.serial = inode.serial
            self._versions[inode.serial] = (watched, 0)

    def _note_read(
        self, context: Context, name: str, arguments: tuple[object, ...], result: object, notes: list[str]
    ) -> None:
        if name not in _READS or not result:
            return
        position = 1 if name == "sendfile" else 0
        opened = context.process.descriptors.get(arguments[position])  # type: ignore[call-overload]
        if opened is None or opened.inode.serial not in self._versions:
            return
        watched, version = self._versions[opened.inode.serial]
        watched.based_on[context.process.index] = version
        if version == watched.version:
            notes.append(f"sees v{version} of {watched.path}")
        else:
            notes.append(f"STALE: sees v{version} of {watched.path}, the disk holds v{watched.version}")

    def _note_changes(self, context: Context, name: str, arguments: tuple[object, ...], notes: list[str]) -> None:
        if name in ("rename", "replace") and isinstance(arguments[1], str | os.PathLike):
            path = _relative(os.fspath(arguments[1]))
            if path not in self._watched:
                self._watch(context, path)
        for watched in self._watched.values():
            inode = _inode_at(context, watched.path)
            content = None if inode is None else bytes(inode.content)
            serial = None if inode is None else inode.serial
            if content != watched.content or serial != watched.serial:
                watched.serial = serial
                self._new_version(context, watched, inode, content, notes)

    def _new_version(
        self, context: Context, watched: _Watched, inode: Inode | None, content: bytes | None, notes: list[str]
    ) -> None:
        executor, member = context.running()
        me = member.process.index
        before, author = watched.version, watched.author
        based_on = watched.based_on.get(me)
        watched.version += 1
        watched.content = content
        watched.author = f"{member.name}, step {executor.steps}"
        notes.append(
            f"publishes v{watched.version} of {watched.path}"
            if content is not None
            else f"{watched.path} is gone (v{watched.version})"
        )
        if based_on is not None and based_on < before:
            notes.append(f"OVERWRITES v{before} ({author}): built from v{based_on}")
        watched.based_on[me] = watched.version
        if inode is not None:
            self._versions[inode.serial] = (watched, watched.version)

    # Locks

    def _note_lock(self, context: Context, name: str, arguments: tuple[object, ...], notes: list[str]) -> None:
        if name not in ("flock", "lockf"):
            return
        fd = arguments[0] if isinstance(arguments[0], int) else arguments[0].fileno()  # type: ignore[attr-defined]
        opened = context.process.descriptors.get(fd)
        path = "?" if opened is None else _relative(opened.path)
        operation = arguments[1]
        assert isinstance(operation, int)
        if operation & ~LOCK_NB == LOCK_UN:
            notes.append(f"frees {path}")
            return
        notes.append(f"holds {path}")
        current = _inode_at(context, path)
        if opened is not None and current is not opened.inode:
            notes.append(f"LOCK WITHOUT A NAME: {path} is another file by now")
        others = _other_holders(context, path, opened.inode if opened is not None else None)
        if others:
            notes.append(f"AT THE SAME TIME AS {', '.join(others)}")


def _other_holders(context: Context, path: str, inode: Inode | None) -> list[str]:
    """Processes that hold an exclusive lock on another file that had the same name."""
    holders = []
    for process in context.machine.processes:
        for opened in process.descriptors.values():
            other = process is not context.process and opened.inode is not inode
            if other and opened.flock == 2 and _relative(opened.path) == path:
                holders.append(f"P{process.index + 1}")
    return holders


def _inode_at(context: Context, path: str) -> Inode | None:
    machine = context.machine
    directory = machine.mount
    observer = Process(index=0, pid=0, uid=0, gid=0, umask=0, cwd=directory, open_files=0)
    footprint, machine.footprint = machine.footprint, None
    try:
        inode = machine.locate(observer, f"{ROOT_PATH}/{path}", shown=path)[2]
    except OSError:
        return None
    finally:
        machine.footprint = footprint
    return inode if inode is not None and inode.kind == REGULAR else None


def _relative(path: object) -> str:
    text = path if isinstance(path, str) else os.fsdecode(path)  # type: ignore[arg-type]
    return text[len(ROOT_PATH) + 1 :] if text.startswith(f"{ROOT_PATH}/") else text


def _shown_arguments(context: Context, name: str, arguments: tuple[object, ...]) -> str:
    if name == "open" and len(arguments) > 1 and isinstance(arguments[1], int):
        return f"{_shown_argument(context, arguments[0])}, {_open_flags(arguments[1])}"
    if name in ("flock", "lockf") and len(arguments) > 1 and isinstance(arguments[1], int):
        return f"{_shown_argument(context, arguments[0])}, {_lock_names(arguments[1])}"
    return ", ".join(_shown_argument(context, argument) for argument in arguments)


def _open_flags(flags: int) -> str:
    access = ("read", "write", "read+write")[min(flags & 3, 2)]
    extra = [name[2:].lower() for name in ("O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND") if flags & getattr(os, name)]
    return "|".join((access, *extra))


def _lock_names(operation: int) -> str:
    kind = {1: "shared", 2: "exclusive", LOCK_UN: "unlock"}.get(operation & ~LOCK_NB, str(operation))
    return f"{kind}|no wait" if operation & LOCK_NB else kind


def _shown_argument(context: Context, argument: object) -> str:
    if isinstance(argument, int) and not isinstance(argument, bool):
        opened = context.process.descriptors.get(argument)
        if opened is not None:
            return f"<{_cut(_relative(opened.path))}>"
        return str(argument)
    if isinstance(argument, str | os.PathLike):
        return repr(_cut(_relative(os.fspath(argument))))
    if isinstance(argument, bytes | bytearray | memoryview):
        return _cut(repr(bytes(argument)))
    return _cut(repr(argument))


def _shown_result(name: str, result: object, error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        import errno

        return f" !{errno.errorcode.get(error.errno, str(error.errno))}"
    if error is not None:
        return f" !{type(error).__name__}"
    if isinstance(result, os.stat_result):
        return f" = ino {result.st_ino}, {result.st_size} B, mtime {result.st_mtime_ns}"
    if result is None or name in ("open", "dup"):
        return ""
    return f" = {_cut(repr(result))}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def with_operations(lines: Iterable[Line], execution: Execution) -> list[Line]:
    """The lines of the calls, with a line where each operation begins and ends."""
    marked: list[tuple[int, int, Line]] = [(line.step, 1, line) for line in lines]
    for record in execution.operations:
        begins = Line(
            step=record.invoked_step, process=record.process, thread=record.thread, text=f"> {record.operation}"
        )
        marked.append((record.invoked_step, 2, begins))
        if record.responded_step is not None:
            answer = (
                f"= {_cut(repr(record.result))}"
                if record.outcome == "returned"
                else f"! {record.error}: {record.message}"
            )
            ends = Line(step=record.responded_step, process=record.process, thread=record.thread, text=f"< {answer}")
            marked.append((record.responded_step, 1, ends))
    return [line for _, _, line in sorted(marked, key=lambda item: item[:2])]


def render(lines: Iterable[Line], *, processes: int, width: int = COLUMN_WIDTH) -> list[str]:
    """Lanes as plain text, one column per process; notes stand below the call they belong to."""
    rendered = [_row("step", [f"P{index + 1}".ljust(width) for index in range(processes)])]
    rendered.append(_row("----", ["-" * width for _ in range(processes)]))
    for line in lines:
        name = f"t{line.thread}: " if line.thread else ""
        rendered += _cells(str(line.step), f"{name}{line.text}", line.process, processes, width)
        for note in line.notes:
            rendered += _cells("", f"  * {note}", line.process, processes, width)
    return rendered


def _cells(step: str, text: str, column: int, processes: int, width: int) -> list[str]:
    rows = []
    pieces = [text[start : start + width] for start in range(0, len(text), width)] or [""]
    for number, piece in enumerate(pieces):
        cells = [" " * width for _ in range(processes)]
        cells[column] = piece.ljust(width)
        rows.append(_row(step if number == 0 else "", cells))
    return rows


def _row(step: str, cells: list[str]) -> str:
    return f"{step:>5} | {' | '.join(cells)}".rstrip()
