"""Allocations as Nomad lists them, what went wrong in them, and whether Nomad replaces those that failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Allocation:
    """One allocation of a job, as Nomad lists it."""

    id: str
    name: str
    group: str
    node: str
    desired: str
    status: str
    event: str
    """The last thing that happened to a task that did not start or that failed."""
    version: int = 0
    """The job's version that it runs."""
    changed_at: int = 0
    """When it last changed, in nanoseconds since 1970."""
    replaced_at: tuple[int, ...] = ()
    """When those before it, which failed, were replaced; in nanoseconds since 1970."""

    @classmethod
    def parse(cls, alloc: Mapping[str, Any]) -> Allocation:
        """Read one entry of GET /v1/job/:id/allocations."""
        tracked = (alloc.get("RescheduleTracker") or {}).get("Events") or ()
        return cls(
            id=str(alloc["ID"]),
            name=str(alloc["Name"]),
            group=str(alloc["TaskGroup"]),
            node=str(alloc.get("NodeName") or alloc["NodeID"]),
            desired=str(alloc["DesiredStatus"]),
            status=str(alloc["ClientStatus"]),
            event=_last_event(alloc),
            version=int(alloc.get("JobVersion") or 0),
            changed_at=int(alloc.get("ModifyTime") or 0),
            replaced_at=tuple(int(one["RescheduleTime"]) for one in tracked),
        )

    @property
    def running(self) -> bool:
        """Whether it runs, and is meant to."""
        return self.desired == "run" and self.status == "running"

    def __str__(self) -> str:
        text = f"{self.name} on {self.node} is {self.status}"
        return f"{text}: {self.event}" if self.event and self.status in ("pending", "failed") else text


@dataclass(frozen=True, slots=True)
class Rescheduling:
    """A group's reschedule block: how often within `interval` nanoseconds Nomad replaces an allocation that failed."""

    attempts: int
    interval: int
    unlimited: bool

    @classmethod
    def parse(cls, group: Mapping[str, Any]) -> Rescheduling:
        """Read a group of GET /v1/job/:id; those of system jobs have no such block, and are not rescheduled."""
        policy = group.get("ReschedulePolicy") or {}
        return cls(
            int(policy.get("Attempts") or 0), int(policy.get("Interval") or 0), bool(policy.get("Unlimited") or False)
        )

    def replaces(self, alloc: Allocation) -> bool:
        """Whether Nomad is going to replace an allocation as things stand, as its scheduler decides it.

        It makes its delayed evaluation for that only about a second after the failure, and calls the job dead until
        then.
        """
        if alloc.status != "failed" or alloc.desired != "run":
            return False
        recent = [at for at in alloc.replaced_at if alloc.changed_at - at < self.interval]
        return self.unlimited or len(recent) < self.attempts


_TELLING = (
    "Disk Resources Exceeded",
    "Driver Failure",
    "Failed Artifact Download",
    "Failed Restoring Task",
    "Failed Validation",
    "Plugin became unhealthy",
    "Setup Failure",
    "Task hook failed",
    "Template",
    "Terminated",
)
"""Events that say what went wrong; those that follow them only say that Nomad gives up."""


def _last_event(alloc: Mapping[str, Any]) -> str:
    """Pick the event that tells most: what went wrong, of a task that failed before one that waits."""
    found = []
    for task, state in sorted((alloc.get("TaskStates") or {}).items()):
        events = state.get("Events") or []
        telling = [event for event in events if str(event.get("Type")).startswith(_TELLING)]
        if not events:
            continue
        last = (telling or events)[-1]
        message = " ".join(str(last.get("DisplayMessage") or "").split())
        text = f"task {task}: {last.get('Type')}: {message}".rstrip(": ")
        found.append(((bool(telling), bool(state.get("Failed")), state.get("State") == "pending"), text))
    if found:
        return max(found, key=lambda one: one[0])[1]
    # Before any task has begun, such as while the allocation's network is made.
    described = str(alloc.get("ClientDescription") or "")
    return described if alloc.get("ClientStatus") == "failed" else ""
