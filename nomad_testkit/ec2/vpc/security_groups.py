"""Security groups as nftables rules: who of a cloud's hosts may reach whom, from the inside and from the outside.

As on AWS (https://docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html), rules only allow: a packet
passes where one of its sender's groups lets it out and one of its receiver's groups lets it in. They are stateful: what
belongs to a connection that was let through passes, also when its rule has gone since. A group as the source or
destination stands for the private addresses of its members, whatever its own rules say.

Metadata and DNS are never filtered, as on AWS; the AWS API is, on the way out, like an endpoint in the VPC.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nomad_testkit.ec2.vpc.network import API_ADDRESS, MACHINE_LINK

ALL = "-1"
"""All protocols, or for ICMP, all types or codes."""
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a group allows, to or from one block of addresses or the members of one group.

    >>> Rule("tcp", 8300, 8302, cidr="10.0.0.0/8")
    Rule(protocol='tcp', first=8300, last=8302, cidr='10.0.0.0/8', group=None)
    """

    protocol: str
    """tcp, udp, icmp, the number of another, or -1 for all."""
    first: int = -1
    """The first port; for ICMP, the type, or -1 for all."""
    last: int = -1
    """The last port; for ICMP, the code, or -1 for all."""
    cidr: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class SecurityGroups:
    """The groups of all hosts, and the rules of all groups that a host has."""

    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """A host's groups, by its private address."""
    inbound: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    outbound: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)

    def adds_nothing_to(self, before: SecurityGroups) -> bool:
        """Whether these differ by nothing but hosts that are gone: rules for those let nobody in, and harm nobody."""
        return (
            self.hosts.items() <= before.hosts.items()
            and all(before.inbound.get(group) == rules for group, rules in self.inbound.items())
            and all(before.outbound.get(group) == rules for group, rules in self.outbound.items())
        )

    def members(self, group: str) -> list[str]:
        """List the addresses of a group's members."""
        return sorted(address for address, groups in self.hosts.items() if group in groups)

    def ruleset(self) -> str:
        """Write the nftables rules that take the place of all those before, in one transaction.

        A verdict of `accept` ends one base chain only: the packet then meets the next, at a later priority. So what
        passes has been let out by its sender and in by its receiver.
        """
        groups = sorted(set().union(*self.hosts.values()))
        return "\n".join(
            [
                "table ip security_groups",  # so that there is one to delete
                "delete table ip security_groups",
                "table ip security_groups {",
                *(_set(group, self.members(group)) for group in groups),
                *self._chains("inbound", "saddr", groups, self.inbound),
                *self._chains("outbound", "daddr", groups, self.outbound),
                _dispatch("inbound", "daddr", groups),
                _dispatch("outbound", "saddr", groups),
                _base("leaving", "forward", "filter", f'iifname "{MACHINE_LINK}" accept', "jump outbound"),
                _base("arriving", "forward", "filter + 10", f'oifname "{MACHINE_LINK}" accept', "jump inbound"),
                _base(
                    "calling",
                    "input",
                    "filter",
                    f"ip daddr != {API_ADDRESS} accept",
                    f'iifname {{ "lo", "{MACHINE_LINK}" }} accept',
                    "jump outbound",
                ),
                "}\n",
            ]
        )

    def _chains(
        self, way: str, other: str, groups: Iterable[str], rules: Mapping[str, tuple[Rule, ...]]
    ) -> Iterator[str]:
        for group in groups:
            lines = [line for rule in rules.get(group, ()) if (line := self._line(rule, other))]
            yield _chain(f"{way}_{_name(group)}", lines)

    def _line(self, rule: Rule, other: str) -> str | None:
        """Write one rule; None for one that nothing can match."""
        if rule.cidr is not None:
            where = f"ip {other} {ipaddress.IPv4Network(rule.cidr, strict=False)}"
        elif rule.group is not None and self.members(rule.group):
            where = f"ip {other} @{_name(rule.group)}"
        else:
            return None
        return f"{where}{_protocol(rule)} accept"


def _protocol(rule: Rule) -> str:
    if rule.protocol == ALL:
        return ""
    if rule.protocol in ("tcp", "udp"):
        first, last = (0, _LAST_PORT) if rule.first < 0 else (rule.first, rule.last)
        return f" {rule.protocol} dport {first}" if first == last else f" {rule.protocol} dport {first}-{last}"
    if rule.protocol != "icmp":
        return f" ip protocol {rule.protocol}"
    if rule.first < 0:
        return " ip protocol icmp"
    return f" icmp type {rule.first}" + (f" icmp code {rule.last}" if rule.last >= 0 else "")


def _name(group: str) -> str:
    return group.replace("-", "_")


def _set(group: str, addresses: list[str]) -> str:
    return f"set {_name(group)} {{ type ipv4_addr; elements = {{ {', '.join(addresses)} }}; }}"


def _chain(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"chain {name} {{", *(f"    {line}" for line in lines), "}"])


def _dispatch(way: str, own: str, groups: Iterable[str]) -> str:
    return _chain(way, (f"ip {own} @{_name(group)} jump {way}_{_name(group)}" for group in groups))


def _base(name: str, hook: str, priority: str, *lines: str) -> str:
    head = (f"type filter hook {hook} priority {priority}; policy drop;", "ct state established,related accept")
    return _chain(name, (*head, *lines))
