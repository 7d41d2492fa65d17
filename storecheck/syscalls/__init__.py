"""Interception: the functions by which Python reaches the system, as simulated processes see them.

A `ProcessImage` loads unmodified code into a module table of its own in which `os`, `io`, `fcntl`, `time`, `_thread`
and `builtins.open` lead to a simulated machine. Code outside of images is not touched at all. What the machine cannot
do is refused and noted (`NotSimulated`); what slips past finds no simulated file (`machine.MOUNT` is on no real disk).
"""

from storecheck.syscalls.context import Context, Recorder
from storecheck.syscalls.image import ImageOptions, ProcessImage, Transform
from storecheck.syscalls.posix import NotSimulated

__all__ = ["Context", "ImageOptions", "NotSimulated", "ProcessImage", "Recorder", "Transform"]
