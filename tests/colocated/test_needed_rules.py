"""Which security group rules a cluster cannot do without: taken from a running one, each breaks what is named."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from nomad_testkit import Cluster, Example
from nomad_testkit.checks import Check, Leader, NodesReady, RaftPeers, ServiceResolves, UnitsActive
from nomad_testkit.cluster.host import Host
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.errors import CheckFailed, HostError
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

log = logging.getLogger(__name__)

SERVERS, CLIENTS = 3, 1
DROPPED = "i/o timeout"
"""What an agent written in Go says of a packet that nobody answers."""


@dataclass(frozen=True)
class Needed:
    """A port of the servers' security group, and what breaks without its rules."""

    port: int
    protocols: tuple[str, ...]
    breaks: Check[Any]
    says: str
    """What the check says then."""
    agent: str | None = None
    """The agent to start anew, since rules do not end connections that stand; its journal then tells of the port."""
    on: str = "servers"
    told: str | None = None
    """What the kit says of the missing rule, where agents need it."""


NEEDED = [
    Needed(8600, ("tcp", "udp"), ServiceResolves("nomad"), "DNS"),
    Needed(
        4646,
        ("tcp",),
        RaftPeers(SERVERS, ("nomad",)),
        "did not answer",
        told="this machine cannot reach servers on tcp 4646 (Nomad HTTP API)",
    ),
    Needed(
        8500,
        ("tcp",),
        RaftPeers(SERVERS, ("consul",)),
        "did not answer",
        told="this machine cannot reach servers on tcp 8500 (Consul HTTP API)",
    ),
    Needed(
        8300,
        ("tcp",),
        Leader(("consul",)),
        "no consul leader on",
        agent="consul",
        told="servers cannot reach servers on tcp 8300 (Consul server RPC)",
    ),
    Needed(
        8301,
        ("tcp", "udp"),
        UnitsActive(("consul",)),
        "activating",
        agent="consul",
        on="clients",
        told="clients cannot reach servers on tcp 8301 (Consul Serf LAN)",
    ),
    Needed(
        4647,
        ("tcp",),
        NodesReady(CLIENTS),
        "0 nodes are ready",
        agent="nomad",
        on="clients",
        told="clients cannot reach servers on tcp 4647 (Nomad RPC)",
    ),
]

# What a healthy cluster does without, and why its group opens it all the same.
SPARE = [
    ("servers", 8302, "Consul Serf WAN: between the datacenters of a federation, and this is one alone"),
    ("servers", 8400, "Consul CLI RPC: of agents before 0.8; a variable of upstream's module, which its users may set"),
    ("servers", 4648, "Nomad Serf: servers that have met go on over what stands; new ones meet by it"),
    ("clients", 8500, "Consul HTTP API: for people, who ask the Consul agent of any host"),
    ("clients", 8501, "Consul HTTPS API: likewise, where the agents have TLS"),
    ("clients", 4646, "Nomad HTTP API: for people, who ask a client for its allocations' logs and files"),
    ("clients", 4647, "Nomad RPC: nomad-cluster makes servers and clients, and its group has the ports of both"),
    ("clients", 4648, "Nomad Serf: likewise"),
]


@pytest.fixture(scope="module")
def running(
    nomad_settings: Settings, nomad_target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A colocated cluster, for all tests here."""
    settings = replace(nomad_settings, artifacts=tmp_path_factory.mktemp("artifacts"))
    example = Example.load("nomad-consul-colocated-cluster").replace(num_servers=SERVERS, num_clients=CLIENTS)
    with deployed(settings, example, target=nomad_target, progress=log.info) as cluster:
        yield cluster


@contextmanager
def without(cluster: Cluster, group: str, *ports: int, protocols: tuple[str, ...] = ("tcp", "udp")) -> Iterator[str]:
    """Take the rules of some ports from a group, and give them back; gives the security group's id."""
    ec2, group_id = cluster.target.client("ec2"), cluster.outputs[f"security_group_id_{group}"]
    (found,) = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    rules = [
        rule for rule in found["IpPermissions"] if rule.get("FromPort") in ports and rule["IpProtocol"] in protocols
    ]
    assert rules
    ec2.revoke_security_group_ingress(GroupId=group_id, IpPermissions=rules)
    try:
        yield str(group_id)
    finally:
        ec2.authorize_security_group_ingress(GroupId=group_id, IpPermissions=rules)


@contextmanager
def met_anew(cluster: Cluster) -> Iterator[Cluster]:
    """Hold the same cluster without any connection from before."""
    again = Cluster.from_description(cluster.describe(), target=cluster.target, example=cluster.example)
    try:
        yield again
    finally:
        again.close()


def restart(host: Host, agent: str) -> str:
    """Start an agent anew; gives the moment, as its journal counts."""
    moment = host.run("date +%s").stdout.strip()
    host.run(f"systemctl restart --no-block {agent}", sudo=True)
    return f"@{moment}"


def await_words(host: Host, agent: str, since: str, words: str) -> None:
    """Wait until an agent has said something."""

    def probe() -> Ok[None] | Pending:
        said = host.run(f"journalctl --no-pager -o cat -u {agent} --since {since}", sudo=True).stdout
        return Ok(None) if words in said else Pending(said[-300:])

    wait_until(f"{agent} to say {words!r}", probe, deadline=Deadline.after(120), where=str(host))


def follower(cluster: Cluster) -> Host:
    """Choose a server that leads Consul no more than it leads Nomad."""
    leaders = {cluster.consul.leader().split(":")[0], cluster.nomad.leader().split(":")[0]}
    return next(host for host in cluster.servers if host.private_ip not in leaders)


@pytest.mark.parametrize("row", NEEDED, ids=lambda row: str(row.port))
def test_a_rule_that_is_needed(row: Needed, running: Cluster) -> None:
    chosen = running.clients[0] if row.on == "clients" else follower(running)
    with without(running, "servers", row.port, protocols=row.protocols) as group, met_anew(running) as cluster:
        if row.agent:
            await_words(chosen, row.agent, restart(chosen, row.agent), DROPPED)

        def probe() -> Ok[str] | Pending:
            verdict = row.breaks.verdict(cluster)
            return Ok(verdict.seen) if isinstance(verdict, Pending) else Pending(str(verdict))

        assert row.says in wait_until("the check to fail", probe, deadline=Deadline.after(120))
        with pytest.raises(CheckFailed) as caught:
            cluster.require(row.breaks, within=0)
        if row.told:
            rule = f"no inbound rule of {group} ({cluster.outputs['asg_name_servers']}) lets them in"
            assert f"{row.told}: {rule}" in str(caught.value)
    if row.agent:
        restart(chosen, row.agent)  # agents try again ever more seldom
    running.require(row.breaks, NodesReady(CLIENTS), Leader(), within=120)
    assert running.missing_rules() == []


def test_ssh_needs_its_rule(running: Cluster) -> None:
    with without(running, "servers", 22), met_anew(running) as cluster, pytest.raises(HostError, match="timed out"):
        cluster.servers[0].ssh.ensure(Deadline.after(2))


def test_the_others_are_explained(running: Cluster) -> None:
    ec2 = running.target.client("ec2")
    explained = {(group, port) for group, port, _ in SPARE}
    opened = {
        (group, rule["FromPort"])
        for group in ("servers", "clients")
        for found in ec2.describe_security_groups(GroupIds=[running.outputs[f"security_group_id_{group}"]])[
            "SecurityGroups"
        ]
        for rule in found["IpPermissions"]
    }
    needed = {("servers", row.port) for row in NEEDED} | {("servers", 22)}
    # SSH and Serf LAN are for every host.
    assert opened == needed | explained | {("clients", 22), ("clients", 8301)}
    servers = [port for group, port, _ in SPARE if group == "servers"]
    clients = [port for group, port, _ in SPARE if group == "clients"]
    with without(running, "servers", *servers), without(running, "clients", *clients), met_anew(running) as cluster:
        client = cluster.clients[0]
        await_words(client, "nomad", restart(client, "nomad"), "node registration complete")
        cluster.require(
            RaftPeers(SERVERS), Leader(), NodesReady(CLIENTS), ServiceResolves("nomad"), UnitsActive(), within=120
        )
