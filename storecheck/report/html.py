"""The page: one file that needs no network and no script, for screens, phones and paper.

Styles and the small script (copy, dark or light) are inside and allowed by their hashes; nothing else may run or load.
Everything shown is escaped by the template engine; `prose` alone makes markup, of escaped text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence as Several
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from storecheck.report import words
from storecheck.report.document import SCHEMA_ID, OutOfDate, Race, Run, Sequence, Span
from storecheck.report.sequences import CACHED

_CODE = re.compile(r"`([^`]+)`")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_LOOSE = Markup('<span class="any" title="any value fails the same way">{}</span>')
_VERSION = re.compile(r"v\d+")


def render(run: Run) -> str:
    """The whole page."""
    css, js = _shipped("report.css"), _shipped("report.js").strip()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            headline=words.headline(run),
            promise_headline=words.promise_headline(run),
            bounds_sentence=words.bounds_sentence(run),
            totals=list(words.totals(run)),
            figures=list(words.figure_rows(run)),
            css=Markup(css),  # noqa: S704 - shipped with this package
            js=Markup(js),  # noqa: S704
            style_hash=_hash(css),
            script_hash=_hash(js),
            schema=SCHEMA_ID,
        )
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _shipped(name: str) -> str:
    return (resources.files("storecheck.report") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_shipped),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        prose=prose,
        loosened=loosened,
        day=words.day,
        seen=words.seen,
        duration=words.duration,
        clock=words.clock,
        size=words.example_size,
        kind_name=words.kind_name,
        cut_at=words.cut_at,
        point_at=words.point_at,
        cut_text=words.cut_text,
        short_kind=lambda kind: "seq" if kind == "sequence" else kind,
        colour=lambda number: f"p{(number - 1) % 3 + 1}",
        authors=words.author_colours,
        window=_window,
        has_window=lambda race, process: _window(race, process) is not None,
        has_cache=_has_cache,
        has_wrong=_has_wrong,
        counts=words.counts_sentence,
        size_text=words.size_text,
        indent_part=lambda text: text[: len(text) - len(text.lstrip())],
        sampled=words.sampled,
        bounds=words.bounds,
        known_cause=words.known_cause,
        tests_cell=words.tests_cell,
        mutants=words.mutants_cell,
    )
    return environment


def _window(race: Race, process: int) -> OutOfDate | None:
    return next((window for window in race.out_of_date if window.process == process), None)


def _has_cache(sequence: Sequence) -> bool:
    """Whether a step answered without reading the file, or it is known what the process holds in memory."""
    return any(step.cache.startswith(CACHED) or "holds" in step.cache for step in sequence.steps)


def _has_wrong(sequence: Sequence) -> bool:
    return any(step.expected is not None for step in sequence.steps)


def prose(text: str) -> Markup:
    """Running text with `code` (a version becomes a chip) and **bold**."""
    marked = _BOLD.sub(r"<b>\1</b>", str(escape(text)))
    return Markup(_CODE.sub(_code, marked))  # noqa: S704 - escaped above


def loosened(text: str, spans: Several[Span]) -> Markup:
    """A call in which the values that may be anything are underlined."""
    parts, at = [], 0
    for span in spans:
        parts += [escape(text[at : span.start]), _LOOSE.format(text[span.start : span.end])]
        at = span.end
    return Markup("").join([*parts, escape(text[at:])])


def _code(match: re.Match[str]) -> str:
    return f'<span class="chip">{match[1]}</span>' if _VERSION.fullmatch(match[1]) else f"<code>{match[1]}</code>"
