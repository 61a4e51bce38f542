"""Refuse a discovery tag that another deployment uses: both clusters' agents would join each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.plan import Plan, key_pair_step
from nomad_testkit.errors import DeployError, UsageError
from nomad_testkit.examples.configuration import discovery_arguments
from nomad_testkit.examples.terraform import TerraformExample
from nomad_testkit.modules.steps import KEY_PAIR, RUN_TAG, Creates
from nomad_testkit.targets.aws.errors import AWS_ERRORS, RETRY_SECONDS, describe_error, retry_transient
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Example
    from nomad_testkit.runs.journal import Journal
    from nomad_testkit.targets.base import Target

_ALIVE = ("pending", "running", "stopping", "stopped")
"""A stopped instance may be started again and join."""
_SHOWN = 3
_DUPLICATE = "InvalidKeyPair.Duplicate"


@dataclass(frozen=True, slots=True)
class DiscoveryTag:
    """The tag by which agents discover their servers."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}"

    @property
    def claim(self) -> str:
        """The name of a key pair that serves as a lock: EC2 holds each name once."""
        return f"nomad-testkit-tag-{hashlib.sha256(f'{self.key}={self.value}'.encode()).hexdigest()[:20]}"


def discovery_tags(example: Example, run_id: str) -> list[DiscoveryTag]:
    """List the discovery tags of an example's servers, as far as they are known before its deployment.

    In a Terraform configuration they come from its variables, and from literal or variable arguments of its modules.
    """
    if isinstance(example, TerraformExample):
        variables = example.variables
        pairs = [
            (str(variables[key]), str(variables.get(key.replace("_key", "_value")) or ""))
            for key in variables
            if key.endswith("cluster_tag_key") and variables[key]
        ]
        arguments = discovery_arguments(example.folder)
        pairs += [(_value_of(key, variables), _value_of(value, variables)) for key, value in arguments]
        # A run sets its own value of this variable unless the user has.
        own = not example.given.get("cluster_tag_value") and variables.get("cluster_tag_value")
        return [DiscoveryTag(key, value) for key, value in dict.fromkeys(pairs) if key and value and value != own]
    servers = {*example.roles.consul_servers, *example.roles.nomad_servers}
    groups = [group.module for group in example.render(run_id=run_id) if group.name in servers]
    return [
        DiscoveryTag(*pair)
        for pair in dict.fromkeys((one.cluster_tag_key, one.cluster_tag_value) for one in groups)
        if all(pair)
    ]


def _value_of(expression: str, variables: Mapping[str, Any]) -> str:
    """Return the value of a quoted string, or of a variable if it is known."""
    name = re.search(r"\bvar\.(\w+)", expression)
    return str(variables.get(name[1]) or "") if name else expression.strip('"')


def refuse_tags_in_use(tags: Iterable[DiscoveryTag], target: Target, run_id: str) -> None:
    """Raise UsageError if other instances bear one of the tags, and DeployError if DescribeInstances fails."""
    for tag in tags:
        ec2 = target.client("ec2")
        filters = [
            {"Name": f"tag:{tag.key}", "Values": [tag.value]},
            {"Name": "instance-state-name", "Values": list(_ALIVE)},
        ]

        def look(ec2: Any = ec2, filters: Any = filters) -> list[Mapping[str, Any]]:
            pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
            return [one for page in pages for found in page["Reservations"] for one in found["Instances"]]

        what = f"the instances with the tag {tag}"
        try:
            found = retry_transient(what, look, deadline=Deadline.after(RETRY_SECONDS))
        except AWS_ERRORS as error:
            raise DeployError(f"{what} cannot be listed: {describe_error(error)}") from error
        others: dict[str, list[str]] = {}
        for one in found:
            run = next((each["Value"] for each in one.get("Tags", ()) if each["Key"] == RUN_TAG), "")
            if run != run_id:
                others.setdefault(run, []).append(one["InstanceId"])
        if others:
            raise _in_use(tag, target, others)


def claim_tags(
    tags: Iterable[DiscoveryTag],
    target: Target,
    run_id: str,
    journal: Journal,
    *,
    public_key: str,
    own: Mapping[str, str],
    deadline: Deadline,
) -> None:
    """Reserve these tags for this run, against runs that start at the same moment.

    A tag that contains the run's id needs no claim. Raise UsageError if another run holds one.
    """
    for tag in tags:
        if run_id in tag.value:
            continue
        step = key_pair_step(run_id, public_key, own)
        arguments = {**step.arguments, "KeyName": tag.claim}
        step = replace(step, name=tag.claim, arguments=arguments, creates=Creates(KEY_PAIR, tag.claim))
        try:
            apply(Plan(run_id, target.region, (step,), {}), target.client, journal, deadline=deadline)
        except DeployError as error:
            if _DUPLICATE not in str(error):
                raise
            journal.destroyed(KEY_PAIR, tag.claim)
            raise _in_use(tag, target, {_claimant(target, tag): []}) from error


def _claimant(target: Target, tag: DiscoveryTag) -> str:
    try:
        (found,) = target.client("ec2").describe_key_pairs(KeyNames=[tag.claim])["KeyPairs"]
    except (*AWS_ERRORS, ValueError):
        return ""
    return next((each["Value"] for each in found.get("Tags", ()) if each["Key"] == RUN_TAG), "")


def _in_use(tag: DiscoveryTag, target: Target, others: Mapping[str, list[str]]) -> UsageError:
    lines = []
    for run, ids in sorted(others.items()):
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        listed = f" ({', '.join(ids[:_SHOWN])}{more})" if ids else ""
        who = f"the run {run}" if run else "instances of no run of nomad-testkit"
        end = f"; `nomad-testkit down {run}` ends it, on the machine that deployed it" if run else ""
        lines.append(f"{who}{listed}{end}")
    return UsageError(
        f"the discovery tag {tag} is in use in {target.region} by {'; and by '.join(lines)}. Agents join hosts "
        "with this tag, so both clusters would merge. Expected another value, or a variable of the type "
        "cluster-tag-value, which each run sets to its own"
    )
