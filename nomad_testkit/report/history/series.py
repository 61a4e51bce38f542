"""The figures of runs that can be compared: of the same example, of the same size, on the same target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from nomad_testkit.report.history.store import RunFigures
from nomad_testkit.report.history.trend import StepChange, steps

PASSED = "passed"
NOT_READY = "not ready"
READY = "ready"
"""The name of the time from a deployment's start until everything was ready."""


@dataclass(frozen=True)
class Series:
    """One figure over several runs, in the order of time."""

    name: str
    runs: tuple[RunFigures, ...]
    figures: tuple[float, ...]
    """In seconds."""

    @property
    def steps(self) -> list[StepChange]:
        """Where it has changed for good."""
        return steps(self.figures)

    @property
    def median(self) -> float:
        """The median of all."""
        return median(self.figures)


@dataclass(frozen=True)
class Comparable:
    """Runs that can be compared, and their figures."""

    example: str
    shape: str
    target: str
    runs: tuple[RunFigures, ...]
    series: tuple[Series, ...]


def compared(runs: Iterable[RunFigures]) -> list[Comparable]:
    """Group runs that can be compared, the group with the latest run last; each has at least one figure."""
    groups: dict[tuple[str, str, str], list[RunFigures]] = {}
    for run in sorted(runs, key=lambda one: one.began):
        groups.setdefault((run.example, run.shape, run.target), []).append(run)
    found = []
    for (example, shape, target), members in sorted(groups.items(), key=lambda one: one[1][-1].began):
        series = _series(members)
        if series:
            found.append(Comparable(example, shape, target, tuple(members), series))
    return found


def durations(phases: Mapping[str, float]) -> dict[str, float]:
    """Give how long each phase took by itself, and all of them.

    >>> durations({"hosts up": 7.0, "Consul leader": 9.5})
    {'hosts up': 7.0, 'Consul leader': 2.5, 'ready': 9.5}
    """
    found, before = {}, 0.0
    for name, end in sorted(phases.items(), key=lambda one: one[1]):
        found[name], before = end - before, end
    return {**found, READY: before} if found else {}


def _series(runs: Sequence[RunFigures]) -> tuple[Series, ...]:
    figures: dict[str, list[tuple[RunFigures, float]]] = {}
    for run in runs:
        if run.outcome == NOT_READY:  # how far it came is no figure of how fast it is
            continue
        # A test that failed says nothing against the deployment, but something against how long healing took.
        healing = run.healing if run.outcome == PASSED else {}
        for name, seconds in {**durations(run.phases), **healing}.items():
            figures.setdefault(name, []).append((run, seconds))
    return tuple(
        Series(name, tuple(run for run, _ in pairs), tuple(seconds for _, seconds in pairs))
        for name, pairs in figures.items()
    )


def changes(before: RunFigures, after: RunFigures) -> list[str]:
    """Tell what else was different from one run to the next."""
    facts = (("image", "images"), ("Consul", "consul"), ("Nomad", "nomad"), ("region", "region"))
    return [
        f"{word} {getattr(before, name) or 'unknown'} -> {getattr(after, name) or 'unknown'}"
        for word, name in facts
        if getattr(before, name) != getattr(after, name)
    ]


def as_json(groups: Iterable[Comparable]) -> list[dict[str, Any]]:
    """Give everything in JSON's types."""
    return [
        {
            "example": group.example,
            "shape": group.shape,
            "target": group.target,
            "figures": [
                {
                    "name": series.name,
                    "median": series.median,
                    "runs": [
                        {"run_id": run.run_id, "began": run.began, "outcome": run.outcome, "seconds": seconds}
                        for run, seconds in zip(series.runs, series.figures, strict=True)
                    ],
                    "steps": [
                        {
                            "run_id": series.runs[step.index].run_id,
                            "before": step.before,
                            "after": step.after,
                            "changes": changes(series.runs[step.index - 1], series.runs[step.index]),
                        }
                        for step in series.steps
                    ],
                }
                for series in group.series
            ],
        }
        for group in groups
    ]
