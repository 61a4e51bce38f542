"""Checks of jobs against recorded answers: running and spread, completed, failed, and four that cannot be placed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from recorded_cluster import recorded
from verdicts import broken, everyone, first, pending

from nomad_testkit.checks import AllocationsRunning, BatchCompleted, Check, Spread
from nomad_testkit.checks.allocations import Allocation, Rescheduling
from nomad_testkit.checks.needs import Client, Needs
from nomad_testkit.checks.placement import Evaluation, PlacementFailure, why_not_placed
from nomad_testkit.checks.scheduling import JobState, JobView, judge_state
from nomad_testkit.cluster.jobs import Job
from nomad_testkit.wait import Broken, Ok, Pending

ON_A = "i-0a000000000000001 (172.31.16.11)"


# -- running


def view_of(name: str) -> tuple[AllocationsRunning, JobView, JobState]:
    """Observe a recorded job; with the state that the first server has of it."""
    cluster = recorded(name)
    check = AllocationsRunning(cluster.job)
    view = check.observe(cluster)
    return check, view, view.answers[0].value


def test_allocations_that_run_on_every_server() -> None:
    cluster = recorded("web-running")
    assert AllocationsRunning(cluster.job).verdict(cluster) == Ok(f"6 allocations of {cluster.job.id} run")


def test_what_keeps_a_job_from_running_is_named() -> None:
    check, view, state = view_of("web-running")
    *others, last = state.allocations
    building = replace(last, status="pending", event="task server: Task Setup: Building")
    dead = {"status": "dead", "allocations": ()}
    for answers, verdict in (
        (
            everyone(view.answers, allocations=(*others, building)),
            pending(
                start=f"{view.job_id}, asked on {ON_A}: 5 of 6 allocations of group 'web' run; "
                f"{last.name} on {last.node} is pending: task server: Task Setup: Building; "
            ),
        ),
        (
            first(view.answers, allocations=(*others, replace(last, id="another"))),
            Pending(f"the servers disagree on which allocations of {view.job_id} run"),
        ),
        (everyone(view.answers, **dead), Broken(f"{view.job_id} is dead: 0 of 6 allocations of group 'web' run")),
        (
            first(view.answers, **dead),  # that one lags, while others still see them come
            pending(start=f"{view.job_id}, asked on {ON_A}: is dead: 0 of 6 allocations"),
        ),
        (
            everyone(view.answers, version=1, deployments=()),
            pending("0 of 6 allocations of group 'web' run, 6 of version 0 still run"),
        ),
    ):
        assert check.judge(replace(view, answers=answers)) == verdict


# -- placement

ZONE = "platform.aws.placement.availability-zone"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("memory", "dimension 'memory' exhausted on 3 nodes"),
        ("constraint", "constraint '${attr.kernel.name} = windows' filtered 3 nodes"),
        ("missing-attr", f"constraint '${{{ZONE}}} = us-east-1a' filtered 3 nodes (did you mean ${{attr.{ZONE}}}?)"),
        ("datacenter", "no nodes in datacenters [dc1]; the ready clients are in [us-east-1a, us-east-1b, us-east-1c]"),
    ],
)
@pytest.mark.parametrize("kind", ["running", "spread", "completed"])
def test_a_job_that_cannot_be_placed_is_broken_with_nomads_reason(name: str, reason: str, kind: str) -> None:
    cluster = replace(recorded(f"unplaceable-{name}"), clients=())  # whose processes were not recorded
    job = cluster.job
    checks: dict[str, Check[Any]] = {
        "running": AllocationsRunning(job),
        "spread": Spread(job, clients=3),
        "completed": BatchCompleted(job),
    }
    assert checks[kind].verdict(cluster) == Broken(f"{job.id} cannot be placed: group 'group': {reason}")


def evaluation(status: str = "complete", blocked_by: str = "", *, failed: bool = True) -> Evaluation:
    failure = PlacementFailure("web", 3, 0, 3, (("a", 3),), (), (("cpu", 3),), (), 1)
    return Evaluation("0123456789", status, "", blocked_by, (failure,) if failed else ())


def test_a_failure_no_longer_counts_once_the_blocked_evaluation_has_found_room() -> None:
    unblocked = Evaluation("b", "complete", "", "", ())
    blocked = replace(unblocked, status="blocked")
    assert why_not_placed([evaluation(blocked_by="b"), unblocked], {}, ()) is None
    assert why_not_placed([evaluation(blocked_by="b"), blocked], {}, ()) == (
        "group 'web' (and 1 more allocations): dimension 'cpu' exhausted on 3 nodes"
    )


def test_an_evaluation_that_failed_gives_its_description_and_a_pending_one_nothing() -> None:
    failed = replace(evaluation("failed", failed=False), description="maximum attempts reached (5)")
    assert why_not_placed([failed], {}, ()) == "evaluation 01234567 failed: maximum attempts reached (5)"
    assert why_not_placed([evaluation("pending")], {}, ()) is None


IN_A, IN_B = Client("us-a"), Client("us-b")


@pytest.mark.parametrize(
    ("needs", "clients", "reason"),
    [
        (Needs("web", ("us-a",)), (), "no nodes in datacenters [us-a]; no client is ready"),
        (Needs("web", ("dc1",)), (IN_A, IN_B), "no nodes in datacenters [dc1]; the ready clients are in [us-a, us-b]"),
        (Needs("web", ("us-*",), "gpu"), (IN_A,), "no nodes in node pool 'gpu'; the ready clients are in [default]"),
        (Needs("web", ("us-?",)), (replace(IN_A, eligible=False),), "none of 1 node that are ready is eligible"),
        (Needs("web", ("us-a",), "all"), (IN_A,), "0 nodes evaluated, 0 filtered, 0 exhausted"),
    ],
)
def test_why_no_node_came_into_question(needs: Needs, clients: tuple[Client, ...], reason: str) -> None:
    failure = PlacementFailure("web", 0, 0, 0, (), (), (), (), 0)
    assert failure.words(needs, clients).startswith(f"group 'web': {reason}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("docker", "no ready client has a healthy driver 'docker' (Failed to connect to docker daemon)"),
        ("cni", "network mode 'cni/mine' is not on 1 node: it takes a CNI configuration of that name"),
        ("bridge", "network mode 'bridge' is not on 1 node: it takes the CNI plug-ins"),
        ("volume", "host volumes 'disk' are not on 1 node"),
        ("class", "group 'two': no ready client meets ${meta.rack} = r1; no ready client meets ${attr.nomad.version} "),
    ],
)
def test_a_filter_that_names_no_constraint_is_told_by_what_the_job_asks_for(name: str, reason: str) -> None:
    cluster = recorded(f"unplaceable-{name}")
    if name == "class":
        answers = {"${meta.rack}": True, "${attr.kernel.name}": False, "${attr.nomad.version}": True}
        cluster.servers[0].nomad.plan = plans(answers)  # type: ignore[method-assign]
    verdict = AllocationsRunning(cluster.job).verdict(cluster)
    assert verdict == broken(reason)
    for wrong in ("computed class", "missing ", "datacenter", "kernel.name"):
        assert wrong not in str(verdict)


@pytest.mark.parametrize("answers", [True, False])
def test_constraints_that_are_met_only_one_by_one_are_all_named(answers: bool) -> None:
    cluster = recorded("unplaceable-class")
    if answers:  # else Nomad refuses to plan, as without a leader
        nothing = dict.fromkeys(("${meta.rack}", "${attr.kernel.name}", "${attr.nomad.version}"), False)
        cluster.servers[0].nomad.plan = plans(nothing)  # type: ignore[method-assign]
    every = "${meta.rack} = r1, ${attr.kernel.name} = linux, ${attr.nomad.version} semver >= 99.0.0, driver 'raw_exec'"
    assert AllocationsRunning(cluster.job).verdict(cluster) == broken(
        f"group 'two': no ready client meets all of: {every}"
    )


def plans(filters: Mapping[str, bool]) -> Callable[..., dict[str, Any]]:
    """Answer as the scheduler would for jobs that ask for nothing but one constraint."""

    def plan(job: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        (group,) = job["TaskGroups"]
        (constraint,) = group["Constraints"]
        failed = {group["Name"]: {"ConstraintFiltered": {"x": 1}}} if filters[constraint["LTarget"]] else None
        return {"FailedTGAllocs": failed}

    return plan


# -- what may still come, and what cannot


@pytest.mark.parametrize("name", ["job-reschedule-gap", "job-reschedule-delayed", "batch-reschedule-delayed"])
def test_a_job_that_nomad_will_reschedule_is_not_dead(name: str) -> None:
    cluster = recorded(name)
    check = BatchCompleted(cluster.job) if name.startswith("batch") else AllocationsRunning(cluster.job)
    verdict = check.verdict(cluster)
    assert verdict == pending("Exit Code: 3")
    assert ("delayed until" in str(verdict)) == ("delayed" in name)


def test_a_dead_job_waits_for_nothing_but_what_nomad_will_do() -> None:
    """Each of a running deployment, an evaluation and an allocation that is due keeps it alive, and only these."""
    check, view, gap = view_of("job-reschedule-gap")
    assert gap.status == "dead"
    assert gap.deployments
    never = tuple((name, Rescheduling(0, 0, unlimited=False)) for name, _ in gap.rescheduling)
    over = replace(gap, deployments=(), rescheduling=never)
    delayed = replace(gap.evaluations[0], status="pending", wait_until="2026-01-01T00:00:00Z")
    for state, verdict in (
        (over, broken()),
        (replace(over, deployments=gap.deployments), pending()),
        (replace(over, evaluations=(*gap.evaluations, delayed)), pending()),
        (replace(over, rescheduling=gap.rescheduling), pending()),
    ):
        assert check.judge(replace(view, answers=everyone(view.answers, state))) == verdict


HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    ("policy", "replaced_at", "replaces"),
    [
        (Rescheduling(0, 0, unlimited=True), (), True),
        (Rescheduling(0, HOUR, unlimited=False), (), False),
        (Rescheduling(1, HOUR, unlimited=False), (), True),
        (Rescheduling(1, HOUR, unlimited=False), (9 * HOUR + 1,), False),
        (Rescheduling(1, HOUR, unlimited=False), (9 * HOUR,), True),
        (Rescheduling(2, HOUR, unlimited=False), (9 * HOUR + 1, 10 * HOUR - 1), False),
    ],
)
def test_a_policy_decides_what_is_replaced(policy: Rescheduling, replaced_at: tuple[int, ...], replaces: bool) -> None:
    failed = Allocation("a", "x[0]", "x", "n", "run", "failed", "", changed_at=10 * HOUR, replaced_at=replaced_at)
    assert policy.replaces(failed) is replaces
    assert not policy.replaces(replace(failed, status="complete"))
    assert not policy.replaces(replace(failed, desired="stop"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("job-canary", "awaits promotion of its canaries (1 of group 'one')"),
        ("job-paused", "is paused"),
        ("job-reverted", "deployment failed, reverted to version 0"),
        ("job-progress-deadline", "'Failed due to progress deadline'"),
        ("job-hook-failed", "Task hook failed: template: template source path escapes alloc directory"),
    ],
)
def test_a_deployment_that_only_a_person_can_help_is_broken_at_once(name: str, reason: str) -> None:
    cluster = recorded(name)
    job = Job(cluster.job.nomad, {**cluster.job.spec, "JobModifyIndex": 0})  # as it was submitted, not as Nomad has it
    assert AllocationsRunning(job).verdict(cluster) == broken(reason)


def test_the_version_that_a_job_was_reverted_to_may_be_asked_for() -> None:
    cluster = recorded("job-reverted")
    assert AllocationsRunning(cluster.job).verdict(cluster) == Ok(f"1 allocations of {cluster.job.id} run")


@pytest.mark.parametrize(
    ("status", "description", "kind"),
    [
        ("running", "Deployment is running", Pending),
        ("pending", "Deployment is pending, waiting for peer region", Pending),
        ("blocked", "Deployment is complete but waiting for peer region", Pending),
        ("unblocking", "Deployment is unblocking remaining regions", Pending),
        ("initializing", "", Pending),
        ("paused", "Deployment is paused", Broken),
        ("cancelled", "Cancelled because job is stopped", Broken),
        ("failed", "Failed because of an error in peer region", Broken),
        ("failed", "Failed due to unhealthy allocations - not rolling back to stable job version 0 as ...", Broken),
    ],
)
def test_each_state_of_a_deployment(status: str, description: str, kind: type) -> None:
    check, view, state = view_of("job-reschedule-gap")
    deployment = replace(state.deployments[0], status=status, description=description)
    verdict = check.judge(replace(view, answers=everyone(view.answers, deployments=(deployment,))))
    assert isinstance(verdict, kind)
    assert status in str(verdict)


def test_a_failed_artifact_is_told_while_nomad_tries_again() -> None:
    cluster = recorded("job-artifact-failed")
    assert AllocationsRunning(cluster.job).verdict(cluster) == pending(
        "Failed Artifact Download", "http://127.0.0.1:9/missing"
    )


def test_a_system_job_waits_for_the_scheduler_and_counts_what_it_placed() -> None:
    _, _, state = view_of("web-running")
    fewer = replace(state, allocations=state.allocations[:2])
    unseen = replace(fewer, evaluations=(replace(state.evaluations[0], status="pending"),))
    for placed, verdict in (
        (fewer, Ok("")),
        (unseen, Pending("the scheduler has not looked at it yet")),
        (replace(state, allocations=()), Pending("0 of 1 allocations of group 'web' run")),
    ):
        assert judge_state(placed, "running", [("web", 1)], everywhere=True) == verdict


def events(*types: str, failed: bool = True, state: str = "dead") -> dict[str, Any]:
    return {"Failed": failed, "State": state, "Events": [{"Type": one, "DisplayMessage": f"of {one}"} for one in types]}


DRIVER = "task a: Driver Failure: of Driver Failure"
UNHEALTHY = "Plugin became unhealthy"


@pytest.mark.parametrize(
    ("states", "event"),
    [
        (
            {"a": events("Received", "Task hook failed", "Not Restarting")},
            "task a: Task hook failed: of Task hook failed",
        ),
        ({"a": events("Driver Failure"), "b": events("Sibling Task Failed")}, DRIVER),
        ({"a": events("Driver Failure"), "b": events("Received", failed=False, state="pending")}, DRIVER),
        ({"a": events("Plugin became unhealthy", "Killing")}, f"task a: {UNHEALTHY}: of {UNHEALTHY}"),
        ({"a": {"Failed": True, "State": "dead", "Events": None}}, "Failed tasks"),
        (None, "Failed tasks"),
    ],
)
def test_the_event_that_tells_most_is_shown(states: object, event: str) -> None:
    facts = {"ID": "a", "Name": "x[0]", "TaskGroup": "x", "NodeID": "n-1", "DesiredStatus": "run"}
    alloc = Allocation.parse(
        {**facts, "ClientStatus": "failed", "ClientDescription": "Failed tasks", "TaskStates": states}
    )
    assert alloc.event == event
    assert str(alloc) == f"x[0] on n-1 is failed: {event}"


# -- spread


def test_a_job_spread_over_all_clients_and_seen_on_their_hosts() -> None:
    cluster = recorded("web-running")
    assert Spread(cluster.job, clients=3).verdict(cluster) == Ok(f"6 allocations of {cluster.job.id} run on 3 clients")


def test_too_few_clients_strange_ones_and_missing_processes_are_told() -> None:
    cluster = recorded("web-running")
    check = Spread(cluster.job, clients=3)
    view = check.observe(cluster)
    allocations = view.job.answers[0].value.allocations
    packed = tuple(replace(alloc, node="i-0c000000000000002") for alloc in allocations)
    on_one = replace(view.job, answers=everyone(view.job.answers, allocations=packed))
    assert check.judge(replace(view, job=on_one)) == Pending(f"{cluster.job.id} runs on 1 clients: i-0c000000000000002")
    assert check.judge(replace(view, processes=view.processes[1:])) == pending(
        "is on i-0c000000000000001, which is no client of this cluster"
    )
    place = view.processes[0].place
    missing = [one for one in allocations if one.node == place.instance_id]
    assert missing
    assert check.judge(replace(view, processes=first(view.processes, frozenset()))) == Pending(
        "; ".join(f"{place} has no process of {one.name} ({one.id[:8]})" for one in missing)
    )


# -- batch


def test_a_batch_job_completes_and_its_log_is_read_back() -> None:
    cluster = recorded("batch-complete")
    complete = Ok(f"2 allocations of {cluster.job.id} are complete")
    assert BatchCompleted(cluster.job, output="the quick fox").verdict(cluster) == complete
    assert sorted(cluster.job.logs().values()) == ["the quick fox\n", "the quick fox\n"]
    verdict = BatchCompleted(cluster.job, output="a slow dog").verdict(cluster)
    assert verdict == pending()
    assert str(verdict).count(" wrote 'the quick fox\\\\n'") == 2


def test_a_batch_job_whose_task_failed_is_broken_with_its_exit_code() -> None:
    cluster = recorded("batch-failed")
    assert BatchCompleted(cluster.job).verdict(cluster) == broken(
        start=f"{cluster.job.id} is dead: 0 of 1 allocations of group 'batch' are complete; ",
        end="is failed: task echo: Terminated: Exit Code: 1",
    )


def test_a_batch_job_that_still_runs_is_pending() -> None:
    cluster = recorded("batch-complete")
    check = BatchCompleted(cluster.job)
    view = check.observe(cluster)
    running = replace(view.job.answers[0].value.allocations[0], status="running")
    job = replace(view.job, answers=everyone(view.job.answers, status="running", allocations=(running,)))
    assert check.judge(replace(view, job=job)) == pending(
        start=f"{cluster.job.id}, asked on {ON_A}: 0 of 2 allocations of group 'batch' are complete; ",
        end=" is running",
    )
