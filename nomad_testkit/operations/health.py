"""What a cluster is when nothing is wrong with it: what every operation waits for before it goes on."""

from __future__ import annotations

from typing import Any

from nomad_testkit.checks import AutopilotHealthy, Check, Leader, NodesReady, RaftPeers
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.errors import CheckFailed

WITHIN = 300.0
"""Seconds for each step to come to its end."""


def require_healthy(cluster: Cluster, *more: Check[Any], within: float = WITHIN) -> None:
    """Demand that the cluster is as large as its hosts make it, and healthy: no stale peer, a leader, nodes ready.

    `more` are checks that have to hold at the same time.
    """
    for agent, servers in (("Consul", cluster.consul_servers), ("Nomad", cluster.nomad_servers)):
        if not servers:
            raise CheckFailed(f"{cluster.run_id} is not whole: it has no {agent} server that runs")
    cluster.require(
        RaftPeers(len(cluster.consul_servers), ("consul",)),
        RaftPeers(len(cluster.nomad_servers), ("nomad",)),
        Leader(),
        AutopilotHealthy(),
        NodesReady(len(cluster.nomad_clients)),
        *more,
        within=within,
    )
