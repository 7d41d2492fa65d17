"""Counts the crash states of the example savers: the figures by which a change of the models is noticed.

Content says in every few bytes which generation it belongs to. Constant padding would hide torn writes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from storecheck.machine import MOUNT, Machine, Process
from storecheck.syscalls import ImageOptions

from .models import PersistenceModel
from .oracle import Oracle, Violation
from .recording import SerialProcess, record
from .savers import Saver
from .states import Recording, crash_states

FILE = "store"
SAVES = 2
SIZE_BYTES = 9000
"""Three blocks, so that a write has three pieces."""

GROWTH_BYTES = 10
_MODULE = "storecheck.crash.savers"


@dataclass(frozen=True, slots=True)
class Count:
    """How many distinct states there are, and the kinds of violations among them."""

    states: int
    violations: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'*' if self.violations else ''}{self.states}"


def content_of(generation: int, *, size_bytes: int = SIZE_BYTES) -> bytes:
    """Content of one generation; each is a little longer than the one before."""
    word = f"generation {generation:06d} ".encode()
    size_bytes += generation * GROWTH_BYTES
    return (word * (size_bytes // len(word) + 1))[:size_bytes]


@functools.cache
def saver_process() -> SerialProcess:
    """The process that runs the savers."""
    return SerialProcess(_MODULE, options=ImageOptions(private=(_MODULE,)))


def save_all(machine: Machine, name: str, saves: int = SAVES, size_bytes: int = SIZE_BYTES) -> None:
    """Let the saver of that name save so many generations on a machine."""
    process = saver_process()
    saver: Saver = process.modules[_MODULE].SAVERS[name]

    def act(kernel_process: Process) -> None:
        for generation in range(1, saves + 1):
            machine.mark(kernel_process, f"begin {generation}")
            acknowledge = functools.partial(machine.mark, kernel_process, f"ack {generation}")
            saver(f"{MOUNT}/{FILE}", content_of(generation, size_bytes=size_bytes), acknowledge)

    process.run(machine, act)


def record_saver(
    name: str, *, saves: int = SAVES, size_bytes: int = SIZE_BYTES, first: bool = False
) -> tuple[Recording, Oracle]:
    """What the saver of that name does to the disk, and what must be found afterwards.

    Args:
        name: a key of `savers.SAVERS`.
        saves: how many saves.
        size_bytes: size of generation 0.
        first: whether there is no file before.
    """
    machine = Machine(files={} if first else {FILE: content_of(0, size_bytes=size_bytes)})
    recording = record(machine, lambda: save_all(machine, name, saves, size_bytes))
    versions: list[bytes | None] = [content_of(number, size_bytes=size_bytes) for number in range(saves + 1)]
    if first:
        versions[0] = None
    return recording, Oracle(path=FILE, versions=versions, marks=recording.marks())


def count_states(
    recording: Recording,
    model: PersistenceModel,
    *,
    cuts: int | None,
    judge: Callable[..., Violation | None],
) -> Count:
    """All distinct states within so many cuts, judged."""
    states = 0
    kinds: set[str] = set()
    for state in crash_states(recording, model, cuts=cuts):
        states += 1
        violation = judge(state)
        if violation is not None:
            kinds.add(violation.kind)
    return Count(states, tuple(sorted(kinds)))
