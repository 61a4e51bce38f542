"""Deploy with Terraform or OpenTofu: apply the configuration, tag its hosts, and destroy them from its state.

The testkit finds a cluster's hosts by the run's tags. A user's configuration does not set them, so the groups that its
outputs name are tagged once they exist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.deployment.apply import Applied, apply
from nomad_testkit.deployment.plan import Plan, key_pair_step
from nomad_testkit.deployment.terraform.adoption import adopt
from nomad_testkit.deployment.terraform.environment import environment
from nomad_testkit.deployment.terraform.process import Runner
from nomad_testkit.deployment.terraform.workspace import STATE, Workspace
from nomad_testkit.errors import DeployError, TerraformError, TestkitError
from nomad_testkit.examples.terraform_tool import Tool, checked, find_tool
from nomad_testkit.images.cache import Cache
from nomad_testkit.modules.steps import RUN_TAG
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.terraform import TerraformExample
    from nomad_testkit.runs.journal import Journal
    from nomad_testkit.targets.base import Target

DESTROY_SECONDS = 1800.0
"""For a destroy: an auto scaling group alone may take ten minutes on AWS."""
KIND = "Terraform state"
"""The kind of Terraform's entry in a run's journal."""
_EVIDENCE = "terraform.log"


def apply_terraform(
    example: TerraformExample,
    *,
    named: Path | None,
    run_id: str,
    folder: Path,
    journal: Journal,
    public_key: str,
    target: Target,
    tags: Mapping[str, str],
    deadline: Deadline,
    say: Progress,
    progress: Progress,
) -> Applied:
    """Apply a copy of a configuration in the run's `folder`, and tag its groups with the run's tags.

    `named` is the program to use, by default one in PATH; `say` gets its name, `progress` its output.

    Raise PreflightError if no suitable program is found, ExampleError if it rejects the configuration, TerraformError
    if the apply fails, and DeployError if its outputs do not name the hosts. What was created so far is in the state:
    `destroy_terraform` destroys it.
    """
    tool = find_tool(named, example.folder)
    say(f"applying {example.folder} with {tool}" + (f", {tool.why}" if tool.why else ""))
    own_key = not example.given.get("ssh_key_name")
    workspace = Workspace.create(
        folder,
        example.configuration,
        tool,
        suggested=_suggested(example, run_id, target, f"nomad-testkit-{run_id}" if own_key else ""),
        given={**_image(example, target), **example.given},
        environ=os.environ,
    )
    runner = _runner(workspace, tool, run_id, target, tags)
    workspace.prepare(runner, deadline=deadline, progress=progress)
    if own_key and "ssh_key_name" in example.configuration.variables:
        key_pair = Plan(run_id, target.region, (key_pair_step(run_id, public_key, tags),), {})
        apply(key_pair, target.client, journal, deadline=deadline)
    journal.record(KIND, str(workspace.directory), tool=str(tool.path))
    try:
        workspace.apply(runner, deadline=deadline, progress=progress)
    except TerraformError as error:
        if deadline.passed:
            error.add_note("The setting timeout (--nomad-timeout) gives a deployment more time.")
        raise
    outputs = workspace.outputs(runner)
    _refuse_outputs(example, outputs, target)
    groups = {one.group: one for one in example.group_outputs.values()}
    hosts = adopt(groups.values(), outputs, run_id=run_id, target=target, tags=tags, deadline=deadline)
    _refuse_login(example, run_id, target)
    port = str(example.variables.get("ssh_port", ""))
    outputs = {**outputs, **{f"num_{group}": count for group, count in hosts.items()}}
    return Applied(
        example.deployed(outputs),
        outputs,
        hosts=hosts,
        ssh_ports=dict.fromkeys(groups, int(port)) if port.isascii() and port.isdigit() else {},
    )


def destroy_terraform(
    folder: Path, *, run_id: str, journal: Journal, target: Target, progress: Progress, named: Path | None = None
) -> list[str]:
    """Destroy what was applied in a run's `folder`, prove that its state is empty, and return what was destroyed.

    Return None if nothing was applied. Raise TeardownError, with how to try again, if something is left, and
    PreflightError if the program is gone.
    """
    workspace = Workspace.load(folder)
    if workspace is None:
        return []
    tool = _same_tool(workspace, named)
    runner = _runner(workspace, tool, run_id, target, {})
    gone = workspace.destroy(
        runner,
        remedy=f"Run `python -m nomad_testkit down {run_id}` again once the cause is removed.",
        deadline=Deadline.after(DESTROY_SECONDS),
        progress=progress,
    )
    if any(entry.kind == KIND for entry in journal.left()):
        journal.destroyed(KIND, str(workspace.directory))
    return [f"{address} of {tool.product}" for address in gone]


def made_by_terraform(folder: Path) -> bool:
    """Return whether something was applied in a run's `folder`."""
    return (workspace := Workspace.load(folder)) is not None and (workspace.directory / STATE).exists()


def applied_elsewhere(folder: Path) -> list[str]:
    """List the resources in a run's state that did not end with its embedded EC2."""
    workspace = Workspace.load(folder)
    return workspace.elsewhere() if workspace else []


def save_log(folder: Path, evidence: Path) -> None:
    """Copy the program's log from a run's `folder` into the evidence, without secrets; never raise."""
    try:
        workspace = Workspace.load(folder)
        if workspace is not None and workspace.log.exists():
            evidence.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = evidence / _EVIDENCE
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", errors="replace") as file:
                file.write(workspace.log_text())
    except (OSError, ValueError, KeyError):  # must never hide the failure that it explains
        return


def _same_tool(workspace: Workspace, named: Path | None) -> Tool:
    """Return the program that wrote the state, or else the one that is found now."""
    try:
        return checked(named or workspace.tool)
    except TestkitError:
        return find_tool(None, workspace.directory)


def _runner(workspace: Workspace, tool: Tool, run_id: str, target: Target, tags: Mapping[str, str]) -> Runner:
    return Runner(
        tool,
        workspace.directory,
        environment(
            os.environ,
            variables=workspace.variables,
            tags={RUN_TAG: run_id, **tags},
            plugins=Cache().root / "terraform-plugins",
            region=target.region,
            endpoint_url=target.endpoint_url,
            credentials=target.credentials,
        ),
        workspace.log,
        workspace.secrets,
    )


def _suggested(example: TerraformExample, run_id: str, target: Target, key_name: str) -> dict[str, Any]:
    """Return this run's values for variables of well-known names.

    With the same tag, concurrent clusters would join each other. The names are short: the AWS provider appends to a
    role's name and limits its prefix to 38 characters.
    """
    tag = str(example.variables.get("cluster_tag_value") or "auto-join")
    suggested: dict[str, Any] = {
        "nomad_testkit_run": run_id,
        "aws_region": target.region,
        "region": target.region,
        "cluster_name": f"nomad-{run_id}",
        "nomad_cluster_name": f"nomad-{run_id}",
        "consul_cluster_name": f"consul-{run_id}",
        "cluster_tag_value": f"{tag}-{run_id}",
    }
    if key_name:
        suggested["ssh_key_name"] = key_name
    blocks = [*(subnet.cidr for subnet in target.network().subnets), *target.inbound_cidrs]
    suggested["allowed_inbound_cidr_blocks"] = blocks
    suggested["allowed_ssh_cidr_blocks"] = list(target.inbound_cidrs)
    return suggested


def _image(example: TerraformExample, target: Target) -> dict[str, Any]:
    """Return the embedded EC2's own image: a configuration's choice does not exist there."""
    own = getattr(target, "own_image", None)
    return {"ami_id": own} if own else {}


def _refuse_outputs(example: TerraformExample, outputs: Mapping[str, Any], target: Target) -> None:
    for one in example.group_outputs.values():
        for name in one.needed:
            if outputs.get(name) in (None, ""):
                found = ", ".join(f"{key}={json.dumps(value)[:60]}" for key, value in outputs.items()) or "none"
                what = "is empty" if name in outputs else "is missing, or sensitive"
                raise DeployError(
                    f"{example.folder}: the output {name} {what}; found: {found}; expected a value that identifies the "
                    f"hosts of the group {one.group}"
                )
    if outputs.get("aws_region", target.region) != target.region:
        raise DeployError(
            f"{example.folder}: the output aws_region is {outputs['aws_region']!r}; expected {target.region!r}, the "
            "region of the target; choose it with --nomad-region"
        )


def _refuse_login(example: TerraformExample, run_id: str, target: Target) -> None:
    """Raise DeployError if hosts have another key pair than the one whose private key is available."""
    if example.ssh_private_key_file is not None:
        return
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [run_id]}]
    pages = target.client("ec2").get_paginator("describe_instances").paginate(Filters=filters)
    hosts = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    own = f"nomad-testkit-{run_id}"
    if others := sorted({str(one.get("KeyName") or "none") for one in hosts} - {own}):
        raise DeployError(
            f"{example.folder}: found hosts with the key pair {' and '.join(others)}; expected {own!r}, the "
            "value of the variable ssh_key_name if it is declared and no tfvars file sets it, or the file of "
            "that key pair's private key in ssh_private_key_file (--nomad-var)"
        )
