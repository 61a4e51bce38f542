"""Checks of what is registered in Consul and Nomad, against recorded answers of a healthy and a damaged cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recorded_cluster import recorded
from verdicts import everyone, first, pending

from nomad_testkit.checks import Check, NodesReady, Registered
from nomad_testkit.checks.registration import ServiceInstance
from nomad_testkit.wait import Ok, Pending

ON = ("i-0a000000000000001 (172.31.16.11)", "i-0a000000000000002 (172.31.32.12)", "i-0a000000000000003 (172.31.48.13)")
KILLED = "i-0c000000000000003"
C1 = "i-0c000000000000001"
DEAD = f"{KILLED}: check 'Serf Health Status' is critical: Agent not live or unreachable"
DOWN = f"missing on {KILLED} (172.31.48.23), {KILLED} is down, eligible"


@pytest.mark.parametrize(
    ("check", "recording", "verdict"),
    [
        (Registered("consul", 3), "healthy", Ok("service consul passes on 3 nodes")),
        (Registered("nomad", 3), "healthy", Ok("service nomad passes on 3 nodes")),
        (Registered("nomad-client", 3), "healthy", Ok("service nomad-client passes on 3 nodes")),
        (
            Registered("nomad-client", 3),
            "failed-client",
            pending(*(f"service nomad-client, asked on {one}: {DEAD}" for one in ON)),
        ),
        (Registered("consul", 5), "healthy", Pending("the cluster has 3 hosts for service consul")),
        (NodesReady(3), "healthy", Ok("3 nodes are ready")),
        (NodesReady(3), "failed-client", pending(*(f"2 nodes are ready, asked on {one}: {DOWN}" for one in ON))),
        (NodesReady(6), "healthy", pending(start=f"3 nodes are ready, asked on {ON[0]}; ")),
    ],
)
def test_what_was_recorded(check: Check[Any], recording: str, verdict: object) -> None:
    assert check.verdict(recorded(recording)) == verdict


def test_a_service_on_too_few_and_on_wrong_nodes_is_told() -> None:
    check = Registered("nomad", 3)
    view = check.observe(recorded("healthy"))
    instances = view.answers[0].value
    moved = tuple(replace(one, node="i-9") if one.node == "i-0a000000000000003" else one for one in instances)
    assert check.judge(replace(view, answers=first(view.answers, moved))) == Pending(
        f"service nomad, asked on {ON[0]}: missing on {ON[2]}, also on i-9"
    )


def test_any_other_service_is_counted() -> None:
    check = Registered("web", 3)
    view = check.observe(recorded("healthy").with_answer("consul", "/v1/health/service/web?stale=", []))
    three = tuple(ServiceInstance(node, "10.0.0.1", 80, ()) for node in ("i-1", "i-2", "i-2"))
    assert check.judge(view) == Pending(
        "; ".join(f"service web, asked on {place}: 0 instances, on no node" for place in ON)
    )
    assert check.judge(replace(view, answers=everyone(view.answers, three))) == Ok("3 instances of web pass")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"eligibility": "ineligible"}, f"{C1} is ready, ineligible"),
        ({"drain": True}, f"{C1} is ready, eligible, draining"),
        ({"status": "initializing"}, f"{C1} is initializing, eligible"),
        ({"version": "1.5.0"}, "several versions: 1.5.0, 1.6.1"),
    ],
)
def test_a_node_that_takes_no_work_or_differs_is_told(facts: dict[str, Any], text: str) -> None:
    check = NodesReady(3)
    view = check.observe(recorded("healthy"))
    nodes = tuple(replace(node, **facts) if node.name == C1 else node for node in view.answers[0].value)
    assert check.judge(replace(view, answers=everyone(view.answers, nodes))) == pending(text)


def instance(own: str = "", *statuses: str) -> ServiceInstance:
    """Read an instance whose service has an address of its own, and checks in these states."""
    node = {"Node": "i-1", "Address": "10.0.0.1"}
    checks = [{"Name": "alive", "Status": status, "Output": ""} for status in statuses]
    return ServiceInstance.parse({"Node": node, "Service": {"Address": own, "Port": 80}, "Checks": checks})


@pytest.mark.parametrize(
    ("status", "failing"), [("passing", 0), ("warning", 1), ("critical", 1), ("maintenance", 1), ("unknown", 1)]
)
def test_only_a_check_that_passes_is_not_failing(status: str, failing: int) -> None:
    assert len(instance("", status).failing) == failing


def test_a_services_own_address_comes_before_its_nodes() -> None:
    assert (instance("").address, instance("10.0.0.9").address) == ("10.0.0.1", "10.0.0.9")
