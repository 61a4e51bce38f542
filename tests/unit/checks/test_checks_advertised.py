"""What agents advertise of themselves, beside their instances: real answers, with one fact of one agent changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from recorded_cluster import RecordedCluster, recorded
from verdicts import first, pending

from nomad_testkit.checks import AdvertisedAddresses
from nomad_testkit.wait import Ok, Pending

A, C1 = "i-0a000000000000001", "i-0c000000000000001"
NODES, MEMBERS = "/v1/nodes?stale=true", "/v1/agent/members"
SERVICE = "/v1/health/service/nomad-client?stale="


def changed(agent: str, path: str, change: Callable[[dict[str, Any]], bool]) -> RecordedCluster:
    """Record again, with each entry of an answer that `change` says it has changed."""
    cluster = recorded("healthy")
    done = 0
    for answer in cluster.answers[agent][path].values():
        answer["body"] = body = copy.deepcopy(answer["body"])
        done += sum(change(entry) for entry in (body["Members"] if isinstance(body, dict) else body))
    assert done, "nothing was changed"
    return cluster


def set_in(name: str, *keys: str, to: object) -> Callable[[dict[str, Any]], bool]:
    def change(entry: dict[str, Any]) -> bool:
        named = entry["Node"]["Node"] if isinstance(entry.get("Node"), dict) else str(entry["Name"])
        if not named.startswith(name):
            return False
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = to
        return True

    return change


@pytest.mark.parametrize(
    ("agent", "path", "change", "seen"),
    [
        ("nomad", NODES, set_in(C1, "Address", to="127.0.0.1"), "has 127.0.0.1 for HTTP instead of 172.31.16.21"),
        ("nomad", MEMBERS, set_in(A, "Tags", "rpc_addr", to="127.0.0.1"), "127.0.0.1 for RPC instead of 172.31.16.11"),
        ("nomad", MEMBERS, set_in(A, "Addr", to="172.31.16.99"), "172.31.16.99 for Serf instead of 172.31.16.11"),
        ("consul", MEMBERS, set_in(C1, "Addr", to="10.0.2.15"), "10.0.2.15 for gossip instead of 172.31.16.21"),
        ("consul", SERVICE, set_in(C1, "Service", "Address", to="127.0.0.1"), "127.0.0.1 for service nomad-client"),
        ("consul", MEMBERS, set_in(C1, "Tags", "dc", to="dc1"), f"consul has several datacenters: dc1 on {C1}"),
        ("consul", MEMBERS, set_in(A, "Tags", "build", to="1.13.9:"), f"consul has several versions: 1.13.9 on {A}"),
        ("nomad", MEMBERS, set_in(A, "Tags", "region", to="global"), f"nomad has several regions: global on {A}"),
        ("nomad", NODES, set_in(C1, "Datacenter", to="dc1"), f"nomad has several datacenters: dc1 on {C1}; its own"),
        ("nomad", NODES, set_in(C1, "Version", to="1.5.0"), f"nomad has several versions: 1.5.0 on {C1}"),
        (
            "nomad",
            NODES,
            lambda node: node.update(Name="ghost", Address="10.9.9.9") is None,
            "nomad, in its nodes: ghost has 10.9.9.9 for HTTP, which no host has",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_its_own_is_told(
    agent: str, path: str, change: Callable[[dict[str, Any]], bool], seen: str
) -> None:
    assert AdvertisedAddresses().verdict(changed(agent, path, change)) == pending(seen)


def test_agents_advertise_their_own_instances() -> None:
    check = AdvertisedAddresses()
    fine = Ok("6 hosts are advertised with their own addresses")
    assert check.verdict(recorded("healthy")) == fine
    # Names of the user's own are found by their addresses.
    assert check.verdict(changed("nomad", NODES, set_in(C1, "Name", to="worker-1"))) == fine
    # A datacenter of the user's own is the same for all.
    cluster = changed("nomad", NODES, set_in("i-", "Datacenter", to="dc1"))
    for answer in cluster.answers["nomad"][MEMBERS].values():
        for member in answer["body"]["Members"]:
            member["Tags"]["dc"] = "dc1"
    assert check.verdict(cluster) == fine


def test_a_server_that_passes_nothing_on_is_told() -> None:
    check = AdvertisedAddresses()
    view = check.observe(recorded("healthy"))
    silent = replace(view, answers=first(view.answers, ()))
    assert check.judge(silent) == Pending(f"no agent is advertised (asked on {view.answers[0].place})")
