"""Consul is upgraded in place, host by host, while the cluster is used.

    pytest -m operations

A cluster with the older version is deployed for these tests, which no others see.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nomad_testkit import Cluster, Example, Host, Settings, deployed
from nomad_testkit.checks import AllocationsRunning, RunsVersion, ServiceHealthy, leader_of
from nomad_testkit.errors import AgentSourceError, DeployError, UsageError
from nomad_testkit.faults import watching_leaders, writing
from nomad_testkit.operations import Agent, get_agent, require_healthy, upgrade
from nomad_testkit.targets import Target, open_target

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.operations,
    pytest.mark.nomad_topology("colocated"),
    pytest.mark.usefixtures("nomad_topology"),
    pytest.mark.xdist_group("small clusters"),
]

OLD = "1.13.9"
CLIENTS = 1
HEALS = 180.0
NO_AGENT = Path("/usr/bin/true")


@pytest.fixture(scope="module")
def nomad_target(nomad_settings: Settings) -> Iterator[Target]:
    """A target whose own image has the older Consul."""
    settings = replace(nomad_settings, consul_version=OLD, consul_binary=None)
    with open_target(settings, progress=log.info) as target:
        yield target


@pytest.fixture(scope="module")
def nomad_cluster(nomad_settings: Settings, nomad_example: Example, nomad_target: Target) -> Iterator[Cluster]:
    """A cluster that only these tests use."""
    settings = nomad_settings if nomad_settings.clients is not None else replace(nomad_settings, clients=CLIENTS)
    with deployed(settings, nomad_example.with_settings(settings), target=nomad_target, progress=log.info) as cluster:
        cluster.require(RunsVersion("consul", OLD), within=10)  # where the image is one that the user named
        yield cluster


@pytest.fixture(name="new", scope="module")
def _new(nomad_settings: Settings) -> Agent:
    version, binary = nomad_settings.consul_version, nomad_settings.consul_binary
    return get_agent("consul", version, binary=binary, progress=log.info)


def test_what_is_no_agent_is_refused_and_a_program_that_does_not_start_is_taken_back(
    nomad_cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("Consul v1.14.0\n")
    for wrong, said in ((tmp_path / "text", "is not a Linux executable"), (NO_AGENT, "expected e.g. 'Consul v1.14.0'")):
        with pytest.raises(AgentSourceError, match=said):
            upgrade(nomad_cluster, wrong)

    leader = leader_of(nomad_cluster, "consul")
    pretender = Agent("consul", "99.0.0", NO_AGENT, hashlib.sha256(NO_AGENT.read_bytes()).hexdigest(), "given")
    with pytest.raises(DeployError, match=rf"consul 99\.0\.0 does not start on i-\w+ .*, which has {OLD} again"):
        upgrade(nomad_cluster, pretender)
    require_healthy(nomad_cluster)
    nomad_cluster.require(RunsVersion("consul", OLD), within=HEALS)
    assert leader_of(nomad_cluster, "consul") == leader
    for host in nomad_cluster.hosts:
        assert host.run("ls /opt/consul/bin | grep -E 'new|old|part'", check=False).stdout == ""


def test_consul_is_upgraded_host_by_host_and_nothing_is_lost(nomad_cluster: Cluster, new: Agent) -> None:
    clients = len(nomad_cluster.clients)
    followers, steps = set(nomad_cluster.servers) - {leader_of(nomad_cluster, "consul")}, []
    with (
        nomad_cluster.submitted("web.nomad.hcl", count=clients) as job,
        watching_leaders(nomad_cluster) as watch,
        writing(nomad_cluster) as workload,
    ):
        nomad_cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, clients), within=HEALS)
        before = {one["ID"] for one in job.allocations()}

        def step(host: Host) -> None:
            steps.append(host)
            if followers.issuperset(steps):
                watch.verify_throughout()
            workload.await_writes(HEALS)

        upgrade(nomad_cluster, new, between=step)
        workload.verify(HEALS)
        watch.verify_throughout("nomad")
        nomad_cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, clients), within=HEALS)
        assert {one["ID"] for one in job.allocations()} == before
    (old_leader,) = set(nomad_cluster.servers) - followers
    assert set(steps[: len(followers)]) == followers
    assert steps[len(followers) :] == [old_leader, *nomad_cluster.clients]
    # It changed with the last server's step at the most: a server that is quickly back may win the election itself.
    assert watch.leaders("consul")[:1] == (old_leader.instance_id,)
    assert len(watch.leaders("consul")) <= 2
    nomad_cluster.require(RunsVersion("consul", new.version), within=HEALS)
    members = nomad_cluster.consul.members()
    assert {one["Name"]: one["Tags"]["build"].partition(":")[0] for one in members} == {
        host.instance_id: new.version for host in nomad_cluster.hosts
    }


def test_a_downgrade_is_refused(nomad_cluster: Cluster, new: Agent) -> None:
    nomad_cluster.require(RunsVersion("consul", new.version), within=HEALS)
    old = get_agent("consul", OLD, progress=log.info)
    with pytest.raises(UsageError, match=f"is consul {OLD}, and there runs {new.version} on .* cannot be downgraded"):
        upgrade(nomad_cluster, old)
    nomad_cluster.require(RunsVersion("consul", new.version), within=HEALS)
