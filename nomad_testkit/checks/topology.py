"""Which agent runs where: Consul's servers and clients, and whether Consul and Nomad keep their servers apart."""

from __future__ import annotations

from dataclasses import dataclass

from nomad_testkit.checks.raft import RaftView, observe_peers
from nomad_testkit.cluster.agents import AGENTS, serf_status
from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Verdict, ask_every, places
from nomad_testkit.cluster.host import Host
from nomad_testkit.wait import Broken, Ok, Pending

_KINDS = {"consul": "server", "node": "client"}


@dataclass(frozen=True, slots=True)
class ConsulAgentsView:
    """Each alive Consul member's role, ``consul`` for a server and ``node`` for a client, as every server sees it."""

    hosts: tuple[HostRef, ...]
    servers: tuple[HostRef, ...]
    answers: tuple[Answer[dict[str, str]], ...]


def _roles(host: Host) -> dict[str, str]:
    return {str(one["Name"]): str(one["Tags"]["role"]) for one in host.consul.members() if serf_status(one) == "alive"}


@dataclass(frozen=True)
class ConsulAgents(Check[ConsulAgentsView]):
    """One Consul cluster has a server on each Consul server host and a client on every other host.

    So whatever a Nomad agent registers on its own host reaches that cluster. Asked on the Consul servers, since the
    security group rules of a Consul client let nobody in to its HTTP API. An agent of the other kind is Broken at once:
    it reads its configuration only when it starts.

    >>> ConsulAgents().wanted.partition(", ")[0]
    'a Consul server on exactly the Consul servers and a Consul client on every other host'
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        kinds = "a Consul server on exactly the Consul servers and a Consul client on every other host"
        return f"{kinds}, asked on every Consul server"

    def observe(self, cluster: ClusterView) -> ConsulAgentsView:
        """Ask every Consul server for the members and their tag `role` (GET /v1/agent/members)."""
        servers = cluster.consul_servers
        return ConsulAgentsView(places(cluster.hosts), places(servers), ask_every(servers, _roles))

    def judge(self, observed: ConsulAgentsView) -> Verdict:
        """Compare each member's role with what its host is for."""
        wrong, missing = [], []
        for answer in observed.answers:
            for host in observed.hosts:
                kind = "server" if host in observed.servers else "client"
                found = _KINDS.get(answer.value.get(host.instance_id, ""))
                if found is None:
                    missing.append(f"no Consul {kind} on {host}, asked on {answer.place}")
                elif found != kind:
                    wrong.append(f"a Consul {found} on {host}, asked on {answer.place}")
        if wrong:
            return Broken("; ".join(wrong))
        if missing or not observed.answers:
            return Pending("; ".join(missing) or "no Consul servers")
        clients = len(observed.hosts) - len(observed.servers)
        return Ok(f"{len(observed.servers)} Consul servers and {clients} clients are one cluster")


@dataclass(frozen=True)
class SeparateServers(Check[tuple[RaftView, ...]]):
    """Consul's Raft peers and Nomad's are disjoint sets of hosts, in the answers of every server.

    Which peers each has is for RaftPeers to say.

    >>> SeparateServers().wanted
    'no host that is a Raft peer of both Consul and Nomad, asked on every server'
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return "no host that is a Raft peer of both Consul and Nomad, asked on every server"

    def observe(self, cluster: ClusterView) -> tuple[RaftView, ...]:
        """Ask every server for its Raft peers (GET /v1/status/peers)."""
        return tuple(observe_peers(cluster, agent) for agent in AGENTS)

    def judge(self, observed: tuple[RaftView, ...]) -> Verdict:
        """Compare the addresses; a host in both is Broken, for no agent moves by itself."""
        consul, nomad = (
            {peer.rpartition(":")[0] for answer in view.peers for peer in answer.value} for view in observed
        )
        if both := consul & nomad:
            names = {place.private_ip: str(place) for view in observed for place in view.servers}
            return Broken(f"peers of both Consul and Nomad: {', '.join(names.get(one, one) for one in sorted(both))}")
        for view, peers in zip(observed, (consul, nomad), strict=True):
            if not peers:
                return Pending(f"no {view.agent} server has peers yet")
        return Ok(f"{len(consul)} Consul peers and {len(nomad)} Nomad peers have no host in common")
