"""Replace servers, scale groups, and cut the power."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nomad_testkit.checks.healing import leader_of
from nomad_testkit.cluster.agents import AGENTS
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.host_watch import answers
from nomad_testkit.errors import DeployError, FaultError, UsageError, did_you_mean
from nomad_testkit.faults import instances as instance_faults
from nomad_testkit.faults.arguments import whole
from nomad_testkit.faults.changes import protect, unprotect
from nomad_testkit.faults.fault import not_undone
from nomad_testkit.faults.repairs import Repairs
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG
from nomad_testkit.operations.health import WITHIN, require_healthy
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until


def replace_servers(cluster: Cluster, *, between: Callable[[], None] | None = None) -> None:
    """Replace all servers one by one, each once the cluster is healthy again.

    The auto scaling group launches the new ones. `between` is called after each. Raises FaultError and CheckFailed.

    >>> replace_servers(cluster)  # doctest: +SKIP
    """
    servers = dict.fromkeys([*cluster.consul_servers, *cluster.nomad_servers])
    if not servers:
        raise UsageError(f"expected servers to replace in {cluster.run_id}, found none that run")
    for server in servers:
        with instance_faults.terminate(cluster, [server], power_cut=False):
            pass  # the block ends once the server is replaced and `cluster` knows the new host
        require_healthy(cluster)
        if between is not None:
            between()


def scale(cluster: Cluster, group: str, count: int) -> None:
    """Scale a group of the example to `count` instances, and wait until the cluster is healthy at that size.

    Leaders are protected from scale-in while other servers can be terminated, which saves an election. Raises
    UsageError for an unknown group, DeployError if AWS refuses, WaitTimeout and CheckFailed.

    >>> scale(cluster, "servers", 5)  # doctest: +SKIP
    """
    servers = group in {*cluster.roles.nomad_servers, *cluster.roles.consul_servers}
    count = whole(f"hosts of {group}", count, least=1 if servers else 0)
    autoscaling: Any = cluster.target.client("autoscaling")
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [cluster.run_id]}]
    try:
        found = autoscaling.describe_auto_scaling_groups(Filters=filters)["AutoScalingGroups"]
        named = {tag["Value"]: one for one in found for tag in one["Tags"] if tag["Key"] == GROUP_TAG}
        if group not in named:
            raise UsageError(
                f"there is no group {group!r}; expected one of {', '.join(sorted(named))}{did_you_mean(group, named)}"
            )
        facts = named[group]
        leaders = _leaders(cluster, group) if servers and count < len(cluster.in_groups(group)) else []
        with _protected(cluster, facts["AutoScalingGroupName"], leaders if len(leaders) <= count else []):
            autoscaling.update_auto_scaling_group(
                AutoScalingGroupName=facts["AutoScalingGroupName"],
                MinSize=min(count, facts["MinSize"]),
                MaxSize=max(count, facts["MaxSize"]),
                DesiredCapacity=count,
            )
            cluster.resize(group, count)
            _await_size(cluster, group, count)
    except AWS_ERRORS as error:
        raise DeployError(f"{group} could not be scaled to {count}: {describe_error(error)}") from error
    require_healthy(cluster)


def _await_size(cluster: Cluster, group: str, count: int) -> None:
    def probe() -> Ok[None] | Pending:
        cluster.refresh()
        hosts = cluster.in_groups(group)
        silent = [str(host) for host in hosts if isinstance(answers(host.address, host.ssh.port), Pending)]
        if len(hosts) != count or silent:
            return Pending(f"{len(hosts)} of {count} run; SSH does not answer on {', '.join(silent) or 'none'}")
        return Ok(None)

    wait_until(f"{count} {group}", probe, deadline=Deadline.after(WITHIN), where=cluster.run_id, interval=1.0)


def _leaders(cluster: Cluster, group: str) -> list[Host]:
    return [host for host in {leader_of(cluster, agent) for agent in AGENTS} if host.instance.group == group]


@contextmanager
def _protected(cluster: Cluster, name: str, hosts: Sequence[Host]) -> Iterator[None]:
    """Protect some instances of a group from scale-in (SetInstanceProtection)."""
    repairs, ids = Repairs(), [host.instance_id for host in hosts]
    if hosts:
        what = f"let {name} end {', '.join(ids)} again"
        repairs.plan(what, unprotect, cluster, hosts, group=name)
    try:
        if hosts:
            protect(cluster, name, ids, protected=True)
        yield
    except BaseException as error:
        if left := repairs.run():
            error.add_note(f"then {not_undone(left)}")
        raise
    if left := repairs.run():
        raise FaultError(not_undone(left))


def cut_power(cluster: Cluster) -> None:
    """Stop all hosts at once, start them again, and wait until the cluster is healthy (a total power loss).

    Raises FaultError if a host does not come back, and CheckFailed.

    >>> cut_power(cluster)  # doctest: +SKIP
    """
    with instance_faults.stop(cluster, cluster.hosts, replaced=False):
        pass
    require_healthy(cluster)
