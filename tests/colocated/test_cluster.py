"""The main job: a colocated cluster forms, schedules, serves and forgets, seen from every server."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_testkit import Cluster
from nomad_testkit.bundle import fixtures_dir
from nomad_testkit.checks import (
    AllocationsRunning,
    AutopilotHealthy,
    BatchCompleted,
    BootstrapExpectAgrees,
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

pytestmark = pytest.mark.colocated

SERVERS = 3
CLIENTS = 6


def test_it_forms(nomad_cluster: Cluster) -> None:
    assert (len(nomad_cluster.servers), len(nomad_cluster.clients)) == (SERVERS, CLIENTS)
    nomad_cluster.require(
        RaftPeers(SERVERS),
        NotSplit(),
        Leader(),
        BootstrapExpectAgrees(),
        AutopilotHealthy(),
        HealthyServers(),
        NoFailedMembers(),
        within=30,
    )


def test_everything_is_registered(nomad_cluster: Cluster) -> None:
    nomad_cluster.require(
        NodesReady(CLIENTS),
        Registered("consul", SERVERS),
        Registered("nomad", SERVERS),
        Registered("nomad-client", CLIENTS),
        within=30,
    )


def test_every_agent_is_a_unit_that_runs(nomad_cluster: Cluster) -> None:
    nomad_cluster.require(UnitsActive(), within=10)


def test_hosts_are_spread_over_zones(nomad_cluster: Cluster) -> None:
    for group, each in ((nomad_cluster.servers, SERVERS // 3), (nomad_cluster.clients, CLIENTS // 3)):
        zones = [host.instance.availability_zone for host in group]
        assert {zone: zones.count(zone) for zone in zones} == {f"us-east-1{zone}": each for zone in "abc"}


@pytest.mark.parametrize("driver", ["raw_exec", "exec"])
def test_a_service_runs_on_every_client(driver: str, nomad_cluster: Cluster) -> None:
    with nomad_cluster.submitted("web.nomad.hcl", count=CLIENTS, driver=driver) as job:
        nomad_cluster.require(
            AllocationsRunning(job),
            Spread(job, clients=CLIENTS),
            ServiceHealthy(job.name, CLIENTS),
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
        ("datacenter", ["us-east-1a"]),
    ],
)
def test_a_job_that_cannot_be_placed_fails_fast_with_nomads_reasons(
    spec: str, reasons: list[str], nomad_cluster: Cluster
) -> None:
    path = fixtures_dir() / "jobs" / "unplaceable" / f"{spec}.nomad.hcl"
    with nomad_cluster.submitted(path) as job, pytest.raises(CheckFailed) as caught:
        # Far longer than the whole suite may take: the check must not wait for it.
        nomad_cluster.require(AllocationsRunning(job), within=3600)
    for reason in reasons:
        assert reason in str(caught.value)


def test_the_example_has_a_job(nomad_cluster: Cluster) -> None:
    assert nomad_cluster.example is not None
    jobs = list(Path(nomad_cluster.example.folder).glob("*.nomad*"))
    assert jobs
    for path in jobs:
        with nomad_cluster.submitted(path) as job:
            nomad_cluster.require(AllocationsRunning(job), within=60)


def test_the_environment_redirects_nothing(nomad_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOMAD_ADDR", "CONSUL_HTTP_ADDR", "HTTP_PROXY", "http_proxy", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NOMAD_TOKEN", "another cluster's")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "another cluster's")
    monkeypatch.setenv("AWS_PROFILE", "another account's")
    nomad_cluster.require(RaftPeers(SERVERS), NodesReady(CLIENTS), within=10)
    ids = {host.instance_id for host in nomad_cluster.hosts}
    found = nomad_cluster.target.client("ec2").describe_instances(InstanceIds=sorted(ids))["Reservations"]
    assert {instance["InstanceId"] for one in found for instance in one["Instances"]} == ids
