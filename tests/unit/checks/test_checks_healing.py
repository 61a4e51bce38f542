"""How the checks of healing judge what was observed."""

from __future__ import annotations

from typing import Any, cast

from recording_host import RecordingHost
from verdicts import pending

from nomad_testkit.checks.healing import (
    Attempt,
    DeploymentState,
    DeploymentSucceeds,
    LeaderReelected,
    NodeGone,
    NodeLeft,
    RefusesWrites,
    RunsElsewhere,
    SameNodes,
)
from nomad_testkit.checks.scheduling import Allocation, JobState, JobView
from nomad_testkit.cluster.check import Answer, HostRef
from nomad_testkit.cluster.jobs import Job
from nomad_testkit.wait import Broken, Ok, Pending

JOB = Job(cast("Any", None), {"ID": "web-1", "Type": "service", "TaskGroups": [{"Name": "web", "Count": 1}]})


ONE, TWO, THREE = (RecordingHost(number, "servers") for number in (1, 2, 3))


def answers(*values: Any) -> tuple[Answer[Any], ...]:
    return tuple(Answer(HostRef.of(one), value) for one, value in zip((TWO, THREE), values, strict=False))


def test_a_new_leader_is_another_one_that_all_name() -> None:
    check = LeaderReelected("consul", ONE)
    new, old = "172.31.0.2:8300", "172.31.0.1:8300"
    assert check.judge(answers(new, new)) == Ok("consul leader is 172.31.0.2:8300")
    for named in [(old, old), (new, old), ("", ""), (new, "")]:
        assert isinstance(check.judge(answers(*named)), Pending)
    assert check.judge(()) == Pending("consul leader: no server is left")


def test_a_minority_that_acknowledges_is_broken_at_once() -> None:
    check = RefusesWrites("nomad", (TWO, THREE))
    refused = Attempt(False, "No cluster leader")
    assert check.judge(answers(refused, refused)) == Ok("nomad refuses writes on 2 servers")
    assert check.judge(answers(refused, Attempt(False, "", "172.31.0.1:4647"))) == Pending(
        "nomad: i-3 (172.31.0.3) names 172.31.0.1:4647"
    )
    assert check.judge(answers(Attempt(True), refused)) == Broken("nomad on i-2 (172.31.0.2) has acknowledged a write")


def test_a_node_that_was_lost_is_told_with_the_remedy() -> None:
    check = NodeGone("i-9")
    gone, left = NodeLeft(False), NodeLeft(True, ("web",), "failed")
    assert check.judge(answers(gone, gone)) == Ok("i-9 is gone")
    verdict = check.judge(answers(left, left))
    assert verdict == Pending(
        "i-9 is failed, and in Consul's catalog on 2 servers with web; it was lost without leaving: "
        "`consul force-leave -prune i-9` removes it"
    )
    assert check.judge(answers(gone, NodeLeft(True, (), "leaving"))) == Pending(
        "i-9 is leaving, and in Consul's catalog on 1 servers without services"
    )


def test_work_on_a_lost_node_does_not_count() -> None:
    for nodes, verdict in (
        (["i-4"], Ok("1 allocations of web-1 run")),
        (["i-9"], Pending("web[0] on i-9 is running")),
        ([], pending()),
    ):
        running = tuple(Allocation(f"a-{node}", "web[0]", "web", node, "run", "running", "") for node in nodes)
        state = JobState("running", running)
        view = JobView("web-1", (("web", 1),), answers(state, state))
        assert RunsElsewhere(JOB, ("i-9",)).judge(view) == verdict


def test_an_agent_with_another_id_is_another_node() -> None:
    before = {"consul": {"i-1": "a"}, "nomad": {"i-1": "b"}}
    check = SameNodes(before, (ONE,))
    assert check.judge(before) == Ok("1 hosts are the nodes that they were")
    assert check.judge({"consul": {"i-1": "c"}, "nomad": {"i-1": "b"}}) == Broken("i-1 is consul node c, and was a")
    assert check.judge({"consul": {}, "nomad": {"i-1": "b"}}) == Pending("i-1 is consul node none, and was a")


def test_a_deployment_has_to_succeed_everywhere_and_may_not_fail() -> None:
    check = DeploymentSucceeds(JOB, "0123456789")
    done, running = (DeploymentState("0123456789", status, "words") for status in ("successful", "running"))
    assert check.judge(answers(done, done)) == Ok("deployment 01234567 is successful")
    assert check.judge(answers(done, running)) == Pending("i-3 (172.31.0.3): running: words")
    assert check.judge(answers(None, done)) == Pending("i-2 (172.31.0.2) does not know it")
    failed = DeploymentState("0123456789", "failed", "unhealthy allocations")
    assert check.judge(answers(failed, done)) == Broken("it is failed: unhealthy allocations")
