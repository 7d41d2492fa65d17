"""Real processes: the other half of the verifier, which keeps the simulation honest.

`ControlledRunner` leads real children through schedules of the simulation, call by call on a real disk; `confirm` does
that for a counterexample.
"""

from storecheck.processes.controlled import Confirmation, ControlError, ControlledRunner, RealRun, confirm
from storecheck.processes.script import Script, record

__all__ = ["Confirmation", "ControlError", "ControlledRunner", "RealRun", "Script", "confirm", "record"]
