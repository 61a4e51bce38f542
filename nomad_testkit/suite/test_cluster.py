"""The main job: a cluster forms, schedules, serves and forgets, seen from every server; the same in each topology."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nomad_testkit import Cluster, Example
from nomad_testkit.checks import (
    AdvertisedAddresses,
    AllocationsRunning,
    AutopilotHealthy,
    BatchCompleted,
    BootstrapExpectAgrees,
    ConsulAgents,
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

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Sizes

# The fixture too, so that the tests have both topologies even where nomad_cluster is overridden.
pytestmark = [
    pytest.mark.nomad_topology("colocated", "separate", "encrypted"),
    pytest.mark.usefixtures("nomad_topology"),
]


@pytest.fixture(name="example")
def _example(nomad_cluster: Cluster) -> Example:
    """The example as it was deployed, whatever the settings changed in it."""
    assert nomad_cluster.example is not None
    return nomad_cluster.example


@pytest.fixture(name="sizes")
def _sizes(example: Example) -> Sizes:
    return example.sizes


def test_it_forms(nomad_cluster: Cluster, sizes: Sizes) -> None:
    roles = (nomad_cluster.consul_servers, nomad_cluster.nomad_servers, nomad_cluster.nomad_clients)
    assert tuple(map(len, roles)) == (sizes.consul_servers, sizes.nomad_servers, sizes.nomad_clients)
    assert {host for role in roles for host in role} == set(nomad_cluster.hosts)
    nomad_cluster.require(
        RaftPeers(sizes.consul_servers, ("consul",)),
        RaftPeers(sizes.nomad_servers, ("nomad",)),
        NotSplit(),
        Leader(),
        BootstrapExpectAgrees(),
        AutopilotHealthy(),
        HealthyServers(),
        NoFailedMembers(),
        within=30,
    )


def test_everything_is_registered_in_the_one_consul_cluster(nomad_cluster: Cluster, sizes: Sizes) -> None:
    nomad_cluster.require(
        ConsulAgents(),
        NodesReady(sizes.nomad_clients),
        Registered("consul", sizes.consul_servers),
        Registered("nomad", sizes.nomad_servers),
        Registered("nomad-client", sizes.nomad_clients),
        AdvertisedAddresses(),
        within=30,
    )


def test_every_agent_is_a_unit_that_runs(nomad_cluster: Cluster) -> None:
    nomad_cluster.require(UnitsActive(), within=30)


def test_hosts_are_spread_over_zones(nomad_cluster: Cluster) -> None:
    network = nomad_cluster.target.network()
    zones = sorted({subnet.availability_zone for subnet in network.subnets})
    for group in {host.instance.group for host in nomad_cluster.hosts}:
        found = [host.instance.availability_zone for host in nomad_cluster.in_groups(group)]
        assert set(found) <= set(zones)
        counts = [found.count(zone) for zone in zones]
        assert max(counts) - min(counts) <= 1, f"{group}: {dict(zip(zones, counts, strict=True))}"


@pytest.mark.parametrize("driver", ["raw_exec", "exec"])
def test_a_service_runs_on_every_client(driver: str, nomad_cluster: Cluster, sizes: Sizes) -> None:
    clients = sizes.nomad_clients
    with nomad_cluster.submitted("web.nomad.hcl", count=clients, driver=driver) as job:
        nomad_cluster.require(
            AllocationsRunning(job),
            Spread(job, clients=clients),
            ServiceHealthy(job.name, clients),
            ServiceResolves(job.name),
            within=60,
        )
        instance = nomad_cluster.consul.health(job.name, passing=True)[0]["Service"]
        page = nomad_cluster.clients[0].run(f"curl -sf http://{instance['Address']}:{instance['Port']}/").stdout
        assert page != ""
    nomad_cluster.require(ServiceGone(job.name), within=30)


def test_a_batch_job_completes_and_its_log_is_read_back(nomad_cluster: Cluster) -> None:
    with nomad_cluster.submitted("batch.nomad.hcl", message="read me back") as job:
        nomad_cluster.require(BatchCompleted(job, output="read me back"), within=60)


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        ("memory", ["memory", "exhausted"]),
        ("constraint", ["constraint"]),
        (
            "missing-attr",
            ["${platform.aws.placement.availability-zone}", "${attr.platform.aws.placement.availability-zone}"],
        ),
        ("datacenter", ["no nodes in datacenters [dc1]"]),
    ],
)
def test_a_job_that_cannot_be_placed_fails_fast_with_nomads_reasons(
    spec: str, reasons: list[str], nomad_cluster: Cluster
) -> None:
    path = f"unplaceable/{spec}.nomad.hcl"
    with nomad_cluster.submitted(path) as job, pytest.raises(CheckFailed) as caught:
        # Far longer than the whole suite may take: the check must not wait for it.
        nomad_cluster.require(AllocationsRunning(job), within=3600)
    if spec == "datacenter":
        reasons = [*reasons, *(client.instance.availability_zone for client in nomad_cluster.clients)]
    for reason in reasons:
        assert reason in str(caught.value)


def test_the_examples_jobs_run(nomad_cluster: Cluster, example: Example) -> None:
    jobs = sorted(example.folder.glob("*.nomad*"))
    assert jobs, f"{example.folder} has no job, such as web.nomad.hcl"
    for path in jobs:
        with nomad_cluster.submitted(path) as job:
            nomad_cluster.require(AllocationsRunning(job), within=60)


def test_the_environment_redirects_nothing(
    nomad_cluster: Cluster, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOMAD_ADDR", "CONSUL_HTTP_ADDR", "HTTP_PROXY", "http_proxy", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NOMAD_TOKEN", "another cluster's")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "another cluster's")
    monkeypatch.setenv("AWS_PROFILE", "another account's")
    # Made anew: the clients of nomad_cluster's own hosts are kept, from before the environment was another.
    fresh = Cluster.from_description(nomad_cluster.describe(), target=nomad_cluster.target)
    try:
        fresh.require(RaftPeers(sizes.nomad_servers), NodesReady(sizes.nomad_clients), within=10)
    finally:
        fresh.close()
    ids = {host.instance_id for host in nomad_cluster.hosts}
    found = nomad_cluster.target.client("ec2").describe_instances(InstanceIds=sorted(ids))["Reservations"]
    assert {instance["InstanceId"] for one in found for instance in one["Instances"]} == ids
