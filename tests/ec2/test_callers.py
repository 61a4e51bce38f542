"""Other users of the machine reach neither a cloud's API nor its hosts, and no rule for that outlives the cloud."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.isolation import Isolation
from nomad_testkit.ec2.machines.layers import LocalImage
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

STRANGER, GUEST = 4242, 4243


@pytest.fixture(scope="module")
def guarded(debian: LocalImage) -> Iterator[EmbeddedEc2]:
    """A cloud that one user besides root may call."""
    with EmbeddedEc2.start(region="us-east-1", images=[debian], users=[GUEST]) as ec2:
        yield ec2


def connect(address: str, port: int) -> None:
    socket.create_connection((address, port), 5).close()


def ask(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(5)
        asked.connect((address, port))
        asked.send(b"?")
        asked.recv(1)


def reaches(user: int, address: str, port: int, how: Callable[[str, int], None] = connect) -> str:
    """Try it as a user of this machine: gives the error's name, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()  # without exec: Python itself may lie where others may not read
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            how(address, port)
        except OSError as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        found = said.read()
    os.waitpid(child, 0)
    return found


def api_of(cloud: EmbeddedEc2) -> tuple[str, int]:
    return str(urlsplit(cloud.endpoint_url).hostname), urlsplit(cloud.endpoint_url).port or 80


def rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def test_only_who_may_reaches_the_api_and_the_hosts(guarded: EmbeddedEc2, debian: LocalImage) -> None:
    api = guarded.client("ec2")
    (group,) = api.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    api.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    started = api.run_instances(ImageId=debian.image_id, MinCount=1, MaxCount=1)
    address = guarded.public_address(started["Instances"][0]["PrivateIpAddress"])
    ssh = (address, 22)
    wait_until(
        "SSH's port",
        lambda: Pending(said) if (said := reaches(0, *ssh)) else Ok(None),
        deadline=Deadline.after(60),
    )
    for place in (api_of(guarded), ssh):
        assert [reaches(user, *place) for user in (0, GUEST, STRANGER)] == ["", "", "ConnectionRefusedError"]


def test_what_is_no_tcp_is_refused_too(guarded: EmbeddedEc2) -> None:
    address, _ = api_of(guarded)
    # Nothing listens there, which the cloud says to root; a stranger's packet does not even leave.
    assert [reaches(user, address, 9, ask) for user in (0, STRANGER)] == ["ConnectionRefusedError", "PermissionError"]


def test_two_clouds_have_users_of_their_own(guarded: EmbeddedEc2) -> None:
    with EmbeddedEc2.start(region="us-east-1", images=[], users=[STRANGER]) as other:
        assert [reaches(user, *api_of(other)) for user in (STRANGER, GUEST)] == ["", "ConnectionRefusedError"]
        assert [reaches(user, *api_of(guarded)) for user in (STRANGER, GUEST)] == ["ConnectionRefusedError", ""]
    assert reaches(STRANGER, *api_of(guarded)) == "ConnectionRefusedError"


def test_the_user_behind_sudo_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    with EmbeddedEc2.start(region="us-east-1", images=[]) as other:
        assert [reaches(user, *api_of(other)) for user in (STRANGER, GUEST)] == ["", "ConnectionRefusedError"]


def test_a_cloud_ends_with_its_filter(guarded: EmbeddedEc2) -> None:
    other = EmbeddedEc2.start(region="us-east-1", images=[])
    link = other._addresses.link
    holders = subprocess.run(
        ["pgrep", "--parent", str(other.warden_pid), "nft"], capture_output=True, text=True, check=True
    )
    (holder,) = holders.stdout.split()
    os.kill(int(holder), signal.SIGKILL)
    wait_until(
        "the end of the cloud",
        lambda: Pending("it is there") if other.state_dir.exists() or link in rules() else Ok(None),
        deadline=Deadline.after(30),
    )
    assert reaches(STRANGER, *api_of(guarded)) == "ConnectionRefusedError"
    other.close()


@pytest.mark.parametrize("isolation", [Isolation.FULL, Isolation.REDUCED])
def test_no_rule_outlives_a_cloud(isolation: Isolation) -> None:
    other = EmbeddedEc2.start(region="us-east-1", images=[], isolation=isolation)
    link = other._addresses.link
    assert f"table ip {link} " in rules()
    os.kill(other.warden_pid, signal.SIGKILL)
    other.close()
    wait_until(
        "the end of the rules",
        lambda: Pending(said) if f"table ip {link} " in (said := rules()) else Ok(None),
        deadline=Deadline.after(30),
    )
