"""The embedded EC2 as a target: a cloud on this machine, for one session of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nomad_testkit.ec2 import handle as ec2_handle
from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.isolation import missing_isolation
from nomad_testkit.ec2.vpc.callers import missing_filter
from nomad_testkit.errors import DeployError, Ec2Error, Missing, PreflightError, TestkitError
from nomad_testkit.images import base_image
from nomad_testkit.images.cache import Cache
from nomad_testkit.runs.run import state_path
from nomad_testkit.targets.base import console_output, default_network
from nomad_testkit.targets.embedded import room

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.images.agents import Agent, AgentName
    from nomad_testkit.modules.network import Instance, Network
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import LaunchRequest, Room


TEARDOWN_SECONDS = 120.0


class EmbeddedTarget:
    """One embedded cloud, with an image of its own that has Consul and Nomad on it."""

    name: ClassVar[str] = "embedded"

    def __init__(self, ec2: EmbeddedEc2, *, own_image: str, ami: str | None = None) -> None:
        self.ec2 = ec2
        self.own_image, self._ami = own_image, ami
        self._kept = False

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, *, progress: Progress) -> Iterator[EmbeddedTarget]:
        """Start a cloud, and end it when the context is left, unless it was kept.

        Raises PreflightError with everything that this machine lacks, and what the making of an image raises.
        """
        from nomad_testkit.targets.embedded import image_builder
        from nomad_testkit.targets.embedded.imported import imported_images

        cache = Cache()
        if missing := preflight(settings, cache):
            raise PreflightError(missing)
        below = image_builder.base(cache, progress)
        found = agents_of(settings, cache=cache, progress=progress)
        own = image_builder.agents_image(cache, below, found, region=settings.region, progress=progress)
        progress("starting the embedded EC2")
        images = [own, below, *(image.local() for image in imported_images())]
        if lacking := missing_isolation(*(layer for image in images for layer in image.layers)):
            progress(f"root on its hosts is root on this machine: {lacking}")
        if lacking := missing_filter():
            progress(f"any user of this machine reaches its hosts: {lacking}")
        target = cls(
            EmbeddedEc2.start(region=settings.region, images=images, users=settings.users or ()),
            own_image=own.image_id,
            ami=settings.ami,
        )
        try:
            yield target
        except BaseException as error:
            try:
                target._leave()
            except TestkitError as second:
                error.add_note(f"then the embedded EC2 did not end as it should: {second}")
            raise
        else:
            target._leave()

    @classmethod
    @contextmanager
    def attach(cls, description: Mapping[str, Any]) -> Iterator[EmbeddedTarget]:
        """Hold a lease on a cloud that another process started, as long as the context lasts. Raises Ec2Error."""
        ec2 = EmbeddedEc2.attach(Path(description["state_dir"]))
        try:
            if ec2.warden_pid != description["warden_pid"]:
                raise Ec2Error(f"the embedded cloud of {ec2.state_dir} has ended, and another has taken its place")
            yield cls(ec2, own_image=description["own_image"], ami=description["ami"])
        finally:
            ec2.close()

    def _leave(self) -> None:
        if self._kept:
            self.ec2.close()
        else:
            self.ec2.shutdown()

    @property
    def region(self) -> str:
        """The region that the cloud is."""
        return self.ec2.region

    @property
    def endpoint_url(self) -> str:
        """Where its API answers, seen from this machine."""
        return self.ec2.endpoint_url

    @property
    def credentials(self) -> Mapping[str, str]:
        """The variables by which programs find the credentials of this cloud."""
        return self.ec2.credentials.environment()

    @property
    def inbound_cidrs(self) -> tuple[str, ...]:
        """The one address that this machine's packets come from, as the hosts see them."""
        return (f"{self.ec2.machine_address}/32",)

    @property
    def time_limit(self) -> None:
        """None: it costs nothing, and ends with this process."""

    @property
    def teardown_seconds(self) -> float:
        """Its hosts end at once, and wait at most for a machine under load."""
        return TEARDOWN_SECONDS

    def check_capacity(self, launches: Sequence[LaunchRequest], *, progress: Progress) -> None:
        """Admit everything: what there is room for, `most_hosts` tells."""

    def client(self, service: str) -> Any:
        """Make a boto3 client of the cloud; no environment and no ``~/.aws`` redirects it."""
        return self.ec2.client(service)

    def network(self) -> Network:
        """Find the default VPC and its subnets in three zones. Raises DeployError."""
        return default_network(self.client("ec2"))

    def image(self, example: Example) -> str:
        """Choose the AMI: the settings' own, else the example's, else the cloud's with Consul and Nomad on it.

        Raises DeployError for one that the cloud does not have, and lists those that it has.
        """
        chosen = self._ami or example.ami_id or self.own_image
        images = {one["ImageId"]: one.get("Name", "") for one in self.client("ec2").describe_images()["Images"]}
        if chosen not in images:
            known = ", ".join(f"{image} ({images.get(image)})" for image in [self.own_image] if image in images)
            raise DeployError(
                f"there is no image {chosen} in the embedded EC2; leave the setting ami (--nomad-ami) and the "
                f"example's ami_id empty for its own: {known or 'none'}"
            )
        return str(chosen)

    def address(self, instance: Instance) -> str:
        """Tell where this machine reaches an instance: 127.31.A.B for 172.31.A.B."""
        return self.ec2.public_address(instance.private_ip)

    def console(self, instance: Instance) -> str:
        """Read what an instance's console shows."""
        return console_output(self.client("ec2"), instance.instance_id)

    def memory_bytes(self) -> int:
        """Tell what all hosts use, page cache and disks included."""
        return self.ec2.stats().memory_bytes

    def cpu_by_owner(self) -> Mapping[str, float]:
        """Return the CPU-seconds that the cloud has used so far, by who used them."""
        return self.ec2.stats().cpu_by_owner

    def keep(self) -> None:
        """Let the cloud live on when the last process that uses it has ended."""
        self.ec2.keep()
        self._kept = True

    def end(self) -> None:
        """End the cloud, whoever uses it. Raises Ec2Error when something of it is left."""
        self.ec2.shutdown()

    def most_hosts(self) -> Room | None:
        """Tell the limit of this machine that the fewest hosts fit in."""
        return min(room.rooms(), key=lambda one: one.hosts, default=None)

    def lost(self) -> str | None:
        """Tell how the cloud has ended, where its process has died."""
        try:
            self.ec2.stats()
        except Ec2Error as error:
            return str(error)
        return None

    def describe(self) -> Mapping[str, Any]:
        """Tell what `attach` needs."""
        return {
            "name": self.name,
            "endpoint_url": self.endpoint_url,
            "access_key_id": self.ec2.credentials.access_key_id,
            "state_dir": str(self.ec2.state_dir),
            "warden_pid": self.ec2.warden_pid,
            "own_image": self.own_image,
            "ami": self._ami,
        }


def agents_of(settings: Settings, *, cache: Cache | None = None, progress: Progress) -> list[Agent]:
    """Get the Consul and the Nomad that the settings ask for. Raises AgentSourceError and CacheError."""
    from nomad_testkit.images.agents import get_agent

    cache = cache or Cache()
    wanted = _wanted(settings)
    return [get_agent(name, version, binary=binary, cache=cache, progress=progress) for name, version, binary in wanted]


def _wanted(settings: Settings) -> tuple[tuple[AgentName, str, Path | None], ...]:
    return (
        ("consul", settings.consul_version, settings.consul_binary),
        ("nomad", settings.nomad_version, settings.nomad_binary),
    )


def preflight(settings: Settings, cache: Cache) -> list[Missing]:
    """List everything that this machine lacks to run the embedded EC2 with these settings."""
    from nomad_testkit.images import agents

    missing = [*ec2_handle.preflight(), *_cache_preflight(cache)]
    folders = [("runs", state_path(), room.LEAST_FREE), ("evidence", settings.artifacts.absolute(), room.LEAST_FREE)]
    if cache.find("base-image", base_image.image_key()) is None:
        missing += base_image.preflight()
        folders.append(("images", cache.root, room.IMAGES_FREE))
    missing += room.lacking(folders, room.rooms())
    for name, version, binary in _wanted(settings):
        missing += agents.preflight(name, version, binary=binary, cache=cache)
    return list(dict.fromkeys(missing))


def _cache_preflight(cache: Cache) -> list[Missing]:
    existing = next(folder for folder in (cache.root, *cache.root.parents) if folder.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return []
    return [Missing(f"a cache folder that can be written, not {cache.root}", "set NOMAD_TESTKIT_CACHE to another one")]
