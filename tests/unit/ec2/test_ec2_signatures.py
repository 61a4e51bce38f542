"""Whose a request to the cloud's API is: signed by botocore, sent over HTTP, and answered in each service's words."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from api_lab import CREDENTIALS, REGION, Lab, cloud_lab, refused
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as Signing

from nomad_testkit.ec2.credentials import Credentials

VERSIONS = {"ec2": "2016-11-15", "iam": "2010-05-08", "sts": "2011-06-15", "autoscaling": "2011-01-01"}
CHANGES = {
    "ec2": {"Action": "CreateKeyPair", "KeyName": "mine"},
    "iam": {"Action": "CreateRole", "RoleName": "mine", "AssumeRolePolicyDocument": "{}"},
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with cloud_lab() as made:
        yield made


@dataclass(frozen=True)
class Request:
    """A request of AWS's Query protocol, or an S3 object that is put, and how it is signed."""

    service: str
    credentials: Credentials = CREDENTIALS
    token: str | None = None
    age: timedelta = timedelta()
    presigned: int | None = None
    """The seconds that a presigned URL is good for."""
    parameters: dict[str, str] = field(default_factory=dict)
    unsigned: bool = False
    alter: Callable[[dict[str, Any]], None] = lambda sent: None
    """Changes what is sent after it has been signed: method, path, headers, body."""

    def send(self, lab: Lab) -> tuple[int, str]:
        """Send it, and give the status and the error's code."""
        host = f"127.0.0.1:{lab.api.ports[0]}"
        parameters = {"Version": VERSIONS.get(self.service, ""), **(self.parameters or CHANGES.get(self.service, {}))}
        s3 = self.service == "s3"
        query = f"?{urlencode(parameters)}" if self.presigned else ""
        request: Any = AWSRequest(
            method="GET" if self.presigned else "PUT" if s3 else "POST",
            url=f"http://{host}/bucket" if s3 else f"http://{host}/{query}",
            data=b"" if s3 or self.presigned else urlencode(parameters).encode(),
            headers={} if s3 or self.presigned else {"Content-Type": "application/x-www-form-urlencoded"},
        )
        if not self.unsigned:
            self._sign(request)
        url = urlsplit(request.url)
        sent = {
            "method": request.method,
            "path": f"{url.path}?{url.query}" if url.query else url.path,
            "headers": dict(request.headers.items()),
            "body": request.data,
        }
        self.alter(sent)
        connection = http.client.HTTPConnection(host, timeout=10)
        try:
            connection.request(sent["method"], sent["path"], sent["body"], sent["headers"])
            answer = connection.getresponse()
            code = re.search(r"<Code>(\w+)</Code>", answer.read().decode())
            return answer.status, code[1] if code else ""
        finally:
            connection.close()

    def _sign(self, request: Any) -> None:
        moment = datetime.now(UTC) - self.age
        signing = Signing(self.credentials.access_key_id, self.credentials.secret_access_key, self.token)
        s3 = self.service == "s3"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auth, "get_current_datetime", lambda: moment)
            if self.presigned:
                query = auth.S3SigV4QueryAuth if s3 else auth.SigV4QueryAuth
                query(signing, self.service, REGION, expires=self.presigned).add_auth(request)
            else:
                header = auth.S3SigV4Auth if s3 else auth.SigV4Auth
                header(signing, self.service, REGION).add_auth(request)


def header(name: str, value: str) -> Callable[[dict[str, Any]], None]:
    return lambda sent: sent["headers"].update({name: value})


def another_body(sent: dict[str, Any]) -> None:
    sent["body"] = sent["body"].replace(b"mine", b"more") or b"more"


def another_query(sent: dict[str, Any]) -> None:
    sent["path"] = sent["path"].replace("GetCallerIdentity", "GetSessionToken").replace("mine", "more")


def without_host(sent: dict[str, Any]) -> None:
    sent["headers"]["Authorization"] = sent["headers"]["Authorization"].replace("host;", "")


def cut_off(sent: dict[str, Any]) -> None:
    sent["headers"]["Authorization"] = sent["headers"]["Authorization"].partition(", Signature")[0]


STRANGER = Credentials.generate()
WRONG = Credentials(CREDENTIALS.access_key_id, STRANGER.secret_access_key)
LATE, EARLY = timedelta(minutes=16), timedelta(minutes=-16)
WHO, LOOK = {"Action": "GetCallerIdentity"}, {"Action": "DescribeRegions"}

TAKEN = [
    Request("ec2", parameters=LOOK),
    Request("ec2", parameters=LOOK, age=timedelta(minutes=14)),
    Request("ec2", presigned=60, parameters={"Action": "DescribeRegions", "Filter.1.Name": "region-name"}),
    Request("ec2", parameters=LOOK, alter=header("User-Agent", "none that was signed")),
    Request("iam", parameters={"Action": "ListRoles"}),
    Request("autoscaling", parameters={"Action": "DescribeAutoScalingGroups"}),
    Request("sts", parameters=WHO),
    Request("sts", presigned=60, parameters=WHO),
    Request("sts", presigned=3600, parameters=WHO, age=timedelta(minutes=50)),
    Request("s3"),
]

# What botocore signs, changed or stale: the request, the status and the code.
REFUSED = [
    (Request("ec2", WRONG), 401, "AuthFailure"),
    (Request("ec2", STRANGER), 401, "AuthFailure"),
    (Request("ec2", token="none that STS gave"), 401, "AuthFailure"),
    (Request("ec2", age=LATE), 400, "RequestExpired"),
    (Request("ec2", age=EARLY), 400, "RequestExpired"),
    (Request("ec2", unsigned=True), 403, "MissingAuthenticationToken"),
    (Request("ec2", alter=another_body), 401, "AuthFailure"),
    (Request("ec2", alter=without_host), 401, "AuthFailure"),
    (Request("ec2", alter=header("X-Amz-Security-Token", "added")), 401, "AuthFailure"),
    (Request("ec2", alter=header("X-Amz-Date", "20200101T000000Z")), 401, "AuthFailure"),
    (Request("ec2", alter=cut_off), 401, "AuthFailure"),
    (Request("iam", WRONG), 403, "SignatureDoesNotMatch"),
    (Request("iam", STRANGER), 403, "InvalidClientTokenId"),
    (Request("iam", age=LATE), 403, "SignatureDoesNotMatch"),
    (Request("iam", alter=another_body), 403, "SignatureDoesNotMatch"),
    (Request("iam", alter=header("X-Amz-Target", "unsigned")), 403, "SignatureDoesNotMatch"),
    (Request("iam", alter=cut_off), 400, "IncompleteSignature"),
    (Request("iam", unsigned=True, alter=header("Host", "iam.amazonaws.com")), 403, "MissingAuthenticationToken"),
    (Request("sts", WRONG, presigned=60, parameters=WHO), 403, "SignatureDoesNotMatch"),
    (Request("sts", STRANGER, presigned=60, parameters=WHO), 403, "InvalidClientTokenId"),
    (Request("sts", presigned=60, age=LATE, parameters=WHO), 403, "SignatureDoesNotMatch"),
    (Request("sts", presigned=60, parameters=WHO, alter=another_query), 403, "SignatureDoesNotMatch"),
    (Request("ec2", presigned=60, age=LATE), 400, "RequestExpired"),
    (Request("s3", WRONG), 403, "SignatureDoesNotMatch"),
    (Request("s3", STRANGER), 403, "InvalidAccessKeyId"),
    (Request("s3", token="none that STS gave"), 400, "InvalidToken"),
    (Request("s3", age=LATE), 403, "RequestTimeTooSkewed"),
    (Request("s3", unsigned=True), 403, "AccessDenied"),
    (Request("s3", alter=another_body), 400, "XAmzContentSHA256Mismatch"),
    (Request("s3", alter=header("x-amz-acl", "public-read")), 403, "AccessDenied"),
    (Request("s3", presigned=60, age=LATE), 403, "AccessDenied"),
]


def state(lab: Lab) -> list[Any]:
    return [
        [pair["KeyName"] for pair in lab.ec2.describe_key_pairs()["KeyPairs"]],
        [role["RoleName"] for role in lab.iam.list_roles()["Roles"]],
        [bucket["Name"] for bucket in lab.client("s3").list_buckets()["Buckets"]],
    ]


@pytest.mark.parametrize("request_", REFUSED, ids=lambda one: f"{one[0].service}-{one[2]}")
def test_a_request_that_is_nobodys_is_refused_and_changes_nothing(lab: Lab, request_: tuple[Request, int, str]) -> None:
    request, status, code = request_
    before = state(lab)
    assert request.send(lab) == (status, code)
    assert state(lab) == before


@pytest.mark.parametrize("request_", TAKEN, ids=lambda one: one.service)
def test_a_request_of_the_clouds_maker_is_taken(lab: Lab, request_: Request) -> None:
    assert request_.send(lab) == (200, "")


def test_another_clouds_key_is_nobodys_here(lab: Lab) -> None:
    other = Credentials.generate()
    with_it = {"aws_access_key_id": other.access_key_id, "aws_secret_access_key": other.secret_access_key}
    refused("AuthFailure", lab.client("ec2", **with_it).describe_instances)
    message = refused("InvalidClientTokenId", lab.client("sts", **with_it).get_caller_identity)
    assert message == "The security token included in the request is invalid."


@pytest.mark.parametrize("service", ["ec2", "sts", "s3"])
def test_a_role_needs_its_token_and_an_end_of_it_in_the_future(
    lab: Lab, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = {"ec2": ("AuthFailure", "RequestExpired"), "sts": ("InvalidClientTokenId", "ExpiredToken")}
    wrong, expired = codes.get(service, ("InvalidToken", "ExpiredToken"))
    lab.iam.create_role(RoleName=f"of-{service}", AssumeRolePolicyDocument="{}")
    try:
        session = lab.api._sts.assume_role(
            region_name=REGION,
            role_session_name="session",
            role_arn=f"arn:aws:iam::123456789012:role/of-{service}",
            policy="",
            duration=900,
            external_id="",
        )
        key = Credentials(session.access_key_id, session.secret_access_key)
        request = Request(service, key, session.session_token, parameters=WHO if service == "sts" else {})
        assert request.send(lab)[1] not in {wrong, expired}
        assert replace(request, token=None).send(lab)[1] == wrong
        assert replace(request, token=session.session_token + "x").send(lab)[1] == wrong
        session.expiration = datetime.now(UTC).replace(tzinfo=None)
        assert request.send(lab)[1] == expired
    finally:
        lab.iam.delete_role(RoleName=f"of-{service}")
    assert request.send(lab)[1] in {"AuthFailure", "InvalidClientTokenId", "InvalidAccessKeyId"}


def test_the_key_of_a_user_is_taken_while_it_is_active(lab: Lab) -> None:
    lab.iam.create_user(UserName="someone")
    made = lab.iam.create_access_key(UserName="someone")["AccessKey"]
    key = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
    who = lab.client("sts", **key)
    assert who.get_caller_identity()["Arn"] == "arn:aws:iam::123456789012:user/someone"
    lab.iam.update_access_key(UserName="someone", AccessKeyId=made["AccessKeyId"], Status="Inactive")
    refused("InvalidClientTokenId", who.get_caller_identity)


@pytest.mark.parametrize("path", ["/moto-api/data.json", "/moto-api/", "/moto-api/reset", "/favicon.ico"])
def test_motos_own_pages_are_not_served(lab: Lab, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lab.api.ports[0], timeout=10)
    for method in ("GET", "POST"):
        connection.request(method, path)
        answer = connection.getresponse()
        assert (answer.status, b"<Code>" in answer.read()) == (403, True)
    connection.close()


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}),
        ("OPTIONS", {}),
        ("GET", {"Origin": "null"}),
        ("POST", {"Origin": "http://127.31.255.1", "Content-Type": "text/plain"}),
    ],
)
def test_a_web_page_may_not_ask(lab: Lab, method: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lab.api.ports[0], timeout=10)
    connection.request(method, "/", b"" if method == "POST" else None, headers)
    answer = connection.getresponse()
    assert (answer.status, b"Web pages may not ask" in answer.read()) == (403, True)
    assert not any(name.lower().startswith("access-control-") for name, _ in answer.getheaders())
    connection.close()


def test_what_is_well_signed_is_refused_of_a_page_and_says_nothing_to_one(lab: Lab) -> None:
    before = state(lab)
    assert Request("ec2", alter=header("Origin", "https://evil.example")).send(lab) == (403, "AccessDenied")
    assert state(lab) == before


def test_uploads_of_s3_are_taken_however_they_are_signed(lab: Lab) -> None:
    s3 = lab.client("s3", config=Config(signature_version="s3v4", proxies={}))
    s3.create_bucket(Bucket="uploads")
    s3.put_object(Bucket="uploads", Key="a key/with +~ü.txt", Body=b"content", Metadata={"my_key": "a  b"})
    assert s3.get_object(Bucket="uploads", Key="a key/with +~ü.txt")["Body"].read() == b"content"
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "uploads", "Key": "later"})
    connection = http.client.HTTPConnection("127.0.0.1", lab.api.ports[0], timeout=10)
    parts = urlsplit(url)
    connection.request("PUT", f"{parts.path}?{parts.query}", iter([b"in ", b"chunks"]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert s3.get_object(Bucket="uploads", Key="later")["Body"].read() == b"in chunks"
    for key in ("later", "a key/with +~ü.txt"):
        s3.delete_object(Bucket="uploads", Key=key)
    s3.delete_bucket(Bucket="uploads")
