"""The wait for a cluster: a group whose hosts take longer than its module lets them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError, NoCredentialsError
from faulty_api import REFUSED, THROTTLED, refusal

from nomad_testkit.cluster import host_watch
from nomad_testkit.deployment import readiness
from nomad_testkit.deployment.boot import Boot
from nomad_testkit.deployment.readiness import Readiness
from nomad_testkit.deployment.stuck_hosts import stuck_hosts
from nomad_testkit.errors import BrokenError, HostError, WaitTimeout
from nomad_testkit.examples.example import Roles
from nomad_testkit.ssh import CommandResult
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

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
            raise refusal(*REFUSED)
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


LOST = ConnectionClosedError(endpoint_url="https://ec2")


@pytest.mark.parametrize(
    ("errors", "raised", "words"),
    [
        ([LOST, refusal(*THROTTLED)], WaitTimeout, "0 of 2 clients are up"),
        ([LOST] * 1000, WaitTimeout, "ConnectionClosedError"),
        ([refusal(*REFUSED)], BrokenError, "UnauthorizedOperation: not you"),
        ([LOST, NoCredentialsError()], BrokenError, "NoCredentialsError"),
    ],
)
def test_an_error_that_passes_ends_no_deployment(
    monkeypatch: pytest.MonkeyPatch,
    waiting: Callable[..., Any],
    errors: list[Exception],
    raised: type[Exception],
    words: str,
) -> None:
    asked: list[object] = []

    def instances(*_: object, **__: object) -> list[Any]:
        asked.append(None)
        if len(asked) <= len(errors):
            raise errors[len(asked) - 1]
        return []

    monkeypatch.setattr(readiness, "instances", instances)
    with pytest.raises(raised, match=words):
        waiting({"clients": None}, AutoScaling("clients"))
    assert len(asked) > 1 or raised is BrokenError


class Ssh:
    """A host's SSH that refuses the login, or does not answer, or lets in."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.refused, self.user = list(answers), "", "nobody"

    def ensure(self, deadline: Deadline, *, interval: float = 0.2) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.refused = "nobody is not let in" if answer == "refused" else ""
        if answer != "in":
            raise HostError(answer)


@pytest.mark.parametrize(
    ("answers", "console", "patience", "up", "broken"),
    [
        (("silent", "refused", "in"), "", 60.0, True, ""),
        (("refused",), "Cloud-init v. 22.4 finished at Mon, 01 Dec", 60.0, False, "nobody is not let in; expected the"),
        (("refused",), "Cloud-init v. 22.4 running 'init'", 60.0, False, ""),
        (("refused",), "", 0.0, False, "nobody is not let in; expected the"),
        (("silent",), "Cloud-init v. 22.4 finished at Mon, 01 Dec", 0.0, False, ""),
    ],
)
def test_who_is_not_let_in_is_not_up(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[str, ...], console: str, patience: float, up: bool, broken: str
) -> None:
    monkeypatch.setattr(host_watch, "LOGIN_SECONDS", patience)
    host: Any = SimpleNamespace(
        instance_id="i-1",
        instance=SimpleNamespace(group="servers"),
        ssh=Ssh(*answers),
        run=lambda *_, **__: CommandResult(0, "", ""),
    )
    watch = host_watch.HostWatch(Deadline.after(0.5), None, lambda _: console)
    watch.add(host)

    def probe() -> Ok[None] | Pending:
        return Ok(None) if watch.is_up(host) or watch.broken else Pending("neither")

    if up or broken:
        wait_until("the host to be known", probe, deadline=Deadline.after(20))
    assert watch.is_up(host) == up
    assert broken in (watch.broken or "")
    assert bool(watch.broken) == bool(broken)
    watch.stop()


def stuck(log: str, *, refused: str = "", address: str = "127.31.0.4", instance: str = "i-0123456789abcdef0") -> Any:
    return SimpleNamespace(
        instance_id=instance,
        address=address,
        instance=SimpleNamespace(group="servers"),
        ssh=SimpleNamespace(refused=refused),
        hide=lambda text: text.replace("b1gs33cr3t", "(hidden)"),
        run=lambda *_, **__: CommandResult(0, log, ""),
    )


LOG = """\x1e/var/log/user-data.log ends:
waiting for the tag own=x on 172.31.0.{n}, try {n}
\x1econsul.service warns:
# not a part: 2026-12-01T02:00:0{n}Z [WARN]  agent: ACL not found: token b1gs33cr3t
2026-12-01T02:00:1{n}Z [WARN]  agent: ACL not found: token b1gs33cr3t
\x1enomad.service warns:
"""


def test_stuck_hosts_are_told_together_and_without_secrets() -> None:
    target: Any = SimpleNamespace(console=lambda instance: "booting\nlogin: b1gs33cr3t\n")
    one, two = (stuck(LOG.format(n=n), address=f"127.31.0.{n}") for n in (4, 5))
    alone = stuck("", refused="nobody is not let in", address="127.31.0.6")
    said = stuck_hosts([("servers-0", one), ("servers-1", two), ("clients-0", alone)], target)
    assert said == (
        "\nservers-0 (i-0123456789abcdef0, 127.31.0.4) says, and so does "
        "servers-1 (i-0123456789abcdef0, 127.31.0.5):\n"
        "    /var/log/user-data.log ends:\n"
        "      waiting for the tag own=x on 172.31.0.4, try 4\n"
        "    consul.service warns:\n"
        "      # not a part: 2026-12-01T02:00:04Z [WARN]  agent: ACL not found: token (hidden)\n"
        "      2026-12-01T02:00:14Z [WARN]  agent: ACL not found: token (hidden)\n"
        "clients-0 (i-0123456789abcdef0, 127.31.0.6) says:\n"
        "    SSH: nobody is not let in\n"
        "    its console ends:\n"
        "      booting\n"
        "      login: (hidden)"
    )
    assert stuck_hosts([], target) == ""
