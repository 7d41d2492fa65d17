"""Runs a program once: process images, the machine, the executor, and the history that comes out.

`Runner` keeps the images of a program's processes from one run to the next. What a run did is an `Execution`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, ClassVar, Final, Literal

from storecheck import history as histories
from storecheck.machine import MOUNT, Machine
from storecheck.machine.disk import COMMUTE, READ
from storecheck.machine.events import DiskEvent
from storecheck.program import ROOT, Operation, ProcessProgram, Program, ProgramError
from storecheck.schedule import Deadlock, Executor, Fault, Policy, ProcessKilled, remembering
from storecheck.schedule.executor import MAX_STEPS_DEFAULT, Chooser, Member, StepLog
from storecheck.schedule.remembering import Ending, Memory, Outcome, Recollection
from storecheck.schedule.strategies import PrefixChooser
from storecheck.schedule.trunk import Trunk, Walker
from storecheck.syscalls import Context, ImageOptions, NotSimulated, ProcessImage, Recorder, Transform
from storecheck.syscalls.context import MAIN_IDENT, silent

ROOT_PATH: Final = f"{MOUNT}/{ROOT}"
DIRECTORIES: Final = ("home", "tmp")

IMAGE_SETS_MAX: Final = 3
"""Sets of images kept for reuse. A set takes a few megabytes; tests over many planted bugs load many."""

RUNS_PER_COLLECTION: Final = 100
"""Garbage is collected between runs, not in them: collection runs finalizers, and those would make system calls."""

REAL_TIME: Final = ("real time",)
"""What operations touch where they begin (as READ) and end (as COMMUTE). A history tells which operation was over when
another began, so those two moments are in no order of their own: an end conflicts with a beginning, and only that."""

Remember = Literal["no", "yes", "check"]
Keep = Callable[[Trunk], None]
"""Takes a beginning that the run now going on has in common with others, at a fork: see `PrefixChooser`."""

End = Literal["ended", "killed", "stuck"]


class NoEvidence(RuntimeError):  # noqa: N818 - it says what the run is
    """The code under test did something the simulation cannot do: what the run shows proves nothing."""


@dataclass(slots=True, kw_only=True)
class OperationRecord:
    """One operation of one run.

    `invoked_at` and `responded_at` are stamps of one sequence over the whole run; `responded_at` is None if it never
    responded (killed, stuck). `invoked_step` and `responded_step` are the executor's steps, as lanes show them.
    """

    process: int
    thread: int
    operation: Operation
    invoked_at: int
    invoked_step: int
    responded_at: int | None = None
    responded_step: int | None = None
    outcome: Outcome = "unknown"
    result: Any = None
    error: str | None = None
    message: str | None = None

    def copy(self) -> OperationRecord:
        """The same, for a copy of the run."""
        return OperationRecord(
            process=self.process,
            thread=self.thread,
            operation=self.operation,
            invoked_at=self.invoked_at,
            invoked_step=self.invoked_step,
            responded_at=self.responded_at,
            responded_step=self.responded_step,
            outcome=self.outcome,
            result=copy.deepcopy(self.result),
            error=self.error,
            message=self.message,
        )

    def __str__(self) -> str:
        who = f"P{self.process + 1}" + (f".t{self.thread}" if self.thread else "")
        if self.outcome == "returned":
            return f"{who} {self.operation} -> {self.result!r}"
        return f"{who} {self.operation} {self.outcome}: {self.error}: {self.message}"


@dataclass(slots=True, kw_only=True)
class Execution:
    """What one run did: everything a check may look at.

    Attributes:
        program: what was run.
        operations: every operation, in the order of invocation.
        machine: the machine as the run left it.
        ends: per process, how it ended.
        choices: the schedule.
        steps: scheduling points and unnoticed calls executed.
        preemptions: how often a thread that could go on was interrupted.
        faults: the faults that were applied.
        deadlock: who waits for whom, if nobody can ever run again.
        cut: the run was stopped after `max_steps`; it then shows nothing about its end.
        trace: what was done to the disk, if asked for.
    """

    program: Program
    operations: list[OperationRecord]
    machine: Machine
    ends: tuple[End, ...]
    choices: tuple[int, ...]
    steps: int
    preemptions: int
    faults: tuple[Fault, ...]
    deadlock: Deadlock | None
    cut: bool
    trace: list[DiskEvent] | None = None

    def files(self) -> dict[str, bytes]:
        """Content of the files in the adapters' directory at the end, by path relative to it."""
        prefix = f"{ROOT}/"
        files = self.machine.files()
        return {path[len(prefix) :]: content for path, content in files.items() if path.startswith(prefix)}

    def outcome(self) -> tuple[object, ...]:
        """What two runs of one schedule must have in common."""
        return (
            self.choices,
            self.steps,
            self.ends,
            self.cut,
            self.machine.monotonic_ns,
            self.files(),
            [replace(record, message=None) for record in self.operations],
        )

    def history(self) -> histories.History:
        """The history, as `storecheck.linearizability` checks it."""
        return histories.History(
            operations=tuple(
                histories.Operation(
                    process=f"P{record.process + 1}",
                    task=f"t{record.thread}",
                    identifier=number,
                    call=histories.Call(
                        name=record.operation.name,
                        argument=dict(record.operation.arguments),
                        outcome=record.outcome,
                        result=record.result,
                        error=record.error,
                    ),
                    invoked_at=record.invoked_at,
                    responded_at=record.responded_at if record.outcome != "unknown" else None,
                )
                for number, record in enumerate(self.operations)
            )
        )


@dataclass(slots=True)
class _Run:
    """State of the run now going on, shared by its processes: what operations there were."""

    executor: Executor
    programs: dict[int, ProcessProgram] = field(default_factory=dict)
    stamp: int = 0
    operations: list[OperationRecord] = field(default_factory=list)
    _open: dict[tuple[int, int], int] = field(default_factory=dict)

    def copy(self, executor: Executor) -> _Run:
        """The same for a copy of the run."""
        operations = [record.copy() for record in self.operations]
        return _Run(executor, self.programs, self.stamp, operations, dict(self._open))

    def operation_begins(self, member: Member, thread: int, number: int) -> None:
        """Operation `number` of the thread begins."""
        process, executor = member.process, self.executor
        doing = self.programs[process.index]
        self.stamp += 1
        record = OperationRecord(
            process=process.index,
            thread=thread,
            operation=(doing.threads[thread - 1] if thread else doing.operations)[number],
            invoked_at=self.stamp,
            invoked_step=executor.steps,
        )
        executor.machine.touch(REAL_TIME, READ)
        identifier = self._open[process.index, thread] = len(self.operations)
        self.operations.append(record)
        executor.machine.mark(process, f"begin {identifier}")

    def operation_ends(self, member: Member, thread: int, ending: Ending) -> None:
        """The operation that the thread began last is over."""
        process, executor = member.process, self.executor
        identifier = self._open[process.index, thread]
        record = self.operations[identifier]
        record.outcome, record.result = ending.outcome, ending.result
        record.error, record.message = ending.error, ending.message
        executor.machine.touch(REAL_TIME, COMMUTE)
        self.stamp += 1
        record.responded_at = self.stamp
        record.responded_step = executor.steps
        executor.machine.mark(process, f"{record.outcome} {identifier}")


class Runner:
    """Runs one program any number of times.

    Of `processes_remembered` processes in runs with memory, `processes_known` had nothing new happen to them.

    Args:
        program: what to run.
        transform: changes the source of the code under test (a planted bug), or None.
        max_steps: a run is cut after so many steps.

    Raises:
        ProgramError: an adapter cannot be imported.
    """

    machine_type: ClassVar[type[Machine]] = Machine
    """The computer; a subclass may be another one's."""

    def __init__(
        self, program: Program, *, transform: Transform | None = None, max_steps: int = MAX_STEPS_DEFAULT
    ) -> None:
        self.program = program
        self.max_steps = max_steps
        self.runs = 0
        options = ImageOptions(
            private=(
                *program.private,
                *(_module_of(adapter) for adapter in _adapters_of(program)),
            ),
            shared=program.shared,
            transform=transform,
        )
        self._images = _images_for(options, len(program.processes))
        self._factories = [
            _load_adapter(image, process.adapter or program.adapter)
            for image, process in zip(self._images, program.processes, strict=True)
        ]
        for image in self._images:
            # Adapters were imported: what is there now is what every run begins with.
            image.seal()
        self._environment = {
            name.encode(): value.encode("utf-8", "surrogateescape") for name, value in program.environment.items()
        }
        self._files = {f"{ROOT}/{path}": content for path, content in program.files.items()}
        contexts = [image.context for image in self._images]
        self._has_called = [silent(context, "has called", _has_called(context)) for context in contexts]
        self._holds_descriptors = [silent(context, "holds descriptors", _holds_any(context)) for context in contexts]
        moments_max = remembering.MOMENTS_MAX // len(program.processes)
        self._memories = [Memory(moments_max=moments_max) for _ in program.processes]
        self._modules = 0
        self.processes_remembered = 0
        self.processes_known = 0

    def run(
        self,
        chooser: Chooser,
        *,
        policy: Policy | None = None,
        recorder: Recorder | None = None,
        step_log: StepLog | None = None,
        trace: bool = False,
        remember: Remember = "no",
        keep: Keep | None = None,
    ) -> Execution:
        """One run under the given chooser.

        Args:
            chooser: who runs next.
            policy: faults, or None.
            recorder: told of every call, or None.
            step_log: told of every step, or None.
            trace: keep what is done to the disk.
            remember: `yes` executes the code of a process only from where something new happens to it (see
                `schedule.remembering`); `check` executes all of it and compares it with what is remembered; `no`
                does neither.
            keep: told of forks, or None; for a `PrefixChooser` and with memory only.

        Raises:
            NoEvidence: the code under test needs something that is not simulated.
            NotDeterministic: a process did not do what it did before after the same answers.
        """
        if remember != "no" and (policy is not None or recorder is not None or step_log is not None):
            raise ValueError("a run with faults, a recorder or a step log executes all code; give remember='no'")
        machine = self.new_machine()
        if trace:
            machine.trace = []
        executor = Executor(
            machine,
            chooser,
            max_steps=self.max_steps,
            policy=policy,
            kills_max=self.program.kills,
            step_log=step_log,
        )
        executor.tracing = recorder is not None
        run = _Run(executor)
        self._before_run()
        self._start_processes(executor, run, recorder, remember)
        if keep is not None and isinstance(chooser, PrefixChooser):
            self._keep_forks(executor, chooser, run, keep)
        self._execute(executor)
        return self._told(executor, run, remembers=remember == "yes")

    def _before_run(self) -> None:
        self.runs += 1
        if self.runs % RUNS_PER_COLLECTION == 0:
            self._collect_garbage()

    def _told(self, executor: Executor, run: _Run, *, remembers: bool) -> Execution:
        """What the run did."""
        if remembers:
            self.processes_remembered += len(executor.members)
            self.processes_known += sum(member.known is not None for member in executor.members)
        if executor.refused:
            raise NoEvidence(f"{executor.refused[0]} (in a run of {self.program.adapter})")
        if remembers:
            # Nobody listened to the run, so nobody will look at it any more.
            if isinstance(executor.chooser, PrefixChooser):
                executor.chooser.at_fork = None
            executor.dissolve()
        return Execution(
            program=self.program,
            operations=run.operations,
            machine=executor.machine,
            ends=tuple(
                "killed" if member.killed else "ended" if member.ended else "stuck" for member in executor.members
            ),
            choices=tuple(executor.choices),
            steps=executor.steps,
            preemptions=executor.preemptions,
            faults=tuple(executor.faults),
            deadlock=executor.deadlock,
            cut=executor.cut,
            trace=executor.machine.trace,
        )

    # Runs with a common beginning

    def trunk(self) -> Trunk | None:
        """A run that can be copied as it goes on (`schedule.trunk`), not begun; None if some code must be executed."""
        self._look_for_modules()
        if not all(memory.is_usable for memory in self._memories):
            return None
        walker = Walker([])
        executor = Executor(self.new_machine(), walker, max_steps=self.max_steps, kills_max=self.program.kills)
        run = _Run(executor)
        for index, image in enumerate(self._images):
            member = executor.add_process(f"P{index + 1}", image.activate)
            run.programs[member.process.index] = self.program.processes[index]
            recollection = self._remember(index, member, run)
            executor.add_task(member, recollection.no_body, ident=MAIN_IDENT)
        return Trunk(executor, walker, run, epoch=self._modules)

    def grow(self, trunk: Trunk, line: bytes, at: int) -> bool:
        """Have the trunk go on: see `Trunk.grow`. False also if it is of no use because modules were imported since."""
        if not self.is_of_use(trunk):
            return False
        self._direct_calls_to(trunk.executor)
        try:
            return trunk.grow(line, at)
        finally:
            for image in self._images:
                image.context.idle()

    def is_of_use(self, trunk: Trunk) -> bool:
        """Whether no module was imported since the trunk began: what was remembered until then is forgotten."""
        self._look_for_modules()
        return trunk.epoch == self._modules

    def second_trunk(self, trunk: Trunk) -> Trunk:
        """Another trunk where this one stands."""
        run = trunk.journal
        assert isinstance(run, _Run)
        second = trunk.copy(run)
        second.journal = self._remember_all(trunk.executor, second.executor, run)
        return second

    def run_branch(
        self, trunk: Trunk, chooser: PrefixChooser, *, last: bool = False, keep: Keep | None = None
    ) -> Execution:
        """One run that has its beginning in common with the trunk, which stands where the chooser's prefix ends.

        Comes out as `run(chooser, remember="yes")`; `keep` as there. The trunk is used up by the `last`.
        """
        self._before_run()
        run = trunk.journal
        assert isinstance(run, _Run)
        executor = trunk.branch(chooser, last=last)
        if not last:
            run = self._remember_all(trunk.executor, executor, run)
        self._direct_calls_to(executor)
        if keep is not None:
            self._keep_forks(executor, chooser, run, keep)
        self._execute(executor)
        return self._told(executor, run, remembers=True)

    def _keep_forks(self, executor: Executor, chooser: PrefixChooser, run: _Run, keep: Keep) -> None:
        chooser.at_fork = functools.partial(self._keep_fork, executor, run, keep)

    def _keep_fork(self, executor: Executor, run: _Run, keep: Keep) -> None:
        if any(member.known is None for member in executor.members):
            return  # some code runs: its stack cannot be copied
        chooser = executor.chooser
        assert isinstance(chooser, PrefixChooser)
        walker = Walker(chooser.decisions[:])
        trunk = Trunk(executor.copy(walker), walker, run, epoch=self._modules)
        trunk.journal = self._remember_all(executor, trunk.executor, run)
        keep(trunk)

    def _remember(self, index: int, member: Member, run: _Run) -> Recollection:
        """The process is known, and at the beginning."""
        begin = functools.partial(self._begin_process, index, member, run, None)
        recollection = Recollection(
            self._memories[index], executor=run.executor, member=member, journal=run, begin=begin
        )
        member.known = member.recollection = recollection
        member.on_end = self._images[index].context.end
        return recollection

    def _remember_all(self, old: Executor, new: Executor, run: _Run) -> _Run:
        """The processes of a copy are known, and where they are in the run copied; returns the copy of `run`."""
        run = run.copy(new)
        for index, (known, member) in enumerate(zip(old.members, new.members, strict=True)):
            recollection = self._remember(index, member, run)
            assert known.known is not None
            recollection.moment = known.known.moment
            for task in member.tasks:
                task.body = recollection.no_body
        return run

    def _direct_calls_to(self, executor: Executor) -> None:
        for image, member in zip(self._images, executor.members, strict=True):
            image.context.begin(executor, member, None, member.known)
            if member.ended:
                image.context.end()

    def new_machine(self) -> Machine:
        """The computer as every run begins with it."""
        machine = self.machine_type(self.program.machine, self._files)
        for name in (*DIRECTORIES, ROOT):
            if name not in machine.mount.entries:
                machine.plant_directory(machine.mount, name)
        return machine

    def _look_for_modules(self) -> bool:
        """Forget everything if modules were imported since the last look, and say so."""
        modules = sum(len(image.modules) for image in self._images)
        if modules == self._modules:
            return False
        # A module is executed when it is imported first, and what it then does is not done again.
        self._modules = modules
        for memory in self._memories:
            memory.clear()
        return True

    def _start_processes(self, executor: Executor, run: _Run, recorder: Recorder | None, remember: Remember) -> None:
        self._look_for_modules()
        for index, image in enumerate(self._images):
            member = executor.add_process(f"P{index + 1}", image.activate)
            run.programs[member.process.index] = self.program.processes[index]
            if remember == "no" or not self._memories[index].is_usable:
                body = self._begin_process(index, member, run, recorder, None)
                executor.add_task(member, body, ident=MAIN_IDENT)
                continue
            recollection = self._remember(index, member, run)
            executor.add_task(member, recollection.no_body, ident=MAIN_IDENT)
            if remember == "check":
                recollection.lead()
            else:
                image.context.begin(executor, member, None, recollection)

    def _begin_process(
        self, index: int, member: Member, run: _Run, recorder: Recorder | None, memory: Recollection | None
    ) -> Callable[[], None]:
        """Make the image a fresh process; returns what its main thread does."""
        image, process, executor = self._images[index], self.program.processes[index], run.executor
        image.begin(executor, member, recorder, memory)
        if self._environment:
            image.set_environment(self._environment)
        factory, module = self._factories[index]
        reset = getattr(module, "reset_image", None)
        if reset is not None:
            image.context.idle()
            reset()
            image.context.begin(executor, member, recorder, memory)
        client = _Client(run=run, member=member, context=image.context, has_called=self._has_called[index])
        return functools.partial(self._process_body, client, index, factory, process)

    def _execute(self, executor: Executor) -> None:
        collects = gc.isenabled()
        hook = sys.unraisablehook
        gc.disable()
        sys.unraisablehook = _quiet_about_killed
        try:
            executor.run()
        except NotSimulated as error:
            raise NoEvidence(str(error)) from error
        finally:
            for image in self._images:
                image.finish()
            sys.unraisablehook = hook
            if collects:
                gc.enable()

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """For many runs: garbage is collected now and then by `run`, and at the end here, never in between.

        What an ended process left behind has finalizers that make system calls; they must find the process ended.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            self._collect_garbage()
            if collects:
                gc.enable()

    def _collect_garbage(self) -> None:
        hook = sys.unraisablehook
        sys.unraisablehook = _quiet_about_killed
        try:
            for image in self._images:
                image.context.end()
            # The young only: what a run leaves behind was made in it.
            gc.collect(1)
        finally:
            sys.unraisablehook = hook
            for image in self._images:
                image.context.idle()

    def _process_body(self, client: _Client, index: int, factory: Callable[..., Any], process: ProcessProgram) -> None:
        """The life of one process."""
        image, executor, member = self._images[index], client.executor, client.member
        try:
            client.adapter = factory(ROOT_PATH, **self.program.parameters)
            if process.threads:
                threading: Any = image.modules["threading"]
                for number, operations in enumerate(process.threads, start=1):
                    threading.Thread(target=functools.partial(client.do_all, operations, thread=number)).start()
            client.do_all(process.operations, thread=0)
            image.join_threads()
        finally:
            if not member.ended and not executor.over:
                if self._holds_descriptors[index]():
                    image.context.lock_point("exit")
                image.context.end_process()


def _quiet_about_killed(details: Any) -> None:
    """Finalizers of a killed process's objects fail with `ProcessKilled`: that is what stops them."""
    if not isinstance(details.exc_value, ProcessKilled):
        sys.__unraisablehook__(details)


def _has_called(context: Context) -> Callable[[], bool]:
    return lambda: context.member is not None and context.member.calls > 0


def _holds_any(context: Context) -> Callable[[], bool]:
    return lambda: bool(context.process.descriptors)


class _Client:
    """Does the operations of one process and tells of them."""

    def __init__(self, *, run: _Run, member: Member, context: Context, has_called: Callable[[], bool]) -> None:
        self.executor = run.executor
        self.member = member
        self.adapter: Any = None
        self._run = run
        self._context = context
        self._has_called = has_called

    def do_all(self, operations: tuple[Operation, ...], *, thread: int) -> None:
        """The operations of one thread, one after the other."""
        context = self._context
        for number, operation in enumerate(operations):
            # The moment between two operations is a moment of its own: without it, whatever another process completes
            # there would overlap with the second operation, and a stale answer would be no error. The first operation
            # of a process that made no call yet begins where the process does.
            if number or thread or self._has_called():
                context.lock_point("operation")
            memory = context.memory
            if memory is None:
                self._run.operation_begins(self.member, thread, number)
            else:
                memory.operation_begins(thread, number)
            ending, goes_on = self._do(operation)
            memory = context.memory
            if memory is None:
                self._run.operation_ends(self.member, thread, ending)
            else:
                memory.operation_ends(thread, ending)
            if not goes_on:
                return

    def _do(self, operation: Operation) -> tuple[Ending, bool]:
        """Do one operation; False if the process ends with it."""
        try:
            return Ending("returned", result=getattr(self.adapter, operation.name)(**operation.arguments)), True
        except (ProcessKilled, NotSimulated):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a store raises is its answer
            judge = getattr(self.adapter, "outcome_of", None)
            outcome: Outcome = "raised" if judge is None else judge(error)
            return Ending(outcome, error=type(error).__name__, message=str(error)), True
        except BaseException as error:  # noqa: BLE001 - an interrupt or exit ends this process, not the run
            return Ending("unknown", error=type(error).__name__, message=str(error)), False


# Images


_image_sets: OrderedDict[ImageOptions, list[ProcessImage]] = OrderedDict()


def _images_for(options: ImageOptions, count: int) -> list[ProcessImage]:
    images = _image_sets.setdefault(options, [])
    _image_sets.move_to_end(options)
    while len(_image_sets) > IMAGE_SETS_MAX:
        _image_sets.popitem(last=False)
    while len(images) < count:
        images.append(ProcessImage(options))
    return images[:count]


def _adapters_of(program: Program) -> list[str]:
    return [program.adapter, *(process.adapter for process in program.processes if process.adapter is not None)]


def _module_of(adapter: str) -> str:
    return adapter.partition(":")[0]


def _load_adapter(image: ProcessImage, adapter: str) -> tuple[Callable[..., Any], ModuleType]:
    name, _, attribute = adapter.partition(":")
    try:
        module = image.load(name)
        factory = getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise ProgramError(f"adapter {adapter!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise ProgramError(f"adapter {adapter!r} is {factory!r}; give a class or function")
    for base in getattr(factory, "__mro__", ()):
        # Its files would not be found, but its clock and its threads would be the real ones, and nobody would notice.
        if image.sees_real_system(base):
            raise ProgramError(
                f"adapter {adapter!r} inherits from {base.__qualname__} of {base.__module__}, which is loaded once for "
                f"all and reaches the real system; name {base.__module__!r} in the program's `private`, or in `shared` "
                "if it does nothing but compute"
            )
    return factory, module


__all__ = ["Execution", "NoEvidence", "OperationRecord", "Runner"]
