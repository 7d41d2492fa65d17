"""The state machines as tests: several repetitions of each, so that workers can share them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stateful import machines

REPETITIONS = range(2)


@pytest.mark.promise("WRITE6", "WRITE7", "WRITE9", "KEY1", "CACHE7", "SNAP6", "READ4")
@pytest.mark.parametrize("number", REPETITIONS)
def test_files_hold_what_the_specification_says(number: int, evidence: Any) -> None:
    """After any operations the file is the specification's byte for byte, whatever callers do to what they got."""
    machines.run(machines.ContentMachine, number=number, evidence=evidence)


@pytest.mark.promise("CACHE1", "CACHE2", "CACHE3", "CACHE4", "CACHE5", "CACHE7", "CACHE8", "WARN1", "SNAP6")
@pytest.mark.parametrize("number", REPETITIONS)
def test_caches_hold_serve_and_warn_as_the_model_says(number: int, evidence: Any) -> None:
    """Sizes, limits, lifetimes and aliases decide exactly what is held, served, parsed and warned about."""
    machines.run(machines.CacheMachine, number=number, evidence=evidence)


@pytest.mark.promise("CACHE6", "CACHE8", "SNAP2", "SNAP5")
@pytest.mark.parametrize("number", REPETITIONS)
def test_what_is_served_is_what_the_file_holds(number: int, evidence: Any) -> None:
    """However the file is rewritten, with whatever stamps and inode numbers, nothing stale is served."""
    machines.run(machines.FreshnessMachine, number=number, evidence=evidence)


@pytest.mark.promise("SNAP1", "SNAP2", "SNAP3", "SNAP4", "SNAP5", "SNAP6", "WRITE6", "CACHE7")
@pytest.mark.parametrize("number", REPETITIONS)
def test_bases_save_work_and_change_nothing_else(number: int, evidence: Any) -> None:
    """With bases of any age the outcome is that of the specification, which knows no bases."""
    machines.run(machines.SnapshotMachine, number=number, evidence=evidence)


@pytest.mark.promise("READ1", "READ2", "READ3")
@pytest.mark.parametrize("number", REPETITIONS)
def test_corrupt_files_are_refused_and_left_alone(number: int, evidence: Any) -> None:
    """Every operation on a corrupt file raises and leaves its bytes; a mended file works again."""
    machines.run(machines.CorruptionMachine, number=number, evidence=evidence)


@pytest.mark.promise("MAINT1", "MAINT2", "WRITE6")
@pytest.mark.parametrize("number", REPETITIONS)
def test_maintenance_removes_and_copies_what_the_specification_says(number: int, evidence: Any) -> None:
    """Exactly the sessions that are due leave, exactly the backups that are due are there, `warn` only logs."""
    machines.run(machines.MaintenanceMachine, number=number, evidence=evidence)
