"""Limits of the store: what may be held in memory, for how long, and how long to wait for the lock.

The environment is parsed by one strict grammar (surrounding white space, an optional sign, ASCII digits,
0 … 2^53-1), because a limit that is misread is worse than one that is refused: everything else means the default
and is reported. `Settings` built by hand is validated and never falls back.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

OBJECT_CACHE_VARIABLE = "OPENCLAW_SESSION_OBJECT_CACHE_MAX_BYTES"
CACHE_TTL_VARIABLE = "OPENCLAW_SESSION_CACHE_TTL_MS"
SERIALIZED_CACHE_VARIABLE = "OPENCLAW_SESSION_SERIALIZED_CACHE_MAX_BYTES"

MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer that every program sharing the environment, JavaScript included, represents exactly."""

JS_WHITE_SPACE = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""What `String.prototype.trim` removes (ECMAScript, WhiteSpace and LineTerminator). The file and the variables are
shared with a JavaScript program; `str.strip` would also remove U+001C to U+001F and U+0085."""

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_MAX_INTEGER_DIGITS = 16  # of 2^53-1; longer numbers are out of range, and int() refuses very long ones by itself

MaintenanceMode = Literal["off", "warn", "enforce"]
_MODES: tuple[MaintenanceMode, ...] = ("off", "warn", "enforce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of one store. Invalid values raise `ValueError`.

    Attributes:
        object_cache_max_bytes: a file larger than this is never kept parsed; also the bound over all files of this
            process. 0 switches the cache off.
        cache_ttl_ms: what was read longer ago than this is never served from memory. 0 switches the caches off.
        serialized_cache_max_bytes: bound on the file bytes kept in this process, over all files.
        lock_timeout_s: how long a write waits for the lock; 0 tries once.
        maintenance_mode: `warn` logs what `enforce` would do; `off` does neither.
        prune_after_ms: `enforce` removes entries whose `updatedAt` is older than this.
        max_entries: `enforce` keeps this many of the newest entries.
        rotate_bytes: `enforce` backs up a file larger than this before replacing it.
    """

    object_cache_max_bytes: int = 1_000_000
    cache_ttl_ms: int = 45_000
    serialized_cache_max_bytes: int = 64 * 1024 * 1024
    lock_timeout_s: float = 10.0
    maintenance_mode: MaintenanceMode = "warn"
    prune_after_ms: int = 30 * 24 * 60 * 60 * 1000
    max_entries: int = 500
    rotate_bytes: int = 10 * 1024 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "maintenance_mode":
                if value not in _MODES:
                    raise ValueError(f"maintenance_mode is {value!r}. Give one of {', '.join(map(repr, _MODES))}.")
            elif field.name == "lock_timeout_s":
                # An upper bound as well: threading refuses waits beyond about 292 years with an OverflowError.
                if (
                    isinstance(value, bool)
                    or not isinstance(value, int | float)
                    or not 0 <= value <= MAX_LOCK_TIMEOUT_S
                ):
                    raise ValueError(
                        f"lock_timeout_s is {value!r}. Give seconds between 0 and {MAX_LOCK_TIMEOUT_S}, such as 10.0."
                    )
            elif isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SAFE_INTEGER:
                raise ValueError(f"{field.name} is {value!r}. Give a whole number between 0 and {MAX_SAFE_INTEGER}.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from the three environment variables; a variable that is unset or not understood means its default.

        Reads nothing but `environ` and logs nothing; `misread_variables` tells what was not understood.
        """
        return _parse(*(environ.get(variable) for variable in _VARIABLES))[0]


MAX_LOCK_TIMEOUT_S = 7 * 24 * 60 * 60
"""One week. A longer wait is a hang."""

_FIELD_OF = {
    OBJECT_CACHE_VARIABLE: "object_cache_max_bytes",
    CACHE_TTL_VARIABLE: "cache_ttl_ms",
    SERIALIZED_CACHE_VARIABLE: "serialized_cache_max_bytes",
}
_VARIABLES = tuple(_FIELD_OF)
_DEFAULTS = {field.name: field.default for field in fields(Settings)}


@dataclass(frozen=True, slots=True)
class MisreadVariable:
    """An environment variable whose value was not understood, so that its default is in force."""

    variable: str
    value: str

    def __str__(self) -> str:
        default = _DEFAULTS[_FIELD_OF[self.variable]]
        unit, example = ("milliseconds", 45_000) if self.variable == CACHE_TTL_VARIABLE else ("bytes", 1_000_000)
        shown = self.value if len(self.value) <= 100 else self.value[:100] + "…"
        return (
            f"{self.variable} is {shown!r}; using {default}. Give whole {unit} between 0 and {MAX_SAFE_INTEGER} in "
            f"ASCII digits, such as {example}; 0 switches it off."
        )


def misread_variables(environ: Mapping[str, str]) -> tuple[MisreadVariable, ...]:
    """The variables of `environ` that `Settings.from_env` did not understand."""
    return _parse(*(environ.get(variable) for variable in _VARIABLES))[1]


def parse_limit(text: str) -> int | None:
    """The whole number that `text` spells in the environment's grammar, or None."""
    trimmed = text.strip(JS_WHITE_SPACE)
    if not _INTEGER.fullmatch(trimmed):
        return None
    digits = trimmed.lstrip("+-").lstrip("0") or "0"
    if len(digits) > _MAX_INTEGER_DIGITS:
        return None
    value = -int(digits) if trimmed.startswith("-") else int(digits)
    return value if 0 <= value <= MAX_SAFE_INTEGER else None


@functools.lru_cache(maxsize=16)
def _parse(*texts: str | None) -> tuple[Settings, tuple[MisreadVariable, ...]]:
    # A pure function of the texts: the environment itself is read at every operation.
    values: dict[str, int] = {}
    misread: list[MisreadVariable] = []
    for variable, text in zip(_VARIABLES, texts, strict=True):
        if text is None:
            continue
        value = parse_limit(text)
        if value is None:
            misread.append(MisreadVariable(variable, text))
        else:
            values[_FIELD_OF[variable]] = value
    return Settings(**values), tuple(misread)  # type: ignore[arg-type]  # only the three integer fields
