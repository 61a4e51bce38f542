"""An instance seen from outside and from inside: API, metadata, names, certificates, SSH."""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path

import pytest
from ec2_box import Box

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.errors import HostError
from nomad_testkit.ssh import SshConnection
from nomad_testkit.wait import Deadline

METADATA = "http://169.254.169.254"


def metadata(box: Box, path: str) -> str:
    """Ask the metadata service from inside, with a token."""
    return box.run(
        f"token=$(curl -sfX PUT {METADATA}/latest/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60') && "
        f'curl -sf -H "X-aws-ec2-metadata-token: $token" {METADATA}/latest/{path}'
    )


def test_it_runs_systemd_and_cloud_init(box: Box) -> None:
    assert box.run("ps -o comm= -p 1").strip() == "systemd"
    assert box.run("cat /run/user-data-ran").strip() == "user data ran"
    assert box.run("cloud-init status").strip() == "status: done"
    assert box.run("systemctl --failed --no-legend") == ""


def test_its_addresses(box: Box, cloud: EmbeddedEc2) -> None:
    facts = box.describe()
    assert facts["PrivateIpAddress"].startswith("172.31.")
    assert facts["PublicIpAddress"] == cloud.public_address(facts["PrivateIpAddress"])
    assert box.run("hostname -I").split() == [facts["PrivateIpAddress"]]
    assert box.run("hostname").strip() == "ip-" + facts["PrivateIpAddress"].replace(".", "-")
    subnet = cloud.client("ec2").describe_subnets(SubnetIds=[facts["SubnetId"]])["Subnets"][0]
    assert subnet["AvailabilityZone"] == facts["Placement"]["AvailabilityZone"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("meta-data/instance-id", "InstanceId"),
        ("meta-data/ami-id", "ImageId"),
        ("meta-data/instance-type", "InstanceType"),
        ("meta-data/local-ipv4", "PrivateIpAddress"),
        ("meta-data/public-ipv4", "PublicIpAddress"),
        ("meta-data/local-hostname", "PrivateDnsName"),
        ("meta-data/hostname", "PrivateDnsName"),
    ],
)
def test_metadata_agrees_with_the_api(path: str, field: str, box: Box) -> None:
    assert metadata(box, path) == box.describe()[field]


def test_metadata_of_the_rest(box: Box) -> None:
    facts = box.describe()
    assert metadata(box, "meta-data/placement/availability-zone") == facts["Placement"]["AvailabilityZone"]
    assert metadata(box, "meta-data/placement/region") == "us-east-1"
    assert metadata(box, "meta-data/public-keys/").strip() == "0=tests"
    assert metadata(box, "meta-data/public-keys/0/openssh-key").startswith("ssh-ed25519 ")
    assert metadata(box, "meta-data/tags/instance/Name") == "looked-at"
    assert "user data ran" in metadata(box, "user-data")


def test_version_1_answers_where_tokens_are_optional(box: Box) -> None:
    assert box.run(f"curl -sf {METADATA}/latest/meta-data/instance-id") == box.instance_id
    missing = box.run(f"curl -s -o /dev/null -w '%{{http_code}}' {METADATA}/latest/meta-data/no-such-thing")
    assert missing == "404"


def test_names_of_aws_lead_to_the_cloud_with_a_valid_certificate(box: Box) -> None:
    for service in ("ec2", "autoscaling", "sts", "s3"):
        status = box.run(
            f"curl -s -o /dev/null -w '%{{http_code}} %{{ssl_verify_result}}' https://{service}.us-east-1.amazonaws.com/"
        )
        assert status.split()[1] == "0"
        assert status.split()[0] != "000"


def test_names_of_hosts_resolve_and_others_do_not(box: Box) -> None:
    own = box.describe()["PrivateDnsName"]
    assert box.run(f"getent hosts {own}").split()[0] == box.private_ip
    assert box.run("getent hosts example.com || echo none").strip() == "none"
    assert box.run("getent ahostsv4 ip-172-31-47-200.ec2.internal || echo none").strip() == "none"


LISTENER = """
import socket
listener = socket.create_server(("0.0.0.0", 12345))
while True:
    connection, _ = listener.accept()
    connection.sendall(b"here")
    connection.close()
"""


def test_every_port_is_reachable_from_this_machine(box: Box) -> None:
    box.run(f"systemd-run --quiet --unit=listener python3 -c {shlex.quote(LISTENER)}")
    box.run("until ss -Hltn | grep -q :12345; do :; done")
    with socket.create_connection((box.address, 12345), timeout=5) as connection:
        assert connection.recv(10) == b"here"


def test_root_cannot_log_in_and_wrong_keys_are_refused(box: Box, tmp_path: Path) -> None:
    key = tmp_path / "id"
    os.system(f"ssh-keygen -q -t ed25519 -N '' -f {shlex.quote(str(key))}")
    with SshConnection(box.address, "admin", key) as stranger, pytest.raises(HostError):
        stranger.ensure(Deadline.after(2))


def test_the_console_shows_the_boot(box: Box) -> None:
    output = box.api.get_console_output(InstanceId=box.instance_id, Latest=True)["Output"]
    assert "systemd" in output
    assert "cloud-init" in output.lower()
