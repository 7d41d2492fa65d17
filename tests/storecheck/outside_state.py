"""State outside of the simulated machine, which a program shares with the real interpreter: what nobody should have."""

from __future__ import annotations

EXECUTED: list[str] = []
"""Operations whose code was executed, by any process in any run."""
