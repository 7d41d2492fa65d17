"""Dynamic partial order reduction: one schedule of each class of equivalent ones.

Two steps of different threads depend on each other if they touch the same thing (a name, an inode, a lock, the clock)
and not both only read it; schedules that order all dependent steps alike end alike, and only one of each class has to
run. The machine tells what every step touched (`Disk.footprint`). After each run the races in it (dependent steps that
could have come the other way round) demand further branches: backtracking with source sets, and sleep sets against
running a class twice. Flanagan and Godefroid, POPL 2005; Abdulla, Aronsson, Jonsson, Sagonas, POPL 2014 (algorithm 1).

"End alike" is: the same answers, the same files, and the same real-time order between operations, which is why the end
of an operation depends on the beginning of another one (`runner.REAL_TIME`). A check that looks at more than that, such
as the trace of the disk, sees one member of each class. All steps of threads of one process count as dependent, since
they share memory. A step that ends other threads depends on all that they would have done.

Time must not be a hidden dependency: the program's machine needs `step_ns=0` and `time_choice="all"`, so that the clock
moves only where a sleep or a wait ends, and those steps depend on all that read it. What may be claimed at the end is
every interleaving of the noticed calls (see `MachineParameters.points`) of a program whose calls take no time. Kills by
the scheduler are not explored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from storecheck.machine.disk import COMMUTE, READ, WRITE, Footprint, FootprintKey
from storecheck.program import Program
from storecheck.schedule.executor import Chooser, StepLog
from storecheck.schedule.strategies import Search, indexes


@dataclass(frozen=True, slots=True)
class Dpor:
    """Every interleaving, up to the order of independent calls. For small programs."""

    def search(self, program: Program) -> Search:
        """Start a search.

        Raises:
            ValueError: the program lets time or kills depend on the schedule.
        """
        if program.machine.step_ns != 0 or program.machine.time_choice != "all":
            raise ValueError(
                "Dpor needs MachineParameters(step_ns=0, time_choice='all'): otherwise every call depends on every "
                "other through the clock; use PreemptionBounded for this program"
            )
        if program.kills:
            raise ValueError("Dpor does not explore kills; use PreemptionBounded for this program")
        return _DporSearch()


Access = dict[FootprintKey, int]


@dataclass(slots=True)
class _Step:
    """One executed step: which thread, what it touched."""

    thread: int
    touched: Footprint
    access: Access = field(default_factory=dict)

    def seal(self) -> None:
        """Work out the strongest access to each thing."""
        for key, kind in self.touched:
            known = self.access.get(key)
            if known is None or known == kind:
                self.access[key] = kind
            else:
                # Any mixture conflicts with everything that a write conflicts with.
                self.access[key] = WRITE

    def ends_other_threads(self) -> bool:
        """Whether threads besides this one ended with it: a process was killed, or left before its daemon threads."""
        own = self.touched[0][0]  # the life of its process is what every step touches first
        has_company = ("memory", own[1]) in self.access
        return any(
            kind == WRITE and key[0] == "process" and (has_company or key != own) for key, kind in self.access.items()
        )


def conflicting(one: Access, other: Access) -> bool:
    """Whether two steps do not commute."""
    if len(other) < len(one):
        one, other = other, one
    for key, kind in one.items():
        theirs = other.get(key)
        if theirs is not None and not (kind == theirs and kind in (READ, COMMUTE)):
            return True
    return False


@dataclass(slots=True)
class _Node:
    """A state on the current branch: who could run, who was chosen, who has to be tried, who need not be."""

    enabled: int
    chosen: int
    backtrack: int
    sleep: dict[int, Access]
    done: dict[int, Access] = field(default_factory=dict)


class _Branch:
    """Chooser and step log of one run: follows the branch, then avoids sleeping threads."""

    every_step = True

    def __init__(self, nodes: list[_Node]) -> None:
        self.nodes = nodes
        self.given = len(nodes)
        self.depth = 0
        self.steps: list[_Step] = []
        self.redundant = False

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:  # noqa: ARG002
        """The branch's choice, or any thread that is not asleep."""
        depth = self.depth
        self.depth = depth + 1
        enabled = runnable | sleeping
        if depth < self.given:
            return self.nodes[depth].chosen
        sleep = self._sleep_after(depth)
        awake = [index for index in indexes(enabled) if index not in sleep]
        if not awake:
            # All that could run has been run from an equivalent state: finish this run, but do not look at it.
            self.redundant = True
        candidates = awake or indexes(enabled)
        chosen = current if current in candidates else candidates[0]
        self.nodes.append(_Node(enabled=enabled, chosen=chosen, backtrack=1 << chosen, sleep=sleep))
        return chosen

    def _sleep_after(self, depth: int) -> dict[int, Access]:
        """Who sleeps in the state reached: who slept before, or was done, and is independent of the last step."""
        if depth == 0:
            return {}
        parent, step = self.nodes[depth - 1], self.steps[depth - 1]
        step.seal()
        asleep = {**parent.sleep, **parent.done}
        return {
            thread: access
            for thread, access in asleep.items()
            if thread != step.thread and not conflicting(access, step.access)
        }

    def step_begins(self, task: int, name: str) -> Footprint:  # noqa: ARG002
        """The executor starts a step: it fills the list that is returned."""
        touched: Footprint = []
        self.steps.append(_Step(task, touched))
        return touched


class _DporSearch:
    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._branch: _Branch | None = None
        self._started = False
        self._redundant = False

    def next_chooser(self) -> Chooser | None:
        if self._started and not self._backtrack():
            return None
        self._started = True
        self._branch = _Branch(self._nodes)
        return self._branch

    def step_log(self) -> StepLog | None:
        return self._branch

    def redundant(self) -> bool:
        return self._redundant

    def exhausted(self) -> str:
        return "every interleaving of calls that take no time, up to the order of independent ones"

    def executed(self, choices: tuple[int, ...]) -> None:
        branch = self._branch
        assert branch is not None
        if len(branch.steps) != len(choices):
            raise AssertionError(f"{len(choices)} choices but {len(branch.steps)} steps: every step must be chosen")
        for step in branch.steps:
            step.seal()
        self._redundant = branch.redundant
        self._add_races(branch.steps)

    def _backtrack(self) -> bool:
        """Go to the deepest state with a branch to try; False if there is none."""
        assert self._branch is not None
        steps = self._branch.steps
        while self._nodes:
            depth = len(self._nodes) - 1
            node = self._nodes[depth]
            node.done[node.chosen] = steps[depth].access
            left = [index for index in indexes(node.backtrack) if index not in node.done and index not in node.sleep]
            if left:
                node.chosen = left[0]
                return True
            self._nodes.pop()
        return False

    def _add_races(self, steps: list[_Step]) -> None:
        """Happens-before by vector clocks; each race asks for a branch before its first step."""
        clocks: list[dict[int, int]] = []
        last_of: dict[int, int] = {}
        for later, step in enumerate(steps):
            own = last_of.get(step.thread)
            clock = dict(clocks[own]) if own is not None else {}
            # From the latest backwards: what already happened before through a later step is no race.
            for earlier in range(later - 1, -1, -1):
                other = steps[earlier]
                if clock.get(other.thread, -1) >= earlier or other.thread == step.thread:
                    continue
                if conflicting(other.access, step.access):
                    self._ask_for_branch(steps, clocks, earlier, later, clock)
                    for thread, seen in clocks[earlier].items():
                        clock[thread] = max(clock.get(thread, -1), seen)
            if step.ends_other_threads():
                # What they would have done next is never seen, and so in no race.
                self._nodes[later].backtrack |= self._nodes[later].enabled
            clock[step.thread] = later
            clocks.append(clock)
            last_of[step.thread] = later

    def _ask_for_branch(
        self, steps: list[_Step], clocks: list[dict[int, int]], earlier: int, later: int, clock: dict[int, int]
    ) -> None:
        node = self._nodes[earlier]
        first = steps[earlier].thread
        independent = [index for index in range(earlier + 1, later) if clocks[index].get(first, -1) < earlier]
        if not node.enabled >> steps[later].thread & 1 and not any(
            clock.get(steps[index].thread, -1) >= index for index in independent
        ):
            # Nothing but the earlier step can have made the later one possible (a lock handed over).
            return
        initials = self._initials(steps, clocks, independent, later, clock) & node.enabled
        if initials & node.backtrack:
            return
        node.backtrack |= initials & -initials if initials else node.enabled

    def _initials(
        self,
        steps: list[_Step],
        clocks: list[dict[int, int]],
        independent: list[int],
        later: int,
        clock: dict[int, int],
    ) -> int:
        """Threads that can begin what did not happen after the earlier step of a race, with `later` at its end."""
        found = 0
        for position, index in enumerate([*independent, later]):
            own = clocks[index] if index != later else clock
            before = independent[:position]
            if all(own.get(steps[other].thread, -1) < other for other in before):
                found |= 1 << steps[index].thread
        return found
