"""Build an AMI with Packer for one run, and launch one instance of it; both are deleted at the end of the run."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.discovery import instances
from nomad_testkit.cluster.host import Host
from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.instance_plan import instance_plan
from nomad_testkit.deployment.lifecycle import new_run
from nomad_testkit.errors import DeployError, PreflightError
from nomad_testkit.images import packer
from nomad_testkit.images.packer import Template
from nomad_testkit.modules.bundle import examples_dir, host_scripts
from nomad_testkit.modules.steps import IMAGE, RUN_TAG
from nomad_testkit.runs.expiry import expiry_tags
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error, is_not_found
from nomad_testkit.targets.base import LaunchRequest
from nomad_testkit.targets.embedded.target import agents_of
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.images.agents import Agent
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import Target

EXAMPLE = "nomad-consul-ami"
BUILD = "*.debian-12"
"""The build whose source image both targets have."""
BUILD_SECONDS = 1800.0
"""For one image: on AWS its snapshot alone may take ten minutes."""
INSTANCE_TYPES = {"x86_64": "t3.micro", "arm64": "t4g.micro"}


def default_template() -> Path:
    """Return the folder of the bundled template. Raise TestkitError if the installation lacks it."""
    return examples_dir() / EXAMPLE


@dataclass(frozen=True, slots=True)
class BuiltAmi:
    """An AMI that Packer built in this run."""

    ami_id: str
    run_id: str


@contextmanager
def built(
    settings: Settings, *, target: Target, progress: Progress, template: Path | None = None, only: str = BUILD
) -> Iterator[BuiltAmi]:
    """Build an AMI with Packer and yield it; delete it and its snapshot afterwards, on every exit.

    `template` must declare the variables of the bundled one, which is the default; `only` is a glob that selects one of
    its builds. With the setting `keep` nothing is deleted.

    Raise PreflightError if Packer is missing, PackerError with Packer's output if it rejects the template (before
    anything is created) or the build fails, and TeardownError if something is left.

    >>> with built(settings, target=target, progress=print) as ami:  # doctest: +SKIP
    ...     example = Example.load("nomad-consul-colocated-cluster").replace(ami_id=ami.ami_id)
    """
    if missing := packer.preflight():
        raise PreflightError(missing)
    environment = packer.environment(
        endpoint_url=target.endpoint_url, region=target.region, credentials=target.credentials
    )
    path = template or default_template()
    agents = agents_of(settings, progress=progress) if target.endpoint_url else []
    scripts = host_scripts()[0].parent
    packer.validate(Template(path, _variables("", scripts, settings, target, agents), only), environment)
    with new_run(settings, (), target=target, progress=progress) as run:
        name = f"nomad-consul-{run.run_id}"
        progress(f"building an AMI with Packer as {run.run_id}")
        run.journal.record(IMAGE, name, template=str(path))
        with _staged(run.folder / "upload", agents) as upload:
            recipe = Template(path, _variables(run.run_id, upload, settings, target, agents), only)
            deadline = Deadline.after(BUILD_SECONDS)
            ami = packer.build(recipe, environment, deadline=deadline, progress=progress)
        run.journal.created(IMAGE, name, ami)
        yield BuiltAmi(ami, run.run_id)


@contextmanager
def launched(settings: Settings, ami: str, *, ssh_user: str, target: Target, progress: Progress) -> Iterator[Host]:
    """Launch one instance of an image without user data and yield its host; terminate it afterwards, on every exit.

    Raise DeployError, BrokenError, WaitTimeout or HostError if SSH fails, and TeardownError if something is left.
    """
    deadline = Deadline.after(settings.timeout)
    facts = _image(target.client("ec2"), ami)
    hosts: list[Host] = []
    with new_run(settings, hosts, target=target, progress=progress) as run:
        progress(f"launching {ami} ({facts.get('Name', '')}) as {run.run_id}")
        network = target.network()
        kind = INSTANCE_TYPES.get(facts.get("Architecture", ""), INSTANCE_TYPES["x86_64"])
        target.check_capacity([LaunchRequest("image", 1, kind, ami, network.subnets[0].subnet_id)], progress=progress)
        steps = instance_plan(
            run_id=run.run_id,
            region=target.region,
            network=network,
            image_id=ami,
            instance_type=kind,
            public_key=write_key_pair(run.key_path),
            inbound_cidrs=target.inbound_cidrs,
            more_tags=expiry_tags(target.time_limit),
        )
        apply(steps, target.client, run.journal, deadline=deadline)
        instance = _await_running(target, run.run_id, deadline)
        host = Host(instance, address=target.address(instance), ssh_user=ssh_user, key_path=run.key_path)
        hosts.append(host)
        host.connect(deadline)
        # Wait for cloud-init to set up users; its own failure is not this function's business.
        host.run("cloud-init status --wait", timeout=deadline.remaining(), check=False)
        yield host


def _variables(
    run_id: str, upload: Path, settings: Settings, target: Target, agents: Sequence[Agent]
) -> dict[str, str]:
    """Return the template's variables; those that are not strings are in HCL syntax."""
    own = {f"{agent.name}_zip": f"{agent.name}.zip" for agent in agents}
    if target.endpoint_url and os.uname().machine == "aarch64":  # embedded hosts have this machine's architecture
        own |= {"architecture": "arm64", "instance_type": INSTANCE_TYPES["arm64"]}
    return {
        "aws_region": target.region,
        "ami_name_prefix": f"nomad-consul-{run_id or 'validated'}",
        "consul_version": settings.consul_version,
        "nomad_version": settings.nomad_version,
        "host_scripts": str(upload),
        "allowed_ssh_cidr_blocks": json.dumps(list(target.inbound_cidrs)),
        "tags": json.dumps({RUN_TAG: run_id, **expiry_tags(target.time_limit)} if run_id else {}),
        "ec2_endpoint": target.endpoint_url or "",
        **own,
    }


@contextmanager
def _staged(folder: Path, agents: Sequence[Agent]) -> Iterator[Path]:
    """Yield a folder with the files to upload: the host scripts, and the agents as zip files."""
    folder.mkdir()
    try:
        for script in host_scripts():
            shutil.copy(script, folder)
        for agent in agents:
            # Stored, not deflated: the archive never leaves this machine.
            with zipfile.ZipFile(folder / f"{agent.name}.zip", "w", zipfile.ZIP_STORED) as archive:
                archive.write(agent.path, agent.name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _image(ec2: Any, ami: str) -> dict[str, Any]:
    try:
        images = ec2.describe_images(ImageIds=[ami])["Images"]
    except AWS_ERRORS as error:
        if not is_not_found(error):
            raise DeployError(f"{ami} could not be described: {describe_error(error)}") from error
        images = []
    if not images:
        raise DeployError(f"found no AMI {ami} in {ec2.meta.region_name}; expected one of that region (--nomad-ami)")
    return dict(images[0])


def _await_running(target: Target, run_id: str, deadline: Deadline) -> Instance:
    def probe() -> Ok[Instance] | Pending | Broken:
        for instance in instances(target.client, run_id, terminated=True):
            if instance.state == "running":
                return Ok(instance)
            if instance.state not in ("pending", "running"):
                console = target.console(instance)[-1500:]
                return Broken(f"the instance is {instance.state}; its console ends with:\n{console}")
        return Pending("the instance is not running yet")

    return wait_until("the instance to run", probe, deadline=deadline)
