"""Checks of Raft against what real servers answered: healthy, split, leaderless, one of them stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recorded_cluster import recorded

from nomad_testkit.checks import BootstrapExpectAgrees, Check, Leader, NotSplit, RaftPeers
from nomad_testkit.checks.raft import RaftView, all_of, split
from nomad_testkit.cluster.check import Answer, HostRef
from nomad_testkit.wait import Broken, Ok, Pending

A, B, C = (f"i-0a00000000000000{n}" for n in (1, 2, 3))
ON_A, ON_B, ON_C = f"{A} (172.31.16.11)", f"{B} (172.31.32.12)", f"{C} (172.31.48.13)"


def test_healthy_servers_have_each_other_as_peers() -> None:
    assert RaftPeers(3).verdict(recorded("healthy")) == Ok(
        "consul: 3 peers on every server; nomad: 3 peers on every server"
    )


def test_peers_of_a_cluster_that_was_to_be_larger_are_pending() -> None:
    verdict = RaftPeers(5).verdict(recorded("healthy"))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"the cluster has 3 consul servers: {ON_A}, {ON_B}, {ON_C}; the cluster has 3 nomad")


def test_a_peer_that_is_missing_on_one_server_is_named() -> None:
    check = RaftPeers(3)
    consul, nomad = check.observe(recorded("healthy"))
    first, *others = nomad.peers
    lagging = replace(nomad, peers=(replace(first, value=first.value[:2]), *others))

    assert check.judge((consul, lagging)) == Pending(f"{ON_A} has 2 nomad peers, without {C}")


def test_a_peer_of_another_cluster_is_named() -> None:
    check = RaftPeers(3)
    consul, nomad = check.observe(recorded("healthy"))
    strangers = replace(consul, peers=tuple(replace(one, value=(*one.value, "10.9.9.9:8300")) for one in consul.peers))

    verdict = check.judge((strangers, nomad))

    assert isinstance(verdict, Pending)
    assert f"{ON_B} has 4 consul peers, with 10.9.9.9:8300 (not of this cluster)" in verdict.seen


def test_stopped_servers_are_named_as_those_that_do_not_answer() -> None:
    verdict = RaftPeers(3).verdict(recorded("leaderless"))

    assert isinstance(verdict, Pending)
    assert f"{ON_B}: consul at http://172.31.32.12:8500 did not answer: connection refused" in verdict.seen


def test_servers_that_bootstrapped_apart_are_broken_at_once() -> None:
    text = (
        f"consul is split: {ON_A} sees only itself; {ON_B} sees only itself; {ON_C} sees only itself; "
        f"nomad is split: {ON_A} sees only itself; {ON_B} sees only itself; {ON_C} sees only itself"
    )

    assert NotSplit().verdict(recorded("split")) == Broken(text)
    assert RaftPeers(3).verdict(recorded("split")) == Broken(text)


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
def test_a_server_that_leads_itself_and_two_leaders_are_a_split_whatever_the_overlap(
    peers: tuple[str, ...], leaders: str, parted: bool
) -> None:
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


def test_one_cluster_is_not_split() -> None:
    assert NotSplit().verdict(recorded("healthy")) == Ok("consul is one cluster; nomad is one cluster")


def test_servers_that_wait_for_a_third_are_not_split_but_pending() -> None:
    verdict = NotSplit().verdict(recorded("bootstrapping"))

    assert verdict == Pending(f"no consul peers yet on {ON_A}, {ON_B}; no nomad peers yet on {ON_A}, {ON_B}")


def test_a_server_with_peers_beside_one_without_is_pending() -> None:
    check = NotSplit()
    consul, nomad = check.observe(recorded("healthy"))
    first, *others = consul.peers

    assert check.judge((replace(consul, peers=(replace(first, value=()), *others)), nomad)) == Pending(
        f"no consul peers yet on {ON_A}"
    )


def test_healthy_servers_agree_on_a_leader() -> None:
    verdict = Leader().verdict(recorded("healthy"))

    assert isinstance(verdict, Ok)
    assert verdict.value.startswith("consul leader is i-0a")
    assert "; nomad leader is i-0a" in verdict.value


def test_the_last_of_three_servers_has_no_leader() -> None:
    verdict = Leader().verdict(recorded("leaderless").only(servers=1))

    assert verdict == Pending(f"no consul leader on {ON_A}; no nomad leader on {ON_A}")


def test_servers_that_name_different_leaders_are_told() -> None:
    verdict = Leader().verdict(recorded("split"))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"several consul leaders: {ON_A} says {A}; {ON_B} says {B}; {ON_C} says {C}; ")
    assert "several nomad leaders" in verdict.seen


def test_a_leader_outside_the_cluster_is_told() -> None:
    check = Leader()
    consul, nomad = check.observe(recorded("healthy"))
    elsewhere = replace(nomad, leader=tuple(replace(one, value="10.9.9.9:4647") for one in nomad.leader))

    assert check.judge((consul, elsewhere)) == Pending("the nomad leader is 10.9.9.9:4647 (not of this cluster)")


def test_bootstrap_expect_agrees_on_healthy_servers() -> None:
    assert BootstrapExpectAgrees().verdict(recorded("healthy")) == Ok(
        "consul: bootstrap_expect 3 on every server; nomad: bootstrap_expect 3 on every server"
    )


def test_bootstrap_expect_that_differs_is_broken() -> None:
    verdict = BootstrapExpectAgrees().verdict(recorded("expect-differs"))

    said = f"differs between servers: 1 on {ON_A}; 3 on {ON_B}; 3 on {ON_C}"
    assert verdict == Broken(f"consul's bootstrap_expect {said}; nomad's bootstrap_expect {said}")


def test_bootstrap_expect_of_one_on_three_servers_is_broken() -> None:
    verdict = BootstrapExpectAgrees().verdict(recorded("split"))

    assert isinstance(verdict, Broken)
    assert f"nomad's bootstrap_expect is not the number of servers, 3: 1 on {ON_A}; 1 on {ON_B}" in verdict.reason


def test_broken_outweighs_pending_and_pending_outweighs_ok() -> None:
    assert all_of([Ok("a"), Pending("b"), Broken("c")]) == Broken("c")
    assert all_of([Ok("a"), Pending("b"), Pending("d")]) == Pending("b; d")
    assert all_of([Ok("a"), Ok("b")]) == Ok("a; b")


@pytest.mark.parametrize("check", [RaftPeers(3), NotSplit()])
def test_a_server_that_made_itself_a_leader_of_one_is_broken_for_both_checks(check: Check[Any]) -> None:
    cluster = recorded("healthy")
    first, *_, last = cluster.servers
    own = f"{last.private_ip}:8300"
    answers = cluster.answers["consul"]
    everyone = [f"{host.private_ip}:8300" for host in cluster.servers]
    for path, others, alone in (
        ("/v1/status/peers", everyone, [own]),
        ("/v1/status/leader", f"{first.private_ip}:8300", own),
    ):
        answers[path] = {"*": {"status": 200, "body": others}, last.instance_id: {"status": 200, "body": alone}}

    verdict = check.verdict(cluster)

    assert isinstance(verdict, Broken)
    assert f"consul is split: {ON_A} sees only itself and {B}, {C}; " in verdict.reason
    assert f"{ON_C} sees only itself" in verdict.reason


def test_more_servers_than_wanted_are_pending() -> None:
    verdict = RaftPeers(2).verdict(recorded("healthy"))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"the cluster has 3 consul servers: {ON_A}, {ON_B}, {ON_C}; ")


def test_two_leaders_are_several() -> None:
    check = Leader()
    consul, nomad = check.observe(recorded("healthy"))
    other = next(address for address in consul.expected if address != consul.leader[0].value)
    first, *others = consul.leader

    verdict = check.judge((replace(consul, leader=(replace(first, value=other), *others)), nomad))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith("several consul leaders: ")


def test_a_leader_that_is_no_peer_of_a_server_is_told() -> None:
    check = Leader()
    consul, nomad = check.observe(recorded("healthy"))
    first, *others = consul.peers
    without = tuple(address for address in first.value if address != consul.leader[0].value)
    assert without

    verdict = check.judge((replace(consul, peers=(replace(first, value=without), *others)), nomad))

    assert isinstance(verdict, Pending)
    assert verdict.seen.endswith(f" is no peer on {ON_A}")
