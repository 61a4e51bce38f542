"""Checks of autopilot and gossip against what real servers answered, healthy and after one was stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recorded_cluster import recorded
from verdicts import everyone, first, pending

from nomad_testkit.checks import AutopilotHealthy, Check, HealthyServers, NoFailedMembers
from nomad_testkit.checks.health import AutopilotView
from nomad_testkit.wait import Ok, Pending

A, B, C = (f"i-0a00000000000000{n}" for n in (1, 2, 3))
ON_A, ON_B, ON_C = f"{A} (172.31.16.11)", f"{B} (172.31.32.12)", f"{C} (172.31.48.13)"
KILLED = "i-0c000000000000003 is failed"
HEALTHY = "consul autopilot is healthy; nomad autopilot is healthy"
LEVEL = "consul servers are level with their leader; nomad servers are level with their leader"


@pytest.mark.parametrize(
    ("check", "recording", "servers", "verdict"),
    [
        (AutopilotHealthy(), "healthy", 3, Ok(HEALTHY)),
        (
            AutopilotHealthy(),  # the answer has status 429, and the facts in its body
            "failed-server",
            2,
            pending(
                *(f"consul autopilot, asked on {place}: {C} is unhealthy (serf " for place in (ON_A, ON_B)),
                *(f"nomad autopilot, asked on {place}: {C}.us-east-1 is unhealthy (serf " for place in (ON_A, ON_B)),
            ),
        ),
        (
            AutopilotHealthy(),
            "leaderless",
            1,
            pending(
                start=f"{ON_A}: consul at http://172.31.16.11:8500/v1/operator/autopilot/health answered 500",
                end=": No cluster leader",
            ),
        ),
        (HealthyServers(), "healthy", 3, Ok(f"{HEALTHY}; {LEVEL}")),
        (NoFailedMembers(), "healthy", 3, Ok("6 consul members are alive; 3 nomad members are alive")),
        (
            NoFailedMembers(),
            "failed-client",
            3,
            Pending("; ".join(f"consul members on {place}: {KILLED}" for place in (ON_A, ON_B, ON_C))),
        ),
    ],
)
def test_what_was_recorded(check: Check[Any], recording: str, servers: int, verdict: object) -> None:
    assert check.verdict(recorded(recording).only(servers)) == verdict


def change(view: AutopilotView, **facts: Any) -> AutopilotView:
    """Change a follower in every answer, or the leader where it is to be none."""
    answers = []
    for answer in view.answers:
        one = next(server for server in answer.value.servers if server.leader is ("leader" in facts))
        servers = tuple(replace(server, **facts) if server is one else server for server in answer.value.servers)
        answers.append(replace(answer, value=replace(answer.value, servers=servers)))
    return replace(view, answers=tuple(answers))


@pytest.mark.parametrize(
    ("check", "facts", "words"),
    [
        (AutopilotHealthy(), {"voter": False}, [", not a voter)"]),
        (HealthyServers(), {"leader": False}, [f"nomad autopilot, asked on {ON_A}, knows no leader"]),
        (HealthyServers(), {"last_index": 1}, ["is behind nomad leader i-0a", " and index 1 instead of "]),
        (HealthyServers(), {"last_term": 1, "last_index": 10**9}, ["is behind nomad leader i-0a"]),
        (HealthyServers(), {"version": "1.5.0"}, [" runs nomad 1.5.0, the leader 1.6.1"]),
    ],
)
def test_one_that_differs(check: AutopilotHealthy | HealthyServers, facts: dict[str, Any], words: list[str]) -> None:
    consul, nomad = check.observe(recorded("healthy"))
    assert check.judge((consul, change(nomad, **facts))) == pending(*words)


def test_autopilot_that_knows_too_few_servers_or_is_unhealthy_as_a_whole() -> None:
    check = AutopilotHealthy()
    consul, nomad = check.observe(recorded("healthy"))
    few = replace(consul, count=5)
    assert check.judge((few, nomad)) == pending(start=f"consul autopilot, asked on {ON_A}, knows 3 servers: ")
    sick = replace(consul, answers=everyone(consul.answers, healthy=False))
    assert check.judge((sick, nomad)) == pending(f"consul autopilot, asked on {ON_A}, is unhealthy")


@pytest.mark.parametrize(
    ("members", "seen"),
    [
        *(({A: "alive", B: "alive", C: status}, f"{C} is {status}") for status in ("failed", "leaving", "unknown")),
        # That one has left is fine.
        ({A: "alive", B: "alive", "i-9": "alive", "i-8": "left"}, f"{ON_C} is missing, i-9 is not of this cluster"),
    ],
)
def test_members_that_are_not_alive_or_missing_or_strange(members: dict[str, str], seen: str) -> None:
    check = NoFailedMembers()
    consul, nomad = check.observe(recorded("healthy"))
    sick = replace(nomad, answers=first(nomad.answers, members))
    assert check.judge((consul, sick)) == Pending(f"nomad members on {ON_A}: {seen}")
