"""`open()` and `io.FileIO` of a simulated process.

The raw layer is Python over the simulated descriptors; buffering and text are the standard library's own classes on
top of it. Follows CPython's `io.open` in which calls it makes and in what order, apart from `fstat` and `isatty`,
which the real one asks for block size and terminals and which change nothing here.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from storecheck.machine.disk import READ
from storecheck.machine.errors import fail
from storecheck.machine.inode import DIRECTORY
from storecheck.syscalls.context import Context, as_built_in, silent
from storecheck.syscalls.posix import BLOCK_BYTES

_MODES: Final = {
    "r": (os.O_RDONLY, True, False),
    "w": (os.O_WRONLY | os.O_CREAT | os.O_TRUNC, False, True),
    "x": (os.O_WRONLY | os.O_CREAT | os.O_EXCL, False, True),
    "a": (os.O_WRONLY | os.O_CREAT | os.O_APPEND, False, True),
}

BUFFER_BYTES: Final = io.DEFAULT_BUFFER_SIZE


def build_file_io(context: Context, posix: ModuleType) -> type[io.RawIOBase]:  # noqa: C901 - one class over one context
    """The class `FileIO` of one image."""
    calls = posix.__dict__

    def _is_directory(descriptor: int) -> bool:
        opened = context.process.descriptors.get(descriptor)
        return opened is not None and opened.inode.kind == DIRECTORY

    def _bytes_left(descriptor: int) -> int:
        opened = context.process.descriptors.get(descriptor)
        if opened is None:
            return 0
        context.machine.touch(("inode", opened.inode.serial), READ)
        return max(0, opened.inode.size() - opened.position)

    is_directory = silent(context, "is a directory", _is_directory)
    bytes_left = silent(context, "bytes left", _bytes_left)

    class FileIO(io.RawIOBase):
        """A simulated descriptor as a raw stream."""

        def __init__(
            self, file: Any, mode: str = "r", closefd: bool = True, opener: Callable[[Any, int], int] | None = None
        ) -> None:
            self._descriptor = -1
            self._process = context.process
            self._closefd = closefd
            letters = mode.replace("b", "").replace("+", "")
            if letters not in _MODES or mode.count("+") > 1:
                raise ValueError(
                    f"Must have exactly one of create/read/write/append mode and at most one plus: {mode!r}"
                )
            flags, self._reads, self._writes = _MODES[letters]
            if "+" in mode:
                flags = flags & ~(os.O_RDONLY | os.O_WRONLY) | os.O_RDWR
                self._reads = self._writes = True
            self._letters = letters
            self.name = file
            self._descriptor = self._open(file, flags | os.O_CLOEXEC, opener)
            if is_directory(self._descriptor):
                if closefd:
                    calls["close"](self._descriptor)
                self._descriptor = -1
                fail(errno.EISDIR, file)
            if letters == "a":
                calls["lseek"](self._descriptor, 0, os.SEEK_END)

        def _open(self, file: Any, flags: int, opener: Callable[[Any, int], int] | None) -> int:
            if isinstance(file, int):
                if file < 0:
                    raise ValueError("negative file descriptor")
                calls["lseek"](file, 0, os.SEEK_CUR)
                return file
            if not self._closefd:
                raise ValueError("Cannot use closefd=False with file name")
            if opener is None:
                descriptor: int = calls["open"](file, flags, 0o666)
                return descriptor
            descriptor = opener(file, flags)
            if not isinstance(descriptor, int):
                raise TypeError("expected integer from opener")
            if descriptor < 0:
                raise ValueError(f"opener returned {descriptor}")
            return descriptor

        @property
        def mode(self) -> str:
            if self._letters in ("x", "a"):
                return f"{self._letters}b{'+' if self._reads else ''}"
            if self._reads and self._writes:
                return "rb+"
            return "rb" if self._reads else "wb"

        @property
        def closefd(self) -> bool:
            return self._closefd

        @property
        def _blksize(self) -> int:
            return BUFFER_BYTES

        def fileno(self) -> int:
            self._check_open()
            return self._descriptor

        def _check_open(self) -> None:
            if self.closed:
                raise ValueError("I/O operation on closed file")

        def readable(self) -> bool:
            self._check_open()
            return self._reads

        def writable(self) -> bool:
            self._check_open()
            return self._writes

        def seekable(self) -> bool:
            self._check_open()
            return True

        def isatty(self) -> bool:
            self._check_open()
            return False

        def _check_reads(self) -> None:
            self._check_open()
            if not self._reads:
                raise io.UnsupportedOperation("File not open for reading")

        def _check_writes(self) -> None:
            self._check_open()
            if not self._writes:
                raise io.UnsupportedOperation("File not open for writing")

        def read(self, size: int | None = -1, /) -> bytes:
            self._check_reads()
            if size is None or size < 0:
                return self.readall()
            content: bytes = calls["read"](self._descriptor, size)
            return content

        def readall(self) -> bytes:
            self._check_reads()
            parts: list[bytes] = []
            expected = bytes_left(self._descriptor)
            while True:
                part = calls["read"](self._descriptor, max(expected + 1, BLOCK_BYTES))
                if not part:
                    return b"".join(parts)
                parts.append(part)

        def readinto(self, buffer: Any, /) -> int:
            self._check_reads()
            view = memoryview(buffer).cast("B")
            content = calls["read"](self._descriptor, len(view))
            view[: len(content)] = content
            return len(content)

        def write(self, content: Any, /) -> int:
            self._check_writes()
            taken: int = calls["write"](self._descriptor, content)
            return taken

        def seek(self, position: int, whence: int = 0, /) -> int:
            self._check_open()
            reached: int = calls["lseek"](self._descriptor, position, whence)
            return reached

        def tell(self) -> int:
            return self.seek(0, os.SEEK_CUR)

        def truncate(self, size: int | None = None, /) -> int:
            self._check_writes()
            length = self.tell() if size is None else size
            calls["ftruncate"](self._descriptor, length)
            return length

        def close(self) -> None:
            if self.closed:
                return
            try:
                super().close()
            finally:
                # A file left behind by an ended process was closed by the kernel, whoever collects the object.
                if self._closefd and self._descriptor >= 0 and self._process is context.process and self._process.alive:
                    descriptor, self._descriptor = self._descriptor, -1
                    calls["close"](descriptor)

        def __repr__(self) -> str:
            return f"<simulated FileIO name={self.name!r} mode={self.mode!r} closefd={self._closefd}>"

    FileIO.__module__, FileIO.__qualname__ = "_io", "FileIO"
    return FileIO


def build_open(file_io: type[io.RawIOBase]) -> Callable[..., Any]:
    """The function `open` of one image."""

    def open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Callable[[Any, int], int] | None = None,
    ) -> Any:
        if not isinstance(file, int):
            file = os.fspath(file)
        binary = _check_mode(mode, encoding, errors, newline)
        if buffering == 0 and not binary:
            raise ValueError("can't have unbuffered text I/O")
        raw = file_io(file, mode.replace("b", "").replace("t", ""), closefd, opener)  # type: ignore[call-arg]
        result: Any = raw
        try:
            line_buffering = buffering == 1 and not binary
            if buffering == 0:
                return raw
            size = BUFFER_BYTES if buffering < 0 or line_buffering or buffering == 1 else buffering
            result = _buffered(raw, mode, size)
            if binary:
                return result
            text = io.TextIOWrapper(result, encoding, errors, newline, line_buffering)
            text.mode = mode  # type: ignore[misc]
            return text
        except BaseException:
            result.close()
            raise

    return open


def _check_mode(mode: str, encoding: str | None, errors: str | None, newline: str | None) -> bool:
    """Whether the mode is binary; ValueError if it makes no sense, as `io.open` raises."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    letters = set(mode)
    if letters - set("axrwb+t") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if "t" in letters and "b" in letters:
        raise ValueError("can't have text and binary mode at once")
    if len(letters & set("axrw")) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    binary = "b" in letters
    if binary and (encoding is not None or errors is not None or newline is not None):
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    return binary


def _buffered(raw: Any, mode: str, size: int) -> Any:
    if "+" in mode:
        return io.BufferedRandom(raw, size)
    if "r" in mode:
        return io.BufferedReader(raw, size)
    return io.BufferedWriter(raw, size)


def build_io(name: str, context: Context, posix: ModuleType) -> ModuleType:
    """The module `io` (or `_io`) of one image: the real one with its own `open` and `FileIO`."""
    import _io

    module = ModuleType(name, io.__doc__)
    module.__dict__.update(
        {key: value for key, value in vars(io if name == "io" else _io).items() if key != "__spec__"}
    )
    file_io = build_file_io(context, posix)
    open_function = build_open(file_io)
    own: dict[str, Any] = {
        "FileIO": file_io, "open": open_function, "open_code": lambda path: open_function(path, "rb"),
    }  # fmt: skip
    as_built_in(own)
    module.__dict__.update(own)
    return module
