#!/usr/bin/env python3
"""Wait until Consul on this host can serve Nomad: nomad.service runs this before the agent.

    wait_for_consul.py leader SECONDS    for a Nomad server: Consul has a leader
    wait_for_consul.py nomad SECONDS     for a Nomad client: a Nomad server in Consul has a leader

A Nomad agent that starts too early asks Consul again only now and then: up to a minute is lost.
"""

from __future__ import annotations

import os
import sys

from host_commons import UNREACHABLE, Answer, Clock, HostFault, Service, Waiting, log, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

CONSUL_PORT = 8500
USAGE = "usage: wait_for_consul.py leader|nomad SECONDS"


class Consul:
    """The HTTP API of the Consul agent on this host."""

    def __init__(self, service: Service | None = None) -> None:
        self._service = service or Service("127.0.0.1", CONSUL_PORT)
        token = os.environ.get("CONSUL_HTTP_TOKEN")
        self._headers = {"X-Consul-Token": token} if token else {}

    def get(self, path: str) -> Any:
        """Get a path as JSON; raises Waiting, with what Consul says, where it cannot answer yet."""
        try:
            answer = self._service.request("GET", path, self._headers)
        except UNREACHABLE as error:
            raise Waiting(f"Consul does not answer on {self._service.name} ({error})") from None
        if answer.status != 200:
            raise Waiting(f"Consul says {answer.text[:200]!r} (HTTP {answer.status})")
        try:
            return answer.json()
        except ValueError:
            raise Waiting(f"Consul's answer to {path} is no JSON") from None

    def leader(self) -> None:
        """Return when there is a leader (https://developer.hashicorp.com/consul/api-docs/status)."""
        if not self.get("/v1/status/leader"):
            servers = [
                str(member.get("Name"))
                for member in self.get("/v1/agent/members")
                if member.get("Status") == 1 and member.get("Tags", {}).get("role") == "consul"
            ]
            raise Waiting(f"Consul has no leader; servers seen alive: {', '.join(servers) or 'none'}")

    def nomad_servers(self, tag: str = "http", *, passing: bool = True) -> list[tuple[str, int]]:
        """Give the addresses of the Nomad servers that are registered with a tag: http, rpc or serf."""
        found = self.get(f"/v1/health/service/nomad?tag={tag}" + ("&passing" if passing else ""))
        return [
            (entry["Service"].get("Address") or entry["Node"]["Address"], int(entry["Service"]["Port"]))
            for entry in found
        ]


def nomad_leader(consul: Consul, connect: Callable[[str, int], Service]) -> None:
    """Return when a registered Nomad server says that it has a leader.

    A client that registers before there is one tries again only after 15 s. The server is asked itself, since Consul
    checks its health only some seconds after it is up. Where it cannot be asked, as behind TLS, it is enough that
    Consul finds one healthy.
    """
    servers = consul.nomad_servers(passing=False)
    if not servers:
        raise Waiting("no `nomad` service is registered in Consul")
    names = ", ".join(host for host, _ in servers)
    for host, port in servers:
        try:
            answer: Answer = connect(host, port).request("GET", "/v1/status/leader")
        except UNREACHABLE:
            continue
        if answer.status == 200 and answer.text != '""':
            return
        if answer.status in (200, 500):
            raise Waiting(f"the Nomad servers have no leader; registered: {names}")
    if not consul.nomad_servers():
        raise Waiting(f"the Nomad servers do not answer, and Consul finds none healthy; registered: {names}")


def _connect(host: str, port: int) -> Service:
    return Service(host, port, timeout=1.0)


def main(arguments: Sequence[str], consul: Consul | None = None, clock: Clock | None = None) -> int:
    """Run the script; gives its exit status."""
    if len(arguments) != 2 or arguments[0] not in ("leader", "nomad") or not arguments[1].isdigit():
        print(USAGE, file=sys.stderr)
        return 2
    asked = consul or Consul()
    what = "a Consul leader" if arguments[0] == "leader" else "a Nomad server in Consul"
    probe = asked.leader if arguments[0] == "leader" else lambda: nomad_leader(asked, _connect)
    try:
        wait_until(what, probe, float(arguments[1]), clock=clock or Clock())
    except HostFault as fault:
        log(f"error: {fault}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
