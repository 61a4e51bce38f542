"""An account on AWS, by the credentials that boto3 finds; or what answers in its place at an endpoint."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from nomad_testkit.errors import TestkitError, UsageError, near_miss
from nomad_testkit.targets.aws.errors import AWS_ERRORS, code_of, describe_error

RETRIES = {"mode": "standard", "total_max_attempts": 10}
"""As AWS advises: ever longer, random pauses, and a budget of retries for each client
(https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html)."""
_FIRST_TRIES = 3
"""For the first question: it is mostly the user's own settings that keep it from being answered."""

LOG_IN = (
    "log in (`aws sso login`), name a profile (AWS_PROFILE) or a key (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), "
    "or give this machine's instance a role"
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_RENEWED = frozenset({"iam-role", "container-role", "assume-role-with-web-identity"})
"""Ways to credentials that botocore goes again by itself before they expire."""
_NOT_TAKEN = frozenset(
    {
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


_ROLES: dict[str, Any] = {}
"""The credentials of assumed roles, for all sessions of this process: a profile with MFA asks for its code once."""

_ask: Callable[[str], dict[str, Any]] | None = None
"""Asks another process for such credentials; see `roles_from`."""


def _session(region: str | None) -> Any:
    import boto3

    session = boto3.session.Session(region_name=region)
    roles = session._session.get_component("credential_provider").get_provider("assume-role")
    roles.cache = _ROLES
    if _ask is not None:
        roles._prompter = _no_terminal
    return session


def _no_terminal(prompt: str) -> str:
    raise EOFError(prompt)


def roles_from(ask: Callable[[str], dict[str, Any]]) -> None:
    """Have another process asked for the credentials of roles where a profile wants an MFA code.

    `ask` gets the region, and gives what `roles_for_worker` gave there.
    """
    global _ask
    _ask = ask


def roles_for_worker(region: str | None) -> dict[str, Any]:
    """Find the credentials of the roles of the profile, asking for its MFA code, in JSON's types. Raises UsageError."""
    AwsSession(region)
    roles: dict[str, Any] = json.loads(json.dumps(_ROLES, default=datetime.isoformat))
    return roles


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as STS GetCallerIdentity tells it."""

    account: str
    arn: str


class AwsSession:
    """One region of an account: the clients of its services, made once each, for all threads.

    Credentials come from boto3's own chain: environment, profile, SSO, web identity, instance role
    (https://boto3.amazonaws.com/v1/documentation/api/latest/guide/credentials.html). So does the region where none is
    given, and the endpoint.

    Raises UsageError for a profile, a region or a setting of AWS's that cannot be used.

    >>> AwsSession("eu-west-1").identity().account  # doctest: +SKIP
    '123456789012'
    """

    def __init__(self, region: str | None = None, *, endpoint_url: str | None = None) -> None:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        try:
            self._session: Any = _session(region)
            chosen = self._session.region_name
            self.endpoint_url = endpoint_url or self._configured_endpoint()
        except BotoCoreError as error:
            raise _unusable(error) from error
        self.region: str = checked_region(chosen, self._known_regions())
        self._given_endpoint = endpoint_url
        self._resolve_credentials()
        self._config: Any = partial(Config, connect_timeout=5, read_timeout=60)
        self._clients: dict[tuple[str, str], Any] = {}
        self._making = threading.Lock()

    def client(self, service: str, region: str | None = None) -> Any:
        """Give the client of a service; of another region's only where that is given, as pricing's has to be."""
        key = (service, region or self.region)
        with self._making:
            if key not in self._clients:
                tries = _FIRST_TRIES if service == "sts" else RETRIES["total_max_attempts"]
                config = self._config(retries={**RETRIES, "total_max_attempts": tries})
                self._clients[key] = self._session.client(
                    service, region_name=key[1], endpoint_url=self._given_endpoint, config=config
                )
            return self._clients[key]

    def identity(self) -> Identity:
        """Ask whose these credentials are, which needs no permission. Raises UsageError with the remedy."""
        try:
            answer = self.client("sts").get_caller_identity()
        except AWS_ERRORS as error:
            raise refused(error, self.region, self._session.profile_name) from error
        return Identity(answer["Account"], answer["Arn"])

    def _resolve_credentials(self) -> None:
        """Have the credentials found once, before any thread asks: a profile with MFA asks for its code.

        Raises UsageError where there is no terminal to ask at.
        """
        if _ask is not None and not _ROLES and self._asks_for_code():
            _ROLES.update(_ask(self.region))
        try:
            credentials = self._session.get_credentials()
            if credentials is not None:
                credentials.get_frozen_credentials()
        except (EOFError, OSError) as error:
            if not isinstance(error, EOFError) and sys.stdin is not None and sys.stdin.isatty():
                raise
            raise UsageError(
                f"the profile {self._session.profile_name!r} asks for an MFA code, and there is no terminal to ask at: "
                "log in first and hand the session on, for example by `aws configure export-credentials --format env`"
            ) from error
        except AWS_ERRORS as error:
            raise refused(error, self.region, self._session.profile_name) from error
        except RuntimeError as error:  # so botocore says it of what it cannot renew
            raise UsageError(
                f"the AWS credentials have expired ({error}): get new ones, and set AWS_CREDENTIAL_EXPIRATION with "
                "them where they come from the environment"
            ) from error
        except (TypeError, ValueError) as error:
            until = os.environ.get("AWS_CREDENTIAL_EXPIRATION")
            if until is None:
                raise
            raise UsageError(
                f"AWS_CREDENTIAL_EXPIRATION: found {until!r}, expected a time with its zone, "
                "such as 2026-03-14T09:00:00Z"
            ) from error

    def _asks_for_code(self) -> bool:
        profiles, name = dict(self._session._session.full_config["profiles"]), self._session.profile_name
        while (profile := profiles.pop(name, None)) is not None:
            if "mfa_serial" in profile:
                return True
            name = profile.get("source_profile")
        return False

    def credentials_seconds(self) -> float | None:
        """Tell how long the credentials are good for, in seconds; None where they do not expire or renew themselves."""
        credentials = self._session.get_credentials()
        if credentials is None or credentials.method in _RENEWED:
            return None
        until = getattr(credentials, "_expiry_time", None)
        given = os.environ.get("AWS_CREDENTIAL_EXPIRATION") if credentials.method == "env" else None
        try:
            until = until or (datetime.fromisoformat(given) if given else None)
        except ValueError:
            return None
        return (until - datetime.now(UTC)).total_seconds() if until else None

    @property
    def credentials_source(self) -> str:
        """Tell where the credentials came from, in botocore's words, such as ``env`` or ``sso``."""
        credentials = self._session.get_credentials()
        return str(credentials.method) if credentials else "nowhere"

    def _configured_endpoint(self) -> str | None:
        """Tell what the environment or the profile put in AWS's place for all services, which boto3 follows."""
        if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
            return None
        configured = self._session._session.get_scoped_config().get("endpoint_url")
        return os.environ.get("AWS_ENDPOINT_URL") or configured

    def _known_regions(self) -> list[str]:
        partitions = self._session.get_available_partitions()
        return [name for one in partitions for name in self._session.get_available_regions("ec2", one)]


def checked_region(name: str | None, known: list[str]) -> str:
    """Give a region's name if there is one and botocore knows it. Raises UsageError.

    >>> checked_region("eu-west-1", ["eu-west-1", "eu-west-2"])
    'eu-west-1'
    """
    if name is None:
        raise UsageError(
            "no AWS region is chosen: give one (--nomad-region, AWS_DEFAULT_REGION, or `region` in the profile)"
        )
    if name not in known:
        raise UsageError(
            f"there is no AWS region {name!r}; {near_miss(name, known)} "
            "(--nomad-region, AWS_DEFAULT_REGION, or `region` in the profile)"
        )
    return name


def refused(error: Exception, region: str, profile: str) -> UsageError:
    """Put a refusal to tell who asks in words, with what to do about it."""
    from botocore import exceptions as aws

    code, said = code_of(error), describe_error(error)
    login = f"`aws sso login --profile {profile}`"
    if isinstance(error, aws.NoCredentialsError):
        return UsageError(f"no AWS credentials were found: {LOG_IN}")
    if code in _EXPIRED:
        return UsageError(f"the AWS credentials have expired ({said}): get new ones, for example by {login}")
    if isinstance(error, aws.SSOError | aws.TokenRetrievalError):
        return UsageError(f"the SSO login of the profile {profile!r} cannot be used ({said}): run {login}")
    if code in _NOT_TAKEN:
        return UsageError(
            f"AWS does not take these credentials in {region} ({said}): {LOG_IN}; "
            f"or enable {region} for the account, where it is one that has to be enabled"
        )
    if isinstance(error, aws.EndpointConnectionError | aws.ConnectTimeoutError | aws.HTTPClientError):
        return UsageError(
            f"the API in {region} could not be reached ({said}): see that this machine reaches it, "
            "and what AWS_ENDPOINT_URL, --nomad-aws-endpoint-url and the proxies say"
        )
    return UsageError(f"the AWS credentials cannot be used ({said}): {LOG_IN}")


def _unusable(error: Exception) -> UsageError:
    from botocore import session
    from botocore.exceptions import ProfileNotFound

    if isinstance(error, ProfileNotFound):
        name = error.kwargs["profile"]
        right = near_miss(name, session.Session().available_profiles)
        return UsageError(f"AWS_PROFILE: there is no profile {name!r} in ~/.aws/config; {right}")
    return UsageError(f"boto3 cannot use its settings: {describe_error(error)}")


def clients(region: str, *, endpoint_url: str | None = None) -> Callable[[str], Any]:
    """Give what makes the boto3 client of each service in a region, once.

    >>> clients("eu-west-1")("ec2").describe_instances()  # doctest: +SKIP
    """
    from botocore.config import Config

    session = _session(region)
    config = Config(connect_timeout=5, read_timeout=60, retries=RETRIES)  # type: ignore[arg-type]
    return cache(lambda service: session.client(service, endpoint_url=endpoint_url, config=config))


def enabled_regions(*, endpoint_url: str | None = None) -> list[str]:
    """List the regions that the account uses (DescribeRegions). Raises TestkitError where nobody may ask."""
    try:
        answer = clients("us-east-1", endpoint_url=endpoint_url)("ec2").describe_regions()
    except AWS_ERRORS as error:
        remedy = "name an account (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or regions (--region)"
        raise TestkitError(f"the account could not be asked for its regions: {error}; {remedy}") from error
    return sorted(one["RegionName"] for one in answer["Regions"])
