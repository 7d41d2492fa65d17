"""Beginnings of runs that many schedules have in common, gone once.

A systematic search runs every schedule that differs in one choice from one it has run, one after the other. A trunk is
such a run standing still at a decision: its processes are where they are in their memories (`remembering`), none of
their code is executed, so there is no stack and all of it can be copied. Each branch goes on from a copy, and the trunk
grows along its line to the decision where the next branch leaves it.
"""

from __future__ import annotations

from storecheck.schedule.executor import CodeNeeded, Executor
from storecheck.schedule.remembering import Journal
from storecheck.schedule.strategies import Decision, PrefixChooser


class Standing(BaseException):
    """The trunk has come to the decision where it is to stand."""


class Walker:
    """The chooser of a trunk: follows `line`, and stops at decision number `stop`."""

    every_step = False

    def __init__(self, decisions: list[Decision]) -> None:
        self.line = b""
        self.stop = 0
        self.decisions = decisions

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        """The choice that the line has here."""
        at = len(self.decisions)
        self.decisions.append((runnable, sleeping, current, killable))
        if at == self.stop:
            raise Standing
        return self.line[at]


class Trunk:
    """See the module. `executor` and `journal` are of the run that stands here; nothing else may make it go on.

    `epoch` tells with which code the processes' memories came about.
    """

    def __init__(self, executor: Executor, walker: Walker, journal: Journal, *, epoch: int) -> None:
        self.epoch = epoch
        self.executor = executor
        self.walker = walker
        self.journal = journal

    @property
    def at(self) -> int:
        """The number of the decision where it stands; -1 before it has begun."""
        return len(self.walker.decisions) - 1

    def grow(self, line: bytes, at: int) -> bool:
        """Go on along `line`, which begins with all choices made so far, to decision number `at`.

        False if what happens on the way is not remembered: the trunk is of no use any more.
        """
        walker, executor = self.walker, self.executor
        if at == self.at:
            return True
        if self.at >= 0:
            executor.decide(line[self.at], walker.decisions[-1][2])
        walker.line, walker.stop = line, at
        try:
            executor.walk()
        except Standing:
            return True
        except CodeNeeded:
            return False
        return False

    def copy(self, journal: Journal) -> Trunk:
        """Another that stands here, too; its journal is given, and what its processes remember is the caller's."""
        walker = Walker(self.walker.decisions[:])
        return Trunk(self.executor.copy(walker), walker, journal, epoch=self.epoch)

    def branch(self, chooser: PrefixChooser, *, last: bool) -> Executor:
        """A copy of the run that goes on with the chooser, whose prefix ends with the choice to be made here.

        The `last` branch is the trunk's run itself, and no copy.
        """
        decisions = self.walker.decisions
        chooser.decisions[:] = decisions
        executor = self.executor
        if last:
            executor.chooser, executor.known_only = chooser, False
        else:
            executor = executor.copy(chooser)
        executor.decide(chooser.prefix[self.at], decisions[-1][2])
        return executor

    def forks(self) -> int:
        """How many threads could run here instead of the one that is chosen if nothing is said."""
        return self.walker.decisions[-1][0].bit_count() - 1
