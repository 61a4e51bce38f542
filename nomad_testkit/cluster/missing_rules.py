"""Which security group rules are missing for the agents of a run to reach each other, as far as the API can tell.

The ports are those that agents cannot do without:
https://developer.hashicorp.com/nomad/docs/install/production/requirements#ports-used and
https://developer.hashicorp.com/consul/docs/install/ports.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.modules.security_group_rules import Port
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG, checked_run_id
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Roles

logger = logging.getLogger(__name__)

NOMAD_HTTP, NOMAD_RPC = Port("tcp", 4646, "Nomad HTTP API"), Port("tcp", 4647, "Nomad RPC")
NOMAD_SERF = Port("tcp", 4648, "Nomad Serf")
CONSUL_RPC, CONSUL_HTTP = Port("tcp", 8300, "Consul server RPC"), Port("tcp", 8500, "Consul HTTP API")
CONSUL_HTTPS = Port("tcp", 8501, "Consul HTTPS API")
CONSUL_SERF = Port("tcp", 8301, "Consul Serf LAN"), Port("udp", 8301, "Consul Serf LAN")


@dataclass(frozen=True, slots=True)
class Party:
    """Who sends or receives: an instance of one of the example's groups, or this machine, which has no group."""

    name: str
    address: str
    security_groups: tuple[str, ...] = ()


def missing_rules(
    client: Callable[[str], Any], run_id: str, roles: Roles, *, machine_cidrs: Sequence[str] = (), https: bool = False
) -> list[str]:
    """Tell each way between a run's agents that no rule opens, one line for each port and pair of groups.

    It goes into errors, and so raises none: where the API refuses, nothing is told.
    """
    ec2 = client("ec2")
    filters = [
        {"Name": f"tag:{RUN_TAG}", "Values": [checked_run_id(run_id)]},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
    ]
    try:
        parties = [
            Party(
                next((tag["Value"] for tag in facts.get("Tags", ()) if tag["Key"] == GROUP_TAG), ""),
                facts["PrivateIpAddress"],
                tuple(group["GroupId"] for group in facts["SecurityGroups"]),
            )
            for page in ec2.get_paginator("describe_instances").paginate(Filters=filters)
            for reservation in page["Reservations"]
            for facts in reservation["Instances"]
        ]
        ids = sorted({group for party in parties for group in party.security_groups})
        found = ec2.describe_security_groups(GroupIds=ids)["SecurityGroups"] if ids else []
    except AWS_ERRORS as error:
        logger.warning("the security groups of %s: %s", run_id, describe_error(error))
        return []
    groups = {group["GroupId"]: group for group in found}
    machine = [Party("this machine", str(ipaddress.ip_network(cidr)[0])) for cidr in machine_cidrs if ":" not in cidr]
    return list(
        dict.fromkeys(
            line
            for senders, receivers, port in _ways(parties, roles, machine, https=https)
            for sender in senders
            for receiver in receivers
            if sender != receiver and (line := missing_rule(groups, sender, receiver, port))
        )
    )


def _ways(
    parties: Sequence[Party], roles: Roles, machine: Sequence[Party], *, https: bool
) -> Iterable[tuple[Sequence[Party], Sequence[Party], Port]]:
    consul = [party for party in parties if party.name in roles.consul_servers]
    servers = [party for party in parties if party.name in roles.nomad_servers]
    clients = [party for party in parties if party.name in roles.nomad_clients]
    yield clients, servers, NOMAD_RPC
    yield servers, servers, NOMAD_RPC
    yield servers, servers, NOMAD_SERF
    yield parties, consul, CONSUL_RPC
    for port in CONSUL_SERF:
        yield parties, parties, port
    yield machine, servers, NOMAD_HTTP
    yield machine, consul, CONSUL_HTTPS if https else CONSUL_HTTP


def missing_rule(groups: Mapping[str, Mapping[str, Any]], sender: Party, receiver: Party, port: Port) -> str | None:
    """Say which rule one host lacks to reach a port of another; None where it needs none."""
    what = f"{sender.name} cannot reach {receiver.name} on {port.protocol} {port.number} ({port.purpose})"
    for own, permissions, way, other in (
        (receiver, "IpPermissions", "inbound rule of {} lets them in", sender),
        (sender, "IpPermissionsEgress", "outbound rule of {} lets them out", receiver),
    ):
        if not own.security_groups:
            continue
        rules = [rule for group in own.security_groups for rule in groups.get(group, {}).get(permissions, ())]
        if not any(_opens(rule, other, port) for rule in rules):
            names = " or ".join(f"{group} ({groups[group]['GroupName']})" for group in own.security_groups)
            return f"{what}: no {way.format(names)}"
    return None


def _opens(rule: Mapping[str, Any], other: Party, port: Port) -> bool:
    if rule["IpProtocol"] != "-1":
        numbers = {"tcp": "6", "udp": "17"}
        if rule["IpProtocol"] not in (port.protocol, numbers[port.protocol]):
            return False
        if not rule.get("FromPort", 0) <= port.number <= rule.get("ToPort", 65535):
            return False
    if rule.get("PrefixListIds"):  # nobody here knows what is in it
        return True
    address = ipaddress.ip_address(other.address)
    return any(address in ipaddress.ip_network(one["CidrIp"], strict=False) for one in rule.get("IpRanges", ())) or any(
        pair.get("GroupId") in other.security_groups for pair in rule.get("UserIdGroupPairs", ())
    )
