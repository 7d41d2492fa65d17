"""Real processes: the other half of the verifier, which keeps the simulation honest.

`ControlledRunner` leads real children through schedules of the simulation, call by call on a real disk; `confirm` does
that for a counterexample. `run_race` lets real processes run freely and records what they are told; `hand_over` looks
for the failure of a race in the simulation, and confirms it.
"""

from storecheck.processes.controlled import Confirmation, ControlError, ControlledRunner, RealRun, confirm
from storecheck.processes.handover import Handover, LinearizableCheck, hand_over, seen_at_end
from storecheck.processes.races import Race, RaceResult, Team, by_position, positional, run_race
from storecheck.processes.script import Script, record

__all__ = [
    "Confirmation",
    "ControlError",
    "ControlledRunner",
    "Handover",
    "LinearizableCheck",
    "Race",
    "RaceResult",
    "RealRun",
    "Script",
    "Team",
    "by_position",
    "confirm",
    "hand_over",
    "positional",
    "record",
    "run_race",
    "seen_at_end",
]
