"""The judgement of the benchmarks: order of turns, ratios, spread, verdicts. No clock is involved."""

import pytest

from benchmarks.rounds import (
    Bar,
    Estimate,
    Series,
    TurnFailedError,
    difference,
    estimate,
    interleave,
    jain_index,
    judge,
    percentile,
    ratio,
    turn_order,
)

BAR = Bar("update", "at most", 1.3, "x")


def _ignore(_subject: str, _number: int) -> None:
    pass


def test_every_round_gives_each_subject_one_turn_and_the_order_moves_on() -> None:
    """Interleaved: no subject is measured in one block, and none always follows the same subject first."""
    order: list[tuple[int, str]] = []
    turns = dict.fromkeys("abc", lambda: {"ms": 1.0})
    interleave(turns, rounds=2, before_turn=lambda subject, number: order.append((number, subject)))
    assert [subject for number, subject in order if number == 0] == ["a", "b", "c"]
    assert [subject for number, subject in order if number == 1] == ["b", "c", "a"]
    assert [subject for number, subject in order if number == 2] == ["c", "a", "b"]
    assert turn_order([], number=3) == []


def test_the_warm_up_round_is_not_counted() -> None:
    """The first round pays for cold caches; its values are thrown away."""
    values = iter([900.0, 1.0, 2.0, 3.0])
    rounds = interleave({"a": lambda: {"ms": next(values)}}, rounds=3, before_turn=_ignore)
    assert rounds.series == (Series("a", "ms", (1.0, 2.0, 3.0)),)


def test_a_subject_that_fails_is_named_with_its_reason_and_gives_no_figures() -> None:
    """A failure in any round removes the subject's figures and says why; the others go on."""
    turns_taken = []

    def fails_late() -> dict[str, float]:
        turns_taken.append(1)
        if len(turns_taken) == 3:
            raise TurnFailedError("file destroyed")
        return {"ms": 1.0}

    rounds = interleave({"bad": fails_late, "good": lambda: {"ms": 2.0}}, rounds=4, before_turn=_ignore)
    assert rounds.failures == (("bad", "file destroyed"),)
    assert rounds.of(subject="bad", quantity="ms") is None
    assert rounds.of(subject="good", quantity="ms") == Series("good", "ms", (2.0,) * 4)
    assert rounds.why_missing("bad", "good", "ugly") == "bad failed, ugly was not measured"
    assert len(turns_taken) == 3


def test_a_ratio_is_that_of_the_medians_with_the_spread_within_the_rounds() -> None:
    """A machine that slows down for a whole round changes times, not ratios."""
    ours = Series("ours", "ms", (10.0, 10.0, 100.0))
    raw = Series("raw", "ms", (8.0, 8.0, 80.0))
    assert ratio(ours, raw) == Estimate(1.25, 1.25, 1.25)
    uneven = ratio(Series("ours", "ms", (8.0, 10.0, 16.0)), Series("raw", "ms", (8.0, 8.0, 8.0)))
    assert uneven.value == 1.25
    assert 1.0 <= uneven.low < 1.25 < uneven.high <= 2.0


def test_a_difference_is_that_of_the_medians_with_the_spread_within_the_rounds() -> None:
    """What a program adds to a bare interpreter is compared round by round."""
    added = difference(Series("status", "ms", (30.0, 40.0, 50.0)), Series("bare", "ms", (10.0, 20.0, 30.0)))
    assert added == Estimate(20.0, 20.0, 20.0)


def test_a_slow_figure_is_a_miss_and_a_fast_one_a_hit() -> None:
    """The harness can report a MISS: a bar is met at its limit and missed just beyond it, in either sense."""
    assert judge(BAR, Estimate(1.3, 1.3, 1.3)).outcome == "hit"
    assert judge(BAR, Estimate(1.31, 1.31, 1.31)).outcome == "MISS"
    at_least = Bar("rate", "at least", 5.0, "x")
    assert judge(at_least, Estimate(5.0, 5.0, 5.0)).outcome == "hit"
    assert judge(at_least, Estimate(4.9, 4.9, 4.9)).outcome == "MISS"


def test_a_missing_figure_is_not_measured_and_never_a_hit() -> None:
    """What could not be measured has met nothing."""
    verdict = judge(BAR, None, remark="raw limit: disk full")
    assert (verdict.outcome, verdict.remark) == ("not measured", "raw limit: disk full")


def test_a_spread_that_reaches_over_the_bar_is_said() -> None:
    """A median on one side with rounds on the other is a weaker statement, and is marked as one."""
    assert "across the bar" in judge(BAR, Estimate(1.2, 1.0, 1.5)).remark
    assert judge(BAR, Estimate(1.2, 1.1, 1.25)).remark == ""


def test_the_spread_leaves_out_the_outer_tenths() -> None:
    """Median, 10th and 90th percentile; a single round has no spread."""
    assert estimate([float(value) for value in range(11)]) == Estimate(5.0, 1.0, 9.0)
    assert estimate([7.0]) == Estimate(7.0, 7.0, 7.0)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0), (0.1, 1.0)], ids=str)
def test_a_percentile_is_a_value_that_occurred(percent: float, expected: float) -> None:
    """Nearest rank: the p99 of a hundred waits is the second longest of them."""
    assert percentile([float(value) for value in range(100, 0, -1)], percent=percent) == expected


def test_jains_index_is_one_for_equal_shares_and_one_nth_for_a_single_winner() -> None:
    """The two ends of the scale, and nobody getting anything is not fairness."""
    assert jain_index([5, 5, 5, 5]) == 1.0
    assert jain_index([8, 0, 0, 0]) == 0.25
    assert jain_index([0, 0]) == 0.0
