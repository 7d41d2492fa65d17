"""Signals and KeyboardInterrupt at many points of a write.

Goal: LOCK5. First every moment at which Python could run a signal handler inside the store's code, one after the
other; then real signals from a timer, at moments that nobody chose.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from storecheck.pytest_plugin import Evidence
from tests.concurrency.children import lock_keeper, peer
from tests.concurrency.crew import Crew
from tests.concurrency.interrupting import ACTING_MODULES, interrupted_writer, signalled_writer

SIGNALS = 200


@pytest.mark.promise("LOCK5", "CACHE9")
@pytest.mark.parametrize("kind", ["update with base", "save", "edit"])
def test_interrupted_at_every_moment(children: Crew, store_path: Path, evidence: Evidence, kind: str) -> None:
    """LOCK5, CACHE9: after it another process gets the lock with its first try; file and cache are whole and agree."""
    victim = children.start(interrupted_writer, str(store_path), kind, ACTING_MODULES)
    other = children.start(peer, str(store_path))
    moments = 0
    while True:
        victim.expect("prepared")
        victim.tell("go")
        where = victim.heard()
        if not where:
            break
        moments += 1
        victim.tell("look")
        victim.expect("looked")
        other.tell(0.0)
        try:
            other.expect("updated")
        except AssertionError as error:
            raise AssertionError(f"after an interruption at {where}: {error}") from None
        victim.tell("go on")
    found = victim.result()
    assert len(found) == moments > 100
    assert set(found) == {"old", "new"}
    evidence.add(steps=moments)


@pytest.mark.promise("LOCK5")
def test_interrupted_at_every_moment_of_waiting(children: Crew, store_path: Path, evidence: Evidence) -> None:
    """LOCK5: the same for a writer that waits for a holder in another process, in all that the lock is made of."""
    victim = children.start(interrupted_writer, str(store_path), "update", ("lock", "threading"))
    keeper = children.start(lock_keeper, f"{store_path}.flock")
    other = children.start(peer, str(store_path))
    moments = 0
    while True:
        victim.expect("prepared")
        keeper.tell("hold")
        keeper.expect("held")
        victim.tell("go")
        where = victim.heard()
        keeper.tell("let go")
        keeper.expect("free")
        if not where:
            break
        moments += 1
        victim.tell("look")
        victim.expect("looked")
        # Not with the first try: the thread that waited in vain gets the lock first, and gives it back at once.
        other.tell(10.0)
        try:
            other.expect("updated")
        except AssertionError as error:
            raise AssertionError(f"after an interruption at {where}: {error}") from None
        victim.tell("go on")
    assert len(victim.result()) == moments > 20
    evidence.add(steps=moments)


@pytest.mark.promise("LOCK5", "CACHE9")
def test_real_signals(children: Crew, store_path: Path, evidence: Evidence) -> None:
    """LOCK5, CACHE9: signals at moments that nobody chose leave the same: a free lock and a whole file."""
    victim = children.start(signalled_writer, str(store_path), SIGNALS)
    other = children.start(peer, str(store_path))
    for _ in range(SIGNALS):
        victim.expect("interrupted or not")
        other.tell(0.0)
        other.expect("updated")
        victim.tell("go on")
    interrupted, _ = victim.result()
    assert interrupted > 0, "no signal hit a write"
    evidence.add(steps=interrupted)
