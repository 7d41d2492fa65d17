"""Interception: ordinary Python reaches the simulated machine, all of it, and nothing else does.

Goal: unmodified code works in a simulated process, and a call that the layer does not know fails instead of slipping
past. Method: images run code that uses the standard library and filelock in the usual ways; calls are deliberately left
out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from storecheck import (
    MOUNT,
    Execution,
    Fault,
    Machine,
    MachineParameters,
    Operation,
    PreemptionBounded,
    ProcessProgram,
    Program,
    ProgramError,
    RandomSchedules,
    Replay,
    process,
)
from storecheck.explore import explore
from storecheck.runner import Runner
from storecheck.schedule.strategies import PrefixChooser, ReplayDiverged
from storecheck.syscalls import Context, ImageOptions, NotSimulated, ProcessImage
from storecheck.syscalls.threads import OWN_LOCKS, build_thread, quieten_own_locks

SUBJECTS = "tests.storecheck.subjects"


@pytest.fixture(scope="module")
def shared_image() -> ProcessImage:
    """An image that is not told of any machine yet."""
    return ProcessImage()


@pytest.fixture
def image(shared_image: ProcessImage) -> Iterator[ProcessImage]:
    """An image on a machine of its own, with a directory for temporary files."""
    machine = Machine(MachineParameters(), {"store/file": b"content", "tmp/.keep": b""})
    shared_image.context.machine = machine
    shared_image.context.process = machine.new_process()
    yield shared_image
    shared_image.context.idle()


def run_inside(image: ProcessImage, source: str) -> dict[str, Any]:
    """Execute source as a module of the image; returns its globals."""
    space: dict[str, Any] = {"__name__": "inside", "__builtins__": image.builtins.__dict__, "ROOT": f"{MOUNT}/store"}
    exec(source, space)
    return space


def files_of(image: ProcessImage) -> dict[str, bytes]:
    """Files on the image's machine."""
    return image.context.machine.files()


def test_the_mount_is_on_no_real_disk() -> None:
    """A call that slips past finds nothing."""
    assert not os.path.lexists(MOUNT)


def test_open_reads_and_writes_text_and_bytes(image: ProcessImage) -> None:
    """`open()` in its usual forms, buffering and new lines included."""
    space = run_inside(
        image,
        """
with open(f"{ROOT}/text", "w", encoding="utf-8", newline="\\n") as file:
    file.write("gr\\u00fcn\\n" * 3)
with open(f"{ROOT}/text", encoding="utf-8") as file:
    lines = file.readlines()
with open(f"{ROOT}/text", "r+b") as file:
    file.seek(0, 2)
    file.write(b"end")
    file.seek(0)
    head = file.read(3)
with open(f"{ROOT}/text", "ab", buffering=0) as file:
    position = file.tell()
try:
    open(f"{ROOT}/text", "x")
except FileExistsError as error:
    refused = error.filename
""",
    )
    assert space["lines"] == ["grün\n"] * 3
    assert space["head"] == b"gr" + "ü".encode()[:1]
    assert space["position"] == 21
    assert space["refused"] == f"{MOUNT}/store/text"
    assert files_of(image)["store/text"] == "grün\n".encode() * 3 + b"end"


def test_pathlib_tempfile_and_shutil_work_unmodified(image: ProcessImage) -> None:
    """The standard library's own users of the system are executed on the machine."""
    space = run_inside(
        image,
        """
import pathlib, shutil, tempfile
base = pathlib.Path(ROOT)
(base / "a" / "b").mkdir(parents=True)
(base / "a" / "b" / "one").write_text("1")
shutil.copytree(base / "a", base / "copy")
shutil.copy2(base / "file", base / "second")
with tempfile.NamedTemporaryFile(dir=ROOT, prefix="t-", delete=False) as file:
    file.write(b"temporary")
temporary = pathlib.Path(file.name).name
with tempfile.TemporaryDirectory() as directory:
    where = directory
shutil.rmtree(base / "a")
found = sorted(str(path.relative_to(base)) for path in base.rglob("*"))
real = str((base / "copy" / ".." / "file").resolve())
""",
    )
    assert space["found"] == sorted(["copy", "copy/b", "copy/b/one", "file", "second", space["temporary"]])
    assert space["where"].startswith(f"{MOUNT}/tmp/")
    assert space["real"] == f"{MOUNT}/store/file"
    assert files_of(image)["store/second"] == b"content"


def test_ids_clocks_and_randomness_are_the_machines(image: ProcessImage) -> None:
    """Nothing a process can ask differs from run to run."""
    source = """
import datetime, os, random, secrets, tempfile, time, uuid
answers = [os.getpid(), os.getuid(), os.getcwd(), time.time_ns(), time.monotonic(), str(datetime.datetime.now()),
           os.urandom(4), secrets.token_hex(4), str(uuid.uuid4()), os.environ["HOME"], time.strftime("%Y")]
"""
    first = run_inside(image, source)["answers"]
    machine = Machine(MachineParameters(), {})
    image.context.machine = machine
    image.context.process = machine.new_process()
    assert run_inside(image, source)["answers"] == first
    assert first[0] != os.getpid()
    assert first[-1] == "2026"


@pytest.mark.parametrize("operation", range(17))
def test_lockf_takes_and_refuses_the_operations_that_the_real_one_does(
    image: ProcessImage, tmp_path: Path, operation: int
) -> None:
    """Every combination of LOCK_SH, LOCK_EX, LOCK_NB and LOCK_UN: LOCK_UN | LOCK_NB is an error, not an unlock."""
    source = """
import fcntl, os
descriptor = os.open(PATH, os.O_RDWR | os.O_CREAT)
try:
    answer = fcntl.lockf(descriptor, OPERATION)
except ValueError as error:
    answer = str(error)
finally:
    os.close(descriptor)
"""
    simulated = run_inside(image, source.replace("PATH", "ROOT + '/file'").replace("OPERATION", str(operation)))
    real: dict[str, Any] = {}
    exec(source.replace("PATH", repr(str(tmp_path / "file"))).replace("OPERATION", str(operation)), real)
    assert simulated["answer"] == real["answer"]
    if operation == fcntl.LOCK_UN | fcntl.LOCK_NB:
        assert real["answer"] == "unrecognized lockf argument"


@pytest.mark.parametrize("name", ["stat", "open", "replace", "unlink", "listdir"])
def test_a_call_that_is_not_intercepted_fails_instead_of_slipping_past(name: str) -> None:
    """With one call left out, code that uses it gets ENOENT from the real system, and never a wrong answer."""
    image = ProcessImage(ImageOptions(left_out=(name,)))
    machine = Machine(MachineParameters(), {"store/file": b"content"})
    image.context.machine = machine
    image.context.process = machine.new_process()
    arguments = {"open": f"'{MOUNT}/store/file', 0", "replace": f"'{MOUNT}/store/file', '{MOUNT}/store/new'"}
    call = f"os.{name}({arguments.get(name, repr(f'{MOUNT}/store/file' if name != 'listdir' else MOUNT))})"
    with pytest.raises(FileNotFoundError):
        run_inside(image, f"import os\n{call}")
    assert machine.files() == {"store/file": b"content"}


@pytest.mark.parametrize("name", ["fstat", "read", "fsync", "close"])
def test_a_descriptor_call_that_is_not_intercepted_fails(name: str) -> None:
    """Simulated descriptors are no real ones: EBADF, not somebody's file."""
    image = ProcessImage(ImageOptions(left_out=(name,)))
    machine = Machine(MachineParameters(), {"store/file": b"content"})
    image.context.machine = machine
    image.context.process = machine.new_process()
    arguments = ", 10" if name == "read" else ""
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        run_inside(image, f"import os\nos.{name}(os.open('{MOUNT}/store/file', os.O_RDONLY){arguments})")
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize(
    "source",
    [
        "import os; os.fork()",
        "import os; os.mkfifo('x')",
        "import os; os.system('true')",
        "import os; os.posix_spawn('/bin/true', [], {})",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('localhost', 1))",
        "import mmap; mmap.mmap(-1, 10)",
        "import asyncio; asyncio.new_event_loop()",
        "import multiprocessing; multiprocessing.Process()",
    ],
)
def test_what_leads_out_of_the_machine_is_refused(image: ProcessImage, source: str) -> None:
    """Other processes, sockets and mappings are errors with the name of the call."""
    with pytest.raises(NotSimulated, match="is not simulated"):
        run_inside(image, source)


def test_the_real_interpreter_is_untouched(image: ProcessImage) -> None:
    """Loading an image leaves the real modules what they were."""
    run_inside(image, "import os, threading, tempfile, pathlib, filelock")
    for name in ("os", "os.path", "threading", "tempfile", "pathlib", "time", "builtins"):
        assert image.modules[name] is not sys.modules.get(name)
    assert sys.modules["os.path"] is os.path
    assert os.getpid() == os.stat(f"/proc/{os.getpid()}").st_nlink * 0 + os.getpid()
    assert threading.main_thread().is_alive()


def test_each_image_has_its_own_module_globals() -> None:
    """What one process keeps in a module, another does not see."""
    images = [ProcessImage(ImageOptions(private=(SUBJECTS,))) for _ in range(2)]
    modules = [image.load(SUBJECTS) for image in images]
    vars(modules[0])["SEEN"].append("mine")
    assert vars(modules[1])["SEEN"] == []


def test_a_source_transform_plants_a_bug_in_the_image_only() -> None:
    """The changed source is executed in the image; the real module stays as it is."""

    def transform(name: str, source: str) -> str:
        return source.replace("return 41 + 1", "return 41") if name == SUBJECTS else source

    planted = ProcessImage(ImageOptions(private=(SUBJECTS,), transform=transform)).load(SUBJECTS)
    plain = ProcessImage(ImageOptions(private=(SUBJECTS,))).load(SUBJECTS)
    assert (vars(planted)["answer"](), vars(plain)["answer"]()) == (41, 42)


def both_answers(execution: Execution) -> str | None:
    """Every operation returned true."""
    wrong = [str(record) for record in execution.operations if record.result is not True]
    return f"unexpected: {wrong}" if wrong else None


def test_module_globals_are_fresh_in_every_run() -> None:
    """An image is used again, its globals, caches and locks are not."""
    program = Program(adapter=f"{SUBJECTS}:Globals", processes=(process(Operation("first_time")),) * 2)
    result = explore(program, strategy=RandomSchedules(executions=20), check=both_answers)
    assert result.failure is None, result
    # That search executes little twice. Here everything is executed every time.
    runner = Runner(program)
    for _ in range(3):
        assert both_answers(runner.run(PrefixChooser(()))) is None


class TwoThreads:
    """A context of a process that has two threads: it notes the scheduling points of locks."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.ident = 1
        self.sentinels: dict[int, object] = {}

    def live_threads(self) -> int:
        """As it says."""
        return 2

    def lock_point(self, name: str) -> None:
        """Note it."""
        self.points.append(name)

    def task(self) -> None:
        """Nobody runs."""


def test_the_locks_of_the_books_of_threading_are_no_scheduling_points(image: ProcessImage) -> None:
    """CPython takes others of them from version to version; all other locks are."""
    context = TwoThreads()
    thread = build_thread(cast("Context", context))
    books = ModuleType("threading")
    plain, again, other = thread.lock(), thread.RLock(), thread.RLock()
    vars(books).update(_shutdown_locks_lock=plain, _active_limbo_lock=again, other=other)
    for lock in (plain, again, other):
        lock.acquire()
        lock.release()
    assert context.points == ["lock", "unlock"] * 3
    quieten_own_locks(books)
    context.points.clear()
    for lock in (plain, again, thread._set_sentinel()):
        lock.acquire()
        lock.release()
    thread._make_thread_handle(2).join()
    assert context.points == []
    other.acquire()
    assert context.points == ["lock"]
    # Those of a process are that as soon as it is there.
    books = image.modules["threading"]
    own = [vars(books)[name] for name in OWN_LOCKS if name in vars(books)]
    assert own
    assert all(getattr(lock, "inner", lock).quiet for lock in own)


REPLAYS = 20


def test_the_same_schedule_draws_the_same_names() -> None:
    """Unseeded generators, `secrets`, `uuid`, `tempfile`: 20 runs of one schedule agree, and two processes do not."""
    program = Program(adapter=f"{SUBJECTS}:Names", processes=(process(Operation("draw"), Operation("draw")),) * 2)
    schedule: list[tuple[int, ...]] = []
    explore(program, strategy=RandomSchedules(executions=3), check=lambda run: schedule.append(run.choices))
    seen = set()

    def note(execution: Execution) -> None:
        drawn = [tuple(record.result) for record in execution.operations]
        assert len({value for values in drawn for value in values}) == sum(map(len, drawn)), drawn
        seen.add(tuple(drawn))

    for _ in range(REPLAYS):
        result = explore(program, strategy=Replay(schedule[-1]), check=note)
        assert result.failure is None, result
        # Other runs in between, which draw as well.
        explore(program, strategy=RandomSchedules(executions=2))
    assert len(seen) == 1


def test_functions_of_the_system_do_not_become_methods(image: ProcessImage) -> None:
    """What is written in C does not bind as a class attribute: neither does what stands for it."""
    space = run_inside(
        image,
        """
import fcntl, io, os, threading, time
class System:
    open = io.open
    stat = os.stat
    lock_file = fcntl.flock
    now_ns = time.time_ns
    make_lock = threading.Lock
system = System()
with system.open(f"{ROOT}/unbound", "x") as file:
    system.lock_file(file, fcntl.LOCK_EX)
size_bytes = system.stat(f"{ROOT}/unbound").st_size
now_ns = system.now_ns()
with system.make_lock() as taken:
    pass
""",
    )
    assert (space["size_bytes"], space["taken"]) == (0, True)
    assert isinstance(space["now_ns"], int)


def test_an_impossible_schedule_is_told_whatever_unwinding_code_makes_of_it() -> None:
    """The error passes through `with` blocks that then free locks they do not hold: it stays the error."""
    program = Program(adapter=f"{SUBJECTS}:Threads", processes=(process(Operation("all_of_it")),))
    choices = Runner(program).run(PrefixChooser(())).choices
    assert len(choices) > 20
    for at in range(len(choices)):
        with pytest.raises(ReplayDiverged, match=f"choice {at} of the schedule is 9"):
            explore(program, strategy=Replay((*choices[:at], 9)))


@pytest.mark.parametrize("strategy", [PreemptionBounded(1), RandomSchedules(executions=150)], ids=["bounded", "random"])
def test_a_process_draws_the_same_whatever_the_schedule(strategy: PreemptionBounded | RandomSchedules) -> None:
    """Also where a search leaves out code whose answers it knows: what was drawn there is drawn as if it had run."""
    program = Program(adapter=f"{SUBJECTS}:Names", processes=(process(Operation("draw"), Operation("draw")),) * 2)
    seen: dict[int, set[tuple[str, ...]]] = {0: set(), 1: set()}

    def note(execution: Execution) -> None:
        for record in execution.operations:
            seen[record.process].add(tuple(record.result))

    result = explore(program, strategy=strategy, check=note, max_executions=150)
    assert result.failure is None, result
    assert [len(drawn) for drawn in seen.values()] == [2, 2]


def test_an_adapter_that_inherits_from_the_verifiers_own_is_simulated_like_any_other() -> None:
    """Without a word about it in the program, an hour's sleep is one of the virtual clock."""
    program = Program(
        adapter=f"{SUBJECTS}:Sleeper", processes=(process(Operation("sleep_and_tell", {"seconds": 3600})),)
    )
    slept: list[float] = []
    began_s = time.monotonic()
    explore(program, strategy=PreemptionBounded(0), check=lambda run: slept.append(run.operations[0].result))
    assert slept == [pytest.approx(3600, abs=1)]
    assert time.monotonic() - began_s < 600


def test_an_adapter_that_inherits_from_what_sees_the_real_system_is_refused() -> None:
    """A base class that is loaded once for all is named, with what to do; as `private` or `shared` it is taken."""
    program = Program(adapter=f"{SUBJECTS}:InheritsFromTool", processes=(process(),))
    with pytest.raises(ProgramError, match=r"CounterexampleError of storecheck\.counterexample.*`private`"):
        explore(program, strategy=PreemptionBounded(0))
    asked_for = replace(program, shared=("storecheck",))
    assert explore(asked_for, strategy=PreemptionBounded(0)).failure is None


def test_a_seed_in_the_code_stays() -> None:
    """A generator that the code seeds itself gives what it gives on a real system, in every process and run."""
    program = Program(adapter=f"{SUBJECTS}:Names", processes=(process(Operation("draw_seeded")),) * 2)
    real = random.Random(7).random()

    def check(execution: Execution) -> str | None:
        drawn = [record.result for record in execution.operations]
        return None if drawn == [[real, real]] * 2 else f"{drawn}"

    result = explore(program, strategy=RandomSchedules(executions=5), check=check)
    assert result.failure is None, result


def test_threads_of_a_process_are_scheduled_and_keep_their_locals() -> None:
    """`threading` in its usual forms works on simulated threads: conditions, events, timers, queues, local."""
    program = Program(adapter=f"{SUBJECTS}:Threads", processes=(process(Operation("all_of_it")),))
    result = explore(program, strategy=PreemptionBounded(1), check=both_answers, max_executions=300)
    assert result.failure is None, result


def test_a_lock_timeout_expires_on_the_virtual_clock() -> None:
    """A wait with a timeout costs no real time and ends when nobody else can run."""
    program = Program(
        adapter=f"{SUBJECTS}:ThreadLocks",
        processes=(
            ProcessProgram(
                operations=(Operation("hold", {"seconds": 3600}),), threads=((Operation("give_up", {"timeout": 60}),),)
            ),
        ),
    )
    result = explore(program, strategy=PreemptionBounded(1), check=both_answers)
    assert result.failure is None, result


@pytest.mark.parametrize("strategy", [PreemptionBounded(1), RandomSchedules(executions=150)], ids=["bounded", "random"])
def test_unmodified_filelock_excludes(strategy: PreemptionBounded | RandomSchedules) -> None:
    """filelock, as installed, protects a counter in every schedule searched."""

    def nothing_lost(execution: Execution) -> str | None:
        counted = int(execution.files()["counter"])
        return (
            None if counted == 2 else f"2 additions, the file says {counted}: {[str(r) for r in execution.operations]}"
        )

    program = Program(
        adapter=f"{SUBJECTS}:FilelockCounter", files={"counter": b"0"}, processes=(process(Operation("add")),) * 2
    )
    result = explore(program, strategy=strategy, check=nothing_lost, max_executions=400)
    assert result.failure is None, result


@pytest.mark.parametrize("call", range(4))
def test_a_killed_process_runs_no_finally_and_frees_its_lock(call: int) -> None:
    """Killed before any of its calls: its `finally` never reaches the machine, and the other process gets the lock."""

    def check(execution: Execution) -> str | None:
        log = execution.files()["log"]
        return None if log == b"finally\n" and execution.ends == ("killed", "ended") else f"{log!r} {execution.ends}"

    program = Program(adapter=f"{SUBJECTS}:Finally", files={"log": b""}, processes=(process(Operation("work")),) * 2)
    fault = Fault(process=0, call=call, kind="kill")
    result = explore(program, strategy=PreemptionBounded(1), check=check, faults=(fault,))
    assert result.failure is None, result


def test_kills_are_explored_at_every_call() -> None:
    """With one kill allowed, the search kills each process before each of its calls, and nobody is ever stuck."""
    killed_at = set()

    def check(execution: Execution) -> str | None:
        if "killed" in execution.ends:
            killed_at.add((execution.ends.index("killed"), execution.steps))
        return f"stuck: {execution.ends}" if "stuck" in execution.ends else None

    program = Program(
        adapter=f"{SUBJECTS}:Finally", files={"log": b""}, processes=(process(Operation("work")),) * 2, kills=1
    )
    result = explore(program, strategy=PreemptionBounded(0), check=check)
    assert result.failure is None, result
    assert len(killed_at) >= 10


@pytest.mark.parametrize("kills", [0, 1])
@pytest.mark.parametrize("strategy", [PreemptionBounded(1), RandomSchedules(executions=60)], ids=["bounded", "random"])
def test_threads_that_an_ended_process_leaves_behind_say_nothing(
    strategy: PreemptionBounded | RandomSchedules, kills: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process that ends, or is killed, takes its threads with it: what their frames do on the way out is no error."""
    program = Program(
        adapter=f"{SUBJECTS}:Clumsy", processes=(process(Operation("leave_threads_behind")),) * 2, kills=kills
    )
    result = explore(program, strategy=strategy, max_executions=60)
    assert result.failure is None, result
    assert capfd.readouterr() == ("", "")


def test_an_error_in_a_thread_of_a_living_process_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Only what an ended process does on the way out is quiet."""
    program = Program(adapter=f"{SUBJECTS}:Clumsy", processes=(process(Operation("fail_in_thread")),))
    result = explore(program, strategy=PreemptionBounded(0), check=both_answers)
    assert result.failure is None, result
    assert "KeyError: 7" in capfd.readouterr().err


def test_finalizers_of_an_ended_process_reach_no_machine() -> None:
    """What a process leaves in its globals is collected later: its finalizer writes into no run, this or the next."""

    def check(execution: Execution) -> str | None:
        return f"a finalizer wrote: {execution.files()}" if execution.files() else None

    program = Program(adapter=f"{SUBJECTS}:Finalizer", processes=(process(Operation("leave")),) * 2)
    result = explore(program, strategy=RandomSchedules(executions=30), check=check)
    assert result.failure is None, result


def test_an_interrupt_unwinds_the_process_it_hits() -> None:
    """KeyboardInterrupt at a call runs `finally` blocks, ends the operations, and leaves the lock free."""

    def check(execution: Execution) -> str | None:
        errors = [record.error for record in execution.operations]
        ends = execution.ends
        return None if errors == ["KeyboardInterrupt", None] and ends == ("ended", "ended") else f"{errors} {ends}"

    program = Program(adapter=f"{SUBJECTS}:Finally", files={"log": b""}, processes=(process(Operation("work")),) * 2)
    fault = Fault(process=0, call=2, kind="interrupt")
    result = explore(program, strategy=PreemptionBounded(0), check=check, faults=(fault,), max_executions=1)
    assert result.failure is None, result
