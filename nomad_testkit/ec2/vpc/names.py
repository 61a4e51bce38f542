"""DNS names of the cloud: its API endpoints and its instances, as AWS forms them."""

from __future__ import annotations

API_SERVICES = ("ec2", "autoscaling", "iam", "sts", "s3")
"""The services that the cloud's API offers."""


def api_names(region: str) -> tuple[str, ...]:
    """Give every name of the API, global and regional (AWS General Reference, service endpoints).

    >>> "sts.eu-west-1.amazonaws.com" in api_names("eu-west-1")
    True
    """
    return tuple(f"{service}{part}.amazonaws.com" for part in (f".{region}", "") for service in API_SERVICES)


def private_domain(region: str) -> str:
    """Give the domain of private names.

    >>> private_domain("eu-west-1")
    'eu-west-1.compute.internal'
    """
    return "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"


def private_hostname(private_ip: str, region: str) -> str:
    """Give the name that a VPC's resolver has for a private address.

    >>> private_hostname("172.31.0.4", "us-east-1")
    'ip-172-31-0-4.ec2.internal'
    """
    return f"ip-{private_ip.replace('.', '-')}.{private_domain(region)}"


def public_domain(region: str) -> str:
    """Give the domain of public names.

    >>> public_domain("us-east-1")
    'compute-1.amazonaws.com'
    """
    return "compute-1.amazonaws.com" if region == "us-east-1" else f"{region}.compute.amazonaws.com"


def public_hostname(public_ip: str, region: str) -> str:
    """Give the name that belongs to a public address.

    >>> public_hostname("127.31.0.4", "us-east-1")
    'ec2-127-31-0-4.compute-1.amazonaws.com'
    """
    return f"ec2-{public_ip.replace('.', '-')}.{public_domain(region)}"
