"""What people do to a cluster that runs: it stays one cluster, with a leader, and loses nothing.

    pytest -m operations

One cluster is deployed for all of these tests, which no others see; each leaves it whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nomad_testkit import Cluster, Example, Settings, deployed
from nomad_testkit.checks import AllocationsRunning, NodeGone, SameNodes, node_ids
from nomad_testkit.errors import UsageError
from nomad_testkit.faults import watching_leaders, writing
from nomad_testkit.operations import cut_power, drained, node_id, replace_servers, require_healthy, scale

if TYPE_CHECKING:
    from nomad_testkit.targets import Target

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.operations,
    pytest.mark.nomad_topology("colocated"),
    pytest.mark.usefixtures("nomad_topology"),
    pytest.mark.xdist_group("operations"),
]

CLIENTS = 2
HEALS = 180.0


@pytest.fixture(scope="module")
def nomad_cluster(nomad_settings: Settings, nomad_example: Example, nomad_target: Target) -> Iterator[Cluster]:
    """A cluster that only these tests use."""
    settings = nomad_settings if nomad_settings.clients is not None else replace(nomad_settings, clients=CLIENTS)
    with deployed(settings, nomad_example.with_settings(settings), target=nomad_target, progress=log.info) as cluster:
        for client in (cluster.consul, cluster.nomad):
            path = "/v1/operator/autopilot/configuration"
            client.put(path, {**client.get(path), "ServerStabilizationTime": "1s"})
        yield cluster


@pytest.fixture(autouse=True)
def whole(nomad_cluster: Cluster) -> Iterator[None]:
    """Demand that the cluster is whole before and after each test."""
    require_healthy(nomad_cluster)
    yield
    require_healthy(nomad_cluster)


def test_a_drained_client_runs_nothing_and_is_used_again(nomad_cluster: Cluster) -> None:
    client = nomad_cluster.clients[0]
    node = node_id(client)

    def running_there() -> list[str]:
        allocations = nomad_cluster.nomad.get(f"/v1/node/{node}/allocations")
        return [one["ID"] for one in allocations if one["ClientStatus"] == "running"]

    with nomad_cluster.submitted("web.nomad.hcl", count=4) as job:
        nomad_cluster.require(AllocationsRunning(job), within=HEALS)
        with drained(nomad_cluster, client):
            assert running_there() == []
            assert nomad_cluster.nomad.node(node)["SchedulingEligibility"] == "ineligible"
            nomad_cluster.require(AllocationsRunning(job), within=HEALS)
    assert nomad_cluster.nomad.node(node)["SchedulingEligibility"] == "eligible"


def test_a_server_is_no_client_to_drain(nomad_cluster: Cluster) -> None:
    with (
        pytest.raises(UsageError, match="expected one of the cluster's Nomad clients"),
        drained(nomad_cluster, nomad_cluster.servers[0]),
    ):
        pass


def test_snapshots_bring_both_states_back(nomad_cluster: Cluster) -> None:
    consul, nomad = nomad_cluster.consul, nomad_cluster.nomad
    assert consul.put_key("operations", "before")
    assert nomad.put_variable("operations", {"value": "before"})
    saved = consul.save_snapshot(), nomad.save_snapshot()
    assert consul.put_key("operations", "after")
    assert nomad.put_variable("operations", {"value": "after"})

    for client, snapshot in ((consul, saved[0]), (nomad, saved[1])):
        for damaged in (snapshot[: len(snapshot) // 2], b"", b"no snapshot"):
            with pytest.raises(UsageError, match="damaged"):
                client.restore_snapshot(damaged)
    assert consul.get_key("operations") == b"after"
    assert (nomad.variable("operations") or {})["Items"] == {"value": "after"}

    consul.restore_snapshot(saved[0])
    nomad.restore_snapshot(saved[1])
    require_healthy(nomad_cluster)
    assert nomad_cluster.consul.get_key("operations") == b"before"
    assert (nomad_cluster.nomad.variable("operations") or {})["Items"] == {"value": "before"}


def test_servers_scaled_out_and_in_leave_no_stale_peer_and_the_leader_leads_throughout(nomad_cluster: Cluster) -> None:
    (group,) = nomad_cluster.roles.nomad_servers
    before = set(nomad_cluster.servers)
    with watching_leaders(nomad_cluster) as watch, writing(nomad_cluster) as workload:
        scale(nomad_cluster, group, len(before) + 1)
        grown = set(nomad_cluster.servers)
        assert (len(grown), grown > before) == (len(before) + 1, True)
        scale(nomad_cluster, group, len(before))
        workload.verify(HEALS)
        watch.verify_throughout()
    (ended,) = grown - set(nomad_cluster.servers)
    nomad_cluster.require(NodeGone(ended.instance_id), within=HEALS)
    with pytest.raises(UsageError, match=f"there is no group 'nobody'; expected one of .*{group}"):
        scale(nomad_cluster, "nobody", 3)
    with pytest.raises(UsageError, match=f"hosts of {group}: expected a number: at least 1, found 0"):
        scale(nomad_cluster, group, 0)


def test_all_servers_are_replaced_one_by_one(nomad_cluster: Cluster) -> None:
    before = set(nomad_cluster.servers)
    with writing(nomad_cluster) as workload:
        replace_servers(nomad_cluster)
        workload.verify(HEALS)
    assert before.isdisjoint(nomad_cluster.servers)


def test_a_cluster_without_power_comes_back_as_it_was(nomad_cluster: Cluster) -> None:
    assert nomad_cluster.consul.put_key("power", "on")
    nodes = node_ids(nomad_cluster)
    cut_power(nomad_cluster)
    nomad_cluster.require(SameNodes(nodes, tuple(nomad_cluster.hosts)), within=HEALS)
    assert nomad_cluster.consul.get_key("power") == b"on"
