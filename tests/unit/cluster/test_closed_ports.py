"""Which rules are missing for agents to reach each other: asked of the embedded EC2's own API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import pytest
from api_lab import Lab, cloud_lab
from botocore.exceptions import ClientError

from nomad_testkit.cluster.missing_rules import missing_rules
from nomad_testkit.examples.example import Roles
from nomad_testkit.modules.security_group_rules import consul_client_ports, consul_ports, inbound_rules, nomad_ports
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG

RUN, MACHINE = "nt-20261125-abcdef", "203.0.113.7/32"
ROLES = Roles(("servers",), ("servers",), ("clients",))
SUBNETS = ("172.31.0.0/16", MACHINE)


@dataclass(frozen=True)
class Site:
    """A colocated cluster's instances, with the rules that the modules write."""

    lab: Lab
    servers: str
    clients: str

    def missing(self, **options: Any) -> list[str]:
        """Ask which rules are missing."""
        return missing_rules(lambda _: self.lab.ec2, RUN, ROLES, machine_cidrs=[MACHINE], **options)

    def close(self, group: str, protocol: str, port: int) -> None:
        """Take every rule for a port away."""
        (found,) = self.lab.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
        rules = [one for one in found["IpPermissions"] if one.get("FromPort") == port]
        rules = [one for one in rules if one["IpProtocol"] == protocol]
        assert rules
        self.lab.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)


@pytest.fixture
def site() -> Iterator[Site]:
    with cloud_lab() as lab:
        made = {}
        both = (*nomad_ports(), *consul_client_ports())
        for name, ports, count in (("servers", (*both, *consul_ports()), 3), ("clients", both, 2)):
            group = lab.ec2.create_security_group(GroupName=name, Description=name)["GroupId"]
            rules = inbound_rules(ports, cidr_blocks=SUBNETS, security_groups=[])
            lab.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)
            tags = [{"Key": RUN_TAG, "Value": RUN}, {"Key": GROUP_TAG, "Value": name}]
            for _ in range(count):
                lab.running(SecurityGroupIds=[group], TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
            made[name] = group
        yield Site(lab, made["servers"], made["clients"])


@pytest.mark.parametrize(
    ("group", "protocol", "port", "name", "others"),
    [
        ("servers", "tcp", 4647, "Nomad RPC", "clients servers"),
        ("clients", "udp", 8301, "Consul Serf LAN", "servers clients"),
    ],
)
def test_a_port_that_is_closed(site: Site, group: str, protocol: str, port: int, name: str, others: str) -> None:
    assert site.missing() == []
    own: str = getattr(site, group)
    site.close(own, protocol, port)
    rule = f"on {protocol} {port} ({name}): no inbound rule of {own} ({group}) lets them in"
    assert site.missing() == [f"{other} cannot reach {group} {rule}" for other in others.split()]


def test_this_machine_is_one_that_asks(site: Site) -> None:
    site.close(site.servers, "tcp", 8500)
    rule = f"no inbound rule of {site.servers} (servers) lets them in"
    assert site.missing() == [f"this machine cannot reach servers on tcp 8500 (Consul HTTP API): {rule}"]
    assert site.missing(https=True) == [f"this machine cannot reach servers on tcp 8501 (Consul HTTPS API): {rule}"]


def test_what_does_not_go_out_is_told_too(site: Site) -> None:
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    site.lab.ec2.revoke_security_group_egress(GroupId=site.clients, IpPermissions=everything)
    missing = site.missing()
    assert missing[0] == (
        "clients cannot reach servers on tcp 4647 (Nomad RPC): "
        f"no outbound rule of {site.clients} (clients) lets them out"
    )
    pairs = [{"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535, "UserIdGroupPairs": [{"GroupId": site.servers}]}]
    site.lab.ec2.authorize_security_group_egress(GroupId=site.clients, IpPermissions=pairs)
    assert not any("on tcp" in line and "cannot reach servers" in line for line in site.missing())


def test_members_of_a_group_ranges_of_ports_and_a_refusal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.close(site.servers, "tcp", 4647)
    with monkeypatch.context() as patched:
        refused = ClientError({"Error": {"Code": "UnauthorizedOperation"}}, "DescribeSecurityGroups")
        patched.setattr(site.lab.ec2, "describe_security_groups", Mock(side_effect=refused))
        assert site.missing() == []
    assert site.missing()
    pairs = [{"GroupId": site.clients}, {"GroupId": site.servers}]
    wide = [{"IpProtocol": "tcp", "FromPort": 4000, "ToPort": 5000, "UserIdGroupPairs": pairs}]
    site.lab.ec2.authorize_security_group_ingress(GroupId=site.servers, IpPermissions=wide)
    assert site.missing() == []
