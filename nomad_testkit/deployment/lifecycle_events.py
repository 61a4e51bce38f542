"""Emit a cluster's events: deploying, ready or failed, and its state at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.state import as_facts, state_of
from nomad_testkit.cluster.timeline import HostTimeline
from nomad_testkit.events import ClusterEvent, emit, wanted

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.examples.example import Example
    from nomad_testkit.targets.base import Target


@dataclass
class LifecycleEvents:
    """The events of one cluster, from its deployment to the end of its use."""

    run_id: str
    cluster: Cluster | None = None
    timeline: Callable[[], Sequence[HostTimeline]] = tuple
    """Records how far each host has booted."""

    def ready(self, cluster: Cluster) -> Cluster:
        """Emit that a cluster is ready, with its first state, and return the cluster."""
        self.cluster = cluster
        if wanted():
            emit(ClusterEvent(self.run_id, "ready", _facts(cluster)))
            emit(ClusterEvent(self.run_id, "state", as_facts(state_of(cluster))))
        return cluster


@contextmanager
def deployment_events(run_id: str, example: Example, target: Target) -> Iterator[LifecycleEvents]:
    """Emit the events of a cluster that the `with` block deploys; the block calls `ready`.

    >>> with deployment_events(run.run_id, example, target) as events:  # doctest: +SKIP
    ...     yield events.ready(deploy())
    """
    events = LifecycleEvents(run_id)
    facts = {"example": example.name, "target": target.name, "region": target.region}
    emit(ClusterEvent(run_id, "deploying", facts))
    try:
        yield events
    except BaseException as error:
        if events.cluster is None:
            timeline = [asdict(host) for host in events.timeline()]
            emit(ClusterEvent(run_id, "failed", {"error": str(error) or type(error).__name__, "timeline": timeline}))
        raise
    finally:
        if events.cluster is not None and wanted():
            emit(ClusterEvent(run_id, "state", as_facts(state_of(events.cluster))))


@contextmanager
def attachment_events(cluster: Cluster) -> Iterator[None]:
    """Emit the events of a cluster that outlives the `with` block: its states, and that it is kept."""
    target = cluster.target
    example = cluster.example.name if cluster.example else ""
    emit(
        ClusterEvent(cluster.run_id, "deploying", {"example": example, "target": target.name, "region": target.region})
    )
    try:
        if wanted():
            emit(ClusterEvent(cluster.run_id, "state", as_facts(state_of(cluster))))
        yield
    finally:
        if wanted():
            emit(ClusterEvent(cluster.run_id, "state", as_facts(state_of(cluster))))
        emit(ClusterEvent(cluster.run_id, "kept"))


def _facts(cluster: Cluster) -> dict[str, Any]:
    return {
        "timings": dict(cluster.timings),
        "timeline": [asdict(host) for host in cluster.timeline],
        "images": sorted({host.instance.image_id for host in cluster.hosts}),
        "security": cluster.secrets is not None,
    }
