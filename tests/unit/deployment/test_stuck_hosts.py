"""Of all that a stuck host's agents say, the lines are shown that name a cause."""

from __future__ import annotations

from nomad_testkit.deployment.stuck_hosts import WARNINGS, causes

KEY = "2026-01-02T03:04:05.000Z [ERROR] agent.server.memberlist.lan: memberlist: failed to receive: No installed keys"
JOIN = "2026-01-02T03:04:05.000Z [WARN]  agent: (LAN) couldn't join: number_of_nodes=0"


def leaderless(seconds: int) -> list[str]:
    """What a Consul agent without a leader says, from many places and for ever."""
    return [
        f'2026-01-02T03:05:{second:02}.000Z [{level}] {place}: error="No cluster leader"'
        for second in range(seconds)
        for level, place in (
            ("ERROR", "agent.anti_entropy: failed to sync remote state"),
            ("ERROR", "agent: Coordinate update error"),
            ("WARN", "agent: Syncing service failed."),
            ("ERROR", "agent.server.cert-manager: failed to handle cache update event"),
        )
    ]


def test_an_error_that_names_a_cause_outlives_what_follows_from_it() -> None:
    said = causes([KEY, JOIN, *leaderless(50)])
    assert said[:2] == [KEY, JOIN]
    assert len(said) == WARNINGS


def test_what_follows_is_told_where_there_is_nothing_else() -> None:
    said = causes(leaderless(3))
    assert len(said) == WARNINGS
    assert all("T03:05:02" in line for line in said)


def test_a_warning_without_a_level_counts_as_an_error() -> None:
    files = "http: Accept error: accept tcp 10.0.0.1:8300: accept4: too many open files; retrying in 5ms"
    warnings = [JOIN, *(f"[WARN] agent: {word}" for word in ("one", "two", "three", "four"))]
    assert files in causes([files, *warnings])


def test_a_line_is_shown_as_it_was_last() -> None:
    again = KEY.replace("03:04:05", "03:09:09")
    assert causes([KEY, JOIN, again]) == [JOIN, again]


def test_nothing_said_gives_nothing() -> None:
    assert causes([]) == []
