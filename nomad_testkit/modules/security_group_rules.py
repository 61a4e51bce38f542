"""Which ports Consul, Nomad and SSH need, and the security group rules that open them.

The ports are those of https://developer.hashicorp.com/consul/docs/install/ports and
https://developer.hashicorp.com/nomad/docs/install/production/requirements#ports-used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nomad_testkit.modules.steps import Ref

MOST_RULES = 60
"""Inbound rules of one security group, where nobody has asked AWS for more."""


@dataclass(frozen=True, slots=True)
class Port:
    """One port that is to be open to the inside."""

    protocol: Literal["tcp", "udp"]
    number: int
    purpose: str
    """Shown in the rule: AWS allows letters, digits, spaces and ``._-:/()#,@[]+=&;{}!$*``."""


def consul_ports(
    *,
    server_rpc: int = 8300,
    cli_rpc: int = 8400,
    serf_wan: int = 8302,
    http_api: int = 8500,
    https_api: int | None = None,
    dns: int = 8600,
) -> tuple[Port, ...]:
    """List the ports of a Consul server, but for Serf LAN, which clients have too; `https_api` is off by default.

    One datacenter alone does without Serf WAN, and Consul since 0.8 without CLI RPC; both are upstream's.
    """
    ports = [
        Port("tcp", server_rpc, "Consul server RPC"),
        Port("tcp", cli_rpc, "Consul CLI RPC"),
        Port("tcp", serf_wan, "Consul Serf WAN"),
        Port("udp", serf_wan, "Consul Serf WAN"),
        Port("tcp", http_api, "Consul HTTP API"),
        Port("tcp", dns, "Consul DNS"),
        Port("udp", dns, "Consul DNS"),
    ]
    if https_api is not None:
        ports.append(Port("tcp", https_api, "Consul HTTPS API"))
    return tuple(ports)


def consul_client_ports(*, serf_lan: int = 8301) -> tuple[Port, ...]:
    """List the ports of a Consul client agent; servers need them as well."""
    return Port("tcp", serf_lan, "Consul Serf LAN"), Port("udp", serf_lan, "Consul Serf LAN")


def consul_api_ports(*, http_api: int = 8500, https_api: int = 8501) -> tuple[Port, ...]:
    """List the ports of a Consul agent's API, whichever it has: upstream opens them on servers only."""
    return Port("tcp", http_api, "Consul HTTP API"), Port("tcp", https_api, "Consul HTTPS API")


def nomad_ports(*, http: int = 4646, rpc: int = 4647, serf: int = 4648) -> tuple[Port, ...]:
    """List the ports of a Nomad agent: a client listens on the first alone, but its module makes servers too."""
    return (
        Port("tcp", http, "Nomad HTTP API"),
        Port("tcp", rpc, "Nomad RPC"),
        Port("tcp", serf, "Nomad Serf WAN"),
        Port("udp", serf, "Nomad Serf WAN"),
    )


RULE_SETS: Mapping[str, Callable[[], tuple[Port, ...]]] = {
    "consul-security-group-rules": consul_ports,
    "consul-client-security-group-rules": consul_client_ports,
    "consul-api-security-group-rules": consul_api_ports,
    "nomad-security-group-rules": nomad_ports,
}
"""What a group of an example can add to its module, under the names of upstream's modules; consul-api-… is our own."""


def inbound_rules(
    ports: Iterable[Port], *, cidr_blocks: Sequence[str], security_groups: Sequence[str | Ref]
) -> list[dict[str, Any]]:
    """Write the IpPermissions that open each port, once, to address blocks (IPv4 or IPv6) and to security groups.

    >>> rules = inbound_rules([Port("tcp", 22, "SSH")], cidr_blocks=["10.0.0.0/16"], security_groups=[])
    >>> rules[0]["IpRanges"]
    [{'CidrIp': '10.0.0.0/16', 'Description': 'SSH'}]
    """
    rules = []
    for port in dict.fromkeys(ports):
        rule: dict[str, Any] = {"IpProtocol": port.protocol, "FromPort": port.number, "ToPort": port.number}
        rule |= _address_ranges(cidr_blocks, port.purpose)
        if security_groups:
            rule["UserIdGroupPairs"] = [{"GroupId": one, "Description": port.purpose} for one in security_groups]
        if len(rule) > 3:  # otherwise nobody is let in, and AWS refuses a rule without a source
            rules.append(rule)
    return rules


def fitted(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the rules with ranges of ports where there would be more than a security group may have.

    Each source of each port counts (https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html).
    """
    if sum(len(sources) for rule in rules for sources in _sources(rule).values()) <= MOST_RULES:
        return rules
    joined: list[dict[str, Any]] = []
    for rule in sorted(rules, key=lambda one: (one["IpProtocol"], one["FromPort"])):
        last = joined[-1] if joined else None
        if (
            last is None
            or (last["IpProtocol"], last["ToPort"] + 1) != (rule["IpProtocol"], rule["FromPort"])
            or _sources(last) != _sources(rule)
        ):
            joined.append(rule)
            continue
        purposes = dict.fromkeys(text for one in (last, rule) for text in _purpose(one).split(", "))
        described: dict[str, Any] = {
            kind: [{**one, "Description": ", ".join(purposes)} for one in rule[kind]]
            for kind in _SOURCES
            if kind in rule
        }
        joined[-1] = {**last, "ToPort": rule["ToPort"], **described}
    return joined


_SOURCES = ("IpRanges", "Ipv6Ranges", "UserIdGroupPairs")


def _sources(rule: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        kind: [{key: value for key, value in one.items() if key != "Description"} for one in rule[kind]]
        for kind in _SOURCES
        if kind in rule
    }


def _purpose(rule: Mapping[str, Any]) -> str:
    return next(str(one["Description"]) for kind in _SOURCES for one in rule.get(kind, ()))


def outbound_rules(cidr_blocks: Sequence[str]) -> list[dict[str, Any]]:
    """Write the IpPermissions that let everything out to some address blocks."""
    return [{"IpProtocol": "-1", **_address_ranges(cidr_blocks, "outbound")}]


def _address_ranges(cidr_blocks: Sequence[str], description: str) -> dict[str, Any]:
    ranges: dict[str, Any] = {}
    for cidr in dict.fromkeys(cidr_blocks):
        key, field = ("Ipv6Ranges", "CidrIpv6") if ":" in cidr else ("IpRanges", "CidrIp")
        ranges.setdefault(key, []).append({field: cidr, "Description": description})
    return ranges
