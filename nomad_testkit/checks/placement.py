"""Why the scheduler could not place a job: Nomad's own reasons, and a hint where the cause is plain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What an interpolation in a constraint may begin with (Nomad's documentation of node variables).
_ROOTS = ("attr", "meta", "node", "env", "device")
_REFERENCE = re.compile(r"\$\{([^}]+)\}")


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

    def words(self, datacenters: Sequence[str], clients_in: Sequence[str]) -> str:
        """Say why, given the job's datacenters and those that the ready clients are in."""
        reasons = [f"constraint {text!r} filtered {_nodes(count)}{_hint(text)}" for text, count in self.constraints]
        reasons += [f"dimension {name!r} exhausted on {_nodes(count)}" for name, count in self.dimensions]
        reasons += [f"quota exhausted: {name}" for name in self.quota]
        if not any(count for _, count in self.nodes_available):
            there = f"the ready clients are in [{', '.join(clients_in)}]" if clients_in else "no client is ready"
            reasons.append(f"no nodes in datacenters [{', '.join(datacenters)}]; {there}")
        if not reasons:
            reasons.append(
                f"{_nodes(self.nodes_evaluated)} evaluated, {self.nodes_filtered} filtered, "
                f"{self.nodes_exhausted} exhausted"
            )
        more = f" (and {self.coalesced} more allocations)" if self.coalesced else ""
        return f"group {self.group!r}{more}: {'; '.join(reasons)}"


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

    @classmethod
    def parse(cls, evaluation: Mapping[str, Any]) -> Evaluation:
        """Read one entry of GET /v1/job/:id/evaluations."""
        failed = evaluation.get("FailedTGAllocs") or {}
        return cls(
            id=str(evaluation["ID"]),
            status=str(evaluation["Status"]),
            description=str(evaluation.get("StatusDescription") or ""),
            blocked_by=str(evaluation.get("BlockedEval") or ""),
            failures=tuple(PlacementFailure.parse(group, failed[group]) for group in sorted(failed)),
        )


def why_not_placed(
    evaluations: Sequence[Evaluation], datacenters: Sequence[str], clients_in: Sequence[str]
) -> str | None:
    """Say why a job's allocations cannot be placed as things stand; None when nothing speaks against it.

    A failure counts while the evaluation that it left waiting is still blocked: once it is not, the scheduler
    has found room, or tries again.
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
            reasons += [failure.words(datacenters, clients_in) for failure in evaluation.failures]
    return "; ".join(dict.fromkeys(reasons)) or None
