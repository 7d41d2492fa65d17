"""The modules `time` and `datetime` of a simulated process: both clocks are the machine's.

Reading a clock is no scheduling point (nobody notices); sleeping is one, and blocks until the virtual clock is there.
CPU time stands still: nothing is computed on the simulated machine. Conversions (`strftime`, `gmtime`) are real.
"""

from __future__ import annotations

import datetime as real_datetime  # noqa: ICN001 - beside the simulated one
import time as real_time
from types import ModuleType
from typing import Any, NoReturn

from storecheck.machine.disk import CLOCK, READ
from storecheck.schedule.executor import SameInCopies, Task
from storecheck.syscalls.context import Context, as_built_in, noticed, unnoticed
from storecheck.syscalls.posix import refusing


class SleepWait(SameInCopies):
    """A thread sleeps; only time ends it."""

    def describe(self) -> str:
        """Such as it is."""
        return "its sleep to end"

    def holders(self) -> list[Task]:
        """Nobody."""
        return []


def build_time(context: Context) -> ModuleType:  # noqa: C901 - small closures over one context
    """The module `time` of one image."""
    module = ModuleType("time", real_time.__doc__)
    space = module.__dict__
    space.update({name: value for name, value in vars(real_time).items() if name != "__spec__"})

    def time_ns() -> int:
        machine = context.machine
        if machine.footprint is not None:
            machine.footprint.append((CLOCK, READ))
        return machine.monotonic_ns + machine.wall_offset_ns

    def monotonic_ns() -> int:
        machine = context.machine
        if machine.footprint is not None:
            machine.footprint.append((CLOCK, READ))
        return machine.monotonic_ns

    def sleep(seconds: float, /) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        delay_ns = round(seconds * 1e9)
        if delay_ns:
            context.block(SleepWait(), deadline_ns=monotonic_ns() + delay_ns, sleeps=True)

    def clock_gettime_ns(clock: int, /) -> int:
        if clock == real_time.CLOCK_REALTIME or clock == getattr(real_time, "CLOCK_TAI", -1):
            return time_ns()
        return monotonic_ns()

    def clock_settime_ns(clock: int, value_ns: int, /) -> None:
        if clock != real_time.CLOCK_REALTIME:
            raise OSError(22, "Invalid argument")
        context.machine.touch(CLOCK, 1)
        context.machine.jump_wall(value_ns - context.machine.wall_ns())

    for name, clock in (("time", time_ns), ("monotonic", monotonic_ns), ("perf_counter", monotonic_ns)):
        space[f"{name}_ns"] = unnoticed(context, f"{name}_ns", clock)
        space[name] = unnoticed(context, name, _in_seconds(clock))
    for name in ("process_time", "thread_time"):
        space[f"{name}_ns"], space[name] = (lambda: 0), (lambda: 0.0)
    space["clock_gettime_ns"] = unnoticed(context, "clock_gettime_ns", clock_gettime_ns)
    space["clock_gettime"] = unnoticed(context, "clock_gettime", lambda clock: clock_gettime_ns(clock) / 1e9)
    space["clock_settime_ns"] = noticed(context, "clock_settime_ns", clock_settime_ns)
    space["clock_settime"] = noticed(
        context, "clock_settime", lambda clock, value: clock_settime_ns(clock, round(value * 1e9))
    )
    space["sleep"] = noticed(context, "sleep", sleep)
    _bind_present(space)
    as_built_in(space)
    return module


def _in_seconds(clock: Any) -> Any:
    return lambda: clock() / 1e9


def _bind_present(space: dict[str, Any]) -> None:
    """`gmtime()` and its kind take the present time if none is given: the machine's present."""
    now = space["time"]

    def of_moment(convert: Any) -> Any:
        return lambda seconds=None, /: convert(now() if seconds is None else seconds)

    for name in ("gmtime", "localtime", "ctime"):
        space[name] = of_moment(getattr(real_time, name))
    space["strftime"] = lambda form, moment=None, /: real_time.strftime(
        form, space["localtime"]() if moment is None else moment
    )
    space["asctime"] = lambda moment=None, /: real_time.asctime(space["localtime"]() if moment is None else moment)


def build_datetime(context: Context, time: ModuleType) -> ModuleType:
    """The module `datetime` of one image: its `now` and `today` are the machine's."""
    module = ModuleType("datetime", real_datetime.__doc__)
    module.__dict__.update({name: value for name, value in vars(real_datetime).items() if name != "__spec__"})
    seconds = time.__dict__["time"]

    class datetime(real_datetime.datetime):
        """`datetime.datetime` that reads the machine's wall clock."""

        @classmethod
        def now(cls, tz: real_datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(seconds(), tz)

        @classmethod
        def today(cls) -> Any:
            return cls.fromtimestamp(seconds())

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(seconds(), real_datetime.timezone.utc).replace(tzinfo=None)

    class date(real_datetime.date):
        """`datetime.date` that reads the machine's wall clock."""

        @classmethod
        def today(cls) -> Any:
            return cls.fromtimestamp(seconds())

    module.__dict__["datetime"], module.__dict__["date"] = datetime, date
    return module


def build_refused(context: Context, real: ModuleType) -> ModuleType:
    """A module none of whose functions may be called and none of whose classes may be made; its constants are there."""
    module = ModuleType(real.__name__, real.__doc__)
    for name, value in vars(real).items():
        if name in ("__spec__", "__loader__", "__builtins__", "__dict__"):
            continue
        if isinstance(value, type):
            module.__dict__[name] = value if _is_plain(value) else _refused_class(context, real.__name__, value)
        elif callable(value):
            module.__dict__[name] = refusing(context, f"{real.__name__}.{name}")
        else:
            module.__dict__[name] = value
    return module


def _is_plain(kind: type) -> bool:
    """Whether a class only holds values: exceptions and enumerations."""
    return issubclass(kind, BaseException | int | str | tuple)


def _refused_class(context: Context, module: str, kind: type) -> type:
    refuse = refusing(context, f"{module}.{kind.__name__}")

    def __new__(cls: type, *_: object, **__: object) -> NoReturn:
        refuse()

    try:
        return type(kind.__name__, (kind,), {"__new__": __new__, "__module__": module})
    except TypeError:
        # A class that cannot be subclassed is replaced outright.
        return type(kind.__name__, (), {"__new__": __new__, "__module__": module})
