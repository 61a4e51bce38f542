"""Checks of Raft against what real servers answered: healthy, split, leaderless, one of them stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recorded_cluster import recorded
from verdicts import broken, everyone, first, pending

from nomad_testkit.checks import BootstrapExpectAgrees, Check, Leader, NotSplit, RaftPeers
from nomad_testkit.checks.raft import RaftView, all_of, split
from nomad_testkit.cluster.check import Answer, HostRef
from nomad_testkit.wait import Broken, Ok, Pending

A, B, C = (f"i-0a00000000000000{n}" for n in (1, 2, 3))
ON_A, ON_B, ON_C = f"{A} (172.31.16.11)", f"{B} (172.31.32.12)", f"{C} (172.31.48.13)"
APART = f"{ON_A} sees only itself; {ON_B} sees only itself; {ON_C} sees only itself"
SPLIT = Broken(f"consul is split: {APART}; nomad is split: {APART}")
DIFFERS = f"differs between servers: 1 on {ON_A}; 3 on {ON_B}; 3 on {ON_C}"
WITHOUT_LEADER = Pending(f"no consul leader on {ON_A}; no nomad leader on {ON_A}")


@pytest.mark.parametrize(
    ("check", "recording", "verdict"),
    [
        (RaftPeers(3), "healthy", Ok("consul: 3 peers on every server; nomad: 3 peers on every server")),
        (
            RaftPeers(5),
            "healthy",
            pending(start=f"the cluster has 3 consul servers: {ON_A}, {ON_B}, {ON_C}; the cluster has 3 nomad"),
        ),
        (RaftPeers(2), "healthy", pending(start=f"the cluster has 3 consul servers: {ON_A}, {ON_B}, {ON_C}; ")),
        (
            RaftPeers(3),
            "leaderless",
            pending(f"{ON_B}: consul at http://172.31.32.12:8500 did not answer: connection refused"),
        ),
        (RaftPeers(3), "split", SPLIT),
        (NotSplit(), "split", SPLIT),
        (NotSplit(), "healthy", Ok("consul is one cluster; nomad is one cluster")),
        (
            NotSplit(),  # two that wait for a third
            "bootstrapping",
            Pending(f"no consul peers yet on {ON_A}, {ON_B}; no nomad peers yet on {ON_A}, {ON_B}"),
        ),
        (
            Leader(),
            "split",
            pending(
                "several nomad leaders",
                start=f"several consul leaders: {ON_A} says {A}; {ON_B} says {B}; {ON_C} says {C}; ",
            ),
        ),
        (
            BootstrapExpectAgrees(),
            "healthy",
            Ok("consul: bootstrap_expect 3 on every server; nomad: bootstrap_expect 3 on every server"),
        ),
        (
            BootstrapExpectAgrees(),
            "expect-differs",
            Broken(f"consul's bootstrap_expect {DIFFERS}; nomad's bootstrap_expect {DIFFERS}"),
        ),
        (
            BootstrapExpectAgrees(),
            "split",
            broken(f"nomad's bootstrap_expect is not the number of servers, 3: 1 on {ON_A}; 1 on {ON_B}"),
        ),
    ],
)
def test_what_was_recorded(check: Check[Any], recording: str, verdict: object) -> None:
    assert check.verdict(recorded(recording)) == verdict


def test_healthy_servers_agree_on_a_leader_and_the_last_of_three_has_none() -> None:
    verdict = Leader().verdict(recorded("healthy"))
    assert isinstance(verdict, Ok)
    assert verdict.value.startswith("consul leader is i-0a")
    assert "; nomad leader is i-0a" in verdict.value
    assert Leader().verdict(recorded("leaderless").only(servers=1)) == WITHOUT_LEADER


def test_peers_that_are_missing_or_of_another_cluster_are_named() -> None:
    check = RaftPeers(3)
    consul, nomad = check.observe(recorded("healthy"))
    known = nomad.peers[0].value
    lagging = replace(nomad, peers=first(nomad.peers, known[:2]))
    assert check.judge((consul, lagging)) == Pending(f"{ON_A} has 2 nomad peers, without {C}")
    strangers = replace(consul, peers=everyone(consul.peers, (*consul.peers[0].value, "10.9.9.9:8300")))
    assert check.judge((strangers, nomad)) == pending(
        f"{ON_B} has 4 consul peers, with 10.9.9.9:8300 (not of this cluster)"
    )
    alone = replace(consul, peers=first(consul.peers, ()))
    assert NotSplit().judge((alone, nomad)) == Pending(f"no consul peers yet on {ON_A}")


def test_a_leader_outside_of_the_cluster_or_of_the_peers_and_two_of_them_are_told() -> None:
    check = Leader()
    consul, nomad = check.observe(recorded("healthy"))
    elsewhere = replace(nomad, leader=everyone(nomad.leader, "10.9.9.9:4647"))
    assert check.judge((consul, elsewhere)) == Pending("the nomad leader is 10.9.9.9:4647 (not of this cluster)")
    leader = consul.leader[0].value
    followers = tuple(address for address in consul.expected if address != leader)
    two = replace(consul, leader=first(consul.leader, followers[0]))
    assert check.judge((two, nomad)) == pending(start="several consul leaders: ")
    no_peer = replace(consul, peers=first(consul.peers, followers))
    assert check.judge((no_peer, nomad)) == pending(end=f" is no peer on {ON_A}")


@pytest.mark.parametrize(
    ("peers", "leaders", "parted"),
    [
        # c made itself the leader of one, though a and b count it as a peer; whether they have a leader or not.
        (("abc", "abc", "c"), "aac", True),
        (("abc", "abc", "c"), "--c", True),
        (("abc", "abc", "abc"), "abb", True),
        (("ab", "ab", "c"), "aac", True),
        # a has just been told of b, and b knows it from a: a cluster that grows.
        (("a", "ab", ""), "aa-", False),
        (("abc", "abc", "abc"), "aa-", False),
        (("abc", "abc", "c"), "aa-", False),
        (("a",), "a", False),
    ],
)
def test_what_is_a_split_whatever_the_overlap_of_peers(peers: tuple[str, ...], leaders: str, parted: bool) -> None:
    places = {name: HostRef(f"i-{name}", f"10.0.0.{name}", f"127.0.0.{name}") for name in "abc"}

    def address(name: str) -> str:
        return f"10.0.0.{name}:8300" if name in places else ""

    view = RaftView(
        "consul",
        tuple(places.values())[: len(peers)],
        tuple(Answer(place, tuple(map(address, seen))) for place, seen in zip(places.values(), peers, strict=False)),
        tuple(Answer(place, address(name)) for place, name in zip(places.values(), leaders, strict=False)),
    )
    assert bool(split(view)) is parted
    assert isinstance(NotSplit(("consul",)).judge((view,)), Broken) is parted


def test_broken_outweighs_pending_and_pending_outweighs_ok() -> None:
    assert all_of([Ok("a"), Pending("b"), Broken("c")]) == Broken("c")
    assert all_of([Ok("a"), Pending("b"), Pending("d")]) == Pending("b; d")
    assert all_of([Ok("a"), Ok("b")]) == Ok("a; b")


@pytest.mark.parametrize("check", [RaftPeers(3), NotSplit()])
def test_a_server_that_made_itself_a_leader_of_one_is_broken_for_both_checks(check: Check[Any]) -> None:
    cluster = recorded("healthy")
    addresses = [f"{host.private_ip}:8300" for host in cluster.servers]
    for path, others, alone in (
        ("/v1/status/peers", addresses, addresses[-1:]),
        ("/v1/status/leader", addresses[0], addresses[-1]),
    ):
        everywhere, itself = ({"status": 200, "body": body} for body in (others, alone))
        cluster.answers["consul"][path] = {"*": everywhere, cluster.servers[-1].instance_id: itself}
    assert check.verdict(cluster) == broken(
        f"consul is split: {ON_A} sees only itself and {B}, {C}; ", f"{ON_C} sees only itself"
    )
