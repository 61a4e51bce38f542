"""The calls that are made of an AWS API, as the client library is about to send them."""

from __future__ import annotations

from typing import Any

import pytest

from nomad_testkit.targets import Target


def note_calls(target: Target, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Give a set that gets each call that is made through a target's clients, as ``ec2:DescribeInstances``."""
    made, calls = target.client, set[str]()

    def note(model: Any, **_: Any) -> None:
        calls.add(f"{model.service_model.signing_name}:{model.name}")

    def client(service: str) -> Any:
        noting = made(service)
        noting.meta.events.register("before-call", note)
        return noting

    monkeypatch.setattr(target, "client", client)
    return calls
