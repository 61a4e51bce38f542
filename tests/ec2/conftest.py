"""One cloud for all tests of this folder, and instances in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ec2_box import Box, Launch, let_in
from script_host import ScriptHost, script_hosts

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.layers import LocalImage, image_id
from nomad_testkit.images.base_image import DESCRIPTION, NAME, OWNER_ID, base_image, image_key
from nomad_testkit.images.cache import Cache
from nomad_testkit.settings import Settings
from nomad_testkit.targets.embedded import image_builder
from nomad_testkit.targets.embedded.target import agents_of

log = logging.getLogger(__name__)

ONLY_WITH_TOKEN: dict[str, Any] = {"MetadataOptions": {"HttpTokens": "required"}}
WITHOUT_TAGS: dict[str, Any] = {"TagSpecifications": []}


@pytest.fixture(scope="session")
def debian() -> LocalImage:
    """The base image, from the cache or made now."""
    root = base_image(Cache(), log.info)
    return LocalImage(image_id(image_key()), NAME, (root,), DESCRIPTION, owner_id=OWNER_ID)


@pytest.fixture(scope="session")
def cloud(debian: LocalImage) -> Iterator[EmbeddedEc2]:
    """A cloud with the base image."""
    with EmbeddedEc2.start(region="us-east-1", images=[debian]) as ec2:
        let_in(ec2.client("ec2"), f"{ec2.machine_address}/32")
        yield ec2


@pytest.fixture(scope="session")
def key(cloud: EmbeddedEc2, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A key pair: its name, and the file with its private key."""
    path = tmp_path_factory.mktemp("key") / "id"
    path.write_text(cloud.client("ec2").create_key_pair(KeyName="tests", KeyType="ed25519")["KeyMaterial"])
    path.chmod(0o600)
    return "tests", path


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


@pytest.fixture(scope="session")
def hosts(debian: LocalImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ScriptHost, ScriptHost]]:
    """Two instances of the image with the agents.

    The first has the servers' tag, and its metadata is only for who has a token (IMDSv2).
    """
    agents = agents_of(Settings.load(environ={}), progress=log.info)
    image = image_builder.agents_image(Cache(), debian, agents, region="us-east-1", progress=log.info)
    folder = tmp_path_factory.mktemp("scripts")
    with (
        EmbeddedEc2.start(region="us-east-1", images=[image, debian]) as ec2,
        script_hosts(ec2, image.image_id, folder, ONLY_WITH_TOKEN, WITHOUT_TAGS) as (one, other),
    ):
        yield one, other


@pytest.fixture
def fresh(hosts: tuple[ScriptHost, ScriptHost]) -> tuple[ScriptHost, ScriptHost]:
    """The two instances, on which no agent runs or ever has."""
    for host in hosts:
        host.reset()
    return hosts
