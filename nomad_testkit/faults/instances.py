"""Faults of whole instances, by the EC2 API: rebooted, stopped, terminated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.discovery import instances
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.host_watch import answers
from nomad_testkit.errors import FaultError, HostError
from nomad_testkit.faults.arguments import flag
from nomad_testkit.faults.fault import Fault, listed, own
from nomad_testkit.faults.repairs import Repairs, Turn, gone, undoes
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

WITHIN = 300.0
"""Seconds for instances to come to the state that they are to be in; on AWS a stop alone may take minutes."""
# With the first a group notices that a member is stopped, with the second it replaces it.
_HEALING = ["HealthCheck", "ReplaceUnhealthy"]
_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def reboot(cluster: Cluster, hosts: Sequence[Host]) -> Fault:
    """Make the fault that reboots instances, all at once (RebootInstances); undone once they are up again."""
    chosen = own(cluster, hosts)

    def make(repairs: Repairs) -> None:
        boots = {host: host.run(_BOOT_ID).stdout for host in chosen}
        for host in chosen:
            repairs.plan(
                f"wait until {host} is up again",
                _up_again,
                cluster,
                [host],
                instead=partial(_await_boot, cluster, host, boots[host]),
            )
        _api(lambda: _ec2(cluster).reboot_instances(InstanceIds=_ids(chosen)))
        for host in chosen:
            _await_down(host, boots[host])

    return Fault(f"reboot {listed(chosen)}", make)


def stop(cluster: Cluster, hosts: Sequence[Host], *, replaced: bool) -> Fault:
    """Make the fault that stops instances (StopInstances), and starts them again.

    Their auto scaling groups do not look after them meanwhile, unless they are to be `replaced`: then it is undone once
    the groups have replaced them, as when instances were terminated.
    """
    chosen = own(cluster, hosts)
    flag("replaced", replaced)

    def make(repairs: Repairs) -> None:
        if replaced:
            _replaced(cluster, chosen, repairs)
        else:
            for group in _groups(cluster, chosen):
                what = f"resume {', '.join(_HEALING)} of {group}"
                repairs.plan(what, _resume, cluster, [], group=group, processes=_HEALING)
                _suspend(cluster, group)
            repairs.plan(f"start {listed(chosen)}", _start, cluster, chosen)
        _api(lambda: _ec2(cluster).stop_instances(InstanceIds=_ids(chosen)))
        _await_states(cluster, chosen, "stopped", *(("shutting-down", "terminated") if replaced else ()))

    return Fault(f"stop {listed(chosen)}", make)


def terminate(cluster: Cluster, hosts: Sequence[Host], *, power_cut: bool) -> Fault:
    """Make the fault that terminates instances (TerminateInstances), with `power_cut` without their own shutdown.

    Undone is it when their auto scaling groups have replaced them and `cluster` knows the new hosts.
    """
    chosen = own(cluster, hosts)
    flag("power_cut", power_cut)

    def make(repairs: Repairs) -> None:
        _replaced(cluster, chosen, repairs)
        how: dict[str, Any] = {"SkipOsShutdown": True} if power_cut else {}
        _api(lambda: _ec2(cluster).terminate_instances(InstanceIds=_ids(chosen), **how))
        _await_states(cluster, chosen, "terminated")

    return Fault(f"{'cut the power of' if power_cut else 'terminate'} {listed(chosen)}", make)


def _replaced(cluster: Cluster, hosts: Sequence[Host], repairs: Repairs) -> None:
    """Let it be undone when the groups have as many instances as before, and none of them is one of `hosts`."""
    sizes = Counter(host.instance.group for host in cluster.hosts)

    def probe() -> Ok[None] | Pending:
        cluster.refresh()
        counts = Counter(host.instance.group for host in cluster.hosts)
        left = [host for host in cluster.hosts if host in hosts]
        if left:
            return Pending(f"{listed(left)} not ended yet")
        if counts != sizes:
            return Pending(", ".join(f"{counts[group]} of {sizes[group]} {group}" for group in sizes) + " run")
        silent = [host for host in cluster.hosts if isinstance(answers(host.address, host.ssh.port), Pending)]
        return Pending(f"SSH does not answer on {listed(silent)}") if silent else Ok(None)

    def run() -> None:
        wait_until(f"{listed(hosts)} to be replaced", probe, deadline=Deadline.after(WITHIN), where=cluster.run_id)

    what = f"wait until {listed(hosts)} is replaced by its auto scaling group"
    repairs.plan(what, _as_many_again, cluster, hosts, instead=run, sizes=dict(sizes))


@undoes("up again", Turn.INSTANCE, ssh=False)
def _up_again(cluster: Cluster, hosts: Sequence[Host]) -> None:
    """Wait until hosts that were about to be rebooted are up; nobody knows whether they were."""
    for host in hosts:
        if not gone(cluster, host):
            _await_ssh(host)


@undoes("replaced", Turn.INSTANCE, ssh=False)
def _as_many_again(cluster: Cluster, hosts: Sequence[Host], *, sizes: Mapping[str, int]) -> None:
    """Wait until the groups have as many instances as before; those of `hosts` that run were never ended."""

    def probe() -> Ok[None] | Pending:
        found = instances(cluster.target.client, cluster.run_id)
        counts = Counter(one.group for one in found if one.state == "running")
        if lacking := [
            f"{counts[group]} of {size} {group} run" for group, size in sizes.items() if counts[group] < size
        ]:
            return Pending(", ".join(lacking))
        cluster.refresh()
        silent = [host for host in cluster.hosts if isinstance(answers(host.address, host.ssh.port), Pending)]
        return Pending(f"SSH does not answer on {listed(silent)}") if silent else Ok(None)

    wait_until(f"{listed(hosts)} to be replaced", probe, deadline=Deadline.after(WITHIN), where=cluster.run_id)


@undoes("start instances", Turn.INSTANCE, ssh=False)
def _start(cluster: Cluster, hosts: Sequence[Host]) -> None:
    left = [host for host in hosts if not gone(cluster, host)]
    if not left:
        return
    # One that is still stopping cannot be started.
    _await_states(cluster, left, "stopped", "running")
    _api(lambda: _ec2(cluster).start_instances(InstanceIds=_ids(left)))
    _await_states(cluster, left, "running")
    now = {one.instance_id: one for one in _api(lambda: instances(cluster.target.client, cluster.run_id))}
    for host in left:
        host.move(now[host.instance_id], cluster.target.address(now[host.instance_id]))
        _await_ssh(host)


def _groups(cluster: Cluster, hosts: Sequence[Host]) -> list[str]:
    """Name the auto scaling groups of some instances (DescribeAutoScalingInstances)."""
    autoscaling = cluster.target.client("autoscaling")
    found = _api(lambda: autoscaling.describe_auto_scaling_instances(InstanceIds=_ids(hosts)))
    return sorted({one["AutoScalingGroupName"] for one in found["AutoScalingInstances"]})


def _suspend(cluster: Cluster, group: str) -> None:
    autoscaling = cluster.target.client("autoscaling")
    _api(lambda: autoscaling.suspend_processes(AutoScalingGroupName=group, ScalingProcesses=_HEALING))


@undoes("resume processes", Turn.INSTANCE, ssh=False)
def _resume(cluster: Cluster, hosts: Sequence[Host], *, group: str, processes: Sequence[str]) -> None:
    autoscaling = cluster.target.client("autoscaling")
    _api(lambda: autoscaling.resume_processes(AutoScalingGroupName=group, ScalingProcesses=list(processes)))


def _await_states(cluster: Cluster, hosts: Sequence[Host], *wanted: str) -> None:
    def probe() -> Ok[None] | Pending | Broken:
        answer = _api(lambda: _ec2(cluster).describe_instances(InstanceIds=_ids(hosts)))
        found = [one for reservation in answer["Reservations"] for one in reservation["Instances"]]
        others = {one["InstanceId"]: one["State"]["Name"] for one in found if one["State"]["Name"] not in wanted}
        if not others:
            return Ok(None)
        seen = ", ".join(f"{instance} is {state}" for instance, state in others.items())
        return Broken(seen) if "terminated" in others.values() else Pending(seen)

    what = f"{listed(hosts)} to be {' or '.join(wanted)}"
    wait_until(what, probe, deadline=Deadline.after(WITHIN), where=cluster.run_id)


def _await_down(host: Host, boot: str) -> None:
    """Wait until the old boot is over, so that nobody takes an agent of before for one that came back."""

    def probe() -> Ok[None] | Pending:
        if isinstance(answers(host.address, host.ssh.port), Pending):
            return Ok(None)
        try:
            return Ok(None) if host.run(_BOOT_ID, timeout=5).stdout != boot else Pending("the old boot still runs")
        except HostError:
            return Ok(None)

    wait_until("the end of the old boot", probe, deadline=Deadline.after(WITHIN), where=str(host))


def _await_boot(cluster: Cluster, host: Host, boot: str) -> None:
    def probe() -> Ok[None] | Pending | Broken:
        try:
            return Ok(None) if host.run(_BOOT_ID, timeout=10).stdout != boot else Pending("the old boot still runs")
        except HostError as error:
            return Broken("its instance has been terminated") if gone(cluster, host) else Pending(str(error))

    wait_until("a new boot", probe, deadline=Deadline.after(WITHIN), where=str(host), interval=0.5)


def _await_ssh(host: Host) -> None:
    wait_until(
        "SSH to answer",
        lambda: answers(host.address, host.ssh.port),
        deadline=Deadline.after(WITHIN),
        where=str(host),
    )
    host.connect(Deadline.after(WITHIN))


def _ids(hosts: Sequence[Host]) -> list[str]:
    return [host.instance_id for host in hosts]


def _ec2(cluster: Cluster) -> EC2Client:
    client: EC2Client = cluster.target.client("ec2")
    return client


def _api(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except AWS_ERRORS as error:
        raise FaultError(describe_error(error)) from error
