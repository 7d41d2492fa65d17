"""A state machine in which the power may go at any time: crashes and ordinary work in one history that shrinks.

Goal: WRITE3 across several power losses, with whatever else the store does in between. Method: each rule is
a process of its own on one simulated machine; the rule `lose_power` draws one legal state of what was done since the
last loss, boots a new machine with it, and goes on. The model is a list of what the file may hold.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from models.crashes import FILE
from storecheck.crash import MODELS
from storecheck.pytest_plugin import Evidence
from storecheck.report.told import attach
from tests.crash.depth import cuts_of_many
from tests.crash.telling import PLAYER, PowerLossHistory

models = st.sampled_from([model.name for model in MODELS])
numbers = st.integers(0, 3)


class PowerLossMachine(RuleBasedStateMachine):
    """Draws what `PowerLossHistory` does."""

    evidence: Evidence
    last: PowerLossHistory

    def __init__(self) -> None:
        super().__init__()
        self.history = PowerLossMachine.last = PowerLossHistory()

    @initialize(path=st.sampled_from([FILE, "state/main/sessions.json"]), sessions=numbers)
    def begin(self, path: str, sessions: int) -> None:
        self.history.begin(path, sessions, cuts=cuts_of_many())

    # Work

    @rule(number=numbers, size_bytes=st.sampled_from([0, 3_000, 9_000]))
    def update(self, number: int, size_bytes: int) -> None:
        self.history.update(number, size_bytes)

    @rule(number=numbers)
    def remove(self, number: int) -> None:
        self.history.remove(number)

    @rule(count=numbers)
    def save(self, count: int) -> None:
        self.history.save(count)

    @rule()
    def load(self) -> None:
        self.history.load()

    @rule()
    def a_save_sweeps_what_crashes_left(self) -> None:
        self.history.sweep()

    # Power loss

    @rule(data=st.data(), model=models)
    def lose_power(self, data: st.DataObject, model: str) -> None:
        """Everything was acknowledged, so nothing of it may be lost, wherever the cuts are."""
        self.history.lose_power(model, lambda count: self._draw_state(data, count))

    @rule(data=st.data(), model=models, size_bytes=st.sampled_from([0, 9_000]))
    def lose_power_during_a_save(self, data: st.DataObject, model: str, size_bytes: int) -> None:
        """The save is not acknowledged: its content or the content before, and no third."""
        self.history.lose_power_during_a_save(model, size_bytes, lambda count: self._draw_state(data, count))

    def _draw_state(self, data: st.DataObject, count: int) -> int:
        self.evidence.add(crash_states=1)
        chosen: int = data.draw(st.integers(0, count - 1), label="state from the end")
        return chosen

    @invariant()
    def the_file_is_what_was_acknowledged(self) -> None:
        self.history.check()

    def teardown(self) -> None:
        self.evidence.add(histories=1)


@pytest.mark.promise("WRITE3")
@pytest.mark.promise("WRITE4")
def test_histories_with_power_losses(evidence: Evidence) -> None:
    """WRITE3: over any number of power losses nothing acknowledged is lost and every later save works."""
    PowerLossMachine.evidence = evidence
    try:
        run_state_machine_as_test(PowerLossMachine)
    except Exception as error:
        # What ran last is the minimal example: Hypothesis ends with it.
        attach(error, player=PLAYER, lines=PowerLossMachine.last.lines)
        raise
