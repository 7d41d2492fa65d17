"""Files that must not be believed: what a power loss made of stores that were not careful, and other damage.

Goal: READ1 and READ2. Method: the files are those that careless savers leave behind in the models of a power loss, and
damage of other kinds; every operation must refuse them, leave every byte alone, and say where.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from models.crashes import (
    CORRUPT_MARK,
    FILE,
    Scenario,
    expected_sessions,
    open_store,
    store_bytes,
    store_process,
)
from storecheck.crash import ALICE, Entry, Oracle, Recording, crash_states, machine_with, record
from storecheck.crash.calibration import saver_process
from storecheck.crash.oracle import Violation
from storecheck.machine import MOUNT, Machine, MachineParameters, Process
from storecheck.pytest_plugin import Evidence
from tests.crash.refusing import Refusals

VERSIONS = [store_bytes(sessions=4, size_bytes=2_500, generation=number) + b"\n" * number for number in range(2)]
CARELESS = ("no sync at all", "in place, truncating", "in place", "fsync before last write")


def left_by(saver: str) -> list[tuple[Violation, bytes]]:
    """What power loss makes of a store file that this saver replaces, where it is no version of it."""
    process = saver_process()
    savers = process.modules["storecheck.crash.savers"].SAVERS
    machine = Machine(files={FILE: VERSIONS[0]})

    def save(kernel_process: Process) -> None:
        machine.mark(kernel_process, "begin 1")
        savers[saver](f"{MOUNT}/{FILE}", VERSIONS[1], lambda: None)

    recording: Recording = record(machine, lambda: process.run(machine, save))
    oracle = Oracle(path=FILE, versions=VERSIONS, marks=recording.marks())
    found: dict[bytes, Violation] = {}
    for state in crash_states(recording, ALICE, cuts=2):
        violation = oracle.judge(state)
        if violation is not None and FILE in state.tree:
            found.setdefault(state.tree[FILE].content, violation)
    return [(violation, content) for content, violation in found.items()]


DAMAGE = {
    "zero bytes": b"",
    "all NUL": bytes(4096),
    "truncated": VERSIONS[0][:-1],
    "not UTF-8": VERSIONS[0].replace(b"generation", b"gener\xe9tion", 1),
    "UTF-16": VERSIONS[0].decode().encode("utf-16"),
    "array": b"[]",
    "entry is no object": b'{"a": 1}',
    "too deep": b'{"a": {"b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "integer of 5000 digits": b'{"a": {"b": ' + b"9" * 5_000 + b"}}",
    "duplicate keys": b'{"a": {}, "a": {}}',
    "not a number": b'{"a": {"b": NaN}}',
    "infinite": b'{"a": {"b": 1e999}}',
    "followed by something": VERSIONS[0] + VERSIONS[0],
}
ALL = ("load", "load_uncached", "read", "update", "save")


def refuse(content: bytes) -> None:
    """Try every operation, in one process, on a file of this content, which must be refused."""
    refusals = Refusals()
    refusals.file(content, corrupt=True)
    for name in ALL:
        refusals.do(name)
    refusals.hold(promise="READ2")


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("damage", DAMAGE)
def test_corrupt_files_are_refused_and_stay(damage: str) -> None:
    """READ2: no operation accepts or changes a damaged file, and CorruptStoreError is the only error."""
    refuse(DAMAGE[damage])


@pytest.mark.promise("READ2")
@pytest.mark.parametrize("saver", CARELESS)
def test_what_careless_savers_leave_behind_is_refused(saver: str, evidence: Evidence) -> None:
    """READ2: a store file that another program tore in a power loss is refused, unless it happens to be valid JSON."""
    # Blocks of two versions may join to an object that no one wrote: only the saver could have prevented that.
    torn = [content for _, content in left_by(saver) if expected_sessions(Entry("file", content)) is None]
    assert torn
    for content in torn:
        evidence.add(crash_states=1)
        refuse(content)


@pytest.mark.promise("READ1")
def test_a_missing_file_is_an_empty_store_and_a_missing_permission_is_not() -> None:
    """READ1: only "no such file" reads as empty; a file that may not be read raises, from load and from update."""
    process = store_process()

    def load(machine: Machine) -> object:
        return process.run(machine, lambda _: dict(_open(process).load()))

    assert load(machine_with({})) == {}
    unreadable = Refusals()
    unreadable.file(VERSIONS[0], mode=0o000)
    for name in ALL:
        unreadable.do(name)
    unreadable.hold(promise="READ1")
    directory = machine_with({FILE: Entry("directory", mode=0o755)})
    with pytest.raises(process.modules["sessionstore"].StoreError):
        load(directory)


def _open(process: Any) -> Any:
    return open_store(process.modules, Scenario(name="", processes=()))


@pytest.mark.promise("WRITE8")
def test_a_read_only_file_is_not_replaced() -> None:
    """WRITE8: a file that the process may not write stays as it is, although its directory allows a rename."""
    read_only = Refusals()
    read_only.file(VERSIONS[0], mode=0o444)
    for name in ("load", "add", "save"):
        read_only.do(name)
    read_only.hold(promise="WRITE8")
    assert sorted(path for path, _ in read_only.machine.walk()) == [FILE, f"{FILE}.flock"]
    as_root = machine_with({FILE: Entry("file", VERSIONS[0], mode=0o444)}, MachineParameters(uid=0, gid=0))
    process = store_process()
    process.run(as_root, functools.partial(_add_session, process))
    inode = as_root.mount.entries[FILE]
    assert (inode.mode, inode.uid, inode.gid) == (0o444, 1000, 1000)
    assert bytes(inode.content) != VERSIONS[0]


def _add_session(process: Any, _: Process) -> None:
    _open(process).update(lambda draft: draft.__setitem__("agent:main:new", {}))


@pytest.mark.promise("READ2")
def test_repairs_within_one_second_keep_both_copies() -> None:
    """READ2: two repairs at the same time of the clock set aside the bytes of both corrupt files."""
    repairs = Refusals()
    for damage in ("truncated", "array"):
        repairs.file(DAMAGE[damage], corrupt=True)
        repairs.repair()
    repairs.hold(promise="READ2")
    copies = {content for path, content in repairs.machine.files().items() if CORRUPT_MARK in path}
    assert copies == {DAMAGE["truncated"], DAMAGE["array"]}
