"""Jobs from the command line: submitted and watched until they run, with Nomad's reasons where they cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.cli.choosing import chosen_run, name_option, opened_cluster
from nomad_testkit.cli.group import columns, json_option, main, say, say_json
from nomad_testkit.errors import AgentApiError, BrokenError, TestkitError, UsageError, WaitTimeout

if TYPE_CHECKING:
    from nomad_testkit.checks.scheduling import Allocation
    from nomad_testkit.clients.nomad import NomadClient
    from nomad_testkit.wait import Broken, Ok, Pending

Json = dict[str, Any]
RUNNING, COMPLETE = "running", "complete"
_FINITE = ("batch", "sysbatch")
_EVERYWHERE = ("system", "sysbatch")


@main.group()
def job() -> None:
    """Run and stop jobs."""


class _Assignment(click.ParamType):  # type: ignore[type-arg]
    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = str(value).partition("=")
        if not (equals and name.strip()):
            self.fail(f"found {value!r}, expected KEY=VALUE, such as count=3", param, ctx)
        try:
            return name.strip(), json.loads(text)
        except ValueError:
            return name.strip(), text


@job.command()
@click.argument("file", type=click.Path())
@name_option
@click.option("--var", "variables", multiple=True, type=_Assignment(), metavar="KEY=VALUE", help="Can be repeated.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", default=60.0, show_default=True)
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@json_option
def run(
    file: str, name: str | None, variables: Sequence[tuple[str, Any]], timeout: float, detach: bool, as_json: bool
) -> None:
    """Submit the job in FILE, HCL or one of the bundled jobs by its file name, and wait until all of it runs.

    A batch job is waited for until it is complete. Where Nomad cannot place it, or a task of it fails, its reasons are
    shown and the exit code is 1; the job stays registered, as with `nomad job run`. A value of --var that is JSON is
    what it says, any other a string.
    """
    from nomad_testkit.jobs import parse

    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        spec = parse(nomad, file, **dict(variables))
        answer = nomad.register(spec)
        failure = None
        if not (detach or not answer.get("EvalID")):  # a periodic or parameterized job has none: it waits itself
            try:
                _await(nomad, spec, timeout)
            except (BrokenError, WaitTimeout) as error:
                failure = error
        shown = _allocations(nomad, spec)
        if as_json:
            say_json(_described(spec, shown, failure))
        else:
            _show(spec, shown)
    if failure is not None:
        raise TestkitError(f"{failure}\nit stays registered; `nomad-testkit job stop {spec['ID']}` stops it")


@job.command()
@click.argument("job_id", metavar="JOB")
@name_option
@click.option("--purge", is_flag=True, help="Let Nomad forget it, too.")
def stop(job_id: str, name: str | None, purge: bool) -> None:
    """Stop the job JOB, and wait until none of its allocations runs any more."""
    from nomad_testkit.example_variables import near_miss
    from nomad_testkit.jobs import Job

    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        known = [str(one["ID"]) for one in nomad.get("/v1/jobs")]
        if job_id not in known:
            raise UsageError(f"there is no job {job_id!r}; right is {near_miss(job_id, known)}")
        Job(nomad, nomad.job(job_id)).stop(purge=purge)
    click.echo(f"{job_id} is stopped")


@dataclass(frozen=True)
class _Watched:
    """What Nomad says of the version of a job that was submitted last."""

    status: str
    allocations: tuple[Allocation, ...]
    why_not: str | None
    pending: bool
    """Whether an evaluation of it is still to be done."""


def _await(nomad: NomadClient, spec: Json, timeout: float) -> None:
    from nomad_testkit.wait import Deadline, wait_until

    goal = COMPLETE if spec["Type"] in _FINITE else RUNNING
    counts = {str(group["Name"]): int(group["Count"]) for group in spec["TaskGroups"]}
    wait_until(
        f"{spec['ID']} to be {goal}",
        lambda: judged(_look(nomad, spec), goal, counts, everywhere=spec["Type"] in _EVERYWHERE),
        deadline=Deadline.after(timeout),
        interval=0.5,
        on_pending=say,
    )


def judged(watched: _Watched, goal: str, counts: Mapping[str, int], *, everywhere: bool) -> Ok[None] | Pending | Broken:
    """Tell whether a job has come to its goal, may still come, or cannot, from nothing but what Nomad said of it."""
    from nomad_testkit.wait import Broken, Ok, Pending

    if watched.why_not:
        return Broken(f"it cannot be placed: {watched.why_not}")
    if watched.pending:
        return Pending("the scheduler has not looked at it yet")
    alive = [one for one in watched.allocations if one.desired == "run" or one.status == COMPLETE]
    faults = []
    for group, count in counts.items():
        members = [one for one in alive if one.group == group]
        done = sum(one.status == goal for one in members)
        # A system job has one on each node that it may run on, which only the scheduler knows.
        wanted = max(1, len(members)) if everywhere else count
        if done < wanted:
            faults.append(f"{done} of {wanted} allocations of group {group!r} are {goal}")
    if not faults:
        return Ok(None)
    text = "; ".join([*faults, *(str(one) for one in watched.allocations if one.status != goal)])
    return Broken(text) if watched.status == "dead" else Pending(text)


def _look(nomad: NomadClient, spec: Json) -> _Watched:
    from nomad_testkit.checks.placement import Evaluation, why_not_placed
    from nomad_testkit.checks.scheduling import Allocation
    from nomad_testkit.jobs import ready_datacenters

    found = nomad.job(spec["ID"])
    own = [one for one in nomad.job_evaluations(spec["ID"]) if one.get("JobModifyIndex") == found["JobModifyIndex"]]
    evaluations = [Evaluation.parse(one) for one in own]
    return _Watched(
        status=str(found["Status"]),
        allocations=tuple(
            Allocation.parse(one) for one in nomad.job_allocations(spec["ID"]) if one["JobVersion"] == found["Version"]
        ),
        why_not=why_not_placed(evaluations, tuple(found["Datacenters"]), ready_datacenters(nomad.nodes())),
        pending=not evaluations or any(one.status == "pending" for one in evaluations),
    )


def _allocations(nomad: NomadClient, spec: Json) -> list[Allocation]:
    from nomad_testkit.checks.scheduling import Allocation

    try:
        return [Allocation.parse(one) for one in nomad.job_allocations(spec["ID"])]
    except AgentApiError:
        return []  # what is to be told of the job is told all the same


def _described(spec: Json, shown: Sequence[Allocation], failure: Exception | None) -> Json:
    return {
        "job": spec["ID"],
        "type": spec["Type"],
        "failure": None if failure is None else str(failure),
        "allocations": [
            {
                "id": one.id,
                "name": one.name,
                "group": one.group,
                "node": one.node,
                "desired": one.desired,
                "status": one.status,
                "event": one.event or None,
            }
            for one in shown
        ],
    }


def _show(spec: Json, shown: Sequence[Allocation]) -> None:
    click.echo(f"{spec['ID']} ({spec['Type']}): {len(shown)} allocations")
    if shown:
        rows = [["ALLOCATION", "NAME", "NODE", "DESIRED", "STATUS", "LAST EVENT"]]
        rows += [[one.id[:8], one.name, one.node, one.desired, one.status, one.event] for one in shown]
        click.echo(columns(rows, indent="  "))
