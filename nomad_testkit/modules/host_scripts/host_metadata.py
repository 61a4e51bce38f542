"""What an instance learns about itself from the EC2 instance metadata service.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
"""

from __future__ import annotations

import re

from host_commons import UNREACHABLE, Answer, Clock, HostFault, Service, Waiting, log, wait_until

ADDRESS = "169.254.169.254"
RETRY_SECONDS = 60.0
TOKEN_TTL_SECONDS = 21600

INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
ZONE = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+-[0-9]+[a-z]")
OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = re.compile(rf"{OCTET}(\.{OCTET}){{3}}")
ROLE = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)


class Credentials:
    """Temporary keys of the instance's role."""

    def __init__(self, access_key: str, secret_key: str, token: str) -> None:
        self.access_key = access_key
        self.secret_key = secret_key
        self.token = token


class Metadata:
    """The metadata service: with a session token (version 2), or without one where the service knows none."""

    def __init__(self, clock: Clock, service: Service | None = None, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._clock = clock
        self._service = service or Service(ADDRESS, 80, timeout=5.0)
        self._retry_seconds = retry_seconds
        self._headers: dict[str, str] | None = None

    def instance_id(self) -> str:
        """Give the instance's id, such as i-0123456789abcdef0."""
        return self._value("meta-data/instance-id", INSTANCE_ID, "an instance id such as i-0123456789abcdef0")

    def private_address(self) -> str:
        """Give the private IPv4 address of the first network interface."""
        return self._value("meta-data/local-ipv4", IPV4, "an IPv4 address")

    def availability_zone(self) -> str:
        """Give the availability zone, such as us-east-1a."""
        return self._value("meta-data/placement/availability-zone", ZONE, "an availability zone such as us-east-1a")

    def region(self) -> str:
        """Give the region, such as us-east-1: not every zone's name is its region's and a letter."""
        path, right = "meta-data/placement/region", "a region such as us-east-1"
        answer = self._get(path)
        if answer.status != 404:
            return self._checked(path, answer.text, REGION, right)
        # Older services have no placement/region, but have had the document since the beginning.
        path = "dynamic/instance-identity/document"
        answer = self._get(path)
        try:
            region = answer.json()["region"] if answer.status == 200 else f"HTTP {answer.status}"
        except (ValueError, KeyError, TypeError):
            region = answer.text[:100]
        return self._checked(path, str(region), REGION, right)

    def credentials(self) -> Credentials:
        """Give the role's keys; raises Waiting while there are none, as right after an instance's start."""
        folder = "meta-data/iam/security-credentials/"
        answer = self._get(folder)
        if answer.status == 404 or not answer.text:
            raise Waiting("the metadata service knows no IAM role (has the instance an instance profile?)")
        role = self._checked(folder, answer.text.splitlines()[0], ROLE, "the name of an IAM role")
        answer = self._get(folder + role)
        try:
            found = answer.json()
            if found.get("Code", "Success") == "Success":
                keys = [found[key] for key in ("AccessKeyId", "SecretAccessKey", "Token")]
                return Credentials(*(str(key) for key in keys))
            problem = str(found["Code"])
        except (ValueError, KeyError, TypeError, AttributeError):
            problem = f"HTTP {answer.status}, and no keys in it"  # never the body: it may hold some
        raise Waiting(f"the metadata service has no keys for the role {role}: {problem}")

    def _value(self, path: str, pattern: re.Pattern[str], right: str) -> str:
        answer = self._get(path)
        text = answer.text if answer.status == 200 else f"HTTP {answer.status}"
        return self._checked(path, text, pattern, right)

    def _checked(self, path: str, value: str, pattern: re.Pattern[str], right: str) -> str:
        if not pattern.fullmatch(value):
            raise HostFault(f"{self._service.name}/latest/{path} gave {value[:100]!r}, which is not {right}")
        return value

    def _get(self, path: str) -> Answer:
        """Get one path, 404 included; anything else but 200 is tried again until the deadline."""

        def probe() -> Answer:
            try:
                if self._headers is None:
                    self._headers = self._session()
                answer = self._service.request("GET", f"/latest/{path}", self._headers)
            except UNREACHABLE as error:
                raise Waiting(f"no answer ({error or type(error).__name__})") from None
            if answer.status in (200, 404):
                return answer
            if answer.status == 401:
                if not self._headers:
                    raise HostFault(
                        f"{self._service.name} demands a session token (IMDSv2), but gives none: "
                        "see the instance's metadata options"
                    )
                self._headers = None
            raise Waiting(f"HTTP {answer.status}")

        where = f"{self._service.name}/latest/{path}"
        return wait_until(where, probe, self._retry_seconds, clock=self._clock, longest=2.0)

    def _session(self) -> dict[str, str]:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_SECONDS)}
        answer = self._service.request("PUT", "/latest/api/token", headers)
        if answer.status == 200 and answer.text.isascii() and answer.text.isprintable() and answer.text:
            return {"X-aws-ec2-metadata-token": answer.text}
        # Only a service that says it has no tokens is asked without: one that is silent may still start.
        if answer.status in (400, 403, 404, 405, 501):
            log(f"{self._service.name} gives no session token (HTTP {answer.status}): going on without one (IMDSv1)")
            return {}
        raise Waiting(f"HTTP {answer.status} to the request for a session token")
