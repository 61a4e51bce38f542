"""Print what an account has to allow."""

from __future__ import annotations

import json
from typing import Literal

import click

from nomad_testkit.cli.group import main


@main.command("iam-policy", short_help="Print the least IAM policy for runs.")
@click.option("--packer", "besides", flag_value="packer", help="What Packer needs for the AMI of a run, besides.")
@click.option(
    "--terraform", "besides", flag_value="terraform", help="What runs need to adopt the hosts of Terraform, besides."
)
def iam_policy(besides: Literal["packer", "terraform"] | None) -> None:
    """Print the least IAM policy with which runs can deploy to an account and destroy all of it again."""

    from nomad_testkit.targets.aws.policy import DEPLOYING, least_policy, seen_calls

    calls = seen_calls(besides) if besides else seen_calls(*DEPLOYING)
    click.echo(json.dumps(least_policy(calls, packer=besides == "packer"), indent=2))
