"""Lost runs: runs that own tagged resources in some region but no process."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nomad_testkit.deployment.inventory import Inventory, Resource
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.errors import TeardownError, TestkitError
from nomad_testkit.modules.steps import INSTANCE_PROFILE, ROLE
from nomad_testkit.targets.aws.errors import AWS_ERRORS, RETRY_SECONDS, describe_error, retry_transient
from nomad_testkit.wait import Deadline

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.runs.journal import Entry, Journal

logger = logging.getLogger(__name__)

Clients = Callable[[str], Any]
"""Returns the boto3 client of a service in one region."""

_RUN_ID = re.compile(r"nt-([0-9]{8})-[0-9a-f]{6}")
_GLOBAL = (ROLE, INSTANCE_PROFILE)
"""Kinds that belong to the account and are visible from each region."""
SWEEP_SECONDS = 600.0
"""For the end of one run's resources in one region: AWS takes minutes to terminate an instance."""


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run and its remaining resources."""

    run_id: str
    started: datetime
    """When the oldest remaining resource was created."""
    expires: datetime | None
    """The expiry in the resources' tags; None without such a tag."""
    resources: Mapping[str, tuple[Resource, ...]]
    """By region; roles and instance profiles, which have no region, are listed with the first."""

    def __str__(self) -> str:
        count = sum(map(len, self.resources.values()))
        until = f", may live until {self.expires:%Y-%m-%d %H:%M} UTC" if self.expires else ""
        lines = [f"{self.run_id}, from {self.started:%Y-%m-%d %H:%M} UTC{until}: {count} resources"]
        for region, resources in self.resources.items():
            lines += [f"  {region}: {resource}" for resource in resources]
        return "\n".join(lines)


def find_lost(
    regions: Mapping[str, Clients],
    *,
    older_than: timedelta | None,
    expired: bool = False,
    now: datetime | None = None,
    in_use: Iterable[str] = (),
    journals: Mapping[str, Journal] | None = None,
    unasked: list[str] | None = None,
) -> list[LostRun]:
    """Find the runs whose oldest resource is older than `older_than`, except those `in_use`.

    With `expired`, runs whose expiry tag has passed are found too.

    Only resources whose tag nomad-testkit-run holds a run's id count. Journals, by the run's id, name resources that
    the tag index does not show yet; those count if they bear the tag. AWS reports no age for a security group: a run
    that has nothing else left counts as created at the end of the day in its id.

    A region that refuses, for instance by a policy of the organisation, does not stop the search: a line about it is
    added to `unasked`. Raise TeardownError if `unasked` is None, or if every region refused.
    """
    now = now or datetime.now(UTC)
    found: dict[str, dict[str, list[Resource]]] = {}
    spared, seen = set(in_use), set()
    failures: list[str] = []
    for region, client in regions.items():
        try:
            resources_there = _look(region, client, journals or {})
        except TeardownError as error:
            failures.append(str(error))
            if unasked is None or len(failures) == len(regions):
                raise TeardownError("\n".join(failures)) from error
            unasked.append(str(error))
            continue
        for resource in resources_there:
            day = _RUN_ID.fullmatch(resource.run_id)
            if day is None:
                logger.warning("%s in %s is left alone: no run is called %r", resource, region, resource.run_id)
            elif resource.run_id not in spared and (resource.kind not in _GLOBAL or resource not in seen):
                seen.add(resource)
                found.setdefault(resource.run_id, {}).setdefault(region, []).append(resource)
    lost = []
    for run_id, by_region in found.items():
        created = [one.created for resources in by_region.values() for one in resources if one.created is not None]
        started = min(created, default=_end_of_day(run_id))
        limits = [one.expires for resources in by_region.values() for one in resources if one.expires is not None]
        expires = max(limits, default=None)
        old = older_than is not None and now - started > older_than
        if old or (expired and expires is not None and now > expires):
            resources = {region: tuple(resources) for region, resources in by_region.items()}
            lost.append(LostRun(run_id, started, expires, resources))
    return sorted(lost, key=lambda run: run.started)


def destroy_lost(
    run: LostRun, regions: Mapping[str, Clients], *, journal: Journal | None = None, progress: Progress | None = None
) -> list[str]:
    """Destroy the remaining resources of a run in each of its regions, prove it, and return what was destroyed.

    Raise TeardownError, after all regions have been tried, with what is left and which calls AWS refused.
    """
    destroyed: list[str] = []
    failures: list[str] = []
    for region in run.resources:
        try:
            deadline = Deadline.after(SWEEP_SECONDS)
            destroyed += sweep(regions[region], run.run_id, journal, deadline=deadline, progress=progress)
        except TeardownError as error:
            failures.append(f"{region}: {error}")
    if failures:
        raise TeardownError("\n".join(failures))
    return destroyed


def _look(region: str, client: Clients, journals: Mapping[str, Journal]) -> list[Resource]:
    inventory = Inventory(client("ec2"), client("autoscaling"), client("iam"), None)
    try:
        resources = retry_transient(f"a look at {region}", inventory.everything, deadline=Deadline.after(RETRY_SECONDS))
        known = {(one.kind, one.name) for one in resources}
        for entry in _remembered(journals.values()):
            if (entry.kind, entry.name) not in known:
                resources += inventory.named(entry.kind, entry.name)
    except AWS_ERRORS as error:
        raise TeardownError(f"{region} could not be searched for lost runs: {describe_error(error)}") from error
    return resources


def _remembered(journals: Iterable[Journal]) -> Iterator[Entry]:
    for journal in journals:
        try:
            yield from journal.left()
        except TestkitError as error:
            logger.warning("%s", error)


def _end_of_day(run_id: str) -> datetime:
    day = run_id.split("-")[1]
    try:
        return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
    except ValueError:  # an id without a date: its age is unknown, so it counts as new
        return datetime.max.replace(tzinfo=UTC)
