"""The simulated computer that programs run on.

`Machine` has files, directories, links, descriptors, locks, two clocks and processes; `MachineParameters` say what
kind of computer it is; `events` describe what was done to the disk. It executes calls one at a time and knows nothing
of Python's modules (`storecheck.syscalls`) nor of who runs next (`storecheck.schedule`).
"""

from storecheck.machine.inode import Inode, OpenFile, Process, Waiter
from storecheck.machine.kernel import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, Machine
from storecheck.machine.parameters import FIRST_DESCRIPTOR, MOUNT, MachineParameters

__all__ = [
    "FIRST_DESCRIPTOR",
    "LOCK_EX",
    "LOCK_NB",
    "LOCK_SH",
    "LOCK_UN",
    "MOUNT",
    "Inode",
    "Machine",
    "MachineParameters",
    "OpenFile",
    "Process",
    "Waiter",
]
