"""AMIs of a run: built by Packer and deleted with their snapshots, and one instance that shows what an image holds."""

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
"""The build that both targets have an image for."""
BUILD_SECONDS = 1800.0
"""Until an image is there: on AWS its snapshot alone may take ten minutes."""
INSTANCE_TYPES = {"x86_64": "t3.micro", "arm64": "t4g.micro"}


def default_template() -> Path:
    """Find the bundled template. Raises TestkitError where the installation lacks it."""
    return examples_dir() / EXAMPLE


@dataclass(frozen=True, slots=True)
class BuiltAmi:
    """An AMI that this run's Packer has built."""

    ami_id: str
    run_id: str


@contextmanager
def built(
    settings: Settings, *, target: Target, progress: Progress, template: Path | None = None, only: str = BUILD
) -> Iterator[BuiltAmi]:
    """Build an AMI with Packer, lend it, and delete it and its snapshot, whatever happens.

    `template` must have the variables of the bundled one, which is the default; `only` is a glob that chooses the one
    build of it. With the setting `keep` nothing is deleted.

    Raises PreflightError without Packer, PackerError with its own words when it refuses the template, before anything
    is made, or cannot build it, and TeardownError when something is left.

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
    """Run one instance of an image without user data, lend it when it has booted, and terminate it, whatever happens.

    Raises DeployError, BrokenError, WaitTimeout and HostError when it cannot be reached, and TeardownError.
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
        # Users may still lack their rights, and no status is needed of what may fail on its own.
        host.run("cloud-init status --wait", timeout=deadline.remaining(), check=False)
        yield host


def _variables(
    run_id: str, upload: Path, settings: Settings, target: Target, agents: Sequence[Agent]
) -> dict[str, str]:
    """Give the template's variables, in HCL's syntax where they are no strings."""
    own = {f"{agent.name}_zip": f"{agent.name}.zip" for agent in agents}
    if target.endpoint_url and os.uname().machine == "aarch64":  # where hosts are of this machine's architecture
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
    """Lend a folder with all that is uploaded: the host scripts, and the agents as zip files."""
    folder.mkdir()
    try:
        for script in host_scripts():
            shutil.copy(script, folder)
        for agent in agents:
            # Stored, not deflated: it only travels to the same machine.
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
            raise DeployError(f"{ami} could not be asked for: {describe_error(error)}") from error
        images = []
    if not images:
        raise DeployError(f"there is no AMI {ami} in {ec2.meta.region_name}; name one of that region (--nomad-ami)")
    return dict(images[0])


def _await_running(target: Target, run_id: str, deadline: Deadline) -> Instance:
    def probe() -> Ok[Instance] | Pending | Broken:
        for instance in instances(target.client, run_id, terminated=True):
            if instance.state == "running":
                return Ok(instance)
            if instance.state not in ("pending", "running"):
                console = target.console(instance)[-1500:]
                return Broken(f"it is {instance.state}; its console ends with:\n{console}")
        return Pending("it is not running yet")

    return wait_until("the instance to run", probe, deadline=deadline)
