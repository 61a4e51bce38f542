"""The ACL tokens that run-consul makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from consul_tokens import POLICIES, Tokens
from fake_host import FakeAgent
from host_commons import Waiting

MANAGEMENT, AGENT, NOMAD = "management-secret", "agent-secret", "nomad-secret"


class FakeConsul(FakeAgent):
    """A Consul that knows some tokens and policies, and may answer a path in another way."""

    def __init__(self, *known: str, policies: tuple[str, ...] = (), answer: tuple[str, int, str] | None = None) -> None:
        super().__init__({answer[0]: answer[1:]} if answer else {})
        self.known, self.policies = set(known), set(policies)
        self.made: list[Any] = []
        self.given: list[tuple[str | None, Any]] = []

    def answer(self, method: str, path: str) -> tuple[int, str] | None:
        token = self.headers[-1]["X-Consul-Token"]
        if path in self.answers:
            return self.answers[path]
        if path == "/v1/acl/token/self":
            return (200, "{}") if token in self.known else (403, "ACL not found")
        assert method == "PUT"
        sent = json.loads(self.bodies[-1] or b"")
        if path == "/v1/agent/token/agent":
            self.given.append((token, sent))
            return 200, ""
        assert token == MANAGEMENT
        if path == "/v1/acl/policy":
            if sent["Name"] in self.policies:
                return 500, f"Invalid Policy: A Policy with Name {sent['Name']!r} already exists"
            self.policies.add(sent["Name"])
            assert sent["Rules"] == POLICIES[sent["Name"]]
        else:
            assert path == "/v1/acl/token"
            self.known.add(sent["SecretID"])
            self.made.append(sent)
        return 200, "{}"


def test_the_tokens_that_consul_does_not_know_are_made() -> None:
    consul = FakeConsul(MANAGEMENT, AGENT, policies=("consul-agent",))
    Tokens(consul).make(MANAGEMENT, {"consul-agent": AGENT, "nomad-agent": NOMAD})
    assert consul.made == [{"SecretID": NOMAD, "Description": "nomad-agent", "Policies": [{"Name": "nomad-agent"}]}]
    assert consul.policies == {"consul-agent", "nomad-agent"}


def test_what_another_server_makes_at_this_moment_is_no_fault() -> None:
    consul = FakeConsul(MANAGEMENT, policies=("nomad-agent",))
    Tokens(consul).make(MANAGEMENT, {"nomad-agent": NOMAD})
    assert consul.known == {MANAGEMENT, NOMAD}
    consul = FakeConsul(MANAGEMENT, answer=("/v1/acl/token", 500, "Invalid Token: SecretID is already in use"))
    Tokens(consul).make(MANAGEMENT, {"nomad-agent": NOMAD})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (("/v1/acl/token/self", 403, "ACL not found"), "Consul does not know the management token"),
        (("/v1/acl/token/self", 500, "No cluster leader"), r"Consul says 'No cluster leader' \(HTTP 500\)"),
        (("/v1/acl/policy", 403, "denied"), "the policy nomad-agent cannot be made: denied"),
        (("/v1/acl/token", 500, "rpc error"), "the token for nomad-agent cannot be made: rpc error"),
    ],
)
def test_what_consul_cannot_do_yet_is_waited_for(answer: tuple[str, int, str], message: str) -> None:
    with pytest.raises(Waiting, match=message) as caught:
        Tokens(FakeConsul(MANAGEMENT, answer=answer)).make(MANAGEMENT, {"nomad-agent": NOMAD})
    assert "secret" not in str(caught.value)


def test_an_agent_gets_its_token_again_when_consul_knows_it() -> None:
    consul = FakeConsul()
    with pytest.raises(Waiting, match="Consul does not know the agent's token"):
        Tokens(consul).adopt(AGENT)
    assert consul.given == []
    consul.known.add(AGENT)
    Tokens(consul).adopt(AGENT)
    assert consul.given == [(AGENT, {"Token": AGENT})]
