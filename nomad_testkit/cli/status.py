"""Tell what is up: runs, their hosts and states, and who leads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.cli.agents import agents_of, is_down
from nomad_testkit.cli.group import FAILED, columns, json_option, main
from nomad_testkit.cli.lookup import (
    NamedHost,
    complete_runs,
    fate,
    name_option,
    named_hosts,
    opened_cluster,
    opened_target,
)
from nomad_testkit.cli.watching import show, watch_option
from nomad_testkit.cluster.agents import AGENTS
from nomad_testkit.errors import Ec2Error, TestkitError
from nomad_testkit.runs.run import Run

if TYPE_CHECKING:
    from nomad_testkit.cluster.cluster import Cluster

UP, IN_USE, DEPLOYING, LEFT_BEHIND, GONE, IMAGE = "up", "in use", "deploying", "left behind", "gone", "image"
_MEANINGS = {
    IN_USE: "tests or another command use it now",
    DEPLOYING: "a process deploys it, or is about to destroy it",
    LEFT_BEHIND: "the process that deployed it has ended without destroying it; `nomad-testkit down` does",
    IMAGE: "an AMI, and no cluster",
}


@main.command(short_help="Show what is up, and what its agents do.")
@click.argument("run_name", metavar="[NAME]", required=False, shell_complete=complete_runs)
@name_option
@watch_option
@json_option
@click.pass_context
def status(ctx: click.Context, run_name: str | None, name: str | None, watch: bool, as_json: bool) -> None:
    """Show the runs of this machine, or the one that is called NAME: hosts, and what the agents on each do.

    An agent is leader, alive, ready, ineligible, draining, failed, left, stopped or not there, as the leaders say.
    Hosts are named GROUP-N: N counts the hosts of a group from 0, in the order in which they were deployed or, later,
    launched. Faults that a killed process left are undone and named; those of living ones are named. The exit code is 1
    where something is down: an agent or a leader, fewer hosts than there are to be, a cloud that is gone, a fault that
    could not be undone.
    """
    name = run_name or name

    def look() -> tuple[str, bool]:
        runs = [Run.find(name)] if name else Run.every()
        told = [describe_run(run) for run in runs]
        is_down = any(one["down"] for one in told)
        if as_json:
            return json.dumps({"runs": told}, indent=2), is_down
        nothing = "nothing is up; `nomad-testkit up EXAMPLE` deploys a cluster"
        return "\n\n".join(map(_text, told)) or nothing, is_down

    if show(look, watch=watch):
        ctx.exit(FAILED)


def describe_run(run: Run) -> dict[str, Any]:
    """Tell of a run, in JSON's types, what its target and its servers say now."""
    told = run.description()
    found: dict[str, Any] = {
        "run_id": run.run_id,
        "name": run.name or None,
        "state": _state(run, told),
        "meaning": None,
        "example": told.get("example", {}).get("folder"),
        "target": told.get("target", {}).get("name"),
        "endpoint_url": told.get("target", {}).get("endpoint_url"),
        "expires": told.get("expires"),
        "leaders": {"consul": None, "nomad": None},
        "hosts": [],
        "faults": [],
        "down": [],
    }
    found["meaning"] = _MEANINGS.get(found["state"])
    try:
        if told.get("hosts"):
            from nomad_testkit.faults.left import undo_left

            with opened_cluster(run) as cluster:
                # A run that nobody left up is to be destroyed: nothing in it is worth a repair.
                found["faults"] = [one.describe() for one in undo_left(cluster, only_name=not told.get("kept"))]
                hosts = named_hosts(cluster)
                found["leaders"] = _leaders(cluster)
                agents = agents_of(cluster, found["leaders"])
                found["hosts"] = [_host(one, cluster, found["leaders"], agents) for one in hosts]
                found["down"] = _down(found, cluster)
        elif "target" in told:
            with opened_target(run):
                pass
    except Ec2Error as error:
        found |= {"state": GONE, "meaning": str(error), "down": ["its embedded EC2 is gone"]}
    except TestkitError as error:  # such as an account that does not answer
        found |= {"meaning": str(error), "down": [str(error)]}
    return found


def _down(found: dict[str, Any], cluster: Cluster) -> list[str]:
    """List what is not as it should be."""
    lines = [f"{agent.capitalize()} has no leader" for agent, leader in found["leaders"].items() if leader is None]
    lines += [f"{text} on {host['name']}" for host in found["hosts"] for text in host["does"] if is_down(text)]
    lines += cluster.missing_hosts
    left = [fault["undo"] for fault in found["faults"] if fault["state"] == "left"]
    return lines + [f"a fault is left, and this could not be done: {undo}" for undo in left]


def _state(run: Run, told: dict[str, Any]) -> str:
    if run.used:
        return IN_USE if told.get("hosts") else DEPLOYING
    if told.get("kept"):
        return UP if told.get("hosts") else IMAGE
    return LEFT_BEHIND


def _leaders(cluster: Cluster) -> dict[str, str | None]:
    found = {agent: cluster.leader(agent) for agent in AGENTS}
    return {agent: leader.instance_id if leader else None for agent, leader in found.items()}


def _host(
    one: NamedHost, cluster: Cluster, leaders: dict[str, str | None], agents: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    roles = [
        role.replace("_", " ")[:-1]
        for role in ("consul_servers", "nomad_servers", "nomad_clients")
        if one.instance.group in getattr(cluster.roles, role)
    ]
    leads = [agent for agent, instance_id in leaders.items() if instance_id == one.instance.instance_id]
    ended = None if one.host is not None else fate(cluster.target, one.instance)
    does = [] if one.host is None else list(agents.get(one.instance.instance_id, ()))
    return {**one.describe(), "roles": roles, "leads": leads, "does": does, "ended": ended}


def _text(told: dict[str, Any]) -> str:
    called = f"{told['name']} ({told['run_id']})" if told["name"] else told["run_id"]
    head = f"{called}: {told['state']}" + (f" ({told['meaning']})" if told["meaning"] else "")
    if told["example"]:
        head += f"\n  {told['example']} on {told['target']}"
    if told["expires"]:
        head += f", until {told['expires']}"
    if not told["hosts"]:
        return head
    from nomad_testkit.faults.left import FoundFault

    rows = [["HOST", "INSTANCE", "STATE", "PRIVATE IP", "ADDRESS", "ZONE", "AGENTS"]]
    for host in told["hosts"]:
        facts = [host[key] for key in ("name", "instance_id", "state", "private_ip", "address", "availability_zone")]
        rows.append([*facts, ", ".join(host["does"]) if host["ended"] is None else host["ended"]])
    lines = [head, columns(rows, indent="  ")]
    lines += [f"  {FoundFault(**one)}" for one in told["faults"]]
    lines += [click.style(f"  DOWN  {line}", fg="red") for line in told["down"]]
    return "\n".join(lines)
