"""Both topologies at once, in two workers of one session."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_runs import Project, project_in

NothingLeft = Callable[[], None]

TELLS = """
import json
import os
import pytest
from nomad_testkit.checks import ConsulAgents, NodesReady, NoFailedMembers, RaftPeers, SeparateServers

def tell(cluster, signs, topology):
    signs.give(f"up-{topology}", json.dumps({
        "run": cluster.run_id,
        "worker": os.environ.get("PYTEST_XDIST_WORKER", "one"),
        "hosts": {host.instance_id: host.private_ip for host in cluster.hosts},
    }))
    signs.wait("go")
    # Exactly its own hosts, while the other cluster is up as well.
    cluster.require(NoFailedMembers(), RaftPeers(1), NodesReady(1), ConsulAgents(), within=60)

"""
COLOCATED = """
@pytest.mark.colocated
def test_together(nomad_cluster, signs):
    tell(nomad_cluster, signs, "colocated")

"""
SEPARATE = """
@pytest.mark.separate
def test_apart(nomad_cluster, signs):
    tell(nomad_cluster, signs, "separate")
    nomad_cluster.require(SeparateServers())
"""


@pytest.fixture
def project(tmp_path: Path, nothing_left: NothingLeft) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


def told(project: Project, topology: str) -> dict[str, Any] | None:
    path = project.folder / f"up-{topology}"
    return dict(json.loads(path.read_text())) if path.exists() else None


def test_two_workers_of_a_session_have_a_topology_each(project: Project, nothing_left: NothingLeft) -> None:
    project.write(TELLS + COLOCATED + SEPARATE)
    run = project.start("-m", "colocated or separate", "-n2")
    colocated = run.await_value("the colocated cluster", lambda: told(project, "colocated"))
    separate = run.await_value("the separate cluster beside it", lambda: told(project, "separate"))
    assert len(project.remembered) == 2
    project.sign("go")
    assert run.await_end() == 0, run.text
    nothing_left()
    assert "2 passed" in run.text
    assert {colocated["worker"], separate["worker"]} == {"gw0", "gw1"}
    assert set(run.deployed) == {colocated["run"], separate["run"]}
    # One cloud for both, so that no two hosts of it have the same address.
    addresses = [*colocated["hosts"].values(), *separate["hosts"].values()]
    assert len(addresses) == len(set(addresses)) == 5
    assert run.text.count("starting the embedded EC2") == 1
    assert (project.remembered, project.shared) == ([], [])
