"""Watching which hosts have joined Consul and are ready in Nomad, as one server of each sees them.

One daemon thread, which asks one server two or three small questions a second, and none whose answer is known: a boot
must not get slower by being looked at. It only informs; whether the cluster is ready is for the checks to say, which
ask every server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nomad_testkit.cluster.timeline import CONSUL_JOINED, NOMAD_READY
from nomad_testkit.errors import AgentApiError

if TYPE_CHECKING:
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.deployment.boot import Boot
    from nomad_testkit.examples.example import Roles

INTERVAL = 1.0
"""Seconds between looks, and so how exactly the timeline knows these phases."""
_ALIVE = 1
"""The status of a living member in Consul's answer to GET /v1/agent/members (serf.MemberStatus)."""


class AgentWatch:
    """Tells a boot what the servers see, from the first `add` until `stop`."""

    def __init__(self, boot: Boot, roles: Roles) -> None:
        self._boot, self._roles = boot, roles
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._hosts: list[Host] = []

    def add(self, host: Host) -> None:
        """Ask one more host, if it is a server."""
        if host.instance.group not in (*self._roles.consul_servers, *self._roles.nomad_servers):
            return
        with self._lock:
            self._hosts.append(host)
            first = len(self._hosts) == 1
        if first:
            threading.Thread(target=self._watch, name="watch agents", daemon=True).start()

    def stop(self) -> None:
        """End the watch; a question that is still open ends by itself within seconds."""
        self._stop.set()

    def _watch(self) -> None:
        tries = 0
        while not self._stop.wait(INTERVAL):
            for phase, groups, ask in (
                (CONSUL_JOINED, self._roles.consul_servers, joined_consul),
                (NOMAD_READY, self._roles.nomad_servers, ready_in_nomad),
            ):
                with self._lock:
                    servers = [host for host in self._hosts if host.instance.group in groups]
                # Each time another one, until one answers: the first may be the one that never comes up.
                server = servers[tries % len(servers)] if servers and self._boot.lacks(phase) else None
                try:
                    if server is not None:
                        self._boot.enter_by_address(list(ask(server)), phase)
                except AgentApiError:
                    tries += 1


def joined_consul(server: Host) -> Iterator[str]:
    """Give the addresses of the members that live, as a Consul server sees them. Raises AgentApiError."""
    for member in server.consul.members():
        if member["Status"] == _ALIVE:
            yield str(member["Addr"])


def ready_in_nomad(server: Host) -> Iterator[str]:
    """Give the addresses of the peers of a leader, and of the nodes that are ready. Raises AgentApiError."""
    if not server.nomad.leader():
        return
    for peer in server.nomad.peers():
        yield peer.rpartition(":")[0]
    for node in server.nomad.nodes(stale=True):
        if node["Status"] == "ready":
            yield str(node["Address"])
