"""Whether a series of figures has changed by a step, such as when an image got slower.

Noise is no step, nor is an outlier, a slow drift, or a machine that is now fast and now slow.

The test works on medians, since times have long tails and one slow run must not count. A series is cut into parts so
that their absolute deviation from their medians is least, with a price for each part. Of these cuts those are taken
back that are no steps, the least one first. A cut is a step if all of these hold for the parts beside it:

- the medians differ by SHARE of the first and by SECONDS: what is smaller does not matter, however certain it is;
- they differ by SIGMAS of the noise. That is estimated by the median absolute deviation from the parts' medians, or by
  the median change from one run to the next, whichever is greater, each scaled so that it is the standard deviation
  where noise is normal (Rousseeuw and Croux, 1993: 1.4826 times; by the square root of two less for changes);
- LEAST runs of each part are nearer to their own median than to the other, so that three outliers are no step;
- of all pairs of a run before and a run after, SUPERIORITY have the same order as the medians: the common language
  effect size (McGraw and Wong, 1992), which does not ask how the figures are distributed;
- two levels fit both parts together better by BETTER than one line (Theil and Sen) that rises or falls all along;
- the lines through each part are apart by JUMP of the medians' difference where they meet, not so where a drift ends;
- the whole series does not go to and fro between the two levels, STREAKS times or more: a machine of two speeds does.
  One change and its repair are two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from math import log, sqrt
from statistics import median

LEAST = 4
SHARE = 0.15
SECONDS = 0.5
SIGMAS = 2.5
SUPERIORITY = 0.9
BETTER = 0.75
JUMP = 0.5
STREAKS = 4
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class StepChange:
    """From the figure at `index` on, the series is at another level."""

    index: int
    before: float
    after: float
    """The medians of what comes before, and of what comes from there on."""

    @property
    def share(self) -> float:
        """The change as a share of what was before: 0.5 for half as much again."""
        return (self.after - self.before) / self.before if self.before else float("inf")


def steps(figures: Sequence[float]) -> list[StepChange]:
    """Find the steps of a series, which is in the order of time.

    >>> steps([10, 11, 10, 12, 10, 20, 21, 19, 20])
    [StepChange(index=5, before=10, after=20.0)]
    >>> steps([10, 11, 10, 12, 60, 10, 11, 10, 11])
    []
    """
    if len(figures) < 2 * LEAST:
        return []
    moves = [abs(late - early) for early, late in pairwise(figures)]
    noise = _MAD_TO_SIGMA / sqrt(2) * median(moves)
    cuts = [0, *_cuts(figures, noise), len(figures)]
    while True:
        parts = [figures[begin:end] for begin, end in pairwise(cuts)]
        changes = [median(after) - median(before) for before, after in pairwise(parts)]
        wrong = [
            n
            for n, (before, after) in enumerate(pairwise(parts))
            if not (_is_step(before, after, noise) and not _has_two_speeds(figures, before, after))
        ]
        if not wrong:
            return [
                StepChange(cut, median(before), median(after))
                for cut, (before, after) in zip(cuts[1:-1], pairwise(parts), strict=True)
            ]
        least = min(wrong, key=lambda n: abs(changes[n]))
        del cuts[least + 1]


def _cuts(figures: Sequence[float], noise: float) -> list[int]:
    """Cut a series where that costs least, and give the indices; by dynamic programming over the last part's beginning.

    A part costs its deviation from its median, and a price that is as the Bayesian information criterion has it for
    Laplace's distribution.
    """
    count = len(figures)
    scale = max(noise, SHARE * median(figures) / SIGMAS) / sqrt(2)
    price = 2 * scale * log(count)
    least: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for end in range(LEAST, count + 1):
        ways = [
            (cost + _deviation(figures[begin:end]) + price, [*cuts, begin])
            for begin, (cost, cuts) in least.items()
            if end - begin >= LEAST
        ]
        least[end] = min(ways)
    return least[count][1][1:]


def _deviation(figures: Sequence[float]) -> float:
    middle = median(figures)
    return sum(abs(one - middle) for one in figures)


def _is_step(before: Sequence[float], after: Sequence[float], noise: float) -> bool:
    low, high = median(before), median(after)
    spread = _MAD_TO_SIGMA * median([*(abs(one - low) for one in before), *(abs(one - high) for one in after)])
    if abs(high - low) < max(SHARE * low, SECONDS, SIGMAS * spread, SIGMAS * noise):
        return False
    for own, part, other in ((low, before, high), (high, after, low)):
        if sum(abs(one - own) < abs(one - other) for one in part) < LEAST:
            return False
    sign = 1 if high > low else -1
    ordered = sum(sign * (late - early) > 0 for early in before for late in after)
    if ordered < SUPERIORITY * len(before) * len(after):
        return False
    if _deviation(before) + _deviation(after) > BETTER * _deviation(_without_slope([*before, *after])):
        return False
    return sign * (_at(after, -0.5) - _at(before, len(before) - 0.5)) >= JUMP * abs(high - low)


def _slope(figures: Sequence[float]) -> float:
    """Give the slope of the line through figures: the median of all pairs' slopes."""
    return median((late - early) / (end - begin) for (begin, early), (end, late) in combinations(enumerate(figures), 2))


def _without_slope(figures: Sequence[float]) -> list[float]:
    slope = _slope(figures)
    return [one - slope * index for index, one in enumerate(figures)]


def _at(figures: Sequence[float], index: float) -> float:
    """Give where the line through figures is at an index, which may be outside of them."""
    return _slope(figures) * index + median(_without_slope(figures))


def _has_two_speeds(figures: Sequence[float], before: Sequence[float], after: Sequence[float]) -> bool:
    """Tell whether a series goes to and fro between two levels; a single figure on its way is an outlier."""
    levels = median(before), median(after)
    reach = abs(levels[1] - levels[0]) / 2
    sides = [
        abs(one - levels[0]) > abs(one - levels[1]) for one in figures if min(abs(one - at) for at in levels) < reach
    ]
    streaks = [side for side, some in groupby(sides) if len(list(some)) > 1]
    return len(list(groupby(streaks))) >= STREAKS


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(figures: Sequence[float]) -> str:
    """Draw a series in one line, from its least figure to its greatest.

    >>> sparkline([1, 2, 3, 8])
    '▁▂▃█'
    """
    if not figures:
        return ""
    least, greatest = min(figures), max(figures)
    if greatest == least:
        return _BARS[3] * len(figures)
    scale = (len(_BARS) - 1) / (greatest - least)
    return "".join(_BARS[round((one - least) * scale)] for one in figures)
