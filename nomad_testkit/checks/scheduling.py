"""What the scheduler made of a job: placed, running, spread over the clients, completed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nomad_testkit.checks.allocations import Allocation, Rescheduling
from nomad_testkit.checks.deployments import Deployment, why_failed, why_it_waits
from nomad_testkit.checks.needs import Client, Needs, ready_clients, unmet
from nomad_testkit.checks.placement import Evaluation, why_not_placed
from nomad_testkit.cluster.check import Answer, Check, ClusterView, Verdict, ask_every
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.jobs import Job
from nomad_testkit.wait import Broken, Ok, Pending

if TYPE_CHECKING:
    from nomad_testkit.cluster.clients.nomad import NomadClient

__all__ = ["Allocation", "AllocationsRunning", "BatchCompleted", "JobState", "JobView", "Spread"]

Goal = Literal["running", "complete"]


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as one Nomad server knows it: its current version, and what the scheduler made of that."""

    status: str
    allocations: tuple[Allocation, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    """Those of the current version."""
    deployments: tuple[Deployment, ...] = ()
    clients: tuple[Client, ...] = ()
    """Those that are ready."""
    needs: tuple[Needs, ...] = ()
    rescheduling: tuple[tuple[str, Rescheduling], ...] = ()
    """How each group's allocations are replaced when they fail."""
    version: int = 0

    @property
    def running(self) -> tuple[Allocation, ...]:
        """The allocations that run, of whatever version."""
        return tuple(one for one in self.allocations if one.running)

    def done(self, goal: Goal, group: str) -> int:
        """Count a group's allocations that have come to the goal; of older versions none counts."""
        current = [one for one in self.allocations if one.group == group and one.version == self.version]
        return sum(one.running if goal == "running" else one.status == goal for one in current)

    def alive(self, group: str) -> int:
        """Count a group's allocations that are to run, or that are complete."""
        current = [one for one in self.allocations if one.group == group and one.version == self.version]
        return sum(one.desired == "run" or one.status == "complete" for one in current)

    def why_pending(self) -> tuple[str, ...]:
        """Tell what may still bring a dead job's allocations: a deployment, an evaluation, or one that is due."""
        policies = dict(self.rescheduling)
        return (
            *(f"{one} {one.status}" for one in self.deployments if one.version == self.version and one.goes_on),
            *(_describe_evaluation(one) for one in self.evaluations if one.unfinished),
            *(
                f"Nomad will replace {one.name}"
                for one in self.allocations
                if one.version == self.version and one.group in policies and policies[one.group].replaces(one)
            ),
        )


def _describe_evaluation(evaluation: Evaluation) -> str:
    until = f" until {evaluation.wait_until}" if evaluation.wait_until else ""
    return f"evaluation {evaluation.id[:8]} {'delayed' if until else 'pending'}{until}"


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as every Nomad server knows it, beside what was submitted."""

    job_id: str
    groups: tuple[tuple[str, int], ...]
    answers: tuple[Answer[JobState], ...]
    version: int | None = None
    """The version that was asked for, where that is known."""

    @property
    def count(self) -> int:
        """How many allocations there are to be."""
        return sum(count for _, count in self.groups)


def job_state(nomad: NomadClient, job_id: str, *, stale: bool = False) -> JobState:
    """Ask one server for a job, and for all that tells what has become of it. Raises AgentApiError."""
    facts = nomad.job(job_id, stale=stale)
    groups: Sequence[Mapping[str, Any]] = facts["TaskGroups"] or ()
    # An evaluation that was made before the current version is about another one.
    since = int(facts["JobModifyIndex"])
    evaluations = tuple(Evaluation.parse(one) for one in nomad.job_evaluations(job_id, stale=stale))
    current = tuple(one for one in evaluations if one.created >= since)
    clients = ready_clients(nomad.nodes(stale=stale))
    by_class = {one.group for evaluation in current for one in evaluation.failures if one.by_class}
    return JobState(
        status=str(facts["Status"]),
        allocations=tuple(Allocation.parse(one) for one in nomad.job_allocations(job_id, stale=stale)),
        evaluations=current,
        deployments=tuple(Deployment.parse(one) for one in nomad.job_deployments(job_id, stale=stale)),
        clients=clients,
        needs=tuple(
            Needs.parse(facts, one, unmet(nomad, facts, dict(one), clients) if one["Name"] in by_class else ())
            for one in groups
        ),
        rescheduling=tuple((str(one["Name"]), Rescheduling.parse(one)) for one in groups),
        version=int(facts["Version"]),
    )


def observe_job(cluster: ClusterView, job: Job) -> JobView:
    """Ask every Nomad server for what it knows itself of a job, its evaluations, deployments, allocations and nodes."""
    answers = ask_every(cluster.nomad_servers, lambda host: job_state(host.nomad, job.id, stale=True))
    return JobView(job.id, tuple(sorted(job.groups.items())), answers, job.version)


_DOES: Mapping[Goal, str] = {"running": "run", "complete": "are complete"}


def judge_state(
    state: JobState,
    goal: Goal,
    groups: Sequence[tuple[str, int]],
    *,
    asked_version: int | None = None,
    everywhere: bool = False,
) -> Verdict:
    """Tell whether a job has come to its goal, may still come, or cannot, from what one server says of it.

    It cannot when its deployment failed, nothing can place it, only a person can go on, or it is dead for good: no
    deployment runs, no evaluation is pending or delayed, and no allocation is due to be replaced. `everywhere` is for
    a system job: it has one allocation on each node that it may run on, which only the scheduler knows.
    """
    if failed := why_failed(state.deployments, state.version, asked_version):
        return Broken(f"is not deployed: {_with_reasons(failed, state, goal)}")
    if why := why_not_placed(state.evaluations, {one.group: one for one in state.needs}, state.clients):
        return Broken(f"cannot be placed: {why}")
    if everywhere:
        if any(one.unfinished for one in state.evaluations):
            return Pending("the scheduler has not looked at it yet")
        groups = [(name, max(1, state.alive(name))) for name, _ in groups]
    faults = [
        f"{done} of {count} allocations of group {name!r} {_DOES[goal]}"
        for name, count in groups
        if (done := state.done(goal, name)) != count
    ]
    older = [one for one in state.running if one.version != state.version]
    if older and goal == "running":
        faults.append(f"{len(older)} of version {max(one.version for one in older)} still run")
    if not faults:
        return Ok("")
    if waits := why_it_waits(state.deployments, state.version, [one.id for one in state.running]):
        return Broken(f"is not deployed: {waits}; {', '.join(faults)}")
    text = _with_reasons(", ".join(faults), state, goal)
    may_come = state.why_pending()
    if state.status == "dead" and not may_come:
        return Broken(f"is dead: {text}")
    return Pending("; ".join([text, *may_come]))


def _with_reasons(text: str, state: JobState, goal: Goal) -> str:
    """Add the allocations that have not come to the goal, with Nomad's own reasons; of each name the newest."""
    newest: dict[tuple[str, str], Allocation] = {}
    for one in sorted((one for one in state.allocations if one.status != goal), key=lambda one: one.changed_at):
        newest[one.name, one.status] = one
    number = Counter((one.name, one.status) for one in state.allocations)
    return "; ".join(
        [
            text,
            *(
                f"{one}{f' (the last of {number[key]})' if number[key] > 1 else ''}"
                for key, one in sorted(newest.items())
            ),
        ]
    )


def _judge(view: JobView, goal: Goal) -> Verdict:
    """Join what the servers say. Broken is what they all say: one that lags may tell of a state that is over."""
    verdicts = [judge_state(answer.value, goal, view.groups, asked_version=view.version) for answer in view.answers]
    broken = [verdict for verdict in verdicts if isinstance(verdict, Broken)]
    if broken and len(broken) == len(verdicts):
        return Broken(f"{view.job_id} {broken[0].reason}")
    waits = [
        f"{view.job_id}, asked on {answer.place}: {verdict.seen if isinstance(verdict, Pending) else verdict.reason}"
        for answer, verdict in zip(view.answers, verdicts, strict=True)
        if not isinstance(verdict, Ok)
    ]
    return Pending("; ".join(waits)) if waits else Ok(f"{view.count} allocations of {view.job_id} {_DOES[goal]}")


def judge_running(view: JobView) -> Verdict:
    """Demand each group's number of running allocations, and the same ones on every server."""
    verdict = _judge(view, "running")
    if not isinstance(verdict, Ok):
        return verdict
    sets = {frozenset(one.id for one in answer.value.running) for answer in view.answers}
    if len(sets) > 1:
        return Pending(f"the servers disagree on which allocations of {view.job_id} run")
    return verdict


@dataclass(frozen=True)
class AllocationsRunning(Check[JobView]):
    """As many allocations run as the job asks for, in every server's answer.

    A job that cannot be placed is Broken at once, with Nomad's reasons, so wait for NodesReady before
    submitting. Count a system job by its service or with `Job.allocations`: it has one allocation a client,
    whatever its groups' count says.

    >>> with cluster.submitted("exec.nomad.hcl", count=3) as job:  # doctest: +SKIP
    ...     require(cluster, AllocationsRunning(job), within=60)
    """

    job: Job

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"{self.job.count} running allocations of {self.job.id}, the same on every Nomad server"

    def observe(self, cluster: ClusterView) -> JobView:
        """Ask every Nomad server (GET /v1/job/:id with evaluations and allocations)."""
        return observe_job(cluster, self.job)

    def judge(self, observed: JobView) -> Verdict:
        """Count what runs."""
        return judge_running(observed)


@dataclass(frozen=True, slots=True)
class SpreadView:
    """A job as the servers know it, and the allocations that have a process on each client's host."""

    job: JobView
    processes: tuple[Answer[frozenset[str]], ...]


# Nomad gives every task its allocation's id in the environment, whatever the driver.
_ALLOCATIONS_COMMAND = "grep -hsza '^NOMAD_ALLOC_ID=' /proc/[0-9]*/environ | tr '\\0' '\\n' | sort -u | cut -d= -f2"


def allocations_on(host: Host) -> frozenset[str]:
    """List the ids of the allocations that have a process on a host, from its process table."""
    return frozenset(host.run(_ALLOCATIONS_COMMAND, sudo=True, check=False).stdout.split())


@dataclass(frozen=True)
class Spread(Check[SpreadView]):
    """All allocations run, on at least `clients` different clients, seen from Nomad and on the hosts.

    On the hosts, each allocation has a process whose environment has its id (`NOMAD_ALLOC_ID` of Nomad's runtime
    environment), whatever the driver. A job that cannot be placed is Broken, as in AllocationsRunning.

    >>> with cluster.submitted("web.nomad.hcl", count=6) as job:  # doctest: +SKIP
    ...     require(cluster, Spread(job, clients=3), within=60)
    """

    job: Job
    clients: int

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return (
            f"{self.job.count} running allocations of {self.job.id} on {self.clients} clients or more, "
            "each with a process on its host"
        )

    def observe(self, cluster: ClusterView) -> SpreadView:
        """Ask every Nomad server; once all allocations run, look for the processes on every client's host."""
        job = observe_job(cluster, self.job)
        running = isinstance(judge_running(job), Ok)
        return SpreadView(job, ask_every(cluster.nomad_clients, allocations_on) if running else ())

    def judge(self, observed: SpreadView) -> Verdict:
        """Compare allocations with nodes, and with processes."""
        running = judge_running(observed.job)
        if not isinstance(running, Ok):
            return running
        placed = observed.job.answers[0].value.running
        nodes = sorted({alloc.node for alloc in placed})
        if len(nodes) < self.clients:
            return Pending(f"{observed.job.job_id} runs on {len(nodes)} clients: {', '.join(nodes)}")
        on_host = {answer.place.instance_id: answer for answer in observed.processes}
        missing = []
        for alloc in placed:
            answer = on_host.get(alloc.node)
            if answer is None:
                missing.append(f"{alloc.name} is on {alloc.node}, which is no client of this cluster")
            elif alloc.id not in answer.value:
                missing.append(f"{answer.place} has no process of {alloc.name} ({alloc.id[:8]})")
        if missing:
            return Pending("; ".join(missing))
        return Ok(f"{len(placed)} allocations of {observed.job.job_id} run on {len(nodes)} clients")


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch job as the servers know it, and what its completed allocations wrote."""

    job: JobView
    logs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class BatchCompleted(Check[BatchView]):
    """Every allocation of a batch job is complete, and the standard output of each contains `output`.

    A job that cannot be placed, or that is dead with a failed task, is Broken at once.

    >>> with cluster.submitted("batch.nomad.hcl", message="hello") as job:  # doctest: +SKIP
    ...     require(cluster, BatchCompleted(job, output="hello"), within=30)
    """

    job: Job
    output: str = ""

    @property
    def wanted(self) -> str:
        """What this check demands."""
        logged = f", each having written {self.output!r}" if self.output else ""
        return f"{self.job.count} allocations of {self.job.id} complete{logged}"

    def observe(self, cluster: ClusterView) -> BatchView:
        """Ask every Nomad server; once all are complete, read the logs (GET /v1/client/fs/logs/:id)."""
        view = observe_job(cluster, self.job)
        done = bool(view.answers) and isinstance(_judge(view, "complete"), Ok)
        if not (done and self.output):
            return BatchView(view, ())
        complete = {one.id for one in view.answers[0].value.allocations if one.status == "complete"}
        logs = self.job.logs()
        return BatchView(view, tuple((alloc, logs[alloc]) for alloc in sorted(complete & logs.keys())))

    def judge(self, observed: BatchView) -> Verdict:
        """Count what is complete; a job that is dead before is Broken."""
        view = observed.job
        verdict = _judge(view, "complete")
        if isinstance(verdict, Ok) and self.output:
            silent = [f"{alloc[:8]} wrote {text[-200:]!r}" for alloc, text in observed.logs if self.output not in text]
            if silent or len(observed.logs) < view.count:
                return Pending("; ".join(silent) or f"{len(observed.logs)} logs of {view.count} could be read")
        return verdict
