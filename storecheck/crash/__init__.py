"""Which disks a power loss may leave, and whether a store survives each of them.

`recording` records what a program does to a simulated disk (`strace` what a real process does to a real one),
`changes` and `models` say what may be lost of it, `states` enumerates, `oracle` judges, `recovery` opens the store on
each state with a fresh process, and saves again. `savers` are small programs with known mistakes. `kill -9` shows none
of this: the kernel keeps the page cache of a killed process.
"""

from .changes import Change, SyncFailed
from .models import ALICE, EXT4_NOAUTO, EXT4_NOLOCK, EXT4_ORDERED, MODELS, POSIX_STRICT, PersistenceModel
from .oracle import Oracle, Violation, Window
from .recording import SerialProcess, record
from .states import CrashState, CrashStates, Recording, TooManyStatesError, crash_states
from .trees import Disk, Entry, Tree, machine_with

__all__ = [
    "ALICE",
    "EXT4_NOAUTO",
    "EXT4_NOLOCK",
    "EXT4_ORDERED",
    "MODELS",
    "POSIX_STRICT",
    "Change",
    "CrashState",
    "CrashStates",
    "Disk",
    "Entry",
    "Oracle",
    "PersistenceModel",
    "Recording",
    "SerialProcess",
    "SyncFailed",
    "TooManyStatesError",
    "Tree",
    "Violation",
    "Window",
    "crash_states",
    "machine_with",
    "record",
]
