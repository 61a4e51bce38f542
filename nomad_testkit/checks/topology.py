"""Which agent runs where: Consul's servers and clients, and whether Consul and Nomad keep their servers apart."""

from __future__ import annotations

from dataclasses import dataclass

from nomad_testkit.checks.base import Answer, Check, ClusterView, Place, Verdict, ask_every, places
from nomad_testkit.checks.raft import AGENTS, RaftView, observe_peers
from nomad_testkit.host import Host
from nomad_testkit.wait import Broken, Ok, Pending


@dataclass(frozen=True, slots=True)
class ConsulAgent:
    """What one Consul agent is, and the leader that it knows."""

    server: bool
    leader: str


@dataclass(frozen=True, slots=True)
class ConsulAgentsView:
    """The Consul agent of every host, and which hosts should run a server."""

    servers: tuple[Place, ...]
    answers: tuple[Answer[ConsulAgent], ...]


def _consul_agent(host: Host) -> ConsulAgent:
    return ConsulAgent(bool(host.consul.agent()["Config"]["Server"]), host.consul.leader())


@dataclass(frozen=True)
class ConsulAgents(Check[ConsulAgentsView]):
    """A Consul server runs on each Consul server host, a Consul client on every other, and all know the same leader.

    So whatever a Nomad agent registers on its own host reaches one and the same Consul cluster. An agent of the other
    kind is Broken at once, since it reads its configuration only when it starts.

    >>> ConsulAgents().wanted
    'a Consul server on exactly the Consul servers, a Consul client on every other host, all with one leader'
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return "a Consul server on exactly the Consul servers, a Consul client on every other host, all with one leader"

    def observe(self, cluster: ClusterView) -> ConsulAgentsView:
        """Ask every host's Consul agent (GET /v1/agent/self and /v1/status/leader)."""
        return ConsulAgentsView(places(cluster.consul_servers), ask_every(cluster.hosts, _consul_agent))

    def judge(self, observed: ConsulAgentsView) -> Verdict:
        """Compare each agent's kind with what its host is for, then the leaders."""
        wrong = [
            f"{answer.place} runs a Consul {'server' if answer.value.server else 'client'}"
            for answer in observed.answers
            if answer.value.server != (answer.place in observed.servers)
        ]
        if wrong:
            return Broken("; ".join(wrong))
        leaders = {answer.value.leader for answer in observed.answers}
        if len(leaders) != 1 or not all(leaders):
            return Pending(
                "; ".join(f"{one.place} says the leader is {one.value.leader!r}" for one in observed.answers)
            )
        clients = len(observed.answers) - len(observed.servers)
        return Ok(f"{len(observed.servers)} Consul servers and {clients} clients have one leader")


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
