"""One cloud for all tests of this folder, and instances in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit.cache import Cache
from nomad_testkit.ec2.base_image import DESCRIPTION, NAME, base_image, image_key
from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.images import LocalImage, image_id
from nomad_testkit.ssh import SshConnection
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)


@pytest.fixture(scope="session")
def debian() -> LocalImage:
    """The base image, from the cache or made now."""
    root = base_image(Cache(), log.info)
    return LocalImage(image_id(image_key()), NAME, (root,), DESCRIPTION)


@pytest.fixture(scope="session")
def cloud(debian: LocalImage) -> Iterator[EmbeddedEc2]:
    """A cloud with the base image."""
    with EmbeddedEc2.start(region="us-east-1", images=[debian]) as ec2:
        yield ec2


@pytest.fixture(scope="session")
def key(cloud: EmbeddedEc2, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A key pair: its name, and the file with its private key."""
    path = tmp_path_factory.mktemp("key") / "id"
    path.write_text(cloud.client("ec2").create_key_pair(KeyName="tests", KeyType="ed25519")["KeyMaterial"])
    path.chmod(0o600)
    return "tests", path


class Box:
    """An instance under test."""

    def __init__(self, cloud: EmbeddedEc2, instance_id: str, key_path: Path) -> None:
        self.cloud, self.instance_id = cloud, instance_id
        self.api = cloud.client("ec2")
        self.private_ip = str(self.describe()["PrivateIpAddress"])
        self.address = cloud.public_address(self.private_ip)
        self.ssh = SshConnection(self.address, "admin", key_path)

    def describe(self) -> dict[str, Any]:
        """Tell what DescribeInstances says of it."""
        found: dict[str, Any] = self.api.describe_instances(InstanceIds=[self.instance_id])["Reservations"][0][
            "Instances"
        ][0]
        return found

    @property
    def state(self) -> str:
        """Its state now."""
        return str(self.describe()["State"]["Name"])

    def await_state(self, wanted: str, *, seconds: float = 60) -> None:
        """Wait until it is in a state."""

        def probe() -> Ok[None] | Pending:
            return Ok(None) if self.state == wanted else Pending(self.state)

        wait_until(f"state {wanted}", probe, deadline=Deadline.after(seconds), where=self.instance_id)

    def await_status_ok(self) -> None:
        """Wait until its status checks are ok, which is when sshd answers."""

        def probe() -> Ok[None] | Pending | Broken:
            found = self.api.describe_instance_status(InstanceIds=[self.instance_id], IncludeAllInstances=True)
            status = found["InstanceStatuses"][0]
            if status["InstanceState"]["Name"] not in ("pending", "running"):
                return Broken(str(self.describe().get("StateReason")))
            seen = f"{status['InstanceStatus']['Status']}, {status['SystemStatus']['Status']}"
            return Ok(None) if seen == "ok, ok" else Pending(seen)

        wait_until("status checks ok", probe, deadline=Deadline.after(90), where=self.instance_id)

    def run(self, command: str) -> str:
        """Run a command as root; gives what it prints."""
        self.ssh.ensure(Deadline.after(60))
        return self.ssh.run(command, sudo=True).stdout

    def await_user_data(self) -> None:
        """Wait until cloud-init is through with everything."""
        self.run("cloud-init status --wait >/dev/null || true")


Launch = Callable[..., AbstractContextManager[Box]]


@pytest.fixture(scope="session")
def launch(cloud: EmbeddedEc2, debian: LocalImage, key: tuple[str, Path]) -> Launch:
    """Give a context manager that runs an instance with any parameters of RunInstances, and terminates it."""

    @contextmanager
    def run(**parameters: Any) -> Iterator[Box]:
        api = cloud.client("ec2")
        parameters = {"ImageId": debian.image_id, "InstanceType": "t3.micro", "KeyName": key[0], **parameters}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        started = api.run_instances(MinCount=1, MaxCount=1, **parameters)["Instances"][0]
        box = Box(cloud, started["InstanceId"], key[1])
        try:
            yield box
        finally:
            box.ssh.close()
            api.terminate_instances(InstanceIds=[box.instance_id], SkipOsShutdown=True)
            box.await_state("terminated")

    return run


@pytest.fixture(scope="session")
def box(launch: Launch) -> Iterator[Box]:
    """An ordinary instance that has booted, for tests that only look at it."""
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "looked-at"}]}]
    options = {"HttpTokens": "optional", "InstanceMetadataTags": "enabled"}
    script = "#!/bin/sh\necho user data ran > /run/user-data-ran\n"
    with launch(TagSpecifications=tags, MetadataOptions=options, UserData=script) as started:
        started.await_status_ok()
        started.await_user_data()
        yield started
