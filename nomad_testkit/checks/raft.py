"""Raft as each server sees it: the peers, one leader, no split, and the same bootstrap_expect everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from nomad_testkit.cluster.agents import AGENTS, AgentName
from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Verdict, ask_every, places
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, WaitTimeout
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

# Defaults of both agents; Raft runs over the servers' RPC port.
RAFT_PORT: dict[AgentName, int] = {"consul": 8300, "nomad": 4647}


LEASE_SECONDS = 2.0
"""How long two leaders may seem to lead: four times the lease after which one without a majority steps down."""


def servers_of(cluster: ClusterView, agent: AgentName) -> Sequence[Host]:
    """List the hosts that run servers of an agent."""
    return cluster.consul_servers if agent == "consul" else cluster.nomad_servers


@dataclass(frozen=True, slots=True)
class RaftView:
    """What every server of one agent says of Raft."""

    agent: AgentName
    servers: tuple[HostRef, ...]
    peers: tuple[Answer[tuple[str, ...]], ...]
    leader: tuple[Answer[str], ...] = ()

    @property
    def expected(self) -> dict[str, HostRef]:
        """The addresses that the peers should have, and whose they are."""
        return {f"{server.private_ip}:{RAFT_PORT[self.agent]}": server for server in self.servers}

    def name(self, address: str) -> str:
        """Name the server behind a Raft address."""
        server = self.expected.get(address)
        return server.instance_id if server else f"{address} (not of this cluster)"


def _peers(host: Host, agent: AgentName) -> tuple[str, ...]:
    return tuple(sorted(host.nomad.peers() if agent == "nomad" else host.consul.peers()))


def _leader(host: Host, agent: AgentName) -> str:
    return host.nomad.leader() if agent == "nomad" else host.consul.leader()


def observe_peers(cluster: ClusterView, agent: AgentName) -> RaftView:
    """Ask every server for its Raft peers (GET /v1/status/peers)."""
    servers = servers_of(cluster, agent)
    return RaftView(agent, places(servers), ask_every(servers, lambda host: _peers(host, agent)))


def observe_raft(cluster: ClusterView, agent: AgentName) -> RaftView:
    """Ask every server for its Raft peers and its leader (GET /v1/status/peers and /v1/status/leader).

    A leader without a majority steps down within its lease (500 ms in both agents), so where several servers seem to
    lead, they are asked again until one does not, for LEASE_SECONDS.
    """
    servers = servers_of(cluster, agent)

    def look() -> RaftView:
        answers = ask_every(servers, lambda host: (_peers(host, agent), _leader_or_none(host, agent)))
        peers = tuple(Answer(answer.place, answer.value[0]) for answer in answers)
        return RaftView(agent, places(servers), peers, tuple(Answer(one.place, one.value[1]) for one in answers))

    view = look()

    def probe() -> Ok[None] | Pending:
        nonlocal view
        view = look()
        return Pending("several leaders") if len(_leading(view)) > 1 else Ok(None)

    if len(_leading(view)) > 1:
        with suppress(WaitTimeout):
            wait_until("one leader", probe, deadline=Deadline.after(LEASE_SECONDS))
    return view


def _leader_or_none(host: Host, agent: AgentName) -> str:
    try:
        return _leader(host, agent)
    except AgentApiError as error:
        if error.status is None:
            raise
        return ""  # Consul forwards the question to a leader; without one that is an error


def split(view: RaftView) -> str | None:
    """Say who sees whom where servers form several clusters, else None.

    They do where two sets of peers have no member in common, whatever their overlap where a server is the only peer of
    a cluster that it leads while others follow somebody else, and where two servers lead.

    >>> a, b = HostRef("i-1", "10.0.0.1", "10.0.0.1"), HostRef("i-2", "10.0.0.2", "10.0.0.2")
    >>> alone = (Answer(a, ("10.0.0.1:8300",)), Answer(b, ("10.0.0.2:8300",)))
    >>> split(RaftView("consul", (a, b), alone))
    'consul is split: i-1 (10.0.0.1) sees only itself; i-2 (10.0.0.2) sees only itself'
    """
    groups = {frozenset(answer.value) for answer in view.peers if answer.value}
    apart = len(groups) > 1 and not any(one & other for one in groups for other in groups if one is not other)
    if not apart and not _leads_itself(view) and len(_leading(view)) < 2:
        return None
    leaders = "" if apart else f"; leaders: {_list(_leading(view))}"
    return f"{view.agent} is split: " + "; ".join(_sees(view, answer) for answer in view.peers) + leaders


def _own_address(view: RaftView, place: HostRef) -> str:
    return f"{place.private_ip}:{RAFT_PORT[view.agent]}"


def _leading(view: RaftView) -> list[HostRef]:
    """List the servers that name themselves as leader."""
    return [answer.place for answer in view.leader if answer.value == _own_address(view, answer.place)]


def _leads_itself(view: RaftView) -> bool:
    """Whether a server is its own only peer and leader while another one, which has peers, follows somebody else."""
    named = {answer.place: answer.value for answer in view.leader}
    for answer in view.peers:
        own = _own_address(view, answer.place)
        if answer.value == (own,) and named.get(answer.place) == own:
            others = [one.place for one in view.peers if one.value and one.place != answer.place]
            if any(named.get(place) != own for place in others):
                return True
    return False


def _sees(view: RaftView, answer: Answer[tuple[str, ...]]) -> str:
    own = _own_address(view, answer.place)
    others = [view.name(address) for address in answer.value if address != own]
    if not answer.value:
        return f"{answer.place} sees no peers"
    if not others:
        return f"{answer.place} sees only itself"
    itself = "itself and " if own in answer.value else ""
    return f"{answer.place} sees only {itself}{', '.join(others)}"


def _judge_peers(view: RaftView, count: int) -> Verdict:
    # Raft clusters that were bootstrapped apart never merge: gossip joins them, Raft refuses.
    if parted := split(view):
        return Broken(parted)
    if len(view.servers) != count:
        return Pending(f"the cluster has {len(view.servers)} {view.agent} servers: {_list(view.servers)}")
    expected = set(view.expected)
    wrong = [answer for answer in view.peers if set(answer.value) != expected]
    if not wrong:
        return Ok(f"{view.agent}: {count} peers on every server")
    parts = []
    for answer in wrong:
        missing = sorted(view.name(address) for address in expected - set(answer.value))
        extra = sorted(view.name(address) for address in set(answer.value) - expected)
        text = f"{answer.place} has {len(answer.value)} {view.agent} peers"
        text += f", without {', '.join(missing)}" if missing else ""
        text += f", with {', '.join(extra)}" if extra else ""
        parts.append(text)
    return Pending("; ".join(parts))


def _in(agents: Sequence[AgentName]) -> str:
    return " and ".join(f"in {agent.capitalize()}" for agent in agents)


def _list(some: Sequence[HostRef]) -> str:
    return ", ".join(str(place) for place in some) or "none"


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Join the verdicts on several parts into one: Broken before Pending before Ok."""
    if not verdicts:
        return Pending("nothing was looked at")
    broken = [verdict.reason for verdict in verdicts if isinstance(verdict, Broken)]
    if broken:
        return Broken("; ".join(broken))
    pending = [verdict.seen for verdict in verdicts if isinstance(verdict, Pending)]
    if pending:
        return Pending("; ".join(pending))
    return Ok("; ".join(verdict.value for verdict in verdicts if isinstance(verdict, Ok)))


@dataclass(frozen=True)
class RaftPeers(Check[tuple[RaftView, ...]]):
    """Every server, of Consul and of Nomad, has exactly the cluster's `count` servers as Raft peers.

    >>> RaftPeers(3).wanted
    'exactly the 3 servers as Raft peers, in Consul and in Nomad, on every server'
    """

    count: int
    agents: tuple[AgentName, ...] = AGENTS

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"exactly the {self.count} servers as Raft peers, {_in(self.agents)}, on every server"

    def observe(self, cluster: ClusterView) -> tuple[RaftView, ...]:
        """Ask every server for the peers and the leader that it knows itself."""
        return tuple(observe_raft(cluster, agent) for agent in self.agents)

    def judge(self, observed: tuple[RaftView, ...]) -> Verdict:
        """Compare each server's peers with the cluster's servers; a split is Broken."""
        return all_of([_judge_peers(view, self.count) for view in observed])


@dataclass(frozen=True)
class NotSplit(Check[tuple[RaftView, ...]]):
    """The servers form one Raft cluster, not several.

    It is what bootstrap_expect 1 on servers that were to be three leads to. Broken at once, since Raft clusters
    that were bootstrapped apart never merge (Consul's and Nomad's documentation of `bootstrap_expect`).

    >>> NotSplit().wanted
    'one Raft cluster, in Consul and in Nomad: no server that sees only itself, and no two leaders'
    """

    agents: tuple[AgentName, ...] = AGENTS

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"one Raft cluster, {_in(self.agents)}: no server that sees only itself, and no two leaders"

    def observe(self, cluster: ClusterView) -> tuple[RaftView, ...]:
        """Ask every server for its peers and its leader (GET /v1/status/peers and /v1/status/leader)."""
        return tuple(observe_raft(cluster, agent) for agent in self.agents)

    def judge(self, observed: tuple[RaftView, ...]) -> Verdict:
        """Look for clusters apart, and for servers that have no peers yet."""
        return all_of([self._judge_one(view) for view in observed])

    @staticmethod
    def _judge_one(view: RaftView) -> Verdict:
        if parted := split(view):
            return Broken(parted)
        empty = [answer.place for answer in view.peers if not answer.value]
        if empty:
            return Pending(f"no {view.agent} peers yet on {_list(empty)}")
        return Ok(f"{view.agent} is one cluster")


@dataclass(frozen=True)
class Leader(Check[tuple[RaftView, ...]]):
    """Every server names the same leader, in Consul and in Nomad, and that leader is one of the peers.

    >>> Leader().wanted
    'one leader, the same on every server, in Consul and in Nomad'
    """

    agents: tuple[AgentName, ...] = AGENTS

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"one leader, the same on every server, {_in(self.agents)}"

    def observe(self, cluster: ClusterView) -> tuple[RaftView, ...]:
        """Ask every server for its leader (GET /v1/status/leader) and its peers."""
        views = []
        for agent in self.agents:
            leaders = ask_every(servers_of(cluster, agent), _asker(agent))
            peers = observe_peers(cluster, agent)
            views.append(RaftView(agent, peers.servers, peers.peers, leaders))
        return tuple(views)

    def judge(self, observed: tuple[RaftView, ...]) -> Verdict:
        """Compare what the servers say."""
        return all_of([self._judge_one(view) for view in observed])

    @staticmethod
    def _judge_one(view: RaftView) -> Verdict:
        none = [answer.place for answer in view.leader if not answer.value]
        if none or not view.leader:
            return Pending(f"no {view.agent} leader on {_list(none or view.servers)}")
        leaders = {answer.value for answer in view.leader}
        if len(leaders) > 1:
            said = "; ".join(f"{answer.place} says {view.name(answer.value)}" for answer in view.leader)
            return Pending(f"several {view.agent} leaders: {said}")
        (leader,) = leaders
        if leader not in view.expected:
            return Pending(f"the {view.agent} leader is {view.name(leader)}")
        without = [answer.place for answer in view.peers if leader not in answer.value]
        if without:
            return Pending(f"{view.agent} leader {view.name(leader)} is no peer on {_list(without)}")
        return Ok(f"{view.agent} leader is {view.name(leader)}")


def _asker(agent: AgentName) -> Callable[[Host], str]:
    return lambda host: _leader(host, agent)


@dataclass(frozen=True, slots=True)
class BootstrapView:
    """The bootstrap_expect that each server of one agent runs with."""

    agent: AgentName
    answers: tuple[Answer[int], ...]


def _bootstrap_expect(host: Host, agent: AgentName) -> int:
    if agent == "nomad":
        return int(host.nomad.agent()["config"]["Server"]["BootstrapExpect"])
    running = host.consul.agent()["DebugConfig"]
    # Consul takes a bootstrap_expect of 1 for `bootstrap`, and then tells 0.
    return 1 if running["Bootstrap"] else int(running["BootstrapExpect"])


@dataclass(frozen=True)
class BootstrapExpectAgrees(Check[tuple[BootstrapView, ...]]):
    """Every server runs with the same bootstrap_expect, and it is the number of servers.

    Broken at once where it is not: an agent reads its configuration only when it starts.

    >>> BootstrapExpectAgrees().wanted
    'bootstrap_expect equal to the number of servers on each of them, in Consul and in Nomad'
    """

    agents: tuple[AgentName, ...] = AGENTS

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"bootstrap_expect equal to the number of servers on each of them, {_in(self.agents)}"

    def observe(self, cluster: ClusterView) -> tuple[BootstrapView, ...]:
        """Ask every server for the configuration it runs with (GET /v1/agent/self)."""
        return tuple(self._observe_one(cluster, agent) for agent in self.agents)

    @staticmethod
    def _observe_one(cluster: ClusterView, agent: AgentName) -> BootstrapView:
        answers = ask_every(servers_of(cluster, agent), lambda host: _bootstrap_expect(host, agent))
        return BootstrapView(agent, answers)

    def judge(self, observed: tuple[BootstrapView, ...]) -> Verdict:
        """Compare the values; a running agent never changes its own, so a wrong one is Broken."""
        return all_of([self._judge_one(view) for view in observed])

    @staticmethod
    def _judge_one(view: BootstrapView) -> Verdict:
        count = len(view.answers)
        if all(answer.value == count for answer in view.answers):
            return Ok(f"{view.agent}: bootstrap_expect {count} on every server")
        differs = len({answer.value for answer in view.answers}) > 1
        said = "; ".join(f"{answer.value} on {answer.place}" for answer in view.answers)
        kind = "differs between servers" if differs else f"is not the number of servers, {count}"
        return Broken(f"{view.agent}'s bootstrap_expect {kind}: {said}")
