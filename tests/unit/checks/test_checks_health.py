"""Checks of autopilot and gossip against what real servers answered, healthy and after one was stopped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded_cluster import recorded

from nomad_testkit.checks import AutopilotHealthy, HealthyServers, NoFailedMembers
from nomad_testkit.checks.health import AutopilotView
from nomad_testkit.wait import Ok, Pending

A, B, C = (f"i-0a00000000000000{n}" for n in (1, 2, 3))
ON_A, ON_B, ON_C = f"{A} (172.31.16.11)", f"{B} (172.31.32.12)", f"{C} (172.31.48.13)"


def change(view: AutopilotView, **facts: object) -> AutopilotView:
    """Make one follower another one in every answer."""
    answers = []
    for answer in view.answers:
        follower = next(server for server in answer.value.servers if not server.leader)
        servers = tuple(
            replace(server, **facts) if server is follower else server  # type: ignore[arg-type]
            for server in answer.value.servers
        )
        answers.append(replace(answer, value=replace(answer.value, servers=servers)))
    return replace(view, answers=tuple(answers))


def test_autopilot_of_healthy_servers() -> None:
    assert AutopilotHealthy().verdict(recorded("healthy")) == Ok(
        "consul autopilot is healthy; nomad autopilot is healthy"
    )


def test_autopilot_names_the_server_that_was_stopped() -> None:
    """The answer has status 429, and the facts in its body."""
    verdict = AutopilotHealthy().verdict(recorded("failed-server").only(servers=2))

    assert isinstance(verdict, Pending)
    for agent, region in (("consul", ""), ("nomad", ".us-east-1")):
        for place in (ON_A, ON_B):
            assert f"{agent} autopilot, asked on {place}: {C}{region} is unhealthy (serf " in verdict.seen


def test_autopilot_without_a_leader_is_told_with_the_servers_words() -> None:
    verdict = AutopilotHealthy().verdict(recorded("leaderless").only(servers=1))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(
        f"{ON_A}: consul at http://172.31.16.11:8500/v1/operator/autopilot/health answered 500"
    )
    assert verdict.seen.endswith(": No cluster leader")


def test_autopilot_that_knows_too_few_servers() -> None:
    check = AutopilotHealthy()
    consul, nomad = check.observe(recorded("healthy"))

    verdict = check.judge((replace(consul, count=5), nomad))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"consul autopilot, asked on {ON_A}, knows 3 servers: ")


def test_a_server_without_a_vote_is_told() -> None:
    check = AutopilotHealthy()
    consul, nomad = check.observe(recorded("healthy"))

    verdict = check.judge((consul, change(nomad, voter=False)))

    assert isinstance(verdict, Pending)
    assert ", not a voter)" in verdict.seen


def test_autopilot_that_is_unhealthy_as_a_whole_is_told() -> None:
    check = AutopilotHealthy()
    consul, nomad = check.observe(recorded("healthy"))
    answers = tuple(replace(answer, value=replace(answer.value, healthy=False)) for answer in consul.answers)

    verdict = check.judge((replace(consul, answers=answers), nomad))

    assert isinstance(verdict, Pending)
    assert f"consul autopilot, asked on {ON_A}, is unhealthy" in verdict.seen


def test_servers_without_a_leader_are_level_with_nobody() -> None:
    check = HealthyServers()
    consul, nomad = check.observe(recorded("healthy"))
    answers = []
    for answer in consul.answers:
        servers = tuple(replace(server, leader=False) for server in answer.value.servers)
        answers.append(replace(answer, value=replace(answer.value, servers=servers)))

    verdict = check.judge((replace(consul, answers=tuple(answers)), nomad))

    assert isinstance(verdict, Pending)
    assert f"consul autopilot, asked on {ON_A}, knows no leader" in verdict.seen


def test_healthy_servers_are_level_with_their_leader() -> None:
    check = HealthyServers()
    consul, nomad = check.observe(recorded("healthy"))

    assert check.judge((consul, nomad)) == Ok(
        "consul autopilot is healthy; nomad autopilot is healthy; "
        "consul servers are level with their leader; nomad servers are level with their leader"
    )


def test_a_server_that_is_behind_is_told() -> None:
    check = HealthyServers()
    consul, nomad = check.observe(recorded("healthy"))

    verdict = check.judge((consul, change(nomad, last_index=1)))

    assert isinstance(verdict, Pending)
    assert "is behind nomad leader i-0a" in verdict.seen
    assert " and index 1 instead of " in verdict.seen


def test_a_server_of_another_term_is_behind_whatever_its_index() -> None:
    check = HealthyServers()
    consul, nomad = check.observe(recorded("healthy"))

    assert isinstance(check.judge((consul, change(nomad, last_term=1, last_index=10**9))), Pending)


def test_servers_of_two_versions_are_told() -> None:
    check = HealthyServers()
    consul, nomad = check.observe(recorded("healthy"))

    verdict = check.judge((change(consul, version="1.15.0"), nomad))

    assert isinstance(verdict, Pending)
    assert " runs consul 1.15.0, the leader 1.14.0" in verdict.seen


def test_members_of_a_healthy_cluster() -> None:
    assert NoFailedMembers().verdict(recorded("healthy")) == Ok("6 consul members are alive; 3 nomad members are alive")


def test_a_client_that_was_killed_is_a_failed_member() -> None:
    failed = "i-0c000000000000003 is failed"

    assert NoFailedMembers().verdict(recorded("failed-client")) == Pending(
        f"consul members on {ON_A}: {failed}; consul members on {ON_B}: {failed}; consul members on {ON_C}: {failed}"
    )


@pytest.mark.parametrize("status", ["failed", "leaving", "unknown"])
def test_a_member_in_any_other_state_than_alive_is_told(status: str) -> None:
    check = NoFailedMembers()
    consul, nomad = check.observe(recorded("healthy"))
    first, *others = nomad.answers
    sick = replace(nomad, answers=(replace(first, value=first.value | {C: status}), *others))

    assert check.judge((consul, sick)) == Pending(f"nomad members on {ON_A}: {C} is {status}")


def test_missing_and_strange_members_are_told_and_those_that_left_are_not() -> None:
    check = NoFailedMembers()
    consul, nomad = check.observe(recorded("healthy"))
    first, *others = nomad.answers
    members = {A: "alive", B: "alive", "i-9": "alive", "i-8": "left"}
    sick = replace(nomad, answers=(replace(first, value=members), *others))

    assert check.judge((consul, sick)) == Pending(
        f"nomad members on {ON_A}: {ON_C} is missing, i-9 is not of this cluster"
    )
