"""Print what an account has to allow."""

from __future__ import annotations

import json

import click

from nomad_testkit.cli.group import main


@main.command("iam-policy", short_help="Print the least IAM policy for runs.")
@click.option("--packer", is_flag=True, help="What Packer needs for the AMI of a run, besides.")
def iam_policy(packer: bool) -> None:
    """Print the least IAM policy with which runs can deploy to an account and destroy all of it again."""

    from nomad_testkit.aws_policy import DEPLOYING, least_policy, seen_calls

    calls = seen_calls("packer") if packer else seen_calls(*DEPLOYING)
    click.echo(json.dumps(least_policy(calls, packer=packer), indent=2))
