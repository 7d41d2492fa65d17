"""What real systems did, beside what the models allow: the evidence that the models are not too strong.

`PROBES` pull the plug on a real ext4 and compare what is left with the legal states of the same program in the
simulated machine; `real_failures` does the same for calls that fail. A single outcome per probe: that an outcome is in
the model's set supports the model, that a state of the model was not met proves nothing. `tox run -e groundtruth` runs
`python -m tests.crash.ground_truth`, which writes the tables into docs/crash-states.md.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.crashes import store_bytes, store_process
from storecheck.crash import (
    EXT4_NOAUTO,
    EXT4_NOLOCK,
    EXT4_ORDERED,
    MODELS,
    PersistenceModel,
    Recording,
    Tree,
    crash_states,
    record,
)
from storecheck.crash.calibration import content_of, count_states, record_saver, saver_process
from storecheck.crash.savers import SAVERS
from storecheck.machine import MOUNT, Machine, Process
from tests.crash.real_failures import FAILURE_PROBES, FailureProbe, failure_table, observed, simulated, why_not
from tests.crash.real_failures import Outcome as FailureOutcome
from tests.crash.visibility import visibility_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "crash-states.md"
IMAGE_BYTES = 16 * 1024 * 1024
PROBE_TIMEOUT_S = 60
COMMIT_DELAY_S = 1.75
"""The journal is committed every second (`commit=1`): after this delay names are durable, delayed allocation is not."""

MOUNT_OPTIONS = {
    EXT4_ORDERED.name: ",dioread_lock",
    EXT4_NOAUTO.name: ",noauto_da_alloc,dioread_lock",
    EXT4_NOLOCK.name: "",
}
"""By model. `dioread_lock` was the default before Linux 5.6, and is what the documentation of ext4 describes."""

RACES = 20

Outcome = tuple[bytes | None, tuple[bytes, ...]]
"""Content of the store file, and of all other files: temporary names are random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One program on one kind of ext4.

    Attributes:
        program: a key of `savers.SAVERS`, or "store" for `SessionStore.save`.
        first: whether there is no file before.
        model: how ext4 is mounted, as the model that describes it.
        delay_s: how long after the program's end the plug is pulled.
    """

    program: str
    first: bool
    model: PersistenceModel
    delay_s: float = 0.0

    @property
    def repeats(self) -> int:
        """How often the table's plug is pulled: often where it races with writeback that the rename has begun."""
        return RACES if self.program == "no fsync" and not self.first and not self.delay_s else 1

    @property
    def options(self) -> str:
        """Further mount options."""
        return MOUNT_OPTIONS[self.model.name]

    def __str__(self) -> str:
        what = "first save" if self.first else "over an existing file"
        return f"{self.program}, {what}, {self.model.name}, {self.delay_s} s"


def _probes() -> tuple[Probe, ...]:
    quick = [
        Probe(program=program, first=first, model=model)
        for program in ("store", "correct", "no fsync", "no directory fsync", "no sync at all")
        for first in (True, False)
        for model in (EXT4_ORDERED, EXT4_NOAUTO, EXT4_NOLOCK)
    ]
    slow = [
        Probe(program=program, first=first, model=model, delay_s=COMMIT_DELAY_S)
        for program in ("no fsync", "no sync at all", "no directory fsync")
        for first, model in ((False, EXT4_ORDERED), (False, EXT4_NOAUTO), (False, EXT4_NOLOCK), (True, EXT4_NOLOCK))
    ]
    return (*quick, *slow)


PROBES = _probes()


def contents(probe: Probe) -> tuple[bytes | None, bytes]:
    """The file before and what is to be saved."""
    if probe.program == "store":
        before, after = (store_bytes(sessions=3, size_bytes=4_000, generation=number) for number in range(2))
    else:
        before, after = content_of(0), content_of(1)
    return None if probe.first else before, after


# In the model


def recorded(probe: Probe) -> Recording:
    """What the program of a probe does to the simulated disk."""
    before, content = contents(probe)
    machine = Machine(files={} if before is None else {"store": before})
    path = f"{MOUNT}/store"
    if probe.program == "store":
        process = store_process()
        package = process.modules["sessionstore"]

        def act(_: Process) -> None:
            package.SessionStore(path, package.Settings(maintenance_mode="off")).save(json.loads(content))
    else:
        process = saver_process()
        saver = process.modules["storecheck.crash.savers"].SAVERS[probe.program]

        def act(_: Process) -> None:
            saver(path, content, lambda: None)

    return record(machine, lambda: process.run(machine, act))


def allowed(probe: Probe) -> set[Outcome]:
    """Every outcome that the model allows once the program has ended."""
    recording = recorded(probe)
    end = len(recording.events)
    return {_outcome_of_tree(state.tree) for state in crash_states(recording, probe.model, cuts=None, first_event=end)}


def _outcome_of_tree(tree: Tree) -> Outcome:
    others = sorted(entry.content for path, entry in tree.items() if path != "store" and entry.kind == "file")
    store = tree.get("store")
    return (None if store is None else store.content, tuple(others))


# In reality


@functools.cache
def missing() -> str:
    """Why no plug can be pulled here; empty if one can."""
    if sys.platform != "linux":
        return "ext4 needs Linux"
    if os.geteuid() != 0:
        return "mounting needs root"
    for command in ("unshare", "mkfs.ext4", "mount", "umount", "cp"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            pull_the_plug(PROBES[0], Path(scratch))
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            return f"a loop-mounted ext4 is not possible here: {reason[-1] if reason else error}"
    return ""


def pull_the_plug(probe: Probe, scratch: Path) -> Outcome:
    """Run a probe on a real ext4 and say what was left.

    Raises:
        subprocess.CalledProcessError: mounting is not permitted, or the program failed.
    """
    before, content = contents(probe)
    request = {
        "program": probe.program,
        "before": None if before is None else base64.b64encode(before).decode(),
        "content": base64.b64encode(content).decode(),
        "options": probe.options,
        "delay_s": probe.delay_s,
        "image_bytes": IMAGE_BYTES,
        "scratch": str(scratch),
    }
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.crash.ext4_probe"],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=True,
        cwd=ROOT,
        timeout=PROBE_TIMEOUT_S,
    )
    found = {path: base64.b64decode(text) for path, text in json.loads(done.stdout).items()}
    store = found.pop("store", None)
    return (store, tuple(sorted(found.values())))


# For people


def shown(outcome: Outcome, probe: Probe) -> str:
    """An outcome in a few words."""
    before, after = contents(probe)
    content, others = outcome
    if content is None:
        words = "no file"
    elif content == after:
        words = "new, whole"
    elif content == before:
        words = "old, whole"
    else:
        words = f"**{len(content)} bytes{', with zeros' if 0 in content else ''}**"
    temporary = [other for other in others if other]
    return f"{words}, temporary file present" if temporary else words


def table(rows: Sequence[tuple[Probe, list[Outcome], set[Outcome]]]) -> str:
    """Outcomes beside what is allowed, as Markdown."""
    lines = [
        "| program | before | ext4 | plug pulled after | found | allowed by the model |",
        "|---|---|---|---|---|---|",
    ]
    for probe, outcomes, legal in rows:
        words = sorted({shown(each, probe) for each in legal})
        agrees = "" if legal.issuperset(outcomes) else " **DISAGREES**"
        counted = Counter(shown(outcome, probe) for outcome in outcomes).most_common()
        found = "; ".join(f"{count} times {what}" if len(outcomes) > 1 else what for what, count in counted)
        lines.append(
            f"| {probe.program} | {'no file' if probe.first else 'a file'} | {probe.model.name} | {probe.delay_s} s "
            f"| {found}{agrees} | {'; '.join(words)} |"
        )
    return "\n".join(lines) + "\n"


def saver_table() -> str:
    """Counts of the crash states of all example savers, as Markdown."""
    lines = ["| program | " + " | ".join(model.name for model in MODELS) + " |", "|---" * (len(MODELS) + 1) + "|"]
    for name in SAVERS:
        recording, oracle = record_saver(name)
        cells = [
            "/".join(str(count_states(recording, model, cuts=cuts, judge=oracle.judge)) for cuts in (0, 1, 2, None))
            for model in MODELS
        ]
        lines.append(f"| {name} | " + " | ".join(cell.replace("*", "\\*") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def rewrite(mark: str, content: str) -> None:
    """Put content between the marks of the page."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->\n"
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(head + begin + content + end + rest.partition(end)[2], encoding="utf-8")


def rows_between(mark: str) -> list[list[str]]:
    """The cells of a table in the page, without its head."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    content, end, _ = rest.partition(f"<!-- /{mark} -->\n")
    if not end:
        raise LookupError(f"{PAGE.name} has no part called {mark}")
    lines = [line for line in content.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def pull_all_plugs() -> tuple[str, bool]:
    """The table of all probes, and whether each outcome is one that its model allows."""
    rows = []
    for number, probe in enumerate(PROBES, start=1):
        outcomes = []
        for _ in range(probe.repeats):
            with tempfile.TemporaryDirectory() as scratch:
                outcomes.append(pull_the_plug(probe, Path(scratch)))
        rows.append((probe, outcomes, allowed(probe)))
        found = ", ".join(sorted({shown(outcome, probe) for outcome in outcomes}))
        sys.stderr.write(f"[{number}/{len(PROBES)}] {probe}: {found}\n")
    return table(rows), all(legal.issuperset(outcomes) for _, outcomes, legal in rows)


def meet_all_failures() -> tuple[str, bool]:
    """The table of all failures, and whether each ends as the simulated one."""
    rows: list[tuple[FailureProbe, FailureOutcome | str]] = []
    for probe in FAILURE_PROBES:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append((probe, why_not(probe) or observed(probe, Path(scratch))))
        sys.stderr.write(f"{probe}: {rows[-1][1]}\n")
    return failure_table(rows), all(isinstance(found, str) or found in simulated(probe) for probe, found in rows)


def main() -> None:
    """Count, run all probes, and write the tables into the documentation."""
    rewrite("savers", saver_table())
    rewrite("visible", visibility_table())
    impossible = missing() or "".join(filter(None, {why_not(probe) for probe in FAILURE_PROBES}))
    if impossible:
        # No error: a machine that does not permit this is no fault of the store. The tables stay as they are.
        sys.stderr.write(f"SKIPPED, the tables of what was found are not rewritten: {impossible}\n")
        return
    failures, failures_agree = meet_all_failures()
    rewrite("failures", f"Linux {platform.release()}.\n\n{failures}")
    plugs, plugs_agree = pull_all_plugs()
    rewrite("ground truth", f"Linux {platform.release()}.\n\n{plugs}")
    if not plugs_agree:
        sys.exit("an outcome is in no model: the model is too strong")
    if not failures_agree:
        sys.exit("a failure ends otherwise than in the simulation")


if __name__ == "__main__":
    main()
