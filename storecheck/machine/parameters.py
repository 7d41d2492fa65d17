"""What kind of computer the simulated machine is.

One frozen value, part of every program and every counterexample, so that a schedule found on "ext4 with 4 ms stamps"
is replayed on the same. It holds no state of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MOUNT = "/storecheck-simulated"
"""Where the simulated files live. No real disk has this path: a call that slips past the interception fails there."""

FIRST_DESCRIPTOR = 1_000_000
"""Simulated descriptors start here, far over any real descriptor: one that slips past fails with EBADF."""

Points = Literal["shared", "all"]
InodeReuse = Literal["lowest", "never"]
TimeChoice = Literal["none", "sleeps", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineParameters:
    """Settings of one simulated machine.

    Attributes:
        stamp_granularity_ns: file times are cut down to a multiple of this: 1, 4_000_000 (a 250 Hz kernel tick),
            1_000_000_000 (ext3, HFS+), 2_000_000_000 (FAT).
        inode_reuse: `lowest` gives a new file the lowest free number, as ext4 does; `never` counts up, as tmpfs does.
        step_ns: how far both clocks move at each system call. 0 lets time pass only while processes sleep.
        time_choice: what time may do while somebody can still run. `sleeps`: any sleep may end (the clock jumps to its
            end), so that a poller may look at any moment; `all`: waits with a timeout may run into it too, at any
            contention, as on a machine that can be arbitrarily slow; `none`: time passes only when nobody can run.
        points: `shared` makes scheduling points of the calls that other processes can notice; `all` of every call.
            Not noticed by others are: clocks, ids, umask, urandom, positions of the process's own descriptors, and
            calls on the descriptor of a file that the process created with O_EXCL and nobody else has opened, renamed
            or linked yet. The last is a reduction and not free: with `shared`, another process never sees such a file
            half written by reading it through its temporary name. Use `all` when that matters.
        wall_start_ns: what the wall clock shows at the start, in nanoseconds since 1970.
        disk_bytes: room for file content, or None for no limit; beyond it ENOSPC, after a short write if some fits.
        file_bytes: RLIMIT_FSIZE, or None; beyond it EFBIG, after a short write if some fits.
        write_bytes: the most that one write call takes, or None; more is a short write.
        open_files: RLIMIT_NOFILE of each process; beyond it EMFILE.
        uid: user of the simulated processes (0 may do everything).
        gid: group of the simulated processes.
        umask: file creation mask of the simulated processes.
        seed: from which `os.urandom` and `random` of every process derive.
    """

    stamp_granularity_ns: int = 1
    inode_reuse: InodeReuse = "lowest"
    step_ns: int = 1_000
    time_choice: TimeChoice = "sleeps"
    points: Points = "shared"
    wall_start_ns: int = 1_767_225_600_000_000_000
    disk_bytes: int | None = None
    file_bytes: int | None = None
    write_bytes: int | None = None
    open_files: int = 256
    uid: int = 1000
    gid: int = 1000
    umask: int = 0o022
    seed: int = 0

    def __post_init__(self) -> None:
        if self.stamp_granularity_ns < 1:
            raise ValueError(f"stamp_granularity_ns is {self.stamp_granularity_ns}; give 1 or more nanoseconds")
        if self.inode_reuse not in ("lowest", "never"):
            raise ValueError(f"inode_reuse is {self.inode_reuse!r}; give 'lowest' or 'never'")
        if self.points not in ("shared", "all"):
            raise ValueError(f"points is {self.points!r}; give 'shared' or 'all'")
        if self.time_choice not in ("none", "sleeps", "all"):
            raise ValueError(f"time_choice is {self.time_choice!r}; give 'none', 'sleeps' or 'all'")
        if self.step_ns < 0:
            raise ValueError(f"step_ns is {self.step_ns}; clocks do not run backwards by themselves, give 0 or more")

    def to_json(self) -> dict[str, int | str | bool | None]:
        """All settings as a JSON object, defaults included, so that a later change of a default changes no replay."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, object]) -> MachineParameters:
        """The inverse of `to_json`; settings left out take their defaults.

        Raises:
            ValueError: an unknown setting or a value out of range.
        """
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"machine setting {name!r} is unknown; known are {', '.join(sorted(known))}")
            default = known[name].default
            if default is None and (value is None or type(value) is int):
                continue
            if type(value) is not type(default):
                raise ValueError(f"machine setting {name} is {value!r}; give a {type(default).__name__}")
        return cls(**settings)  # type: ignore[arg-type]
