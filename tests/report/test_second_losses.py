"""A power loss during the first save after another one, as a page: both are told, and which of them broke the promise.

Method: a golden document, which a test of this project has reported with a planted bug.
"""

from __future__ import annotations

import pytest

from storecheck.report import html, markdown, told
from storecheck.report.document import Crash, load
from tests.report.making import GOLDEN

RUN = load(GOLDEN / "recovery-B25.json")
EXAMPLE = RUN.examples[0]


def crash() -> Crash:
    """The crash of the golden example."""
    assert EXAMPLE.crash is not None
    return EXAMPLE.crash


def test_both_losses_are_cuts_of_one_list_of_operations() -> None:
    """The first is followed by what the store did when it came up; the version found then is named."""
    first, second = crash().cuts
    assert (first.kind, second.kind) == ("power loss", "power loss")
    assert first.text == "power loss; recovery finds v3, called v0 from here on"
    assert 0 < first.after < second.after == len(crash().operations)
    assert [each.number for each in crash().operations] == list(range(1, second.after + 1))


def test_what_the_second_loss_took_is_told_and_the_line_that_was_not_synced() -> None:
    """What the first one took is no part of it; only operations after it are marked in the source."""
    first, second = crash().cuts
    lost = [each for each in crash().operations if each.persisted == "no"]
    assert lost
    assert all(each.number > first.after for each in lost)
    assert second.lost == crash().lost
    notes = [line.note for source in EXAMPLE.sources for line in source.lines if line.marked]
    assert notes == [f"operation {each.number}, {each.verb}" for each in lost]


def test_the_grid_goes_on_with_the_numbers_of_the_list() -> None:
    """Its rows are the operations after the first loss, under the numbers that they have above."""
    first, second = crash().cuts
    listed = [f"{each.number} {each.verb}" for each in crash().operations if each.number > first.after]
    assert [row.after for row in crash().grid][: len(listed)] == listed
    (here,) = [row.after for row in crash().grid if any(cell.here for cell in row.cells)]
    assert here.startswith(f"{second.after} ")


def test_title_and_verdict_say_that_it_was_the_second_loss() -> None:
    """And that the store came up well after the first."""
    assert EXAMPLE.title == "A power loss during the first update() after another one leaves a damaged sessions.json"
    assert EXAMPLE.verdict[0].endswith("and the store came up as it should.")
    assert EXAMPLE.verdict[1].startswith("Lost when the power went for the second time: ")


@pytest.mark.parametrize("render", [html.render, markdown.render], ids=["page", "summary"])
def test_the_formats_show_both_cuts(render: object) -> None:
    """In order."""
    assert callable(render)
    shown = render(RUN)
    assert shown.index("called v0 from here on") < shown.index("Recovery sees" if "| # |" in shown else "recovery sees")


def test_the_counterexample_holds_both_losses() -> None:
    """Its last two calls; without the second nothing fails, for the first is none of the bug's."""
    document = told.load(GOLDEN / "recovery-B25.counterexample.json")
    assert [call.partition("(")[0] for call in document.calls[-2:]] == ["power_loss", "second_loss"]
    assert told.play(document.player, document.calls[:-1]).finding is None
