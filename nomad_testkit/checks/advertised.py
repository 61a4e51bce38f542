"""What each agent advertises of itself, beside the instance that it runs on: others reach it by nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Verdict, ask_every, places
from nomad_testkit.cluster.host import Host
from nomad_testkit.wait import Ok, Pending

_OWN_ZONE = "its own availability zone"
_SERVICES = ("consul", "nomad", "nomad-client")


@dataclass(frozen=True, slots=True)
class Claim:
    """What one source says of one agent."""

    agent: str
    """``consul`` or ``nomad``."""
    source: str
    name: str
    addresses: tuple[tuple[str, str], ...]
    """What the address is for, and the address."""
    datacenter: str = ""
    region: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class AdvertisedView:
    """The claims that every server passes on, beside the hosts and their availability zones."""

    hosts: tuple[HostRef, ...]
    zones: Mapping[str, str]
    """By instance id."""
    answers: tuple[Answer[tuple[Claim, ...]], ...]


def consul_claims(members: Sequence[Mapping[str, Any]], services: Sequence[Mapping[str, Any]]) -> Iterator[Claim]:
    """Read Consul's members that live (GET /v1/agent/members), and entries of GET /v1/health/service/:service."""
    for member in members:
        if member["Status"] in (1, "alive"):
            tags = member["Tags"]
            version = str(tags["build"]).partition(":")[0]
            gossip = (("gossip", str(member["Addr"])),)
            yield Claim("consul", "its members", str(member["Name"]), gossip, str(tags["dc"]), version=version)
    for entry in services:
        node, service = entry["Node"], entry["Service"]
        address = str(service["Address"] or node["Address"])
        addresses = (("its node", str(node["Address"])), (f"service {service['Service']}", address))
        yield Claim("consul", "its catalog", str(node["Node"]), addresses, str(node["Datacenter"]))


def nomad_claims(members: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]) -> Iterator[Claim]:
    """Read Nomad's servers that live (GET /v1/agent/members), and its clients that are ready (GET /v1/nodes)."""
    for member in members:
        if member["Status"] == "alive":
            tags = member["Tags"]
            name = str(member["Name"]).removesuffix(f".{tags['region']}")
            addresses = (("Serf", str(member["Addr"])), ("RPC", str(tags.get("rpc_addr") or member["Addr"])))
            facts = {"datacenter": str(tags["dc"]), "region": str(tags["region"]), "version": str(tags["build"])}
            yield Claim("nomad", "its members", name, addresses, **facts)
    for node in nodes:
        if node["Status"] == "ready":
            http = (("HTTP", str(node["Address"])),)
            facts = {"datacenter": str(node["Datacenter"]), "version": str(node["Version"])}
            yield Claim("nomad", "its nodes", str(node["Name"]), http, **facts)


def _ask_consul(host: Host) -> tuple[Claim, ...]:
    entries = [entry for service in _SERVICES for entry in host.consul.health(service, stale=True)]
    return tuple(consul_claims(host.consul.members(), entries))


def _ask_nomad(host: Host) -> tuple[Claim, ...]:
    return tuple(nomad_claims(host.nomad.members(), host.nomad.nodes(stale=True)))


@dataclass(frozen=True)
class AdvertisedAddresses(Check[AdvertisedView]):
    """Each agent advertises the private address of its own instance, and all are of one region and version.

    A node is an instance by its name, which run-consul and run-nomad make the instance id, or else by its address.
    Nomad's datacenter is the instance's availability zone, or one and the same for all; Consul has one. An agent that
    advertises 127.0.0.1, or the address that its host had before, is alive to all other checks, and nobody reaches it.

    >>> AdvertisedAddresses().wanted.partition(",")[0]
    'every agent advertised with the private address of its own instance'
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        facts = "and with one region, datacenter and version as its kind has"
        return f"every agent advertised with the private address of its own instance, {facts}, asked on every server"

    def observe(self, cluster: ClusterView) -> AdvertisedView:
        """Ask every server for members, services and nodes."""
        consul = ask_every(cluster.consul_servers, _ask_consul)
        zones = {host.instance_id: host.instance.availability_zone for host in cluster.hosts}
        return AdvertisedView(places(cluster.hosts), zones, consul + ask_every(cluster.nomad_servers, _ask_nomad))

    def judge(self, observed: AdvertisedView) -> Verdict:
        """Compare each claim with its instance, and all of them with each other."""
        by_name = {place.instance_id: place for place in observed.hosts}
        by_address = {place.private_ip: place for place in observed.hosts}
        wrong: dict[str, list[HostRef]] = {}
        claims = []
        for answer in observed.answers:
            if not answer.value:
                wrong.setdefault("no agent is advertised", []).append(answer.place)
            for claim in answer.value:
                place = by_name.get(claim.name) or by_address.get(claim.addresses[0][1])
                claims.append((claim, place))
                for text in _wrong_addresses(claim, place):
                    wrong.setdefault(text, []).append(answer.place)
        texts = [f"{text} (asked on {', '.join(map(str, asked))})" for text, asked in wrong.items()]
        texts += _differing(claims, observed.zones)
        if texts:
            return Pending("; ".join(texts))
        return Ok(f"{len(observed.hosts)} hosts are advertised with their own addresses")


def _wrong_addresses(claim: Claim, place: HostRef | None) -> Iterator[str]:
    for what, address in claim.addresses:
        if place is None:
            yield f"{claim.agent}, in {claim.source}: {claim.name} has {address} for {what}, which no host has"
        elif address != place.private_ip:
            yield (
                f"{claim.agent}, in {claim.source}: {place} has {address} for {what} instead of "
                f"{place.private_ip}, its private address"
            )


def _differing(claims: Sequence[tuple[Claim, HostRef | None]], zones: Mapping[str, str]) -> Iterator[str]:
    """Say where agents of one kind are of several regions, versions or datacenters, and which."""
    for agent in ("consul", "nomad"):
        for field in ("region", "version", "datacenter"):
            values: dict[str, set[str]] = {}
            for claim, place in claims:
                value = str(getattr(claim, field))
                if field == "datacenter" and place is not None and value == zones.get(place.instance_id):
                    value = _OWN_ZONE
                if claim.agent == agent and value:
                    values.setdefault(value, set()).add(claim.name)
            if len(values) > 1:
                listed = "; ".join(f"{value} on {', '.join(sorted(names))}" for value, names in sorted(values.items()))
                yield f"{agent} has several {field}s: {listed}"
