"""What is true only where Consul and Nomad have servers on hosts of their own."""

from __future__ import annotations

import json

import pytest

from nomad_testkit import Cluster
from nomad_testkit.checks import ConsulAgents, RaftPeers, SeparateServers

pytestmark = pytest.mark.separate


def test_the_raft_groups_are_disjoint_sets_of_hosts(nomad_cluster: Cluster) -> None:
    consul, nomad = (
        {host.instance_id for host in hosts} for hosts in (nomad_cluster.consul_servers, nomad_cluster.nomad_servers)
    )
    assert consul & nomad == set()
    nomad_cluster.require(
        SeparateServers(),
        RaftPeers(len(consul), ("consul",)),
        RaftPeers(len(nomad), ("nomad",)),
        within=30,
    )


def test_every_nomad_node_has_a_consul_client_and_no_consul_server(nomad_cluster: Cluster) -> None:
    nomad_cluster.require(ConsulAgents(), within=30)
    for host in (*nomad_cluster.nomad_servers, *nomad_cluster.nomad_clients):
        # On the host: its security group lets nobody in to the HTTP API of a Consul client.
        agent = json.loads(host.run("curl -sf http://127.0.0.1:8500/v1/agent/self").stdout)
        assert agent["Config"]["NodeName"] == host.instance_id
        assert agent["Config"]["Server"] is False


def test_no_nomad_runs_on_a_consul_server(nomad_cluster: Cluster) -> None:
    for host in nomad_cluster.consul_servers:
        assert host.unit_state("nomad").active == "inactive"
        assert host.run("pgrep -x nomad", check=False).status == 1
