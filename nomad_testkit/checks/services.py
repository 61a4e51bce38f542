"""A job's service in Consul: healthy, resolved over Consul DNS, and gone after the job was stopped."""

from __future__ import annotations

from dataclasses import dataclass

from nomad_testkit.checks.registration import (
    ServiceInstance,
    ServiceView,
    instances,
    judge_service,
    observe_service,
)
from nomad_testkit.cluster.check import Answer, Check, ClusterView, Verdict, ask_every
from nomad_testkit.cluster.host import CONSUL_DNS_PORT, Host
from nomad_testkit.wait import Ok, Pending


@dataclass(frozen=True)
class ServiceHealthy(Check[ServiceView]):
    """Every Consul server knows `count` instances of a service, and all their checks pass.

    >>> ServiceHealthy("web", 3).wanted
    '3 instances of service web, every check passing, asked on every Consul server'
    """

    service: str
    count: int

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"{self.count} instances of service {self.service}, every check passing, asked on every Consul server"

    def observe(self, cluster: ClusterView) -> ServiceView:
        """Ask every Consul server (GET /v1/health/service/:service)."""
        return observe_service(cluster, self.service, None)

    def judge(self, observed: ServiceView) -> Verdict:
        """Count the instances and look at their checks."""
        return judge_service(observed, self.count)


@dataclass(frozen=True, slots=True)
class DnsView:
    """A service over one server's Consul DNS, beside what the same server's HTTP API says."""

    code: str
    addresses: tuple[str, ...]
    ports: tuple[int, ...]
    passing: tuple[ServiceInstance, ...]


def _resolve(host: Host, service: str) -> DnsView:
    from nomad_testkit.cluster.clients.dns import ask

    name = f"{service}.service.consul"
    addresses = ask(host.address, CONSUL_DNS_PORT, name)
    # Over UDP Consul leaves instances out (udp_answer_limit, 3); over TCP it gives them all.
    ports = ask(host.address, CONSUL_DNS_PORT, name, "SRV", tcp=True)
    passing = instances(host.consul.health(service, passing=True, stale=True))
    return DnsView(
        addresses.code,
        addresses.values,
        tuple(sorted(int(value.partition(" ")[0]) for value in ports.values)),
        passing,
    )


@dataclass(frozen=True)
class ServiceResolves(Check[tuple[Answer[DnsView], ...]]):
    """SERVICE.service.consul resolves on every Consul server to the passing instances and nothing else.

    Addresses are asked over UDP, as programs do, and may be some of the instances'; ports (SRV) over TCP, and
    are all of them.

    >>> ServiceResolves("web").wanted
    'web.service.consul resolves to the passing instances on every Consul server'
    """

    service: str

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"{self.service}.service.consul resolves to the passing instances on every Consul server"

    def observe(self, cluster: ClusterView) -> tuple[Answer[DnsView], ...]:
        """Ask every Consul server's DNS port for A and SRV records, and its HTTP API for the instances."""
        return ask_every(cluster.consul_servers, lambda host: _resolve(host, self.service))

    def judge(self, observed: tuple[Answer[DnsView], ...]) -> Verdict:
        """Compare addresses and ports with the instances, server by server."""
        wrong = [f"{answer.place}: {text}" for answer in observed if (text := self._fault(answer.value))]
        if wrong:
            return Pending("; ".join(wrong))
        return Ok(f"{self.service}.service.consul resolves on {len(observed)} servers")

    def _fault(self, view: DnsView) -> str | None:
        if view.code != "NOERROR" or not view.addresses:
            return f"DNS answers {view.code} with {len(view.addresses)} addresses"
        known = {one.address for one in view.passing}
        if stray := sorted(set(view.addresses) - known):
            return f"DNS gives {', '.join(stray)}, where no instance passes"
        ports = tuple(sorted(one.port for one in view.passing))
        if view.ports != ports:
            return f"DNS gives ports {list(view.ports)}, the instances have {list(ports)}"
        return None


@dataclass(frozen=True, slots=True)
class GoneView:
    """What is left of a service on one Consul server."""

    instances: tuple[ServiceInstance, ...]
    in_catalog: bool
    dns_code: str


def _leftovers(host: Host, service: str) -> GoneView:
    from nomad_testkit.cluster.clients.dns import ask

    return GoneView(
        instances(host.consul.health(service, stale=True)),
        service in host.consul.services(stale=True),
        ask(host.address, CONSUL_DNS_PORT, f"{service}.service.consul").code,
    )


@dataclass(frozen=True)
class ServiceGone(Check[tuple[Answer[GoneView], ...]]):
    """No Consul server knows a service any more: not in the catalog, and NXDOMAIN over DNS.

    >>> ServiceGone("web").wanted
    'service web gone from the catalog and from DNS, on every Consul server'
    """

    service: str

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"service {self.service} gone from the catalog and from DNS, on every Consul server"

    def observe(self, cluster: ClusterView) -> tuple[Answer[GoneView], ...]:
        """Ask every Consul server's catalog, health endpoint and DNS."""
        return ask_every(cluster.consul_servers, lambda host: _leftovers(host, self.service))

    def judge(self, observed: tuple[Answer[GoneView], ...]) -> Verdict:
        """Look for anything that is left."""
        wrong = [f"{answer.place}: {text}" for answer in observed if (text := self._fault(answer.value))]
        return Pending("; ".join(wrong)) if wrong else Ok(f"service {self.service} is gone")

    def _fault(self, view: GoneView) -> str | None:
        if view.instances:
            nodes = ", ".join(sorted(one.node for one in view.instances))
            return f"service {self.service} is still on {nodes}"
        if view.in_catalog:
            return f"service {self.service} is still in the catalog"
        if view.dns_code != "NXDOMAIN":
            return f"DNS still answers {view.dns_code} for {self.service}.service.consul"
        return None
