"""Recognise AWS's answer to a call that botocore sent twice because the first response was lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nomad_testkit.modules.steps import (
    AUTO_SCALING_GROUP,
    INSTANCE_PROFILE,
    KEY_PAIR,
    LAUNCH_TEMPLATE,
    ROLE,
    RUN_TAG,
    SECURITY_GROUP,
)
from nomad_testkit.targets.aws.errors import AWS_ERRORS, code_of, is_not_found
from nomad_testkit.wait import Ok, Pending

if TYPE_CHECKING:
    from nomad_testkit.modules.steps import Step

_DUPLICATE = frozenset(
    {
        "AlreadyExists",
        "AlreadyExistsFault",
        "EntityAlreadyExists",
        "InvalidGroup.Duplicate",
        "InvalidKeyPair.Duplicate",
        "InvalidLaunchTemplateName.AlreadyExistsException",
    }
)
_DONE = {
    "add_role_to_instance_profile": frozenset({"EntityAlreadyExists", "LimitExceeded"}),
    "authorize_security_group_egress": frozenset({"InvalidPermission.Duplicate"}),
    "authorize_security_group_ingress": frozenset({"InvalidPermission.Duplicate"}),
    "revoke_security_group_egress": frozenset({"InvalidPermission.NotFound"}),
}
"""AWS's error codes for a change that has already been made completely."""

Found = Ok[Mapping[str, Any]] | Pending | str | None


def look_up(step: Step, client: Any, arguments: Mapping[str, Any], run_id: str, error: Exception) -> Found:
    """Return the step's result if an earlier attempt has already carried it out.

    Return Pending if AWS does not show the resource yet, a description of its owner if it belongs to another run, and
    None for any other error. Raise boto3's errors unchanged.
    """
    code = code_of(error)
    if step.creates is None:
        if code not in _DONE.get(step.action, ()):
            return None
        if code == "LimitExceeded" and not _has_role(client, arguments):
            return None
        return Ok({})
    if code not in _DUPLICATE:
        return None
    kind, name = step.creates.kind, step.creates.name
    try:
        answer, tags = _described(kind, name, client, arguments)
    except LookupError:
        return Pending(f"{kind} {name} exists by AWS's response ({code}), but is not visible yet")
    except AWS_ERRORS as other:
        if is_not_found(other):
            return Pending(f"{kind} {name} exists by AWS's response ({code}), but is not visible yet")
        raise
    if {"Key": RUN_TAG, "Value": run_id}.items() <= _tag(tags).items():
        return Ok(answer)
    return f"it does not belong to run {run_id}: {_owner(tags)}; delete it, or give the example another name"


def _described(
    kind: str, name: str, client: Any, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the response of its creation, rebuilt, and its tags. Raise LookupError if AWS does not show it."""
    if kind == SECURITY_GROUP:
        filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [arguments["VpcId"]]}]
        facts = client.describe_security_groups(Filters=filters)["SecurityGroups"][0]
        return {"GroupId": facts["GroupId"]}, facts.get("Tags", [])
    if kind == LAUNCH_TEMPLATE:
        facts = client.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"][0]
        return {"LaunchTemplate": facts}, facts.get("Tags", [])
    if kind == KEY_PAIR:
        facts = client.describe_key_pairs(KeyNames=[name])["KeyPairs"][0]
        return facts, facts.get("Tags", [])
    if kind == AUTO_SCALING_GROUP:
        facts = client.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"][0]
        return {}, facts.get("Tags", [])
    if kind == ROLE:
        return {"Role": client.get_role(RoleName=name)["Role"]}, client.list_role_tags(RoleName=name)["Tags"]
    if kind == INSTANCE_PROFILE:
        facts = client.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        return {"InstanceProfile": facts}, facts.get("Tags", [])
    raise LookupError(kind)


def _has_role(iam: Any, arguments: Mapping[str, Any]) -> bool:
    profile = iam.get_instance_profile(InstanceProfileName=arguments["InstanceProfileName"])["InstanceProfile"]
    return any(role["RoleName"] == arguments["RoleName"] for role in profile["Roles"])


def _tag(tags: list[dict[str, Any]]) -> dict[str, Any]:
    return next((tag for tag in tags if tag.get("Key") == RUN_TAG), {})


def _owner(tags: list[dict[str, Any]]) -> str:
    other = _tag(tags).get("Value")
    return f"its tag says {other}" if other else f"it lacks the tag {RUN_TAG}"
