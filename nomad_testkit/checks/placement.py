"""Why the scheduler could not place a job: Nomad's own reasons, and a hint where the cause is plain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from nomad_testkit.checks.needs import Client, Needs

# What an interpolation in a constraint may begin with (Nomad's documentation of node variables).
_ROOTS = ("attr", "meta", "node", "env", "device")
_REFERENCE = re.compile(r"\$\{([^}]+)\}")

BY_CLASS = "computed class ineligible"
BY_DRIVERS = "missing drivers"
BY_NETWORK = "missing network"
BY_VOLUMES = "missing compatible host volumes"
"""What Nomad's scheduler (scheduler/feasible.go) calls a filter where it names no constraint of the job's."""


@dataclass(frozen=True, slots=True)
class PlacementFailure:
    """One task group that the scheduler found no node for (`FailedTGAllocs` of an evaluation)."""

    group: str
    nodes_evaluated: int
    nodes_filtered: int
    nodes_exhausted: int
    nodes_available: tuple[tuple[str, int], ...]
    constraints: tuple[tuple[str, int], ...]
    dimensions: tuple[tuple[str, int], ...]
    quota: tuple[str, ...]
    coalesced: int

    @classmethod
    def parse(cls, group: str, metric: Mapping[str, Any]) -> PlacementFailure:
        """Read one entry of `FailedTGAllocs`."""
        return cls(
            group=group,
            nodes_evaluated=int(metric["NodesEvaluated"]),
            nodes_filtered=int(metric["NodesFiltered"]),
            nodes_exhausted=int(metric["NodesExhausted"]),
            nodes_available=_counts(metric.get("NodesAvailable")),
            # Filtered by a constraint, or by the class of node that one was already found for.
            constraints=_counts(metric.get("ConstraintFiltered")),
            dimensions=_counts(metric.get("DimensionExhausted")),
            quota=tuple(metric.get("QuotaExhausted") or ()),
            coalesced=int(metric.get("CoalescedFailures") or 0),
        )

    def words(self, needs: Needs, clients: Sequence[Client]) -> str:
        """Say why, given what the group asks for and the ready clients."""
        reasons = [text for name, count in self.constraints for text in _filtered(name, count, needs, clients)]
        reasons += [f"dimension {name!r} exhausted on {_nodes(count)}" for name, count in self.dimensions]
        reasons += [f"quota exhausted: {name}" for name in self.quota]
        if not any(count for _, count in self.nodes_available):
            reasons += _nowhere(needs, clients)
        if not reasons:
            reasons.append(
                f"{_nodes(self.nodes_evaluated)} evaluated, {self.nodes_filtered} filtered, "
                f"{self.nodes_exhausted} exhausted"
            )
        more = f" (and {self.coalesced} more allocations)" if self.coalesced else ""
        return f"group {self.group!r}{more}: {'; '.join(dict.fromkeys(reasons))}"

    @property
    def by_class(self) -> bool:
        """Whether Nomad tells no more of some nodes than that others of their class did not fit."""
        return any(name == BY_CLASS for name, _ in self.constraints)


def _filtered(name: str, count: int, needs: Needs, clients: Sequence[Client]) -> list[str]:
    """Say what a filter of the scheduler was about: it names drivers, networks, volumes and classes only by kind."""
    if name == BY_CLASS and needs.unmet:
        return [f"no ready client meets {one}{_hint(one)}" for one in needs.unmet]
    if name == BY_CLASS:
        every = [*needs.constraints, *(f"driver {one!r}" for one in needs.drivers)]
        return (
            [f"no ready client meets all of: {', '.join(every)}"] if every else [f"{_nodes(count)} do not fit by class"]
        )
    if name == BY_DRIVERS and needs.drivers:
        return list(needs.missing_drivers(clients)) or [
            f"no ready client has all of its drivers: {', '.join(needs.drivers)}"
        ]
    if name == BY_NETWORK and needs.networks:
        return [_no_network(mode, count) for mode in needs.networks]
    if name == BY_VOLUMES and needs.volumes:
        return [f"host volumes {', '.join(map(repr, needs.volumes))} are not on {_nodes(count)}"]
    return [f"constraint {name!r} filtered {_nodes(count)}{_hint(name)}"]


def _no_network(mode: str, count: int) -> str:
    text = f"network mode {mode!r} is not on {_nodes(count)}"
    if mode == "bridge":
        return f"{text}: it takes the CNI plug-ins, which Nomad's clients look for in their cni_path (/opt/cni/bin)"
    if mode.startswith("cni/"):
        return f"{text}: it takes a CNI configuration of that name in the clients' cni_config_dir (/opt/cni/config)"
    return text


def _nowhere(needs: Needs, clients: Sequence[Client]) -> list[str]:
    """Say why no node came into question at all: no client, datacenter, node pool, or none that is eligible."""
    wanted = ", ".join(needs.datacenters)
    there = [one for one in clients if any(fnmatchcase(one.datacenter, glob) for glob in needs.datacenters)]
    if not there:
        known = ", ".join(sorted({one.datacenter for one in clients}))
        return [
            f"no nodes in datacenters [{wanted}]; "
            + (f"the ready clients are in [{known}]" if clients else "no client is ready")
        ]
    pools = sorted({one.pool for one in there})
    if needs.pool not in ("all", *pools):
        return [f"no nodes in node pool {needs.pool!r}; the ready clients are in [{', '.join(pools)}]"]
    if not any(one.eligible for one in there):
        return [f"none of {_nodes(len(there))} that are ready is eligible for scheduling"]
    return []


def _counts(value: Mapping[str, int] | None) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((str(name), int(count)) for name, count in (value or {}).items()))


def _nodes(count: int) -> str:
    return f"{count} node" if count == 1 else f"{count} nodes"


def _hint(constraint: str) -> str:
    """Ask for the attribute that was probably meant, where a reference cannot be one.

    >>> _hint("${kernel.name} = linux")
    ' (did you mean ${attr.kernel.name}?)'
    """
    meant = [name for name in _REFERENCE.findall(constraint) if name.partition(".")[0] not in _ROOTS]
    return "".join(f" (did you mean ${{attr.{name}}}?)" for name in meant)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a job."""

    id: str
    status: str
    description: str
    blocked_by: str
    """Id of the evaluation that waits for room, made when this one could not place everything."""
    failures: tuple[PlacementFailure, ...]
    created: int = 0
    """The Raft index that it was made at."""
    wait_until: str = ""
    """When a delayed one is to be done, as Nomad writes a time; empty for any other."""

    @classmethod
    def parse(cls, evaluation: Mapping[str, Any]) -> Evaluation:
        """Read one entry of GET /v1/job/:id/evaluations."""
        failed = evaluation.get("FailedTGAllocs") or {}
        waits = str(evaluation.get("WaitUntil") or "")
        return cls(
            id=str(evaluation["ID"]),
            status=str(evaluation["Status"]),
            description=str(evaluation.get("StatusDescription") or ""),
            blocked_by=str(evaluation.get("BlockedEval") or ""),
            failures=tuple(PlacementFailure.parse(group, failed[group]) for group in sorted(failed)),
            created=int(evaluation.get("CreateIndex") or 0),
            wait_until="" if waits.startswith("0001-") else waits,
        )

    @property
    def unfinished(self) -> bool:
        """Whether the scheduler is still to do it, now or, if it is delayed, later."""
        return self.status == "pending"


def why_not_placed(
    evaluations: Sequence[Evaluation], needs: Mapping[str, Needs], clients: Sequence[Client]
) -> str | None:
    """Say why a job's allocations cannot be placed as things stand; None when nothing speaks against it.

    `needs` has what each group asks for, `clients` are those that are ready. A failure counts while the evaluation that
    it left waiting is still blocked: once it is not, the scheduler has found room, or tries again.
    """
    status = {evaluation.id: evaluation.status for evaluation in evaluations}
    reasons = [
        f"evaluation {evaluation.id[:8]} failed: {evaluation.description or 'Nomad gives no reason'}"
        for evaluation in evaluations
        if evaluation.status == "failed"
    ]
    for evaluation in evaluations:
        waits = not evaluation.blocked_by or status.get(evaluation.blocked_by) == "blocked"
        if evaluation.status in ("complete", "blocked") and waits:
            reasons += [one.words(needs.get(one.group, Needs(one.group)), clients) for one in evaluation.failures]
    return "; ".join(dict.fromkeys(reasons)) or None
