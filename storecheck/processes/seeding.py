"""The same "random" names in simulation and reality.

`tempfile` draws names from a `random.Random()` of its own, which CPython seeds from the system, unseen. Simulated and
led processes must draw the same ones, so in their images an unseeded `Random` is seeded from the machine's seed, the
process and how often it has drawn. A seed that the code gives itself stays.
"""

from __future__ import annotations

from typing import Any

from storecheck.syscalls import ProcessImage


def seed_alike(image: ProcessImage) -> None:
    """Make every unseeded `random.Random` of this image predictable. Doing it twice is fine."""
    random: Any = image.modules.get("random")
    if random is None or hasattr(random.Random.seed, "alike"):
        return
    seed = random.Random.seed

    def predictable(self: Any, a: Any = None, version: int = 2) -> None:
        if a is None:
            process = image.context.process
            process.random_drawn += 1
            a = f"{image.context.machine.parameters.seed} {process.index} {process.random_drawn}"
        seed(self, a, version)

    predictable.alike = True  # type: ignore[attr-defined]
    random.Random.seed = predictable
