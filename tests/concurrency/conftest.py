"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.concurrency.crew import Crew, crew


@pytest.fixture
def children() -> Iterator[Crew]:
    """Starts child processes; all of them are over when the test is."""
    with crew() as members:
        yield members
