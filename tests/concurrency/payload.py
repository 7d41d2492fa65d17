"""Stores whose bytes say which version they are: the generation is stamped into every block of every entry.

A mixture of two versions, whatever its sizes, then shows two generations; constant padding would hide it.
"""

from __future__ import annotations

from typing import Any

from sessionstore import Settings

BLOCK_BYTES = 64
BLOCKS_PER_ENTRY = 30
ENTRY_BYTES = 2200  # about, layout included

SIZES = {"2 KB": 1, "220 KB": 100, "7.6 MB": 3450}
"""Entries of a store of about that size."""

SETTINGS = Settings(maintenance_mode="off", lock_timeout_s=60.0)
"""Waits long enough for a loaded machine; tests about timeouts set their own."""


def stamped_entry(number: int, generation: int) -> dict[str, Any]:
    """An entry of about `ENTRY_BYTES` bytes, `generation` in each of its blocks."""
    return {
        "sessionId": f"session-{number}",
        "updatedAt": generation,
        "blocks": [
            f"generation={generation} entry={number} block={block} ·".ljust(BLOCK_BYTES, ".")
            for block in range(BLOCKS_PER_ENTRY)
        ],
    }


def stamped_store(entries: int, generation: int) -> dict[str, dict[str, Any]]:
    """A store with that many entries, all of one generation."""
    return {f"agent:main:{number}": stamped_entry(number, generation) for number in range(entries)}


def generation_of(sessions: Any, *, entries: int) -> int:
    """The one generation of a whole stamped store.

    Raises:
        AssertionError: it is a mixture, or something is missing; says what.
    """
    assert len(sessions) == entries, f"{len(sessions)} entries instead of {entries}"
    generations = {stamped_generation(number, sessions[f"agent:main:{number}"]) for number in range(entries)}
    assert len(generations) == 1, f"a mixture of the generations {sorted(generations)}"
    return generations.pop()


def stamped_generation(number: int, entry: dict[str, Any]) -> int:
    """The one generation of a whole stamped entry."""
    generation: int = entry["updatedAt"]
    expected = stamped_entry(number, generation)
    if entry != expected:
        wrong = next(
            (mine, other) for mine, other in zip(entry["blocks"], expected["blocks"], strict=False) if mine != other
        )
        raise AssertionError(f"entry {number} of generation {generation} holds {wrong[0]!r} instead of {wrong[1]!r}")
    return generation
