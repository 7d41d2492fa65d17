"""Records what a real process does to a real directory, by reading what `strace` saw.

A second source of recordings, independent of the interception layer: the kernel's own calls, whoever made them. The
process names its marks (`begin 1`, `ack 1`) by writing them to a file called `marks` outside of the directory. Reads
the calls that Python programs use to change files; a changing call that it does not know is an error, not a gap.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storecheck.machine.events import (
    AttributesChanged,
    Created,
    DiskEvent,
    Linked,
    Marked,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)

from .states import Recording
from .trees import Scanned, scan

TRACED: Final = (
    "open,openat,creat,close,write,pwrite64,writev,pwritev,lseek,ftruncate,truncate,fallocate,fsync,fdatasync,rename,"
    "renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,chmod,fchmod,fchmodat,chown,"
    "fchown,fchownat,dup,dup2,dup3"
)
LONGEST_WRITE_BYTES: Final = 64 * 1024 * 1024
TIMEOUT_S: Final = 60

_LINE: Final = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_HEX: Final = re.compile(r"\\x([0-9a-f]{2})")


class UnreadableTraceError(RuntimeError):
    """`strace` showed a call that this module cannot turn into an event."""


def why_not() -> str:
    """Why no real process can be recorded here; empty if one can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    trial = subprocess.run(  # noqa: S603 - strace, found on the path
        [strace, "-o", os.devnull, "true"], capture_output=True, check=False, timeout=TIMEOUT_S
    )
    return trial.stderr.decode(errors="replace").strip() if trial.returncode else ""


def launcher(log: Path) -> list[str]:
    """The command that runs another one and logs its calls, for `recording_from`."""
    strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", str(LONGEST_WRITE_BYTES), "-e", f"trace={TRACED}"]
    return [*strace, "-e", "signal=none", "-o", str(log)]


def recording_from(log: Path, *, directory: Path, before: Scanned, umask: int) -> Recording:
    """What a log says was done to the files below `directory`, which held `before`, by a process with this umask.

    Raises:
        UnreadableTraceError: something was done that is not understood.
    """
    reader = _Reader(directory, before, umask)
    for line in log.read_text(encoding="ascii").splitlines():
        reader.read(line)
    return Recording(disk=before.disk, events=tuple(reader.events), owner=(os.geteuid(), os.getegid()))


def record_process(command: Sequence[str], *, directory: Path, environment: Mapping[str, str], log: Path) -> Recording:
    """Run a command under strace; what it did to the files below `directory`.

    Raises:
        subprocess.CalledProcessError: the command failed.
        subprocess.TimeoutExpired: it did not end within `TIMEOUT_S`; it is gone then.
        UnreadableTraceError: it did something that is not understood.
    """
    before = scan(directory)
    _run_to_the_end([*launcher(log), *command], environment)
    return recording_from(log, directory=directory, before=before, umask=_inherited_umask())


def _run_to_the_end(command: Sequence[str], environment: Mapping[str, str]) -> None:
    # In a session of its own: a killed strace lets go of the process that it watches, which would go on for ever.
    with subprocess.Popen(  # noqa: S603 - running the caller's command is what this is for
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environment), start_new_session=True
    ) as running:
        try:
            output, errors = running.communicate(timeout=TIMEOUT_S)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)
            raise
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command, output, errors)


def _inherited_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@dataclass(slots=True)
class _Call:
    name: str
    arguments: list[str]
    result: int

    def text(self, number: int) -> str:
        """A quoted argument, decoded."""
        return self.content(number).decode("utf-8", "surrogateescape")

    def content(self, number: int) -> bytes:
        """A quoted argument's bytes."""
        found = re.fullmatch(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?', self.arguments[number])
        if found is None or found[2]:
            raise UnreadableTraceError(f"{self.name}: argument {number} is {self.arguments[number][:80]!r}")
        return bytes.fromhex(found[1].replace("\\x", ""))

    def path_of_descriptor(self, number: int) -> str:
        """What strace says a descriptor argument is open on (`-y`)."""
        found = re.fullmatch(r"-?\w+<(.*)>", self.arguments[number])
        return "" if found is None else _HEX.sub(lambda match: chr(int(match[1], 16)), found[1])


class _Reader:
    """Turns lines of strace into events."""

    def __init__(self, directory: Path, before: Scanned, umask: int) -> None:
        disk = before.disk
        self._root = str(directory)
        self._umask = umask
        self._serials = dict(before.serials)
        self._directories = {serial for serial, entry in disk.inodes.items() if entry.kind == "directory"}
        self._sizes = {serial: len(entry.content) for serial, entry in disk.inodes.items()}
        self._owners = {serial: (entry.mode, entry.uid, entry.gid) for serial, entry in disk.inodes.items()}
        self._next = max(disk.inodes) + 1
        self._positions: dict[int, int] = {}
        self.events: list[DiskEvent] = []
        self._readers: dict[str, Callable[[_Call], None]] = {
            "openat": self._open,
            "open": self._open,
            "write": self._write,
            "pwrite64": self._pwrite,
            "writev": self._writev,
            "ftruncate": self._truncate,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "rename": self._rename,
            "renameat": self._rename,
            "renameat2": self._rename,
            "link": self._link,
            "linkat": self._link,
            "unlink": self._unlink,
            "unlinkat": self._unlink,
            "rmdir": self._unlink,
            "mkdir": self._mkdir,
            "mkdirat": self._mkdir,
            "fchmod": self._chmod,
            "fchown": self._chown,
        }

    def read(self, line: str) -> None:
        """One line of the log."""
        match = _LINE.match(line)
        if match is None:
            if "unfinished" in line or "resumed" in line:
                raise UnreadableTraceError(f"calls of several threads overlap: {line[:120]}")
            return
        call = _Call(match[1], _split(match[2]), int(match[3]))
        if call.name == "lseek" and call.result >= 0:
            self._positions[int(call.arguments[0].partition("<")[0])] = call.result
        if call.result < 0 or call.name in ("close", "lseek", "dup", "dup2", "dup3"):
            return
        reader = self._readers.get(call.name)
        if reader is None:
            if self._root in _HEX.sub(lambda found: chr(int(found[1], 16)), line):
                raise UnreadableTraceError(f"no meaning is known for {line[:120]}")
            return
        reader(call)

    # Paths

    def _path(self, call: _Call, number: int) -> str:
        """Absolute path in a path argument; relative ones are relative to the descriptor before it."""
        # CPython 3.13 lists directories by a name that ends in a slash.
        text = call.text(number).rstrip("/") or "/"
        if text.startswith("/"):
            return text
        base = call.path_of_descriptor(number - 1) if number else ""
        return f"{base}/{text}"

    def _paths(self, call: _Call) -> list[str]:
        numbers = [number for number, argument in enumerate(call.arguments) if argument.startswith('"')]
        return [self._path(call, number) for number in numbers]

    def _is_ours(self, path: str) -> bool:
        return path == self._root or path.startswith(f"{self._root}/")

    def _place(self, path: str) -> tuple[int, str]:
        directory, _, name = path.rpartition("/")
        return self._serials[directory], name

    def _new(self, path: str, kind: str, mode: int) -> None:
        serial = self._next
        self._next += 1
        directory, name = self._place(path)
        mode &= ~self._umask
        self._serials[path] = serial
        if kind == "directory":
            self._directories.add(serial)
        self._sizes[serial] = 0
        self._owners[serial] = (mode, os.geteuid(), os.getegid())
        self.events.append(
            Created(step=0, process=0, directory=directory, name=name, serial=serial, kind=kind, mode=mode)
        )

    # Calls

    def _open(self, call: _Call) -> None:
        (path,) = self._paths(call)
        if not self._is_ours(path):
            return
        flags = next(argument for argument in call.arguments if argument.startswith("O_"))
        if path not in self._serials:
            self._new(path, "file", int(call.arguments[-1], 8))
        serial = self._serials[path]
        if "O_TRUNC" in flags and self._sizes[serial]:
            self._resize(serial, 0)
        self._positions[call.result] = self._sizes[serial] if "O_APPEND" in flags else 0

    def _write(self, call: _Call) -> None:
        self._written(call, call.content(1))

    def _writev(self, call: _Call) -> None:
        quoted = re.findall(r'iov_base="((?:\\x[0-9a-f]{2})*)"', call.arguments[1])
        self._written(call, b"".join(bytes.fromhex(text.replace("\\x", "")) for text in quoted))

    def _written(self, call: _Call, content: bytes) -> None:
        path = call.path_of_descriptor(0)
        content = content[: call.result]
        if path.endswith("/marks"):
            for label in content.decode().splitlines():
                self.events.append(Marked(step=0, process=0, label=label))
        if not self._is_ours(path):
            return
        number = int(call.arguments[0].partition("<")[0])
        offset = self._positions[number]
        self._positions[number] = offset + len(content)
        self._put(self._serials[path], offset, content)

    def _pwrite(self, call: _Call) -> None:
        path = call.path_of_descriptor(0)
        if self._is_ours(path):
            self._put(self._serials[path], int(call.arguments[3]), call.content(1)[: call.result])

    def _put(self, serial: int, offset: int, content: bytes) -> None:
        self._sizes[serial] = max(self._sizes[serial], offset + len(content))
        self.events.append(Written(step=0, process=0, serial=serial, offset=offset, content=content))

    def _truncate(self, call: _Call) -> None:
        path = call.path_of_descriptor(0)
        if self._is_ours(path):
            self._resize(self._serials[path], int(call.arguments[1]))

    def _resize(self, serial: int, size: int) -> None:
        self._sizes[serial] = size
        self.events.append(Truncated(step=0, process=0, serial=serial, size=size))

    def _sync(self, call: _Call) -> None:
        path = call.path_of_descriptor(0)
        if self._is_ours(path):
            serial = self._serials[path]
            self.events.append(
                Synced(
                    step=0,
                    process=0,
                    serial=serial,
                    directory=serial in self._directories,
                    content_only=call.name == "fdatasync",
                )
            )

    def _rename(self, call: _Call) -> None:
        source, target = self._paths(call)
        if not self._is_ours(source):
            return
        (from_directory, from_name), (directory, name) = self._place(source), self._place(target)
        serial = self._serials.pop(source)
        replaced = self._serials.get(target)
        self._serials[target] = serial
        self.events.append(
            Renamed(
                step=0,
                process=0,
                source=from_directory,
                source_name=from_name,
                directory=directory,
                name=name,
                serial=serial,
                replaced=replaced,
            )
        )

    def _link(self, call: _Call) -> None:
        source, target = self._paths(call)
        if self._is_ours(source):
            directory, name = self._place(target)
            self._serials[target] = self._serials[source]
            self.events.append(Linked(step=0, process=0, directory=directory, name=name, serial=self._serials[source]))

    def _unlink(self, call: _Call) -> None:
        (path,) = self._paths(call)
        if self._is_ours(path):
            directory, name = self._place(path)
            serial = self._serials.pop(path)
            self.events.append(Unlinked(step=0, process=0, directory=directory, name=name, serial=serial))

    def _mkdir(self, call: _Call) -> None:
        (path,) = self._paths(call)
        if self._is_ours(path):
            self._new(path, "directory", int(call.arguments[-1], 8))

    def _chmod(self, call: _Call) -> None:
        path = call.path_of_descriptor(0)
        if self._is_ours(path):
            serial = self._serials[path]
            _, uid, gid = self._owners[serial]
            self._attributes(serial, (int(call.arguments[1], 8), uid, gid))

    def _chown(self, call: _Call) -> None:
        path = call.path_of_descriptor(0)
        if self._is_ours(path):
            serial = self._serials[path]
            mode, uid, gid = self._owners[serial]
            wanted = [int(argument) for argument in call.arguments[1:]]
            self._attributes(
                serial, (mode, uid if wanted[0] == -1 else wanted[0], gid if wanted[1] == -1 else wanted[1])
            )

    def _attributes(self, serial: int, attributes: tuple[int, int, int]) -> None:
        self._owners[serial] = attributes
        mode, uid, gid = attributes
        self.events.append(AttributesChanged(step=0, process=0, serial=serial, mode=mode, uid=uid, gid=gid))


def _split(arguments: str) -> list[str]:
    """The arguments of a call, apart at commas that are in no brackets or quotes."""
    parts, depth, start = [], 0, 0
    quoted = False
    for position, letter in enumerate(arguments):
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "([{":
            depth += 1
        elif not quoted and letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0 and not quoted:
            parts.append(arguments[start:position].strip())
            start = position + 1
    parts.append(arguments[start:].strip())
    return parts
