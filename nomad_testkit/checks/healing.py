"""Whether a cluster heals: leaders re-elected, a minority that refuses, nothing left of hosts that are no more."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from nomad_testkit.checks.health import consul_members
from nomad_testkit.checks.raft import RAFT_PORT, servers_of
from nomad_testkit.checks.scheduling import JobView, judge_running, observe_job
from nomad_testkit.cluster.agents import AgentName
from nomad_testkit.cluster.check import Answer, Check, ClusterView, HostRef, Unanswered, Verdict, ask_every
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.jobs import Job
from nomad_testkit.errors import AgentApiError
from nomad_testkit.wait import Broken, Ok, Pending

WRITTEN_BY_A_MINORITY = "nomad-testkit/minority"


def leader_of(cluster: ClusterView, agent: AgentName) -> Host:
    """Find the host of the leader that every server of an agent names. Raises AgentApiError while they do not agree."""
    servers = servers_of(cluster, agent)
    if not servers:
        raise Unanswered(f"there is no {agent} server to ask for its leader")
    named = {(host.consul if agent == "consul" else host.nomad).leader() for host in servers}
    found = [host for host in servers if named == {f"{host.private_ip}:{RAFT_PORT[agent]}"}]
    if not found:
        raise AgentApiError(agent, servers[0].address, None, f"the servers name as leader {', '.join(sorted(named))}")
    return found[0]


@dataclass(frozen=True)
class LeaderReelected(Check[tuple[Answer[str], ...]]):
    """Every server but those `without` names the same leader, and that is not the `old` one.

    >>> with nomad_faults.kill("consul", old) as fault:  # doctest: +SKIP
    ...     require(cluster, LeaderReelected("consul", old), within=30)
    ...     print(f"after {fault.seconds:.1f} s")
    """

    survives_lost_hosts: ClassVar[bool] = True

    agent: AgentName
    old: Host
    without: tuple[Host, ...] = ()
    """Servers that cannot know, because they are cut off; the old leader is one where nothing is named."""

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"a {self.agent} leader instead of {self.old.instance_id}, the same on every server that is left"

    def observe(self, cluster: ClusterView) -> tuple[Answer[str], ...]:
        """Ask every server that is left for its leader (GET /v1/status/leader)."""
        out = {host.instance_id for host in self.without or (self.old,)}
        asked = [host for host in servers_of(cluster, self.agent) if host.instance_id not in out]
        return ask_every(asked, lambda host: (host.consul if self.agent == "consul" else host.nomad).leader())

    def judge(self, observed: tuple[Answer[str], ...]) -> Verdict:
        """Compare what the servers say."""
        named = {answer.value for answer in observed}
        said = "; ".join(f"{answer.place} names {answer.value or 'none'}" for answer in observed)
        old = f"{self.old.private_ip}:{RAFT_PORT[self.agent]}"
        if len(named) != 1 or "" in named or old in named:
            return Pending(f"{self.agent} leader: {said or 'no server is left'}")
        return Ok(f"{self.agent} leader is {named.pop()}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a write to one server: the error, or that it was acknowledged."""

    acknowledged: bool
    error: str = ""
    leader: str = ""
    """Whom the server names as leader afterwards."""


@dataclass(frozen=True)
class RefusesWrites(Check[tuple[Answer[Attempt], ...]]):
    """Each of some servers, cut off from the majority, refuses a write and names no leader.

    Broken at once when one acknowledges it: that write will be lost, or the cluster is split.

    >>> with nomad_faults.partition(minority, majority):  # doctest: +SKIP
    ...     require(cluster, RefusesWrites("consul", minority), within=30)
    """

    survives_lost_hosts: ClassVar[bool] = True

    agent: AgentName
    minority: tuple[Host, ...]

    @property
    def wanted(self) -> str:
        """What this check demands."""
        names = ", ".join(host.instance_id for host in self.minority)
        return f"no write acknowledged by {self.agent} on {names}, which names no leader"

    def observe(self, cluster: ClusterView) -> tuple[Answer[Attempt], ...]:
        """Write by each of them, and ask it for its leader."""
        with ThreadPoolExecutor(len(self.minority)) as pool:
            return tuple(pool.map(self._try, self.minority))

    def _try(self, host: Host) -> Answer[Attempt]:
        client = host.consul if self.agent == "consul" else host.nomad
        try:
            if self.agent == "consul":
                done = host.consul.put_key(WRITTEN_BY_A_MINORITY, host.instance_id)
            else:
                done = host.nomad.put_variable(WRITTEN_BY_A_MINORITY, {"by": host.instance_id})
        except AgentApiError as error:
            try:
                leader = client.leader()
            except AgentApiError as second:
                # Consul passes this question on as any other, and finds nobody to answer it.
                leader = "" if second.status is not None else str(second)
            return Answer(HostRef.of(host), Attempt(False, str(error), leader))
        return Answer(HostRef.of(host), Attempt(done))

    def judge(self, observed: tuple[Answer[Attempt], ...]) -> Verdict:
        """Look at each attempt."""
        if done := [str(answer.place) for answer in observed if answer.value.acknowledged]:
            return Broken(f"{self.agent} on {', '.join(done)} has acknowledged a write")
        if led := [f"{answer.place} names {answer.value.leader}" for answer in observed if answer.value.leader]:
            return Pending(f"{self.agent}: {'; '.join(led)}")
        return Ok(f"{self.agent} refuses writes on {len(observed)} servers")


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """What one Consul server still has of a node."""

    there: bool
    services: tuple[str, ...] = ()
    serf: str = ""


def _left_of(host: Host, node: str) -> NodeLeft:
    found = host.consul.node(node, stale=True)
    if found is None:
        return NodeLeft(False)
    services = tuple(sorted(str(one["Service"]) for one in (found["Services"] or {}).values()))
    return NodeLeft(True, services, consul_members(host.consul.members()).get(node, "not a member"))


@dataclass(frozen=True)
class NodeGone(Check[tuple[Answer[NodeLeft], ...]]):
    """No Consul server has a node, or a service on it, any more.

    A host that was shut down says that it leaves. One that was lost, as by a power cut, does not: Consul keeps its node
    and services, as critical, for 72 h (`reconnect_timeout`), until somebody says `consul force-leave`.

    >>> NodeGone("i-0a1b").wanted
    'no node i-0a1b in Consul, nor a service on it, on any server'
    """

    survives_lost_hosts: ClassVar[bool] = True

    node: str

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"no node {self.node} in Consul, nor a service on it, on any server"

    def observe(self, cluster: ClusterView) -> tuple[Answer[NodeLeft], ...]:
        """Ask every server for the node (GET /v1/catalog/node/:node?stale) and for its members."""
        return ask_every(cluster.consul_servers, lambda host: _left_of(host, self.node))

    def judge(self, observed: tuple[Answer[NodeLeft], ...]) -> Verdict:
        """Look for what is left."""
        left = [answer for answer in observed if answer.value.there]
        if not left:
            return Ok(f"{self.node} is gone")
        services = sorted({service for answer in left for service in answer.value.services})
        states = sorted({answer.value.serf for answer in left})
        text = f"{self.node} is {' and '.join(states)}, and in Consul's catalog on {len(left)} servers"
        text += f" with {', '.join(services)}" if services else " without services"
        if "failed" in states:
            text += f"; it was lost without leaving: `consul force-leave -prune {self.node}` removes it"
        return Pending(text)


@dataclass(frozen=True)
class RunsElsewhere(Check[JobView]):
    """All allocations of a job run, and none of them on nodes that were lost.

    Nomad holds a client for lost when it has sent no heartbeat for its TTL and `heartbeat_grace`, 10 s at least each.

    >>> with nomad_faults.isolate(client):  # doctest: +SKIP
    ...     require(cluster, RunsElsewhere(job, (client.instance_id,)), within=120)
    """

    survives_lost_hosts: ClassVar[bool] = True

    job: Job
    lost: tuple[str, ...]
    """Instance ids."""

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"{self.job.count} running allocations of {self.job.id}, none of them on {', '.join(self.lost)}"

    def observe(self, cluster: ClusterView) -> JobView:
        """Ask every Nomad server for the job, its evaluations and allocations."""
        return observe_job(cluster, self.job)

    def judge(self, observed: JobView) -> Verdict:
        """Count what runs, and look where."""
        running = judge_running(observed)
        there = sorted(
            {
                str(alloc)
                for answer in observed.answers
                for alloc in answer.value.allocations
                if alloc.running and alloc.node in self.lost
            }
        )
        return Pending("; ".join(there)) if there and not isinstance(running, Broken) else running


NodeIds = Mapping[str, Mapping[str, str]]
"""By agent, and by instance id: the id that an agent gave itself when it first started."""


def node_ids(cluster: ClusterView) -> NodeIds:
    """Read the ids of all agents, as the leaders know them. Raises AgentApiError."""
    if not cluster.consul_servers or not cluster.nomad_servers:
        raise Unanswered("there is no server to ask for the nodes' ids")
    consul = {str(one["Node"]): str(one["ID"]) for one in cluster.consul_servers[0].consul.nodes()}
    nomad = {str(one["Name"]): str(one["ID"]) for one in cluster.nomad_servers[0].nomad.nodes()}
    for member in cluster.nomad_servers[0].nomad.members():
        name = str(member["Name"]).removesuffix(f".{member['Tags']['region']}")
        nomad[name] = str(member["Tags"]["id"])
    return {"consul": consul, "nomad": nomad}


@dataclass(frozen=True)
class SameNodes(Check[NodeIds]):
    """Hosts are the same nodes of Consul and Nomad as before: an agent that starts again keeps its id.

    >>> before = node_ids(cluster)  # doctest: +SKIP
    """

    survives_lost_hosts: ClassVar[bool] = True

    before: NodeIds
    hosts: tuple[Host, ...]

    def __hash__(self) -> int:
        return hash(self.hosts)

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"the node ids of before on {', '.join(host.instance_id for host in self.hosts)}"

    def observe(self, cluster: ClusterView) -> NodeIds:
        """Ask the first server of each agent for all nodes."""
        return node_ids(cluster)

    def judge(self, observed: NodeIds) -> Verdict:
        """Compare each host's ids."""
        wrong = [
            f"{host.instance_id} is {agent} node {now}, and was {before}"
            for agent, ids in self.before.items()
            for host in self.hosts
            if (before := ids.get(host.instance_id)) != (now := observed[agent].get(host.instance_id, "none"))
            and before is not None
        ]
        # It may not be known again yet; an agent never takes its old id back.
        if wrong:
            return Pending("; ".join(wrong)) if any("node none" in one for one in wrong) else Broken("; ".join(wrong))
        return Ok(f"{len(self.hosts)} hosts are the nodes that they were")


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One deployment of a job as one server knows it."""

    id: str
    status: str
    description: str


@dataclass(frozen=True)
class DeploymentSucceeds(Check[tuple[Answer[DeploymentState | None], ...]]):
    """The deployment with an id becomes successful, in every server's answer; a failed or cancelled one is Broken.

    >>> require(cluster, DeploymentSucceeds(job, deployment_id), within=120)  # doctest: +SKIP
    """

    job: Job
    deployment: str

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"deployment {self.deployment[:8]} of {self.job.id} successful on every server"

    def observe(self, cluster: ClusterView) -> tuple[Answer[DeploymentState | None], ...]:
        """Ask every server (GET /v1/job/:id/deployments?stale)."""

        def ask(host: Host) -> DeploymentState | None:
            found = [
                DeploymentState(str(one["ID"]), str(one["Status"]), str(one["StatusDescription"]))
                for one in host.nomad.job_deployments(self.job.id, stale=True)
            ]
            return next((one for one in found if one.id == self.deployment), None)

        return ask_every(cluster.nomad_servers, ask)

    def judge(self, observed: tuple[Answer[DeploymentState | None], ...]) -> Verdict:
        """Look at its status everywhere."""
        waiting = []
        for answer in observed:
            state = answer.value
            if state is None:
                waiting.append(f"{answer.place} does not know it")
            elif state.status in ("failed", "cancelled"):
                return Broken(f"it is {state.status}: {state.description}")
            elif state.status != "successful":
                waiting.append(f"{answer.place}: {state.status}: {state.description}")
        return Pending("; ".join(waiting)) if waiting else Ok(f"deployment {self.deployment[:8]} is successful")


__all__ = [
    "DeploymentSucceeds",
    "LeaderReelected",
    "NodeGone",
    "RefusesWrites",
    "RunsElsewhere",
    "SameNodes",
    "leader_of",
    "node_ids",
]
