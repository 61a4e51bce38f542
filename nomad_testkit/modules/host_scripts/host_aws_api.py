"""The two AWS calls by which a server learns the size of its cluster, signed with the standard library.

Hosts have no boto3. The protocol is the Query API:
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeTags.html
https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingGroups.html
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import random
import time
import xml.etree.ElementTree as ET
from urllib.parse import quote, urlencode, urlsplit

from host_commons import UNREACHABLE, Answer, Clock, HostFault, Waiting, log, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from host_metadata import Credentials, Metadata

GROUP_TAG = "aws:autoscaling:groupName"
VERSIONS = {"ec2": "2016-11-15", "autoscaling": "2011-01-01"}
CONTENT_TYPE = "application/x-www-form-urlencoded; charset=utf-8"
THROTTLED = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "SlowDown"}
DENIED = {
    "AccessDenied",
    "AuthFailure",
    "ExpiredToken",
    "InvalidClientTokenId",
    "RequestExpired",
    "UnauthorizedOperation",
}
DENIED_GRACE_SECONDS = 30.0


def sign(
    *,
    service: str,
    region: str,
    host: str,
    body: bytes,
    credentials: Credentials,
    moment: str,
) -> dict[str, str]:
    """Give the headers of a signed POST to `/`; `moment` is UTC as 20150830T123600Z.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    headers = {"content-type": CONTENT_TYPE, "host": host, "x-amz-date": moment}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(headers))
    canonical_headers = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join(["POST", "/", "", canonical_headers, names, hashlib.sha256(body).hexdigest()])
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = b"AWS4" + credentials.secret_key.encode()
    for part in (*scope.split("/"), to_sign):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
    )
    return headers


class AwsApi:
    """EC2 and Auto Scaling of one region, or of one endpoint that serves both."""

    def __init__(self, region: str, endpoint: str, metadata: Metadata, clock: Clock) -> None:
        self._region = region
        self._endpoint = endpoint
        self._metadata = metadata
        self._clock = clock
        self._credentials: Credentials | None = None
        self._denied_since: float | None = None

    def tags(self, instance_id: str) -> dict[str, str]:
        """Give the instance's tags; raises Waiting where a later try may succeed, else HostFault."""
        filters = {"Filter.1.Name": "resource-id", "Filter.1.Value.1": instance_id}
        found: dict[str, str] = {}
        for page in self._pages("ec2", "DescribeTags", filters, "nextToken"):
            for item in page.iterfind("./tagSet/item"):
                found[item.findtext("key", "")] = item.findtext("value", "")
        return found

    def desired_capacity(self, group: str) -> int:
        """Give the number of instances that the auto scaling group wants to have; raises as `tags` does."""
        for page in self._pages(
            "autoscaling", "DescribeAutoScalingGroups", {"AutoScalingGroupNames.member.1": group}, "NextToken"
        ):
            for item in page.iterfind(".//AutoScalingGroups/member"):
                if item.findtext("AutoScalingGroupName") == group:
                    return _capacity(item, group)
        raise Waiting(f"the auto scaling group {group} is not to be found")

    def group_of(self, instance_id: str) -> str | None:
        """Look through all auto scaling groups for the one that holds the instance; raises as `tags` does."""
        for page in self._pages("autoscaling", "DescribeAutoScalingGroups", {}, "NextToken"):
            for item in page.iterfind(".//AutoScalingGroups/member"):
                members = [member.text for member in item.iterfind("./Instances/member/InstanceId")]
                if instance_id in members:
                    return item.findtext("AutoScalingGroupName")
        return None

    def _pages(self, service: str, action: str, parameters: Mapping[str, str], token_name: str) -> Iterator[ET.Element]:
        token = ""
        while True:
            query = {"Action": action, "Version": VERSIONS[service], **parameters}
            if token:
                query["NextToken"] = token
            page = self._call(service, action, query)
            yield page
            token = page.findtext(f".//{token_name}") or ""
            if not token:
                return

    def _call(self, service: str, action: str, query: Mapping[str, str]) -> ET.Element:
        body = urlencode(query, quote_via=quote).encode()
        url = self._endpoint or f"https://{service}.{self._region}.{_domain(self._region)}"
        if self._credentials is None:
            self._credentials = self._metadata.credentials()
        try:
            answer = self._post(url, service, body, self._credentials)
        except UNREACHABLE as error:
            raise Waiting(f"{action}: no answer from {url} ({error or type(error).__name__})") from None
        try:
            page = _without_namespaces(ET.fromstring(answer.body))  # noqa: S314  the cloud's own answer
        except ET.ParseError:
            raise Waiting(f"{action}: HTTP {answer.status} from {url} without XML") from None
        if answer.status == 200:
            self._denied_since = None
            return page
        raise self._failure(action, url, answer, page)

    def _failure(self, action: str, url: str, answer: Answer, page: ET.Element) -> Exception:
        code = page.findtext(".//Error/Code", "")
        text = f"{action}: HTTP {answer.status} from {url}: {code}: {page.findtext('.//Error/Message', '')}"
        if answer.status >= 500 or answer.status == 429 or code in THROTTLED:
            return Waiting(text)
        if code in DENIED:
            # A new role's rights reach the API some seconds after the instance has started.
            self._credentials = None
            if self._denied_since is None:
                self._denied_since = self._clock.now()
            if self._clock.now() - self._denied_since < DENIED_GRACE_SECONDS:
                return Waiting(text)
            return HostFault(
                f"{text}. The instance's role needs ec2:DescribeTags and autoscaling:DescribeAutoScalingGroups"
            )
        return HostFault(text)

    def _post(self, url: str, service: str, body: bytes, credentials: Credentials) -> Answer:
        parts = urlsplit(url)
        host = parts.netloc
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = sign(
            service=service, region=self._region, host=host, body=body, credentials=credentials, moment=moment
        )
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, timeout=15.0)
        try:
            connection.request("POST", "/", body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()


def expected_servers(
    api: AwsApi,
    instance_id: str,
    *,
    tag: tuple[str, str] | None,
    seconds: float,
    clock: Clock,
) -> int:
    """Tell how many servers to expect: the desired capacity of this instance's auto scaling group, or 1.

    Tags reach an instance some time after its start. One that looks as if it were alone would form a cluster
    of its own: so the cluster's tag has to be there first, and Auto Scaling too is asked about the group.
    """

    def probe() -> int:
        tags = api.tags(instance_id)
        if tag is not None and tags.get(tag[0]) != tag[1]:
            found = f"{tag[0]}={tags[tag[0]]}" if tag[0] in tags else "no such tag"
            raise Waiting(f"{instance_id} has {found}")
        group = tags.get(GROUP_TAG) or api.group_of(instance_id)
        if group is None:
            log(f"{instance_id} is in no auto scaling group: it is the only server of its cluster")
            return 1
        size = api.desired_capacity(group)
        log(f"{instance_id} is in the auto scaling group {group}, which wants {size} instance(s)")
        return size

    what = "the group's size" if tag is None else f"the tag {tag[0]}={tag[1]} and the group's size"
    first = 0.5 + random.random() / 2  # noqa: S311  servers that start together shall not ask together
    return wait_until(what, probe, seconds, clock=clock, interval=first, longest=first * 6)


def _capacity(group: ET.Element, name: str) -> int:
    text = group.findtext("DesiredCapacity", "")
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise Waiting(f"the auto scaling group {name} has the desired capacity {text or 'of nothing'!r}")
    return int(text)


def _domain(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def _without_namespaces(root: ET.Element) -> ET.Element:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
