"""Every check fails on a cluster that is broken in the way it looks for, and says where and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nomad_testkit import Cluster, Example, Host
from nomad_testkit.checks import (
    AllocationsRunning,
    AutopilotHealthy,
    BatchCompleted,
    Check,
    HealthyServers,
    Leader,
    NodesReady,
    NoFailedMembers,
    NotSplit,
    RaftPeers,
    Registered,
    ServiceGone,
    ServiceHealthy,
    ServiceResolves,
    Spread,
    UnitsActive,
)
from nomad_testkit.errors import CheckFailed
from nomad_testkit.lifecycle import deployed
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

SERVERS, CLIENTS = 3, 2
HEALTHY: tuple[Check[Any], ...] = (
    RaftPeers(SERVERS),
    NotSplit(),
    Leader(),
    AutopilotHealthy(),
    HealthyServers(),
    NoFailedMembers(),
    UnitsActive(),
    NodesReady(CLIENTS),
    Registered("consul", SERVERS),
    Registered("nomad", SERVERS),
    Registered("nomad-client", CLIENTS),
)


@pytest.fixture(scope="module")
def cluster(nomad_settings: Settings, nomad_target: Target) -> Iterator[Cluster]:
    example = Example.load("nomad-consul-colocated-cluster").replace(num_servers=SERVERS, num_clients=CLIENTS)
    with deployed(nomad_settings, example, target=nomad_target, progress=lambda line: None) as made:
        yield made


@pytest.fixture(autouse=True)
def healthy(cluster: Cluster) -> Iterator[None]:
    """Begin and end every test with a healthy cluster: what one breaks must not fail another."""
    cluster.require(*HEALTHY, within=60)
    yield
    cluster.require(*HEALTHY, within=60)


def verdict_of(cluster: Cluster, check: Check[Any]) -> str:
    """Wait until a check fails, and give what it says then."""

    def probe() -> Ok[None] | Pending:
        return Pending("it holds") if isinstance(check.verdict(cluster), Ok) else Ok(None)

    wait_until(f"{check} to fail", probe, deadline=Deadline.after(60))
    with pytest.raises(CheckFailed) as caught:
        cluster.require(check, within=0)
    return str(caught.value)


@contextmanager
def stopped(host: Host, unit: str) -> Iterator[None]:
    """Kill an agent the hard way, and start it again at the end."""
    host.run(f"systemctl kill --signal=KILL {unit} && systemctl stop {unit}", sudo=True)
    try:
        yield
    finally:
        host.run(f"systemctl reset-failed {unit}; systemctl start {unit}", sudo=True)


def test_a_nomad_server_is_dead(cluster: Cluster) -> None:
    victim = next(host for host in cluster.servers if not cluster.nomad.leader().startswith(host.private_ip))
    with stopped(victim, "nomad"):
        for check in (RaftPeers(SERVERS), Leader(), HealthyServers(), NoFailedMembers(), UnitsActive(), NotSplit()):
            assert victim.instance_id in verdict_of(cluster, check)
        assert victim.instance_id in verdict_of(cluster, Registered("nomad", SERVERS))


def test_a_consul_server_is_dead(cluster: Cluster) -> None:
    victim = next(host for host in cluster.servers if not cluster.consul.leader().startswith(host.private_ip))
    with stopped(victim, "consul"):
        for check in (AutopilotHealthy(), RaftPeers(SERVERS), Registered("consul", SERVERS)):
            assert victim.instance_id in verdict_of(cluster, check)


def test_a_consul_client_is_dead(cluster: Cluster) -> None:
    victim = cluster.clients[0]
    with stopped(victim, "consul"):
        for check in (NoFailedMembers(), Registered("nomad-client", CLIENTS)):
            assert victim.instance_id in verdict_of(cluster, check)


def test_a_client_takes_no_work(cluster: Cluster) -> None:
    victim = cluster.clients[0]
    victim.run("nomad node eligibility -self -disable")
    try:
        said = verdict_of(cluster, NodesReady(CLIENTS))
        assert victim.instance_id in said
        assert "ineligible" in said
    finally:
        victim.run("nomad node eligibility -self -enable")


def test_counts_that_are_wrong(cluster: Cluster) -> None:
    assert "5" in verdict_of(cluster, RaftPeers(5))
    assert "7" in verdict_of(cluster, NodesReady(7))
    assert "no-such-service" in verdict_of(cluster, Registered("no-such-service", 1))


def test_checks_of_jobs(cluster: Cluster) -> None:
    with cluster.submitted("web.nomad.hcl", count=CLIENTS) as job:
        cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, CLIENTS), within=60)
        assert "2 clients" in verdict_of(cluster, Spread(job, clients=CLIENTS + 1))
        assert job.name in verdict_of(cluster, ServiceHealthy(job.name, CLIENTS + 1))
        assert "NXDOMAIN" in verdict_of(cluster, ServiceResolves("no-such-service"))
        assert job.name in verdict_of(cluster, ServiceGone(job.name))
        victim = cluster.clients[0]
        with stopped(victim, "nomad"):
            # Its tasks run on; it is Nomad that does not know of them any more.
            assert "nomad" in verdict_of(cluster, UnitsActive())
    with cluster.submitted("batch.nomad.hcl", message="hello") as job:
        cluster.require(BatchCompleted(job, output="hello"), within=60)
        assert "goodbye" in verdict_of(cluster, BatchCompleted(job, output="goodbye"))
