"""Runs a program once: process images, the machine, the executor, and the history that comes out.

`Runner` keeps the images of a program's processes from one run to the next. What a run did is an `Execution`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Literal

from storecheck import history as histories
from storecheck.machine import MOUNT, Machine
from storecheck.machine.disk import COMMUTE, READ
from storecheck.machine.events import DiskEvent
from storecheck.program import ROOT, Operation, ProcessProgram, Program, ProgramError
from storecheck.schedule import Deadlock, Executor, Fault, Policy, ProcessKilled
from storecheck.schedule.executor import MAX_STEPS_DEFAULT, Chooser, Member, StepLog
from storecheck.syscalls import ImageOptions, NotSimulated, ProcessImage, Recorder, Transform

ROOT_PATH: Final = f"{MOUNT}/{ROOT}"
DIRECTORIES: Final = ("home", "tmp")

IMAGE_SETS_MAX: Final = 3
"""Sets of images kept for reuse. A set takes a few megabytes; tests over many planted bugs load many."""

RUNS_PER_COLLECTION: Final = 100
"""Garbage is collected between runs, not in them: collection runs finalizers, and those would make system calls."""

REAL_TIME: Final = ("real time",)
"""What operations touch where they begin (as READ) and end (as COMMUTE). A history tells which operation was over when
another began, so those two moments are in no order of their own: an end conflicts with a beginning, and only that."""

Outcome = Literal["returned", "raised", "unknown"]
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
    """State of the run now going on, shared by its processes."""

    stamp: int = 0
    operations: list[OperationRecord] = field(default_factory=list)

    def next_stamp(self) -> int:
        self.stamp += 1
        return self.stamp


class Runner:
    """Runs one program any number of times.

    Args:
        program: what to run.
        transform: changes the source of the code under test (a planted bug), or None.
        max_steps: a run is cut after so many steps.

    Raises:
        ProgramError: an adapter cannot be imported.
    """

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

    def run(
        self,
        chooser: Chooser,
        *,
        policy: Policy | None = None,
        recorder: Recorder | None = None,
        step_log: StepLog | None = None,
        trace: bool = False,
    ) -> Execution:
        """One run under the given chooser.

        Raises:
            NoEvidence: the code under test needs something that is not simulated.
        """
        machine = self._new_machine()
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
        run = _Run()
        self.runs += 1
        if self.runs % RUNS_PER_COLLECTION == 0:
            self._collect_garbage()
        self._start_processes(executor, run, recorder)
        self._execute(executor)
        if executor.refused:
            raise NoEvidence(f"{executor.refused[0]} (in a run of {self.program.adapter})")
        return Execution(
            program=self.program,
            operations=run.operations,
            machine=machine,
            ends=tuple(
                "killed" if member.killed else "ended" if member.ended else "stuck" for member in executor.members
            ),
            choices=tuple(executor.choices),
            steps=executor.steps,
            preemptions=executor.preemptions,
            faults=tuple(executor.faults),
            deadlock=executor.deadlock,
            cut=executor.cut,
            trace=machine.trace,
        )

    def new_machine(self) -> Machine:
        """The computer as every run begins with it."""
        return self._new_machine()

    def _new_machine(self) -> Machine:
        machine = Machine(self.program.machine, self._files)
        for name in (*DIRECTORIES, ROOT):
            if name not in machine.mount.entries:
                machine.plant_directory(machine.mount, name)
        return machine

    def _start_processes(self, executor: Executor, run: _Run, recorder: Recorder | None) -> None:
        for index, (image, process) in enumerate(zip(self._images, self.program.processes, strict=True)):
            member = executor.add_process(f"P{index + 1}", image.activate)
            image.begin(executor, member, recorder)
            if self._environment:
                image.set_environment(self._environment)
            factory, module = self._factories[index]
            reset = getattr(module, "reset_image", None)
            if reset is not None:
                image.context.idle()
                reset()
                image.context.begin(executor, member, recorder)
            client = _Client(executor=executor, member=member, run=run)
            body = functools.partial(self._process_body, client, image, factory, process)
            executor.add_task(member, body, ident=image.context.ident)

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

    def _process_body(
        self, client: _Client, image: ProcessImage, factory: Callable[..., Any], process: ProcessProgram
    ) -> None:
        """The life of one process."""
        executor, member = client.executor, client.member
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
                if member.process.descriptors:
                    executor.enter_lock("exit")
                executor.end_process(member)


def _quiet_about_killed(details: Any) -> None:
    """Finalizers of a killed process's objects fail with `ProcessKilled`: that is what stops them."""
    if not isinstance(details.exc_value, ProcessKilled):
        sys.__unraisablehook__(details)


@dataclass(slots=True, kw_only=True)
class _Client:
    """Does the operations of one process and records them."""

    executor: Executor
    member: Member
    run: _Run
    adapter: Any = None

    def do_all(self, operations: tuple[Operation, ...], *, thread: int) -> None:
        """The operations of one thread, one after the other."""
        executor, run, process = self.executor, self.run, self.member.process
        for number, operation in enumerate(operations):
            # The moment between two operations is a moment of its own: without it, whatever another process completes
            # there would overlap with the second operation, and a stale answer would be no error. The first operation
            # of a process that made no call yet begins where the process does.
            if number or thread or self.member.calls:
                executor.enter_lock("operation")
            record = OperationRecord(
                process=process.index,
                thread=thread,
                operation=operation,
                invoked_at=run.next_stamp(),
                invoked_step=executor.steps,
            )
            executor.machine.touch(REAL_TIME, READ)
            identifier = len(run.operations)
            run.operations.append(record)
            executor.machine.mark(process, f"begin {identifier}")
            goes_on = self._do(operation, record)
            executor.machine.mark(process, f"{record.outcome} {identifier}")
            if not goes_on:
                return

    def _do(self, operation: Operation, record: OperationRecord) -> bool:
        """Do one operation; False if the process ends with it."""
        goes_on = True
        try:
            record.result = getattr(self.adapter, operation.name)(**operation.arguments)
            record.outcome = "returned"
        except (ProcessKilled, NotSimulated):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a store raises is its answer
            judge = getattr(self.adapter, "outcome_of", None)
            record.outcome = "raised" if judge is None else judge(error)
            record.error, record.message = type(error).__name__, str(error)
        except BaseException as error:  # noqa: BLE001 - an interrupt or exit ends this process, not the run
            record.error, record.message = type(error).__name__, str(error)
            goes_on = False
        self.executor.machine.touch(REAL_TIME, COMMUTE)
        record.responded_at = self.run.next_stamp()
        record.responded_step = self.executor.steps
        return goes_on


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
    return factory, module


__all__ = ["Execution", "NoEvidence", "OperationRecord", "Runner"]
