"""Whether a series of figures has changed by a step, such as when an image got slower; noise is none, nor an outlier.

The test works on medians, since times have long tails and one slow run must not count. A series is cut in two where
that leaves the least absolute deviation from the medians of both parts. The cut is a step if all of these hold:

- each part has at least LEAST runs, so that no one, two or three outliers can make a part of their own;
- the medians differ by SHARE of the first and by SECONDS: what is smaller does not matter, however certain it is;
- they differ by SIGMAS of the noise, which is estimated by the median absolute deviation from the parts' medians, times
  1.4826, so that for normal noise it is its standard deviation (Rousseeuw and Croux, 1993);
- of all pairs of a run before and a run after, SUPERIORITY have the same order as the medians: the common language
  effect size (McGraw and Wong, 1992), which does not ask how the figures are distributed.

Both parts are then looked at in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

LEAST = 4
SHARE = 0.15
SECONDS = 0.5
SIGMAS = 3.0
SUPERIORITY = 0.9
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Step:
    """From the figure at `index` on, the series is at another level."""

    index: int
    before: float
    after: float
    """The medians of what comes before, and of what comes from there on."""

    @property
    def share(self) -> float:
        """The change as a share of what was before: 0.5 for half as much again."""
        return (self.after - self.before) / self.before if self.before else float("inf")


def steps(figures: Sequence[float]) -> list[Step]:
    """Find the steps of a series, which is in the order of time.

    >>> steps([10, 11, 10, 12, 10, 20, 21, 19, 20])
    [Step(index=5, before=10, after=20.0)]
    >>> steps([10, 11, 10, 12, 60, 10, 11, 10, 11])
    []
    """
    cut = _cut(figures)
    if cut is None:
        return []
    first, second = figures[:cut], figures[cut:]
    if not _is_step(first, second):
        return []
    found = Step(cut, median(first), median(second))
    later = [Step(one.index + cut, one.before, one.after) for one in steps(second)]
    return [*steps(first), found, *later]


def _cut(figures: Sequence[float]) -> int | None:
    """Choose where to cut; None for a series that is too short."""
    cuts = range(LEAST, len(figures) - LEAST + 1)
    return min(cuts, key=lambda cut: _deviation(figures[:cut]) + _deviation(figures[cut:]), default=None)


def _deviation(figures: Sequence[float]) -> float:
    middle = median(figures)
    return sum(abs(one - middle) for one in figures)


def _is_step(before: Sequence[float], after: Sequence[float]) -> bool:
    low, high = median(before), median(after)
    noise = _MAD_TO_SIGMA * median([*(abs(one - low) for one in before), *(abs(one - high) for one in after)])
    if abs(high - low) < max(SHARE * low, SECONDS, SIGMAS * noise):
        return False
    sign = 1 if high > low else -1
    ordered = sum(sign * (late - early) > 0 for early in before for late in after)
    return ordered >= SUPERIORITY * len(before) * len(after)


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
