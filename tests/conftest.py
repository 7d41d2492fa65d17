"""Shared fixtures and Hypothesis profiles.

Four profiles: `gate` is the default and gives the same result twice; `verify` is the same, deeper, as far as some
minutes go; `deep` is the same, as far as an hour goes; `search` follows the seed, to look where the others do not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Verbosity, settings

from models.strategies import realistic_store

# A run on a loaded machine must not fail for its speed: no deadline, and slow draws of megabyte stores are wanted.
# One bug per failure: with two, Hypothesis reports "2 distinct failures" and the message of neither.
_COMMON = settings(
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    verbosity=Verbosity.normal,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("gate", _COMMON, derandomize=True, database=None, max_examples=60, stateful_step_count=30)
settings.register_profile("verify", _COMMON, derandomize=True, database=None, max_examples=150, stateful_step_count=40)
settings.register_profile("deep", _COMMON, derandomize=True, database=None, max_examples=1000, stateful_step_count=80)
settings.register_profile("search", _COMMON, max_examples=1000, stateful_step_count=80)
settings.load_profile("gate")  # --hypothesis-profile, read later, wins


REALISTIC_STORE_BYTES = 7_600_000
"""Size of the store on which the original system's memory grew to 1.2 GB."""


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a store file may be created; the directory exists, the file does not."""
    return tmp_path / "sessions.json"


@pytest.fixture(scope="session")
def big_store_bytes() -> bytes:
    """A store file of the size and shape met in production, the same in every run."""
    return realistic_store(REALISTIC_STORE_BYTES, seed=0)
