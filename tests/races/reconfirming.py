"""Small programs that show planted bugs in the simulation, to be confirmed by real processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from storecheck import MachineParameters, Operation, Program, process
from storecheck.history import Call
from tests.races.gateway import FILE, SESSIONS, entry_of, versions_of

FIRST = {SESSIONS[0]: "first"}
FILES = {FILE: json.dumps({key: entry_of(version) for key, version in FIRST.items()}).encode()}


def setting(version: str, session: str = SESSIONS[0]) -> Operation:
    """Set a session."""
    return Operation("set", {"session": session, "version": version})


LOAD = Operation("load")

PROGRAMS: Mapping[str, tuple[tuple[Operation, ...], ...]] = {
    "updates": ((setting("P1/1"),), (setting("P2/1"),)),
    "update after load": ((LOAD, setting("P1/1")), (setting("P2/1"),)),
    "two updates each": ((setting("P1/1"), setting("P1/2")), (setting("P2/1"),)),
    "reader": ((setting("P1/1", SESSIONS[1]),), (LOAD,)),
    "save": ((Operation("save", {"sessions": {SESSIONS[0]: "P1/1"}}),), (setting("P2/1"),)),
}


def program(name: str) -> Program:
    """The program of that name."""
    return Program(
        adapter="tests.races.gateway:Gateway",
        files=FILES,
        processes=tuple(process(*operations) for operations in PROGRAMS[name]),
        # File times of two seconds, as on FAT: what trusts them too much shows in any run.
        machine=MachineParameters(stamp_granularity_ns=2_000_000_000),
    )


def looks(files: Mapping[str, bytes]) -> Sequence[Call]:
    """What is left at the end; a file that is gone or no JSON holds what nobody wrote."""
    try:
        left = versions_of(json.loads(files[FILE]))
    except (KeyError, ValueError) as error:
        left = {"nobody wrote": f"{type(error).__name__}"}
    return [Call(name="load", result=left)]
