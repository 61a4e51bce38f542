"""The health that every operation waits for before it goes on."""

from __future__ import annotations

from typing import Any

from nomad_testkit.checks import AutopilotHealthy, Check, Leader, NodesReady, RaftPeers
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.errors import CheckFailed

WITHIN = 300.0
"""Seconds for each step of an operation."""


def require_healthy(cluster: Cluster, *more: Check[Any], within: float = WITHIN) -> None:
    """Wait until the cluster is healthy: every server a peer and no others, a leader, all nodes ready.

    `more` are checks that have to hold at the same time. Raises CheckFailed and WaitTimeout.
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
