"""What people do to a cluster that runs: drain, scale, replace, cut the power, save and restore its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nomad_testkit.checks import AutopilotHealthy, Leader, NodesReady, RaftPeers
from nomad_testkit.deploy.refusals import REFUSALS, told
from nomad_testkit.errors import DeployError, UsageError
from nomad_testkit.faults import instances as instance_faults
from nomad_testkit.host import Host
from nomad_testkit.host_watch import answers
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.cluster import Cluster

DRAIN_SECONDS = 120.0
WITHIN = 300.0
"""Seconds for each step to come to its end."""
_NANOSECONDS = 1_000_000_000


def require_whole(cluster: Cluster, *, within: float = WITHIN) -> None:
    """Demand that the cluster is as large as its hosts make it, and healthy: no stale peer, a leader, nodes ready."""
    cluster.require(
        RaftPeers(len(cluster.consul_servers), ("consul",)),
        RaftPeers(len(cluster.nomad_servers), ("nomad",)),
        Leader(),
        AutopilotHealthy(),
        NodesReady(len(cluster.nomad_clients)),
        within=within,
    )


@contextmanager
def drained(cluster: Cluster, client: Host, *, deadline: float = DRAIN_SECONDS) -> Iterator[None]:
    """Move a client's allocations away (POST /v1/node/:id/drain), and make it eligible again at the end.

    `deadline` is in seconds: what runs then is stopped. Raises UsageError for a host that is no Nomad client of the
    cluster, before anything is done, and WaitTimeout.
    """
    if client not in cluster.nomad_clients:
        known = ", ".join(map(str, cluster.nomad_clients)) or "none"
        raise UsageError(f"{client} is to be drained; right is one of the cluster's Nomad clients: {known}")
    node = node_id(client)
    spec = {"Deadline": int(deadline * _NANOSECONDS), "IgnoreSystemJobs": False}
    cluster.nomad.put(f"/v1/node/{node}/drain", {"DrainSpec": spec, "MarkEligible": False})
    try:
        wait_until(
            "the drain to end",
            lambda: _drain_state(cluster, node),
            deadline=Deadline.after(deadline + 60),
            where=str(client),
        )
        yield
    finally:
        cluster.nomad.put(f"/v1/node/{node}/drain", {"DrainSpec": None, "MarkEligible": True})


def node_id(client: Host) -> str:
    """Tell the id of a client's node, as its own agent knows it (GET /v1/agent/self)."""
    return str(client.nomad.agent()["stats"]["client"]["node_id"])


def _drain_state(cluster: Cluster, node: str) -> Ok[None] | Pending:
    facts = cluster.nomad.node(node)
    running = [
        one["ID"][:8] for one in cluster.nomad.get(f"/v1/node/{node}/allocations") if one["ClientStatus"] == "running"
    ]
    if facts.get("DrainStrategy") or running:
        return Pending(f"draining, {len(running)} allocations run")
    return Ok(None)


def replace_servers(cluster: Cluster, *, between: Callable[[], None] | None = None) -> None:
    """Replace all servers one by one, each when the cluster is whole again.

    The auto scaling group starts the new ones. `between` is called after each. Raises FaultError and CheckFailed.
    """
    for server in list(cluster.nomad_servers):
        with instance_faults.terminate(cluster, [server], power_cut=False):
            pass  # left when it is replaced, and `cluster` knows the new host
        require_whole(cluster)
        if between is not None:
            between()


def scale(cluster: Cluster, group: str, count: int) -> None:
    """Let a group of the example have `count` instances, and wait until the cluster is whole at that size.

    Raises UsageError for a group that there is not, DeployError when AWS refuses, WaitTimeout and CheckFailed.
    """
    servers = group in {*cluster.roles.nomad_servers, *cluster.roles.consul_servers}
    if count < (1 if servers else 0):
        raise UsageError(f"{group} is to have {count} hosts; right is {1 if servers else 0} or more")
    autoscaling: Any = cluster.target.client("autoscaling")
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [cluster.run_id]}]
    try:
        found = autoscaling.describe_auto_scaling_groups(Filters=filters)["AutoScalingGroups"]
        named = {tag["Value"]: one for one in found for tag in one["Tags"] if tag["Key"] == GROUP_TAG}
        if group not in named:
            raise UsageError(f"there is no group {group!r}; right is one of {', '.join(sorted(named))}")
        facts = named[group]
        autoscaling.update_auto_scaling_group(
            AutoScalingGroupName=facts["AutoScalingGroupName"],
            MinSize=min(count, facts["MinSize"]),
            MaxSize=max(count, facts["MaxSize"]),
            DesiredCapacity=count,
        )
    except REFUSALS as error:
        raise DeployError(f"{group} could not be scaled to {count}: {told(error)}") from error

    def probe() -> Ok[None] | Pending:
        cluster.refresh()
        hosts = cluster.in_groups(group)
        silent = [str(host) for host in hosts if isinstance(answers(host.address, host.ssh.port), Pending)]
        if len(hosts) != count or silent:
            return Pending(f"{len(hosts)} of {count} run; SSH does not answer on {', '.join(silent) or 'none'}")
        return Ok(None)

    wait_until(f"{count} {group}", probe, deadline=Deadline.after(WITHIN), where=cluster.run_id, interval=1.0)
    require_whole(cluster)


def cut_power(cluster: Cluster) -> None:
    """Stop every host at once and start all again, and wait until the cluster is whole (total power loss)."""
    with instance_faults.stop(cluster, cluster.hosts, replaced=False):
        pass
    require_whole(cluster)
