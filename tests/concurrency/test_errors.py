"""Errors on their way from one process to another.

A worker's error reaches the program that asked for the work with its type, its message and all it knows.
"""

from __future__ import annotations

import copy
import errno
from pathlib import Path

import pytest

from sessionstore import (
    ConflictError,
    CorruptStoreError,
    LockTimeoutError,
    ReentrantUpdateError,
    SessionStore,
    StoreError,
    UnknownOutcomeError,
    UnstorableValueError,
)
from tests.concurrency.children import foreign_holder, raiser, successor
from tests.concurrency.crew import ChildFailedError, Crew
from tests.concurrency.payload import SETTINGS

ERRORS = [
    StoreError("sessions.json: not a regular file"),
    CorruptStoreError("/s/sessions.json", 17, "not JSON: Expecting value"),
    LockTimeoutError("/s/sessions.json", 1.5, 4121),
    LockTimeoutError("/s/sessions.json", 0.0, None),
    ReentrantUpdateError("/s/sessions.json"),
    ConflictError("/s/sessions.json"),
    UnstorableValueError("agent:main:main", '["a"][0]', "function cannot be stored as JSON"),
    UnknownOutcomeError("/s/sessions.json", OSError(errno.EIO, "Input/output error")),
]


def described(error: BaseException) -> tuple[object, ...]:
    """All that a caller can see of an error."""
    return (
        type(error),
        str(error),
        error.args,
        vars(error),
        getattr(error, "errno", None),
        getattr(error, "filename", None),
    )


@pytest.mark.promise("LOCK2", "READ2", "READ4", "WRITE5")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_it_left(children: Crew, error: StoreError) -> None:
    """LOCK2, READ2, READ4, WRITE5: an error raised in one process is the same error in another."""
    with pytest.raises(ChildFailedError) as caught:
        children.start(raiser, error).result()
    assert caught.value.error is not None
    assert described(caught.value.error) == described(error)
    assert described(copy.copy(error)) == described(error)


@pytest.mark.promise("LOCK2", "READ2")
def test_real_errors_arrive_with_what_they_know(children: Crew, store_path: Path) -> None:
    """LOCK2, READ2: the holder's process id and the offset of the damage survive the way to the parent."""
    SessionStore(store_path, SETTINGS).save({})
    holder = children.start(foreign_holder, f"{store_path}.flock")
    holder.expect("held")
    with pytest.raises(ChildFailedError) as caught:
        children.start(successor, str(store_path)).result()
    timeout = caught.value.error
    assert isinstance(timeout, LockTimeoutError)
    assert isinstance(timeout, TimeoutError)
    assert (timeout.path, timeout.holder_pid) == (str(store_path), holder.pid)
    holder.tell("let go")
    holder.expect("free")
    store_path.write_bytes(b'{"a": {}, "b": 5}')
    with pytest.raises(ChildFailedError) as caught:
        children.start(successor, str(store_path)).result()
    corrupt = caught.value.error
    assert isinstance(corrupt, CorruptStoreError)
    assert isinstance(corrupt, ValueError)
    assert (corrupt.path, corrupt.offset) == (str(store_path), 15)
    assert store_path.read_bytes() == b'{"a": {}, "b": 5}'
