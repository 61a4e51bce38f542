"""What the scheduler made of a job: placed, running, spread over the clients, completed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nomad_testkit.checks.base import Answer, Check, ClusterView, Verdict, ask_every
from nomad_testkit.checks.placement import Evaluation, why_not_placed
from nomad_testkit.host import Host
from nomad_testkit.jobs import Job, ready_datacenters
from nomad_testkit.wait import Broken, Ok, Pending


@dataclass(frozen=True, slots=True)
class Allocation:
    """One allocation of a job, as Nomad lists it."""

    id: str
    name: str
    group: str
    node: str
    desired: str
    status: str
    event: str
    """The last thing that happened to a task that did not start or that failed."""

    @classmethod
    def parse(cls, alloc: Mapping[str, Any]) -> Allocation:
        """Read one entry of GET /v1/job/:id/allocations."""
        return cls(
            id=str(alloc["ID"]),
            name=str(alloc["Name"]),
            group=str(alloc["TaskGroup"]),
            node=str(alloc["NodeName"]),
            desired=str(alloc["DesiredStatus"]),
            status=str(alloc["ClientStatus"]),
            event=_last_event(alloc),
        )

    @property
    def running(self) -> bool:
        """Whether it runs, and is meant to."""
        return self.desired == "run" and self.status == "running"

    def __str__(self) -> str:
        text = f"{self.name} on {self.node} is {self.status}"
        return f"{text}: {self.event}" if self.event and self.status in ("pending", "failed") else text


# Events that say what went wrong; those that follow them only say that Nomad gives up.
_TELLING = (
    "Driver Failure",
    "Failed Validation",
    "Setup Failure",
    "Terminated",
    "Template",
    "Failed Artifact",
)


def _last_event(alloc: Mapping[str, Any]) -> str:
    told = ""
    for task, state in sorted((alloc.get("TaskStates") or {}).items()):
        events = state.get("Events") or []
        telling = [event for event in events if str(event["Type"]).startswith(_TELLING)] or events
        if telling and (state.get("Failed") or state.get("State") == "pending" or not told):
            message = " ".join(str(telling[-1].get("DisplayMessage") or "").split())
            told = f"task {task}: {telling[-1]['Type']}: {message}".rstrip(": ")
    return told


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as one Nomad server knows it."""

    status: str
    evaluations: tuple[Evaluation, ...]
    allocations: tuple[Allocation, ...]
    clients_in: tuple[str, ...]
    """The datacenters of the ready clients."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as every Nomad server knows it, beside what was submitted."""

    job_id: str
    groups: tuple[tuple[str, int], ...]
    datacenters: tuple[str, ...]
    answers: tuple[Answer[JobState], ...]

    @property
    def count(self) -> int:
        """How many allocations there are to be."""
        return sum(count for _, count in self.groups)


def _job_state(host: Host, job_id: str) -> JobState:
    nomad = host.nomad
    return JobState(
        status=str(nomad.job(job_id, stale=True)["Status"]),
        evaluations=tuple(Evaluation.parse(one) for one in nomad.job_evaluations(job_id, stale=True)),
        allocations=tuple(Allocation.parse(one) for one in nomad.job_allocations(job_id, stale=True)),
        clients_in=tuple(ready_datacenters(nomad.nodes(stale=True))),
    )


def observe_job(cluster: ClusterView, job: Job) -> JobView:
    """Ask every Nomad server for what it knows itself of a job, its evaluations, allocations and nodes."""
    answers = ask_every(cluster.nomad_servers, lambda host: _job_state(host, job.id))
    return JobView(job.id, tuple(sorted(job.groups.items())), job.datacenters, answers)


def _impossible(view: JobView) -> Broken | None:
    """Tell why the job cannot be placed, if any server says so."""
    for answer in view.answers:
        why = why_not_placed(answer.value.evaluations, view.datacenters, answer.value.clients_in)
        if why:
            return Broken(f"{view.job_id} cannot be placed: {why}")
    return None


def judge_running(view: JobView) -> Verdict:
    """Demand each group's number of running allocations, and the same ones on every server."""
    if impossible := _impossible(view):
        return impossible
    wrong = []
    for answer in view.answers:
        state = answer.value
        running = [alloc for alloc in state.allocations if alloc.running]
        faults = []
        for group, count in view.groups:
            found = sum(alloc.group == group for alloc in running)
            if found != count:
                faults.append(f"{found} of {count} allocations of group {group!r} run")
        if not faults:
            continue
        others = "; ".join(str(alloc) for alloc in state.allocations if not alloc.running)
        text = f"{', '.join(faults)}{'; ' + others if others else ''}"
        if state.status == "dead":
            # A job is dead once nothing runs and no evaluation is left that could change that.
            return Broken(f"{view.job_id} is dead: {text}")
        wrong.append(f"{view.job_id}, asked on {answer.place}: {text}")
    if wrong:
        return Pending("; ".join(wrong))
    sets = {frozenset(one.id for one in answer.value.allocations if one.running) for answer in view.answers}
    if len(sets) > 1:
        return Pending(f"the servers disagree on which allocations of {view.job_id} run")
    return Ok(f"{view.count} allocations of {view.job_id} run")


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
        placed = [one for one in observed.job.answers[0].value.allocations if one.running]
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
        done = bool(view.answers) and all(_complete(answer.value) == view.count for answer in view.answers)
        return BatchView(view, tuple(sorted(self.job.logs().items())) if done and self.output else ())

    def judge(self, observed: BatchView) -> Verdict:
        """Count what is complete; a job that is dead before is Broken."""
        view = observed.job
        if impossible := _impossible(view):
            return impossible
        for answer in view.answers:
            state = answer.value
            done = _complete(state)
            if done == view.count:
                continue
            others = "; ".join(str(alloc) for alloc in state.allocations if alloc.status != "complete")
            text = f"{done} of {view.count} allocations of {view.job_id} are complete"
            text += f"; {others}" if others else ""
            if state.status == "dead" and state.allocations:
                return Broken(text)
            return Pending(f"{text}, asked on {answer.place}")
        if self.output:
            silent = [f"{alloc[:8]} wrote {text[-200:]!r}" for alloc, text in observed.logs if self.output not in text]
            if silent or len(observed.logs) < view.count:
                return Pending("; ".join(silent) or f"{len(observed.logs)} logs of {view.count} could be read")
        return Ok(f"{view.count} allocations of {view.job_id} are complete")


def _complete(state: JobState) -> int:
    return sum(alloc.status == "complete" for alloc in state.allocations)
