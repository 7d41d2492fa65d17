"""The simulated machine against real ones: the same calls must have the same results and the same errors.

Goal: what is proven on the machine is true of Linux. Method: one state machine makes every call twice, through the
`os`, `fcntl` and `open` of a process image and through the real ones in a fresh directory, on the disk of the temporary
directory and on tmpfs, as the same user, and compares result or errno; after every step the whole trees are compared.
Masked, because they legitimately differ: inode numbers (which files share one is compared), times that were not set,
sizes and link counts of directories, the order of listings.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from storecheck.machine import MOUNT, Machine, MachineParameters
from storecheck.syscalls import ProcessImage

NAMES = st.sampled_from(
    [
        *("a", "b", "d", "d/a", "d/b", "d/e", "l", "d/l", "missing/x", "a/x", "l/x", "d/..", "d/../a"),
        *("d/", "a/", "l/", "b/", ".", "d/.", "..x", "", "n" * 255, "n" * 256),
    ]
)
SIMPLE = st.sampled_from(["a", "b", "d", "d/a", "d/b", "l"])
SLOTS = st.integers(0, 3)
CONTENT = st.sampled_from([b"", b"x", b"hello", b"0123456789" * 20])
FLAGS = st.builds(
    lambda access, extras: access | sum(extras),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]),
    st.lists(
        st.sampled_from([os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY]),
        unique=True,
        max_size=3,
    ),
).filter(
    # Linux before 6.4 made a regular file of this; the machine refuses it as newer ones do.
    lambda flags: not (flags & os.O_CREAT and flags & os.O_DIRECTORY)
)
RECORD_LOCKS = st.sampled_from(
    # CPython frees a lock at LOCK_UN alone; together with LOCK_NB it is a ValueError.
    [fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN, fcntl.LOCK_UN | fcntl.LOCK_NB]
)
MODES = st.sampled_from([0o600, 0o644, 0o666, 0o400, 0o755, 0o4755])
Outcome = tuple[str, Any]


def outcome_of(call: Callable[[], Any]) -> Outcome:
    """What a call did: its result, or the name of its errno."""
    try:
        return "returned", call()
    except OSError as error:
        return "failed", errno.errorcode[error.errno or 0]
    except ValueError as error:
        return "refused", str(error)


class Conformance(RuleBasedStateMachine):
    """Every rule makes one call on both sides."""

    base: Path

    def __init__(self) -> None:
        super().__init__()
        # Links lead to the parent, too: each run has its own, as each machine has its own root.
        self.real_parent = tempfile.mkdtemp(dir=self.base)
        Path(self.real_parent).chmod(0o755)
        self.real_root = f"{self.real_parent}{MOUNT}"
        os.mkdir(self.real_root)
        umask = os.umask(0)
        os.umask(umask)
        self.machine = Machine(MachineParameters(uid=os.getuid(), gid=os.getgid(), umask=umask))
        # The real root's parent belongs to this user, too.
        self.machine.root.uid = os.getuid()
        self.image = IMAGE
        self.image.context.machine = self.machine
        self.image.context.process = self.machine.new_process()
        self.os: Any = self.image.modules["os"]
        self.fcntl: Any = self.image.modules["fcntl"]
        self.slots: dict[int, tuple[int, int]] = {}

    def teardown(self) -> None:
        for _, real in self.slots.values():
            os.close(real)
        os.system(f"chmod -R u+rwX {self.real_parent}")
        shutil.rmtree(self.real_parent)
        self.image.context.idle()

    # Comparing

    def both(self, name: str, *arguments: object, **options: object) -> Outcome:
        """Make a call on both sides; `@path` arguments are below each side's root."""

        def placed(root: str) -> list[object]:
            return [
                f"{root}/{value[1:]}" if isinstance(value, str) and value[:1] == "@" else value for value in arguments
            ]

        simulated = outcome_of(lambda: getattr(self.os, name)(*placed(MOUNT), **options))
        real = outcome_of(lambda: getattr(os, name)(*placed(self.real_root), **options))
        assert masked(simulated) == masked(real), f"{name}{arguments}: simulated {simulated}, real {real}"
        return real

    def on_slot(self, slot: int, name: str, *arguments: object) -> None:
        """Make a call on an open descriptor of both sides."""
        simulated_fd, real_fd = self.slots[slot]
        simulated = outcome_of(lambda: getattr(self.os, name)(simulated_fd, *arguments))
        real = outcome_of(lambda: getattr(os, name)(real_fd, *arguments))
        assert masked(simulated) == masked(real), (
            f"{name}(slot {slot}, {arguments}): simulated {simulated}, real {real}"
        )

    # Names

    @rule(slot=SLOTS, name=NAMES, flags=FLAGS, mode=MODES)
    def open(self, slot: int, name: str, flags: int, mode: int) -> None:
        if slot in self.slots:
            self.close(slot)
        opened: dict[str, int] = {}

        def open_with(side: str, module: Any, root: str) -> Outcome:
            def call() -> str:
                opened[side] = module.open(f"{root}/{name}", flags, mode)
                return "descriptor"

            return outcome_of(call)

        simulated = open_with("simulated", self.os, MOUNT)
        real = open_with("real", os, self.real_root)
        if len(opened) == 2:
            self.slots[slot] = (opened["simulated"], opened["real"])
        assert simulated == real, f"open({name!r}, {flags:#o}): simulated {simulated}, real {real}"

    @rule(name=SIMPLE, content=CONTENT)
    def create(self, name: str, content: bytes) -> None:
        """A short way to have files at all."""
        outcomes = []
        for function, root in ((self.image.builtins.__dict__["open"], MOUNT), (open, self.real_root)):

            def call(function: Any = function, root: str = root) -> str:
                with function(f"{root}/{name}", "wb") as file:
                    file.write(content)
                return "written"

            outcomes.append(outcome_of(call))
        assert outcomes[0] == outcomes[1], f"open({name!r}).write: simulated {outcomes[0]}, real {outcomes[1]}"

    @rule(name=NAMES, follow=st.booleans())
    def stat(self, name: str, follow: bool) -> None:
        self.both("stat", f"@{name}", follow_symlinks=follow)

    @rule(source=NAMES, new=NAMES)
    def rename(self, source: str, new: str) -> None:
        self.both("replace", f"@{source}", f"@{new}")

    @rule(source=NAMES, new=NAMES)
    def link(self, source: str, new: str) -> None:
        self.both("link", f"@{source}", f"@{new}")

    @rule(points_to=st.sampled_from(["a", "d", "d/a", "l", "../l", "nowhere", "d/", ".", "./a"]), name=NAMES)
    def symlink(self, points_to: str, name: str) -> None:
        self.both("symlink", points_to, f"@{name}")

    @rule(call=st.sampled_from(["unlink", "rmdir", "readlink", "mkdir"]), name=NAMES)
    def by_name(self, call: str, name: str) -> None:
        if call == "rmdir" and os.path.realpath(f"{self.real_root}/{name}") == os.path.realpath(self.real_root):
            return  # the mount is busy, the real root is an ordinary directory
        self.both(call, f"@{name}")

    @rule(name=NAMES)
    def listdir(self, name: str) -> None:
        self.both("listdir", f"@{name}")

    @rule(name=NAMES, mode=st.sampled_from([os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.W_OK]))
    def access(self, name: str, mode: int) -> None:
        self.both("access", f"@{name}", mode)

    @rule(name=SIMPLE, mode=MODES)
    def chmod(self, name: str, mode: int) -> None:
        self.both("chmod", f"@{name}", mode)

    @rule(name=SIMPLE, size=st.sampled_from([0, 3, 50, -1]))
    def truncate(self, name: str, size: int) -> None:
        self.both("truncate", f"@{name}", size)

    @rule(name=SIMPLE, stamp=st.integers(1, 10**18))
    def utime(self, name: str, stamp: int) -> None:
        if self.both("utime", f"@{name}", ns=(stamp, stamp))[0] == "returned":
            times = [module.stat(f"{root}/{name}").st_mtime_ns for module, root in self.sides()]
            assert times[0] == times[1] == stamp

    def sides(self) -> list[tuple[Any, str]]:
        """Module and root of the simulated and of the real side."""
        return [(self.os, MOUNT), (os, self.real_root)]

    # Descriptors

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS)
    def close(self, slot: int) -> None:
        if slot in self.slots:
            simulated, real = self.slots.pop(slot)
            self.os.close(simulated)
            os.close(real)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, other=SLOTS)
    def dup(self, slot: int, other: int) -> None:
        if slot in self.slots and other not in self.slots:
            simulated, real = self.slots[slot]
            self.slots[other] = (self.os.dup(simulated), os.dup(real))

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, size=st.sampled_from([0, 1, 7, 1000]), offset=st.sampled_from([None, 0, 5, 500]))
    def read(self, slot: int, size: int, offset: int | None) -> None:
        if slot in self.slots:
            if offset is None:
                self.on_slot(slot, "read", size)
            else:
                self.on_slot(slot, "pread", size, offset)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, content=CONTENT, offset=st.sampled_from([None, 0, 5, 500]))
    def write(self, slot: int, content: bytes, offset: int | None) -> None:
        if slot in self.slots:
            if offset is None:
                self.on_slot(slot, "write", content)
            else:
                self.on_slot(slot, "pwrite", content, offset)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, offset=st.sampled_from([-1, 0, 3, 100]), whence=st.sampled_from([0, 1, 2, 99]))
    def lseek(self, slot: int, offset: int, whence: int) -> None:
        if slot in self.slots and not stat.S_ISDIR(os.fstat(self.slots[slot][1]).st_mode):
            self.on_slot(slot, "lseek", offset, whence)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, size=st.sampled_from([-1, 0, 4, 60]))
    def ftruncate(self, slot: int, size: int) -> None:
        if slot in self.slots:
            self.on_slot(slot, "ftruncate", size)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, call=st.sampled_from(["fstat", "fsync", "fdatasync", "listdir"]))
    def on_descriptor(self, slot: int, call: str) -> None:
        if slot in self.slots:
            self.on_slot(slot, call)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, mode=MODES)
    def fchmod(self, slot: int, mode: int) -> None:
        if slot in self.slots:
            self.on_slot(slot, "fchmod", mode)

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, name=SIMPLE, flags=FLAGS)
    def open_at(self, slot: int, name: str, flags: int) -> None:
        """A call relative to a directory descriptor, which may be none."""
        if slot not in self.slots:
            return
        outcomes = []
        for module, descriptor in ((self.os, self.slots[slot][0]), (os, self.slots[slot][1])):

            def call(module: Any = module, descriptor: int = descriptor) -> str:
                module.close(module.open(name, flags, 0o644, dir_fd=descriptor))
                return "opened"

            outcomes.append(outcome_of(call))
        assert outcomes[0] == outcomes[1]

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, operation=st.sampled_from([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN]))
    def flock(self, slot: int, operation: int) -> None:
        if slot in self.slots:
            simulated, real = self.slots[slot]
            ours = outcome_of(lambda: self.fcntl.flock(simulated, operation | fcntl.LOCK_NB))
            theirs = outcome_of(lambda: fcntl.flock(real, operation | fcntl.LOCK_NB))
            assert ours == theirs, f"flock: simulated {ours}, real {theirs}"

    @precondition(lambda self: self.slots)
    @rule(slot=SLOTS, operation=RECORD_LOCKS, start=st.integers(0, 3))
    def lockf(self, slot: int, operation: int, start: int) -> None:
        if slot in self.slots:
            simulated, real = self.slots[slot]
            ours = outcome_of(lambda: self.fcntl.lockf(simulated, operation, 2, start))
            theirs = outcome_of(lambda: fcntl.lockf(real, operation, 2, start))
            assert ours == theirs, f"lockf: simulated {ours}, real {theirs}"

    # The whole

    @invariant()
    def trees_are_the_same(self) -> None:
        """Names, kinds, modes, links, contents, and which names share an inode."""
        assert tree(self.os, MOUNT) == tree(os, self.real_root)


def masked(outcome: Outcome) -> Outcome:
    """The outcome without what legitimately differs."""
    kind, value = outcome
    if isinstance(value, os.stat_result):
        directory = stat.S_ISDIR(value.st_mode)
        shown = (value.st_mode, value.st_uid, value.st_gid)
        return kind, (*shown, 0, 0) if directory else (*shown, value.st_size, value.st_nlink)
    if isinstance(value, list):
        return kind, sorted(value)
    return kind, value


def entry_of(module: Any, where: str, path: str, status: os.stat_result, first_names: dict[int, str]) -> object:
    """What is compared of one entry."""
    if stat.S_ISLNK(status.st_mode):
        return status.st_mode, module.readlink(where)
    if stat.S_ISDIR(status.st_mode):
        return status.st_mode, None
    return status.st_mode, status.st_size, status.st_nlink, first_names.setdefault(status.st_ino, path)


def tree(module: Any, root: str) -> dict[str, object]:
    """What is below a directory, with inode numbers replaced by the first name that has them."""
    found: dict[str, object] = {}
    first_names: dict[int, str] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        kind, names = outcome_of(lambda prefix=prefix: module.listdir(f"{root}/{prefix}"))  # type: ignore[misc]
        if kind != "returned":
            # Without permission for its own directories a process sees as little on both sides.
            found[prefix] = names
            continue
        for name in sorted(names):
            path = f"{prefix}{name}"
            kind, status = outcome_of(lambda path=path: module.lstat(f"{root}/{path}"))  # type: ignore[misc]
            found[path] = (
                status if kind != "returned" else entry_of(module, f"{root}/{path}", path, status, first_names)
            )
            if kind == "returned" and stat.S_ISDIR(status.st_mode):
                pending.append(f"{path}/")
    return found


IMAGE = ProcessImage()


@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_the_machine_does_what_a_real_one_does(where: str, tmp_path: Path) -> None:
    """Every call has the same result or errno on the simulated machine and on the real file system."""
    base = tmp_path if where == "disk" else Path("/dev/shm")
    if not base.is_dir():
        pytest.skip("no tmpfs at /dev/shm on this computer")
    with tempfile.TemporaryDirectory(dir=base) as directory:
        side = type("ConformanceHere", (Conformance,), {"base": Path(directory)})
        run_state_machine_as_test(side, settings=settings(stateful_step_count=40))


FLOCK_STEPS = [
    (descriptor, operation) for descriptor in range(2) for operation in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)
]


def test_flock_of_two_descriptions_is_that_of_the_kernel(tmp_path: Path) -> None:
    """Every four lock operations on two descriptions: conflicts, conversions, what a failed conversion loses."""
    (tmp_path / "lock").touch()
    for sequence in itertools.product(FLOCK_STEPS, repeat=4):
        machine = Machine(MachineParameters(), {"lock": b""})
        holder = machine.new_process()
        ours = [machine.open(holder, f"{MOUNT}/lock", os.O_RDWR) for _ in range(2)]
        theirs = [os.open(tmp_path / "lock", os.O_RDWR) for _ in range(2)]
        try:
            for descriptor, operation in sequence:
                wanted = operation | fcntl.LOCK_NB
                simulated = outcome_of(functools.partial(machine.flock, holder, ours[descriptor], wanted))
                real = outcome_of(functools.partial(fcntl.flock, theirs[descriptor], wanted))
                assert simulated == real, f"{sequence}: simulated {simulated}, real {real}"
        finally:
            for descriptor in theirs:
                os.close(descriptor)
