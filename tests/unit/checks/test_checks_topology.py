"""Which agent runs where: what the checks make of the agents' own words."""

from __future__ import annotations

import pytest
from recorded_cluster import recorded
from verdicts import broken

from nomad_testkit.checks import ConsulAgents, SeparateServers
from nomad_testkit.checks.raft import RAFT_PORT, RaftView
from nomad_testkit.checks.topology import ConsulAgentsView
from nomad_testkit.cluster.agents import AgentName
from nomad_testkit.cluster.check import Answer, HostRef
from nomad_testkit.wait import Broken, Ok, Pending

ONE, TWO, THREE = (HostRef(f"i-{n}", f"172.31.16.{n}", f"127.31.16.{n}") for n in (1, 2, 3))


def agents(*answers: dict[HostRef, str]) -> ConsulAgentsView:
    said = ({place.instance_id: role for place, role in answer.items()} for answer in answers)
    return ConsulAgentsView((ONE, TWO, THREE), (ONE,), tuple(Answer(ONE, roles) for roles in said))


@pytest.mark.parametrize(
    ("observed", "verdict"),
    [
        (agents({ONE: "consul", TWO: "node", THREE: "node"}), Ok("1 Consul servers and 2 clients are one cluster")),
        (agents({ONE: "consul", TWO: "consul"}), Broken(f"a Consul server on {TWO}, asked on {ONE}")),
        (agents({ONE: "node", TWO: "node", THREE: "node"}), Broken(f"a Consul client on {ONE}, asked on {ONE}")),
        (
            agents({ONE: "consul", TWO: "node", THREE: "node"}, {ONE: "consul", TWO: "node"}),
            Pending(f"no Consul client on {THREE}, asked on {ONE}"),
        ),
        (agents(), Pending("no Consul servers")),
    ],
)
def test_consul_agents(observed: ConsulAgentsView, verdict: Ok[str] | Pending | Broken) -> None:
    assert ConsulAgents().judge(observed) == verdict


def test_a_recorded_clusters_members_have_their_roles() -> None:
    assert ConsulAgents().verdict(recorded("healthy")) == Ok("3 Consul servers and 3 clients are one cluster")


def raft(consul: dict[HostRef, list[HostRef]], nomad: dict[HostRef, list[HostRef]]) -> tuple[RaftView, ...]:
    def view(agent: AgentName, peers: dict[HostRef, list[HostRef]]) -> RaftView:
        said = tuple(Answer(at, tuple(f"{one.private_ip}:{RAFT_PORT[agent]}" for one in peers[at])) for at in peers)
        return RaftView(agent, tuple(peers), said)

    return view("consul", consul), view("nomad", nomad)


@pytest.mark.parametrize(
    ("observed", "verdict"),
    [
        (
            raft({ONE: [ONE]}, {TWO: [TWO, THREE], THREE: [TWO, THREE]}),
            Ok("1 Consul peers and 2 Nomad peers have no host in common"),
        ),
        (raft({ONE: [ONE]}, {TWO: [TWO, ONE]}), Broken("peers of both Consul and Nomad: i-1 (127.31.16.1)")),
        (raft({ONE: [ONE]}, {TWO: []}), Pending("no nomad server has peers yet")),
    ],
)
def test_separate_servers(observed: tuple[RaftView, ...], verdict: Ok[str] | Pending | Broken) -> None:
    assert SeparateServers().judge(observed) == verdict


def test_a_recorded_colocated_cluster_is_not_separate() -> None:
    assert SeparateServers().verdict(recorded("healthy")) == broken(start="peers of both Consul and Nomad: i-")
