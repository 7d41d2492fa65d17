"""A state machine in which the power may go at any time: crashes and ordinary work in one history that shrinks.

Goal: WRITE3 across several power losses, with whatever else the store does in between. Method: rules work on one
simulated machine through two process images; the rule `lose_power` draws one legal state of what was done since the
last loss, boots a new machine with it, and goes on. The model is a list of what the file may hold.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from models.crashes import FILE, STRAY_SUFFIX, content_at, entry_of, expected_sessions, key_of, store_process
from storecheck.crash import MODELS, CrashState, Disk, Entry, Recording, crash_states, machine_with
from storecheck.crash.recording import BOOT_TAKES_NS
from storecheck.machine import MOUNT, Machine, Process
from storecheck.pytest_plugin import Evidence
from tests.crash.depth import cuts_of_many

LATEST_STATES = 64
"""States that a loss is drawn from, the latest of the run first: what is lost early was looked at before."""


class PowerLossMachine(RuleBasedStateMachine):
    """One store file, any number of processes one after the other, any number of power losses."""

    evidence: Evidence

    def __init__(self) -> None:
        super().__init__()
        self.process = store_process()
        self.generation = 0
        self.sessions: dict[str, Any] = {}
        self.path = FILE
        self._boot(Machine())

    def _boot(self, machine: Machine) -> None:
        machine.monotonic_ns += BOOT_TAKES_NS
        self.machine = machine
        self.disk = Disk.of(machine)
        machine.trace = []

    @initialize(path=st.sampled_from([FILE, "state/main/sessions.json"]), sessions=st.integers(0, 3))
    def begin(self, path: str, sessions: int) -> None:
        self.path = path
        if sessions:
            self._run(lambda store: store.save({key_of(number): entry_of(0, 3_000) for number in range(sessions)}))
            self.sessions = {key_of(number): entry_of(0, 3_000) for number in range(sessions)}

    def _run(self, operation: Any) -> Any:
        """Let a fresh process do something."""

        def act(_: Process) -> Any:
            store = self.process.modules["sessionstore"].SessionStore(f"{MOUNT}/{self.path}")
            return operation(store)

        return self.process.run(self.machine, act)

    # Work

    @rule(number=st.integers(0, 3), size_bytes=st.sampled_from([0, 3_000, 9_000]))
    def update(self, number: int, size_bytes: int) -> None:
        self.generation += 1
        entry = entry_of(self.generation, size_bytes)
        self._run(lambda store: store.update(lambda draft: draft.__setitem__(key_of(number), entry)))
        self.sessions = self.sessions | {key_of(number): entry}

    @rule(number=st.integers(0, 3))
    def remove(self, number: int) -> None:
        self._run(lambda store: store.update(lambda draft: draft.pop(key_of(number), None)))
        self.sessions = {key: entry for key, entry in self.sessions.items() if key != key_of(number)}

    @rule(count=st.integers(0, 3))
    def save(self, count: int) -> None:
        self.generation += 1
        sessions = {key_of(number): entry_of(self.generation, 3_000) for number in range(count)}
        self._run(lambda store: store.save(sessions))
        self.sessions = sessions

    @rule()
    def load(self) -> None:
        found = self._run(lambda store: {key: dict(entry) for key, entry in store.load().items()})
        assert found == self.sessions

    # Power loss

    @rule(data=st.data(), model=st.sampled_from(MODELS))
    def lose_power(self, data: st.DataObject, model: Any) -> None:
        """Everything was acknowledged, so nothing of it may be lost, wherever the cuts are."""
        state = self._draw_state(data, model)
        self._boot(machine_with(state.tree))
        assert self._found() == self.sessions, f"acknowledged content was lost: {state}"

    @rule(data=st.data(), model=st.sampled_from(MODELS), size_bytes=st.sampled_from([0, 9_000]))
    def lose_power_during_a_save(self, data: st.DataObject, model: Any, size_bytes: int) -> None:
        """The save is not acknowledged: its content or the content before, and no third."""
        before, begun_at = self.sessions, len(self.machine.trace or [])
        self.generation += 1
        after = before | {key_of(1): entry_of(self.generation, size_bytes)}
        self._run(lambda store: store.save(after))
        state = self._draw_state(data, model, first_event=begun_at)
        self._boot(machine_with(state.tree))
        found = self._found()
        assert found in (before, after), f"neither the old nor the new content: {state}"
        self.sessions = before if found == before else after

    def _draw_state(self, data: st.DataObject, model: Any, first_event: int | None = None) -> CrashState:
        events = tuple(self.machine.trace or [])
        recording = Recording(disk=self.disk, events=events)
        first = len(events) if first_event is None else first_event
        states = list(crash_states(recording, model, cuts=cuts_of_many(), first_event=first))[-LATEST_STATES:]
        self.evidence.add(crash_states=1)
        # Shrinks to the latest crash with the fewest cuts.
        return states[len(states) - 1 - data.draw(st.integers(0, len(states) - 1), label="state from the end")]

    def _found(self) -> dict[str, Any]:
        content = content_at(self.machine, self.path)
        found = expected_sessions(None if content is None else Entry("file", content))
        assert found is not None, f"corrupt after the power loss: {content!r:.80}"
        return found

    @invariant()
    def the_file_is_what_was_acknowledged(self) -> None:
        content = content_at(self.machine, self.path)
        assert (json.loads(content) if content else {}) == self.sessions

    @rule()
    def a_save_sweeps_what_crashes_left(self) -> None:
        self.generation += 1
        entry = entry_of(self.generation, 0)
        self._run(lambda store: store.update(lambda draft: draft.__setitem__(key_of(0), entry)))
        self.sessions = self.sessions | {key_of(0): entry}
        assert [path for path, _ in self.machine.walk() if path.endswith(STRAY_SUFFIX)] == []

    def teardown(self) -> None:
        self.evidence.add(histories=1)


@pytest.mark.promise("WRITE3")
@pytest.mark.promise("WRITE4")
def test_histories_with_power_losses(evidence: Evidence) -> None:
    """WRITE3: over any number of power losses nothing acknowledged is lost and every later save works."""
    PowerLossMachine.evidence = evidence
    run_state_machine_as_test(PowerLossMachine)
