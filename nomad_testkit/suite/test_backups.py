"""A cluster is lost, and a fresh one goes on with its state: Consul's and Nomad's snapshots, restored elsewhere.

    pytest -m operations

Two small clusters are deployed for these tests, one after the other, which no others see.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from nomad_testkit import Cluster, Example, Settings, deployed
from nomad_testkit.checks import AllocationsRunning, DeploymentSucceeds, ServiceHealthy
from nomad_testkit.cluster.jobs import Job, prepare
from nomad_testkit.errors import UsageError
from nomad_testkit.operations import Backup, restore, save

if TYPE_CHECKING:
    from nomad_testkit.targets import Target

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.operations,
    pytest.mark.nomad_topology("colocated"),
    pytest.mark.usefixtures("nomad_topology"),
    pytest.mark.xdist_group("small clusters"),
]

HEALS = 240.0
OUTSIDE = {
    "Node": "outside",
    "Address": "192.0.2.7",
    "Service": {"Service": "payments", "Port": 7000, "Tags": ["external"]},
}


@dataclass(frozen=True)
class Lost:
    """What there was of a cluster that is no more."""

    backup: Backup
    job: Job
    nodes: frozenset[str]


@pytest.fixture(scope="module", name="small")
def _small(nomad_settings: Settings) -> Settings:
    return replace(nomad_settings, servers=nomad_settings.servers or 1, clients=nomad_settings.clients or 1)


@pytest.fixture(scope="module", name="lost")
def _lost(small: Settings, nomad_example: Example, nomad_target: Target) -> Lost:
    with deployed(small, nomad_example.with_settings(small), target=nomad_target, progress=log.info) as old:
        assert old.consul.put_key("backups/key", b"\0saved\xff")
        old.consul.put("/v1/catalog/register", OUTSIDE)
        assert old.nomad.put_variable("backups/variable", {"value": "saved"})
        job = Job(old.nomad, prepare(old.nomad, "web.nomad.hcl", count=len(old.clients)))
        old.nomad.register(job.spec)
        old.require(AllocationsRunning(job), ServiceHealthy(job.name, job.count), within=HEALS)
        # A deployment that is saved while it runs has its progress deadline on the fresh cluster.
        (deployment,) = old.nomad.job_deployments(job.id)
        old.require(DeploymentSucceeds(job, deployment["ID"]), within=HEALS)
        return Lost(save(old), job, frozenset(host.instance_id for host in old.hosts))


@pytest.fixture(scope="module")
def nomad_cluster(lost: Lost, small: Settings, nomad_example: Example, nomad_target: Target) -> Iterator[Cluster]:
    """A fresh cluster, that knows nothing of the other one."""
    with deployed(small, nomad_example.with_settings(small), target=nomad_target, progress=log.info) as cluster:
        yield cluster


def flipped(snapshot: bytes) -> bytes:
    middle = len(snapshot) // 2
    return snapshot[:middle] + bytes([snapshot[middle] ^ 0x10]) + snapshot[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda snapshot: snapshot[: len(snapshot) // 2],
    "a flipped byte": flipped,
    "not a snapshot": lambda _: b"PK\3\4 this is something else",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("agent", ["consul", "nomad"])
def test_a_damaged_snapshot_is_refused_and_the_cluster_untouched(
    nomad_cluster: Cluster, lost: Lost, agent: str, damage: str
) -> None:
    assert nomad_cluster.consul.put_key("backups/own", "untouched")
    assert nomad_cluster.nomad.put_variable("backups/own", {"value": "untouched"})
    pid = "systemctl show -p MainPID --value consul nomad"
    pids = {host: host.run(pid).stdout for host in nomad_cluster.hosts}

    damaged: dict[str, Any] = {agent: DAMAGES[damage](getattr(lost.backup, agent))}
    with pytest.raises(UsageError, match=f"is damaged.*expected what save_snapshot of a {agent} client gave"):
        restore(nomad_cluster, replace(lost.backup, **damaged))

    assert {host: host.run(pid).stdout for host in nomad_cluster.hosts} == pids
    assert nomad_cluster.consul.get_key("backups/own") == b"untouched"
    assert (nomad_cluster.nomad.variable("backups/own") or {})["Items"] == {"value": "untouched"}
    assert nomad_cluster.consul.get_key("backups/key") is None
    assert nomad_cluster.nomad.variable("backups/variable") is None


def test_the_snapshots_of_the_agents_are_not_mixed_up(nomad_cluster: Cluster, lost: Lost) -> None:
    with pytest.raises(UsageError, match="is one of nomad"):
        restore(nomad_cluster, replace(lost.backup, consul=lost.backup.nomad))
    with pytest.raises(UsageError, match="is one of consul"):
        restore(nomad_cluster, replace(lost.backup, nomad=lost.backup.consul))


def test_a_fresh_cluster_goes_on_with_the_state_of_a_lost_one(nomad_cluster: Cluster, lost: Lost) -> None:
    assert lost.nodes.isdisjoint(host.instance_id for host in nomad_cluster.hosts)
    restore(nomad_cluster, lost.backup)

    consul, nomad = nomad_cluster.consul, nomad_cluster.nomad
    assert consul.get_key("backups/key") == b"\0saved\xff"
    (registered,) = consul.health("payments")
    assert (registered["Node"]["Address"], registered["Service"]["Tags"]) == ("192.0.2.7", ["external"])
    assert (nomad.variable("backups/variable") or {})["Items"] == {"value": "saved"}
    assert nomad.job(lost.job.id)["Version"] == 0

    job = Job(nomad, nomad.job(lost.job.id))
    nomad_cluster.require(AllocationsRunning(job), ServiceHealthy(job.name, job.count), within=HEALS)
    running = [one for one in job.allocations() if one["ClientStatus"] == "running"]
    assert {one["NodeName"] for one in running} == {host.instance_id for host in nomad_cluster.clients}
    assert lost.nodes.isdisjoint(node["Node"] for node in consul.nodes())
    assert lost.nodes.isdisjoint(node["Name"] for node in nomad.nodes())
