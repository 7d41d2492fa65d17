"""A small world on a real disk: one directory, a few process images, and clocks that stand still.

Everything is real (files, locks, directories, the store's code) but time: the images' `time` is a clock that only
`VirtualTime.advance` moves, and what they see of `os.stat` has its time stamps translated to that clock, rounded to
the granularity that an example chooses, and its inode numbers made equal if the example wants reuse. So an example
says exactly whether a file is young, and the same example does the same thing on any file system and kernel.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import shutil
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from models.caches import CacheModel, File, Identity, Instant
from models.images import Image, load_image

START_WALL_NS = 1_774_000_000_123_456_789  # not a multiple of anything, as real stamps are
START_MONOTONIC_NS = 5_000_000_007
SETTLE_NS = 10_000_000_000  # more than any racy window
LARGEST_STAT_FIELD_SEQUENCE = 10  # os.stat_result takes the first ten fields as a sequence
WARNING_TEXT = "session object cache disabled for large store"


class VirtualTime:
    """The two clocks of a world, and the time stamps of its files on the wall clock."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, *, granularity_ns: int = 1, reused_inodes: bool = False) -> None:
        """Start a new world."""
        self.monotonic_ns = START_MONOTONIC_NS
        self.wall_ns = START_WALL_NS
        self.granularity_ns = granularity_ns
        self.reused_inodes = reused_inodes
        self._stamps: dict[int, int] = {}

    def now(self) -> Instant:
        """Both clocks."""
        return Instant(monotonic_ns=self.monotonic_ns, wall_ns=self.wall_ns)

    def advance(self, duration_ns: int, *, scratch: Path) -> None:
        """Let time pass on both clocks; files that change from now on get new stamps."""
        self.monotonic_ns += duration_ns
        self.step_wall(duration_ns, scratch=scratch)

    def step_wall(self, difference_ns: int, *, scratch: Path) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does."""
        self.wall_ns += difference_ns
        # The real clock behind the stamps must tick, too: a stamp that has been seen keeps its meaning.
        newest = max(self._stamps, default=0)
        deadline = time.monotonic() + 5.0
        while True:
            scratch.write_bytes(b"x")
            if os.stat(scratch).st_ctime_ns > newest:
                return
            if time.monotonic() > deadline:
                raise TimeoutError("the file system's clock did not tick for 5 s")

    def stamp(self, real_ns: int) -> int:
        """The virtual stamp of a real one: the wall clock when it was first seen, rounded down."""
        virtual = self._stamps.setdefault(real_ns, self.wall_ns)
        return virtual // self.granularity_ns * self.granularity_ns

    def translate(self, status: os.stat_result) -> os.stat_result:
        """What the images see of a file's status."""
        fields = list(status[:LARGEST_STAT_FIELD_SEQUENCE])
        if self.reused_inodes:
            fields[1] = 12
        mtime_ns, ctime_ns = self.stamp(status.st_mtime_ns), self.stamp(status.st_ctime_ns)
        fields[8], fields[9] = mtime_ns // 10**9, ctime_ns // 10**9
        stamps = {
            "st_mtime": mtime_ns / 1e9,
            "st_ctime": ctime_ns / 1e9,
            "st_mtime_ns": mtime_ns,
            "st_ctime_ns": ctime_ns,
            "st_atime": status.st_atime,
            "st_atime_ns": status.st_atime_ns,
        }
        return os.stat_result(fields, stamps)


TIME = VirtualTime()
"""One for the process: images outlive examples, and each example resets it."""


def _stand_in(original: types.ModuleType, **replaced: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType(original.__name__)
    vars(module).update(vars(original))
    vars(module).update(replaced)
    return module


def _virtual_time_module() -> types.ModuleType:
    return _stand_in(
        time,
        monotonic_ns=lambda: TIME.monotonic_ns,
        monotonic=lambda: TIME.monotonic_ns / 1e9,
        time_ns=lambda: TIME.wall_ns,
        time=lambda: TIME.wall_ns / 1e9,
        sleep=lambda _seconds: None,  # no one else runs meanwhile
    )


def _virtual_os_module() -> types.ModuleType:
    def translated(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        return lambda *arguments, **options: TIME.translate(real(*arguments, **options))

    return _stand_in(os, stat=translated(os.stat), lstat=translated(os.lstat), fstat=translated(os.fstat))


@functools.cache
def image(number: int) -> Image:
    """The image of that number, loaded once for the whole run; `World` restarts the ones it uses."""
    loaded = load_image()
    loaded.substitute(time, _virtual_time_module())
    loaded.substitute(os, _virtual_os_module())
    del number  # only tells the images apart
    return loaded


class World:
    """One directory with store files, aliases of them, and a fresh process image or several.

    Close it, whatever happens.
    """

    def __init__(self, *, images: int = 1, granularity_ns: int = 1, reused_inodes: bool = False) -> None:
        TIME.reset(granularity_ns=granularity_ns, reused_inodes=reused_inodes)
        self.granularity_ns = granularity_ns
        self.directory = Path(tempfile.mkdtemp(prefix="sessionstore-world-")).resolve()
        self.home = self.directory / "home"
        self.home.mkdir()
        (self.directory / "linked").symlink_to("home")
        (self.directory / "elsewhere").mkdir()
        self._scratch = self.directory / "scratch"
        self.images = [image(number) for number in range(images)]
        for loaded in self.images:
            loaded.restart()
        self.caches = [CacheModel() for _ in self.images]
        self._log = _LogCollector()
        self._logger = logging.getLogger("sessionstore")
        self._logger_state = (self._logger.propagate, self._logger.level)
        self._logger.propagate = False
        self._logger.setLevel(logging.DEBUG)
        self._logger.addHandler(self._log)

    def close(self) -> None:
        """Remove the directory and stop listening to the log."""
        self._logger.removeHandler(self._log)
        self._logger.propagate, level = self._logger_state
        self._logger.setLevel(level)
        for loaded in self.images:
            loaded.restart()
        shutil.rmtree(self.directory)

    # --- files

    def path(self, name: str = "sessions.json") -> Path:
        """The resolved path of a store file."""
        return self.home / name

    def alias(self, kind: str, name: str = "sessions.json") -> str:
        """Another spelling of the path of a store file."""
        if kind == "absolute":
            return str(self.home / name)
        if kind == "relative":
            return os.path.relpath(self.home / name)
        if kind == "dots":
            return os.path.join(self.home, "..", ".", "home", name)
        if kind == "linked directory":
            return str(self.directory / "linked" / name)
        if kind == "linked file":
            link = self.directory / "elsewhere" / f"link-to-{name}"
            if not link.is_symlink():
                link.symlink_to(self.home / name)
            return str(link)
        raise ValueError(f"no alias is called {kind!r}")

    def content(self, path: Path) -> bytes | None:
        """What is in the file now."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def file(self, path: Path) -> File | None:
        """The file as the images see it now."""
        content = self.content(path)
        if content is None:
            return None
        status = TIME.translate(os.stat(path))
        return File(
            content,
            Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        )

    def names(self) -> set[str]:
        """Names of all files beside the stores."""
        return set(os.listdir(self.home))

    # --- time

    def now(self) -> Instant:
        """Both clocks."""
        return TIME.now()

    def advance(self, duration_ns: int) -> None:
        """Let time pass."""
        self._notice_stamps()
        TIME.advance(duration_ns, scratch=self._scratch)

    def step_wall(self, difference_ns: int) -> None:
        """Set the wall clock."""
        self._notice_stamps()
        TIME.step_wall(difference_ns, scratch=self._scratch)

    def _notice_stamps(self) -> None:
        """Files changed so far changed before the time that follows."""
        for name in os.listdir(self.home):
            TIME.translate(os.stat(self.home / name))

    # --- processes

    def store(self, number: int, path: str | os.PathLike[str], **settings: Any) -> Any:
        """A `SessionStore` of that image, with explicit settings if there are any."""
        package = self.images[number].package
        return package.SessionStore(path, package.Settings(**settings) if settings else None)

    def restart(self, number: int) -> None:
        """The process of that image ends and another one begins."""
        self.images[number].restart()
        self.caches[number] = CacheModel()

    def logged(self) -> list[logging.LogRecord]:
        """What has been logged since the last call."""
        records, self._log.records = self._log.records, []
        return records


class _LogCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextlib.contextmanager
def world(**options: Any) -> Iterator[World]:
    """A world for the length of a `with` block."""
    opened = World(**options)
    try:
        yield opened
    finally:
        opened.close()


# --- recounting what is really held -----------------------------------------------------------------------------

_NOT_STATE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType)


def reachable(root: object) -> list[object]:
    """Every object that `root` keeps alive, code and classes aside: found by the garbage collector, not by names."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, _NOT_STATE):
            continue
        seen[id(found)] = found
        waiting.extend(gc.get_referents(found))
    return list(seen.values())


def held_contents(process: object, contents: set[bytes]) -> int:
    """Bytes of objects that a process keeps alive and that are one of these file contents."""
    return sum(
        len(found) for found in reachable(process) if isinstance(found, (bytes, bytearray)) and bytes(found) in contents
    )


def held_text_bytes(process: object) -> int:
    """Bytes and characters of everything textual or binary that a process keeps alive."""
    return sum(len(found) for found in reachable(process) if isinstance(found, (bytes, bytearray, str, memoryview)))
