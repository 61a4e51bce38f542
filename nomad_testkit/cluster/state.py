"""A cluster at one moment: its hosts, who leads, the agents' versions, and which allocations are where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.agents import serf_status

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

BOUND_SECONDS = 5.0
"""For all questions together; what is not answered by then is left out."""


@dataclass(frozen=True, slots=True)
class AllocationState:
    """One allocation, as Nomad's leader knows it."""

    id: str
    name: str
    node: str
    status: str
    """``pending``, ``running``, ``complete``, ``failed``, ``lost`` or ``unknown``."""


@dataclass(frozen=True, slots=True)
class HostState:
    """One host and its agents; what is not known is empty."""

    instance_id: str
    group: str
    zone: str
    private_ip: str
    address: str
    roles: tuple[str, ...]
    """Of ``Consul server``, ``Nomad server`` and ``Nomad client``."""
    leads: tuple[str, ...]
    """``Consul``, ``Nomad`` or both, where it is the Raft leader."""
    consul: str
    """Its state in Consul's gossip: ``alive``, ``leaving``, ``left`` or ``failed``."""
    nomad: str
    """The state of its node, such as ``ready`` and ``down``, or of its server in the gossip."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What the leaders said; `problems` says what could not be had."""

    at: float
    """Seconds since the epoch."""
    hosts: tuple[HostState, ...]
    allocations: tuple[AllocationState, ...]
    versions: Mapping[str, tuple[str, ...]]
    """By agent, ``consul`` and ``nomad``; more than one while a cluster is upgraded."""
    problems: tuple[str, ...] = ()


_ROLES = {"consul_servers": "Consul server", "nomad_servers": "Nomad server", "nomad_clients": "Nomad client"}


def state_of(cluster: Cluster, *, within: float = BOUND_SECONDS) -> ClusterState:
    """Ask the leaders for the state of a cluster, in parallel and for at most `within` seconds; never raises.

    >>> state_of(cluster).versions  # doctest: +SKIP
    {'consul': ('1.14.0',), 'nomad': ('1.6.1',)}
    """
    questions: dict[str, Callable[[], Any]] = {
        "Consul's leader": lambda: cluster.consul.leader(),
        "Consul's members": lambda: cluster.consul.members(),
        "Nomad's leader": lambda: cluster.nomad.leader(),
        "Nomad's servers": lambda: cluster.nomad.members(),
        "Nomad's nodes": lambda: cluster.nomad.nodes(),
        "Nomad's allocations": lambda: cluster.nomad.get("/v1/allocations"),
    }
    # Not by `with`: that would wait for the answers that come too late.
    pool = ThreadPoolExecutor(len(questions), thread_name_prefix="nomad-testkit-state")
    asked = {what: pool.submit(question) for what, question in questions.items()}
    done, _ = wait(asked.values(), timeout=within)
    pool.shutdown(wait=False, cancel_futures=True)
    answers: dict[str, Any] = {}
    problems: list[str] = []
    for what, future in asked.items():
        if future not in done:
            problems.append(f"{what}: no answer within {within:g} s")
        elif error := future.exception():
            problems.append(f"{what}: {error}")
        else:
            answers[what] = future.result()
    return _state(cluster, answers, problems)


def as_facts(state: ClusterState) -> dict[str, Any]:
    """Give a state in JSON's types."""
    return asdict(state)


def _state(cluster: Cluster, answers: Mapping[str, Any], problems: Sequence[str]) -> ClusterState:
    leaders = {agent: str(answers.get(f"{agent}'s leader") or "").rpartition(":")[0] for agent in ("Consul", "Nomad")}
    members = {str(one["Name"]): one for one in answers.get("Consul's members") or ()}
    servers = {str(one["Name"]).rpartition(".")[0]: one for one in answers.get("Nomad's servers") or ()}
    nodes: dict[str, dict[str, Any]] = {}
    for node in answers.get("Nomad's nodes") or ():
        # A host that came back as another node has two; the one that is not down is the host's.
        if node["Name"] not in nodes or node["Status"] != "down":
            nodes[str(node["Name"])] = node
    hosts = tuple(
        HostState(
            instance_id=host.instance_id,
            group=host.instance.group,
            zone=host.instance.availability_zone,
            private_ip=host.private_ip,
            address=host.address,
            roles=tuple(name for role, name in _ROLES.items() if host.instance.group in getattr(cluster.roles, role)),
            leads=tuple(agent for agent, address in leaders.items() if address == host.private_ip),
            consul=serf_status(members[host.instance_id]) if host.instance_id in members else "",
            nomad=str(
                nodes.get(host.instance_id, {}).get("Status") or servers.get(host.instance_id, {}).get("Status") or ""
            ),
        )
        for host in cluster.hosts
    )
    allocations = tuple(
        AllocationState(str(one["ID"]), str(one["Name"]), str(one["NodeName"]), str(one["ClientStatus"]))
        for one in sorted(answers.get("Nomad's allocations") or (), key=lambda one: one.get("CreateTime", 0))
    )
    return ClusterState(
        at=time.time(),
        hosts=hosts,
        allocations=allocations,
        versions={
            "consul": _versions(_build(one).partition(":")[0] for one in members.values()),
            "nomad": _versions(
                [*map(_build, servers.values()), *(str(one.get("Version", "")) for one in nodes.values())]
            ),
        },
        problems=tuple(problems),
    )


def _build(member: Mapping[str, Any]) -> str:
    """Give the version that a member of Serf tells by its tags; Consul's has the commit after a colon."""
    return str(member.get("Tags", {}).get("build", ""))


def _versions(found: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({one for one in found if one}))
