"""Drain a client, and use it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError, UsageError, did_you_mean
from nomad_testkit.faults.arguments import number
from nomad_testkit.faults.changes import make_eligible
from nomad_testkit.faults.fault import not_undone
from nomad_testkit.faults.repairs import Repairs
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

DRAIN_SECONDS = 120.0
_NANOSECONDS = 1_000_000_000


@contextmanager
def drained(cluster: Cluster, client: Host, *, deadline: float = DRAIN_SECONDS) -> Iterator[None]:
    """Move a client's allocations away (POST /v1/node/:id/drain), and make it eligible again at the end.

    After `deadline` seconds Nomad stops what still runs. Raises UsageError for a host that is not a Nomad client of
    the cluster, WaitTimeout, and FaultError if the client could not be made eligible again.

    >>> with drained(cluster, cluster.clients[0]):  # doctest: +SKIP
    ...     cluster.require(AllocationsRunning(job))
    """
    if client not in cluster.nomad_clients:
        known = ", ".join(map(str, cluster.nomad_clients)) or "none"
        near = did_you_mean(client, [host.instance_id for host in cluster.nomad_clients])
        raise UsageError(f"{client} is to be drained; expected one of the cluster's Nomad clients: {known}{near}")
    deadline = number("deadline", deadline, least=0, unit="s")
    node = node_id(client)
    spec = {"Deadline": int(deadline * _NANOSECONDS), "IgnoreSystemJobs": False}
    repairs = Repairs()
    repairs.plan(f"make the node of {client} eligible", make_eligible, cluster, [client], node=node)
    try:
        cluster.nomad.put(f"/v1/node/{node}/drain", {"DrainSpec": spec, "MarkEligible": False})
        wait_until(
            "the drain to end",
            lambda: _drain_state(cluster, node),
            deadline=Deadline.after(deadline + 60),
            where=str(client),
        )
        yield
    except BaseException as error:
        if left := repairs.run():
            error.add_note(f"then {not_undone(left)}")
        raise
    if left := repairs.run():
        raise FaultError(not_undone(left))


def node_id(client: Host) -> str:
    """Return the node id of a client, as its agent reports it (GET /v1/agent/self)."""
    return str(client.nomad.agent()["stats"]["client"]["node_id"])


def _drain_state(cluster: Cluster, node: str) -> Ok[None] | Pending:
    facts = cluster.nomad.node(node)
    running = [
        one["ID"][:8] for one in cluster.nomad.get(f"/v1/node/{node}/allocations") if one["ClientStatus"] == "running"
    ]
    if facts.get("DrainStrategy") or running:
        return Pending(f"draining, {len(running)} allocations run")
    return Ok(None)
