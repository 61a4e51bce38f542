"""What Nomad says of how a version of a job is rolled out: failed, reverted, paused, or waiting for somebody."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REVERTED = re.compile(r"\brolling back to job version (\d+)")
_NOT_REVERTED = "not rolling back"


@dataclass(frozen=True, slots=True)
class Canaries:
    """The canaries of one group that nobody has promoted yet."""

    group: str
    wanted: int
    placed: tuple[str, ...]
    """Ids of their allocations."""
    automatic: bool
    """Whether Nomad promotes them itself once they are healthy."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of a job, as Nomad lists it."""

    id: str
    version: int
    status: str
    description: str
    canaries: tuple[Canaries, ...] = ()

    @classmethod
    def parse(cls, deployment: Mapping[str, Any]) -> Deployment:
        """Read one entry of GET /v1/job/:id/deployments."""
        return cls(
            id=str(deployment["ID"]),
            version=int(deployment["JobVersion"]),
            status=str(deployment["Status"]),
            description=str(deployment.get("StatusDescription") or ""),
            canaries=tuple(
                Canaries(
                    group,
                    int(state["DesiredCanaries"]),
                    tuple(state.get("PlacedCanaries") or ()),
                    bool(state.get("AutoPromote")),
                )
                for group, state in sorted((deployment.get("TaskGroups") or {}).items())
                if state.get("DesiredCanaries") and not state.get("Promoted")
            ),
        )

    def __str__(self) -> str:
        return f"deployment {self.id[:8]} of version {self.version}"

    @property
    def goes_on(self) -> bool:
        """Whether Nomad itself is still to bring it to an end."""
        return self.status in ("running", "initializing", "pending", "blocked", "unblocking")

    @property
    def reverted_to(self) -> int | None:
        """The version that Nomad went back to when it failed."""
        found = None if _NOT_REVERTED in self.description else _REVERTED.search(self.description)
        return int(found[1]) if self.status == "failed" and found else None

    def awaits_promotion(self, running: Sequence[str]) -> str | None:
        """Tell which canaries nobody but a person promotes, as soon as all of them are among what runs."""
        manual = [one for one in self.canaries if not one.automatic]
        if self.status != "running" or not manual:
            return None
        if any(len(set(one.placed) & set(running)) < one.wanted for one in self.canaries):
            return None
        groups = ", ".join(f"{one.wanted} of group {one.group!r}" for one in manual)
        return (
            f"{self} awaits promotion of its canaries ({groups}), which `nomad deployment promote {self.id[:8]}` does "
            "once they are healthy, or auto_promote in the job's update block"
        )


def why_failed(deployments: Sequence[Deployment], version: int, asked: int | None = None) -> str | None:
    """Tell why the version that was asked for is not what is deployed; None where no deployment says so.

    `version` is the job's current one, which a revert has made a copy of an older one. Whoever has `asked` for just
    that means the copy.
    """
    for one in deployments:
        if one.version == version - 1 and one.reverted_to is not None and asked != version:
            return f"deployment failed, reverted to version {one.reverted_to}: {one} says {one.description!r}"
        if one.version == version and one.status in ("failed", "cancelled"):
            return f"deployment {one.status}: {one} says {one.description!r}"
    return None


def why_it_waits(deployments: Sequence[Deployment], version: int, running: Sequence[str]) -> str | None:
    """Tell what only a person can end: a pause, or canaries to be promoted. `running` has allocations' ids."""
    for one in deployments:
        if one.version == version and one.status == "paused":
            return f"{one} is paused, which `nomad deployment resume {one.id[:8]}` ends"
        if one.version == version and (waits := one.awaits_promotion(running)):
            return waits
    return None
