"""Who the cloud's API lets in: its maker and the roles of its hosts, and neither strangers nor web pages."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Signing
from ec2_box import Box, Launch

from nomad_testkit.ec2.credentials import SECRET_KEY, Credentials
from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.modules.iam_policies import CONSUL_AUTO_JOIN, EC2_TRUST

CHANGE = b"Action=CreateKeyPair&KeyName=planted&Version=2016-11-15"


def key_pairs(cloud: EmbeddedEc2) -> list[str]:
    return sorted(pair["KeyName"] for pair in cloud.client("ec2").describe_key_pairs()["KeyPairs"])


def sent(cloud: EmbeddedEc2, credentials: Credentials, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Send a call that would make a key pair, well signed with some credentials; gives the status and the body."""
    request: Any = AWSRequest("POST", f"{cloud.endpoint_url}/", data=CHANGE)
    request.headers["Content-Type"] = "application/x-www-form-urlencoded"
    signing = Signing(credentials.access_key_id, credentials.secret_access_key)
    SigV4Auth(signing, "ec2", cloud.region).add_auth(request)
    plain = urllib.request.Request(request.url, CHANGE, {**dict(request.headers.items()), **(headers or {})})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(plain, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_stranger_and_a_page_are_refused_and_change_nothing(cloud: EmbeddedEc2, key: object) -> None:
    before = key_pairs(cloud)
    own = cloud.credentials
    for stranger in (Credentials.generate(), Credentials(own.access_key_id, Credentials.generate().secret_access_key)):
        status, said = sent(cloud, stranger)
        assert (status, "<Code>AuthFailure</Code>" in said) == (401, True), said
    status, said = sent(cloud, own, {"Origin": "https://evil.example"})
    assert (status, "Web pages" in said) == (403, True), said
    preflight = ["-X", "OPTIONS", "-H", "Origin: https://evil.example", "-H", "Access-Control-Request-Method: POST"]
    asked = ["curl", "-s", "--noproxy", "*", "-m", "20", "-D", "-", *preflight, f"{cloud.endpoint_url}/"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert said.startswith("HTTP/1.1 403 "), said
    assert "access-control-" not in said.lower()
    assert key_pairs(cloud) == before
    # It is the signature and the page that were refused: the same call is taken without them.
    assert sent(cloud, own)[0] == 200
    assert key_pairs(cloud) == sorted([*before, "planted"])
    cloud.client("ec2").delete_key_pair(KeyName="planted")


def test_only_root_can_read_the_clouds_secret(cloud: EmbeddedEc2) -> None:
    path = cloud.state_dir / SECRET_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cloud.state_dir.stat().st_mode) == 0o700
    assert path.read_text() == cloud.credentials.secret_access_key
    assert cloud.credentials.secret_access_key not in cloud.log()
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert cloud.credentials.secret_access_key not in commands


@contextmanager
def role(cloud: EmbeddedEc2, name: str, policy: str) -> Iterator[str]:
    """Make an instance profile with a role that has a policy; gives its name."""
    iam = cloud.client("iam")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=EC2_TRUST)
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy)
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    try:
        yield name
    finally:
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
        iam.delete_instance_profile(InstanceProfileName=name)
        iam.delete_role_policy(RoleName=name, PolicyName="own")
        iam.delete_role(RoleName=name)


@pytest.fixture(scope="module")
def member(cloud: EmbeddedEc2, launch: Launch) -> Iterator[Box]:
    """An instance whose role may look for other agents."""
    with role(cloud, "member", CONSUL_AUTO_JOIN) as name, launch(IamInstanceProfile={"Name": name}) as box:
        box.await_status_ok()
        yield box


def by_curl(box: Box, action: str, *, token: bool = True) -> str:
    """Call EC2 from a host by its name, as its role, with curl's own signature."""
    folder = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
    secret = json.loads(box.run(f"curl -sf {folder}$(curl -sf {folder})"))
    header = f"-H 'X-Amz-Security-Token: {secret['Token']}'" if token else ""
    user = shlex.quote(f"{secret['AccessKeyId']}:{secret['SecretAccessKey']}")
    query = f"Action={action}&Version=2016-11-15"
    url = f"https://ec2.us-east-1.amazonaws.com/?{query}"
    return box.run(f"curl -s --aws-sigv4 aws:amz:us-east-1:ec2 --user {user} {header} '{url}'")


def test_a_host_calls_with_the_credentials_of_its_role(member: Box) -> None:
    assert f"<instanceId>{member.instance_id}</instanceId>" in by_curl(member, "DescribeInstances")
    assert "<Code>AuthFailure</Code>" in by_curl(member, "DescribeInstances", token=False)
    refused = by_curl(member, "DescribeVpcs")
    assert (
        f":assumed-role/member/{member.instance_id} is not authorized to perform: ec2:DescribeVpcs because" in refused
    )
    unsigned = member.run("curl -s 'https://ec2.us-east-1.amazonaws.com/?Action=DescribeInstances'")
    assert re.search("<Code>(MissingAuthenticationToken)</Code>", unsigned), unsigned
