"""What the agents of each host do, as the leaders say, or as systemd says where they say nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.agents import serf_status
from nomad_testkit.errors import AgentApiError, HostError
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host

_ABSENT = "not there"
_THREADS = 16
_PATIENCE = 4.0
"""Seconds for SSH to a host: one that is frozen must not keep the others from being shown."""
_WELL = ("leader", "alive", "ready", "ineligible", "draining")


def is_down(text: str) -> bool:
    """Whether an agent that does something is one that is down; one that drains was told to.

    >>> is_down("nomad client ready"), is_down("nomad server stopped")
    (False, True)
    """
    return not any(word in text.split() for word in _WELL)


def agents_of(cluster: Cluster, leaders: Mapping[str, str | None]) -> dict[str, Sequence[str]]:
    """Say of each host, by its instance id, what each of its agents does: ``consul server leader``.

    A leader takes some seconds to miss an agent, so its host's systemd is asked first whether it runs at all.
    """
    if not cluster.hosts:
        return {}
    consul = _consul_members(cluster)
    servers, nodes = _nomad_members(cluster)
    found: dict[str, Sequence[str]] = {}
    with ThreadPoolExecutor(min(_THREADS, len(cluster.hosts)), thread_name_prefix="nomad-testkit-status") as pool:
        units = list(pool.map(_stopped_units, cluster.hosts))
    for host, stopped in zip(cluster.hosts, units, strict=True):
        group, ip = host.instance.group, host.private_ip
        states = {f"consul {'server' if group in cluster.roles.consul_servers else 'client'}": consul.get(ip)}
        if group in cluster.roles.nomad_servers:
            states["nomad server"] = servers.get(ip)
        if group in cluster.roles.nomad_clients:
            states["nomad client"] = nodes.get(ip)
        lines = []
        for agent, state in states.items():
            name = agent.partition(" ")[0]
            if agent.endswith("server") and leaders[name] == host.instance_id:
                state = "leader"
            lines.append(f"{agent} {stopped.get(name) or state or _ABSENT}")
        found[host.instance_id] = lines
    return found


def _stopped_units(host: Host) -> dict[str, str]:
    """Say of the agents of a host that systemd does not run what they are instead; nothing where it does not answer."""
    try:
        host.connect(Deadline.after(_PATIENCE))
        states = host.unit_states("consul", "nomad")
    except HostError:
        return {}
    words = {"inactive": "stopped", "active": ""}
    return {state.unit: words.get(state.active, state.active) for state in states}


def _consul_members(cluster: Cluster) -> dict[str, str]:
    for server in cluster.consul_servers:
        try:
            return {str(one["Addr"]): serf_status(one) for one in server.consul.members()}
        except AgentApiError:
            continue
    return {}


def _nomad_members(cluster: Cluster) -> tuple[dict[str, str], dict[str, str]]:
    for server in cluster.nomad_servers:
        try:
            members = {str(one["Addr"]): str(one["Status"]) for one in server.nomad.members()}
            nodes = sorted(server.nomad.nodes(stale=True), key=lambda one: int(one.get("ModifyIndex") or 0))
            # A host that came back may be there twice: the node that changed last is its own.
            return members, {str(one["Address"]): _node(one) for one in nodes}
        except AgentApiError:
            continue
    return {}, {}


def _node(facts: Mapping[str, Any]) -> str:
    if facts.get("Drain"):
        return "draining"
    if facts["Status"] == "ready" and facts.get("SchedulingEligibility") == "ineligible":
        return "ineligible"
    return str(facts["Status"])
