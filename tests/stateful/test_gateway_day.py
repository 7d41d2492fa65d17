"""A day of the gateway on a real-shaped store of 7.6 MB, against the specification, byte for byte.

Goal: what the state machines show on small files holds on the file that the gateway really has. Method: replies,
heartbeats, the cron sweep, maintenance, the operator and a foreign editor take turns in two process images; after each
operation the file has exactly the bytes, and the call returned exactly the result, that the specification says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import specification
from models.images import load_image
from models.specification import Maintenance
from models.workloads import (
    ForeignRewrite,
    Load,
    Operation,
    Read,
    Save,
    SetField,
    Update,
    cron_sweep,
    foreign_editor,
    heartbeats,
    maintenance,
    operator_session,
    reply_path,
    run,
)
from storecheck.pytest_plugin import Evidence


def workloads(content: bytes, now_ms: int) -> Iterator[tuple[Operation, ...]]:
    """The day's work, one sequence for each process that does some."""
    keys = [raw.key for raw in specification.parse(content)]
    edited = specification.update(content, SetField(keys[7], "label", "by hand")).content
    assert edited is not None
    yield reply_path(keys=(keys[1700], "agent:new:session"), now_ms=now_ms, session_id="s-1")
    yield heartbeats(key=keys[0], texts=("ok", "ok", "alert"), now_ms=now_ms, every_ms=1_800_000)
    yield cron_sweep(now_ms=now_ms)
    yield operator_session(key=f" {keys[3].upper()} ", entry={"updatedAt": now_ms, "label": "operator"})
    yield maintenance(key=keys[5])
    yield foreign_editor(content=edited, manner="rename")
    yield foreign_editor(content=edited, manner="in-place, old times")


def expected(content: bytes | None, operation: Operation, now_ms: int) -> tuple[bytes | None, object]:
    """The file and the result that the specification says."""
    match operation:
        case Load():
            return content, specification.load(content).result
        case Read(key=key):
            return content, specification.read(content, key).result
        case Update(change=change, active_session=active_session):
            rules = Maintenance(mode="off")
            done = specification.update(content, change, rules=rules, now_ms=now_ms, active_session=active_session)
            return done.content, done.result
        case ForeignRewrite(content=rewritten):
            return rewritten, None
        case Save():
            raise AssertionError("no workload of this day saves")


@pytest.mark.promise("SNAP3", "SNAP5", "WRITE6", "WRITE7", "CACHE6", "KEY1")
def test_a_day_of_the_gateway_leaves_the_bytes_that_the_specification_says(
    big_store_bytes: bytes, store_path: Path, evidence: Evidence
) -> None:
    """On the real-shaped store every operation of every workload does exactly what it should, in two processes."""
    now_ms = time.time_ns() // 1_000_000
    content: bytes | None = big_store_bytes
    steps = 0
    images = (load_image(), load_image())
    store_path.write_bytes(big_store_bytes)
    for number, operations in enumerate(workloads(big_store_bytes, now_ms)):
        package = images[number % 2].package
        store = package.SessionStore(store_path, package.Settings(maintenance_mode="off"))
        for operation, result in run(store, store_path, operations):
            content, wanted = expected(content, operation, now_ms)
            assert store_path.read_bytes() == content, f"after {operation}"
            assert result == wanted, f"{operation}"
            steps += 1
    evidence.add(steps=steps)
    assert steps >= 20
