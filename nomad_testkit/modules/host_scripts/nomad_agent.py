"""The Nomad agent on a host after its start: is it part of its cluster, and what it needs to be."""

from __future__ import annotations

import json

from host_commons import UNREACHABLE, HostFault, Service, Waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from host_commons import Tls
    from wait_for_consul import Consul

HTTP_PORT = 4646


class Agent:
    """The Nomad agent on this host, until it is part of its cluster."""

    def __init__(
        self,
        consul: Consul,
        *,
        server: bool,
        address: str,
        data_dir: Path,
        tls: Tls | None = None,
        service: Service | None = None,
    ) -> None:
        self._consul = consul
        self._server = server
        self._node_id = data_dir / "client" / "client-id"
        self._address = address
        # A server without a leader keeps a question for its leader waiting for some seconds.
        self._service = service or Service("127.0.0.1", HTTP_PORT, timeout=1.0, tls=tls)
        self._asked: set[str] = set()

    def ready(self) -> None:
        """Return when a server knows its leader, or when the servers find a client ready; raises Waiting before."""
        if not self._server:
            self._client_ready()
            return
        joined = self._join_others()
        status, text = self._request("GET", "/v1/status/leader")
        if status != 200 or text in ('""', ""):
            raise Waiting(f"no leader{joined}")

    def _client_ready(self) -> None:
        """Ask for this node through the client itself.

        The servers count a node as ready when it has registered and sent one heartbeat. A client sends the first at
        a random moment of ten seconds, or right after any other question of its to a server: this one.
        """
        status, text = self._request("GET", "/v1/agent/health?type=client")
        if status != 200:
            raise Waiting(f"the client says {text[:200]!r}")
        try:
            node_id = self._node_id.read_text().strip()
        except FileNotFoundError:
            raise Waiting(f"the client has no id in {self._node_id} yet") from None
        status, text = self._request("GET", f"/v1/node/{node_id}")
        if status == 403:
            return  # with ACLs, a node is not told to everyone
        if status != 200:
            raise Waiting(f"the servers say of node {node_id}: {text[:200]!r}")
        found = json.loads(text)["Status"]
        if found != "ready":
            raise Waiting(f"node {node_id} is {found}")

    def _join_others(self) -> str:
        """Join the servers that are in Consul's catalog; gives the words for what came of it.

        A server looks there once, when it starts, and again only after 45 s. Servers that start at the same
        moment, as they do when Consul gets its leader, look before any of them is registered.
        """
        others = {
            f"{host}:{port}"
            for host, port in self._consul.nomad_servers("serf", passing=False)
            if host != self._address
        }
        fresh = sorted(others - self._asked)
        if not fresh:
            return ""
        query = "&".join(f"address={other}" for other in fresh)
        status, text = self._request("PUT", f"/v1/agent/join?{query}")
        if status != 200:
            return f", and joining {', '.join(fresh)} fails: {text[:200]!r}"
        self._asked.update(fresh)
        return f"; asked to join {', '.join(fresh)}"

    def bootstrap_acl(self, secret: str) -> None:
        """Make a token the first management token (https://developer.hashicorp.com/nomad/api-docs/acl).

        Raises Waiting while there is no leader, and HostFault where another token was the first.
        """
        if self._knows(secret):
            return  # this host has been here before
        body = json.dumps({"BootstrapSecret": secret}).encode()
        status, text = self._request("POST", "/v1/acl/bootstrap", {}, body)
        if status == 200:
            return
        if "already done" not in text:
            raise Waiting(f"Nomad says {text[:200]!r}")
        if not self._knows(secret):  # or another server was faster with the same token
            raise HostFault(
                f"Nomad says {text[:200]!r}, and does not know the token that was given: give the first management "
                "token, or none"
            )

    def _knows(self, secret: str) -> bool:
        status, text = self._request("GET", "/v1/acl/token/self", {"X-Nomad-Token": secret})
        if status not in (200, 403, 404):
            raise Waiting(f"Nomad says {text[:200]!r}")
        return status == 200

    def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, str]:
        try:
            answer = self._service.request(method, path, headers, body)
        except UNREACHABLE as error:
            raise Waiting(f"Nomad does not answer on {self._service.name} ({error})") from None
        return answer.status, answer.text
