"""Reading the instance metadata service, and refusing what is not what it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from fake_host import FakeClock
from host_commons import Answer, HostFault, Service, Waiting
from host_metadata import Metadata

TOKEN = "AQAEAtoken=="
VALUES = {
    "meta-data/instance-id": "i-0123456789abcdef0",
    "meta-data/local-ipv4": "172.31.16.5",
    "meta-data/placement/availability-zone": "us-east-1a",
    "meta-data/placement/region": "us-east-1",
    "meta-data/iam/security-credentials/": "consul-servers",
    "meta-data/iam/security-credentials/consul-servers": json.dumps(
        {"Code": "Success", "AccessKeyId": "AKIA", "SecretAccessKey": "hidden", "Token": "session"}
    ),
}


class FakeImds(Service):
    """Version 2 by default; `token_status` is the answer to the request for a token."""

    def __init__(self, *, token_status: int = 200, demands_token: bool = True) -> None:
        super().__init__("169.254.169.254", 80)
        self.token_status = token_status
        self.demands_token = demands_token
        self.values = dict(VALUES)
        self.failures: list[int | OSError] = []
        self.asked: list[str] = []

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        self.asked.append(f"{method} {path}")
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, OSError):
                raise failure
            return Answer(failure, b"<html>an error page</html>")
        if path == "/latest/api/token":
            assert method == "PUT"
            assert 0 < int((headers or {})["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
            return Answer(self.token_status, TOKEN.encode())
        if self.demands_token and (headers or {}).get("X-aws-ec2-metadata-token") != TOKEN:
            return Answer(401, b"")
        value = self.values.get(path[len("/latest/") :])
        return Answer(404, b"<html>") if value is None else Answer(200, value.encode())


def metadata(imds: FakeImds) -> Metadata:
    return Metadata(FakeClock(), imds, retry_seconds=10)


def test_all_values_take_one_token() -> None:
    imds = FakeImds()
    read = metadata(imds)
    assert (read.instance_id(), read.private_address()) == ("i-0123456789abcdef0", "172.31.16.5")
    assert (read.availability_zone(), read.region()) == ("us-east-1a", "us-east-1")
    assert imds.asked.count("PUT /latest/api/token") == 1


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_service_without_tokens_is_asked_without(status: int) -> None:
    imds = FakeImds(token_status=status, demands_token=False)
    assert metadata(imds).instance_id() == "i-0123456789abcdef0"


def test_silence_is_no_reason_to_go_without_a_token() -> None:
    imds = FakeImds(demands_token=False)
    imds.failures = [TimeoutError("timed out")] * 3
    assert metadata(imds).instance_id() == "i-0123456789abcdef0"
    assert imds.asked == ["PUT /latest/api/token"] * 4 + ["GET /latest/meta-data/instance-id"]


def test_no_answer_at_all_is_a_fault_that_names_the_path() -> None:
    imds = FakeImds()
    imds.failures = [ConnectionRefusedError("Connection refused")] * 1000
    with pytest.raises(HostFault, match=r"after 10 s .*http://169.254.169.254/latest/meta-data/local-ipv4: no answer"):
        metadata(imds).private_address()


def test_an_expired_token_is_renewed() -> None:
    imds = FakeImds()
    read = metadata(imds)
    read.instance_id()
    imds.failures = [401]
    assert read.private_address() == "172.31.16.5"
    assert imds.asked.count("PUT /latest/api/token") == 2


def test_a_service_that_demands_a_token_but_gives_none_is_a_fault() -> None:
    with pytest.raises(HostFault, match="demands a session token"):
        metadata(FakeImds(token_status=404)).instance_id()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("meta-data/instance-id", "<html>an error page</html>", "'<html>an error page</html>'.* an instance id"),
        ("meta-data/instance-id", None, "gave 'HTTP 404', which is not an instance id"),
        ("meta-data/local-ipv4", "172.31.16.256", "'172.31.16.256'.* an IPv4 address"),
        ("meta-data/placement/availability-zone", "us-east-1", "'us-east-1'.* an availability zone"),
        ("meta-data/placement/region", "", "''.* a region"),
    ],
)
def test_what_is_not_of_its_type_is_refused_with_what_was_found(path: str, value: str | None, said: str) -> None:
    imds = FakeImds()
    del imds.values[path]
    if value is not None:
        imds.values[path] = value
    read = metadata(imds)
    get = {
        "instance-id": read.instance_id,
        "local-ipv4": read.private_address,
        "availability-zone": read.availability_zone,
        "region": read.region,
    }
    with pytest.raises(HostFault, match=f"{path} .*{said}"):
        get[path.rpartition("/")[2]]()


def test_the_zone_of_a_local_zone_is_valid() -> None:
    imds = FakeImds()
    imds.values["meta-data/placement/availability-zone"] = "us-west-2-lax-1a"
    assert metadata(imds).availability_zone() == "us-west-2-lax-1a"


def test_the_region_comes_from_the_identity_document_where_placement_has_none() -> None:
    imds = FakeImds()
    del imds.values["meta-data/placement/region"]
    imds.values["dynamic/instance-identity/document"] = '{"region": "us-gov-west-1"}'
    assert metadata(imds).region() == "us-gov-west-1"
    imds.values["dynamic/instance-identity/document"] = "<html>"
    with pytest.raises(HostFault, match="document gave '<html>'"):
        metadata(imds).region()


def test_credentials_and_a_role_that_comes_late_and_keys_never_get_into_a_message() -> None:
    imds = FakeImds()
    found = metadata(imds).credentials()
    assert (found.access_key, found.secret_key, found.token) == ("AKIA", "hidden", "session")
    imds.values["meta-data/iam/security-credentials/consul-servers"] = '{"SecretAccessKey": "hidden"}'
    with pytest.raises(Waiting) as caught:
        metadata(imds).credentials()
    assert "hidden" not in str(caught.value)
    del imds.values["meta-data/iam/security-credentials/"]
    with pytest.raises(Waiting, match="instance profile"):
        metadata(imds).credentials()
