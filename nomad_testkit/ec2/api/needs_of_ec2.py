"""What the calls of EC2 and Auto Scaling need: their resources, and the actions that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nomad_testkit.ec2.api.needs_of_iam import Context, IamNeeds, request_tags, resource_tags, tags_of
from nomad_testkit.ec2.api.policies import ANY, Question

_READING = ("Describe", "List", "GetConsole")
_NAMED = {
    "InstanceId": "instance",
    "InstanceIds": "instance",
    "ImageId": "image",
    "SecurityGroupIds": "security-group",
    "GroupId": "security-group",
    "Groups": "security-group",
    "SubnetId": "subnet",
    "VpcId": "vpc",
    "VolumeId": "volume",
    "SnapshotId": "snapshot",
    "NetworkInterfaceId": "network-interface",
    "KeyPairId": "key-pair",
    "LaunchTemplateId": "launch-template",
    "Resources": "",
}
"""The parameters that name resources by their ids, and their kinds; empty where the id tells."""
_PREFIXES = {
    "i": "instance",
    "ami": "image",
    "sg": "security-group",
    "subnet": "subnet",
    "vpc": "vpc",
    "vol": "volume",
    "snap": "snapshot",
    "eni": "network-interface",
    "key": "key-pair",
    "lt": "launch-template",
}
_MADE: Mapping[str, tuple[str, ...]] = {
    "RunInstances": ("instance", "volume", "network-interface"),
    "CreateSecurityGroup": ("security-group",),
    "CreateLaunchTemplate": ("launch-template",),
    "CreateKeyPair": ("key-pair",),
    "ImportKeyPair": ("key-pair",),
    "CreateImage": ("image", "snapshot"),
    "CreateVolume": ("volume",),
    "CreateSnapshot": ("snapshot",),
    "CreateVpc": ("vpc",),
    "CreateSubnet": ("subnet",),
    "CreateNetworkInterface": ("network-interface",),
    "RegisterImage": ("image",),
    "CopyImage": ("image",),
}
"""What a call makes; it has no id yet."""
_WITHOUT_ACCOUNT = ("image", "snapshot")
_SERVICE_ROLE = "role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"


class Ec2Needs:
    """The calls of one account and region."""

    def __init__(self, account: str, region: str, ec2: Any, autoscaling: Any, iam: IamNeeds) -> None:
        self._account, self._region = account, region
        self._ec2, self._autoscaling, self._iam = ec2, autoscaling, iam

    def of_ec2(self, call: str, params: Mapping[str, Any], context: Context) -> Iterator[Question]:
        """Ask what a call of EC2 needs."""
        action = f"ec2:{call}"
        if call.startswith(_READING):
            yield Question(action, ANY, context)
            return
        template = self._template(params.get("LaunchTemplate")) if call == "RunInstances" else None
        if template is not None:
            yield from self._launch(params, template, context)
            return
        given = _specified(params)
        if call in ("CreateTags", "DeleteTags"):
            context = {**context, **request_tags(tags_of(params.get("Tags")))}
        made = _MADE.get(call, ())
        existing = [(kind, name) for kind, name in self._existing(params) if kind not in made or call == "CopyImage"]
        if call == "CreateSecurityGroup" and not params.get("VpcId"):
            existing.append(("vpc", self._ec2.get_default_vpc().id))
        questions = [self._about(action, kind, name, context) for kind, name in existing]
        questions += [
            Question(action, self._new(kind, params), {**context, **request_tags(given.get(kind, {}))}) for kind in made
        ]
        yield from questions or [Question(action, ANY, context)]
        yield from self._tagging(call, params, given, context)
        if profile := params.get("IamInstanceProfile"):
            yield from self._iam.pass_roles(profile, context)

    def of_autoscaling(self, call: str, params: Mapping[str, Any], context: Context) -> Iterator[Question]:
        """Ask what a call of Auto Scaling needs; a group launches in its creator's name."""
        action = f"autoscaling:{call}"
        if call.startswith(_READING):
            yield Question(action, ANY, context)
            return
        tags = params.get("Tags") or ()
        new = {**context, **request_tags(tags_of(tags))}
        names = {params.get("AutoScalingGroupName"), *(tag.get("ResourceId") for tag in tags), self._group_of(params)}
        for name in sorted(str(name) for name in names if name):
            resource, had = self._group(name)
            yield Question(action, resource, {**new, **resource_tags("autoscaling", had)})
            if tags and call == "CreateAutoScalingGroup":
                yield Question("autoscaling:CreateOrUpdateTags", resource, new)
        if not any(names):
            yield Question(action, ANY, new)
        if call in ("CreateAutoScalingGroup", "UpdateAutoScalingGroup"):
            if template := self._template(params.get("LaunchTemplate")):
                subnets = {"SubnetIds": str(params.get("VPCZoneIdentifier") or "").split(",")}
                yield from self._launch(subnets, template, context)
            if call == "CreateAutoScalingGroup" and not params.get("ServiceLinkedRoleARN"):
                service = {**context, "iam:AWSServiceName": ("autoscaling.amazonaws.com",)}
                role = f"arn:aws:iam::{self._account}:{_SERVICE_ROLE}"
                yield Question("iam:CreateServiceLinkedRole", role, service)

    def _launch(self, params: Mapping[str, Any], template: Any, context: Context) -> Iterator[Question]:
        """Ask what a launch by a launch template needs."""
        version = str((params.get("LaunchTemplate") or {}).get("Version") or "$Default")
        data = template.get_version(version).data
        own = self._arn("launch-template", template.id)
        context = {**context, "ec2:LaunchTemplate": (own,), "ec2:IsLaunchTemplateResource": ("true",)}
        yield self._about("ec2:RunInstances", "launch-template", template.id, context)
        named = dict.fromkeys([*self._existing(data), *self._existing(params)])
        named |= {("subnet", one.strip()): None for one in params.get("SubnetIds", ()) if one.strip()}
        for kind, name in named:
            if kind != "launch-template":
                yield self._about("ec2:RunInstances", kind, name, context)
        given = {
            kind: {**_specified(data).get(kind, {}), **_specified(params).get(kind, {})} for kind in _PREFIXES.values()
        }
        for kind in _MADE["RunInstances"]:
            yield Question("ec2:RunInstances", self._arn(kind, ANY), {**context, **request_tags(given[kind])})
        yield from self._tagging("RunInstances", params, given, context)
        if profile := params.get("IamInstanceProfile") or data.get("IamInstanceProfile"):
            yield from self._iam.pass_roles(profile, context)

    def _tagging(
        self, call: str, params: Mapping[str, Any], given: Mapping[str, Mapping[str, str]], context: Context
    ) -> Iterator[Question]:
        """Ask for the tags that come with a creation, which are a tagging of their own."""
        for kind, tags in given.items():
            if tags:
                new = {**context, **request_tags(tags), "ec2:CreateAction": (call,)}
                yield Question("ec2:CreateTags", self._new(kind, params), new)

    def _existing(self, params: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Give the kind and the id of each resource that parameters name; of a key pair, the name."""
        for parameter, kind in _NAMED.items():
            value = params.get(parameter) or ()
            for name in [value] if isinstance(value, str) else value:
                if isinstance(name, str):
                    yield kind or _PREFIXES.get(name.partition("-")[0], ANY), name
        for interface in params.get("NetworkInterfaces") or ():
            yield from self._existing(interface)
        if name := params.get("KeyName"):
            yield "key-pair", str(name)
        for name in [params.get("GroupName"), *(params.get("SecurityGroups") or ())]:
            if name and (group := self._ec2.get_security_group_by_name_or_id(str(name))):
                yield "security-group", group.id
        if (name := params.get("LaunchTemplateName")) and not params.get("LaunchTemplateData"):
            yield "launch-template", self._ec2.launch_template_name_to_ids.get(str(name), str(name))

    def _about(self, action: str, kind: str, name: str, context: Context) -> Question:
        """Ask about a resource that is there, with its tags."""
        tags = dict(self._ec2.tags.get(name, {}))
        if kind == "key-pair":
            pair = next((one for one in self._ec2.key_pairs.values() if name in (one.key_name, one.id)), None)
            tags = tags_of(pair.get_tags()) if pair is not None else {}
            name = pair.key_name if pair is not None else name
        return Question(action, self._arn(kind, name), {**context, **resource_tags("ec2", tags)})

    def _new(self, kind: str, params: Mapping[str, Any]) -> str:
        return self._arn(kind, str(params["KeyName"]) if kind == "key-pair" and params.get("KeyName") else ANY)

    def _arn(self, kind: str, name: str) -> str:
        account = "" if kind in _WITHOUT_ACCOUNT else self._account
        return f"arn:aws:ec2:{self._region}:{account}:{kind}/{name}"

    def _template(self, named: Mapping[str, Any] | None) -> Any:
        named = named or {}
        templates = self._ec2.launch_templates
        name = named.get("LaunchTemplateName")
        return templates.get(named.get("LaunchTemplateId") or self._ec2.launch_template_name_to_ids.get(name))

    def _group(self, name: str) -> tuple[str, dict[str, str]]:
        group = dict(self._autoscaling.autoscaling_groups).get(name)
        if group is None:
            prefix = f"arn:aws:autoscaling:{self._region}:{self._account}:autoScalingGroup"
            return f"{prefix}:{ANY}:autoScalingGroupName/{name}", {}
        return group.arn, tags_of(group.tags)

    def _group_of(self, params: Mapping[str, Any]) -> str | None:
        for group in self._autoscaling.autoscaling_groups.values():
            if any(state.instance.id == params.get("InstanceId") for state in group.instance_states):
                return str(group.name)
        return None


def _specified(params: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Give the tags that a request gives to what it makes, by kind."""
    found: dict[str, dict[str, str]] = {}
    for one in params.get("TagSpecifications") or ():
        found.setdefault(str(one.get("ResourceType")), {}).update(tags_of(one.get("Tags")))
    return found
