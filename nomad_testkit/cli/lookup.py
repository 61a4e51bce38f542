"""Which run and which host a command is about: found by what their user writes, and completed in a shell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nomad_testkit.cluster.discovery import group_names
from nomad_testkit.errors import DeployError, Ec2Error, TestkitError, UsageError, did_you_mean
from nomad_testkit.runs.run import Run

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.targets import Target

GONE = "gone"
"""The state of an instance that the API knows no more: AWS forgets terminated ones after an hour or so."""


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of runs, and the ids of those without a name."""
    names = [run.name or run.run_id for run in Run.every()]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_hosts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of a run's hosts as it was deployed, and their ids where those are begun."""
    name = ctx.params.get("name")
    try:
        hosts = chosen_run(name).description().get("hosts", ())
    except TestkitError:
        return []
    names = group_names([(host["instance_id"], host["group"]) for host in hosts])
    found = [*names.values(), *(names if incomplete else ())]
    return [CompletionItem(one) for one in found if one.startswith(incomplete)]


name_option = click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete_runs,
    help="The run, by its name or id; can be left out where just one is up.",
)


def chosen_run(name: str | None) -> Run:
    """Find the run with a name or id; without one the only run that has a cluster. Raises UsageError."""
    if name is not None:
        return Run.find(name)
    runs = [run for run in Run.every() if run.description().get("hosts")]
    return the_only(runs)


def the_only(runs: Sequence[Run]) -> Run:
    """Return the only run. Raises TestkitError if there is none; UsageError lists several."""
    if not runs:
        raise TestkitError("no cluster is up; `nomad-testkit up EXAMPLE` deploys one")
    if len(runs) > 1:
        raise UsageError(f"{len(runs)} runs are there; name one of them: {', '.join(map(str, runs))}")
    return runs[0]


@contextmanager
def opened_target(run: Run) -> Iterator[Target]:
    """Use the target of a run. Raises Ec2Error where it is gone, and DeployError where it refuses to tell."""
    from nomad_testkit.targets import attach_target
    from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error

    description = run.description()
    if "target" not in description:
        raise TestkitError(f"{run} has created nothing yet")
    with ExitStack() as stack:
        try:
            target = stack.enter_context(attach_target(description["target"]))
        except Ec2Error as error:
            raise Ec2Error(
                f"{run} is gone with its embedded EC2, and nobody destroyed it: {error}. "
                f"`nomad-testkit down {run.name or run.run_id}` forgets it"
            ) from error
        try:
            yield target
        except AWS_ERRORS as error:
            raise DeployError(f"{run}: the EC2 API refuses to answer: {describe_error(error)}") from error


@contextmanager
def opened_cluster(run: Run) -> Iterator[Cluster]:
    """Use the cluster of a run, with the hosts that it was deployed with. Raises Ec2Error where it is gone."""
    from nomad_testkit.cluster.cluster import Cluster

    with opened_target(run) as target:
        told = run.description()
        if not told.get("hosts"):
            raise TestkitError(f"{run} has no cluster, or not yet")
        cluster = Cluster.from_description(told, target=target)
        try:
            yield cluster
        finally:
            cluster.close()


@dataclass(frozen=True)
class NamedHost:
    """An instance of a run under its name, such as servers-0; `host` is None for one that does not run."""

    name: str
    instance: Instance
    address: str
    host: Host | None

    def describe(self) -> dict[str, Any]:
        """Tell it in JSON's types."""
        one = self.instance
        return {
            "name": self.name,
            "instance_id": one.instance_id,
            "group": one.group,
            "state": one.state,
            "private_ip": one.private_ip,
            "address": self.address,
            "availability_zone": one.availability_zone,
        }


def named_hosts(cluster: Cluster) -> list[NamedHost]:
    """List the instances of a run, those that ended too, and give each its name.

    First come those that it was deployed with, so that a name stays a host's own, then those that an auto scaling
    group launched since, in the order of their launch. The cluster has the running ones then.
    """
    from dataclasses import replace

    from nomad_testkit.cluster.discovery import instances

    target = cluster.target
    first = {host.instance_id: host.instance for host in cluster.hosts}
    addresses = {host.instance_id: host.address for host in cluster.hosts}
    found = {one.instance_id: one for one in instances(target.client, cluster.run_id, terminated=True)}
    cluster.refresh()
    running = {host.instance_id: host for host in cluster.hosts}
    later = [one for instance_id, one in found.items() if instance_id not in first]
    launched = _launch_times(target, [one.instance_id for one in later]) if len(later) > 1 else {}
    later.sort(key=lambda one: (launched.get(one.instance_id, ""), one.instance_id))
    # Of a terminated one the API tells no address.
    known = [
        replace(one, state=found[one.instance_id].state if one.instance_id in found else GONE) for one in first.values()
    ]
    every = [*known, *later]
    names = group_names([(one.instance_id, one.group) for one in every])
    hosts = [
        NamedHost(
            names[one.instance_id],
            one,
            addresses.get(one.instance_id) or (target.address(one) if one.private_ip else ""),
            running.get(one.instance_id),
        )
        for one in every
    ]
    return sorted(hosts, key=lambda one: (one.instance.group, int(one.name.rpartition("-")[2])))


def _launch_times(target: Target, instance_ids: Sequence[str]) -> Mapping[str, str]:
    answer = target.client("ec2").describe_instances(InstanceIds=list(instance_ids))
    return {
        one["InstanceId"]: one["LaunchTime"].isoformat()
        for reservation in answer["Reservations"]
        for one in reservation["Instances"]
    }


def chosen_host(run: Run, hosts: Sequence[NamedHost], wanted: str) -> NamedHost:
    """Find a host by its name, instance id or one of its addresses. Raises UsageError that suggests the nearest."""
    for one in hosts:
        if wanted in (one.name, one.instance.instance_id):
            return one
    # An address may have been another instance's before, which the API still tells of.
    for one in sorted(hosts, key=lambda one: one.host is None):
        if wanted in filter(None, (one.instance.private_ip, one.instance.public_ip, one.address)):
            return one
    names = [one.name for one in hosts]
    every = [*names, *(one.instance.instance_id for one in hosts), *(one.instance.private_ip for one in hosts)]
    listed = f"expected one of {', '.join(names)}" if names else "expected none: it has no hosts"
    raise UsageError(f"there is no host {wanted!r} in {run}; {listed}{did_you_mean(wanted, every)}")


def running_host(run: Run, cluster: Cluster, wanted: str) -> Host:
    """Find a host that runs. Raises TestkitError that tells what has become of another, and when, if that is known."""
    one = chosen_host(run, named_hosts(cluster), wanted)
    if one.host is None:
        raise TestkitError(f"{one.name} ({one.instance.instance_id}) of {run} {fate(cluster.target, one.instance)}")
    return one.host


def fate(target: Target, instance: Instance) -> str:
    """Tell what has become of an instance that does not run: its state, why and since when."""
    if instance.state == GONE:
        return "is gone: the API knows it no more, as it is some time after an instance was terminated"
    facts = target.client("ec2").describe_instances(InstanceIds=[instance.instance_id])
    told = facts["Reservations"][0]["Instances"][0]
    reason = told.get("StateTransitionReason") or told.get("StateReason", {}).get("Message")
    return f"is {instance.state}" + (f": {reason}" if reason else "")
