"""Whether an account has room for hosts: its quotas of vCPUs, and what of them is in use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nomad_testkit.errors import Missing
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error
from nomad_testkit.targets.base import LaunchRequest

# Each family's quota on demand and of spot instances, in vCPUs that run at the same time
# (https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html).
_STANDARD = ("L-1216C47A", "L-34B43A08")
_FAMILIES: Mapping[str, tuple[str, str]] = {
    "f": ("L-74FC7D96", "L-88CF9481"),
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "vt": ("L-DB2E81BA", "L-3819A6DF"),
    "inf": ("L-1945791B", "L-B5D1601B"),
    "p": ("L-417A185B", "L-7212CCBC"),
    "x": ("L-7295265B", "L-E3A00192"),
}
_STANDARD_FAMILIES = frozenset([*"acdhimrtz", "im", "is"])
_COUNTED = ("pending", "running")

Remark = Callable[[str], None]


def quota_code(instance_type: str, *, spot: bool = False) -> str | None:
    """Tell which quota an instance type counts for; None for a family whose quota is not known here.

    >>> quota_code("t3.micro"), quota_code("g4dn.xlarge", spot=True)
    ('L-1216C47A', 'L-3819A6DF')
    """
    letters = re.match(r"[a-z]+", instance_type)
    family = letters[0] if letters else ""
    codes = _FAMILIES.get(family) or (_STANDARD if family in _STANDARD_FAMILIES else None)
    return codes[spot] if codes else None


def lacking_vcpus(
    client: Callable[[str], Any], launches: Sequence[LaunchRequest], *, region: str, remark: Remark
) -> tuple[list[Missing], list[str]]:
    """Compare the vCPUs that hosts need with what is left of the account's quotas; gives also a line for each quota.

    A quota that cannot be read is a remark, for it does not keep anybody from trying.
    """
    wanted: dict[str, int] = {}
    types = {one.instance_type for one in launches if one.count}
    try:
        each = dict(_vcpus(client("ec2"), sorted(types)))
    except AWS_ERRORS as error:
        remark(f"it could not be asked how many vCPUs the instance types have: {describe_error(error)}")
        return [], []
    for launch in launches:
        code = quota_code(launch.instance_type, spot=bool(launch.spot_price))
        if launch.count and (code is None or launch.instance_type not in each):
            remark(f"it is not known which quota {launch.instance_type} counts for")
        elif code is not None and launch.count:
            wanted[code] = wanted.get(code, 0) + launch.count * each[launch.instance_type]
    missing, lines = [], []
    for code, needed in wanted.items():
        quota = _quota(client, code, remark)
        used = _used(client("ec2"), code, remark) if quota is not None else None
        if quota is None or used is None:
            continue
        name, most = quota
        lines.append(f"quota {code} ({name}) in {region}: {used} of {most:g} vCPUs are in use, {needed} more needed")
        if used + needed > most:
            missing.append(
                Missing(
                    f"{needed} vCPUs of the quota {code} ({name}) in {region}: {used} of {most:g} are in use",
                    "end other instances, deploy fewer or smaller ones, or ask for more (https://console.aws.amazon.com"
                    f"/servicequotas/home/services/ec2/quotas/{code})",
                )
            )
    return missing, lines


def types_not_in_zones(ec2: Any, launches: Sequence[LaunchRequest], *, remark: Remark) -> list[Missing]:
    """List the instance types that a zone of their group's subnets does not offer."""
    missing = []
    for launch in (one for one in launches if one.count and one.subnets):
        asked = [{"Name": "instance-type", "Values": [launch.instance_type]}]
        try:
            pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
                LocationType="availability-zone", Filters=asked
            )
            offered = {one["Location"] for page in pages for one in page["InstanceTypeOfferings"]}
        except AWS_ERRORS as error:
            remark(f"it could not be asked which zones offer {launch.instance_type}: {describe_error(error)}")
            continue
        lacking = [one for one in launch.subnets if one.availability_zone not in offered]
        if lacking:
            here = ", ".join(sorted(offered)) or "no zone"
            where = ", ".join(f"{one.availability_zone} ({one.subnet_id})" for one in lacking)
            missing.append(
                Missing(
                    f"{launch.instance_type} ({launch.group}) in {where}: only {here} of the region offers it",
                    "choose another instance type, or a VPC (--nomad-aws-vpc) with subnets in those zones only",
                )
            )
    return missing


def _vcpus(ec2: Any, types: Sequence[str]) -> Iterator[tuple[str, int]]:
    for start in range(0, len(types), 100):  # as many as DescribeInstanceTypes takes
        answer = ec2.describe_instance_types(InstanceTypes=list(types[start : start + 100]))
        for one in answer["InstanceTypes"]:
            yield one["InstanceType"], int(one["VCpuInfo"]["DefaultVCpus"])


def _quota(client: Callable[[str], Any], code: str, remark: Remark) -> tuple[str, float] | None:
    try:
        found = client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
    except AWS_ERRORS as error:
        remark(f"the quota {code} of vCPUs could not be read: {describe_error(error)}")
        return None
    return str(found.get("QuotaName", "vCPUs")), float(found["Value"])


def _used(ec2: Any, code: str, remark: Remark) -> int | None:
    """Count the vCPUs of the instances that run on a quota; None where it could not be asked."""
    state = {"Name": "instance-state-name", "Values": list(_COUNTED)}
    counted: dict[str, int] = {}
    try:
        for page in ec2.get_paginator("describe_instances").paginate(Filters=[state]):
            for reservation in page["Reservations"]:
                for one in reservation.get("Instances", ()):
                    if quota_code(one["InstanceType"], spot=one.get("InstanceLifecycle") == "spot") == code:
                        counted[one["InstanceType"]] = counted.get(one["InstanceType"], 0) + 1
        each = dict(_vcpus(ec2, sorted(counted)))
    except AWS_ERRORS as error:
        remark(f"it could not be counted how much of the quota {code} is in use: {describe_error(error)}")
        return None
    return sum(count * each.get(name, 0) for name, count in counted.items())
