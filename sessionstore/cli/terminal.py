"""Text that any terminal or pipe can take, and progress that does not get into it.

Keys, labels and file names may hold any character. Shown raw, a control character could move the cursor or clear the
screen, and a right-to-left override could show one key as another.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

_PROGRESS_INTERVAL_NS = 200_000_000
_PLAIN_PROGRESS_INTERVAL_NS = 5_000_000_000
_CLEAR_LINE = "\r\x1b[K"


_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""`text` in one line: what is not printable (controls, line breaks, overrides, lone surrogates) as `\uXXXX`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _SHORT_ESCAPES.get(character) or _escape(character)
        for character in text
    )


def counted(count: int, noun: str) -> str:
    """`count` of something, with the noun in its number."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def json_text(text: str, stream: TextIO) -> str:
    """JSON `text` with `stream`'s limits respected: still the same JSON value.

    Characters that the stream cannot encode are escaped; on a terminal also those that are not printable. Line breaks
    between tokens stay.
    """
    encoding = (stream.encoding or "ascii").lower().replace("_", "-")
    everything = encoding in ("utf-8", "utf8")
    terminal = stream.isatty()
    if text.isascii() and not terminal:
        return text
    return "".join(
        character
        if character == "\n" or (character.isascii() and character >= " " and character != "\x7f")
        else _escape(character)
        if not everything or (terminal and not character.isprintable())
        else character
        for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000  # JSON spells these as two surrogates
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def to_stdout(text: str) -> None:
    """Write a line of the result, at once. An error says that it is one of standard output, not of the store's disk."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"standard output: {error.strerror}") from error


def to_stderr(text: str) -> None:
    """Write a line that is not part of the result, at once. Where that fails, the work goes on: it is only a remark."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[str] = frozenset()) -> list[str]:
    """Lines of a table with aligned columns; those named in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(heading, row, widths, strict=True)
        ).rstrip()
        for row in (heading, *rows)
    ]


def is_decorated(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that may get colours and moving lines (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Progress:
    """How far long work has come, on stderr: one line that moves on a terminal, a line now and then elsewhere."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._moving = is_decorated(sys.stderr)
        self._shown_ns = time.monotonic_ns()
        self._open = False

    def show(self, done: int, total: int) -> None:
        """Say that `done` of `total` is done, unless that was said just now."""
        now_ns = time.monotonic_ns()
        interval_ns = _PROGRESS_INTERVAL_NS if self._moving else _PLAIN_PROGRESS_INTERVAL_NS
        if now_ns - self._shown_ns < interval_ns:
            return
        self._shown_ns = now_ns
        line = f"{self._subject}: {done} of {total}"
        if self._moving:
            sys.stderr.write(f"{_CLEAR_LINE}{line}")
            self._open = True
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
