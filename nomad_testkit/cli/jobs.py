"""Jobs from the command line: submitted and watched until they run, with Nomad's reasons where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.cli.group import columns, json_option, main, say, say_json
from nomad_testkit.cli.lookup import chosen_run, name_option, opened_cluster
from nomad_testkit.cli.numbers import Seconds
from nomad_testkit.errors import AgentApiError, BrokenError, TestkitError, UsageError, WaitTimeout

if TYPE_CHECKING:
    from nomad_testkit.checks.scheduling import Allocation
    from nomad_testkit.cluster.check import Verdict
    from nomad_testkit.cluster.clients.nomad import NomadClient

Json = dict[str, Any]
_FINITE = ("batch", "sysbatch")
_EVERYWHERE = ("system", "sysbatch")


@main.group()
def job() -> None:
    """Run and stop jobs."""


class _Assignment(click.ParamType):  # type: ignore[type-arg]
    name = "assignment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        from nomad_testkit.cluster.job_files import Text

        name, equals, text = str(value).partition("=")
        if not (equals and name.strip()):
            self.fail(f"found {value!r}, expected KEY=VALUE, such as count=3", param, ctx)
        return name.strip(), Text(text)


@job.command()
@click.argument("file", type=click.Path())
@name_option
@click.option("--var", "variables", multiple=True, type=_Assignment(), metavar="KEY=VALUE", help="Can be repeated.")
@click.option(
    "--var-file",
    "var_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Variables in HCL or JSON; can be repeated, and the last wins.",
)
@click.option("--timeout", type=Seconds(), metavar="SECONDS", default=60.0, show_default=True)
@click.option("--detach", is_flag=True, help="Do not wait for it.")
@json_option
def run(
    file: str,
    name: str | None,
    variables: Sequence[tuple[str, Any]],
    var_files: Sequence[str],
    timeout: float,
    detach: bool,
    as_json: bool,
) -> None:
    """Submit the job in FILE, or one of the bundled jobs by its file name, and wait until all of it runs.

    FILE is HCL, or JSON as `nomad job inspect` and `nomad job run -output` print it. A batch job is waited for until it
    is complete. Where Nomad cannot place it, its deployment fails or waits for a promotion, or a task of it fails,
    Nomad's reasons are shown and the exit code is 1; the job stays registered, as with `nomad job run`.

    Variables are set as with `nomad job run`: by --var, else by --var-file, else by NOMAD_VAR_name in the environment.
    The type that the job declares decides what a value is.
    """
    from nomad_testkit.cluster.jobs import parse

    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        spec = parse(nomad, file, var_files=var_files, **dict(variables))
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
    """Stop the job JOB and the children that it has started, and wait until none of their allocations runs any more."""
    from nomad_testkit.cluster.jobs import Job
    from nomad_testkit.errors import near_miss

    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        known = [str(one["ID"]) for one in nomad.get("/v1/jobs")]
        if job_id not in known:
            raise UsageError(f"there is no job {job_id!r}; {near_miss(job_id, known)}")
        Job(nomad, nomad.job(job_id)).stop(purge=purge)
    click.echo(f"{job_id} is stopped")


def _await(nomad: NomadClient, spec: Json, timeout: float) -> None:
    from nomad_testkit.checks.scheduling import Goal, job_state, judge_state
    from nomad_testkit.wait import Deadline, wait_until

    goal: Goal = "complete" if spec["Type"] in _FINITE else "running"
    groups = [(str(group["Name"]), int(group["Count"])) for group in spec["TaskGroups"]]
    version: list[int] = []

    def probe() -> Verdict:
        state = job_state(nomad, spec["ID"])
        version.append(state.version)  # the first is the one that was submitted just now
        return judge_state(state, goal, groups, asked_version=version[0], everywhere=spec["Type"] in _EVERYWHERE)

    wait_until(f"{spec['ID']} to be {goal}", probe, deadline=Deadline.after(timeout), interval=0.5, on_pending=say)


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
