"""The calls that are made of an AWS API, as the client library is about to send them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from nomad_testkit.ec2.credentials import Credentials
from nomad_testkit.ec2.handle import aws_client
from nomad_testkit.targets.embedded.target import EmbeddedTarget


def note_calls(
    target: EmbeddedTarget, monkeypatch: pytest.MonkeyPatch, credentials: Credentials | None = None
) -> set[str]:
    """Give a set that gets each call that is made through a target's clients, as ``ec2:DescribeInstances``.

    They have other `credentials` than the cloud's maker where some are given. Clients that the target has given before
    are its own, and note nothing.
    """
    calls = set[str]()

    @functools.cache
    def client(service: str) -> Any:
        made = aws_client(
            service,
            endpoint_url=target.endpoint_url,
            region=target.region,
            credentials=credentials or target.ec2.credentials,
        )
        return noting(made, calls)

    monkeypatch.setattr(target, "client", client)
    return calls


def noting(client: Any, calls: set[str]) -> Any:
    """Give the client, which adds to these each call that it makes from now on."""

    def note(model: Any, **_: Any) -> None:
        calls.add(f"{model.service_model.signing_name}:{model.name}")

    client.meta.events.register("before-call", note)
    return client
