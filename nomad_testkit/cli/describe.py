"""All that there is to know of one host, on one page."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from nomad_testkit.cli.group import columns, json_option, main, say_json
from nomad_testkit.cli.lookup import (
    chosen_host,
    chosen_run,
    complete_hosts,
    fate,
    name_option,
    named_hosts,
    opened_cluster,
)
from nomad_testkit.errors import AgentApiError, HostError

if TYPE_CHECKING:
    from nomad_testkit.cli.lookup import NamedHost
    from nomad_testkit.cluster.cluster import Cluster
    from nomad_testkit.cluster.host import Host

_HEALTH = ("passing", "warning", "critical")
"""The states of a check in Consul, the worst last."""
_LOOK = "awk '/MemTotal|MemAvailable/ {print $2}' /proc/meminfo; df -Pk / | tail -n 1"


@main.command(short_help="Show all that is known of a host.")
@click.argument("host", shell_complete=complete_hosts)
@name_option
@json_option
def describe(host: str, name: str | None, as_json: bool) -> None:
    """Show the instance HOST, its units and load, its node in Nomad, what runs on it, and its services in Consul.

    HOST is named as for ssh, and may be one that does not run.
    """
    run = chosen_run(name)
    with opened_cluster(run) as cluster:
        facts = _facts(cluster, chosen_host(run, named_hosts(cluster), host))
    if as_json:
        say_json({"run_id": run.run_id, **facts})
    else:
        click.echo(_text(facts))


def _facts(cluster: Cluster, one: NamedHost) -> dict[str, Any]:
    facts: dict[str, Any] = {**one.describe(), "image_id": one.instance.image_id, **_of_instance(cluster, one)}
    facts |= {"ended": None, "units": [], "machine": None, "node": None, "allocations": [], "services": []}
    if one.host is None:
        facts["ended"] = fate(cluster.target, one.instance)
        return facts
    try:
        facts["units"] = [str(state) for state in one.host.unit_states("consul", "nomad")]
        facts["machine"] = _machine(one.host)
    except HostError as error:
        facts["machine"] = {"error": str(error)}
    with suppress(AgentApiError):
        facts |= _of_nomad(cluster, one.instance.instance_id)
    with suppress(AgentApiError):
        facts["services"] = _services(cluster, one.instance.instance_id)
    return facts


def _of_instance(cluster: Cluster, one: NamedHost) -> dict[str, Any]:
    if one.instance.state == "gone":
        return {"launched": None, "instance_type": None, "security_groups": []}
    answer = cluster.target.client("ec2").describe_instances(InstanceIds=[one.instance.instance_id])
    facts = answer["Reservations"][0]["Instances"][0]
    return {
        "launched": facts["LaunchTime"].isoformat(),
        "instance_type": facts.get("InstanceType"),
        "security_groups": [f"{each['GroupId']} ({each['GroupName']})" for each in facts.get("SecurityGroups", ())],
    }


def _machine(host: Host) -> dict[str, Any]:
    total, available, disk = host.run(_LOOK).stdout.splitlines()
    _, blocks, _, free, *_ = disk.split()
    return {
        "memory_mib": {"total": int(total) // 1024, "available": int(available) // 1024},
        "disk_mib": {"total": int(blocks) // 1024, "available": int(free) // 1024},
    }


def _of_nomad(cluster: Cluster, instance_id: str) -> dict[str, Any]:
    nomad = cluster.nomad
    stub = next((one for one in nomad.nodes() if one["Name"] == instance_id), None)
    if stub is None:
        return {}
    node = nomad.node(stub["ID"])
    resources = node.get("NodeResources", {})
    allocations = nomad.get(f"/v1/node/{stub['ID']}/allocations")
    return {
        "node": {
            "id": stub["ID"],
            "status": node["Status"],
            "eligibility": node["SchedulingEligibility"],
            "draining": bool(node.get("DrainStrategy")),
            "version": stub["Version"],
            "drivers": sorted(name for name, facts in (stub.get("Drivers") or {}).items() if facts.get("Healthy")),
            "cpu_mhz": resources.get("Cpu", {}).get("CpuShares"),
            "memory_mib": resources.get("Memory", {}).get("MemoryMB"),
        },
        "allocations": [
            {"id": one["ID"], "name": one["Name"], "desired": one["DesiredStatus"], "status": one["ClientStatus"]}
            for one in allocations
        ],
    }


def _services(cluster: Cluster, instance_id: str) -> list[dict[str, Any]]:
    consul = cluster.consul
    node = consul.node(instance_id) or {}
    checks = consul.get(f"/v1/health/node/{instance_id}")
    worst: dict[str, str] = {}
    for check in checks:
        order = ("passing", "warning", "critical")
        now = worst.get(check["ServiceID"], "passing")
        worst[check["ServiceID"]] = max(
            now, check["Status"], key=lambda word: order.index(word) if word in order else 2
        )
    return [
        {"name": one["Service"], "port": one["Port"], "health": worst.get(one["ID"], "no check")}
        for one in (node.get("Services") or {}).values()
    ]


def _text(facts: dict[str, Any]) -> str:
    rows = [
        ["Instance", f"{facts['instance_id']}, {facts['instance_type']}, {facts['image_id']}"],
        ["State", facts["ended"].removeprefix("is ") if facts["ended"] else facts["state"]],
        ["Group", f"{facts['group']}, in {facts['availability_zone']}"],
        ["Addresses", f"{facts['private_ip']}, from here {facts['address']}"],
        ["Security", ", ".join(facts["security_groups"]) or "no group"],
        ["Launched", str(facts["launched"])],
    ]
    if machine := facts["machine"]:
        if "error" in machine:
            rows.append(["Machine", machine["error"]])
        else:
            memory, disk = machine["memory_mib"], machine["disk_mib"]
            rows += [
                ["Memory", f"{memory['available']} of {memory['total']} MiB available"],
                ["Disk", f"{disk['available']} of {disk['total']} MiB free on /"],
            ]
    rows += [["Unit" if number == 0 else "", state] for number, state in enumerate(facts["units"])]
    if node := facts["node"]:
        draining = ", draining" if node["draining"] else ""
        rows += [
            ["Node", f"{node['id'][:8]} is {node['status']}, {node['eligibility']}{draining}, Nomad {node['version']}"],
            ["Offers", f"{node['cpu_mhz']} MHz, {node['memory_mib']} MiB; drivers {', '.join(node['drivers'])}"],
        ]
    lines = [facts["name"], columns(rows, indent="  ")]
    if facts["allocations"]:
        table = [["ALLOCATION", "NAME", "DESIRED", "STATUS"]]
        table += [[one["id"][:8], one["name"], one["desired"], one["status"]] for one in facts["allocations"]]
        lines += ["Allocations", columns(table, indent="  ")]
    if facts["services"]:
        table = [["SERVICE", "PORT", "HEALTH"]]
        table += [[one["name"], str(one["port"]), one["health"]] for one in facts["services"]]
        lines += ["Services", columns(table, indent="  ")]
    return "\n".join(lines)
