"""Checks of jobs against recorded answers: running and spread, completed, failed, and four that cannot be placed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recorded_cluster import RecordedCluster, recorded

from nomad_testkit.checks import AllocationsRunning, BatchCompleted, Spread
from nomad_testkit.checks.placement import Evaluation, PlacementFailure, why_not_placed
from nomad_testkit.checks.scheduling import JobState, JobView
from nomad_testkit.wait import Broken, Ok, Pending

ON_A = "i-0a000000000000001 (172.31.16.11)"


def everywhere(view: JobView, state: JobState) -> JobView:
    """Let every server answer the same state."""
    return replace(view, answers=tuple(replace(answer, value=state) for answer in view.answers))


# -- running


def test_allocations_that_run_on_every_server() -> None:
    cluster = recorded("web-running")

    assert AllocationsRunning(cluster.job).verdict(cluster) == Ok(f"6 allocations of {cluster.job.id} run")


def test_an_allocation_that_does_not_run_yet_is_named() -> None:
    cluster = recorded("web-running")
    check = AllocationsRunning(cluster.job)
    view = check.observe(cluster)
    state = view.answers[0].value
    last = replace(state.allocations[-1], status="pending", event="task server: Task Setup: Building")

    verdict = check.judge(everywhere(view, replace(state, allocations=(*state.allocations[:-1], last))))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(
        f"{view.job_id}, asked on {ON_A}: 5 of 6 allocations of group 'web' run; "
        f"{last.name} on {last.node} is pending: task server: Task Setup: Building; "
    )


def test_servers_that_disagree_on_what_runs_are_pending() -> None:
    cluster = recorded("web-running")
    check = AllocationsRunning(cluster.job)
    view = check.observe(cluster)
    first, *others = view.answers
    head, *tail = first.value.allocations
    other = replace(first, value=replace(first.value, allocations=(replace(head, id="another"), *tail)))

    assert check.judge(replace(view, answers=(other, *others))) == Pending(
        f"the servers disagree on which allocations of {view.job_id} run"
    )


def test_a_service_job_that_is_dead_is_broken() -> None:
    cluster = recorded("web-running")
    check = AllocationsRunning(cluster.job)
    view = check.observe(cluster)

    assert check.judge(everywhere(view, replace(view.answers[0].value, status="dead", allocations=()))) == Broken(
        f"{view.job_id} is dead: 0 of 6 allocations of group 'web' run"
    )


# -- placement


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("memory", "dimension 'memory' exhausted on 3 nodes"),
        ("constraint", "constraint '${attr.kernel.name} = windows' filtered 3 nodes"),
        (
            "missing-attr",
            (
                "constraint '${platform.aws.placement.availability-zone} = us-east-1a' filtered 3 nodes "
                "(did you mean ${attr.platform.aws.placement.availability-zone}?)"
            ),
        ),
        (
            "datacenter",
            "no nodes in datacenters [dc1]; the ready clients are in [us-east-1a, us-east-1b, us-east-1c]",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["running", "spread", "completed"])
def test_a_job_that_cannot_be_placed_is_broken_with_nomads_reason(name: str, reason: str, kind: str) -> None:
    cluster = recorded(f"unplaceable-{name}")
    job = cluster.job
    broken = Broken(f"{job.id} cannot be placed: group 'group': {reason}")

    if kind == "running":
        assert AllocationsRunning(job).verdict(cluster) == broken
    elif kind == "completed":
        assert BatchCompleted(job).verdict(cluster) == broken
    else:
        assert Spread(job, clients=3).verdict(without_processes(cluster)) == broken


def without_processes(cluster: RecordedCluster) -> RecordedCluster:
    return replace(cluster, clients=())


def evaluation(status: str = "complete", blocked_by: str = "", *, failed: bool = True) -> Evaluation:
    failure = PlacementFailure("web", 3, 0, 3, (("a", 3),), (), (("cpu", 3),), (), 1)
    return Evaluation("0123456789", status, "", blocked_by, (failure,) if failed else ())


def test_a_failure_no_longer_counts_once_the_blocked_evaluation_has_found_room() -> None:
    unblocked = Evaluation("b", "complete", "", "", ())
    blocked = replace(unblocked, status="blocked")

    assert why_not_placed([evaluation(blocked_by="b"), unblocked], ["a"], ["a"]) is None
    assert why_not_placed([evaluation(blocked_by="b"), blocked], ["a"], ["a"]) == (
        "group 'web' (and 1 more allocations): dimension 'cpu' exhausted on 3 nodes"
    )


def test_an_evaluation_that_failed_gives_its_description() -> None:
    failed = replace(evaluation("failed", failed=False), description="maximum attempts reached (5)")

    assert why_not_placed([failed], ["a"], ["a"]) == "evaluation 01234567 failed: maximum attempts reached (5)"


def test_a_pending_evaluation_speaks_against_nothing() -> None:
    assert why_not_placed([evaluation("pending")], ["a"], ["a"]) is None


def test_no_client_that_is_ready_is_said_so() -> None:
    failure = PlacementFailure("web", 0, 0, 0, (), (), (), (), 0)

    assert failure.words(["a"], []) == "group 'web': no nodes in datacenters [a]; no client is ready"


# -- spread


def test_a_job_spread_over_all_clients_and_seen_on_their_hosts() -> None:
    cluster = recorded("web-running")

    assert Spread(cluster.job, clients=3).verdict(cluster) == Ok(f"6 allocations of {cluster.job.id} run on 3 clients")


def test_a_job_on_too_few_clients_is_told() -> None:
    cluster = recorded("web-running")
    check = Spread(cluster.job, clients=3)
    view = check.observe(cluster)
    state = view.job.answers[0].value
    one = replace(state, allocations=tuple(replace(alloc, node="i-0c000000000000002") for alloc in state.allocations))

    assert check.judge(replace(view, job=everywhere(view.job, one))) == Pending(
        f"{cluster.job.id} runs on 1 clients: i-0c000000000000002"
    )


def test_an_allocation_without_a_process_on_its_host_is_told() -> None:
    cluster = recorded("web-running")
    check = Spread(cluster.job, clients=3)
    view = check.observe(cluster)
    first, *others = view.processes
    missing = [one for one in view.job.answers[0].value.allocations if one.node == first.place.instance_id]

    verdict = check.judge(replace(view, processes=(replace(first, value=frozenset()), *others)))

    assert missing
    assert verdict == Pending(
        "; ".join(f"{first.place} has no process of {one.name} ({one.id[:8]})" for one in missing)
    )


def test_an_allocation_on_a_node_outside_the_cluster_is_told() -> None:
    cluster = recorded("web-running")
    check = Spread(cluster.job, clients=3)
    view = check.observe(cluster)

    verdict = check.judge(replace(view, processes=view.processes[1:]))

    assert isinstance(verdict, Pending)
    assert "is on i-0c000000000000001, which is no client of this cluster" in verdict.seen


# -- batch


def test_a_batch_job_completes_and_its_log_is_read_back() -> None:
    cluster = recorded("batch-complete")

    assert BatchCompleted(cluster.job, output="the quick fox").verdict(cluster) == Ok(
        f"2 allocations of {cluster.job.id} are complete"
    )
    assert sorted(cluster.job.logs().values()) == ["the quick fox\n", "the quick fox\n"]


def test_a_batch_job_that_wrote_something_else_shows_it() -> None:
    cluster = recorded("batch-complete")

    verdict = BatchCompleted(cluster.job, output="a slow dog").verdict(cluster)

    assert isinstance(verdict, Pending)
    assert verdict.seen.count(" wrote 'the quick fox\\n'") == 2


def test_a_batch_job_whose_task_failed_is_broken_with_its_exit_code() -> None:
    cluster = recorded("batch-failed")
    job = cluster.job

    verdict = BatchCompleted(job).verdict(cluster)

    assert isinstance(verdict, Broken)
    assert verdict.reason.startswith(f"0 of 1 allocations of {job.id} are complete; {job.id}.batch[0] on i-0c0")
    assert verdict.reason.endswith("is failed: task echo: Terminated: Exit Code: 1")


def test_a_batch_job_that_still_runs_is_pending() -> None:
    cluster = recorded("batch-complete")
    check = BatchCompleted(cluster.job)
    view = check.observe(cluster)
    state = view.job.answers[0].value
    running = replace(state, status="running", allocations=(replace(state.allocations[0], status="running"),))

    verdict = check.judge(replace(view, job=everywhere(view.job, running)))

    assert isinstance(verdict, Pending)
    assert verdict.seen.startswith(f"0 of 2 allocations of {cluster.job.id} are complete; ")
    assert verdict.seen.endswith(f" is running, asked on {ON_A}")
