"""Checks of a cluster and of jobs on it: each asks every server, and demands that they agree.

>>> from nomad_testkit.checks import RaftPeers, Registered, require
>>> require(cluster, RaftPeers(3), Registered("nomad-client", 3), within=60)  # doctest: +SKIP
"""

from __future__ import annotations

from nomad_testkit.checks.advertised import AdvertisedAddresses
from nomad_testkit.checks.healing import (
    DeploymentSucceeds,
    LeaderReelected,
    NodeGone,
    RefusesWrites,
    RunsElsewhere,
    SameNodes,
    leader_of,
    node_ids,
)
from nomad_testkit.checks.health import AutopilotHealthy, HealthyServers, NoFailedMembers
from nomad_testkit.checks.raft import BootstrapExpectAgrees, Leader, NotSplit, RaftPeers
from nomad_testkit.checks.registration import NodesReady, Registered
from nomad_testkit.checks.scheduling import AllocationsRunning, BatchCompleted, Spread
from nomad_testkit.checks.services import ServiceGone, ServiceHealthy, ServiceResolves
from nomad_testkit.checks.topology import ConsulAgents, SeparateServers
from nomad_testkit.checks.units import UnitsActive
from nomad_testkit.checks.versions import RunsVersion
from nomad_testkit.cluster.agents import AGENTS, AgentName
from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Verdict, require

__all__ = [
    "AGENTS",
    "AdvertisedAddresses",
    "AgentName",
    "AllocationsRunning",
    "Answer",
    "AutopilotHealthy",
    "BatchCompleted",
    "BootstrapExpectAgrees",
    "Check",
    "ClusterView",
    "ConsulAgents",
    "DeploymentSucceeds",
    "HealthyServers",
    "HostRef",
    "Leader",
    "LeaderReelected",
    "NoFailedMembers",
    "NodeGone",
    "NodesReady",
    "NotSplit",
    "RaftPeers",
    "RefusesWrites",
    "Registered",
    "RunsElsewhere",
    "RunsVersion",
    "SameNodes",
    "SeparateServers",
    "ServiceGone",
    "ServiceHealthy",
    "ServiceResolves",
    "Spread",
    "UnitsActive",
    "Verdict",
    "leader_of",
    "node_ids",
    "require",
]
