"""What has happened to a cluster: instances, nodes, evaluations and tasks, in the order of time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nomad_testkit.cli.group import columns, json_option, main, say, say_json
from nomad_testkit.cli.lookup import chosen_run, name_option, named_hosts, opened_cluster
from nomad_testkit.cli.moments import SINCE, clock
from nomad_testkit.errors import AgentApiError, WaitTimeout

if TYPE_CHECKING:
    from nomad_testkit.cli.lookup import NamedHost
    from nomad_testkit.cluster.cluster import Cluster

_LOOK_SECONDS = 2.0


class Happened(NamedTuple):
    """One event; `at` is in seconds since the epoch."""

    at: float
    source: str
    """``ec2``, ``node``, ``job`` or ``task``."""
    about: str
    what: str


@main.command(short_help="Show what has happened to the cluster.")
@name_option
@click.option("--since", type=SINCE, metavar="AGE", help="Only what happened in the last AGE, such as 10m or 2h.")
@click.option("-f", "--follow", is_flag=True, help="Go on showing what happens, until Ctrl-C.")
@json_option
def events(name: str | None, since: float | None, follow: bool, as_json: bool) -> None:
    """Show what has happened to the cluster's instances, Nomad nodes, evaluations and tasks, in the order of time.

    It is asked of the EC2 API, with what auto scaling groups did, and of Nomad, which forgets evaluations and
    allocations that ended some hours ago. Times are UTC.
    """
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        began = time.time() - since if since is not None else 0.0
        found = [one for one in _happened(cluster) if one.at >= began]
        if as_json:
            say_json({"run_id": run.run_id, "events": [one._asdict() for one in found]})
            return
        rows = [["TIME", "SOURCE", "ABOUT", "WHAT"], *_rows(found)]
        click.echo(columns(rows))
        known = set(found)
        while follow:
            new = _await_new(cluster, known)
            known |= set(new)
            for row in _rows([one for one in new if one.at >= began]):
                click.echo("  ".join(row))


def _rows(found: list[Happened]) -> list[list[str]]:
    return [[clock(one.at), one.source, one.about, one.what] for one in found]


def _await_new(cluster: Cluster, known: set[Happened]) -> list[Happened]:
    from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

    def probe() -> Ok[list[Happened]] | Pending:
        new = [one for one in _happened(cluster) if one not in known]
        return Ok(new) if new else Pending("nothing new")

    try:
        return wait_until("an event", probe, deadline=Deadline.after(3600), interval=_LOOK_SECONDS)
    except WaitTimeout:
        return []


def _happened(cluster: Cluster) -> list[Happened]:
    hosts = named_hosts(cluster)
    names = {one.instance.instance_id: one.name for one in hosts}
    found: list[Happened] = [*_of_ec2(cluster, hosts)]
    try:
        nomad = cluster.nomad if cluster.nomad_servers else None
        if nomad is not None:
            found += _of_nodes(nomad, names)
            found += _of_jobs(nomad, names)
    except AgentApiError as error:
        say(f"Nomad does not tell its events: {error}")
    return sorted(set(found))


def _of_ec2(cluster: Cluster, hosts: list[NamedHost]) -> Iterator[Happened]:
    ec2 = cluster.target.client("ec2")
    names = {one.instance.instance_id: one.name for one in hosts}
    known = [one.instance.instance_id for one in hosts if one.instance.state != "gone"]
    answer = ec2.describe_instances(InstanceIds=known) if known else {"Reservations": []}
    for facts in (one for each in answer["Reservations"] for one in each["Instances"]):
        about = f"{names[facts['InstanceId']]} ({facts['InstanceId']})"
        yield Happened(_seconds(facts["LaunchTime"]), "ec2", about, "launched")
        reason = facts.get("StateTransitionReason", "")
        stamp = reason.rpartition("(")[2].removesuffix(")").removesuffix(" GMT").removesuffix(" UTC")
        try:
            at = datetime.fromisoformat(f"{stamp}+00:00").timestamp()
        except ValueError:
            continue
        yield Happened(at, "ec2", about, f"{facts['State']['Name']}: {reason.rpartition(' (')[0]}")
    yield from _of_groups(cluster, names)


def _of_groups(cluster: Cluster, names: dict[str, str]) -> Iterator[Happened]:
    from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG

    autoscaling = cluster.target.client("autoscaling")
    filters = [{"Name": f"tag:{RUN_TAG}", "Values": [cluster.run_id]}]
    for page in autoscaling.get_paginator("describe_auto_scaling_groups").paginate(Filters=filters):
        for group in page["AutoScalingGroups"]:
            tags = {tag["Key"]: tag.get("Value", "") for tag in group.get("Tags", ())}
            about = f"group {tags.get(GROUP_TAG) or group['AutoScalingGroupName']}"
            activities = autoscaling.describe_scaling_activities(AutoScalingGroupName=group["AutoScalingGroupName"])
            for one in activities["Activities"]:
                what = one.get("Description") or one["StatusCode"]
                cause = f" ({one['StatusMessage']})" if one.get("StatusMessage") else ""
                yield Happened(_seconds(one["StartTime"]), "ec2", about, f"{_named(what, names)}{cause}")


def _of_nodes(nomad: Any, names: dict[str, str]) -> Iterator[Happened]:
    for stub in nomad.nodes():
        about = _host(stub["Name"], names)
        for event in nomad.node(stub["ID"]).get("Events") or ():
            at = datetime.fromisoformat(str(event["Timestamp"]).replace("Z", "+00:00")[:32]).timestamp()
            yield Happened(at, "node", about, f"{event['Subsystem']}: {event['Message']}")


def _of_jobs(nomad: Any, names: dict[str, str]) -> Iterator[Happened]:
    for one in nomad.get("/v1/evaluations"):
        why = f": {one['StatusDescription']}" if one.get("StatusDescription") else ""
        lacking = ", ".join(one.get("FailedTGAllocs") or ())
        why += f"; not placed: {lacking}" if lacking else ""
        at = one.get("CreateTime", 0) / 1e9
        yield Happened(at, "job", one.get("JobID") or "-", f"{one['TriggeredBy']}: evaluation {one['Status']}{why}")
    for one in nomad.get("/v1/allocations"):
        where = names.get(one.get("NodeName", ""), one.get("NodeName", ""))
        for task, state in (one.get("TaskStates") or {}).items():
            for event in state.get("Events") or ():
                said = event.get("DisplayMessage") or event.get("Message") or ""
                what = f"{task} on {where}: {event['Type']}" + (f": {said}" if said else "")
                yield Happened(event.get("Time", 0) / 1e9, "task", one["Name"], what)


def _host(node: str, names: dict[str, str]) -> str:
    return f"{names[node]} ({node})" if node in names else node


def _named(text: str, names: dict[str, str]) -> str:
    for instance_id, name in names.items():
        text = text.replace(instance_id, f"{name} ({instance_id})")
    return text


def _seconds(at: datetime) -> float:
    return at.timestamp()
