"""Runs simulated processes one step at a time.

Every thread of every simulated process is a greenlet. Before a system call is executed the call comes here (`point`):
the chooser picks who runs next, and only if that is somebody else does the executor switch. So a schedule is the list
of the chooser's answers, and the same answers give the same run. Blocked threads are not runnable; a sleeping one
becomes runnable when the virtual clock gets there. The executor knows nothing of files or Python modules: it is told
what to wait for by `storecheck.syscalls`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from greenlet import getcurrent, greenlet

from storecheck.machine import Machine, Process, Waiter
from storecheck.machine.copying import copy_of
from storecheck.machine.disk import CLOCK, READ, WRITE, Footprint
from storecheck.machine.kernel import nobody_waits
from storecheck.schedule.faults import Fault, PendingCall, Policy
from storecheck.schedule.remembering import (
    AGAIN_NS,
    BLOCK,
    DEPENDS,
    DONE,
    LOCK,
    NO_TIMEOUT_NS,
    NOTICED,
    SILENT,
    STARTED,
    Blocked,
    Gone,
    NotDeterministic,
    Raised,
    Recollection,
    Request,
)

MAX_STEPS_DEFAULT: Final = 20_000
"""Steps after which a run is cut. An uncontended update is about 30; a run that needs more than this polls."""

MAX_THREADS: Final = 60
"""Threads per run: masks of threads then fit a machine word, which keeps choosing cheap."""

CLEANUP_THROWS_MAX: Final = 100
"""How often a killed thread may catch the signal to go away before it is left behind."""

NEVER_NS: Final = 1 << 62

KILL: Final = 128
"""Added to a thread's index in a schedule: not "runs next" but "its process is killed here"."""


class ProcessKilled(BaseException):
    """Thrown into the frames of a killed process to free them, after the machine stopped answering it."""


class CodeNeeded(BaseException):
    """In a run that executes no code, something is to happen to a process that is not remembered."""


class ForeignThread(RuntimeError):  # noqa: N818 - it says who called
    """A real thread, or code of no simulated process, made a simulated system call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlock:
    """Nobody can ever run again.

    Attributes:
        waits: per blocked thread, "P1 waits for flock on 'a' held by P2".
        cycle: names of the threads in a circle of waiting, or empty if there is none.
    """

    waits: tuple[str, ...]
    cycle: tuple[str, ...]


class Wait(Protocol):
    """What a blocked thread waits for, for people and for the wait-for graph."""

    def describe(self) -> str:
        """Such as "flock on 'a.lock'"."""

    def holders(self) -> list[Task]:
        """The threads that could end the wait."""

    def copied(self, waiters: Mapping[Waiter, Waiter]) -> Wait:
        """The same wait in a copy of the run, whose requests for locks of files are those in `waiters`."""


class SameInCopies(Wait):
    """Base of waits for nothing that is on the machine."""

    def copied(self, waiters: Mapping[Waiter, Waiter]) -> Wait:  # noqa: ARG002 - it waits for none of them
        """The wait itself."""
        return self


class Task:
    """One thread of a simulated process."""

    __slots__ = (
        "answer",
        "bit",
        "body",
        "dead",
        "deadline_ns",
        "done",
        "greenlet",
        "has_answer",
        "ident",
        "index",
        "is_blocked",
        "locals",
        "member",
        "name",
        "number",
        "pending",
        "started",
        "wait_until_ns",
        "waiting",
    )

    def __init__(self, *, index: int, member: Member, name: str, ident: int, body: Callable[[], None]) -> None:
        self.index = index
        self.number = len(member.tasks)
        self.bit = 1 << index
        self.member = member
        self.name = name
        self.ident = ident
        self.body = body
        self.dead = False
        self.done = False
        self.started = False
        self.deadline_ns = NEVER_NS
        self.waiting: Wait | None = None
        self.locals: dict[int, dict[str, object]] = {}
        self.greenlet: greenlet | None = None
        self.wait_until_ns = NEVER_NS
        # While the process's code does not run: what this thread wants next, and how far it got with it.
        self.pending: Request | None = None
        self.is_blocked = False
        self.has_answer = False
        self.answer: object = None

    def copy(self, member: Member, waiters: Mapping[Waiter, Waiter]) -> Task:
        """The thread in a copy of the run; its code does not run in either."""
        new = Task(index=self.index, member=member, name=self.name, ident=self.ident, body=_nothing)
        new.number = self.number
        new.dead = self.dead
        new.done = self.done
        new.started = self.started
        new.deadline_ns = self.deadline_ns
        new.wait_until_ns = self.wait_until_ns
        new.pending = self.pending
        new.is_blocked = self.is_blocked
        # A dead one may have waited for what is there no more.
        new.waiting = None if self.waiting is None or self.dead else self.waiting.copied(waiters)
        return new


class _KnownWait(SameInCopies):
    """A thread whose code does not run waits for a lock of its process. A run that ends so is executed in full."""

    def describe(self) -> str:
        return "a lock in its own process"

    def holders(self) -> list[Task]:
        return []


KNOWN_WAIT: Final = _KnownWait()


class Member:
    """A process taking part in a run: the kernel's record of it, its threads, its count of calls.

    `known` is where it is in its memory while its code need not run; `recollection` the same, also when it runs.
    """

    __slots__ = (
        "activate",
        "active",
        "calls",
        "ended",
        "killed",
        "known",
        "live",
        "name",
        "on_end",
        "process",
        "recollection",
        "tasks",
    )

    def __init__(self, *, name: str, process: Process, activate: Callable[[Task, Task], None]) -> None:
        self.name = name
        self.process = process
        self.activate = activate
        self.on_end: Callable[[], None] = _nothing
        self.tasks: list[Task] = []
        self.active: Task | None = None
        self.calls = 0
        self.live = 0
        self.killed = False
        self.ended = False
        self.known: Recollection | None = None
        self.recollection: Recollection | None = None

    def copy(self, process: Process) -> Member:
        """The process in a copy of the run, as yet without threads and memory."""
        new = Member(name=self.name, process=process, activate=self.activate)
        new.calls = self.calls
        new.live = self.live
        new.killed = self.killed
        new.ended = self.ended
        return new


def _nothing() -> None:
    """What happens at the end of a process that nobody attends to."""


class Chooser(Protocol):
    """Who runs next. Called only when there is something to choose, unless `every_step`.

    `runnable` and `sleeping` are masks of thread indexes; `current` is the thread that arrived here, and may or may
    not be runnable; `killable` says whether its process may be killed here. The answer is a thread index, or that of
    `current` plus KILL.
    """

    every_step: bool

    def choose(self, runnable: int, sleeping: int, current: int, killable: bool) -> int:
        """The thread that runs next."""


class StepLog(Protocol):
    """Told of every step, for partial order reduction."""

    def step_begins(self, task: int, name: str) -> Footprint:
        """A new step of `task`; returns the list to which the machine appends what the step touches."""


class Executor:
    """One run of a set of processes on a machine. Use once.

    Args:
        machine: the computer; the run changes it.
        chooser: who runs next.
        max_steps: the run is cut after so many calls.
        policy: faults, or None.
        kills_max: how many processes the chooser may kill.
        step_log: told of every step, or None.
    """

    def __init__(
        self,
        machine: Machine,
        chooser: Chooser,
        *,
        max_steps: int = MAX_STEPS_DEFAULT,
        policy: Policy | None = None,
        kills_max: int = 0,
        step_log: StepLog | None = None,
    ) -> None:
        self.machine = machine
        self.chooser = chooser
        self.max_steps = max_steps
        self.policy = policy
        self.kills_left = kills_max
        self.step_log = step_log
        self._time_choice = machine.parameters.time_choice
        self.step_ns = machine.parameters.step_ns
        self.all_points = machine.parameters.points == "all"
        self.steps = 0
        self.choices: list[int] = []
        self.preemptions = 0
        self.faults: list[Fault] = []
        self.refused: list[str] = []
        self.deadlock: Deadlock | None = None
        self.cut = False
        self.harness_error: BaseException | None = None
        self.tracing = False
        self.known_only = False
        self.members: list[Member] = []
        self.tasks: list[Task] = []
        self.runnable = 0
        self.sleeping = 0
        self.early = 0
        self.next_deadline_ns = NEVER_NS
        self.current: Task | None = None
        self._next: Task | None = None
        self._hub: greenlet | None = None
        self._over = False
        self._decided: tuple[int, int] | None = None
        machine.on_wake = self._kernel_wakes

    @property
    def over(self) -> bool:
        """Whether the run is over: frames then only unwind."""
        return self._over

    # Building

    def add_process(self, name: str, activate: Callable[[Task, Task], None]) -> Member:
        """A process that will take part; give it a main thread with `add_task` before `run`."""
        member = Member(name=name, process=self.machine.new_process(), activate=activate)
        self.members.append(member)
        return member

    def add_task(self, member: Member, body: Callable[[], None], *, ident: int) -> Task:
        """A new thread of a process; it is runnable and will begin when chosen."""
        if len(self.tasks) >= MAX_THREADS:
            raise RuntimeError(f"more than {MAX_THREADS} threads in one run; make the program smaller")
        number = len(member.tasks)
        name = member.name if number == 0 else f"{member.name}.t{number}"
        task = Task(index=len(self.tasks), member=member, name=name, ident=ident, body=body)
        self.tasks.append(task)
        member.tasks.append(task)
        if number and self.step_log is not None:
            # What the new thread does comes after this step, which was not known to have company when it began.
            self.machine.touch(("memory", member.process.pid), WRITE)
        member.live += 1
        self.runnable |= task.bit
        return task

    # Running

    def run(self) -> None:
        """Run until all processes have ended, nobody can run, or the run is cut. Frees all frames before it returns."""
        self._hub = getcurrent()
        try:
            self._next = self._first()
            while self._next is not None and not self._over:
                task = self._run_known(self._next)
                self._next = None
                if task is None:
                    break
                self._make_current(task)
                assert task.greenlet is not None
                task.greenlet.switch()
        finally:
            self._over = True
            self._free_frames()
        if self.harness_error is not None:
            raise self.harness_error

    def _first(self) -> Task | None:
        """Who runs first: in a run that goes on from a decision, as was decided there."""
        if self._decided is None:
            return self._pick(None)
        (index, current), self._decided = self._decided, None
        return self._follow(index, None if current < 0 else self.tasks[current]) or self._pick(None)

    def _make_current(self, task: Task) -> None:
        self.current = task
        member = task.member
        if member.active is not task:
            if member.active is not None:
                member.activate(member.active, task)
            member.active = task
        if not task.started:
            task.started = True
            task.greenlet = greenlet(self._thread_body, self._hub)
            if self.step_log is not None:
                self._begin_step(task, "start", self.step_log)

    def _thread_body(self) -> None:
        task = self.current
        assert task is not None
        recollection = task.member.recollection
        try:
            if recollection is not None:
                recollection.thread_starts()
            task.body()
            if recollection is not None and not task.dead and not recollection.thread_ends():
                return
        except ProcessKilled:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the thread that asked for it
            # What made the run end, not what unwinding frames made of it.
            self.harness_error = self.harness_error or error
            self._over = True
            return
        if self._over:
            return
        if task.dead:
            self._next = self._pick(None)
            return
        self._end_task(task)
        self._next = self._pick(task)

    def _end_task(self, task: Task) -> None:
        task.done = True
        self.runnable &= ~task.bit
        self._rest(task)
        task.member.live -= 1

    # System calls

    def enter(self, name: str, arguments: tuple[object, ...] = ()) -> object:
        """A call that others may notice is about to happen: choose who runs, then let it happen.

        Returns None, or something for `storecheck.syscalls` to handle (a short write, a call to be recorded).
        """
        task = self.current
        if task is None or getcurrent() is not task.greenlet:
            self._refuse_stranger(name)
        self.steps += 1
        machine = self.machine
        machine.step = self.steps
        machine.monotonic_ns += self.step_ns
        runnable = self.runnable
        if (
            runnable != task.bit
            or self.kills_left
            or self.early
            or machine.monotonic_ns >= self.next_deadline_ns
            or self.chooser.every_step
        ):
            chosen = self._pick(task)
            if chosen is not task:
                self._switch_to(chosen)
        if self.steps > self.max_steps:
            self._cut()
        if self.step_log is not None:
            self._begin_step(task, name, self.step_log)
        task.member.calls += 1
        if self.policy is not None:
            return self._ask_policy(task, name, arguments)
        return self.tracing or None

    def enter_unnoticed(self, name: str, arguments: tuple[object, ...] = ()) -> object:
        """A call that no other process can notice: counted, timed, may get a fault, but is no scheduling point."""
        if self.all_points:
            return self.enter(name, arguments)
        task = self.current
        if task is None or getcurrent() is not task.greenlet:
            self._refuse_stranger(name)
        self.steps += 1
        self.machine.monotonic_ns += self.step_ns
        if self.steps > self.max_steps:
            self._cut()
        task.member.calls += 1
        if self.policy is not None:
            return self._ask_policy(task, name, arguments)
        return self.tracing or None

    def enter_lock(self, name: str) -> None:
        """A thread takes or frees a lock of its own process that others may want: a scheduling point, not a call."""
        task = self.current
        if task is None or getcurrent() is not task.greenlet:
            self._refuse_stranger(name)
        self.steps += 1
        self.machine.step = self.steps
        if self.runnable != task.bit or self.early or self.chooser.every_step:
            chosen = self._pick(task)
            if chosen is not task:
                self._switch_to(chosen)
        if self.steps > self.max_steps:
            self._cut()
        if self.step_log is not None:
            self._begin_step(task, name, self.step_log)

    def _begin_step(self, task: Task, name: str, log: StepLog) -> None:
        """Have noted what the step touches: of itself, its process's life, and the memory that its threads share."""
        machine, member = self.machine, task.member
        machine.footprint = log.step_begins(task.index, name)
        machine.touch(("process", member.process.pid), READ)
        # Also when the other threads have ended: what they did last is what this step finds.
        if len(member.tasks) > 1:
            machine.touch(("memory", member.process.pid), WRITE)

    def _ask_policy(self, task: Task, name: str, arguments: tuple[object, ...]) -> object:
        assert self.policy is not None
        member = task.member
        fault = self.policy(
            PendingCall(
                process=member.process.index,
                task=task.index,
                call=member.calls - 1,
                name=name,
                arguments=arguments,
            )
        )
        if fault is None:
            return self.tracing or None
        self.faults.append(fault)
        if fault.kind == "kill":
            self.kill(member)
            self.leave_if_dead(task)
        return fault

    def _refuse_stranger(self, name: str) -> NoReturn:
        here = getcurrent()
        if any(task.greenlet is here for task in self.tasks):
            raise ProcessKilled
        message = f"{name}() of a simulated process was called by a thread that is not simulated"
        self.refused.append(message)
        raise ForeignThread(message)

    def _cut(self) -> None:
        self.cut = True
        self._to_hub_for_good()

    def _to_hub_for_good(self) -> None:
        self._over = True
        assert self._hub is not None
        self._hub.switch()
        raise ProcessKilled

    # Choosing

    def _pick(self, arrived: Task | None) -> Task | None:
        """The thread that runs next, or None if all is over (or `arrived`'s process was killed and nobody is left)."""
        while True:
            machine = self.machine
            if machine.monotonic_ns >= self.next_deadline_ns:
                self._wake_sleepers(machine.monotonic_ns)
            if not self.runnable and not self._let_time_pass():
                return None
            chosen = self._choose(arrived)
            if chosen is not None:
                return chosen
            arrived = None

    def _let_time_pass(self) -> bool:
        """Nobody can run: move the clock to the next deadline. False if nobody ever will run again."""
        if not self.sleeping:
            self._nobody_can_run()
            return False
        if not (self._time_choice == "all" and self.chooser.every_step):
            self.machine.monotonic_ns = max(self.machine.monotonic_ns, self.next_deadline_ns)
            self._wake_sleepers(self.machine.monotonic_ns)
        return True

    def _choose(self, arrived: Task | None) -> Task | None:
        runnable = self.runnable
        early = self.early
        killable = self.kills_left > 0 and arrived is not None and not arrived.done and not arrived.dead
        candidates = runnable | early
        if candidates & (candidates - 1) or killable or self.chooser.every_step:
            try:
                index = self.chooser.choose(runnable, early, -1 if arrived is None else arrived.index, killable)
            except Exception as error:
                # It goes through frames of the code under test, which from now on only unwind.
                self.harness_error = error
                self._over = True
                raise
            return self._follow(index, arrived)
        return self._let_run(candidates.bit_length() - 1, arrived)

    def _follow(self, index: int, arrived: Task | None) -> Task | None:
        """Do what was chosen; None if that was to kill."""
        self.choices.append(index)
        if index >= KILL:
            assert arrived is not None
            self.kills_left -= 1
            self.kill(arrived.member)
            return None
        return self._let_run(index, arrived)

    def _let_run(self, index: int, arrived: Task | None) -> Task:
        """Thread `index` was chosen; if it sleeps, the clock jumps to the end of its sleep."""
        task, runnable = self.tasks[index], self.runnable
        if arrived is not None and task is not arrived and runnable & arrived.bit:
            self.preemptions += 1
        if not runnable & task.bit:
            self.machine.monotonic_ns = max(self.machine.monotonic_ns, task.deadline_ns)
            self._wake_sleepers(self.machine.monotonic_ns)
        return task

    def _switch_to(self, chosen: Task | None) -> None:
        """Let another thread run; returns when this one is chosen again."""
        assert self._hub is not None
        chosen = self._run_known(chosen)
        if chosen is None:
            self._hub.switch()
        else:
            self._make_current(chosen)
            assert chosen.greenlet is not None
            if chosen.greenlet is not getcurrent():
                chosen.greenlet.switch()
        if self._over:
            raise ProcessKilled

    # Runs that go on from a decision of another

    def decide(self, choice: int, current: int) -> None:
        """What was chosen where the chooser stopped this run, or the one it is a copy of, when `current` arrived."""
        self._decided = (choice, current)

    def walk(self) -> None:
        """Take steps of processes whose code does not run, until the chooser ends it by an exception.

        Raises:
            CodeNeeded: it would have to run.
        """
        self._hub = getcurrent()
        self.known_only = True
        self._run_known(self._first())

    def dissolve(self) -> None:
        """Undo the circles of references between the run's parts: they are freed at once, not collected later."""
        self.machine.on_wake = nobody_waits
        for member in self.members:
            member.tasks.clear()
            member.known = member.recollection = None
            member.on_end = _nothing
        for task in self.tasks:
            task.body = _nothing

    def copy(self, chooser: Chooser) -> Executor:
        """The same run on a machine of its own, to go on with another chooser.

        No code may be running in it, and what its processes remember is not copied.
        """
        machine, waiters = copy_of(self.machine)
        new = Executor(machine, chooser, max_steps=self.max_steps, kills_max=self.kills_left)
        new.steps, new.preemptions = self.steps, self.preemptions
        new.choices = self.choices[:]
        new.runnable, new.sleeping, new.early = self.runnable, self.sleeping, self.early
        new.next_deadline_ns = self.next_deadline_ns
        new.members = [member.copy(process) for member, process in zip(self.members, machine.processes, strict=True)]
        new.tasks = [task.copy(new.members[task.member.process.index], waiters) for task in self.tasks]
        for task in new.tasks:
            task.member.tasks.append(task)
        for old, waiter in waiters.items():
            if isinstance(old.task, Task):
                waiter.task = new.tasks[old.task.index]
        return new

    # Processes whose code need not run

    def new_greenlet(self, parent: greenlet) -> greenlet:
        """For a thread whose code is brought to where its process is; `parent` gets the processor back from it."""
        return greenlet(self._thread_body, parent)

    def adopt(self, frame: greenlet) -> None:
        """The thread was brought there: when it ends, its end is a step of the run."""
        if not frame.dead and self._hub is not None:
            frame.parent = self._hub

    def go_on_after_point(self, task: Task, *, is_call: bool) -> None:
        """What follows when a thread is chosen that had come to a point while its code did not run."""
        if self.steps > self.max_steps:
            self._cut()
        if is_call:
            task.member.calls += 1

    def fail(self, error: BaseException) -> NoReturn:
        """Give the run up; `run` raises the error."""
        self.harness_error = error
        self._to_hub_for_good()
        raise error

    def _run_known(self, task: Task | None) -> Task | None:
        """Take the steps of processes whose code does not run, until the code of one has to; None if all is over."""
        while task is not None and not self._over:
            known = task.member.known
            if known is None:
                return task
            arrived = self.current = task
            try:
                task = self._go_on_known(arrived, known)
            except Blocked:
                arrived.is_blocked = True
                task = self._pick(arrived)
            except Gone:
                task = self._pick(None)
        return None

    def _go_on_known(self, task: Task, known: Recollection) -> Task | None:  # noqa: C901 - one loop is quicker
        """Steps of one thread until another is chosen or its code has to run; returns who is next.

        Nearly all steps of a search are taken here, as `enter` and `enter_unnoticed` take them.
        """
        number, moment, machine, member = task.number, known.moment, self.machine, task.member
        all_points, step_ns, max_steps, own = self.all_points, self.step_ns, self.max_steps, task.index
        assert moment is not None
        answer = self._first_known_answer(task)
        while not self._over:
            following = moment.main.get(answer) if number == 0 else moment.after(number, answer)
            if following is None or following.request is None:
                return self._awaken(task, known, answer)
            known.moment = moment = following
            for effect in moment.effects:
                known.apply(effect)
            request = task.pending = following.request
            kind = request.kind
            if kind > DEPENDS:
                chosen = self._arrive_known(task, request)
                if chosen is not task:
                    return chosen
                answer = self._do_known(task, request)
                continue
            self.steps += 1
            machine.monotonic_ns += step_ns
            act = request.act or request.complete()
            if all_points or kind == NOTICED or (kind == DEPENDS and request.is_shared()):
                machine.step = self.steps
                if self.kills_left or machine.monotonic_ns >= self.next_deadline_ns:
                    chosen = self._pick(task)
                    if chosen is not task:
                        return chosen
                elif self.runnable != task.bit or self.early or self.chooser.every_step:
                    index = self.chooser.choose(self.runnable, self.early, own, False)
                    self.choices.append(index)
                    if index != own:
                        return self._let_run(index, task)
            if self.steps > max_steps:
                self.cut = self._over = True
                return None
            member.calls += 1
            try:
                answer = act()
            except Exception as error:  # noqa: BLE001 - that is the answer
                answer = Raised.of(error)
        return None

    def _arrive_known(self, task: Task, request: Request) -> Task | None:
        """A thread has come to something that is no call: who is next?"""
        kind = request.kind
        if kind == LOCK:
            self.steps += 1
            self.machine.step = self.steps
            if self.runnable != task.bit or self.early or self.chooser.every_step:
                return self._pick(task)
        elif kind == BLOCK:
            self.block(KNOWN_WAIT, deadline_ns=self.deadline_of(request.timeout_ns))
        elif kind == DONE:
            if task.dead:
                return self._pick(None)
            self._end_task(task)
            return self._pick(task)
        return task

    def _first_known_answer(self, task: Task) -> object:
        """The thread was chosen: what it had come to is done."""
        if not task.started:
            task.started = True
            return STARTED
        request = task.pending
        assert request is not None
        if task.is_blocked:
            task.is_blocked = False
            woken = self.end_block(task)
            return woken if request.kind == BLOCK else None
        return self._do_known(task, request)

    def _do_known(self, task: Task, request: Request) -> object:
        kind = request.kind
        if kind != SILENT:
            if self.steps > self.max_steps:
                self.cut = self._over = True
                return None
            if kind == LOCK:
                return None
            task.member.calls += 1
        try:
            return (request.act or request.complete())()
        except Exception as error:  # noqa: BLE001 - that is the answer
            return Raised.of(error)

    def _awaken(self, task: Task, known: Recollection, answer: object) -> Task | None:
        """The code has to run: it is brought to where its process is, and has the answer before it."""
        if self.known_only:
            raise CodeNeeded
        if answer is STARTED:
            task.started = False
        else:
            task.has_answer, task.answer = True, answer
        try:
            known.awaken()
        except NotDeterministic as error:
            self.harness_error = error
            self._over = True
            return None
        return task

    # Blocking

    def block(self, wait: Wait, *, deadline_ns: int = NEVER_NS, sleeps: bool = False) -> bool:
        """Stop the running thread until `wake` (returns True) or until the clock reaches `deadline_ns` (False)."""
        task = self.current
        assert task is not None
        task.waiting = wait
        self.runnable &= ~task.bit
        if deadline_ns != NEVER_NS:
            task.deadline_ns = deadline_ns
            self.sleeping |= task.bit
            if self._time_choice == "all" or (sleeps and self._time_choice == "sleeps"):
                self.early |= task.bit
            self.next_deadline_ns = min(self.next_deadline_ns, deadline_ns)
        if task.member.known is not None:
            raise Blocked
        chosen = self._pick(task)
        if chosen is not task:
            self._switch_to(chosen)
        return self.end_block(task)

    def deadline_of(self, timeout_ns: int) -> int:
        """When the running thread has waited long enough for a lock of its process; may be AGAIN_NS, NO_TIMEOUT_NS."""
        task = self.current
        assert task is not None
        if timeout_ns == NO_TIMEOUT_NS:
            task.wait_until_ns = NEVER_NS
        elif timeout_ns != AGAIN_NS:
            self.machine.touch(CLOCK, READ)
            task.wait_until_ns = self.machine.monotonic_ns + timeout_ns
        return task.wait_until_ns

    def end_block(self, task: Task) -> bool:
        """A thread that was blocked goes on; False if its time ran out."""
        timed_out = task.waiting is not None
        task.waiting = None
        if self.step_log is not None:
            self._begin_step(task, "resume", self.step_log)
            if timed_out:
                self.machine.touch(CLOCK, WRITE)
        return not timed_out

    def wake(self, task: Task) -> None:
        """What the thread waited for has come: it is runnable again."""
        if not task.dead and not task.done:
            task.waiting = None
            self.runnable |= task.bit
            if self.sleeping & task.bit:
                self._no_longer_sleeps(task)

    def _kernel_wakes(self, waiter: Waiter) -> None:
        if isinstance(waiter.task, Task):
            self.wake(waiter.task)

    def _wake_sleepers(self, now_ns: int) -> None:
        """Make those runnable whose time has come; they find out that nobody woke them."""
        for task in self.tasks:
            if self.sleeping & task.bit and task.deadline_ns <= now_ns:
                self._rest(task)
                self.runnable |= task.bit
                task.deadline_ns = NEVER_NS
        self._find_next_deadline()

    def _rest(self, task: Task) -> None:
        self.sleeping &= ~task.bit
        self.early &= ~task.bit

    def _no_longer_sleeps(self, task: Task) -> None:
        self._rest(task)
        task.deadline_ns = NEVER_NS
        self._find_next_deadline()

    def _find_next_deadline(self) -> None:
        self.next_deadline_ns = min(
            (task.deadline_ns for task in self.tasks if self.sleeping & task.bit), default=NEVER_NS
        )

    # The end of processes

    def leave_if_dead(self, task: Task) -> None:
        """Called by a thread whose process may just have ended: never comes back if so."""
        if task.dead:
            if task.member.known is not None:
                raise Gone
            self._switch_to(self._pick(None))
            raise ProcessKilled

    def kill(self, member: Member) -> None:
        """SIGKILL: no further instruction of the process runs; the kernel closes its descriptors."""
        member.killed = True
        self.end_process(member)

    def end_process(self, member: Member) -> None:
        """The process is gone, with all its threads, and the kernel frees what it held."""
        if member.ended:
            return
        member.ended = True
        for task in member.tasks:
            if not task.done:
                task.dead = True
                self._end_task(task)
        self._find_next_deadline()
        self.machine.end_process(member.process)
        member.on_end()

    def _nobody_can_run(self) -> None:
        blocked = [task for task in self.tasks if not task.done and not task.dead]
        if blocked:
            self.deadlock = describe_deadlock(blocked)
        self._over = True

    def _free_frames(self) -> None:
        """Unwind the frames of threads that never ended. The machine no longer answers them."""
        self.current = None
        for task in self.tasks:
            frame = task.greenlet
            if frame is None:
                continue
            member = task.member
            if not frame.dead and member.active is not None and member.active is not task:
                # Its `finally` blocks look for themselves, as `threading` does in its table of threads.
                member.activate(member.active, task)
                member.active = task
            for _ in range(CLEANUP_THROWS_MAX):
                if frame.dead:
                    break
                frame.throw(ProcessKilled)
            task.greenlet = None


def describe_deadlock(blocked: list[Task]) -> Deadlock:
    """Who waits for whom, and a circle if there is one."""
    waits: list[str] = []
    next_of: dict[Task, Task] = {}
    for task in blocked:
        if task.waiting is None:
            waits.append(f"{task.name} waits for nothing known")
            continue
        holders = [holder for holder in task.waiting.holders() if not holder.done]
        held_by = f" held by {', '.join(holder.name for holder in holders)}" if holders else ""
        waits.append(f"{task.name} waits for {task.waiting.describe()}{held_by}")
        if holders:
            next_of[task] = holders[0]
    return Deadlock(waits=tuple(waits), cycle=_find_cycle(next_of))


def _find_cycle(next_of: dict[Task, Task]) -> tuple[str, ...]:
    for start in next_of:
        path = [start]
        while path[-1] in next_of and len(path) <= len(next_of) + 1:
            following = next_of[path[-1]]
            if following in path:
                return tuple(task.name for task in path[path.index(following) :])
            path.append(following)
    return ()
