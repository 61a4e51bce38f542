"""A step in a series of figures is found; noise, outliers, drifts that do not matter and short series are none."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from nomad_testkit.report.history.series import changes, compared, durations
from nomad_testkit.report.history.store import RunFigures
from nomad_testkit.report.history.trend import LEAST, StepChange, sparkline, steps


def noise(level: float, count: int, *, share: float = 0.08, seed: int = 1) -> list[float]:
    """Make figures around a level, with a long tail upwards as times have it."""
    chance = random.Random(seed)
    return [
        level * (1 + share * (abs(chance.gauss(0, 1)) if chance.random() < 0.3 else chance.gauss(0, 1) / 2))
        for _ in range(count)
    ]


@pytest.mark.parametrize("after", [14.0, 7.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_found_where_it_is(after: float, seed: int) -> None:
    (found,) = steps(noise(10, 12, seed=seed) + noise(after, 8, seed=seed + 50))
    assert found.index == 12
    assert found.before == pytest.approx(10, rel=0.1)
    assert found.after == pytest.approx(after, rel=0.1)


def test_noise_is_no_step() -> None:
    tried = [(seed, share) for seed in range(100) for share in (0.02, 0.1, 0.3)]
    assert [one for one in tried if steps(noise(10, 30, share=one[1], seed=one[0]))] == []


@pytest.mark.parametrize("outliers", [[5], [29], [0], [10, 20], [27, 28, 29]])
def test_outliers_are_no_step(outliers: list[int]) -> None:
    figures = noise(10, 30)
    for index in outliers:
        figures[index] *= 6
    assert steps(figures) == []


def drifting(count: int, *, first: float = 10, last: float = 20) -> list[float]:
    """Give levels from the first to the last, on a line."""
    return [first + (last - first) * index / (count - 1) for index in range(count)]


def two_speeds(count: int, *, change: float, slow: float = 20) -> list[float]:
    """Give levels of a machine that changes its speed before each run with some chance."""
    chance, levels = random.Random(7), [10.0]
    while len(levels) < count:
        levels.append(10 + slow - levels[-1] if chance.random() < change else levels[-1])
    return levels


TWICE = [10.0] * 6 + [20.0] * 6 + [10.0] * 6
SERIES: dict[str, tuple[list[float], list[int]]] = {
    "a step up": ([10.0] * 12 + [16.0] * 8, [12]),
    "a step down": ([16.0] * 8 + [10.0] * 12, [8]),
    "a change and its repair": ([10.0] * 8 + [16.0] * 8 + [10.0] * 8, [8, 16]),
    "two steps up": ([10.0] * 8 + [16.0] * 8 + [26.0] * 8, [8, 16]),
    "a step after outliers as slow": ([10.0] * 8 + [16.0] + [10.0] * 4 + [16.0] + [10.0] * 6 + [16.0] * 8, [20]),
    "a step at the end of a drift": (drifting(12, last=12) + [20.0] * 8, [12]),
    "drift up": (drifting(20), []),
    "drift down": (drifting(20, first=20, last=10), []),
    "a long drift up": (drifting(60, last=40), []),
    "drift that ends": (drifting(10) + [20.0] * 10, []),
    "two speeds in turn": ([10.0, 20.0] * 10, []),
    "two speeds, five runs each": (([10.0] * 5 + [20.0] * 5) * 3, []),
    "two speeds, by day and by night": (([10.0] * 8 + [14.0] * 4) * 2 + [10.0] * 8, []),
    "two speeds by chance": (two_speeds(40, change=0.5), []),
    "two speeds, mostly as before": (two_speeds(40, change=0.2), []),
    "an outlier": ([10.0] * 9 + [60.0] + [10.0] * 10, []),
    "three outliers at the end": ([10.0] * 17 + [20.0] * 3, []),
    "noise alone": ([10.0] * 30, []),
    "too few": ([10.0] * (LEAST - 1) + [20.0] * 20, []),
}
EXACT: dict[str, tuple[list[float], list[StepChange]]] = {
    "two speeds, of which both parts have both": ([20, 20, 20, 10, 20, 20, 10, 10, 10, 20, 10, 10], []),
    "from one run to the next it changes nearly as much": ([10, 10, 10, 12, 10, 14, 13, 16, 13], []),
    "as much within a part": ([16, 16, 16, 16, 12, 10, 12, 10], []),
    "less than 15 %": ([10.0] * 10 + [11.4] * 10, []),
    "less than half a second": ([0.1] * 10 + [0.55] * 10, []),
    "just enough": ([10.0] * 10 + [11.6] * 10, [StepChange(10, 10.0, 11.6)]),
    "too few after it": ([10.0] * 10 + [20.0] * (LEAST - 1), []),
    "enough after it": ([10.0] * 10 + [20.0] * LEAST, [StepChange(10, 10.0, 20.0)]),
    "just enough on either side": ([10.0] * LEAST + [20.0] * LEAST, [StepChange(LEAST, 10.0, 20.0)]),
    "nothing": ([], []),
    "one": ([1.0], []),
    "several in their order": (TWICE, [StepChange(6, 10.0, 20.0), StepChange(12, 20.0, 10.0)]),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_step_is_of_some_size_and_has_some_runs_on_either_side(name: str) -> None:
    figures, wanted = EXACT[name]
    assert steps(figures) == wanted


@pytest.mark.parametrize("share", [0.0, 0.04])
@pytest.mark.parametrize("name", SERIES)
def test_only_a_step_is_a_step(name: str, share: float) -> None:
    levels, wanted = SERIES[name]
    for seed in range(3):
        chance = random.Random(seed)
        figures = [level * (1 + share * chance.gauss(0, 1) / 2) for level in levels]
        assert [step.index for step in steps(figures)] == wanted, figures


def test_a_step_has_a_share_and_a_series_a_sparkline() -> None:
    assert StepChange(6, 10.0, 15.0).share == pytest.approx(0.5)
    assert sparkline([1, 8, 4.5]) == "▁█▅"
    assert sparkline([3, 3]) == "▄▄"
    assert sparkline([]) == ""


def run(number: int, **more: object) -> RunFigures:
    phases = {"hosts up": 7.0, "Consul leader": 9.5}
    what = ("colocated", "1 clients, 1 servers", "embedded", "us-east-1", "ami-1", "1.14.0", "1.6.1", "passed")
    return replace(RunFigures(f"nt-{number}", float(number), *what, phases), **more)  # type: ignore[arg-type]


def test_only_what_can_be_compared_is() -> None:
    runs = [run(4, example="separate"), run(1), run(3, shape="9 hosts"), run(2), run(5, phases={}, outcome="not ready")]
    found = compared(runs)
    assert [(group.example, group.shape, len(group.series[0].runs)) for group in found] == [
        ("colocated", "9 hosts", 1),
        ("separate", "1 clients, 1 servers", 1),
        ("colocated", "1 clients, 1 servers", 2),
    ]
    series = {one.name: one.figures for one in found[-1].series}
    assert series == {"hosts up": (7.0, 7.0), "Consul leader": (2.5, 2.5), "ready": (9.5, 9.5)}
    assert durations({}) == {}


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        ("passed", ["hosts up", "Consul leader", "ready", "kill"]),
        ("failed", ["hosts up", "Consul leader", "ready"]),
        ("not ready", []),
    ],
)
def test_a_run_counts_as_far_as_it_came(outcome: str, counted: list[str]) -> None:
    groups = compared([run(1, outcome=outcome, healing={"kill": 3.0})])
    assert {series.name for group in groups for series in group.series} == set(counted)


def test_what_changed_from_one_run_to_the_next_is_told() -> None:
    assert changes(run(1), run(2)) == []
    assert changes(run(1), run(2, images="ami-2", nomad="1.6.2")) == ["image ami-1 -> ami-2", "Nomad 1.6.1 -> 1.6.2"]
