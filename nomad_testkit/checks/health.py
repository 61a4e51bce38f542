"""What autopilot and gossip say of the servers and members, asked on every server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nomad_testkit.checks.raft import all_of, servers_of
from nomad_testkit.cluster.agents import AGENTS, AgentName, serf_status
from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Verdict, ask_every, places
from nomad_testkit.cluster.host import Host
from nomad_testkit.wait import Ok, Pending


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """One server in autopilot's answer."""

    name: str
    healthy: bool
    voter: bool
    leader: bool
    serf_status: str
    version: str
    last_index: int
    last_term: int
    last_contact: str

    @classmethod
    def parse(cls, server: Mapping[str, Any]) -> ServerHealth:
        """Read one entry of `Servers` in GET /v1/operator/autopilot/health, the same in both agents."""
        return cls(
            name=str(server["Name"]),
            healthy=bool(server["Healthy"]),
            voter=bool(server["Voter"]),
            leader=bool(server["Leader"]),
            serf_status=str(server["SerfStatus"]),
            version=str(server["Version"]),
            last_index=int(server["LastIndex"]),
            last_term=int(server["LastTerm"]),
            last_contact=str(server["LastContact"]),
        )

    def __str__(self) -> str:
        state = "healthy" if self.healthy else "unhealthy"
        role = "" if self.voter else ", not a voter"
        return f"{self.name} is {state} (serf {self.serf_status}, last contact {self.last_contact}{role})"


@dataclass(frozen=True, slots=True)
class AutopilotAnswer:
    """Autopilot's view of the servers, as one server gave it."""

    healthy: bool
    servers: tuple[ServerHealth, ...]

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> AutopilotAnswer:
        """Read the answer of GET /v1/operator/autopilot/health."""
        servers = tuple(ServerHealth.parse(server) for server in answer.get("Servers") or ())
        return cls(bool(answer["Healthy"]), servers)


@dataclass(frozen=True, slots=True)
class AutopilotView:
    """What every server of one agent passes on of autopilot."""

    agent: AgentName
    count: int
    answers: tuple[Answer[AutopilotAnswer], ...]


def _autopilot(host: Host, agent: AgentName) -> AutopilotAnswer:
    client = host.nomad if agent == "nomad" else host.consul
    return AutopilotAnswer.parse(client.autopilot_health())


def _observe_autopilot(cluster: ClusterView, agent: AgentName) -> AutopilotView:
    servers = servers_of(cluster, agent)
    return AutopilotView(agent, len(servers), ask_every(servers, lambda host: _autopilot(host, agent)))


def _unhealthy(agent: AgentName, count: int, answer: Answer[AutopilotAnswer]) -> str | None:
    """Say what is wrong in one server's answer, None when nothing is."""
    value = answer.value
    bad = [str(server) for server in value.servers if not server.healthy or not server.voter]
    if bad:
        return f"{agent} autopilot, asked on {answer.place}: {', '.join(bad)}"
    if len(value.servers) != count:
        names = ", ".join(server.name for server in value.servers) or "none"
        return f"{agent} autopilot, asked on {answer.place}, knows {len(value.servers)} servers: {names}"
    if not value.healthy:
        return f"{agent} autopilot, asked on {answer.place}, is unhealthy"
    return None


@dataclass(frozen=True)
class AutopilotHealthy(Check[tuple[AutopilotView, ...]]):
    """Autopilot holds every server for healthy and for a voter, in Consul and in Nomad.

    A server gets its vote only after the `server_stabilization_time` of the agents' autopilot block, 10 s by default.

    >>> AutopilotHealthy().wanted
    'autopilot healthy, with every server a healthy voter, in Consul and in Nomad'
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return "autopilot healthy, with every server a healthy voter, in Consul and in Nomad"

    def observe(self, cluster: ClusterView) -> tuple[AutopilotView, ...]:
        """Ask every server (GET /v1/operator/autopilot/health, where status 429 means unhealthy)."""
        return tuple(_observe_autopilot(cluster, agent) for agent in AGENTS)

    def judge(self, observed: tuple[AutopilotView, ...]) -> Verdict:
        """Look at each server in each answer."""
        return all_of([self._judge_one(view) for view in observed])

    @staticmethod
    def _judge_one(view: AutopilotView) -> Verdict:
        wrong = [text for answer in view.answers if (text := _unhealthy(view.agent, view.count, answer))]
        return Pending("; ".join(wrong)) if wrong else Ok(f"{view.agent} autopilot is healthy")


@dataclass(frozen=True)
class HealthyServers(AutopilotHealthy):
    """Health as Nomad's own release tests define it.

    Every server is healthy in autopilot, its last index and term are at least the leader's, and one version
    runs everywhere. Under load followers are an entry behind now and then, so it may take a few tries.

    >>> require(cluster, HealthyServers(), within=30)  # doctest: +SKIP
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return "every server healthy, not behind the leader's log, all of one version, in Consul and in Nomad"

    def judge(self, observed: tuple[AutopilotView, ...]) -> Verdict:
        """Look at health first, then compare each server with the leader."""
        return all_of([super().judge(observed), *(self._judge_logs(view) for view in observed)])

    @staticmethod
    def _judge_logs(view: AutopilotView) -> Verdict:
        wrong = []
        for answer in view.answers:
            leader = next((server for server in answer.value.servers if server.leader), None)
            if leader is None:
                wrong.append(f"{view.agent} autopilot, asked on {answer.place}, knows no leader")
                continue
            for server in answer.value.servers:
                if (server.last_term, server.last_index) < (leader.last_term, leader.last_index):
                    wrong.append(
                        f"{server.name} is behind {view.agent} leader {leader.name}: "
                        f"term {server.last_term} and index {server.last_index} "
                        f"instead of {leader.last_term} and {leader.last_index}"
                    )
                if server.version != leader.version:
                    wrong.append(f"{server.name} runs {view.agent} {server.version}, the leader {leader.version}")
        if wrong:
            return Pending("; ".join(dict.fromkeys(wrong)))
        return Ok(f"{view.agent} servers are level with their leader")


def consul_members(answer: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Read GET /v1/agent/members of Consul: node names and their serf status in words."""
    return {str(member["Name"]): serf_status(member) for member in answer}


def nomad_members(answer: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Read GET /v1/agent/members of Nomad: there a name ends in the region, which is cut off.

    >>> nomad_members([{"Name": "i-1.us-east-1", "Status": "alive", "Tags": {"region": "us-east-1"}}])
    {'i-1': 'alive'}
    """
    return {
        str(member["Name"]).removesuffix(f".{member['Tags']['region']}"): str(member["Status"]) for member in answer
    }


@dataclass(frozen=True, slots=True)
class MembersView:
    """The gossip members of one agent as each of its servers sees them."""

    agent: AgentName
    expected: tuple[HostRef, ...]
    answers: tuple[Answer[dict[str, str]], ...]


@dataclass(frozen=True)
class NoFailedMembers(Check[tuple[MembersView, ...]]):
    """Gossip has exactly the cluster's hosts (Consul) and servers (Nomad), all alive, on every server.

    Members that left on purpose are not counted: both agents list them for days.

    >>> NoFailedMembers().wanted
    "exactly the cluster's hosts as Consul members and its servers as Nomad members, all alive"
    """

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return "exactly the cluster's hosts as Consul members and its servers as Nomad members, all alive"

    def observe(self, cluster: ClusterView) -> tuple[MembersView, ...]:
        """Ask every server for its members (GET /v1/agent/members)."""
        consul = ask_every(cluster.consul_servers, lambda host: consul_members(host.consul.members()))
        nomad = ask_every(cluster.nomad_servers, lambda host: nomad_members(host.nomad.members()))
        return (
            MembersView("consul", places(cluster.hosts), consul),
            MembersView("nomad", places(cluster.nomad_servers), nomad),
        )

    def judge(self, observed: tuple[MembersView, ...]) -> Verdict:
        """Compare each server's members with the hosts."""
        return all_of([self._judge_one(view) for view in observed])

    @staticmethod
    def _judge_one(view: MembersView) -> Verdict:
        expected = {place.instance_id: place for place in view.expected}
        wrong = []
        for answer in view.answers:
            present = {name: status for name, status in answer.value.items() if status != "left"}
            faults = [f"{name} is {status}" for name, status in present.items() if status != "alive"]
            faults += [f"{expected[name]} is missing" for name in expected if name not in present]
            faults += [f"{name} is not of this cluster" for name in present if name not in expected]
            if faults:
                wrong.append(f"{view.agent} members on {answer.place}: {', '.join(faults)}")
        if wrong:
            return Pending("; ".join(wrong))
        return Ok(f"{len(expected)} {view.agent} members are alive")
