"""Which agent runs where: what the checks make of the agents' own words."""

from __future__ import annotations

import pytest
from recorded_cluster import recorded

from nomad_testkit.checks import ConsulAgents, SeparateServers
from nomad_testkit.checks.base import Answer, Place
from nomad_testkit.checks.raft import RAFT_PORT, AgentName, RaftView
from nomad_testkit.checks.topology import ConsulAgent, ConsulAgentsView
from nomad_testkit.wait import Broken, Ok, Pending

ONE, TWO, THREE = (Place(f"i-{n}", f"172.31.16.{n}", f"127.31.16.{n}") for n in (1, 2, 3))
LEADER = "172.31.16.1:8300"


def agents(*found: tuple[Place, bool, str]) -> ConsulAgentsView:
    return ConsulAgentsView(
        (ONE,), tuple(Answer(place, ConsulAgent(server, leader)) for place, server, leader in found)
    )


@pytest.mark.parametrize(
    ("observed", "verdict"),
    [
        (
            agents((ONE, True, LEADER), (TWO, False, LEADER), (THREE, False, LEADER)),
            Ok("1 Consul servers and 2 clients have one leader"),
        ),
        (
            agents((ONE, True, LEADER), (TWO, True, LEADER), (THREE, False, "")),
            Broken("i-2 (127.31.16.2) runs a Consul server"),
        ),
        (agents((ONE, False, LEADER), (TWO, False, LEADER)), Broken("i-1 (127.31.16.1) runs a Consul client")),
        (
            agents((ONE, True, LEADER), (TWO, False, "172.31.16.9:8300")),
            Pending(
                "i-1 (127.31.16.1) says the leader is '172.31.16.1:8300'; "
                "i-2 (127.31.16.2) says the leader is '172.31.16.9:8300'"
            ),
        ),
        (
            agents((ONE, True, ""), (TWO, False, "")),
            Pending("i-1 (127.31.16.1) says the leader is ''; i-2 (127.31.16.2) says the leader is ''"),
        ),
    ],
)
def test_consul_agents(observed: ConsulAgentsView, verdict: Ok[str] | Pending | Broken) -> None:
    assert ConsulAgents().judge(observed) == verdict


def raft(consul: dict[Place, list[Place]], nomad: dict[Place, list[Place]]) -> tuple[RaftView, ...]:
    def view(agent: AgentName, peers: dict[Place, list[Place]]) -> RaftView:
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
    verdict = SeparateServers().verdict(recorded("healthy"))
    assert isinstance(verdict, Broken)
    assert verdict.reason.startswith("peers of both Consul and Nomad: i-")
