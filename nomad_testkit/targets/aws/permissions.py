"""What whoever deploys may not do, found before anything is created.

Two ways, as far as each goes: IAM's simulator (SimulatePrincipalPolicy) for every call of a run, on what each call
needs by `targets.aws.policy`; and EC2's own ``DryRun``, which decides as the real call would, for what EC2
creates. Where they differ, EC2 is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nomad_testkit.errors import Missing
from nomad_testkit.modules.steps import RUN_TAG, tag_list
from nomad_testkit.targets.aws.account import Identity
from nomad_testkit.targets.aws.errors import AWS_ERRORS, code_of, describe_error
from nomad_testkit.targets.aws.policy import DEPLOYING, NeededAction, needs_of, seen_calls
from nomad_testkit.targets.base import LaunchRequest

REMEDY = "allow it, as the policy does that `nomad-testkit iam-policy` prints"
_EXAMPLE_RUN = "nt-20000101-000000"
"""The id of a run that never is: what a dry run names is not created."""
_DENIED = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})
_WOULD_SUCCEED = "DryRunOperation"
_PASSES = frozenset({"InternalError", "RequestLimitExceeded", "ServiceUnavailable", "Unavailable"})
_TAGS = tag_list({RUN_TAG: _EXAMPLE_RUN})
# No key of anybody's: whoever had its private half could log in nowhere, since no dry run imports it.
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA nomad-testkit"

_TYPES = {
    "aws:currenttime": "date",
    "aws:multifactorauthage": "numeric",
    "aws:multifactorauthpresent": "boolean",
    "aws:principalisawsservice": "boolean",
    "aws:securetransport": "boolean",
    "aws:sourceip": "ip",
    "aws:tokenissuetime": "date",
    "aws:viaawsservice": "boolean",
    "aws:vpcsourceip": "ip",
}
"""The types of condition keys that are not text (IAM User Guide, "AWS global condition context keys")."""

Remark = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Denial:
    """An action that is not allowed on a resource."""

    action: str
    resource: str
    why: str

    @property
    def missing(self) -> Missing:
        """What it is for a person."""
        return Missing(f"the permission {self.action} on {self.resource} ({self.why})", REMEDY)


def missing_permissions(
    client: Callable[[str], Any],
    identity: Identity,
    *,
    region: str,
    vpc_id: str,
    remark: Remark,
    context: Mapping[str, str] | None = None,
) -> list[Missing]:
    """List what these credentials may not do that a run does; what could not be found out is a remark.

    `context` has the values that conditions of the caller's policies see in real calls, such as ``aws:SourceIp``.
    """
    tried = dict(_dry_runs(client("ec2"), vpc_id, remark))
    simulated = _simulated(client("iam"), identity, region, context or {}, remark)
    needed = {need.action for need in needs_of(seen_calls("runs"))}
    if besides := sorted({one.action for one in simulated} - needed):
        remark(f"what only tests of faults and this preflight do is not allowed: {', '.join(besides)}")
    sure = [one for one in simulated if one.action in needed and tried.get(one.action, "") != _WOULD_SUCCEED]
    known = {one.action for one in sure}
    denied = [Denial(action, f"what is in {region}", said) for action, said in tried.items() if said != _WOULD_SUCCEED]
    return [one.missing for one in (*sure, *(each for each in denied if each.action not in known))]


def launch_refusals(ec2: Any, launches: Sequence[LaunchRequest], remark: Remark) -> list[Missing]:
    """Let EC2 look at the launch of each group without launching it (RunInstances with DryRun).

    That it is not allowed is a remark: `nomad-testkit iam-policy` allows a launch by the launch template of a run, and
    there is none yet.
    """
    missing = []
    tries = [
        (one, subnet_id)
        for one in launches
        if one.count
        for subnet_id in ([subnet.subnet_id for subnet in one.subnets] or [one.subnet_id])
    ]
    told_already: set[tuple[str, str]] = set()
    for launch, subnet_id in tries:
        said = _dry(
            lambda asked=launch, subnet_id=subnet_id: ec2.run_instances(  # type: ignore[misc]
                DryRun=True,
                ImageId=asked.image_id,
                InstanceType=asked.instance_type,
                MinCount=1,
                MaxCount=asked.count,
                SubnetId=subnet_id,
                TagSpecifications=[
                    {"ResourceType": kind, "Tags": _TAGS} for kind in ("instance", "volume", "network-interface")
                ],
            )
        )
        what = f"{launch.count} x {launch.instance_type} of {launch.image_id} in {subnet_id} ({launch.group})"
        code = said.partition(":")[0]
        # What is refused in every subnet alike is told once; what only one zone lacks names that zone.
        reason = (launch.group, _short(said))
        if reason in told_already:
            continue
        told_already.add(reason)
        if code in _DENIED or code in _PASSES:
            remark(f"the launch of {what} could not be tried: {_short(said)}")
        elif said != _WOULD_SUCCEED:
            missing.append(Missing(f"a launch of {what}: EC2 refuses it: {said}", "change what it names"))
    return missing


def _dry_runs(ec2: Any, vpc_id: str, remark: Remark) -> Iterator[tuple[str, str]]:
    """Try what EC2 creates for a run, and tell of each action how that ended; nothing of it is created."""
    name = f"nomad-testkit-{_EXAMPLE_RUN}"

    def tagged(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": _TAGS}]

    calls: Mapping[str, Callable[[], object]] = {
        "ec2:CreateSecurityGroup": lambda: ec2.create_security_group(
            DryRun=True, GroupName=name, Description=name, VpcId=vpc_id, TagSpecifications=tagged("security-group")
        ),
        "ec2:CreateLaunchTemplate": lambda: ec2.create_launch_template(
            DryRun=True,
            LaunchTemplateName=name,
            LaunchTemplateData={"InstanceType": "t3.micro"},
            TagSpecifications=tagged("launch-template"),
        ),
        "ec2:ImportKeyPair": lambda: ec2.import_key_pair(
            DryRun=True, KeyName=name, PublicKeyMaterial=_PUBLIC_KEY, TagSpecifications=tagged("key-pair")
        ),
    }
    for action, call in calls.items():
        said = _dry(call)
        code = said.partition(":")[0]
        if code in _DENIED:
            yield action, _short(said)
        elif said == _WOULD_SUCCEED:
            yield action, said
        else:
            remark(f"{action} could not be tried: {said}")


def _dry(call: Callable[[], object]) -> str:
    """Make a call with DryRun: gives DryRunOperation where it would have succeeded, else the refusal in words."""
    try:
        call()
    except AWS_ERRORS as error:
        return _WOULD_SUCCEED if code_of(error) == _WOULD_SUCCEED else describe_error(error)
    return _WOULD_SUCCEED


def _short(said: str) -> str:
    """Leave out the encoded message, which is long and for sts:DecodeAuthorizationMessage only."""
    return said.partition(" Encoded authorization failure message")[0]


def _simulated(iam: Any, identity: Identity, region: str, known: Mapping[str, str], remark: Remark) -> list[Denial]:
    source = _principal(iam, identity, remark)
    if source is None:
        return []
    denied: dict[tuple[str, str], Denial] = {}
    unsure: dict[tuple[str, ...], set[str]] = {}
    try:
        for resource, condition, actions in _questions(needs_of(seen_calls(*DEPLOYING)), identity.account, region):
            context = _context(condition, resource, identity.account, region, known)
            for result in _answers(iam, source, resource, context, actions):
                if result["EvalDecision"] != "allowed":
                    # The policies ask for what only a real call has, such as MFA or the caller's address.
                    if unknown := result.get("MissingContextValues"):
                        unsure.setdefault(tuple(sorted(unknown)), set()).add(result["EvalActionName"])
                        continue
                    key = (result["EvalActionName"], resource)
                    why = {"explicitDeny": "denied by a policy"}.get(result["EvalDecision"], "no policy allows it")
                    denied[key] = Denial(*key, why)
    except AWS_ERRORS as error:
        remark(f"permissions could not be simulated (iam:SimulatePrincipalPolicy): {describe_error(error)}")
        return []
    for unknown, some in sorted(unsure.items()):
        remark(
            f"it is not known whether {', '.join(sorted(some))} is allowed: the policies ask for {', '.join(unknown)}, "
            "which only real calls have; give them with --nomad-aws-context KEY=VALUE"
        )
    return list(denied.values())


def _principal(iam: Any, identity: Identity, remark: Remark) -> str | None:
    """Name the user or role whose policies count; None for a caller that has no policies."""
    kind = re.fullmatch(
        r"arn:([\w-]+):(iam|sts)::[0-9]*:(root|user/.+|assumed-role/([^/]+)/.+|federated-user/.+)", identity.arn
    )
    if kind is None or kind[3].startswith("federated-user"):
        remark(f"permissions could not be simulated: {identity.arn} is neither a user nor a role")
        return None
    if kind[3] == "root":
        remark("these are credentials of the account's root user, which may do everything: a role of its own is better")
        return None
    role = kind[4]
    if role is None:
        return identity.arn
    try:
        return str(iam.get_role(RoleName=role)["Role"]["Arn"])
    except AWS_ERRORS:  # without this permission its path stays unknown; most roles have none
        return f"arn:{kind[1]}:iam::{identity.account}:role/{role}"


def _questions(
    needs: Iterable[NeededAction], account: str, region: str
) -> Iterator[tuple[str, Mapping[str, Mapping[str, Any]], list[str]]]:
    """Put needs together that differ only in the action: a resource, the conditions, and the actions."""
    together: dict[tuple[str, str], tuple[Mapping[str, Mapping[str, Any]], list[str]]] = {}
    for need in needs:
        for resource in need.resources:
            key = (_instance_of(resource, account, region), repr(need.condition))
            actions = together.setdefault(key, (need.condition, []))[1]
            if need.action not in actions:
                actions.append(need.action)
    for (resource, _), (condition, actions) in together.items():
        yield resource, condition, actions


def _instance_of(pattern: str, account: str, region: str) -> str:
    """Make an ARN of a pattern for ARNs: the simulator wants one resource, not all that there could be.

    >>> _instance_of("arn:aws:ec2:*:*:volume/*", "123456789012", "us-east-1")
    'arn:aws:ec2:us-east-1:123456789012:volume/nt-20000101-000000'
    """
    if pattern == "*":
        return pattern
    parts = pattern.split(":", 5)
    parts[3] = region if parts[3] == "*" else parts[3]
    parts[4] = account if parts[4] == "*" else parts[4]
    name = parts[5].replace("*-nt-*", f"nomad-{_EXAMPLE_RUN}").replace("*", _EXAMPLE_RUN)
    return ":".join([*parts[:5], name])


def _answers(
    iam: Any, source: str, resource: str, context: Iterable[dict[str, Any]], actions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    pages = iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=source, ActionNames=list(actions), ResourceArns=[resource], ContextEntries=list(context)
    )
    for page in pages:
        yield from page["EvaluationResults"]


def _context(
    condition: Mapping[str, Mapping[str, Any]], resource: str, account: str, region: str, known: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Give the values of condition keys under which a call of a run is made."""
    values = {**known, "aws:RequestedRegion": region}
    for operator, keys in condition.items():
        for key, value in keys.items():
            if operator == "Null":
                values[key] = _EXAMPLE_RUN
            elif isinstance(value, str):
                values[key] = _instance_of(value, account, region) if value.startswith("arn:") else value
            else:
                values[key] = next((one for one in value if _created_by(one, resource)), value[0])
    for key, value in values.items():
        yield {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": _TYPES.get(key.lower(), "string")}


def _created_by(action: str, resource: str) -> bool:
    """Whether a call creates resources of this kind: a key pair is tagged when it is imported."""
    words = re.sub(r"[^a-z]", "", resource.rpartition(":")[2].partition("/")[0])
    return words in action.lower()
