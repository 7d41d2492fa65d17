"""The module `random` of a simulated process: what is seeded by the system on a real one is seeded by the machine here.

CPython seeds an unseeded `random.Random()` from the system without any call that could be intercepted. Here its seed is
the machine's, the process's number, and how many seeds the process has drawn; so processes differ, and runs do not. A
seed that the code gives itself stays. What `random.SystemRandom`, `secrets`, `uuid.uuid4` and `tempfile` draw follows
from `os.urandom`. Generators made at import are put back before every run.
"""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

from storecheck.syscalls.context import Context


class Randomness:
    """The generators of one image."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Of the process's code, not of the machine: no call is made for a seed.
        self._drawn = 0
        # Of each generator, whether it has no seed of its own. In the order in which they were seeded.
        self._known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
        self._unseeded: list[weakref.ref[Any]] = []
        self._seeded: list[tuple[weakref.ref[Any], object]] = []

    def install(self, module: ModuleType) -> None:
        """Make this private copy of `random` predictable."""
        # The functions of the module are methods of this one, which was made before.
        shared = vars(module)["_inst"]
        by_value = vars(module)["Random"].seed

        def seed(generator: Any, a: Any = None, version: int = 2) -> None:
            if generator is not shared or self._context.executor is None:
                self._known[generator] = a is None
            by_value(generator, self._next_seed() if a is None else a, version)

        seed.__doc__ = by_value.__doc__
        vars(module)["Random"].seed = seed
        vars(module)["seed"] = shared.seed
        self._known[shared] = True

    def _next_seed(self) -> str:
        self._drawn += 1
        return f"{self._context.machine.parameters.seed} {self._context.process.index} seed {self._drawn}"

    def seal(self) -> None:
        """The generators there are now belong to imported modules."""
        known = list(self._known.items())
        self._unseeded = [weakref.ref(generator) for generator, unseeded in known if unseeded]
        self._seeded = [(weakref.ref(generator), generator.getstate()) for generator, unseeded in known if not unseeded]

    def begin(self) -> None:
        """A process begins: its generators are as after import, and those without a seed are its own."""
        self._drawn = 0
        for reference in self._unseeded:
            generator = reference()
            if generator is not None:
                generator.seed()
        for reference, state in self._seeded:
            generator = reference()
            if generator is not None:
                generator.setstate(state)
