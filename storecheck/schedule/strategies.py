"""Which schedules are run: depth-first within a preemption bound, PCT, random walk, replay.

A strategy is a plain value; `search()` starts a search, which hands out choosers, one per run, until it is through.
Beyond its own decisions every chooser goes on without preemption: the running thread runs on; if it cannot, the lowest
one that can.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from storecheck.program import Program
from storecheck.schedule.executor import KILL, Chooser, StepLog


class Search(Protocol):
    """A search under way. Ask for choosers and tell what became of them, in turn."""

    def next_chooser(self) -> Chooser | None:
        """The chooser of the next run, or None when the search is through."""

    def executed(self, choices: tuple[int, ...]) -> None:
        """The run with the chooser last handed out is over; these were its choices."""

    def exhausted(self) -> str:
        """After the last run: the bound within which all was run, or "" if schedules were only sampled."""

    def step_log(self) -> StepLog | None:
        """What must be told of every step of the next run, or None."""

    def redundant(self) -> bool:
        """Whether the last run was given up because an equivalent one was already executed."""


class Strategy(Protocol):
    """How to search. Frozen; `search` may be called any number of times, each the same."""

    def search(self, program: Program) -> Search:
        """Start a search; ValueError if this strategy cannot make its claim for such a program."""


def _default(runnable: int, sleeping: int, current: int) -> int:
    if current >= 0 and runnable >> current & 1:
        return current
    mask = runnable or sleeping
    return (mask & -mask).bit_length() - 1


@functools.lru_cache(maxsize=4096)
def indexes(mask: int) -> tuple[int, ...]:
    """The positions of the set bits, lowest first."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return tuple(found)


Decision = tuple[int, int, int, bool]
"""What a chooser was asked: see `Chooser.choose`."""


class PrefixChooser:
    """Follows a list of choices, then the default; remembers what there was to choose from.

    `line`: the choices of an earlier run from which this one differs in the last choice of its prefix, if there is one.
    `at_fork` is called where the default is one of several threads none of which would be preempted.
    """

    every_step = False

    def __init__(self, prefix: Sequence[int], *, line: bytes | None = None) -> None:
        self.prefix = prefix
        self.line = line
        self.at_fork: Callable[[], None] | None = None
        self.decisions: list[Decision] = []
        self._given = len(prefix)

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        """The next choice of the prefix, or to run on."""
        at = len(self.decisions)
        self.decisions.append((runnable, sleeping, current, killable))
        if at < self._given:
            return self.prefix[at]
        if current >= 0 and runnable >> current & 1:
            return current
        if self.at_fork is not None and runnable & (runnable - 1):
            self.at_fork()
        return _default(runnable, sleeping, current)


@dataclass(frozen=True, slots=True)
class PreemptionBounded:
    """All schedules with at most `bound` preemptions, those with fewer first, earlier preemptions first.

    A preemption takes the processor from a thread that could go on, or wakes a sleeper early while others can run. A
    bug found this way has the fewest preemptions possible. Iterative context bounding: Musuvathi and Qadeer, PLDI
    2007. With `kills`, a run may also have so many processes killed at any of their calls; a kill is no preemption.
    """

    bound: int

    def __post_init__(self) -> None:
        if self.bound < 0:
            raise ValueError(f"bound is {self.bound}; give 0 or more preemptions")

    def search(self, program: Program) -> Search:  # noqa: ARG002 - any program will do
        """Start from the schedule without any preemption."""
        return _BoundedSearch(self.bound)


UNBOUNDED: Final = PreemptionBounded(1_000_000)
"""Plain depth-first search over all schedules: only for very small programs."""


_Branch = tuple[bytes, int, int]


class _BoundedSearch:
    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._level = 0
        # Prefixes of this level are a stack (depth first, little memory); those of the next a queue (earlier first).
        # Each is told by the choices of another run, how many of them to take, and a mask of choices after those.
        self._now: deque[_Branch] = deque()
        self._later: deque[_Branch] = deque()
        self._chooser: PrefixChooser | None = None

    def next_chooser(self) -> Chooser | None:
        if self._chooser is None:
            self._chooser = PrefixChooser(b"")
            return self._chooser
        if not self._now:
            if not self._later or self._level >= self._bound:
                return None
            self._level += 1
            self._now, self._later = self._later, self._now
        taken, count, mask = self._now.popleft()
        then = mask & -mask
        if then != mask:
            self._now.appendleft((taken, count, mask ^ then))
        self._chooser = PrefixChooser(taken[:count] + bytes((then.bit_length() - 1,)), line=taken)
        return self._chooser

    def executed(self, choices: tuple[int, ...]) -> None:
        chooser = self._chooser
        assert chooser is not None
        taken = bytes(choices)
        may_preempt = self._level < self._bound
        free: list[_Branch] = []
        later = self._later
        given = len(chooser.prefix)
        for at, (runnable, sleeping, current, killable) in enumerate(chooser.decisions[given:], given):
            # Sleepers are costly while anybody can run; everybody else is if the current thread could go on.
            if current >= 0 and runnable >> current & 1:
                costly, others = runnable | sleeping, 0
            else:
                costly, others = (sleeping & ~runnable, runnable) if runnable else (0, sleeping)
            if may_preempt:
                costly &= ~(1 << taken[at])
                if costly:
                    later.append((taken, at, costly))
            others &= ~(1 << taken[at])
            if killable:
                others |= 1 << KILL + current
            if others:
                free.append((taken, at, others))
        self._now.extendleft(reversed(free))

    def exhausted(self) -> str:
        if self._bound >= UNBOUNDED.bound:
            return "any number of preemptions"
        return f"{self._bound} preemption{'' if self._bound == 1 else 's'}"

    def step_log(self) -> StepLog | None:
        return None

    def redundant(self) -> bool:
        return False


class _WalkChooser:
    """Every choice at random, all candidates alike; kills with a small chance."""

    every_step = False

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        source = self._random
        if killable and source.random() < KILL_CHANCE:
            return KILL + current
        # Sleepers are candidates only now and then: time that jumps at every step is not a likely schedule.
        mask = runnable
        if not runnable or (sleeping and source.random() < EARLY_WAKE_CHANCE):
            mask |= sleeping
        return source.choice(indexes(mask))


KILL_CHANCE: Final = 0.02
EARLY_WAKE_CHANCE: Final = 0.1


class _PctChooser:
    """Highest priority runs; at `depth - 1` random points the running thread falls to the lowest priority.

    Burckhardt, Kothari, Musuvathi, Nagarakatte: A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs,
    ASPLOS 2010.
    """

    every_step = False

    def __init__(self, source: random.Random, *, depth: int, length: int) -> None:
        self._random = source
        self._priorities: dict[int, float] = {}
        self._lowest = 0.0
        self._at = 0
        self._changes = {source.randrange(max(length, 1)) for _ in range(depth - 1)}

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        at = self._at
        self._at = at + 1
        if killable and self._random.random() < KILL_CHANCE:
            return KILL + current
        if at in self._changes and current >= 0:
            self._lowest -= 1.0
            self._priorities[current] = self._lowest
        # A sleeper's alarm may ring at any moment: it takes part with its own priority, but wakes only now and then.
        mask = runnable
        if not runnable or (sleeping and self._random.random() < EARLY_WAKE_CHANCE):
            mask |= sleeping
        best, best_priority = -1, 0.0
        priorities = self._priorities
        while mask:
            index = (mask & -mask).bit_length() - 1
            mask &= mask - 1
            priority = priorities.get(index)
            if priority is None:
                priority = priorities[index] = 1.0 + self._random.random()
            if best < 0 or priority > best_priority:
                best, best_priority = index, priority
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSchedules:
    """PCT with depths 2 and 3, mixed with random walks: `executions` schedules, the same ones for the same `seed`."""

    executions: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.executions < 1:
            raise ValueError(f"executions is {self.executions}; give 1 or more")

    def search(self, program: Program) -> Search:  # noqa: ARG002 - any program will do
        """Start with the schedule that nobody interrupts, whose length PCT needs."""
        return _RandomSearch(self.executions, self.seed)


class _RandomSearch:
    def __init__(self, executions: int, seed: int) -> None:
        self._left = executions
        self._random = random.Random(seed)  # noqa: S311 - schedules, the same for the same seed
        self._length = 0
        self._round = 0

    def next_chooser(self) -> Chooser | None:
        if self._left == 0:
            return None
        self._left -= 1
        self._round += 1
        source = random.Random(self._random.getrandbits(64))  # noqa: S311
        if self._round == 1:
            return PrefixChooser(b"")
        kind = self._round % 4
        if kind == 0:
            return _WalkChooser(source)
        return _PctChooser(source, depth=2 if kind != 3 else 3, length=self._length)

    def executed(self, choices: tuple[int, ...]) -> None:
        self._length = max(self._length, len(choices))

    def exhausted(self) -> str:
        return ""

    def step_log(self) -> StepLog | None:
        return None

    def redundant(self) -> bool:
        return False


class ReplayDiverged(RuntimeError):  # noqa: N818 - it says what happened
    """The code under test took another way than the recorded schedule: other code, or other settings."""


class _ReplayChooser(PrefixChooser):
    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        at = len(self.decisions)
        choice = super().choose(runnable, sleeping, current, killable)
        if at < len(self.prefix):
            possible = killable and choice == KILL + current if choice >= KILL else (runnable | sleeping) >> choice & 1
            if not possible:
                able = list(indexes(runnable | sleeping))
                raise ReplayDiverged(f"choice {at} of the schedule is {choice}, but only {able} can run there")
        return choice


@dataclass(frozen=True, slots=True)
class Replay:
    """One given schedule (the choices of an earlier run), then on without preemption."""

    choices: tuple[int, ...]

    def search(self, program: Program) -> Search:  # noqa: ARG002 - any program will do
        """One run."""
        return _ReplaySearch(self.choices)


class _ReplaySearch:
    def __init__(self, choices: tuple[int, ...]) -> None:
        self._choices: tuple[int, ...] | None = choices

    def next_chooser(self) -> Chooser | None:
        if self._choices is None:
            return None
        chooser = _ReplayChooser(self._choices)
        self._choices = None
        return chooser

    def executed(self, choices: tuple[int, ...]) -> None:
        """Nothing to learn from a replay."""

    def exhausted(self) -> str:
        return ""

    def step_log(self) -> StepLog | None:
        return None

    def redundant(self) -> bool:
        return False
