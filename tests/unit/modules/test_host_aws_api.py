"""The signed calls of a Consul server, and the wait for its tags and its group."""

from __future__ import annotations

import datetime
from unittest import mock
from urllib.parse import parse_qs

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from fake_host import FakeClock
from host_aws_api import CONTENT_TYPE, GROUP_TAG, AwsApi, expected_servers, sign
from host_commons import Answer, HostFault, Waiting
from host_metadata import Credentials, Metadata

ME = "i-0123456789abcdef0"
TAG = ("consul-servers", "auto-join")
ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"
IN_EC2 = f"<Response><Errors>{ERROR}</Errors></Response>"
IN_AUTOSCALING = f'<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">{ERROR}</ErrorResponse>'
DENIED = (403, IN_EC2.format("UnauthorizedOperation", "You are not authorized"))
THROTTLED = (400, IN_AUTOSCALING.format("Throttling", "Rate exceeded"))


def tags(**values: str) -> tuple[int, str]:
    items = "".join(
        f"<item><resourceId>{ME}</resourceId><resourceType>instance</resourceType><key>{key}</key>"
        f"<value>{value}</value></item>"
        for key, value in values.items()
    )
    namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return 200, f'<DescribeTagsResponse xmlns="{namespace}"><tagSet>{items}</tagSet></DescribeTagsResponse>'


def groups(*found: tuple[str, str, list[str]], token: str = "") -> tuple[int, str]:
    members = "".join(
        f"<member><AutoScalingGroupName>{name}</AutoScalingGroupName><DesiredCapacity>{size}</DesiredCapacity>"
        f"<Instances>{''.join(f'<member><InstanceId>{one}</InstanceId></member>' for one in ids)}</Instances>"
        "</member>"
        for name, size, ids in found
    )
    more = f"<NextToken>{token}</NextToken>" if token else ""
    return 200, (
        '<DescribeAutoScalingGroupsResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/">'
        f"<DescribeAutoScalingGroupsResult><AutoScalingGroups>{members}</AutoScalingGroups>{more}"
        "</DescribeAutoScalingGroupsResult></DescribeAutoScalingGroupsResponse>"
    )


IN_GROUP = {TAG[0]: TAG[1], GROUP_TAG: "servers"}


class FakeMetadata(Metadata):
    def __init__(self) -> None:
        self.given = 0

    def credentials(self) -> Credentials:
        self.given += 1
        return Credentials("AKIA", "hidden", "session")


class FakeApi(AwsApi):
    def __init__(self, *answers: tuple[int, str] | OSError, endpoint: str = "") -> None:
        self.clock = FakeClock()
        self.metadata = FakeMetadata()
        super().__init__("us-east-1", endpoint, self.metadata, self.clock)
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []
        self.urls: list[str] = []

    def _post(self, url: str, service: str, body: bytes, credentials: Credentials) -> Answer:
        self.urls.append(url)
        self.asked.append({key: value[0] for key, value in parse_qs(body.decode()).items()})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return Answer(answer[0], answer[1].encode())

    def expected(self, tag: tuple[str, str] | None = TAG, seconds: float = 120) -> int:
        return expected_servers(self, ME, tag=tag, seconds=seconds, clock=self.clock)


@pytest.mark.parametrize("token", ["", "FwoGZXIvYXdzEJr/session=="])
@pytest.mark.parametrize(("service", "region"), [("ec2", "us-east-1"), ("autoscaling", "cn-north-1")])
def test_the_signature_is_botocores(service: str, region: str, token: str) -> None:
    body = b"Action=DescribeTags&Filter.1.Value.1=a%20b&Version=2016-11-15"
    moment = datetime.datetime(2026, 11, 25, 7, 5, 9)
    host = f"{service}.{region}.amazonaws.com"
    request = AWSRequest("POST", f"https://{host}/", headers={"content-type": CONTENT_TYPE}, data=body.decode())
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    with mock.patch("botocore.auth.get_current_datetime", return_value=moment):
        SigV4Auth(BotoCredentials("AKIDEXAMPLE", secret, token or None), service, region).add_auth(request)
    ours = sign(
        service=service,
        region=region,
        host=host,
        body=body,
        moment="20261125T070509Z",
        credentials=Credentials("AKIDEXAMPLE", secret, token),
    )
    assert ours["authorization"] == request.headers["Authorization"]


def test_the_expected_number_is_the_groups_desired_capacity() -> None:
    api = FakeApi(tags(**IN_GROUP), groups(("servers", "3", [ME])))
    assert api.expected() == 3
    assert api.asked == [
        {"Action": "DescribeTags", "Version": "2016-11-15", "Filter.1.Name": "resource-id", "Filter.1.Value.1": ME},
        {"Action": "DescribeAutoScalingGroups", "Version": "2011-01-01", "AutoScalingGroupNames.member.1": "servers"},
    ]
    assert api.urls == ["https://ec2.us-east-1.amazonaws.com", "https://autoscaling.us-east-1.amazonaws.com"]
    api = FakeApi(tags(**IN_GROUP), groups(("servers", "3", [ME])), endpoint="http://169.254.170.1:5000")
    assert (api.expected(), api.urls) == (3, ["http://169.254.170.1:5000"] * 2)


def test_tags_that_arrive_late_are_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    api = FakeApi(tags(), tags(Name="server"), tags(**IN_GROUP), groups(("servers", "3", [ME])))
    assert api.expected() == 3
    assert f"waiting for the tag consul-servers=auto-join and the group's size: {ME} has no such tag" in (
        capsys.readouterr().err
    )


ALONE = tags(**{TAG[0]: TAG[1]})
AMONG_OTHERS = groups(("others", "1", ["i-0f"]), ("servers", "3", ["i-0e", ME]))


@pytest.mark.parametrize(
    ("answers", "tag", "size"),
    [
        # A group's tag alone is not enough, unless there is no other to wait for.
        ([tags(**{GROUP_TAG: "servers"}), tags(**IN_GROUP), groups(("servers", "5", [ME]))], TAG, 5),
        ([tags(**{GROUP_TAG: "servers"}), groups(("servers", "3", [ME]))], None, 3),
        # A group that holds the instance counts before its tag arrives, and one in no group is alone.
        ([ALONE, AMONG_OTHERS, AMONG_OTHERS], TAG, 3),
        ([ALONE, groups(("others", "3", ["i-0f"]), token="next"), groups()], TAG, 1),
    ],
)
def test_whose_size_counts(answers: list[tuple[int, str]], tag: tuple[str, str] | None, size: int) -> None:
    api = FakeApi(*answers)
    assert api.expected(tag) == size
    assert api.asked[-1].get("NextToken") == ("next" if size == 1 else None)


def test_tags_that_never_arrive_end_the_wait_and_say_which() -> None:
    with pytest.raises(HostFault, match=rf"after 120 s .*{ME} has consul-servers=other"):
        FakeApi(tags(**{TAG[0]: "other"})).expected()


@pytest.mark.parametrize(
    "trouble",
    [
        THROTTLED,
        (500, "<html>Internal Server Error</html>"),
        (503, "<Response><Errors><Error><Code>Unavailable</Code></Error></Errors></Response>"),
        ConnectionRefusedError("Connection refused"),
        DENIED,
    ],
)
def test_what_may_pass_is_tried_again(trouble: tuple[int, str] | OSError) -> None:
    api = FakeApi(trouble, trouble, tags(**IN_GROUP), trouble, tags(**IN_GROUP), groups(("servers", "3", [ME])))
    assert api.expected() == 3
    assert api.clock.slept[0] < api.clock.slept[1]


def test_a_role_without_the_rights_is_a_fault_long_before_the_deadline() -> None:
    api = FakeApi(DENIED)
    with pytest.raises(
        HostFault, match=r"DescribeTags: HTTP 403 .*UnauthorizedOperation: You are not authorized.*role needs ec2:"
    ):
        api.expected()
    assert 30 <= api.clock.time - 1000 < 40
    assert api.metadata.given > 1


def test_an_error_that_no_retry_helps_is_a_fault_at_once() -> None:
    api = FakeApi((400, IN_EC2.format("InvalidAction", "No")))
    with pytest.raises(HostFault, match=r"DescribeTags: HTTP 400 .*InvalidAction: No"):
        api.expected()
    assert api.clock.slept == []


@pytest.mark.parametrize("size", ["0", "", "-1", "many"])
def test_a_desired_capacity_that_is_no_size_is_waited_for(size: str) -> None:
    with pytest.raises(Waiting, match="desired capacity"):
        FakeApi(groups(("servers", size, [ME]))).desired_capacity("servers")


def test_a_group_that_is_not_to_be_found_is_waited_for() -> None:
    with pytest.raises(Waiting, match="servers is not to be found"):
        FakeApi(groups(("others", "3", []))).desired_capacity("servers")
