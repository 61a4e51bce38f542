"""Destroy what was left up or left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from nomad_testkit.cli.group import main, say
from nomad_testkit.cli.lookup import complete_runs, the_only
from nomad_testkit.errors import Ec2Error, TestkitError
from nomad_testkit.runs.run import Run


@main.command(short_help="Destroy what is up.")
@click.argument("name", required=False, shell_complete=complete_runs)
def down(name: str | None) -> None:
    """Destroy the run NAME, a name or an id, and all that belongs to it; without NAME the only one.

    One that tests or another command use is refused.
    """
    run = Run.find(name) if name else the_only(Run.every())
    click.echo(destroy_run(run))


def destroy_run(run: Run) -> str:
    """Destroy a run that nobody uses, and its target where that was kept for it alone; tells what happened.

    Raises TestkitError for one that is in use, and TeardownError.
    """
    if (lock := run.held()) is None:
        raise TestkitError(f"{run} is in use: tests are attached to it, or a process deploys it; wait for their end")
    try:
        return _destroy(run)
    finally:
        lock.release()


def _destroy(run: Run) -> str:
    from nomad_testkit.deployment.lifecycle import destroy, forget_lost
    from nomad_testkit.targets import attach_target

    description = run.description()
    if "target" not in description:
        if run.journal.left():
            raise TestkitError(f"{run.folder} does not say where the cluster is, though its journal lists resources")
        run.forget()
        return f"{run.run_id} had created nothing"
    try:
        with attach_target(description["target"]) as target:
            gone = destroy(run, target=target, progress=say)
            others = [_place(other.description().get("target", {})) for other in Run.every()]
            if description.get("kept") and _place(description["target"]) not in others:
                target.end()
    except Ec2Error as error:
        # What an embedded cloud held has gone with it.
        forget_lost(run)
        return f"{run.run_id} has ended already ({error})"
    return f"{run.run_id} is destroyed: {len(gone)} resources"


def _place(target: Mapping[str, Any]) -> dict[str, Any]:
    """Tell which target it is, whatever image a run chose there."""
    return {name: value for name, value in target.items() if name != "ami"}
