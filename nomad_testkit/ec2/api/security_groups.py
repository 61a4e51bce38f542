"""moto's security groups, checked as AWS checks them, and as the rules that a cloud enforces."""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.security_groups import SecurityGroupBackend

from nomad_testkit.ec2.vpc.security_groups import ALL, Rule, SecurityGroups

_NAMES = {"all": ALL, "1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6"}
_LAST_PORT, _LAST_CODE, _LAST_PROTOCOL = 65535, 255, 255


class CheckedSecurityGroups(SecurityGroupBackend):
    """Refuses what AWS refuses, and says so of what this cloud cannot enforce."""

    def create_security_group(self, *args: Any, **kwargs: Any) -> Any:
        group = super().create_security_group(*args, **kwargs)
        if group.is_default:  # on AWS it lets in its own members
            self.authorize_security_group_ingress(
                group_name_or_id=group.id,
                ip_protocol=ALL,
                from_port=None,
                to_port=None,
                ip_ranges=[],
                source_groups=[{"GroupId": group.id}],
            )
        return group

    def authorize_security_group_ingress(self, *args: Any, **rule: Any) -> Any:
        return super().authorize_security_group_ingress(*args, **_checked(rule))

    def authorize_security_group_egress(self, *args: Any, **rule: Any) -> Any:
        return super().authorize_security_group_egress(*args, **_checked(rule))

    def modify_security_group_rules(self, group_id: str, rules: dict[str, dict[str, Any]]) -> None:
        for rule in rules.values():
            if rule.get("ReferencedGroupId"):
                raise _invalid(
                    "securityGroupRules",
                    rule["ReferencedGroupId"],
                    "the embedded EC2 modifies rules for CIDR blocks only: revoke the rule and authorize another",
                )
            lists = [rule["PrefixListId"]] if rule.get("PrefixListId") else []
            _check(rule.get("IpProtocol"), rule.get("FromPort"), rule.get("ToPort"), prefix_list_ids=lists)
        super().modify_security_group_rules(group_id, rules)

    def modify_instance_security_groups(self, instance_id: str, new_group_id_list: list[str]) -> Any:
        self._check_groups(new_group_id_list)
        return super().modify_instance_security_groups(instance_id, new_group_id_list)

    def modify_network_interface_attribute(self, eni_id: str, group_ids: list[str], *args: Any, **kwargs: Any) -> None:
        self._check_groups(group_ids)
        super().modify_network_interface_attribute(eni_id, group_ids, *args, **kwargs)

    def _check_groups(self, group_ids: Iterable[str]) -> None:
        for group_id in group_ids:
            if self.get_security_group_from_id(group_id) is None:
                raise EC2ClientError("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")


def _checked(rule: dict[str, Any]) -> dict[str, Any]:
    _check(**rule)
    if _protocol(rule["ip_protocol"]) not in ("tcp", "udp", ALL):  # others may do without
        rule = {**rule, **{port: -1 for port in ("from_port", "to_port") if rule[port] is None}}
    return rule


def _check(
    ip_protocol: str | None = None,
    from_port: int | str | None = None,
    to_port: int | str | None = None,
    prefix_list_ids: Iterable[Any] | None = None,
    **_: Any,
) -> None:
    """Refuse a rule that AWS would, or that cannot be enforced here."""
    if prefix_list_ids:
        raise _invalid("prefixListId", prefix_list_ids, "the embedded EC2 has no prefix lists: name their CIDR blocks")
    protocol = _protocol(ip_protocol)
    if protocol == ALL:
        return
    if protocol not in ("tcp", "udp", "icmp", "icmpv6") and not (
        protocol.isascii() and protocol.isdigit() and int(protocol) <= _LAST_PROTOCOL
    ):
        raise _invalid("ipProtocol", ip_protocol, "use tcp, udp, icmp, a protocol's number, or -1 for all")
    if from_port is None or to_port is None:
        if protocol in ("tcp", "udp"):
            raise _invalid("portRange", None, "Must specify both from and to ports with TCP/UDP.")
        return
    first, last = int(from_port), int(to_port)
    if protocol in ("tcp", "udp") and not 0 <= first <= last <= _LAST_PORT and (first, last) != (-1, -1):
        raise _invalid("portRange", f"{first}-{last}", "ports are from 0 to 65535, the first no higher than the last")
    if protocol == "icmp" and not (-1 <= first <= _LAST_CODE and -1 <= last <= _LAST_CODE):
        raise _invalid("portRange", f"{first}-{last}", "an ICMP type or code is from 0 to 255, or -1 for all")


def _invalid(parameter: str, found: object, why: str) -> EC2ClientError:
    return EC2ClientError("InvalidParameterValue", f"Invalid value '{found}' for {parameter}. {why}")


def _protocol(name: object) -> str:
    given = str(name).lower()
    return _NAMES.get(given, given)


def security_groups(ec2: Any) -> SecurityGroups:
    """Tell which groups moto's instances have, and what those allow."""
    interfaces = [eni for eni in ec2.enis.values() if eni.instance is not None and eni.instance.nics.get(0) is eni]
    groups = {group.id: group for eni in interfaces for group in eni.group_set}
    return SecurityGroups(
        {eni.private_ip_address: frozenset(group.id for group in eni.group_set) for eni in interfaces},
        {group.id: tuple(_rules(group.ingress_rules)) for group in groups.values()},
        {group.id: tuple(_rules(group.egress_rules)) for group in groups.values()},
    )


def _rules(rules: Iterable[Any]) -> Iterable[Rule]:
    for rule in rules:
        cidr, group = rule.ip_range.get("CidrIp"), rule.source_group.get("GroupId")
        protocol = _protocol(rule.ip_protocol)
        # Hosts here have no IPv6, so its rules have nothing to allow.
        if (cidr is None and group is None) or protocol == "icmpv6":
            continue
        first, last = (-1 if port is None else int(port) for port in (rule.from_port, rule.to_port))
        yield Rule(protocol, first, last, cidr, group)
