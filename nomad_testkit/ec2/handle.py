"""The embedded EC2 as other processes of this machine hold it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_testkit.ec2.control import DESCRIPTION, LOG, CloudConfig, Connection, ImageOnDisk
from nomad_testkit.ec2.credentials import SECRET_KEY, Credentials
from nomad_testkit.ec2.machines.isolation import Isolation, missing_isolation
from nomad_testkit.ec2.machines.layers import LocalImage
from nomad_testkit.ec2.vpc.callers import callers, missing_filter
from nomad_testkit.ec2.vpc.network import CloudAddresses, claim
from nomad_testkit.errors import Ec2Error, Missing

START_TIMEOUT = 60.0
"""Seconds until a new cloud has to answer."""
END_TIMEOUT = 20.0
"""Seconds until everything of an ended cloud has to be gone."""
COPY_TIMEOUT = 600.0
"""Seconds that saving an image may take."""

_TOOLS = {
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}


def preflight() -> list[Missing]:
    """List what this machine lacks to run an embedded EC2."""
    lacking = [
        Missing(tool, f"apt-get install {package}") for tool, package in _TOOLS.items() if shutil.which(tool) is None
    ]
    if sys.platform != "linux":
        lacking.append(Missing("Linux", "the hosts are Linux containers: run on a Linux machine"))
    if os.geteuid() != 0:
        lacking.append(Missing("root", "network namespaces and mounts need it: run as root, for example with sudo"))
    elif not Path("/sys/fs/cgroup").is_dir():
        lacking.append(Missing("cgroups", "mount them at /sys/fs/cgroup: the hosts' systemd needs them"))
    return lacking


@dataclass(frozen=True, slots=True)
class Stats:
    """What all hosts of a cloud use together."""

    memory_bytes: int
    """Page cache and disks, which are in memory, included."""
    cpu_seconds: float
    cpu_by_owner: Mapping[str, float]
    """CPU-seconds of the whole cloud by who used them, its own process included."""


class EmbeddedEc2:
    """A lease on an embedded cloud.

    >>> with EmbeddedEc2.start(region="us-east-1", images=[image]) as ec2:  # doctest: +SKIP
    ...     ec2.client("ec2").describe_instances()
    """

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        try:
            facts = json.loads((state_dir / DESCRIPTION).read_text())
            self.credentials = Credentials.read(facts["access_key_id"], state_dir / SECRET_KEY)
        except (OSError, ValueError, KeyError) as error:
            raise Ec2Error(f"no embedded cloud is at {state_dir}: {error}") from error
        self.region: str = facts["region"]
        self.endpoint_url: str = facts["endpoint_url"]
        self.warden_pid: int = facts["warden_pid"]
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()
        self._lease = Connection(state_dir, timeout=START_TIMEOUT)
        try:
            self._lease.ask("lease")
        except BaseException:
            self._lease.close()
            raise

    @classmethod
    def start(
        cls,
        *,
        region: str,
        images: Sequence[LocalImage],
        isolation: Isolation | None = None,
        users: Sequence[int] = (),
    ) -> EmbeddedEc2:
        """Start a cloud that has these images, and hold a lease on it.

        Root, the user behind sudo and `users`, by their ids, may call it and its hosts; others are refused.
        `isolation` is as much as this machine can give, unless a test asks for less. Raises Ec2Error with the end of
        the cloud's log when it does not start.
        """
        if isolation is None:
            isolation = Isolation.REDUCED if missing_isolation(*_folders(images)) else Isolation.FULL
        allowed = None if missing_filter() else callers(users, os.environ)
        on_disk = tuple(_on_disk(image) for image in images)
        config = CloudConfig("", region, -1, {}, on_disk, Credentials.generate(), isolation.value, allowed)
        with _life_sign() as life:
            done = subprocess.run(
                [*_delegated_scope(), sys.executable, "-m", "nomad_testkit.ec2.warden", str(life)],
                input=config.to_json(),
                capture_output=True,
                pass_fds=(life,),
                text=True,
                check=False,
                env=_environment(),
            )
            if done.returncode:
                raise Ec2Error(f"the embedded cloud could not be started: {done.stderr.strip()[-2000:]}")
            state_dir = Path(done.stdout.strip().splitlines()[-1])
            # Opened at once: the folder goes away with a cloud that fails.
            try:
                opened = (state_dir / LOG).open(errors="replace")
            except FileNotFoundError as error:
                raise Ec2Error(f"the embedded cloud ended as soon as it was started, with {state_dir}") from error
            with opened as log:
                try:
                    first = Connection(state_dir, timeout=START_TIMEOUT)
                    try:
                        first.ask("lease")
                        return cls(state_dir)
                    finally:
                        first.close()
                except Ec2Error as error:
                    raise Ec2Error(f"the embedded cloud did not start: {error}\n{log.read()[-3000:]}") from error

    @classmethod
    def attach(cls, state_dir: Path) -> EmbeddedEc2:
        """Hold a lease on a cloud that another process started. Raises Ec2Error if `state_dir` has no cloud."""
        return cls(state_dir)

    def client(self, service: str) -> Any:
        """Give the boto3 client of this cloud; nothing in the environment or in ``~/.aws`` has a say in it.

        There is one for each service, for all threads: to make one takes a fifth of a second of processor time.
        """
        with self._making:
            if service not in self._clients:
                self._clients[service] = aws_client(
                    service, endpoint_url=self.endpoint_url, region=self.region, credentials=self.credentials
                )
            return self._clients[service]

    def public_address(self, private_ip: str) -> str:
        """Give the address at which this machine reaches a host, whether or not AWS would give it a public one."""
        return self._addresses.public(private_ip)

    @property
    def machine_address(self) -> str:
        """The address that hosts see this machine come from."""
        return self._addresses.machine_address

    @property
    def _addresses(self) -> CloudAddresses:
        return CloudAddresses(int(self.endpoint_url.split(".")[1]) - 31)

    def log(self) -> str:
        """Give the cloud's own log."""
        return (self.state_dir / LOG).read_text(errors="replace")

    def keep(self) -> None:
        """Let the cloud live on when the last lease is gone, until `shutdown`."""
        self._lease.ask("keep")

    def stats(self) -> Stats:
        """Tell what the hosts use."""
        return Stats(**self._lease.ask("stats"))

    def save_image(self, image_id: str, folder: Path) -> None:
        """Copy what an image adds to the one below it to `folder`, which must not exist. Raises Ec2Error."""
        connection = Connection(self.state_dir, timeout=COPY_TIMEOUT)
        try:
            connection.ask("save_image", image_id=image_id, folder=str(folder))
        finally:
            connection.close()

    def shutdown(self) -> None:
        """End the cloud now, whoever else holds a lease, and wait until nothing of it is left.

        Raises Ec2Error when something is left.
        """
        with contextlib.suppress(Ec2Error):  # it may have ended already
            self._lease.ask("shutdown")
        self._lease.close()
        _await_exit(self.warden_pid, END_TIMEOUT)
        # Whoever claims its index next has a folder and a link of the same names.
        index = claim(self._addresses.index)
        if index is None:
            return
        with index:
            link = Path(f"/sys/class/net/{self._addresses.link}")
            left = [str(path) for path in (self.state_dir, link) if path.exists()]
        if left:
            raise Ec2Error(f"the embedded cloud ended, but left {', '.join(left)}")

    def close(self) -> None:
        """Give the lease back; the cloud ends with the last one."""
        self._lease.close()

    def __enter__(self) -> EmbeddedEc2:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


@contextlib.contextmanager
def _life_sign() -> Iterator[int]:
    """Lend the reading end of a pipe that ends with the block, or with this process, however that ends."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


def aws_client(service: str, *, endpoint_url: str, region: str, credentials: Credentials) -> Any:
    """Make a boto3 client that only ever talks to `endpoint_url`, with these credentials."""
    import boto3
    import botocore.config
    import botocore.session

    # A session without the user's configuration: a profile, a proxy or a key of theirs must not redirect a request.
    session: Any = boto3.session.Session(botocore_session=botocore.session.Session(session_vars=_NO_VARIABLES))
    return session.client(
        service,
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        config=botocore.config.Config(
            proxies={}, connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 3}
        ),
    )


_NO_VARIABLES: dict[str, tuple[Any, Any, Any, Any]] = dict.fromkeys(
    ("config_file", "credentials_file", "profile", "ca_bundle", "region"), (None, None, None, None)
)


def _environment() -> dict[str, str]:
    """Give the cloud only what a program needs to run: the user's AWS_ variables must not change its API."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONDONTWRITEBYTECODE": "1"}


def _delegated_scope() -> list[str]:
    """On a machine that systemd runs, the hosts' cgroups must be below one that it leaves alone."""
    if not Path("/run/systemd/system").is_dir():
        return []
    return ["systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes"]


def _folders(images: Sequence[LocalImage]) -> set[Path]:
    return {layer.resolve() for image in images for layer in image.layers}


def _on_disk(image: LocalImage) -> ImageOnDisk:
    layers = tuple(str(layer.resolve()) for layer in image.layers)
    return ImageOnDisk(image.image_id, image.name, layers, image.description, image.architecture, image.owner_id)


def _await_exit(pid: int, timeout: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([descriptor], [], [], timeout)[0]:
            raise Ec2Error(f"the embedded cloud's warden, process {pid}, did not end within {timeout:.0f} s")
    finally:
        os.close(descriptor)
