"""What operations change for a while, and how that is undone: a drain of a node, a protection of instances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError
from nomad_testkit.faults.repairs import Turn, gone, undoes
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

WITHIN = 60.0
"""Seconds for Nomad to have a leader again that takes a change."""


@undoes("make node eligible", Turn.CLUSTER, ssh=False)
def make_eligible(cluster: Cluster, hosts: Sequence[Host], *, node: str) -> None:
    """End a drain, and let the node have allocations again; one that Nomad does not know any more has none to get."""

    def probe() -> Ok[None] | Pending:
        try:
            cluster.nomad.put(f"/v1/node/{node}/drain", {"DrainSpec": None, "MarkEligible": True})
        except AgentApiError as error:
            if error.status is None or error.status >= 500:  # an election may be under way, after another repair
                return Pending(str(error))
            if error.status != 404 or not all(gone(cluster, host) for host in hosts):
                raise
        return Ok(None)

    wait_until("Nomad to end the drain", probe, deadline=Deadline.after(WITHIN), where=node)


@undoes("unprotect instances", Turn.CLUSTER, ssh=False)
def unprotect(cluster: Cluster, hosts: Sequence[Host], *, group: str) -> None:
    """Let a group end instances again, those that are still there."""
    if left := [host.instance_id for host in hosts if not gone(cluster, host)]:
        protect(cluster, group, left, protected=False)


def protect(cluster: Cluster, group: str, ids: Sequence[str], *, protected: bool) -> None:
    """Keep a group from ending some of its instances when it gets smaller (SetInstanceProtection), or no longer."""
    autoscaling: Any = cluster.target.client("autoscaling")
    autoscaling.set_instance_protection(
        AutoScalingGroupName=group, InstanceIds=list(ids), ProtectedFromScaleIn=protected
    )
