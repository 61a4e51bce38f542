"""The embedded cloud's own image: a real instance of the base image, with the agents put on it by the host scripts.

It is made as an AMI is made on AWS: boot, install over SSH, stop, CreateImage. The cloud that this happens in exists
for nothing else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.layers import LocalImage, image_id
from nomad_testkit.errors import ImageError
from nomad_testkit.images import base_image
from nomad_testkit.modules.bundle import host_scripts
from nomad_testkit.ssh import SshConnection
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.images.agents import Agent
    from nomad_testkit.images.cache import Cache

KIND = "nomad-consul-image"
SSH_USER = "admin"
_FOLDER = "/tmp/nomad-testkit"  # noqa: S108 - on the instance, which exists for the image only
_BOOT_SECONDS = 90.0
_INSTALL_SECONDS = 180.0
_CHANGE_SECONDS = 120.0


def base(cache: Cache, progress: Progress) -> LocalImage:
    """Give the base image, made now where the cache has none. Raises ImageError and CacheError."""
    root = base_image.base_image(cache, progress)
    key = base_image.image_key()
    return LocalImage(
        image_id(key), base_image.NAME, (root,), base_image.DESCRIPTION, _architecture(), base_image.OWNER_ID
    )


def agents_image(
    cache: Cache, below: LocalImage, agents: Sequence[Agent], *, region: str, progress: Progress
) -> LocalImage:
    """Give the image with Consul and Nomad on it, made now where the cache has none of just these.

    Raises ImageError, CacheError, Ec2Error, and HostError with what an install script said.
    """
    key = image_key(below, agents)
    content = cache.get(KIND, key, lambda folder: _build(folder / "layer", below, agents, region, progress))
    versions = " ".join(f"{agent.name} {agent.version}" for agent in agents)
    name = "nomad-consul-" + "-".join(agent.version for agent in sorted(agents, key=lambda one: one.name != "nomad"))
    layers = (content / "layer", *below.layers)
    return LocalImage(image_id(key), name, layers, f"{below.name} with {versions}", below.architecture)


def image_key(below: LocalImage, agents: Sequence[Agent]) -> dict[str, str]:
    """Give everything that the image is made from; equal keys mean an equal image."""
    digest = hashlib.sha256()
    for script in host_scripts():
        digest.update(f"{script.name}\0".encode() + script.read_bytes())
    facts = {"base": below.image_id, "scripts": digest.hexdigest()}
    for agent in agents:
        facts |= {agent.name: agent.version, f"{agent.name}_sha256": agent.sha256}
    return facts


def _build(layer: Path, below: LocalImage, agents: Sequence[Agent], region: str, progress: Progress) -> None:
    progress("making the image with Consul and Nomad on it")
    with (
        EmbeddedEc2.start(region=region, images=[below]) as cloud,
        tempfile.TemporaryDirectory(prefix="nomad-testkit-image-") as folder,
    ):
        ec2 = cloud.client("ec2")
        key_path = Path(folder, "id_ed25519")
        ec2.import_key_pair(KeyName="image-builder", PublicKeyMaterial=write_key_pair(key_path).encode())
        group = ec2.create_security_group(GroupName="image-builder", Description="SSH from the builder")["GroupId"]
        ssh_only = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        ec2.authorize_security_group_ingress(
            GroupId=group, IpPermissions=[{**ssh_only, "IpRanges": [{"CidrIp": f"{cloud.machine_address}/32"}]}]
        )
        started = ec2.run_instances(
            ImageId=below.image_id, MinCount=1, MaxCount=1, KeyName="image-builder", SecurityGroupIds=[group]
        )
        instance = started["Instances"][0]["InstanceId"]
        facts = _await_state(ec2, instance, "running")
        address = cloud.public_address(facts["PrivateIpAddress"])
        with SshConnection.connect(address, SSH_USER, key_path, deadline=Deadline.after(_BOOT_SECONDS)) as ssh:
            _install(ssh, agents, Path(folder), progress)
            ssh.run(f"python3 {_FOLDER}/seal_image.py", sudo=True)
        ec2.stop_instances(InstanceIds=[instance])
        _await_state(ec2, instance, "stopped")
        image = ec2.create_image(InstanceId=instance, Name="nomad-consul")["ImageId"]
        _await_image(ec2, image)
        cloud.save_image(image, layer)


def _install(ssh: SshConnection, agents: Sequence[Agent], folder: Path, progress: Progress) -> None:
    # The user data's modules are cloud-init's last, so sudo is set up when it has ended.
    ssh.run("cloud-init status --wait", timeout=_BOOT_SECONDS, check=False)
    ssh.run(f"mkdir -m 0700 {_FOLDER}")
    for script in host_scripts():
        ssh.put(script, f"{_FOLDER}/{script.name}")
    for agent in agents:
        progress(f"installing {agent.name} {agent.version} on the image")
        archive = folder / f"{agent.name}.zip"
        # Stored, not deflated: it only travels to the same machine.
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:
            opened.write(agent.path, agent.name)
        with archive.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        ssh.put(archive, f"{_FOLDER}/{archive.name}")
        archive.unlink()
        script_name = f"{_FOLDER}/install_{agent.name}.py"
        url = f"file://{_FOLDER}/{archive.name}"
        command = f"python3 {script_name} --download-url {url} --sha256 {sha256}"
        ssh.run(command, sudo=True, timeout=_INSTALL_SECONDS)


def _await_state(ec2: Any, instance: str, wanted: str) -> dict[str, Any]:
    def probe() -> Ok[dict[str, Any]] | Pending | Broken:
        facts = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        state = facts["State"]["Name"]
        if state == wanted:
            return Ok(facts)
        if state == "terminated":
            return Broken(facts.get("StateReason", {}).get("Message", "it is terminated"))
        return Pending(f"it is {state}")

    return wait_until(f"{instance} to be {wanted}", probe, deadline=Deadline.after(_CHANGE_SECONDS))


def _await_image(ec2: Any, image: str) -> None:
    def probe() -> Ok[None] | Pending | Broken:
        facts = ec2.describe_images(ImageIds=[image])["Images"][0]
        if facts["State"] == "available":
            return Ok(None)
        if facts["State"] == "failed":
            return Broken(facts.get("StateReason", {}).get("Message", "it failed"))
        return Pending(f"it is {facts['State']}")

    wait_until(f"image {image} to be available", probe, deadline=Deadline.after(_CHANGE_SECONDS))


def _architecture() -> str:
    machine = os.uname().machine
    names = {"x86_64": "x86_64", "aarch64": "arm64"}
    if machine not in names:
        raise ImageError(f"there is no base image for {machine}; use a machine with {' or '.join(names)}")
    return names[machine]
