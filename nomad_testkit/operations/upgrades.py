"""Upgrade an agent in place, host by host."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.version import Version

from nomad_testkit.checks import AutopilotHealthy, Check, Leader, NodesReady, RaftPeers, RunsVersion
from nomad_testkit.checks.healing import leader_of
from nomad_testkit.checks.raft import servers_of
from nomad_testkit.cluster.check import Unanswered, ask_every
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import CommandFailed, DeployError, UsageError
from nomad_testkit.images.agents import Agent, identify
from nomad_testkit.images.agents.binary import elf_architecture
from nomad_testkit.operations.health import WITHIN, require_healthy

logger = logging.getLogger(__name__)

RESTART_SECONDS = 330.0
"""A little more than the time-out of the units that run_consul and run_nomad write."""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def upgrade(cluster: Cluster, binary: Agent | Path, *, between: Callable[[Host], None] | None = None) -> None:
    """Upgrade one agent of a cluster in place: all servers but the leader, the leader, then all clients.

    The order is that of https://developer.hashicorp.com/consul/docs/upgrading/instructions/general-process and of
    https://developer.hashicorp.com/nomad/docs/upgrade . On each host the program is replaced at once, its unit is
    restarted, and the cluster has to be whole again before the next; `between` is called then. Hosts that run this
    version already are left alone, so an upgrade that was interrupted can be gone on with. Where a unit does not start
    with the new program, the host gets the old one back.

    Raises UsageError for a version older than one that runs, and for a program of another architecture than the hosts',
    AgentSourceError for what is neither Consul nor Nomad, before anything is done; DeployError and CheckFailed then.

    >>> upgrade(cluster, get_agent("consul", "1.14.0", cache=Cache(), progress=print))  # doctest: +SKIP
    """
    agent = identify(binary) if isinstance(binary, Path) else binary
    servers = list(servers_of(cluster, agent.name))
    everyone = cluster.hosts if agent.name == "consul" else (*cluster.nomad_servers, *cluster.nomad_clients)
    clients = [host for host in everyone if host not in servers]
    try:
        old = _refuse_a_wrong_one(agent, [*servers, *clients])
    except Unanswered as error:
        raise DeployError(f"nothing is upgraded, since not every host says which version it runs: {error}") from error
    require_healthy(cluster)
    while servers:
        leader = leader_of(cluster, agent.name)
        host = next((one for one in servers if one != leader), leader)
        servers.remove(host)
        _one(cluster, agent, host, old, between)
    for host in clients:
        _one(cluster, agent, host, old, between)
    require_healthy(cluster)


def _refuse_a_wrong_one(agent: Agent, hosts: list[Host]) -> dict[Host, str]:
    """Return the version on each host. Raises UsageError if one of them cannot be upgraded to the new version."""
    running = {
        answer.place.instance_id: answer.value for answer in ask_every(hosts, lambda host: _version(host, agent))
    }
    newer = {name: version for name, version in running.items() if Version(version) > Version(agent.version)}
    if newer:
        found = ", ".join(f"{version} on {name}" for name, version in newer.items())
        raise UsageError(
            f"{agent.path} is {agent.name} {agent.version}, and there runs {found}: {agent.name.title()} cannot be "
            f"downgraded in place; expected {max(newer.values(), key=Version)} or newer"
        )
    architecture = elf_architecture(agent.path)
    machines = {answer.place.instance_id: answer.value for answer in ask_every(hosts, _architecture)}
    if others := {name: machine for name, machine in machines.items() if machine != architecture}:
        found = ", ".join(f"{name} is {machine}" for name, machine in others.items())
        raise UsageError(f"{agent.path} is for {architecture}, and {found}; expected a program for the hosts")
    return {host: running[host.instance_id] for host in hosts}


def _version(host: Host, agent: Agent) -> str:
    return (host.consul if agent.name == "consul" else host.nomad).version()


def _architecture(host: Host) -> str:
    machine = host.run("uname -m").stdout.strip()
    return _MACHINES.get(machine, machine)


def _one(
    cluster: Cluster, agent: Agent, host: Host, old: dict[Host, str], between: Callable[[Host], None] | None
) -> None:
    if old[host] == agent.version:
        return
    logger.info("%s: %s %s to %s", host, agent.name, old[host], agent.version)
    _replace_program(agent, host, old[host])
    checks: list[Check[Any]] = [
        RunsVersion(agent.name, agent.version, (host,)),
        RaftPeers(len(cluster.consul_servers), ("consul",)),
        RaftPeers(len(cluster.nomad_servers), ("nomad",)),
        Leader(),
        AutopilotHealthy(),
    ]
    if agent.name == "consul":  # it demands one version of Nomad on all of them
        checks.append(NodesReady(len(cluster.nomad_clients)))
    cluster.require(*checks, within=WITHIN)
    if between is not None:
        between(host)


def _replace_program(agent: Agent, host: Host, old: str) -> None:
    """Install the new program and restart the unit; restore the old program if that fails."""
    unit = agent.name
    path = host.run(f"readlink -e /proc/$(systemctl show -p MainPID --value {unit})/exe", sudo=True).stdout.strip()
    program, new, kept = (shlex.quote(f"{path}{end}") for end in ("", ".new", ".old"))
    host.put(agent.path, f"{path}.new", mode=0o755, sudo=True)
    said = host.run(f"sha256sum {new}", sudo=True).stdout.split()[0]
    if said != agent.sha256:
        host.run(f"rm -f {new}", sudo=True)
        raise DeployError(f"{host} got {path}.new with SHA-256 {said}, and {agent.path} has {agent.sha256}")
    # A rename: whoever starts it meanwhile gets the old program or the new one, whole.
    host.run(f"chown --reference={program} {new} && ln -f {program} {kept} && mv -fT {new} {program}", sudo=True)
    try:
        host.run(f"systemctl restart {unit}", sudo=True, timeout=RESTART_SECONDS)
    except CommandFailed as error:
        told = host.journal(unit, 20)
        host.run(f"mv -fT {kept} {program} && systemctl reset-failed {unit}; systemctl restart {unit}", sudo=True)
        raise DeployError(
            f"{unit} {agent.version} does not start on {host}, which has {old} again: {error}\n{told}"
        ) from error
    host.run(f"rm -f {kept}", sudo=True)
