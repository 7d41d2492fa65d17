"""Writes a counterexample as a test of its own: a plain pytest function that needs no Hypothesis.

The document is written beside the test, so the test is a few lines that people can read, and replays exactly.
"""

from __future__ import annotations

import re

RACE = '''"""{title}

{kind} {id}, written by storecheck. Fails as long as the bug is there; needs pytest and storecheck, no Hypothesis.
"""

from pathlib import Path

from storecheck.counterexample import load
from storecheck.report.examples import reproduce


def test_{name}() -> None:
    """{promise}"""
    finding = reproduce(load(Path(__file__).with_name("counterexample.json")))
    assert finding is None, finding.message
'''

CRASH = '''"""{title}

{kind} {id}, written by storecheck. Fails as long as the bug is there; needs pytest and storecheck, no Hypothesis.
"""

from pathlib import Path

from storecheck.report.examples import load_crash, transform_of
from storecheck.report.crashes import record_run
from storecheck.crash.recovery import check


def test_{name}() -> None:
    """{promise}"""
    document = load_crash(Path(__file__).with_name("counterexample.json"))
    run = record_run(
        document.program, choices=document.choices, file=document.file, transform=transform_of(document)
    )
    report = check(run.recording, run.oracle)
    assert not report.failures, str(report)
'''

TOLD = '''"""{title}

{kind} {id}, written by storecheck. Fails as long as the bug is there; needs pytest and storecheck, no Hypothesis.
"""

from pathlib import Path

from storecheck.report.told import load


def test_{name}() -> None:
    """{promise}"""
    document = load(Path(__file__).with_name("counterexample.json"))
    told = document.play()
    assert told.finding is None, told.finding.message
'''


HISTORY = '''"""{title}

{kind} {id}, written by storecheck. Runs the race again, with real processes: that is not deterministic, so a run may go
well while the bug is there. Needs pytest and storecheck, no Hypothesis.
"""

from pathlib import Path

from storecheck.report.histories import load, rerun

TIMES = 5


def test_{name}() -> None:
    """{promise}"""
    for problem in rerun(load(Path(__file__).with_name("counterexample.json")), times=TIMES):
        assert not problem, problem
'''


def reproducer(*, template: str, identifier: str, kind: str, title: str, promise: str) -> str:
    """The text of the test file."""
    name = re.sub(r"\W+", "_", identifier)
    safe = [text.replace("\\", "\\\\").replace('"""', "'''") for text in (title, promise or title)]
    return template.format(id=identifier, name=name, kind=kind, title=f"{safe[0]}.", promise=f"{safe[1].rstrip('.')}.")
