"""AMIs from the command line: built by Packer or imported, kept, listed, deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from nomad_testkit.cli.down import destroy_run
from nomad_testkit.cli.group import columns, json_option, main, progress, say_json
from nomad_testkit.cli.lookup import opened_target
from nomad_testkit.cli.up import AGENTS, left_up, settings_of, settings_options
from nomad_testkit.errors import Ec2Error, TestkitError, UsageError, near_miss
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.embedded.built_amis import built_amis


@main.group()
def ami() -> None:
    """Build, import, list and delete AMIs."""


@ami.command("build")
@click.option(
    "--template",
    type=click.Path(exists=True, path_type=Path),
    help="A Packer template with the bundled one's variables (default: the bundled nomad-consul-ami).",
)
@click.option("--only", metavar="GLOB", help="Which build of the template (default: *.debian-12).")
@settings_options("target", "region", *AGENTS)
def build(template: Path | None, only: str | None, **given: Any) -> None:
    """Build an AMI with Packer and keep it; prints its id, for `nomad-testkit up EXAMPLE --ami ID`.

    On the embedded target it lives in an embedded EC2 of its own, until `nomad-testkit ami delete ID`.
    """
    from nomad_testkit.deployment.amis import BUILD, built
    from nomad_testkit.targets import open_target

    settings = settings_of(given)
    with (
        left_up() as leave,
        progress() as shown,
        open_target(settings, progress=shown) as target,
        built(settings, target=target, progress=shown, template=template, only=only or BUILD) as made,
    ):
        leave(made.run_id)
    click.echo(made.ami_id)


@ami.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The AMI's name, as in DescribeImages.")
@click.option("--owner", default="", metavar="ACCOUNT", help="The account that owns it (default: the EC2's own).")
@click.option("--user", default="admin", show_default=True, help="The user that its cloud-init gives the key pair to.")
def import_(source: Path, name: str, owner: str, user: str) -> None:
    """Import SOURCE, an image with systemd, sshd and cloud-init; prints its id.

    SOURCE is a root folder, a tar, an OCI layout or archive, or a raw or qcow2 disk, of which the root partition is
    taken. Every embedded EC2 that is opened from then on has the AMI, until `nomad-testkit ami delete ID`.
    """
    from nomad_testkit.targets.embedded.imported import import_image

    with progress() as shown:
        made = import_image(source, name=name, owner=owner, user=user, progress=shown)
    click.echo(made.ami_id)


@ami.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the AMIs that this machine has built or imported and that are not deleted."""
    from nomad_testkit.targets.embedded.imported import describe, imported_images

    told = [{"ami": one, "run_id": run.run_id, **_facts(one, run)} for one, run in built_amis().items()]
    told += [describe(image) for image in imported_images()]
    if as_json:
        say_json({"amis": told})
    elif not told:
        click.echo("there is no AMI; `nomad-testkit ami build` builds one, `ami import` imports one")
    else:
        rows = [["AMI", "NAME", "TARGET", "STATE", "RUN"]]
        rows += [[one["ami"], one["name"], one["target"], one["state"], one["run_id"]] for one in told]
        click.echo(columns(rows))


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(one) for one in _every_ami() if one.startswith(incomplete)]


@ami.command()
@click.argument("ami_id", metavar="AMI", shell_complete=_complete)
def delete(ami_id: str) -> None:
    """Delete an AMI that `ami build` or `ami import` has made, with its snapshot."""
    from nomad_testkit.targets.embedded.imported import delete_image, imported_image

    run = built_amis().get(ami_id)
    if run is not None:
        click.echo(destroy_run(run))
        return
    image = imported_image(ami_id)
    if image is None:
        hint = near_miss(ami_id, _every_ami())
        raise UsageError(f"this machine has no AMI {ami_id!r} that it built or imported; {hint}")
    if users := [str(run) for run in Run.every() if run.description().get("target", {}).get("name") == "embedded"]:
        raise UsageError(f"{ami_id} is in the embedded EC2 of {', '.join(users)}; `nomad-testkit down` these first")
    delete_image(image)
    click.echo(f"{ami_id} is deleted")


def _every_ami() -> list[str]:
    from nomad_testkit.targets.embedded.imported import imported_images

    return [*built_amis(), *(image.ami_id for image in imported_images())]


def _facts(ami_id: str, run: Run) -> dict[str, str]:
    target = str(run.description()["target"].get("name"))
    try:
        with opened_target(run) as opened:
            images = opened.client("ec2").describe_images(Filters=[{"Name": "image-id", "Values": [ami_id]}])["Images"]
    except Ec2Error:
        return {"name": "", "target": target, "state": "gone"}
    except TestkitError as error:
        return {"name": "", "target": target, "state": f"unknown: {error}"}
    if not images:
        return {"name": "", "target": target, "state": "gone"}
    return {"name": str(images[0].get("Name", "")), "target": target, "state": str(images[0].get("State", ""))}
