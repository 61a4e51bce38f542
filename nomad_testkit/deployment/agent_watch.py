"""Watch which hosts have joined Consul and are ready in Nomad, as one server of each sees them.

One daemon thread makes two or three small requests a second, to one server, so that watching does not slow the boot.
It only informs: the checks, which ask every server, decide whether the cluster is ready.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nomad_testkit.cluster.agents import serf_status
from nomad_testkit.cluster.timeline import CONSUL_JOINED, NOMAD_READY
from nomad_testkit.errors import AgentApiError

if TYPE_CHECKING:
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.deployment.boot import Boot
    from nomad_testkit.examples.example import Roles

INTERVAL = 1.0
"""Seconds between polls, and the resolution of these phases in the timeline."""


class AgentWatch:
    """Reports what the servers see to a boot, from the first `add` until `stop`."""

    def __init__(self, boot: Boot, roles: Roles) -> None:
        self._boot, self._roles = boot, roles
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._hosts: list[Host] = []

    def add(self, host: Host) -> None:
        """Poll this host too, if it is a server."""
        if host.instance.group not in (*self._roles.consul_servers, *self._roles.nomad_servers):
            return
        with self._lock:
            self._hosts.append(host)
            first = len(self._hosts) == 1
        if first:
            threading.Thread(target=self._watch, name="watch agents", daemon=True).start()

    def stop(self) -> None:
        """End the watch; a pending request ends by itself within seconds."""
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
                # Rotate until one answers: the first may be the one that never comes up.
                server = servers[tries % len(servers)] if servers and self._boot.lacks(phase) else None
                try:
                    if server is not None:
                        self._boot.enter_by_address(list(ask(server)), phase)
                except AgentApiError:
                    tries += 1


def joined_consul(server: Host) -> Iterator[str]:
    """Yield the addresses of the members that a Consul server sees alive. Raise AgentApiError if it does not answer."""
    for member in server.consul.members():
        if serf_status(member) == "alive":
            yield str(member["Addr"])


def ready_in_nomad(server: Host) -> Iterator[str]:
    """Yield the addresses of Nomad's Raft peers and ready nodes. Raise AgentApiError if the server does not answer."""
    if not server.nomad.leader():
        return
    for peer in server.nomad.peers():
        yield peer.rpartition(":")[0]
    for node in server.nomad.nodes(stale=True):
        if node["Status"] == "ready":
            yield str(node["Address"])
