#!/usr/bin/env python3
"""Wait until Consul on this host can serve Nomad: nomad.service runs this before the agent.

    wait_for_consul.py leader SECONDS [FILE]    for a Nomad server: Consul has a leader
    wait_for_consul.py nomad SECONDS [FILE]     for a Nomad client: a Nomad server in Consul has a leader

FILE is written by run-nomad where Consul or Nomad are not reached by plain HTTP at their usual ports.

A Nomad agent that starts too early asks Consul again only now and then: up to a minute is lost.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from host_commons import UNREACHABLE, Answer, Clock, HostFault, Service, Tls, Waiting, log, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

CONSUL_PORT = 8500
USAGE = "usage: wait_for_consul.py leader|nomad SECONDS [FILE]"


class Consul:
    """The HTTP API of the Consul agent on this host."""

    def __init__(self, service: Service | None = None, token: str | None = None) -> None:
        self._service = service or Service("127.0.0.1", CONSUL_PORT)
        self._own_token = token
        used = token or os.environ.get("CONSUL_HTTP_TOKEN")
        self._headers = {"X-Consul-Token": used} if used else {}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Consul:
        """Make it from the settings that run-nomad writes."""
        found = settings.get("consul")
        if found is None:
            return cls()
        host, port = found["address"]
        return cls(Service(host, port, tls=_tls(found)), found["token"])

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
        """Return when there is a leader, and it knows the token: a Nomad server registers itself at once.

        https://developer.hashicorp.com/consul/api-docs/status
        """
        if not self.get("/v1/status/leader"):
            servers = [
                str(member.get("Name"))
                for member in self.get("/v1/agent/members")
                if member.get("Status") == 1 and member.get("Tags", {}).get("role") == "consul"
            ]
            raise Waiting(f"Consul has no leader; servers seen alive: {', '.join(servers) or 'none'}")

        if self._own_token:
            self.get("/v1/acl/token/self")

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


def _tls(settings: dict[str, Any]) -> Tls | None:
    return Tls(**settings["tls"]) if "tls" in settings else None


def main(arguments: Sequence[str], consul: Consul | None = None, clock: Clock | None = None) -> int:
    """Run the script; gives its exit status."""
    if (
        len(arguments) not in (2, 3)
        or arguments[0] not in ("leader", "nomad")
        or not (arguments[1].isascii() and arguments[1].isdigit())
    ):
        print(USAGE, file=sys.stderr)
        return 2
    what = "a Consul leader" if arguments[0] == "leader" else "a Nomad server in Consul"
    try:
        settings = json.loads(Path(arguments[2]).read_text(encoding="utf-8")) if len(arguments) == 3 else {}
        asked = consul or Consul.of(settings)
        tls = _tls(settings.get("nomad", {}))

        def probe() -> None:
            if arguments[0] == "leader":
                asked.leader()
            else:
                nomad_leader(asked, lambda host, port: Service(host, port, timeout=1.0, tls=tls))

        wait_until(what, probe, float(arguments[1]), clock=clock or Clock())
    except HostFault as fault:
        log(f"error: {fault}")
        return 1
    except OSError as error:
        log(f"error: {error.filename}: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
