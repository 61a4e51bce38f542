"""What is told of checks, faults and clusters to whoever listens, and the state of a cluster that answers in part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from recorded_cluster import recorded

from nomad_testkit.checks import Leader, RaftPeers, require
from nomad_testkit.checks.healing import LeaderReelected
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.state import state_of
from nomad_testkit.deployment.lifecycle_events import deployment_events
from nomad_testkit.errors import AgentApiError, CheckFailed, FaultError
from nomad_testkit.events import CheckEvent, ClusterEvent, Event, FaultEvent, emit, listening, wanted
from nomad_testkit.examples.example import Roles
from nomad_testkit.faults.fault import Fault
from nomad_testkit.faults.leader_watch import Claim, LeaderWatch, _tell
from nomad_testkit.faults.repairs import Repairs
from nomad_testkit.modules.network import Instance


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    with listening(events.append):
        yield events


def test_nothing_is_told_where_nobody_listens() -> None:
    events: list[Event] = []
    with listening(events.append):
        assert wanted()
    emit(ClusterEvent("nt-1", "kept"))
    assert events == []


def test_checks_tell_what_was_wanted_and_seen(heard: list[Event]) -> None:
    require(recorded("healthy"), Leader(), RaftPeers(3, ("consul",)), within=5)
    first, second = cast("list[CheckEvent]", heard)
    assert (first.name, first.held, first.tries) == ("Leader", True, 1)
    assert first.wanted == Leader().wanted
    assert first.seen.startswith("consul leader is i-")
    assert (second.name, second.seen) == ("RaftPeers consul", "consul: 3 peers on every server")
    assert 0 <= second.seconds < 5


def test_checks_that_fail_are_told_beside_those_that_held(heard: list[Event]) -> None:
    with pytest.raises(CheckFailed):
        require(recorded("healthy"), Leader(), RaftPeers(5), within=0.3)
    first, second = cast("list[CheckEvent]", heard)
    assert (first.held, second.held) == (True, False)
    assert second.tries > 1
    assert second.seconds >= 0.3
    assert "the cluster has 3 consul servers" in second.seen


def test_a_check_of_one_agent_is_named_with_it() -> None:
    from nomad_testkit.cluster.check import name_of

    assert name_of(LeaderReelected("nomad", recorded("healthy").hosts[0])) == "LeaderReelected nomad"
    assert name_of(Leader()) == "Leader"
    assert name_of(Leader(("nomad",))) == "Leader nomad"


def test_faults_are_told_when_they_are_undone(heard: list[Event]) -> None:
    def make(repairs: Repairs) -> None:
        repairs.add("mend it", lambda: None)

    def refuse(repairs: Repairs) -> None:
        def mend() -> None:
            raise FaultError("no")

        repairs.add("mend it", mend)

    with Fault("break it", make, run_id="nt-1"):
        assert heard == []
    with pytest.raises(FaultError, match="mend it: no"), Fault("break it more", refuse, run_id="nt-1"):
        pass
    done, left = cast("list[FaultEvent]", heard)
    assert (done.run_id, done.what, done.left) == ("nt-1", "break it", ())
    assert done.began <= done.ended
    assert (left.what, left.left) == ("break it more", ("mend it: no",))


@pytest.mark.parametrize(
    ("claims", "held", "seen"),
    [
        ([], False, "no leader (7 answers)"),
        (
            [Claim("consul", 2, "i-1"), Claim("consul", 3, "i-2"), Claim("nomad", 2, "i-1")],
            True,
            "consul, term 2: i-1; consul, term 3: i-2; nomad, term 2: i-1 (7 answers)",
        ),
        ([Claim("consul", 2, "i-1")], False, "consul, term 2: i-1 (7 answers)"),
        ([Claim("nomad", 2, "i-1"), Claim("nomad", 2, "i-2")], False, "nomad, term 2: i-1 and i-2 (7 answers)"),
    ],
)
def test_the_watch_of_leaders_is_told_as_a_check(
    claims: list[Claim], held: bool, seen: str, heard: list[Event]
) -> None:
    watch = LeaderWatch()
    watch.claims, watch.answers = set(claims), 7
    _tell(cast("Cluster", SimpleNamespace(run_id="nt-1")), watch, 0.0)
    (told,) = cast("list[CheckEvent]", heard)
    assert (told.run_id, told.name, told.held, told.seen) == ("nt-1", "LeaderWatch", held, seen)


def agents(**answers: Any) -> Any:
    """Stand in for a leader's API: each call answers, or raises what it is to raise."""

    def ask(answer: Any, *_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    return SimpleNamespace(**{name: partial(ask, answer) for name, answer in answers.items()})


def cluster_of(consul: Any, nomad: Any) -> Cluster:
    def host(number: int, group: str) -> Host:
        address = f"172.31.0.{number}"
        instance = Instance(f"i-{number}", group, "running", address, address, "us-east-1a", "ami-1")
        return Host(instance, address=f"127.31.0.{number}", ssh_user="admin", key_path=Path("no-key"))

    roles = Roles(("servers",), ("servers",), ("clients",))
    hosts = [host(1, "servers"), host(2, "clients")]
    return cast("Cluster", SimpleNamespace(run_id="nt-1", hosts=hosts, roles=roles, consul=consul, nomad=nomad))


CONSUL = {
    "leader": "172.31.0.1:8300",
    "members": [
        {"Name": "i-1", "Status": 1, "Tags": {"build": "1.14.0:0ba7a401"}},
        {"Name": "i-2", "Status": 4, "Tags": {"build": "1.13.9:abc"}},
    ],
}
NOMAD = {
    "leader": "172.31.0.1:4647",
    "members": [{"Name": "i-1.us-east-1", "Status": "alive", "Tags": {"build": "1.6.1"}}],
    "nodes": [
        {"Name": "i-2", "Status": "ready", "Version": "1.6.1"},
        {"Name": "i-2", "Status": "down", "Version": "1.6.1"},
    ],
    "get": [
        {"ID": "b", "Name": "web[1]", "NodeName": "i-2", "ClientStatus": "running", "CreateTime": 2},
        {"ID": "a", "Name": "web[0]", "NodeName": "i-2", "ClientStatus": "lost", "CreateTime": 1},
    ],
}


def test_the_state_of_a_cluster() -> None:
    state = state_of(cluster_of(agents(**CONSUL), agents(**NOMAD)))
    server, client = state.hosts
    assert (server.roles, server.leads) == (("Consul server", "Nomad server"), ("Consul", "Nomad"))
    assert (server.consul, server.nomad, server.address) == ("alive", "alive", "127.31.0.1")
    assert (client.roles, client.leads, client.consul, client.nomad) == (("Nomad client",), (), "failed", "ready")
    assert [(one.id, one.node, one.status) for one in state.allocations] == [
        ("a", "i-2", "lost"),
        ("b", "i-2", "running"),
    ]
    assert state.versions == {"consul": ("1.13.9", "1.14.0"), "nomad": ("1.6.1",)}
    assert state.problems == ()


def test_what_is_not_answered_is_left_out_of_a_state_and_waited_for_no_longer() -> None:
    never = threading.Event()
    error = AgentApiError("consul", "http://127.31.0.1:8500", 500, "No cluster leader")
    nomad = NOMAD | {"get": lambda: never.wait(10), "nodes": AttributeError("unexpected")}
    try:
        state = state_of(cluster_of(agents(**CONSUL | {"members": error}), agents(**nomad)), within=0.2)
    finally:
        never.set()
    assert (state.hosts[0].leads, state.hosts[0].consul, state.allocations) == (("Consul", "Nomad"), "", ())
    assert state.problems == (
        "Consul's members: consul at http://127.31.0.1:8500 answered 500: No cluster leader",
        "Nomad's nodes: unexpected",
        "Nomad's allocations: no answer within 0.2 s",
    )


def test_a_deployment_that_fails_is_told_with_how_far_it_came(heard: list[Event]) -> None:
    from nomad_testkit.cluster.timeline import HostTimeline

    example, target = SimpleNamespace(name="mine"), SimpleNamespace(name="embedded", region="us-east-1")
    hosts = [HostTimeline("i-1", "servers", "us-east-1a", "172.31.0.1", {"pending": 1.0})]

    def deploy() -> None:
        with deployment_events("nt-1", cast("Any", example), cast("Any", target)) as events:
            events.timeline = lambda: hosts
            raise RuntimeError("host i-1: no")

    with pytest.raises(RuntimeError):
        deploy()
    began, failed = cast("list[ClusterEvent]", heard)
    assert (began.moment, began.facts["example"], began.facts["region"]) == ("deploying", "mine", "us-east-1")
    assert (failed.moment, failed.facts["error"]) == ("failed", "host i-1: no")
    assert failed.facts["timeline"][0]["entered"] == {"pending": 1.0}
