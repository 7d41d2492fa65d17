"""Concurrent programs: initial files, processes, and what each process asks of the store.

A `Program` is a plain value that fits into JSON. The code under test is reached through an adapter: an ordinary class
or function named by import path, `package.module:factory`. Inside each simulated process `factory(root, **parameters)`
makes an object; an operation `Operation("update", {"key": "a"})` calls its method `update(key="a")`. Arguments and
results are JSON values, so that histories can be written down. A program does not say who runs when: see `explore`.

Adapters may define, in their module, `reset_image()`: called in each process before each run, after the module globals
were put back (see `syscalls.restore` for what that cannot put back). An adapter object may define
`outcome_of(error) -> "raised" | "unknown"`: whether a failed operation is known to have had no effect; without it every
`Exception` counts as raised, everything else as unknown.
"""

from __future__ import annotations

import base64
import binascii
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from storecheck.machine import MachineParameters

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_PROCESSES = 16
"""More simulated processes than anybody can explore."""

ROOT = "store"
"""The directory, below the mount, that holds the initial files and is handed to the adapters."""


class ProgramError(ValueError):
    """A program, or the document that holds it, does not make sense."""


def at_path(path: str) -> Any:
    """The object at an import path `module:name`, in this interpreter.

    Raises:
        ImportError: there is none, or what its module needs is not installed.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (AttributeError, ValueError) as error:
        raise ImportError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of an adapter's method `name` with keyword `arguments`."""

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


@dataclass(frozen=True, slots=True)
class ProcessProgram:
    """What one process does.

    Attributes:
        operations: done one after the other by its main thread.
        threads: further threads, started at the beginning, each with operations of its own.
        adapter: import path of another adapter than the program's, such as a foreign writer's.
    """

    operations: tuple[Operation, ...]
    threads: tuple[tuple[Operation, ...], ...] = ()
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Initial files, processes and the machine they run on.

    Attributes:
        adapter: import path `module:factory`.
        processes: the processes, named P1, P2, … in reports.
        files: content of the initial files, by path relative to the directory handed to the adapters.
        parameters: keyword arguments for every adapter factory.
        machine: what kind of computer.
        kills: how many processes a schedule may kill.
        environment: environment variables of every process.
        private: packages or modules with C extensions, or of test tools, to load privately all the same. An adapter
            that inherits from such a class is refused until its module is named here or in `shared`.
        shared: packages to share with the real interpreter: they see the real system.
    """

    adapter: str
    processes: tuple[ProcessProgram, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    parameters: Mapping[str, Json] = field(default_factory=dict)
    machine: MachineParameters = field(default_factory=MachineParameters)
    kills: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    private: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.processes) <= MAX_PROCESSES:
            raise ProgramError(f"the program has {len(self.processes)} processes; give 1 to {MAX_PROCESSES}")
        for adapter in (self.adapter, *(process.adapter for process in self.processes if process.adapter)):
            module, _, factory = adapter.partition(":")
            if not module or not factory:
                raise ProgramError(f"adapter is {adapter!r}; give an import path such as 'package.module:factory'")
        if self.kills < 0:
            raise ProgramError(f"kills is {self.kills}; give 0 or more")

    def operations(self) -> int:
        """How many operations all processes do together."""
        return sum(
            len(process.operations) + sum(len(thread) for thread in process.threads) for process in self.processes
        )

    def to_json(self) -> dict[str, Json]:
        """The program as a JSON object."""
        return {
            "adapter": self.adapter,
            "parameters": dict(self.parameters),
            "files": {path: _content_to_json(content) for path, content in self.files.items()},
            "processes": [_process_to_json(process) for process in self.processes],
            "machine": cast("dict[str, Json]", self.machine.to_json()),
            "kills": self.kills,
            "environment": dict(self.environment),
            "private": list(self.private),
            "shared": list(self.shared),
        }

    @classmethod
    def from_json(cls, document: object) -> Program:
        """The inverse of `to_json`.

        Raises:
            ProgramError: with the place in the document and what was expected there.
        """
        fields = expect_object(document, "program")
        known = {
            "adapter", "parameters", "files", "processes", "machine", "kills", "environment", "private", "shared",
        }  # fmt: skip
        if unknown := set(fields) - known:
            raise ProgramError(f"program has the unknown member {min(unknown)!r}; known are {sorted(known)}")
        processes = expect_list(fields.get("processes"), "program.processes")
        try:
            machine = MachineParameters.from_json(expect_object(fields.get("machine", {}), "program.machine"))
        except ValueError as error:
            raise ProgramError(f"program.machine: {error}") from error
        files = expect_object(fields.get("files", {}), "program.files")
        environment = expect_object(fields.get("environment", {}), "program.environment")
        return cls(
            adapter=expect_text(fields.get("adapter"), "program.adapter"),
            parameters=expect_object(fields.get("parameters", {}), "program.parameters"),
            files={path: _content_from_json(value, f"program.files[{path!r}]") for path, value in files.items()},
            processes=tuple(
                _process_from_json(value, f"program.processes[{index}]") for index, value in enumerate(processes)
            ),
            machine=machine,
            kills=expect_number(fields.get("kills", 0), "program.kills"),
            environment={
                name: expect_text(value, f"program.environment.{name}") for name, value in environment.items()
            },
            private=_names(fields.get("private", []), "program.private"),
            shared=_names(fields.get("shared", []), "program.shared"),
        )


def process(*operations: Operation, adapter: str | None = None) -> ProcessProgram:
    """A process with one thread that does these operations."""
    return ProcessProgram(operations=operations, adapter=adapter)


# JSON, with errors that name the place


def expect_object(value: object, where: str) -> dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProgramError(f"{where} is {_shown(value)}; expected an object")
    return value


def expect_list(value: object, where: str) -> list[Any]:
    """The value, which must be a JSON array."""
    if not isinstance(value, list):
        raise ProgramError(f"{where} is {_shown(value)}; expected an array")
    return value


def expect_text(value: object, where: str) -> str:
    """The value, which must be a string."""
    if not isinstance(value, str):
        raise ProgramError(f"{where} is {_shown(value)}; expected a string")
    return value


def expect_number(value: object, where: str) -> int:
    """The value, which must be a whole number from 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProgramError(f"{where} is {_shown(value)}; expected a whole number, 0 or more")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 60 else f"{text[:57]}…"


def _names(value: object, where: str) -> tuple[str, ...]:
    return tuple(expect_text(name, f"{where}[{index}]") for index, name in enumerate(expect_list(value, where)))


def _content_to_json(content: bytes) -> Json:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _content_from_json(value: object, where: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    encoded = expect_text(expect_object(value, where).get("base64"), f"{where}.base64")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ProgramError(f"{where}.base64 is not base64: {error}") from error


def _operations_to_json(operations: Sequence[Operation]) -> list[Json]:
    return [{"name": operation.name, "arguments": dict(operation.arguments)} for operation in operations]


def _operations_from_json(value: object, where: str) -> tuple[Operation, ...]:
    found = []
    for index, item in enumerate(expect_list(value, where)):
        fields = expect_object(item, f"{where}[{index}]")
        name = expect_text(fields.get("name"), f"{where}[{index}].name")
        found.append(Operation(name, expect_object(fields.get("arguments", {}), f"{where}[{index}].arguments")))
    return tuple(found)


def _process_to_json(process: ProcessProgram) -> dict[str, Json]:
    document: dict[str, Json] = {"operations": _operations_to_json(process.operations)}
    if process.threads:
        document["threads"] = [_operations_to_json(thread) for thread in process.threads]
    if process.adapter is not None:
        document["adapter"] = process.adapter
    return document


def _process_from_json(value: object, where: str) -> ProcessProgram:
    fields = expect_object(value, where)
    adapter = fields.get("adapter")
    threads = expect_list(fields.get("threads", []), f"{where}.threads")
    return ProcessProgram(
        operations=_operations_from_json(fields.get("operations"), f"{where}.operations"),
        threads=tuple(
            _operations_from_json(thread, f"{where}.threads[{index}]") for index, thread in enumerate(threads)
        ),
        adapter=None if adapter is None else expect_text(adapter, f"{where}.adapter"),
    )
