"""Interleaved rounds, and what may be concluded from them.

Two programs measured one after the other differ by whatever else the machine did meanwhile. So every round gives each
subject one turn, in an order that moves on by one each round, the first round only warms up and is thrown away, and
subjects are compared by the ratio of their medians. The ratio inside each round says how far that can be trusted.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Turn: TypeAlias = Callable[[], Mapping[str, float]]
"""One subject's turn in one round: quantity -> value."""

WARM_UP_ROUNDS = 1


class TurnFailedError(Exception):
    """A subject cannot be measured. It takes no further turns, and the report says why."""


@dataclass(frozen=True, slots=True)
class Series:
    """What one subject showed in one quantity, one value per round."""

    subject: str
    quantity: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the 10th and 90th percentile of its rounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """Everything that one set of interleaved rounds gave, and who could not be measured why."""

    series: tuple[Series, ...]
    failures: tuple[tuple[str, str], ...] = ()

    def of(self, *, subject: str, quantity: str) -> Series | None:
        """That subject's series, or None if it was not measured."""
        found = (one for one in self.series if (one.subject, one.quantity) == (subject, quantity))
        return next(found, None)

    def why_missing(self, *subjects: str) -> str:
        """Which of `subjects` gave no figure; the reasons are in `failures`."""
        failed = {subject for subject, _ in self.failures}
        return ", ".join(
            f"{subject} {'failed' if subject in failed else 'was not measured'}"
            for subject in subjects
            if not any(series.subject == subject for series in self.series)
        )


def interleave(
    turns: Mapping[str, Turn],
    *,
    rounds: int,
    before_turn: Callable[[str, int], None],
    warm_up_rounds: int = WARM_UP_ROUNDS,
) -> Rounds:
    """Give every subject one turn per round and keep the values of all but the warm-up rounds.

    Args:
        turns: subject -> its turn.
        rounds: how many rounds count.
        before_turn: called with subject and round number before each turn, untimed.
        warm_up_rounds: how many rounds are run first and not counted.
    """
    values: dict[tuple[str, str], list[float]] = {}
    failures: dict[str, str] = {}
    subjects = list(turns)
    for number in range(warm_up_rounds + rounds):
        for subject in turn_order(subjects, number=number):
            if subject in failures:
                continue
            before_turn(subject, number)
            try:
                measured = turns[subject]()
            except TurnFailedError as failure:
                failures[subject] = str(failure)
                continue
            if number >= warm_up_rounds:
                for quantity, value in measured.items():
                    values.setdefault((subject, quantity), []).append(value)
    # Half a series compares with nothing: rounds would no longer pair up.
    complete = sorted((name for name in values if name[0] not in failures), key=lambda name: subjects.index(name[0]))
    kept = tuple(Series(*name, tuple(values[name])) for name in complete)
    return Rounds(kept, tuple(failures.items()))


def turn_order(subjects: Sequence[str], *, number: int) -> list[str]:
    """The order of round `number`: rotated by one each round, so that nobody always follows the same subject first."""
    shift = number % len(subjects) if subjects else 0
    return [*subjects[shift:], *subjects[:shift]]


def estimate(values: Sequence[float]) -> Estimate:
    """Median and spread of the rounds."""
    return Estimate(statistics.median(values), *_spread(values))


def ratio(numerator: Series, denominator: Series) -> Estimate:
    """Ratio of the medians; the spread is that of the ratios within each round."""
    within_rounds = [one / other for one, other in zip(numerator.rounds, denominator.rounds, strict=True)]
    return Estimate(numerator.median / denominator.median, *_spread(within_rounds))


def difference(minuend: Series, subtrahend: Series) -> Estimate:
    """Difference of the medians; the spread is that of the differences within each round."""
    within_rounds = [one - other for one, other in zip(minuend.rounds, subtrahend.rounds, strict=True)]
    return Estimate(minuend.median - subtrahend.median, *_spread(within_rounds))


def percentile(values: Sequence[float], *, percent: float) -> float:
    """The smallest of `values` that at least `percent` of them do not exceed (nearest rank, so it did occur)."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def jain_index(shares: Sequence[float]) -> float:
    """Fairness of a division: 1 if all shares are equal, 1/n if one of n takes all.

    R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and Discrimination", DEC TR-301, 1984.
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A line that a figure has to stay under or get over."""

    text: str
    sense: Literal["at most", "at least"]
    limit: float
    unit: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a figure stands to its bar. A figure that could not be had is `not measured`, which is never a hit."""

    bar: Bar
    outcome: Literal["hit", "MISS", "not measured"]
    measured: Estimate | None
    remark: str = ""


def judge(bar: Bar, measured: Estimate | None, *, remark: str = "") -> Verdict:
    """Compare the median with the bar; say so when the spread of the rounds reaches over it."""
    if measured is None:
        return Verdict(bar, "not measured", None, remark)
    met = measured.value <= bar.limit if bar.sense == "at most" else measured.value >= bar.limit
    if measured.low < bar.limit < measured.high:
        remark = "; ".join(filter(None, (remark, "the spread reaches across the bar")))
    return Verdict(bar, "hit" if met else "MISS", measured, remark)


def _spread(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return deciles[0], deciles[-1]
