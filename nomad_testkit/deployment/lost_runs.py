"""Lost runs: those of which something still bears the tag though nobody uses them any more, in any region."""

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
"""Makes the boto3 client of a service, in one region."""

_RUN_ID = re.compile(r"nt-([0-9]{8})-[0-9a-f]{6}")
_GLOBAL = (ROLE, INSTANCE_PROFILE)
"""What is of an account, and so is seen from each of its regions."""
SWEEP_SECONDS = 600.0
"""Until all of one run in one region has to be gone: AWS ends an instance in minutes."""


@dataclass(frozen=True, slots=True)
class LostRun:
    """A run, and what is left of it."""

    run_id: str
    started: datetime
    """When the first of what is left was created."""
    expires: datetime | None
    """Until when the tags of what is left let it live; None where none of them says so."""
    resources: Mapping[str, tuple[Resource, ...]]
    """By region; roles and instance profiles, which are of none, are with the first."""

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
    """Find the runs whose first resource is older than `older_than`, but none that is `in_use`.

    With `expired` those too whose time is up by their own tags: it tells nothing of others, however old they are.

    Only what bears the tag nomad-testkit-run counts, and only where that says the id of a run. Journals, by the run's
    id, tell of what the tag's index does not show yet; what they tell of counts if it bears the tag. AWS does not say
    how old a security group is: one that is all that is left of a run is as old as the last moment of the day in the
    run's id.

    A region that cannot be asked, as where a policy of the organisation denies it, does not keep the others from being
    looked at: a line about it is added to `unasked`. Raises TeardownError where there is no such list, or no region
    could be asked.
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
    """Destroy what is left of a run, in each region where something is, and prove it; lists what it destroyed.

    Raises TeardownError that lists what is left and what was refused, when all regions have been tried.
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
        raise TeardownError(f"{region} could not be asked for what lost runs left: {describe_error(error)}") from error
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
    except ValueError:  # no date: nobody can tell how old it is, so it is young
        return datetime.max.replace(tzinfo=UTC)
