"""What is registered, as every server sees it: services in Consul, and client nodes in Nomad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Verdict, ask_every, places
from nomad_testkit.cluster.host import Host
from nomad_testkit.wait import Ok, Pending


@dataclass(frozen=True, slots=True)
class ServiceInstance:
    """One instance of a service in Consul, with what its checks say."""

    node: str
    address: str
    port: int
    failing: tuple[str, ...]
    """Its checks that do not pass, with their output."""

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> ServiceInstance:
        """Read one entry of GET /v1/health/service/:service."""
        service, node = entry["Service"], entry["Node"]
        failing = tuple(
            f"{check['Name']!r} is {check['Status']}: {_first_line(check['Output'])}"
            for check in entry["Checks"]
            if check["Status"] != "passing"
        )
        # An empty service address means the node's (API documentation of the health endpoint).
        return cls(str(node["Node"]), str(service["Address"] or node["Address"]), int(service["Port"]), failing)


def _first_line(output: str | None) -> str:
    return (output or "").strip().partition("\n")[0][:200] or "no output"


def instances(answer: Sequence[Mapping[str, Any]]) -> tuple[ServiceInstance, ...]:
    """Read the answer of GET /v1/health/service/:service."""
    return tuple(ServiceInstance.parse(entry) for entry in answer)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service as every Consul server knows it; `nodes` are where it should be, None if that is open."""

    service: str
    nodes: tuple[HostRef, ...] | None
    answers: tuple[Answer[tuple[ServiceInstance, ...]], ...]


def observe_service(cluster: ClusterView, service: str, nodes: Sequence[Host] | None) -> ServiceView:
    """Ask every Consul server for what it knows itself (GET /v1/health/service/:service?stale)."""
    answers = ask_every(cluster.consul_servers, lambda host: instances(host.consul.health(service, stale=True)))
    return ServiceView(service, None if nodes is None else places(nodes), answers)


def judge_service(view: ServiceView, count: int) -> Verdict:
    """Demand exactly `count` passing instances, on the nodes where they should be, in every answer."""
    wrong = []
    for answer in view.answers:
        faults = [f"{one.node}: check {check}" for one in answer.value for check in one.failing]
        if view.nodes is None:
            if len(answer.value) != count:
                on = ", ".join(sorted(one.node for one in answer.value)) or "no node"
                faults.append(f"{len(answer.value)} instances, on {on}")
        else:
            faults += _on_wrong_nodes(view.nodes, [one.node for one in answer.value])
        if faults:
            wrong.append(f"service {view.service}, asked on {answer.place}: {', '.join(faults)}")
    if view.nodes is not None and len(view.nodes) != count:
        wrong.append(f"the cluster has {len(view.nodes)} hosts for service {view.service}")
    if wrong:
        return Pending("; ".join(wrong))
    return Ok(
        f"service {view.service} passes on {count} nodes" if view.nodes else f"{count} instances of {view.service} pass"
    )


def _on_wrong_nodes(wanted: Sequence[HostRef], nodes: Sequence[str]) -> list[str]:
    faults = [f"missing on {place}" for place in wanted if place.instance_id not in nodes]
    known = {place.instance_id for place in wanted}
    # A node may have several instances: Nomad registers its servers' HTTP, RPC and Serf ports, each as
    # "nomad".
    return faults + [f"also on {node}" for node in sorted(set(nodes) - known)]


@dataclass(frozen=True)
class Registered(Check[ServiceView]):
    """A service is in Consul's catalog, `count` times, every check passing, in every Consul server's answer.

    For the agents' own services, ``consul``, ``nomad`` and ``nomad-client``, it is also exactly the right
    nodes: a node's name is the instance id.

    >>> Registered("nomad-client", 3).wanted
    'service nomad-client in Consul, passing, on exactly its 3 hosts, asked on every Consul server'
    """

    service: str
    count: int

    @property
    def wanted(self) -> str:
        """What this check demands."""
        where = f"on exactly its {self.count} hosts" if self._is_agent else f"{self.count} times"
        return f"service {self.service} in Consul, passing, {where}, asked on every Consul server"

    @property
    def _is_agent(self) -> bool:
        return self.service in ("consul", "nomad", "nomad-client")

    def observe(self, cluster: ClusterView) -> ServiceView:
        """Ask every Consul server (GET /v1/health/service/:service)."""
        homes = {
            "consul": cluster.consul_servers,
            "nomad": cluster.nomad_servers,
            "nomad-client": cluster.nomad_clients,
        }
        return observe_service(cluster, self.service, homes.get(self.service))

    def judge(self, observed: ServiceView) -> Verdict:
        """Compare nodes and checks in every answer."""
        return judge_service(observed, self.count)


@dataclass(frozen=True, slots=True)
class NomadNode:
    """One client node as Nomad lists it."""

    name: str
    datacenter: str
    status: str
    eligibility: str
    version: str
    drain: bool

    @classmethod
    def parse(cls, node: Mapping[str, Any]) -> NomadNode:
        """Read one entry of GET /v1/nodes."""
        return cls(
            name=str(node["Name"]),
            datacenter=str(node["Datacenter"]),
            status=str(node["Status"]),
            eligibility=str(node["SchedulingEligibility"]),
            version=str(node["Version"]),
            drain=bool(node["Drain"]),
        )

    @property
    def ready(self) -> bool:
        """Whether the scheduler may place allocations on it."""
        return self.status == "ready" and self.eligibility == "eligible" and not self.drain

    def __str__(self) -> str:
        return f"{self.name} is {self.status}, {self.eligibility}{', draining' if self.drain else ''}"


def nomad_nodes(answer: Sequence[Mapping[str, Any]]) -> tuple[NomadNode, ...]:
    """Read the answer of GET /v1/nodes."""
    return tuple(NomadNode.parse(node) for node in answer)


@dataclass(frozen=True, slots=True)
class NodesView:
    """The client nodes as every Nomad server knows them."""

    clients: tuple[HostRef, ...]
    answers: tuple[Answer[tuple[NomadNode, ...]], ...]


@dataclass(frozen=True)
class NodesReady(Check[NodesView]):
    """Every Nomad server knows exactly the cluster's `count` clients: ready, eligible, of one version.

    Nodes that are down are not counted but told, since servers keep them for a day after they went
    (`node_gc_threshold` of Nomad's server block).

    >>> NodesReady(3).wanted
    '3 Nomad clients ready, eligible and of one version, asked on every server'
    """

    count: int

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"{self.count} Nomad clients ready, eligible and of one version, asked on every server"

    def observe(self, cluster: ClusterView) -> NodesView:
        """Ask every server for what it knows itself (GET /v1/nodes?stale)."""
        answers = ask_every(cluster.nomad_servers, lambda host: nomad_nodes(host.nomad.nodes(stale=True)))
        return NodesView(places(cluster.nomad_clients), answers)

    def judge(self, observed: NodesView) -> Verdict:
        """Compare the nodes with the clients in every answer."""
        wrong = []
        for answer in observed.answers:
            ready = [node for node in answer.value if node.ready]
            faults = _on_wrong_nodes(observed.clients, [node.name for node in ready])
            versions = sorted({node.version for node in ready})
            if len(versions) > 1:
                faults.append(f"several versions: {', '.join(versions)}")
            if faults or len(ready) != self.count:
                faults += [str(node) for node in answer.value if not node.ready]
                text = f"{len(ready)} nodes are ready, asked on {answer.place}"
                wrong.append(f"{text}: {', '.join(faults)}" if faults else text)
        if wrong:
            return Pending("; ".join(wrong))
        return Ok(f"{self.count} nodes are ready")
