"""The models and the fault loops beside reality: each outcome that is seen for real must be one that is expected.

Goal: no model is too strong, and no simulated failure is a fairy tale. Method: the same programs on a real ext4 whose
image is copied while mounted, on a full tmpfs, under RLIMIT_FSIZE and under `strace -e inject`. What the machine does
not permit is skipped, with the reason.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from models.crashes import FILE
from storecheck.crash import EXT4_NOLOCK
from storecheck.pytest_plugin import Evidence
from tests.crash import ground_truth
from tests.crash.ground_truth import PROBES, Probe, allowed, pull_the_plug, rows_between, saver_table, shown
from tests.crash.real_failures import FAILURE_PROBES, FailureProbe, observed, simulated, why_not

IN_EVERY_RUN = [
    probe
    for probe in PROBES
    if not probe.delay_s
    and ((probe.program == "no fsync" and not probe.first) or (probe.program == "store" and probe.model is EXT4_NOLOCK))
]
"""A probe takes one to three seconds. `tox run -e groundtruth` runs all of them."""


@pytest.mark.promise("WRITE3")
@pytest.mark.parametrize("probe", IN_EVERY_RUN, ids=str)
def test_what_a_real_ext4_loses_is_what_the_model_allows(probe: Probe, tmp_path: Path, evidence: Evidence) -> None:
    """WRITE3: what is left on a real ext4 after the plug was pulled is one of the model's states."""
    reason = ground_truth.missing()
    if reason:
        pytest.skip(reason)
    outcome, legal = pull_the_plug(probe, tmp_path), allowed(probe)
    evidence.add(crash_states=1)
    assert outcome in legal, f"found {shown(outcome, probe)}, allowed {sorted(shown(each, probe) for each in legal)}"
    if probe.program in ("store", "correct"):
        assert outcome[0] == ground_truth.contents(probe)[1]


@pytest.mark.promise("WRITE5")
@pytest.mark.parametrize("probe", FAILURE_PROBES, ids=str)
def test_a_real_failure_ends_as_the_simulated_one(probe: FailureProbe, tmp_path: Path) -> None:
    """WRITE5: limits, a full disk and errors from the kernel end as in the simulation, and leave a whole version."""
    reason = why_not(probe)
    if reason:
        pytest.skip(reason)
    outcome = observed(probe, tmp_path)
    assert outcome in simulated(probe), f"really {outcome}, simulated {[str(each) for each in simulated(probe)]}"
    assert outcome.same
    assert outcome.left == (FILE, f"{FILE}.flock")
    # What failed before the rename left the old version; after it, the error says so.
    is_new = outcome.error is None or outcome.error[0] == "UnknownOutcomeError"
    assert outcome.sessions == (1 if is_new else 3)


# The tables in the documentation


def test_the_documented_counts_are_those_of_today() -> None:
    """The table of careless savers is what counting gives."""
    counted = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in saver_table().splitlines()[2:]]
    assert rows_between("savers") == counted


def test_the_documented_ground_truth_is_what_the_models_allow_today() -> None:
    """Each probe has its row, what was found is allowed, and what is said to be allowed is so today."""
    rows = rows_between("ground truth")
    assert len(rows) == len(PROBES)
    for row, probe in zip(rows, PROBES, strict=True):
        words = sorted({shown(outcome, probe) for outcome in allowed(probe)})
        before = "no file" if probe.first else "a file"
        assert [*row[:4], row[5]] == [
            probe.program, before, probe.model.name, f"{probe.delay_s} s", "; ".join(words)
        ]  # fmt: skip
        found = [each.partition(" times ")[2] or each for each in row[4].split("; ")]
        assert set(found) <= set(words), row


def test_the_documented_failures_are_those_that_are_simulated_today() -> None:
    """Each failure has its row, and what was found is what the simulation gives today."""
    rows = rows_between("failures")
    assert [row[0] for row in rows] == [str(probe) for probe in FAILURE_PROBES]
    for row, probe in zip(rows, FAILURE_PROBES, strict=True):
        assert row[2] == " or ".join(sorted(map(str, simulated(probe))))
        assert row[1] in row[2].split(" or "), row
