"""The AMIs that `nomad-testkit ami build` has made and kept, and the embedded EC2 that each of them lives in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomad_testkit.modules.steps import IMAGE
from nomad_testkit.runs.run import Run


def built_amis() -> dict[str, Run]:
    """Find the AMIs that this machine has built and kept, each with the run that it belongs to."""
    return {
        entry.id: run
        for run in Run.every()
        if run.description().get("kept")
        for entry in run.journal.left()
        if entry.kind == IMAGE and entry.id
    }


def home_of(ami_id: str) -> Mapping[str, Any] | None:
    """Return the description of the embedded EC2 that has an AMI; None if this machine built it in none."""
    run = built_amis().get(ami_id)
    target: Mapping[str, Any] = {} if run is None else run.description()["target"]
    return {**target, "ami": ami_id} if target.get("name") == "embedded" else None
