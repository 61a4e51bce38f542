"""A user of AWS: with credentials that are nobody's, and none of those of whoever runs the tests."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import botocore.session
import pytest

from nomad_testkit.settings import Settings

ACCOUNT, REGION, AMI = "123456789012", "us-east-1", "ami-0123456789abcdef0"
SOURCE = "203.0.113.7/32"


def be_a_user(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a user's keys into the environment; a profile may be written to ``config`` in the folder."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobodys")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(folder / "state"))


def settings_for(url: str, **options: str | None) -> Settings:
    """Load settings of the target `aws` at an endpoint."""
    usual = {"target": "aws", "region": REGION, "aws_account": ACCOUNT, "aws_source_cidr": SOURCE, "ami": AMI}
    given: dict[str, str | None] = {**usual, "aws_endpoint_url": url, **options}
    return Settings.load(options={f"nomad_{name}": value for name, value in given.items()})


@contextmanager
def models_read_once() -> Iterator[None]:
    """Let all of boto3's sessions share what they have read of services: it takes most of a second each time."""
    shared = functools.cache(botocore.session.create_loader)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(botocore.session, "create_loader", shared)
        yield
