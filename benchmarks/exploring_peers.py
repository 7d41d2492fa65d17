"""Two races on one file, and other tools' searches of them, each in an interpreter that has the tool.

`python exploring_peers.py TOOL RACE STRATEGY EXECUTIONS` prints one JSON object. Imports nothing of this project, so
that any interpreter can run it; `benchmarks.exploring` does, and searches the same two classes by `storecheck`. The
tools run threads on a real directory, `storecheck` processes on a simulated one: what is compared is what each is for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import threading
import time
from typing import Any


class Counter:
    """Two writers read a number and publish it increased, each by a rename: one increase is lost."""

    name = "file"
    initial: str | None = "0"

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, self.name)

    def act(self, who: int) -> bool:
        """Add one."""
        with open(self._path) as file:
            value = int(file.read())
        temporary = f"{self._path}.{who}"
        with open(temporary, "w") as file:
            file.write(str(value + 1))
        os.replace(temporary, self._path)
        return True

    @staticmethod
    def holds(content: str, done: int) -> bool:
        """Whether nothing was lost."""
        return int(content) == done


class Claim(Counter):
    """Two writers look whether there is a claim and put theirs in its place: both believe that they have it."""

    name = "claim"
    initial = None

    def act(self, who: int) -> bool:
        """Claim it; returns whether that succeeded."""
        temporary = f"{self._path}.{who}"
        with open(temporary, "w") as file:
            file.write(str(who))
        free = not os.path.exists(self._path)
        if free:
            os.replace(temporary, self._path)
        return free

    @staticmethod
    def holds(content: str, done: int) -> bool:
        """Whether the one that has it is the only one to believe so."""
        return content in {"1", "2"} and done == 1


RACES = {"lost update": Counter, "check then replace": Claim}


class _World:
    """One run of a race by threads of a real process."""

    def __init__(self, race: str, directory: str) -> None:
        self.kind = RACES[race]
        self.directory = directory
        self.done: list[bool] = []
        self.path = os.path.join(directory, self.kind.name)
        if self.kind.initial is None:
            # What the run before left.
            if os.path.exists(self.path):
                os.unlink(self.path)
        else:
            with open(self.path, "w") as file:
                file.write(self.kind.initial)

    def act(self, who: int) -> None:
        self.done.append(self.kind(self.directory).act(who))

    def holds(self) -> bool:
        with open(self.path) as file:
            return self.kind.holds(file.read(), sum(self.done))


def _by_frontrun(frontrun: Any, race: str, strategy: str, executions: int, directory: str) -> dict[str, Any]:
    found = frontrun.explore(
        setup=lambda: _World(race, directory),
        workers=[lambda world: world.act(1), lambda world: world.act(2)],
        invariant=lambda world: world.holds(),
        strategy=strategy,
        reproduce_on_failure=0,
        total_timeout=60.0,
        **({"max_executions": executions} if strategy == "dpor" else {"max_attempts": executions, "seed": 1}),
    )
    said = {True: "property holds", False: "found", None: "inconclusive"}[found.property_holds]
    return {"executions": found.num_explored, "said": said}


def _by_interleave_test(
    interleave_test: Any, race: str, strategy: str, executions: int, directory: str
) -> dict[str, Any]:
    def model() -> None:
        world = _World(race, directory)
        threads = [threading.Thread(target=world.act, args=(who,)) for who in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert world.holds()

    found = interleave_test.explore(
        model, iterations=executions, seed=1, strategy=strategy, raise_on_failure=False, timeout=60.0
    )
    said = "found" if found.failure is not None else "exhausted, no failure" if found.exhausted else "no failure"
    if found.failure is not None and not isinstance(found.failure.exception, AssertionError):
        said = f"stopped by {type(found.failure.exception).__name__}: {found.failure.exception}"
    return {"executions": found.schedules_run, "said": said}


TOOLS = {"frontrun": ("frontrun", _by_frontrun), "interleave-test": ("interleave_test", _by_interleave_test)}
"""Module and search of each, by name."""


def main() -> None:
    """Search one race with one tool. Its import is no part of the time."""
    tool, race, strategy, executions = sys.argv[1:]
    module, search = TOOLS[tool]
    imported = importlib.import_module(module)
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        outcome = search(imported, race, strategy, int(executions), directory)
        outcome["seconds"] = time.perf_counter() - begun
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
