"""Checks of what is registered in Consul and Nomad, against recorded answers of a healthy and a damaged cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded_cluster import recorded

from nomad_testkit.checks import NodesReady, Registered
from nomad_testkit.checks.registration import ServiceInstance
from nomad_testkit.wait import Ok, Pending

ON_A, ON_B, ON_C = (
    "i-0a000000000000001 (172.31.16.11)",
    "i-0a000000000000002 (172.31.32.12)",
    "i-0a000000000000003 (172.31.48.13)",
)
KILLED = "i-0c000000000000003"


@pytest.mark.parametrize("service", ["consul", "nomad", "nomad-client"])
def test_the_agents_own_services_pass_on_their_hosts(service: str) -> None:
    assert Registered(service, 3).verdict(recorded("healthy")) == Ok(f"service {service} passes on 3 nodes")


def test_a_node_whose_agent_was_killed_does_not_pass() -> None:
    verdict = Registered("nomad-client", 3).verdict(recorded("failed-client"))

    assert isinstance(verdict, Pending)
    for place in (ON_A, ON_B, ON_C):
        assert (
            f"service nomad-client, asked on {place}: {KILLED}: "
            "check 'Serf Health Status' is critical: Agent not live or unreachable"
        ) in verdict.seen


def test_a_service_on_too_few_and_on_wrong_nodes_is_told() -> None:
    check = Registered("nomad", 3)
    view = check.observe(recorded("healthy"))
    first, *others = view.answers
    moved = tuple(replace(one, node="i-9") if one.node == "i-0a000000000000003" else one for one in first.value)

    assert check.judge(replace(view, answers=(replace(first, value=moved), *others))) == Pending(
        f"service nomad, asked on {ON_A}: missing on {ON_C}, also on i-9"
    )


def test_a_count_that_is_not_the_number_of_hosts_is_told() -> None:
    assert Registered("consul", 5).verdict(recorded("healthy")) == Pending("the cluster has 3 hosts for service consul")


def test_any_other_service_is_counted() -> None:
    check = Registered("web", 3)
    view = check.observe(recorded("healthy").with_answer("consul", "/v1/health/service/web?stale=", []))
    three = tuple(ServiceInstance(node, "10.0.0.1", 80, ()) for node in ("i-1", "i-2", "i-2"))

    assert check.judge(view) == Pending(
        "; ".join(f"service web, asked on {place}: 0 instances, on no node" for place in (ON_A, ON_B, ON_C))
    )
    present = replace(view, answers=tuple(replace(answer, value=three) for answer in view.answers))
    assert check.judge(present) == Ok("3 instances of web pass")


def test_nodes_of_a_healthy_cluster_are_ready() -> None:
    assert NodesReady(3).verdict(recorded("healthy")) == Ok("3 nodes are ready")


def test_a_node_that_is_down_is_named() -> None:
    verdict = NodesReady(3).verdict(recorded("failed-client"))

    assert isinstance(verdict, Pending)
    for place in (ON_A, ON_B, ON_C):
        text = f"2 nodes are ready, asked on {place}: missing on {KILLED} (172.31.48.23), {KILLED} is down, eligible"
        assert text in verdict.seen


def test_another_number_of_nodes_is_told() -> None:
    verdict = NodesReady(6).verdict(recorded("healthy"))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"3 nodes are ready, asked on {ON_A}; ")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"eligibility": "ineligible"}, "i-0c000000000000001 is ready, ineligible"),
        ({"drain": True}, "i-0c000000000000001 is ready, eligible, draining"),
        ({"status": "initializing"}, "i-0c000000000000001 is initializing, eligible"),
        ({"version": "1.5.0"}, "several versions: 1.5.0, 1.6.1"),
    ],
)
def test_a_node_that_takes_no_work_or_differs_is_told(facts: dict[str, object], text: str) -> None:
    check = NodesReady(3)
    view = check.observe(recorded("healthy"))
    answers = tuple(
        replace(
            answer,
            value=tuple(
                replace(node, **facts) if node.name == "i-0c000000000000001" else node  # type: ignore[arg-type]
                for node in answer.value
            ),
        )
        for answer in view.answers
    )

    verdict = check.judge(replace(view, answers=answers))

    assert isinstance(verdict, Pending)
    assert text in verdict.seen


@pytest.mark.parametrize(
    ("status", "failing"), [("passing", 0), ("warning", 1), ("critical", 1), ("maintenance", 1), ("unknown", 1)]
)
def test_only_a_check_that_passes_is_not_failing(status: str, failing: int) -> None:
    check = {"Name": "alive", "Status": status, "Output": ""}
    entry = {
        "Node": {"Node": "i-1", "Address": "10.0.0.1"},
        "Service": {"Address": "", "Port": 80},
        "Checks": [check],
    }
    assert len(ServiceInstance.parse(entry).failing) == failing


@pytest.mark.parametrize(("own", "address"), [("", "10.0.0.1"), ("10.0.0.9", "10.0.0.9")])
def test_a_services_own_address_comes_before_its_nodes(own: str, address: str) -> None:
    node = {"Node": "i-1", "Address": "10.0.0.1"}
    entry = {"Node": node, "Service": {"Address": own, "Port": 80}, "Checks": []}
    assert ServiceInstance.parse(entry).address == address
