"""What a failing test's report shows of its cluster."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

import pytest

from nomad_testkit.pytest_session import usable_settings


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect evidence of a failing test that used a cluster, and name its folder in the report."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("nomad_cluster")
    if report.failed and report.when == "call" and cluster is not None:
        report.sections.append(("nomad_testkit", _evidence(item, cluster)))
    return report


def _evidence(item: pytest.Item, cluster: Any) -> str:
    from nomad_testkit import diagnostics
    from nomad_testkit.cluster import Cluster
    from nomad_testkit.runs import Run

    if not isinstance(cluster, Cluster):
        return "no evidence: nomad_cluster is overridden by something that is no Cluster"
    settings = usable_settings(item.config)
    folder = settings.artifacts / cluster.run_id / re.sub(r"[^\w.-]+", "-", item.nodeid)[-120:].strip("-.")
    journal = next((run.journal for run in Run.every() if run.run_id == cluster.run_id), None)
    diagnostics.collect(cluster.hosts, folder, target=cluster.target, journal=journal)
    return f"evidence: {folder.absolute()}"
