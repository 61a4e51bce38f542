"""What agents advertise of themselves, beside their instances: real answers, with one fact of one agent changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from recorded_cluster import RecordedCluster, recorded

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
        body = json.loads(json.dumps(answer["body"]))
        done += sum(change(entry) for entry in _entries(body))
        answer["body"] = body
    assert done, "nothing was changed"
    return cluster


def _entries(body: Any) -> list[dict[str, Any]]:
    return list(body["Members"] if isinstance(body, dict) else body)


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


def test_agents_advertise_their_own_instances() -> None:
    assert AdvertisedAddresses().verdict(recorded("healthy")) == Ok("6 hosts are advertised with their own addresses")


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
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_is_not_the_instances_own_is_told(
    agent: str, path: str, change: Callable[[dict[str, Any]], bool], seen: str
) -> None:
    verdict = AdvertisedAddresses().verdict(changed(agent, path, change))

    assert seen in cast("Pending", verdict).seen


def test_names_of_the_users_own_are_found_by_their_address() -> None:
    cluster = changed("nomad", NODES, set_in(C1, "Name", to="worker-1"))

    assert isinstance(AdvertisedAddresses().verdict(cluster), Ok)


def test_a_datacenter_of_the_users_own_is_the_same_for_all() -> None:
    cluster = changed("nomad", NODES, set_in("i-", "Datacenter", to="dc1"))
    for answer in cluster.answers["nomad"]["/v1/agent/members"].values():
        for member in answer["body"]["Members"]:
            member["Tags"]["dc"] = "dc1"

    assert isinstance(AdvertisedAddresses().verdict(cluster), Ok)


def test_an_agent_that_no_host_can_be_is_told() -> None:
    cluster = changed(
        "nomad", "/v1/nodes?stale=true", lambda node: node.update(Name="ghost", Address="10.9.9.9") is None
    )

    assert (
        "nomad, in its nodes: ghost has 10.9.9.9 for HTTP, which no host has"
        in cast("Pending", AdvertisedAddresses().verdict(cluster)).seen
    )


def test_a_server_that_passes_nothing_on_is_told() -> None:
    check = AdvertisedAddresses()
    view = check.observe(recorded("healthy"))
    silent = replace(view.answers[0], value=())
    verdict = check.judge(replace(view, answers=(silent, *view.answers[1:])))
    assert verdict == Pending(f"no agent is advertised (asked on {silent.place})")
