"""Security groups: the nftables rules that are written for them, and what of the API changes them."""

from __future__ import annotations

from typing import Any

import pytest
from api_lab import AMI, Lab, refused

from nomad_testkit.ec2.vpc.security_groups import Rule, SecurityGroups

ANYWHERE = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def lines(rule: Rule) -> list[str]:
    """Write one inbound rule of sg-1, whose member is 172.31.0.4; that of sg-2 is 172.31.0.5."""
    hosts = {"172.31.0.4": frozenset({"sg-1"}), "172.31.0.5": frozenset({"sg-2"})}
    text = SecurityGroups(hosts, {"sg-1": (rule,)}).ruleset()
    chain = text.partition("chain inbound_sg_1 {")[2].partition("}")[0]
    return [line.strip() for line in chain.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (Rule("tcp", 22, 22, cidr="0.0.0.0/0"), "ip saddr 0.0.0.0/0 tcp dport 22 accept"),
        (Rule("udp", 8300, 8302, cidr="10.0.0.0/8"), "ip saddr 10.0.0.0/8 udp dport 8300-8302 accept"),
        (Rule("tcp", 0, 1023, cidr="10.0.0.0/8"), "ip saddr 10.0.0.0/8 tcp dport 0-1023 accept"),
        (Rule("tcp", cidr="10.0.0.0/8"), "ip saddr 10.0.0.0/8 tcp dport 0-65535 accept"),
        (Rule("tcp", 22, 22, cidr="172.31.0.9/20"), "ip saddr 172.31.0.0/20 tcp dport 22 accept"),
        (Rule("tcp", 22, 22, group="sg-2"), "ip saddr @sg_2 tcp dport 22 accept"),
        (Rule("-1", group="sg-1"), "ip saddr @sg_1 accept"),
        (Rule("icmp", cidr="0.0.0.0/0"), "ip saddr 0.0.0.0/0 ip protocol icmp accept"),
        (Rule("icmp", 8, -1, cidr="0.0.0.0/0"), "ip saddr 0.0.0.0/0 icmp type 8 accept"),
        (Rule("icmp", 3, 4, cidr="0.0.0.0/0"), "ip saddr 0.0.0.0/0 icmp type 3 icmp code 4 accept"),
        (Rule("47", cidr="0.0.0.0/0"), "ip saddr 0.0.0.0/0 ip protocol 47 accept"),
    ],
)
def test_each_kind_of_rule(rule: Rule, line: str) -> None:
    assert lines(rule) == [line]


def test_a_group_without_members_opens_nothing() -> None:
    assert lines(Rule("tcp", 22, 22, group="sg-3")) == []


def test_outbound_rules_name_the_destination() -> None:
    hosts = {"172.31.0.4": frozenset({"sg-1"})}
    groups = SecurityGroups(hosts, outbound={"sg-1": (Rule("-1", cidr="0.0.0.0/0"),)}).ruleset()
    assert "chain outbound_sg_1 {\n    ip daddr 0.0.0.0/0 accept\n}" in groups
    assert "ip saddr @sg_1 jump outbound_sg_1" in groups


def test_without_hosts_nothing_passes() -> None:
    text = SecurityGroups().ruleset()
    assert text.count("policy drop") == 3
    assert "jump inbound_" not in text


def test_only_hosts_that_are_gone_need_no_other_rules() -> None:
    rule = Rule("tcp", 22, 22, group="sg-1")
    one, two = frozenset({"sg-1"}), frozenset({"sg-2"})
    both = SecurityGroups({"a": one, "b": two}, {"sg-1": (rule,), "sg-2": ()}, {"sg-1": (), "sg-2": ()})
    less = SecurityGroups({"a": one}, {"sg-1": (rule,)}, {"sg-1": ()})
    assert both.adds_nothing_to(both)
    assert less.adds_nothing_to(both)
    assert SecurityGroups().adds_nothing_to(both)
    assert not both.adds_nothing_to(less)
    assert not SecurityGroups({"a": two}, less.inbound, less.outbound).adds_nothing_to(both)
    assert not SecurityGroups({"a": one}, {"sg-1": ()}, {"sg-1": ()}).adds_nothing_to(both)
    assert not SecurityGroups({"a": one}, {"sg-1": (rule,)}, {"sg-1": (rule,)}).adds_nothing_to(both)


def in_force(lab: Lab) -> SecurityGroups:
    return lab.machines.protected[-1]


def test_a_cloud_is_closed_from_its_start(lab: Lab) -> None:
    assert lab.machines.protected == [SecurityGroups()]


def test_the_default_group_lets_in_its_own_members(lab: Lab) -> None:
    instance = lab.instance(lab.running())
    (default,) = instance["SecurityGroups"]
    group_id = default["GroupId"]
    assert default["GroupName"] == "default"
    assert in_force(lab) == SecurityGroups(
        {instance["PrivateIpAddress"]: frozenset({group_id})},
        {group_id: (Rule("-1", group=group_id),)},
        {group_id: (Rule("-1", cidr="0.0.0.0/0"),)},
    )


def test_rules_are_in_force_when_the_call_returns(lab: Lab) -> None:
    web, other = lab.security_group("web"), lab.security_group("other")
    lab.running(SecurityGroupIds=[web])
    permissions: list[dict[str, Any]] = [
        {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 81, **ANYWHERE},
        {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "UserIdGroupPairs": [{"GroupId": other}]},
        {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, **ANYWHERE},
        {"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "::/0"}]},
        {"IpProtocol": "47", **ANYWHERE},
    ]
    before = len(lab.machines.protected)
    lab.ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=permissions)
    assert in_force(lab).inbound[web] == (
        Rule("tcp", 80, 81, cidr="0.0.0.0/0"),
        Rule("udp", 53, 53, group=other),
        Rule("icmp", 8, -1, cidr="0.0.0.0/0"),
        Rule("47", cidr="0.0.0.0/0"),
    )
    lab.ec2.revoke_security_group_ingress(GroupId=web, IpPermissions=permissions[:3])
    assert in_force(lab).inbound[web] == (Rule("47", cidr="0.0.0.0/0"),)
    lab.ec2.revoke_security_group_egress(GroupId=web, IpPermissions=[{"IpProtocol": "-1", **ANYWHERE}])
    assert in_force(lab).outbound[web] == ()
    lab.ec2.authorize_security_group_egress(GroupId=web, IpPermissions=permissions[:1])
    assert in_force(lab).outbound[web] == (Rule("tcp", 80, 81, cidr="0.0.0.0/0"),)
    assert len(lab.machines.protected) == before + 4


def test_what_changes_no_rule_of_a_host_is_not_written_again(lab: Lab) -> None:
    web, unused = lab.security_group("web"), lab.security_group("unused")
    one, other = (lab.running(SecurityGroupIds=[web]) for _ in range(2))
    before = len(lab.machines.protected)
    lab.ec2.authorize_security_group_ingress(GroupId=unused, IpPermissions=[{"IpProtocol": "-1", **ANYWHERE}])
    lab.ec2.describe_instances()
    lab.ended(one)
    assert lab.instance(one)["SecurityGroups"] == []
    assert len(lab.machines.protected) == before
    lab.ec2.modify_instance_attribute(InstanceId=other, Groups=[web, unused])
    assert len(lab.machines.protected) == before + 1
    assert list(in_force(lab).hosts) == [lab.instance(other)["PrivateIpAddress"]]


def test_a_whole_group_of_instances_is_one_change(lab: Lab) -> None:
    web = lab.security_group("web")
    before = len(lab.machines.protected)
    lab.group(lab.template(SecurityGroupIds=[web]), 6)
    assert len(lab.machines.protected) == before + 1
    assert set(in_force(lab).hosts.values()) == {frozenset({web})}


def test_groups_of_an_instance_are_those_of_its_first_interface(lab: Lab) -> None:
    one, two = lab.security_group("one"), lab.security_group("two")
    made = lab.ec2.create_network_interface(SubnetId=lab.three[0], Groups=[one])["NetworkInterface"]
    first = [{"DeviceIndex": 0, "NetworkInterfaceId": made["NetworkInterfaceId"]}]
    instance_id = lab.running(NetworkInterfaces=first)
    address = made["PrivateIpAddress"]

    def groups() -> list[str]:
        return [each["GroupId"] for each in lab.instance(instance_id)["SecurityGroups"]]

    assert groups() == [one]
    assert in_force(lab).hosts[address] == {one}
    lab.ec2.modify_network_interface_attribute(NetworkInterfaceId=made["NetworkInterfaceId"], Groups=[two])
    assert groups() == [two]
    assert in_force(lab).hosts[address] == {two}
    lab.ec2.modify_instance_attribute(InstanceId=instance_id, Groups=[one, two])
    assert groups() == [one, two]
    assert in_force(lab).hosts[address] == {one, two}
    unknown = {"InstanceId": instance_id, "Groups": ["sg-0123456789abcdef0"]}
    refused("InvalidGroup.NotFound", lab.ec2.modify_instance_attribute, **unknown)
    assert groups() == [one, two]


def test_a_modified_rule_is_in_force(lab: Lab) -> None:
    web = lab.security_group("web")
    lab.running(SecurityGroupIds=[web])
    http = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, **ANYWHERE}
    lab.ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[http])
    rules = lab.ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [web]}])["SecurityGroupRules"]
    rule = next(rule["SecurityGroupRuleId"] for rule in rules if not rule["IsEgress"])
    asked: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8"}

    def modify(**instead: Any) -> None:
        changes = [{"SecurityGroupRuleId": rule, "SecurityGroupRule": {**asked, **instead}}]
        lab.ec2.modify_security_group_rules(GroupId=web, SecurityGroupRules=changes)

    modify()
    assert in_force(lab).inbound[web] == (Rule("tcp", 443, 443, cidr="10.0.0.0/8"),)
    refused("InvalidParameterValue", lambda: modify(ToPort=442))
    del asked["CidrIpv4"]
    assert "revoke the rule" in refused("InvalidParameterValue", lambda: modify(ReferencedGroupId=web))
    assert in_force(lab).inbound[web] == (Rule("tcp", 443, 443, cidr="10.0.0.0/8"),)


@pytest.mark.parametrize("last", [0, 65535])
def test_a_rule_from_port_0_is_taken(last: int, lab: Lab) -> None:
    web = lab.security_group("web")
    permission = {**ANYWHERE, "IpProtocol": "tcp", "FromPort": 0, "ToPort": last}
    lab.ec2.authorize_security_group_ingress(GroupId=web, IpPermissions=[permission])
    lab.ec2.run_instances(ImageId=AMI, MinCount=1, MaxCount=1, SecurityGroupIds=[web])
    assert in_force(lab).inbound[web] == (Rule("tcp", 0, last, cidr="0.0.0.0/0"),)


@pytest.mark.parametrize(
    ("permission", "message"),
    [
        ({"IpProtocol": "tcp"}, "Must specify both from and to ports"),
        ({"IpProtocol": "tcp", "FromPort": 81, "ToPort": 80}, "'81-80' for portRange"),
        ({"IpProtocol": "udp", "FromPort": 1, "ToPort": 65536}, "ports are from 0 to 65535"),
        ({"IpProtocol": "icmp", "FromPort": 256, "ToPort": -1}, "'256--1' for portRange. an ICMP type"),
        ({"IpProtocol": "http", "FromPort": 80, "ToPort": 80}, "'http' for ipProtocol. use tcp, udp, icmp"),
        ({"IpProtocol": "256"}, "'256' for ipProtocol"),
        ({"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": "pl-1"}]}, "has no prefix lists"),
    ],
)
@pytest.mark.parametrize("way", ["ingress", "egress"])
def test_rules_that_are_refused(way: str, permission: dict[str, Any], message: str, lab: Lab) -> None:
    web = lab.security_group("web")
    authorize = getattr(lab.ec2, f"authorize_security_group_{way}")
    said = refused("InvalidParameterValue", lambda: authorize(GroupId=web, IpPermissions=[{**ANYWHERE, **permission}]))
    assert message in said
