"""The least IAM policy with which a run can deploy to an account and destroy all of it again.

It is made from the calls that runs were seen to make (``fixtures/recorded/aws-calls.json``). What each call needs is
told by the Service Authorization Reference of AWS: its resources, the condition keys that it supports, and the actions
that it depends on, which are no calls of their own.

Only what bears the tag nomad-testkit-run can be created, and only that can be changed or deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nomad_testkit.errors import TestkitError
from nomad_testkit.modules.bundle import fixtures_dir
from nomad_testkit.modules.steps import RUN_TAG

Whose = Literal["runs", "preflight", "faults", "packer", "terraform"]
DEPLOYING: tuple[Whose, ...] = ("runs", "preflight", "faults")
"""Whose calls one policy allows: a run's, those that look at the account before it, and those that make it fail."""
READING = ("Describe", "List", "Get", "Simulate")
"""How the names of calls begin that change nothing. Most of them cannot be limited to resources, and a sweep has to
look at everything in order to find what bears the tag."""

# IAM's own resources bear the run's id at the end of their names, so that a role can be passed by its name: by its tag
# it cannot reliably ("Grant a user permissions to pass a role to an AWS service", IAM User Guide).
_ROLE, _PROFILE = "arn:aws:iam::*:role/*-nt-*", "arn:aws:iam::*:instance-profile/*-nt-*"
_GROUP = "arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/*"
_TEMPLATE = "arn:aws:ec2:*:*:launch-template/*"
_SECURITY_GROUP = "arn:aws:ec2:*:*:security-group/*"
_KEY_PAIR = "arn:aws:ec2:*:*:key-pair/*"
_IMAGE, _SNAPSHOT = "arn:aws:ec2:*::image/*", "arn:aws:ec2:*::snapshot/*"


def _ec2(kind: str) -> str:
    return f"arn:aws:ec2:*:*:{kind}/*"


_CREATES: Mapping[str, tuple[str, ...]] = {
    "autoscaling:CreateAutoScalingGroup": (_GROUP,),
    "ec2:CreateLaunchTemplate": (_TEMPLATE,),
    "ec2:CreateSecurityGroup": (_SECURITY_GROUP,),
    "ec2:ImportKeyPair": (_KEY_PAIR,),
    "ec2:RunInstances": (_ec2("instance"), _ec2("volume"), _ec2("network-interface")),
    "iam:CreateInstanceProfile": (_PROFILE,),
    "iam:CreateRole": (_ROLE,),
}
"""What each call creates; it has to bear the tag from the first."""

_CHANGES: Mapping[str, str] = {
    "autoscaling:DeleteAutoScalingGroup": _GROUP,
    "autoscaling:EnableMetricsCollection": _GROUP,
    "autoscaling:ResumeProcesses": _GROUP,
    "autoscaling:SetInstanceProtection": _GROUP,
    "autoscaling:SuspendProcesses": _GROUP,
    "autoscaling:UpdateAutoScalingGroup": _GROUP,
    "ec2:AuthorizeSecurityGroupEgress": _SECURITY_GROUP,
    "ec2:AuthorizeSecurityGroupIngress": _SECURITY_GROUP,
    "ec2:DeleteKeyPair": _KEY_PAIR,
    "ec2:DeleteLaunchTemplate": _TEMPLATE,
    "ec2:DeleteSecurityGroup": _SECURITY_GROUP,
    "ec2:DeleteSnapshot": _SNAPSHOT,
    "ec2:DeleteVolume": _ec2("volume"),
    "ec2:DeregisterImage": _IMAGE,
    "ec2:RebootInstances": _ec2("instance"),
    "ec2:RevokeSecurityGroupEgress": _SECURITY_GROUP,
    "ec2:RevokeSecurityGroupIngress": _SECURITY_GROUP,
    "ec2:StartInstances": _ec2("instance"),
    "ec2:StopInstances": _ec2("instance"),
    "ec2:TerminateInstances": _ec2("instance"),
    "iam:AddRoleToInstanceProfile": _PROFILE,
    "iam:DeleteInstanceProfile": _PROFILE,
    "iam:DeleteRole": _ROLE,
    "iam:DeleteRolePolicy": _ROLE,
    "iam:DetachRolePolicy": _ROLE,
    "iam:PutRolePolicy": _ROLE,
    "iam:RemoveRoleFromInstanceProfile": _PROFILE,
}
"""What each call changes; it has to bear the tag already."""

_NEW = {"Null": {f"aws:RequestTag/{RUN_TAG}": "false"}}
_OWN = {"Null": {f"aws:ResourceTag/{RUN_TAG}": "false"}}


@dataclass(frozen=True, slots=True)
class NeededAction:
    """An action that is needed on resources; `condition` is as a policy has it."""

    sid: str
    action: str
    resources: tuple[str, ...]
    condition: Mapping[str, Mapping[str, Any]]


def _tagging(*resources: str) -> NeededAction:
    """The tags that come with a creation, which are authorized as a tagging of their own."""
    actions = ["CreateLaunchTemplate", "CreateSecurityGroup", "ImportKeyPair", "RunInstances"]
    return NeededAction("TagWhenCreated", "ec2:CreateTags", resources, {"StringEquals": {"ec2:CreateAction": actions}})


_ITSELF: Mapping[str, tuple[NeededAction, ...]] = {
    **{
        call: (NeededAction("Launch" if call == "ec2:RunInstances" else "Create", call, resources, _NEW),)
        for call, resources in _CREATES.items()
    },
    **{call: (NeededAction("Change", call, (resource,), _OWN),) for call, resource in _CHANGES.items()},
    # What Terraform made gets the tag only afterwards.
    "autoscaling:CreateOrUpdateTags": (NeededAction("Adopt", "autoscaling:CreateOrUpdateTags", (_GROUP,), _NEW),),
    "ec2:CreateTags": (NeededAction("Adopt", "ec2:CreateTags", (_ec2("instance"),), _NEW),),
}
"""What the calls of a run need as themselves."""

_GROUP_CALL = "autoscaling:CreateAutoScalingGroup"
_LAUNCH_RESOURCES = tuple(_ec2(kind) for kind in ("instance", "volume", "network-interface", "subnet"))

BESIDES: Mapping[str, tuple[NeededAction, ...]] = {
    # The VPC that a group is made in.
    "ec2:CreateSecurityGroup": (
        NeededAction("InVpc", "ec2:CreateSecurityGroup", (_ec2("vpc"),), {}),
        _tagging(_SECURITY_GROUP),
    ),
    "ec2:CreateLaunchTemplate": (_tagging(_TEMPLATE),),
    "ec2:ImportKeyPair": (_tagging(_KEY_PAIR),),
    "iam:CreateRole": (NeededAction("Create", "iam:TagRole", (_ROLE,), _NEW),),
    "iam:CreateInstanceProfile": (NeededAction("Create", "iam:TagInstanceProfile", (_PROFILE,), _NEW),),
    _GROUP_CALL: (
        NeededAction("Create", "autoscaling:CreateOrUpdateTags", (_GROUP,), _NEW),
        # A group launches in its creator's name. It can do so by the launch template of a run, and without none.
        NeededAction("LaunchByTemplate", "ec2:RunInstances", (_TEMPLATE,), _OWN),
        NeededAction(
            "LaunchWhatTheTemplateSays",
            "ec2:RunInstances",
            (_IMAGE, _SECURITY_GROUP, _KEY_PAIR, *_LAUNCH_RESOURCES),
            {"ArnLike": {"ec2:LaunchTemplate": _TEMPLATE}},
        ),
        _tagging(*_CREATES["ec2:RunInstances"]),
        # The instances get the role of their profile.
        NeededAction(
            "PassRole", "iam:PassRole", (_ROLE,), {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
        ),
        # The first group of an account makes the service's own role.
        NeededAction(
            "ServiceRole",
            "iam:CreateServiceLinkedRole",
            ("arn:aws:iam::*:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling",),
            {"StringEquals": {"iam:AWSServiceName": "autoscaling.amazonaws.com"}},
        ),
    ),
    # An instance without a template has to bear the tag, and so do its key pair and its security group.
    "ec2:RunInstances": (
        _tagging(*_CREATES["ec2:RunInstances"]),
        NeededAction("LaunchWithOwn", "ec2:RunInstances", (_SECURITY_GROUP, _KEY_PAIR), _OWN),
        NeededAction("LaunchFrom", "ec2:RunInstances", (_IMAGE, _ec2("subnet")), {}),
    ),
}
"""What a call needs besides its own action, which nobody sees as a call."""


_PACKERS_KEY_PAIR = "arn:aws:ec2:*:*:key-pair/packer_*"
_PACKER_TAGS = (_ec2("instance"), _ec2("volume"))

PACKER: Mapping[str, tuple[NeededAction, ...]] = {
    "ec2:CreateKeyPair": (NeededAction("KeyPair", "ec2:CreateKeyPair", (_PACKERS_KEY_PAIR,), {}),),
    "ec2:DeleteKeyPair": (NeededAction("KeyPair", "ec2:DeleteKeyPair", (_PACKERS_KEY_PAIR,), {}),),
    # Its security group has neither a tag nor an ARN with a name in it.
    "ec2:CreateSecurityGroup": (
        NeededAction("SecurityGroup", "ec2:CreateSecurityGroup", (_SECURITY_GROUP,), {}),
        NeededAction("InVpc", "ec2:CreateSecurityGroup", (_ec2("vpc"),), {}),
    ),
    "ec2:AuthorizeSecurityGroupIngress": (
        NeededAction("SecurityGroup", "ec2:AuthorizeSecurityGroupIngress", (_SECURITY_GROUP,), {}),
    ),
    "ec2:DeleteSecurityGroup": (NeededAction("SecurityGroup", "ec2:DeleteSecurityGroup", (_SECURITY_GROUP,), {}),),
    "ec2:RunInstances": (
        NeededAction("Launch", "ec2:RunInstances", _PACKER_TAGS, _NEW),
        NeededAction(
            "LaunchFrom",
            "ec2:RunInstances",
            (_IMAGE, _SECURITY_GROUP, _PACKERS_KEY_PAIR, _ec2("network-interface"), _ec2("subnet")),
            {},
        ),
        _tagging(*_PACKER_TAGS),
    ),
    "ec2:StopInstances": (NeededAction("Change", "ec2:StopInstances", (_ec2("instance"),), _OWN),),
    "ec2:TerminateInstances": (NeededAction("Change", "ec2:TerminateInstances", (_ec2("instance"),), _OWN),),
    # Only of an instance that bears the tag; the image gets it a moment later.
    "ec2:CreateImage": (
        NeededAction("ImageOf", "ec2:CreateImage", (_ec2("instance"),), _OWN),
        NeededAction("Image", "ec2:CreateImage", (_IMAGE, _SNAPSHOT), {}),
    ),
    "ec2:ModifyImageAttribute": (NeededAction("DescribeImage", "ec2:ModifyImageAttribute", (_IMAGE,), {}),),
    "ec2:CreateTags": (NeededAction("TagImage", "ec2:CreateTags", (_IMAGE, _SNAPSHOT), _NEW),),
}
"""What Packer's calls need, which tags less than a run does."""


def seen_calls(*whose: Whose) -> tuple[str, ...]:
    """List the calls that runs, or Packer for one of them, were seen to make, as ``ec2:DescribeInstances``."""
    recorded = json.loads((fixtures_dir() / "recorded" / "aws-calls.json").read_text())
    return tuple(sorted({call for one in whose for call in recorded[one]}))


def needs_of(calls: Iterable[str], *, packer: bool = False) -> list[NeededAction]:
    """List what these calls need. Raises TestkitError for a call that is not known here."""
    needs: list[NeededAction] = []
    unknown = []
    for call in sorted(set(calls)):
        known = PACKER.get(call, ()) if packer else (*_ITSELF.get(call, ()), *BESIDES.get(call, ()))
        if call.partition(":")[2].startswith(READING):
            known = (NeededAction("Read", call, ("*",), {}),)
        if not known:
            unknown.append(call)
        needs += known
    if unknown:
        raise TestkitError(f"it is not known which resources these calls need; add them to {__name__}: {unknown}")
    return needs


def least_policy(calls: Iterable[str], *, packer: bool = False) -> dict[str, Any]:
    """Make the policy that allows these calls and nothing else. Raises TestkitError for one that it does not know.

    >>> least_policy(["ec2:DescribeVpcs"])["Statement"][0]["Action"]
    ['ec2:DescribeVpcs']
    """
    needs = needs_of(calls, packer=packer)
    statements = []
    for sid in dict.fromkeys(need.sid for need in needs):
        # Together, since each action takes but one kind of these resources: a managed policy may not be long.
        group = [need for need in needs if need.sid == sid]
        resources = list(dict.fromkeys(resource for need in group for resource in need.resources))
        statement = {
            "Sid": sid,
            "Effect": "Allow",
            "Action": list(dict.fromkeys(need.action for need in group)),
            "Resource": resources if len(resources) > 1 else resources[0],
        }
        statements.append(statement | ({"Condition": group[0].condition} if group[0].condition else {}))
    return {"Version": "2012-10-17", "Statement": statements}
