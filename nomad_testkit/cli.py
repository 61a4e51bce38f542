"""The same lifecycle from a shell: destroy what was left up, and measure deployments."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import click

from nomad_testkit.errors import Ec2Error, SettingsError, TestkitError
from nomad_testkit.settings import Settings

if TYPE_CHECKING:
    from nomad_testkit.cluster import Cluster
    from nomad_testkit.runs import Run

DEFAULT_EXAMPLE = "nomad-consul-colocated-cluster"


class _Group(click.Group):
    """Shows the errors that are raised on purpose as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TestkitError as error:
            text = "\n".join([str(error), *getattr(error, "__notes__", ())])
            raise click.ClickException(text) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nomad-testkit")
def main() -> None:
    """Clusters of Nomad and Consul: destroy them, measure them, allow them. pytest deploys them."""


@main.command()
@click.argument("run_id")
def down(run_id: str) -> None:
    """Destroy the cluster RUN_ID, which was left up, and all that belongs to it."""
    from nomad_testkit.runs import Run

    _destroy(Run.find(run_id))


class _Age(click.ParamType):  # type: ignore[type-arg]
    """A time such as 90m, 6h or 2d."""

    name = "age"
    _UNITS: ClassVar = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        number, unit = str(value)[:-1], str(value)[-1:]
        if not (unit in self._UNITS and number.isdecimal() and 0 < int(number) < 100_000):
            self.fail(f"{value!r}; right is a whole number above 0 with s, m, h or d, such as 6h", param, ctx)
        return timedelta(**{self._UNITS[unit]: int(number)})


@main.command()
@click.option(
    "--older-than",
    type=_Age(),
    metavar="AGE",
    help="Look through an AWS account for what lost runs left longer ago than this, such as 6h, by the tag "
    "nomad-testkit-run, and destroy that. Without it: the clusters that this machine remembers.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be destroyed.")
@click.option("--region", "regions", multiple=True, help="Look only here; can be repeated (default: every region).")
@click.option("--endpoint-url", help="Ask this API, such as an embedded EC2's, in the place of AWS.")
def sweep(older_than: timedelta | None, dry_run: bool, regions: tuple[str, ...], endpoint_url: str | None) -> None:
    """Destroy every cluster that was left up or left behind, but none that tests on this machine are using now."""
    from nomad_testkit.runs import Run

    if older_than is not None:
        _sweep_account(older_than, dry_run, regions, endpoint_url)
        return
    if regions or endpoint_url:
        raise click.UsageError("--region and --endpoint-url go with --older-than, such as --older-than 6h")
    runs = [run for run in Run.every() if not run.used]
    if dry_run:
        for run in runs:
            left = "".join(f"\n  {entry.kind} {entry.name}" for entry in run.journal.left())
            click.echo(f"{run.run_id} would be destroyed{left}")
    failed = 0
    for run in runs if not dry_run else ():
        try:
            _destroy(run)
        except TestkitError as error:
            failed += 1
            click.echo(f"{run.run_id}: {error}", err=True)
    if not runs:
        click.echo("there is nothing to destroy")
    if failed:
        raise click.ClickException(f"{failed} of {len(runs)} clusters could not be destroyed")


@main.command("iam-policy")
@click.option("--packer", is_flag=True, help="What Packer needs for the AMI of a run, besides.")
def iam_policy(packer: bool) -> None:
    """Print the least IAM policy with which runs can deploy to an account and destroy all of it again."""

    from nomad_testkit.aws_policy import least_policy, seen_calls

    calls = seen_calls("packer" if packer else "runs")
    click.echo(json.dumps(least_policy(calls, packer=packer), indent=2))


@main.group()
def bench() -> None:
    """Measure how long things take."""


@bench.command("deploy")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="How often to deploy.")
@click.option(
    "--example", metavar="FOLDER", help=f"An example's folder, or a bundled one's name (default: {DEFAULT_EXAMPLE})."
)
def bench_deploy(runs: int, example: str | None) -> None:
    """Deploy and destroy an example, and show how long each phase takes, beside the agents without hosts.

    The settings come from the environment, such as NOMAD_TESTKIT_TIMEOUT and NOMAD_TESTKIT_CLIENTS.
    """
    from nomad_testkit.bench.deploy import TEARDOWN, run_bench
    from nomad_testkit.example_settings import changed, chosen_example
    from nomad_testkit.examples import Example
    from nomad_testkit.lifecycle import deployed
    from nomad_testkit.targets.embedded import EmbeddedTarget, agents_of

    settings = Settings.load(environ=os.environ)
    wanted = changed(Example.load(example), settings) if example else chosen_example(settings, DEFAULT_EXAMPLE)
    if settings.keep:
        raise SettingsError(f"{settings.source('keep')}: a benchmark keeps nothing; unset it")
    with EmbeddedTarget.open(settings, progress=_say) as target:

        def deploy_once(use: Callable[[Cluster], None]) -> Mapping[str, float]:
            with deployed(settings, wanted, target=target, progress=_say) as cluster:
                use(cluster)
                timings, used = dict(cluster.timings), time.monotonic()
            return {**timings, TEARDOWN: time.monotonic() - used}

        figures = run_bench(
            runs,
            deploy_once=deploy_once,
            memory_bytes=lambda _: target.memory_bytes(),
            agents={agent.name: str(agent.path) for agent in agents_of(settings, progress=_say)},
            progress=_say,
        )
    click.echo(figures)


@bench.command("soak")
@click.option(
    "--runs", type=click.IntRange(min=1), default=200, show_default=True, help="How many deployments to kill."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the moments.")
def bench_soak(runs: int, seed: int) -> None:
    """Deploy one server over and over, kill each deployment at a random moment, and prove that nothing is left.

    Nothing else of nomad_testkit may run on this machine meanwhile.
    """
    from nomad_testkit.bench.soak import run_soak

    click.echo(run_soak(runs, seed=seed, progress=_say))


def _sweep_account(older_than: timedelta, dry_run: bool, names: Sequence[str], endpoint_url: str | None) -> None:
    from nomad_testkit.deploy.leaks import destroy_lost, find_lost
    from nomad_testkit.runs import Run
    from nomad_testkit.targets import account

    names = names or account.enabled_regions(endpoint_url=endpoint_url)
    regions = {name: account.clients(name, endpoint_url=endpoint_url) for name in names}
    remembered = {run.run_id: run for run in Run.every()}
    used = {run_id for run_id, run in remembered.items() if run.used}
    here = {
        run_id: run
        for run_id, run in remembered.items()
        if run_id not in used and run.description().get("target", {}).get("endpoint_url", "") == endpoint_url
    }
    journals = {run_id: run.journal for run_id, run in here.items()}
    lost = find_lost(regions, older_than=older_than, in_use=used, journals=journals)
    failed = 0
    for one in lost:
        if dry_run:
            click.echo(f"{one}\n  would be destroyed")
            continue
        click.echo(str(one))
        try:
            gone = destroy_lost(one, regions, journal=journals.get(one.run_id), progress=_say)
        except TestkitError as error:
            failed += 1
            click.echo(f"{one.run_id}: {error}", err=True)
        else:
            if one.run_id in here:
                here[one.run_id].forget()
            click.echo(f"{one.run_id} is destroyed: {len(gone)} resources")
    if not lost:
        click.echo("there is nothing to destroy")
    if failed:
        raise click.ClickException(f"{failed} of {len(lost)} lost runs could not be destroyed")


def _destroy(run: Run) -> None:
    from nomad_testkit.lifecycle import destroy
    from nomad_testkit.runs import Run
    from nomad_testkit.targets import attach_target

    description = run.description()
    if "target" not in description:
        if run.journal.left():
            raise TestkitError(f"{run.folder} does not say where the cluster is, though its journal lists resources")
        run.forget()
        click.echo(f"{run.run_id} had created nothing")
        return
    try:
        with attach_target(description["target"]) as target:
            gone = destroy(run, target=target, progress=_say)
            others = [other.description().get("target") for other in Run.every()]
            if description.get("kept") and description["target"] not in others:
                target.end()
    except Ec2Error as error:
        # What an embedded cloud held has gone with it.
        run.forget()
        click.echo(f"{run.run_id} has ended already ({error})")
        return
    click.echo(f"{run.run_id} is destroyed: {len(gone)} resources")


def _say(line: str) -> None:
    click.echo(line, err=True)
