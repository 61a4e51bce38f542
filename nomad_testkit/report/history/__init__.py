"""The history of runs: their figures in a file of SQLite, and whether they have changed by a step."""

from __future__ import annotations

from nomad_testkit.report.history.store import RunHistory, append, runs_of
from nomad_testkit.report.history.trend import StepChange, steps

__all__ = ["RunHistory", "StepChange", "append", "runs_of", "steps"]
