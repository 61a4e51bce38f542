"""The ACL tokens that a cluster's agents share: a server makes those that Consul does not have yet.

https://developer.hashicorp.com/consul/api-docs/acl/tokens : a token may be made with a secret of one's own, so every
host can be given it before there is a cluster.
"""

from __future__ import annotations

import json

from host_commons import UNREACHABLE, Answer, Service, Waiting

POLICIES = {
    # Registers its node and reads services; as a writer of agents, `adopt` may use it.
    "consul-agent": 'node_prefix "" { policy = "write" }\n'
    'service_prefix "" { policy = "read" }\n'
    'agent_prefix "" { policy = "write" }\n',
    # What everybody may ask an agent that has it as its default token, by DNS too.
    "consul-default": 'node_prefix "" { policy = "read" }\nservice_prefix "" { policy = "read" }\n',
    # https://developer.hashicorp.com/nomad/docs/configuration/consul ; without acl = "write", which only Connect needs.
    "nomad-agent": 'agent_prefix "" { policy = "read" }\n'
    'node_prefix "" { policy = "read" }\n'
    'service_prefix "" { policy = "write" }\n'
    'key_prefix "" { policy = "read" }\n',
}


class Tokens:
    """The ACL API of the Consul agent on this host."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def make(self, management_token: str, wanted: dict[str, str]) -> None:
        """Make a token for each policy, with the secret given for it; raises Waiting while Consul cannot."""
        self.require(management_token, "the management token")
        for policy, secret in wanted.items():
            if not self._knows(secret):
                self._make(management_token, policy, secret)

    def require(self, secret: str, what: str) -> None:
        """Return when Consul knows a token; raises Waiting before."""
        if not self._knows(secret):
            raise Waiting(f"Consul does not know {what}")

    def adopt(self, secret: str) -> None:
        """Give the agent the token that it has already, which makes it register its node and services at once.

        An agent that was refused, since its token was not made yet, tries again only after 15 to 30 s.
        """
        self.require(secret, "the agent's token")
        self._put("/v1/agent/token/agent", secret, {"Token": secret})  # a token with fewer rights than ours may not

    def _knows(self, secret: str) -> bool:
        answer = self._call("GET", "/v1/acl/token/self", secret)
        if answer.status not in (200, 403):
            raise Waiting(f"Consul says {answer.text[:200]!r} (HTTP {answer.status})")
        return answer.status == 200

    def _make(self, management_token: str, policy: str, secret: str) -> None:
        said = self._put("/v1/acl/policy", management_token, {"Name": policy, "Rules": POLICIES[policy]})
        # Servers that start together may all be at it.
        if said and "already exists" not in said:
            raise Waiting(f"the policy {policy} cannot be made: {said}")
        made = {"SecretID": secret, "Description": policy, "Policies": [{"Name": policy}]}
        said = self._put("/v1/acl/token", management_token, made)
        if said and "already in use" not in said:
            raise Waiting(f"the token for {policy} cannot be made: {said}")

    def _put(self, path: str, secret: str, body: object) -> str:
        answer = self._call("PUT", path, secret, json.dumps(body).encode())
        return "" if answer.status == 200 else answer.text[:200] or f"HTTP {answer.status}"

    def _call(self, method: str, path: str, secret: str, body: bytes | None = None) -> Answer:
        try:
            return self._service.request(method, path, {"X-Consul-Token": secret}, body)
        except UNREACHABLE as error:
            raise Waiting(f"Consul does not answer on {self._service.name} ({error})") from None
