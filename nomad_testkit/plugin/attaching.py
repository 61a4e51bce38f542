"""A cluster that `nomad-testkit up` has deployed, as tests use it: found by its name, and never destroyed from here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from nomad_testkit.errors import Ec2Error, FaultError, SettingsError, UsageError
from nomad_testkit.examples.example import Example
from nomad_testkit.runs.run import Run

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets import Target

logger = logging.getLogger(__name__)


def attached_run(settings: Settings) -> Run:
    """Find the run that the setting `attach` names. Raises SettingsError for one that is not, or not yet, left up."""
    source = settings.source("attach")
    try:
        run = Run.find(str(settings.attach))
    except UsageError as error:
        raise SettingsError(f"{source}: {error}") from error
    told = run.description()
    if not (told.get("kept") and told.get("hosts")):
        raise SettingsError(
            f"{source}: {run} is not left up: who deploys it destroys it, too. Attach to what `nomad-testkit up` made"
        )
    return run


def attached_example(settings: Settings) -> Example:
    """Load the example that the run was deployed from, as it was deployed. Raises SettingsError."""
    run = attached_run(settings)
    try:
        return Example.from_description(run.description()["example"])
    except UsageError as error:
        raise SettingsError(f"{settings.source('attach')}: the example of {run} has changed: {error}") from error


def refuse_topology(settings: Settings, asked: tuple[str, ...], topology: str) -> None:
    """Refuse tests whose marks ask for another topology than the cluster's. Raises SettingsError."""
    from nomad_testkit.plugin import topologies

    example = attached_example(settings)
    try:
        topologies.refuse_another(example, asked, topology)
    except UsageError as error:
        found = "an encrypted" if not example.security.lacking else f"a {example.roles.topology}"
        raise SettingsError(
            f"{settings.source('attach')}: {attached_run(settings)} is {found} cluster, deployed from "
            f"{example.folder}, but there are tests marked {topology}. Leave them out, such as by -m "
            f"{example.roles.topology}, or attach to a cluster that is {topology}"
        ) from error


@contextmanager
def attached_target(settings: Settings) -> Iterator[Target]:
    """Use the target of the run. Nobody destroys the run meanwhile; its target lives on afterwards.

    Raises SettingsError where the run is being destroyed, and where its embedded EC2 is gone.
    """
    from nomad_testkit.targets import attach_target

    run, source = attached_run(settings), settings.source("attach")
    if (lock := run.held(shared=True)) is None:
        raise SettingsError(f"{source}: {run} is being destroyed, or who deployed it has not let go of it yet")
    with ExitStack() as stack:
        stack.callback(lock.release)
        try:
            target = stack.enter_context(attach_target(run.description()["target"]))
        except Ec2Error as error:
            raise SettingsError(f"{source}: {run} is gone with its embedded EC2: {error}") from error
        yield target


@contextmanager
def attached_cluster(settings: Settings, target: Target) -> Iterator[Cluster]:
    """Lend the cluster of the run, with the instances that it has now.

    What killed processes left of faults is undone first. Raises SettingsError, also where that cannot be.
    """
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.deployment.lifecycle_events import attachment_events
    from nomad_testkit.faults.left import require_undone

    example = attached_example(settings)
    run = attached_run(settings)
    cluster = replace(
        Cluster.from_description(run.description(), target=target, example=example),
        save=lambda changed: run.amend(changed.describe()),
    )
    try:
        try:
            for fault in require_undone(cluster):
                logger.warning("%s: %s", cluster.run_id, fault)
        except FaultError as error:
            raise SettingsError(f"{settings.source('attach')}: {error}") from error
        cluster.refresh()
        with attachment_events(cluster):
            yield cluster
    finally:
        cluster.close()
