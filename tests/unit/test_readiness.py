"""The wait for a cluster: a group whose hosts take longer than its module lets them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from nomad_testkit import readiness
from nomad_testkit.boot import Boot
from nomad_testkit.errors import BrokenError, WaitTimeout
from nomad_testkit.examples import Roles
from nomad_testkit.readiness import Readiness
from nomad_testkit.wait import Deadline

RUN, FULL = "nt-1", "We currently do not have sufficient t2.micro capacity"


class AutoScaling:
    """A group's failed activities, as the API tells them; or nobody may ask."""

    def __init__(self, group: str, *, refused: bool = False) -> None:
        self.tags = [{"Key": "nomad-testkit-group", "Value": group}]
        self.refused = refused

    def get_paginator(self, name: str) -> Any:
        assert name == "describe_auto_scaling_groups"
        found = [{"AutoScalingGroups": [{"AutoScalingGroupName": "pool", "Tags": self.tags}]}]
        return SimpleNamespace(paginate=lambda **_: found)

    def describe_scaling_activities(self, AutoScalingGroupName: str) -> Any:
        assert AutoScalingGroupName == "pool"
        if self.refused:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeScalingActivities")
        told = [("Failed", FULL), ("Failed", FULL), ("Successful", "Launched")]
        return {"Activities": [{"StatusCode": code, "StatusMessage": message} for code, message in told]}


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give a function that waits for two clients of which none comes."""
    monkeypatch.setattr(readiness, "instances", lambda *_, **__: [])

    def wait(limits: dict[str, float | None], autoscaling: AutoScaling) -> Any:
        deadline = Deadline.after(1)
        target: Any = SimpleNamespace(client=lambda service: autoscaling)
        boot = Boot("a cluster", deadline, say=lambda line: None)
        with Readiness(target, RUN, boot, Roles((), (), ())) as wait_for:
            return wait_for.await_hosts({"clients": 2}, lambda instance: None, limits)  # type: ignore[arg-type, return-value]

    return wait


def test_a_groups_own_limit_ends_the_wait_and_says_why(waiting: Callable[..., Any]) -> None:
    with pytest.raises(BrokenError) as caught:
        waiting({"clients": 0.01}, AutoScaling("clients"))
    assert f"0 of 2 clients are up after 0.01 s, the wait_for_capacity_timeout of clients; {FULL}" in str(caught.value)
    assert str(caught.value).count(FULL) == 1


@pytest.mark.parametrize("autoscaling", [AutoScaling("servers"), AutoScaling("clients", refused=True)])
def test_what_cannot_be_told_is_left_out(waiting: Callable[..., Any], autoscaling: AutoScaling) -> None:
    with pytest.raises(BrokenError) as caught:
        waiting({"clients": 0.01}, autoscaling)
    assert "the wait_for_capacity_timeout of clients" in str(caught.value)
    assert FULL not in str(caught.value)


def test_without_a_limit_the_deployments_holds(waiting: Callable[..., Any]) -> None:
    with pytest.raises(WaitTimeout):
        waiting({"clients": None}, AutoScaling("clients"))
