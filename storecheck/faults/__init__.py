"""Makes system calls fail, one after the other: SQLite's method for errors that no test could provoke otherwise.

`Injector` lets the n-th call that a `Failure` can befall fail, once or from then on; `one_by_one` counts n up until the
operation under test no longer makes that many calls. Every failure is one that the real call is known to have; what a
failed call leaves behind is as on Linux (a `close` that reports an error has closed, a failed `fsync` has given up).
Faults in scheduled runs of several processes are `storecheck.schedule.faults`. See https://www.sqlite.org/testing.html,
"Anomaly testing".
"""

from .injector import FAILURES, Failure, HandlerRaisedError, Injector, failure
from .loop import MAX_CALLS, TooManyCallsError, one_by_one

__all__ = [
    "FAILURES",
    "MAX_CALLS",
    "Failure",
    "HandlerRaisedError",
    "Injector",
    "TooManyCallsError",
    "failure",
    "one_by_one",
]
