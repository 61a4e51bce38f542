"""An account on AWS, by the credentials that boto3 finds; or what answers in its place at an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from nomad_testkit.errors import TestkitError

RETRIES = {"mode": "standard", "total_max_attempts": 10}
"""As AWS advises: ever longer, random pauses, and a budget of retries for each client
(https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html)."""


def clients(region: str, *, endpoint_url: str | None = None) -> Callable[[str], Any]:
    """Give what makes the boto3 client of each service in a region, once.

    >>> clients("eu-west-1")("ec2").describe_instances()  # doctest: +SKIP
    """
    if endpoint_url:
        from nomad_testkit.ec2.handle import aws_client

        return cache(lambda service: aws_client(service, endpoint_url=endpoint_url, region=region))

    import boto3
    from botocore.config import Config

    session = boto3.session.Session(region_name=region)
    config = Config(connect_timeout=5, read_timeout=60, retries=RETRIES)  # type: ignore[arg-type]
    return cache(lambda service: session.client(service, config=config))


def enabled_regions(*, endpoint_url: str | None = None) -> list[str]:
    """List the regions that the account uses (DescribeRegions). Raises TestkitError where nobody may ask."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = clients("us-east-1", endpoint_url=endpoint_url)("ec2").describe_regions()
    except (BotoCoreError, ClientError) as error:
        remedy = "name an account (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or regions (--region)"
        raise TestkitError(f"the account could not be asked for its regions: {error}; {remedy}") from error
    return sorted(one["RegionName"] for one in answer["Regions"])
