"""Failing calls one by one: which calls, with what effect, and when the loop ends."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from storecheck.crash import SerialProcess, SyncFailed
from storecheck.crash.calibration import saver_process
from storecheck.faults import FAILURES, Failure, HandlerRaisedError, Injector, TooManyCallsError, failure, one_by_one
from storecheck.faults import loop as fault_loop
from storecheck.machine import MOUNT, Machine, Process

CONTENT = b"new content"


def save_with(injector: Injector, name: str = "correct") -> tuple[Machine, BaseException | None]:
    """Save once with a failing call; the machine afterwards, and what was raised."""
    process: SerialProcess = saver_process()
    saver: Callable[..., None] = process.modules["storecheck.crash.savers"].SAVERS[name]
    machine = Machine(files={"store": b"old"})
    machine.trace = []
    injector.attach(machine)

    def save(_: Process) -> None:
        saver(f"{MOUNT}/store", CONTENT, lambda: None)

    try:
        process.run(machine, save, enter=injector.enter, recorder=injector)
    except (OSError, KeyboardInterrupt, HandlerRaisedError) as error:
        return machine, error
    return machine, None


def failing_calls(kind: Failure) -> list[str]:
    """The calls of one save that a failure meets, in order."""
    met = []
    for injector in one_by_one(kind):
        save_with(injector)
        met += [hit.name for hit in injector.hits[:1]]
    return met


def test_every_call_that_the_error_can_befall_fails_once_in_turn() -> None:
    """One run per call, in the order of the calls, and one in which nothing fails."""
    assert failing_calls(failure("EIO")) == ["open", "write", "fsync", "close", "replace", "open", "fsync", "close"]
    assert failing_calls(failure("ENOSPC")) == ["open", "write", "fsync", "replace", "fsync"]
    assert failing_calls(failure("EXDEV")) == ["replace"]
    assert failing_calls(failure("EINVAL")) == ["fsync"]
    assert failing_calls(failure("short")) == ["write"]
    assert failing_calls(failure("ENOLCK")) == []


def test_an_interrupt_meets_every_call() -> None:
    """KeyboardInterrupt comes before, or after, any call whatever."""
    before, after = failing_calls(failure("interrupt before")), failing_calls(failure("interrupt after"))
    assert before == after
    assert len(before) > len(failing_calls(failure("EIO")))


def test_a_lasting_error_meets_all_later_calls() -> None:
    """For ever means every call from the n-th on that the error can befall, and not those before."""
    injector = Injector(failure("EIO, for ever"), at=3)
    _, error = save_with(injector)
    assert isinstance(error, OSError)
    assert [hit.name for hit in injector.hits] == ["fsync"]
    assert str(injector).startswith("EIO, for ever at call 3: fsync(")


def test_an_error_is_raised_as_python_raises_it_and_the_call_has_no_effect() -> None:
    """The error number and its class are right, and a rename that failed renamed nothing."""
    machine, error = save_with(Injector(failure("EACCES"), at=2))
    assert isinstance(error, PermissionError)
    assert error.errno == errno.EACCES
    assert machine.files()["store"] == b"old"


def test_a_close_that_reports_an_error_has_closed() -> None:
    """close(2) frees the descriptor whatever it reports."""
    injector = Injector(failure("EIO"), at=4)
    machine, error = save_with(injector)
    assert [hit.name for hit in injector.hits] == ["close"]
    assert isinstance(error, OSError)
    assert machine.processes[-1].descriptors == {}
    assert machine.files()["store"] == b"old"


def test_an_interrupt_after_a_call_finds_its_effect() -> None:
    """KeyboardInterrupt after a rename leaves the new name; before it, the old one."""
    renames = []
    for injector in one_by_one(failure("interrupt after")):
        save_with(injector)
        renames += [injector.at for hit in injector.hits if hit.name == "replace"]
    (at,) = renames
    for kind, content in (("interrupt before", b"old"), ("interrupt after", CONTENT)):
        machine, error = save_with(Injector(failure(kind), at=at))
        assert isinstance(error, KeyboardInterrupt)
        assert machine.files()["store"] == content


def test_a_failed_fsync_is_in_the_trace() -> None:
    """The crash states after a failed fsync know that its content was given up."""
    machine, _ = save_with(Injector(failure("EIO"), at=3))
    assert [type(event) for event in machine.trace or []].count(SyncFailed) == 1


def test_a_short_write_takes_a_part() -> None:
    """A saver that looks at no return value publishes half a file."""
    machine, error = save_with(Injector(failure("short"), at=1))
    assert error is None
    assert machine.files()["store"] == CONTENT[: len(CONTENT) // 2]


def test_a_disarmed_injector_does_nothing() -> None:
    """After the operation under test, calls no longer fail."""
    injector = Injector(failure("EIO"), at=1)
    injector.disarm()
    machine, error = save_with(injector)
    assert error is None
    assert injector.hits == []
    assert machine.files()["store"] == CONTENT


def test_an_operation_that_never_comes_to_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over calls is bounded, and says so when it is cut."""
    monkeypatch.setattr(fault_loop, "MAX_CALLS", 3)
    with pytest.raises(TooManyCallsError, match="more than 3 calls"):
        failing_calls(failure("EIO"))


def test_failures_have_distinct_names() -> None:
    """Every failure can be named, and the name finds it."""
    assert len({str(known) for known in FAILURES}) == len(FAILURES)
    assert all(failure(str(known)) is known for known in FAILURES)
