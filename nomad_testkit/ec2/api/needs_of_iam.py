"""What the calls of IAM need: their resources, and the actions that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nomad_testkit.ec2.api.policies import ANY, Question

Context = Mapping[str, Sequence[str]]

_KINDS = (
    ("InstanceProfileName", "instance-profile", "instance_profiles"),
    ("RoleName", "role", "roles"),
    ("GroupName", "group", "groups"),
    ("UserName", "user", "users"),
)
"""The parameters that name resources, their kinds, and where moto has them; the first that a call has is its own."""
_OF_A_USER = ("AccessKey", "LoginProfile", "SSHPublicKey", "SigningCertificate", "GetUser")
"""Parts of the names of calls that mean the caller where they name nobody."""
_TAGGING = {
    "CreateRole": "TagRole",
    "CreateUser": "TagUser",
    "CreateInstanceProfile": "TagInstanceProfile",
    "CreatePolicy": "TagPolicy",
}


def request_tags(tags: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Give the condition keys of tags that a request sets."""
    keys: dict[str, tuple[str, ...]] = {f"aws:RequestTag/{key}": (value,) for key, value in tags.items()}
    return keys | ({"aws:TagKeys": tuple(tags)} if tags else {})


def resource_tags(service: str, tags: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Give the condition keys of tags that a resource has."""
    return {f"{prefix}:ResourceTag/{key}": (value,) for prefix in ("aws", service) for key, value in tags.items()}


def tags_of(listed: Any) -> dict[str, str]:
    """Give tags by their keys, whichever of AWS's and moto's forms they have."""
    if isinstance(listed, Mapping):
        return {key: one["Value"] if isinstance(one, Mapping) else str(one) for key, one in listed.items()}
    return {
        str(one.get("Key", one.get("key"))): str(one.get("Value") or one.get("value") or "") for one in listed or ()
    }


class IamNeeds:
    """The calls of one account."""

    def __init__(self, account: str, iam: Any) -> None:
        self._account, self._iam = account, iam

    def of(self, call: str, params: Mapping[str, Any], context: Context) -> Iterator[Question]:
        """Ask what a call needs."""
        resource, tags = self._resource(call, params, context)
        given = tags_of(params.get("Tags"))
        context = {**context, **resource_tags("iam", tags), **request_tags(given)}
        for key, name in (("iam:PermissionsBoundary", "PermissionsBoundary"), ("iam:PolicyARN", "PolicyArn")):
            if params.get(name):
                context[key] = (str(params[name]),)
        if call == "CreateServiceLinkedRole":
            context["iam:AWSServiceName"] = (str(params.get("AWSServiceName")),)
        yield Question(f"iam:{call}", resource, context)
        if given and (tagging := _TAGGING.get(call)):
            yield Question(f"iam:{tagging}", resource, context)
        if call == "AddRoleToInstanceProfile":
            yield self._passing(self._named("role", "roles", str(params.get("RoleName")))[0], context)

    def pass_roles(self, profile: Mapping[str, Any], context: Context) -> Iterator[Question]:
        """Ask for the passing of the roles of an instance profile, which is named by its Name or Arn."""
        wanted = {profile.get("Name"), profile.get("Arn")} - {None}
        for one in self._iam.instance_profiles.values():
            if wanted & {one.name, one.arn}:
                for role in one.roles:
                    yield self._passing(role.arn, context)

    @staticmethod
    def _passing(role_arn: str, context: Context) -> Question:
        own = {key: value for key, value in context.items() if "Tag/" not in key and key != "aws:TagKeys"}
        return Question("iam:PassRole", role_arn, {**own, "iam:PassedToService": ("ec2.amazonaws.com",)})

    def _resource(self, call: str, params: Mapping[str, Any], context: Context) -> tuple[str, Mapping[str, str]]:
        if call == "CreateServiceLinkedRole":
            service = params.get("AWSServiceName")
            return f"arn:aws:iam::{self._account}:role/aws-service-role/{service}/*", {}
        for name, kind, place in _KINDS:
            if params.get(name):
                return self._named(kind, place, str(params[name]), str(params.get("Path") or "/"))
        if params.get("PolicyArn") or params.get("PolicySourceArn"):
            return str(params.get("PolicyArn") or params["PolicySourceArn"]), {}
        if call == "CreatePolicy":
            return f"arn:aws:iam::{self._account}:policy{params.get('Path') or '/'}{params.get('PolicyName')}", {}
        if any(part in call for part in _OF_A_USER):
            return str(context["aws:PrincipalArn"][0]), {}
        return ANY, {}

    def _named(self, kind: str, place: str, name: str, path: str = "/") -> tuple[str, Mapping[str, str]]:
        found = getattr(self._iam, place)
        one = found.get(name) or next((each for each in found.values() if each.name == name), None)
        if one is None:
            return f"arn:aws:iam::{self._account}:{kind}{path}{name}", {}
        return str(one.arn), tags_of(getattr(one, "tags", None))
