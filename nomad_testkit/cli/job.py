"""Jobs from the command line: submitted and watched until they run, with Nomad's reasons where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nomad_testkit.cli.group import FAILED, columns, json_option, main, say, say_json
from nomad_testkit.cli.lookup import chosen_run, name_option, opened_cluster
from nomad_testkit.cli.numbers import Seconds, Whole
from nomad_testkit.errors import AgentApiError, BrokenError, TestkitError, UsageError, WaitTimeout, near_miss

if TYPE_CHECKING:
    from nomad_testkit.checks.scheduling import Allocation
    from nomad_testkit.cluster.check import Verdict
    from nomad_testkit.cluster.clients.nomad import NomadClient

Json = dict[str, Any]
_FINITE = ("batch", "sysbatch")
_EVERYWHERE = ("system", "sysbatch")


@main.group()
def job() -> None:
    """Run jobs, look at them, and stop them."""


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


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the jobs of the cluster, as far as it answers."""
    try:
        with opened_cluster(chosen_run(ctx.params.get("name"))) as cluster:
            jobs = [str(one["ID"]) for one in cluster.nomad.get("/v1/jobs")]
    except TestkitError:
        return []
    return [CompletionItem(one) for one in jobs if one.startswith(incomplete)]


@job.command()
@click.argument("job_id", metavar="[JOB]", required=False, shell_complete=_complete)
@name_option
@json_option
@click.pass_context
def status(ctx: click.Context, job_id: str | None, name: str | None, as_json: bool) -> None:
    """Show the jobs, or of JOB its allocations, where each runs and what happened to its tasks last.

    The exit code is 1 where Nomad cannot place an allocation of it, or one that should run does not.
    """
    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        jobs = nomad.get("/v1/jobs")
        if job_id is None:
            rows = [_summary(one) for one in jobs]
            if as_json:
                say_json({"jobs": rows})
            elif rows:
                head = [["JOB", "TYPE", "STATUS", "RUNNING", "WANTED"]]
                click.echo(columns([*head, *([str(value) for value in row.values()] for row in rows)]))
            else:
                click.echo("there is no job; `nomad-testkit job run FILE` runs one")
            return
        spec = nomad.job(_known(job_id, jobs))
        shown = _allocations(nomad, spec)
        blocked = _reasons(nomad, spec)
        down = [one for one in shown if one.desired == "run" and one.status not in ("running", "complete")]
        if as_json:
            say_json({**_described(spec, shown, None), "status": spec["Status"], "not_placed": blocked})
        else:
            _show(spec, shown)
            for reason in blocked:
                click.echo(f"  not placed: {reason}")
    if down or blocked:
        ctx.exit(FAILED)


@job.command(short_help="Show what a job's tasks have written.")
@click.argument("job_id", metavar="JOB", shell_complete=_complete)
@name_option
@click.option("--task", metavar="TASK", help="Of this task alone.")
@click.option("--stderr", is_flag=True, help="What they wrote to standard error, instead of standard output.")
@click.option("-n", "--lines", type=Whole(min=0), default=100, show_default=True, help="How many lines back.")
@json_option
def logs(job_id: str, name: str | None, task: str | None, stderr: bool, lines: int, as_json: bool) -> None:
    """Show the last lines that the tasks of JOB have written, those of several allocations behind their names."""
    from nomad_testkit.deployment.evidence import mask

    stream = "stderr" if stderr else "stdout"
    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        spec = nomad.job(_known(job_id, nomad.get("/v1/jobs")))
        tasks = {str(group["Name"]): [str(one["Name"]) for one in group["Tasks"]] for group in spec["TaskGroups"]}
        every = sorted({one for names in tasks.values() for one in names})
        if task is not None and task not in every:
            raise UsageError(f"{job_id} has no task {task!r}; {near_miss(task, every)}")
        written = [
            {"allocation": one.id, "name": one.name, "task": each, "lines": text.splitlines()[-lines or len(text) :]}
            for one in _allocations(nomad, spec)
            for each in tasks.get(one.group, ())
            if task in (None, each)
            for text in [mask(_written(nomad, one.id, each, stream))]
        ]
    if as_json:
        say_json({"job": job_id, "stream": stream, "logs": written})
        return
    for one in written:
        title = f"{one['name']} ({one['allocation'][:8]}) {one['task']}  " if len(written) > 1 else ""
        for line in one["lines"]:
            click.echo(f"{title}{line}")


def _written(nomad: NomadClient, alloc_id: str, task: str, stream: str) -> str:
    try:
        return nomad.logs(alloc_id, task, stream=stream)
    except AgentApiError as error:  # such as of one that never started
        if error.status is None:
            raise
        return f"({error.message.strip()})"


def _known(job_id: str, jobs: Sequence[Json]) -> str:
    """Refuse a job that there is not. Raises UsageError that suggests the nearest."""
    known = [str(one["ID"]) for one in jobs]
    if job_id not in known:
        hint = near_miss(job_id, known) if known else "no job is registered"
        raise UsageError(f"there is no job {job_id!r}; {hint}")
    return job_id


def _summary(facts: Json) -> Json:
    groups = ((facts.get("JobSummary") or {}).get("Summary") or {}).values()
    counts = {key: sum(group.get(key, 0) for group in groups) for key in ("Running", "Queued", "Starting")}
    return {
        "job": facts["ID"],
        "type": facts["Type"],
        "status": facts["Status"] if not facts.get("Stop") else "stopped",
        "running": counts["Running"],
        "wanted": sum(counts.values()),
    }


def _reasons(nomad: NomadClient, spec: Json) -> list[str]:
    """Say why Nomad has not placed what it still wants to, as its evaluations do."""
    from nomad_testkit.checks.needs import Needs, ready_clients
    from nomad_testkit.checks.placement import Evaluation, why_not_placed

    found = [Evaluation.parse(one) for one in nomad.job_evaluations(spec["ID"])]
    needs = {str(group["Name"]): Needs.parse(spec, group) for group in spec["TaskGroups"]}
    reason = why_not_placed(found, needs, ready_clients(nomad.nodes())) if spec["Status"] != "dead" else None
    return [reason] if reason else []


@job.command()
@click.argument("job_id", metavar="JOB", shell_complete=_complete)
@name_option
@click.option("--purge", is_flag=True, help="Let Nomad forget it, too.")
@json_option
def stop(job_id: str, name: str | None, purge: bool, as_json: bool) -> None:
    """Stop the job JOB and the children that it has started, and wait until none of their allocations runs any more."""
    from nomad_testkit.cluster.jobs import Job

    with opened_cluster(chosen_run(name)) as cluster:
        cluster.refresh()
        nomad = cluster.nomad
        Job(nomad, nomad.job(_known(job_id, nomad.get("/v1/jobs")))).stop(purge=purge)
    if as_json:
        say_json({"job": job_id, "stopped": True, "purged": purge})
    else:
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
