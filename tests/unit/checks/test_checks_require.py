"""`require` and `ask_every`: what is asked again, when a wait ends, and what its failure says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from recorded_cluster import recorded

from nomad_testkit.checks import Check, ClusterView, Leader, Verdict, require
from nomad_testkit.cluster.check import Unanswered, ask_every
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, CheckFailed
from nomad_testkit.wait import Broken, Deadline, Ok, Pending


@dataclass(frozen=True)
class Scripted(Check[Verdict]):
    """Gives one verdict after the other, the last one for ever."""

    name: str
    verdicts: list[Verdict] = field(repr=False, hash=False)
    asked: list[str] = field(default_factory=list, repr=False, hash=False)

    @property
    def wanted(self) -> str:
        return f"{self.name} as it should be"

    def observe(self, cluster: ClusterView) -> Verdict:
        self.asked.append(self.name)
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]

    def judge(self, observed: Verdict) -> Verdict:
        return observed


def failure_of(*checks: Check[Any], **facts: Any) -> str:
    """Require checks of a cluster whose time is up, and give what is said of their failure."""
    with pytest.raises(CheckFailed) as failure:
        require(replace(recorded("healthy"), **facts), *checks, within=Deadline(0.0, lambda: 0.0))
    return str(failure.value)


def test_checks_that_hold_are_asked_once() -> None:
    one, other = Scripted("a", [Ok("x")]), Scripted("b", [Ok("y")])
    require(recorded("healthy"), one, other)
    assert (one.asked, other.asked) == (["a"], ["b"])


def test_only_what_fails_is_asked_again_and_in_the_end_all_at_once() -> None:
    first, second = Scripted("a", [Ok("x")]), Scripted("b", [Pending("1"), Pending("2"), Ok("y")])
    seen: list[str] = []
    require(recorded("healthy"), first, second, on_pending=seen.append)
    assert seen == ["Scripted(name='b'): 1", "Scripted(name='b'): 2"]
    assert (first.asked, second.asked) == (["a"] * 2, ["b"] * 4)


def test_a_check_that_no_longer_holds_in_the_last_round_is_waited_for() -> None:
    first, second = Scripted("a", [Ok("x"), Pending("lost"), Ok("x")]), Scripted("b", [Pending("1"), Ok("y")])
    require(recorded("healthy"), first, second)
    assert first.asked == ["a"] * 4


def test_the_deadline_lists_every_check_that_fails_with_what_was_wanted_and_seen() -> None:
    checks = Scripted("a", [Pending("2 on i-1")]), Scripted("b", [Ok("y")]), Scripted("c", [Pending("none")])
    assert failure_of(*checks) == (
        "Scripted(name='a'): 2 on i-1, after 0 s (and 1 more)\n"
        "2 of 3 checks failed after 0.0 s and 1 try:\n"
        "- Scripted(name='a')\n    wanted: a as it should be\n    seen:   2 on i-1\n"
        "- Scripted(name='c')\n    wanted: c as it should be\n    seen:   none"
    )


def test_a_broken_check_ends_the_wait_and_alone_is_told() -> None:
    said = failure_of(Scripted("a", [Pending("not yet")]), Scripted("b", [Broken("no node has the memory")]))
    assert "1 of 2 checks failed" in said
    assert "seen:   no node has the memory\n    This cannot come right by waiting longer." in said
    assert "not yet" not in said


def test_rules_that_are_missing_are_told() -> None:
    rules = ["clients cannot reach servers on tcp 4647"]
    assert failure_of(Scripted("a", [Pending("no node")]), lacking=rules).endswith(
        "seen:   no node\nThe security groups keep agents apart:\n- clients cannot reach servers on tcp 4647"
    )


def test_no_check_at_all_is_refused() -> None:
    with pytest.raises(CheckFailed, match="no check"):
        require(recorded("healthy"))


def test_every_host_is_asked_and_answers_keep_the_hosts_order() -> None:
    hosts = recorded("healthy").hosts
    answers = ask_every(hosts, lambda host: host.instance_id)
    assert [(one.value, one.place.instance_id) for one in answers] == [(host.instance_id,) * 2 for host in hosts]


def test_all_hosts_that_do_not_answer_are_named() -> None:
    cluster = recorded("healthy")

    def question(host: Host) -> str:
        if host in cluster.servers[1:]:
            raise AgentApiError("nomad", "http://x", 500, "No cluster leader")
        return "fine"

    with pytest.raises(Unanswered) as failure:
        ask_every(cluster.servers, question)
    assert str(failure.value) == (
        "i-0a000000000000002 (172.31.32.12): nomad at http://x answered 500: No cluster leader; "
        "i-0a000000000000003 (172.31.48.13): nomad at http://x answered 500: No cluster leader"
    )


def test_a_check_whose_hosts_do_not_answer_is_pending() -> None:
    cluster = recorded("healthy")
    for agent in ("consul", "nomad"):
        cluster.answers[agent].clear()
    verdict = Leader().verdict(cluster)
    assert isinstance(verdict, Pending)
    assert verdict.seen.count("connection refused") == 3
