"""The instance metadata service, asked as hosts ask it: callers differ by their source address."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from fake_clock import Clock

from nomad_testkit.ec2.imds.server import MetadataService, TokenMint
from nomad_testkit.ec2.imds.tree import VERSIONS
from nomad_testkit.ec2.machines.spec import InstanceProfileView, InstanceView, RoleCredentials
from nomad_testkit.errors import Ec2Error

NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)
CREDENTIALS = RoleCredentials("ASIAEXAMPLE", "secret", "session", NOW, NOW + timedelta(hours=6))
FULL = InstanceView(
    instance_id="i-0000000000000000a",
    image_id="ami-0123456789abcdef0",
    launch_index=2,
    reservation_id="r-0123456789abcdef0",
    instance_type="t3.micro",
    architecture="x86_64",
    lifecycle="on-demand",
    launched=NOW,
    account_id="123456789012",
    region="us-east-1",
    availability_zone="us-east-1b",
    availability_zone_id="use1-az2",
    hostname="ip-172-31-16-5.ec2.internal",
    private_ip="172.31.16.5",
    public_hostname="ec2-127-31-16-5.compute-1.amazonaws.com",
    public_ip="127.31.16.5",
    mac="0a:ff:ac:1f:10:05",
    interface_id="eni-1",
    subnet_id="subnet-1",
    subnet_cidr="172.31.16.0/20",
    vpc_id="vpc-1",
    vpc_cidr="172.31.0.0/16",
    security_groups={"sg-1": "web", "sg-2": "ssh"},
    root_device_name="/dev/xvda",
    block_devices=("/dev/sdf", "/dev/sdg"),
    target_lifecycle_state="InService",
    key_name="my-key",
    public_key="ssh-ed25519 AAAA my-key",
    user_data=b"#!/bin/sh\n\xff\x00",
    profile=InstanceProfileView("arn:aws:iam::123456789012:instance-profile/p", "AIPA1", "my-role", CREDENTIALS),
    tags={"Name": "server", "aws:autoscaling:groupName": "group", "a/b": "x"},
    tags_in_metadata=True,
)
BARE = replace(
    FULL,
    instance_id="i-0000000000000000b",
    public_hostname=None,
    public_ip=None,
    key_name=None,
    public_key=None,
    user_data=None,
    profile=None,
    tags_in_metadata=False,
)
CALLERS = {
    "127.0.0.2": FULL,
    "127.0.0.3": BARE,
    "127.0.0.4": replace(BARE, instance_id="i-0000000000000000c", token_required=True),
    "127.0.0.5": replace(BARE, metadata_enabled=False),
}
FULL_AT, BARE_AT, STRICT_AT, DISABLED_AT = CALLERS


CLOCK = Clock()


@pytest.fixture(scope="module")
def service() -> Iterator[MetadataService]:
    service = MetadataService(CALLERS.get, mint=TokenMint(CLOCK))
    service.serve("127.0.0.1", 0)
    yield service
    service.close()


Headers = dict[str, str]


def ask(
    service: MetadataService, path: str, *, at: str = FULL_AT, method: str = "GET", headers: Headers | None = None
) -> tuple[int, bytes, Headers]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10, source_address=(at, 0))
    with closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def get(service: MetadataService, path: str, *, at: str = FULL_AT) -> str:
    status, body, _ = ask(service, path, at=at)
    assert status == 200, (path, status)
    return body.decode()


def token(service: MetadataService, ttl: str = "60", *, at: str = FULL_AT) -> str:
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": ttl}
    status, body, answered = ask(service, "/latest/api/token", at=at, method="PUT", headers=headers)
    assert status == 200
    assert answered["x-aws-ec2-metadata-token-ttl-seconds"] == ttl
    return body.decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ami-id", "ami-0123456789abcdef0"),
        ("ami-launch-index", "2"),
        ("autoscaling/target-lifecycle-state", "InService"),
        ("block-device-mapping/ami", "xvda"),
        ("block-device-mapping/ebs2", "sdg"),
        ("block-device-mapping/root", "/dev/xvda"),
        ("hostname", "ip-172-31-16-5.ec2.internal"),
        ("instance-id", "i-0000000000000000a"),
        ("instance-life-cycle", "on-demand"),
        ("local-ipv4", "172.31.16.5"),
        ("mac", "0a:ff:ac:1f:10:05"),
        ("network/interfaces/macs/0a:ff:ac:1f:10:05/subnet-ipv4-cidr-block", "172.31.16.0/20"),
        ("network/interfaces/macs/0a:ff:ac:1f:10:05/public-ipv4s", "127.31.16.5"),
        ("network/interfaces/macs/0a:ff:ac:1f:10:05/security-group-ids", "sg-1\nsg-2"),
        ("network/interfaces/macs/", "0a:ff:ac:1f:10:05/"),
        ("placement/availability-zone", "us-east-1b"),
        ("placement/availability-zone-id", "use1-az2"),
        ("placement/region", "us-east-1"),
        ("public-ipv4", "127.31.16.5"),
        ("public-hostname", "ec2-127-31-16-5.compute-1.amazonaws.com"),
        ("public-keys/", "0=my-key"),
        ("public-keys/0", "openssh-key"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAA my-key"),
        ("reservation-id", "r-0123456789abcdef0"),
        ("security-groups", "web\nssh"),
        ("services/domain", "amazonaws.com"),
        ("iam/", "info\nsecurity-credentials/"),
        ("iam/security-credentials/", "my-role"),
        ("tags/instance/Name", "server"),
        ("tags/instance/", "Name\naws:autoscaling:groupName"),
    ],
)
def test_metadata(service: MetadataService, path: str, value: str) -> None:
    assert get(service, f"/latest/meta-data/{path}") == value
    assert get(service, f"/2009-04-04/meta-data/{path}") == value


def test_every_listed_leaf_answers_in_every_version(service: MetadataService) -> None:
    assert get(service, "/").split("\n") == list(VERSIONS)
    leaves: dict[str, set[str]] = {}

    def walk(path: str, version: str) -> None:
        for line in get(service, path).split("\n"):
            name = line.split("=")[0]
            if line.endswith("/") or "=" in line or (path == f"/{version}/" and name != "user-data"):
                assert get(service, f"{path}{name.rstrip('/')}") == get(service, f"{path}{name.rstrip('/')}/")
                walk(f"{path}{name.rstrip('/')}/", version)
            else:
                status, body, _ = ask(service, f"{path}{name}")
                assert (status, body != b"") == (200, True), path + name
                leaves.setdefault(version, set()).add(f"{path}{name}".removeprefix(f"/{version}"))

    for version in VERSIONS:
        walk(f"/{version}/", version)
    assert set(map(frozenset, leaves.values())) == {frozenset(leaves["latest"])}
    assert {"/user-data", "/dynamic/instance-identity/document", "/meta-data/instance-id"} <= leaves["latest"]


def test_role_credentials_as_sdks_read_them(service: MetadataService) -> None:
    secret = json.loads(get(service, "/latest/meta-data/iam/security-credentials/my-role"))
    assert secret == {
        "Code": "Success",
        "LastUpdated": "2024-05-01T12:00:00Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAEXAMPLE",
        "SecretAccessKey": "secret",
        "Token": "session",
        "Expiration": "2024-05-01T18:00:00Z",
    }
    info = json.loads(get(service, "/latest/meta-data/iam/info"))
    assert (info["Code"], info["InstanceProfileId"]) == ("Success", "AIPA1")


def test_the_identity_document(service: MetadataService) -> None:
    document = json.loads(get(service, "/latest/dynamic/instance-identity/document"))
    assert document["instanceId"] == FULL.instance_id
    assert (document["region"], document["availabilityZone"]) == ("us-east-1", "us-east-1b")
    assert (document["privateIp"], document["accountId"]) == ("172.31.16.5", "123456789012")
    assert document["pendingTime"] == "2024-05-01T12:00:00Z"


def test_user_data_is_given_as_it_is(service: MetadataService) -> None:
    assert ask(service, "/latest/user-data")[:2] == (200, b"#!/bin/sh\n\xff\x00")
    assert ask(service, "/latest/user-data", at=BARE_AT)[0] == 404


LACKED = ["public-ipv4", "public-hostname", "public-keys/", "iam/", "iam/security-credentials/", "tags/instance/Name"]


@pytest.mark.parametrize("path", LACKED)
def test_what_an_instance_lacks_is_neither_listed_nor_found(service: MetadataService, path: str) -> None:
    assert ask(service, f"/latest/meta-data/{path}", at=BARE_AT)[0] == 404
    assert path.split("/")[0] not in get(service, "/latest/meta-data/", at=BARE_AT).replace("/", "").split("\n")


UNKNOWN = ["latest/nothing", "latest/meta-data/nothing", "latest/meta-data/mac/x", "1999-01-01/meta-data/"]


@pytest.mark.parametrize("path", [*UNKNOWN, "latest/api/token"])
def test_everything_else_is_not_found(service: MetadataService, path: str) -> None:
    status, body, headers = ask(service, f"/{path}")
    assert status == 404
    assert b"404 - Not Found" in body
    assert headers["content-type"] == "text/html"


def test_each_caller_sees_itself_and_strangers_see_nothing(service: MetadataService) -> None:
    assert get(service, "/latest/meta-data/instance-id", at=BARE_AT) == BARE.instance_id
    assert ask(service, "/latest/meta-data/instance-id", at="127.0.0.99")[0] == 404
    assert ask(service, "/latest/meta-data/instance-id", at=DISABLED_AT)[0] == 403


def test_a_token_serves_its_instance_until_it_ends(service: MetadataService) -> None:
    mine = {"X-aws-ec2-metadata-token": token(service)}
    path = "/latest/meta-data/instance-id"
    status, body, answered = ask(service, path, headers=mine)
    assert (status, body.decode()) == (200, FULL.instance_id)
    assert answered["x-aws-ec2-metadata-token-ttl-seconds"] == "60"
    assert ask(service, path, at=BARE_AT, headers=mine)[0] == 401
    CLOCK.now += 60
    assert ask(service, path, headers=mine)[0] == 401


@pytest.mark.parametrize("bad", ["", "x", "i-0000000000000000a.9999999999.00", "a.b.c", "i-0000000000000000a.x.é"])
def test_a_bad_token_is_refused(service: MetadataService, bad: str) -> None:
    assert ask(service, "/latest/meta-data/", headers={"X-aws-ec2-metadata-token": bad})[0] == 401


def test_a_token_is_required_where_the_instance_says_so(service: MetadataService) -> None:
    path = "/latest/meta-data/instance-id"
    assert ask(service, path, at=STRICT_AT)[0] == 401
    headers = {"X-aws-ec2-metadata-token": token(service, at=STRICT_AT)}
    assert ask(service, path, at=STRICT_AT, headers=headers)[1] == b"i-0000000000000000c"


@pytest.mark.parametrize("ttl", [None, "", "0", "21601", "-1", "1.5", "x", "²"])
def test_a_token_with_a_bad_life_is_refused(service: MetadataService, ttl: str | None) -> None:
    headers = {} if ttl is None else {"X-aws-ec2-metadata-token-ttl-seconds": ttl}
    assert ask(service, "/latest/api/token", method="PUT", headers=headers)[0] == 400


def test_a_forwarded_request_gets_no_token(service: MetadataService) -> None:
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60", "X-Forwarded-For": "10.0.0.1"}
    assert ask(service, "/latest/api/token", method="PUT", headers=headers)[0] == 403


def test_other_methods(service: MetadataService) -> None:
    assert ask(service, "/latest/meta-data/", method="POST")[0] == 405
    assert ask(service, "/latest/meta-data/", method="PUT")[0] == 404
    status, body, headers = ask(service, "/latest/meta-data/mac", method="HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", "17")


def test_one_connection_serves_many_requests(service: MetadataService) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10, source_address=(FULL_AT, 0))
    with closing(connection):
        for path, status in (("/latest/meta-data/mac", 200), ("/latest/x", 404), ("/latest/meta-data/mac", 200)):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.will_close) == (status, False)


def test_the_hop_limit_of_the_instance_holds_for_tokens(
    service: MetadataService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CALLERS, FULL_AT, replace(FULL, hop_limit=3))
    assert token(service)


def test_nothing_is_written_to_the_terminal(service: MetadataService, capfd: pytest.CaptureFixture[str]) -> None:
    ask(service, "/latest/x")
    ask(service, "/latest/meta-data/")
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_named(service: MetadataService) -> None:
    with pytest.raises(Ec2Error, match=f"127.0.0.1 port {service.port}"):
        MetadataService(CALLERS.get).serve("127.0.0.1", service.port)
