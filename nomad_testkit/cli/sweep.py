"""Destroy all that was left up or left behind, on this machine or in an account."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from nomad_testkit.cli.down import destroy_run
from nomad_testkit.cli.group import main, say
from nomad_testkit.cli.moments import SINCE
from nomad_testkit.errors import TestkitError
from nomad_testkit.runs.run import Run


@main.command(short_help="Destroy all that was left up or behind.")
@click.option(
    "--older-than",
    type=SINCE,
    metavar="AGE",
    help="Look through an AWS account for what lost runs left longer ago than this, such as 6h, by the tag "
    "nomad-testkit-run, and destroy that. Without it: the clusters that this machine remembers.",
)
@click.option(
    "--expired",
    is_flag=True,
    help="Look through an AWS account for runs whose time is up by the tag nomad-testkit-expires, and destroy those; "
    "of other machines' runs it spares what may still be in use.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be destroyed.")
@click.option("--region", "regions", multiple=True, help="Look only here; can be repeated (default: every region).")
@click.option("--endpoint-url", help="Ask this API, such as an embedded EC2's, in the place of AWS.")
@click.option(
    "--aws-account",
    envvar="NOMAD_TESTKIT_AWS_ACCOUNT",
    metavar="ID",
    help="The account that may be swept; in any other nothing is destroyed. Needed with --older-than and --expired, "
    "unless --dry-run or --endpoint-url is given.",
)
def sweep(
    older_than: float | None,
    expired: bool,
    dry_run: bool,
    regions: tuple[str, ...],
    endpoint_url: str | None,
    aws_account: str | None,
) -> None:
    """Destroy every cluster that was left up or left behind, but none that tests on this machine are using now."""

    if older_than is not None or expired:
        if not endpoint_url:
            _look_at_account(aws_account, dry_run=dry_run, region=regions[0] if regions else "us-east-1")
        _sweep_account(
            None if older_than is None else timedelta(seconds=older_than), expired, dry_run, regions, endpoint_url
        )
        return
    if regions or endpoint_url:
        raise click.UsageError("--region and --endpoint-url go with --expired or --older-than, such as --older-than 6h")
    runs = [run for run in Run.every() if not run.used]
    if dry_run:
        for run in runs:
            left = "".join(f"\n  {entry.kind} {entry.name}" for entry in run.journal.left())
            click.echo(f"{run.run_id} would be destroyed{left}")
    failed = 0
    for run in runs if not dry_run else ():
        try:
            click.echo(destroy_run(run))
        except TestkitError as error:
            failed += 1
            click.echo(f"{run.run_id}: {error}", err=True)
    if not runs:
        click.echo("there is nothing to destroy")
    if failed:
        raise click.ClickException(f"{failed} of {len(runs)} clusters could not be destroyed")


def _look_at_account(named: str | None, *, dry_run: bool, region: str) -> None:
    """Say which account is looked through. Raises UsageError where it may not be swept: it is another, or not named."""
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.aws.account import AwsSession
    from nomad_testkit.targets.aws.target import refuse_another_account

    settings = Settings.load(options={"nomad_aws_account": named})
    identity = AwsSession(region).identity()
    if not dry_run:
        refuse_another_account(identity, settings, done="destroyed", purpose="runs may be swept")
    say(f"looking through account {identity.account}, as {identity.arn}")


def _sweep_account(
    older_than: timedelta | None, expired: bool, dry_run: bool, names: Sequence[str], endpoint_url: str | None
) -> None:
    from nomad_testkit.deployment.lost_runs import destroy_lost, find_lost
    from nomad_testkit.deployment.terraform.apply import made_by_terraform
    from nomad_testkit.targets.aws import account

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
    unasked: list[str] = []
    lost = find_lost(regions, older_than=older_than, expired=expired, in_use=used, journals=journals, unasked=unasked)
    for line in unasked:
        click.echo(line, err=True)
    failed = 0
    for one in lost:
        if dry_run:
            click.echo(f"{one}\n  would be destroyed")
            continue
        click.echo(str(one))
        try:
            if one.run_id in here and made_by_terraform(here[one.run_id].folder):
                # Its state knows more than the tags, and would be forgotten with the run.
                click.echo(destroy_run(here[one.run_id]))
                continue
            gone = destroy_lost(one, regions, journal=journals.get(one.run_id), progress=say)
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
    if unasked:
        raise click.ClickException(f"{len(unasked)} of {len(regions)} regions could not be asked: see above")
