"""Annotations on the source lines that decide, at most ten: GitHub's workflow commands, GitLab's code quality file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from storecheck.report import words
from storecheck.report.document import Example, Run

MAX_ANNOTATIONS: Final = 10
"""GitHub shows ten of a step and drops the rest without a word; so the rest is counted in the last one."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A remark on one line of a file; `path` is empty if no line decides."""

    path: str
    line: int
    title: str
    text: str
    fingerprint: str


def notices(run: Run) -> list[Annotation]:
    """One per failing example, before them one for missing shards; at most `MAX_ANNOTATIONS`."""
    found = [_annotation(example) for example in run.examples]
    if run.missing_shards:
        title = f"No report of shard {', '.join(map(str, run.missing_shards))}"
        found.insert(0, Annotation("", 0, title, "What would have been found there is not known.", "missing-shards"))
    if len(found) > MAX_ANNOTATIONS:
        rest = len(found) - MAX_ANNOTATIONS + 1
        last = Annotation("", 0, f"{rest} more failing examples", "See the report.", "more")
        found = [*found[: MAX_ANNOTATIONS - 1], last]
    return found


def _annotation(example: Example) -> Annotation:
    marked = [(each.path, line) for each in example.sources for line in each.lines if line.marked]
    path, number = (marked[0][0], marked[0][1].number) if marked else ("", 0)
    text = f"{words.plain(' '.join(example.verdict))} Replay: {example.replay}"
    return Annotation(path, number, example.title, text, example.fingerprint)


def github(run: Run) -> Iterator[str]:
    """Workflow commands, one a line."""
    for each in notices(run):
        yield github_error(each.title, each.text, path=each.path, line=each.line)


def github_error(title: str, text: str, *, path: str = "", line: int = 0) -> str:
    """The workflow command that shows an error, at a line of a file if one is given."""
    place = f"file={_property(path)},line={line}," if path else ""
    return f"::error {place}title={_property(title)}::{_message(text)}"


def gitlab(run: Run) -> list[dict[str, object]]:
    """Entries of a code quality report."""
    return [
        {
            "description": f"{each.title}. {each.text}",
            "check_name": "storecheck",
            "fingerprint": each.fingerprint,
            "severity": "critical",
            "location": {"path": each.path or "storecheck", "lines": {"begin": max(1, each.line)}},
        }
        for each in notices(run)
    ]


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
