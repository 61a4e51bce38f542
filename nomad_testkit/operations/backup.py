"""Disaster recovery: save the state of a whole cluster, and restore it on another one."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nomad_testkit.checks.healing import leader_of
from nomad_testkit.cluster.clients.snapshots import check_snapshot
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, UsageError
from nomad_testkit.operations.health import WITHIN, require_healthy
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

logger = logging.getLogger(__name__)

_SERF_CHECK = "serfHealth"
"""Consul's check of a node that runs an agent; nodes registered by an external program lack it."""


@dataclass(frozen=True)
class Backup:
    """What a fresh cluster needs to take another one's place."""

    run_id: str
    """The run of the saved cluster."""
    consul: bytes = field(repr=False)
    nomad: bytes = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)
    """Nomad's root keys by file name: secrets, which the snapshot lacks. Without them Nomad can place no job and
    read no variable (https://developer.hashicorp.com/nomad/docs/operations/key-management)."""


def save(cluster: Cluster) -> Backup:
    """Save the state of Consul's and Nomad's servers, with Nomad's keys.

    Raises UsageError if no server runs, AgentApiError and HostError.

    >>> backup = save(cluster)  # doctest: +SKIP
    """
    for agent, servers in (("Consul", cluster.consul_servers), ("Nomad", cluster.nomad_servers)):
        if not servers:
            raise UsageError(f"expected {agent} servers to save in {cluster.run_id}, found none that run")
    leader = leader_of(cluster, "nomad")
    folder = _keystore(leader)
    names = leader.run(f"ls -A {shlex.quote(folder)}", sudo=True).stdout.split()
    keys = {name: leader.read(f"{folder}/{name}", sudo=True).encode() for name in names}
    if not keys:
        raise UsageError(f"{leader} has no key in {folder}, so nothing could be restored from a backup of it")
    return Backup(cluster.run_id, cluster.consul.save_snapshot(), cluster.nomad.save_snapshot(), keys)


def restore(cluster: Cluster, backup: Backup) -> None:
    """Restore a backup on a cluster, and wait until the cluster is healthy with it.

    Nomad's servers get the keys first; each is restarted, since it reads them only when it starts. The old cluster's
    clients are purged from Nomad, which would otherwise wait five minutes for their heartbeats
    (`failover_heartbeat_ttl`) before it places their jobs again. The old agents' nodes leave Consul's catalog by
    themselves; nodes registered by an external program stay. The new agents register their services again within two
    minutes, when they next compare them with the catalog.

    Raises UsageError, before it changes anything, for a damaged backup and for one of another cluster with ACLs, whose
    tokens it would bring; CheckFailed and WaitTimeout if the cluster does not become healthy.

    >>> restore(fresh, save(cluster))  # doctest: +SKIP
    """
    _refuse_what_cannot_be_used(cluster, backup)
    _bring_keys(cluster, backup)
    cluster.consul.restore_snapshot(backup.consul)
    cluster.nomad.restore_snapshot(backup.nomad)
    deadline = Deadline.after(WITHIN)
    wait_until("Nomad to know its own clients alone", lambda: _purge(cluster), deadline=deadline, where=cluster.run_id)
    wait_until("Consul to know its own agents alone", lambda: _agents(cluster), deadline=deadline, where=cluster.run_id)
    require_healthy(cluster)


def _refuse_what_cannot_be_used(cluster: Cluster, backup: Backup) -> None:
    check_snapshot(backup.consul, "consul")
    check_snapshot(backup.nomad, "nomad")
    for name, key in backup.keys.items():
        try:
            json.loads(key)
        except ValueError as error:
            raise UsageError(f"the key {name} of the backup of {backup.run_id} is damaged: it is not JSON") from error
    if not backup.keys:
        raise UsageError(f"the backup of {backup.run_id} has no key of Nomad's keystore; expected what save gave")
    if cluster.example is not None and cluster.example.security.acl and backup.run_id != cluster.run_id:
        raise UsageError(
            f"{cluster.run_id} has ACLs, and the backup is of {backup.run_id}: it would get that one's tokens, and "
            "nobody could use it with its own any more; expected a cluster without ACLs, or a backup of the same"
        )


def _keystore(server: Host) -> str:
    return f"{server.nomad.agent()['config']['DataDir']}/server/keystore"


def _bring_keys(cluster: Cluster, backup: Backup) -> None:
    for server in cluster.nomad_servers:
        folder = _keystore(server)
        present = server.run(f"ls -A {shlex.quote(folder)}", sudo=True).stdout.split()
        missing = [name for name in backup.keys if name not in present]
        if not missing:
            continue
        for name in missing:
            path = f"{folder}/{name}"
            server.put(backup.keys[name], path, mode=0o600, sudo=True)
            server.run(f"chown --reference={shlex.quote(folder)} {shlex.quote(path)}", sudo=True)
        logger.info("%s: restarting nomad, which reads its keys when it starts", server)
        server.run("systemctl restart nomad", sudo=True, timeout=WITHIN)
        require_healthy(cluster)


def _purge(cluster: Cluster) -> Ok[None] | Pending:
    own = {host.instance_id for host in cluster.nomad_clients}
    try:
        found = {str(node["Name"]): str(node["ID"]) for node in cluster.nomad.nodes()}
        strange = {name: node for name, node in found.items() if name not in own}
        for node in strange.values():
            cluster.nomad.put(f"/v1/node/{node}/purge", None)
    except AgentApiError as error:  # an election may be under way
        return Pending(str(error))
    if strange or own - found.keys():
        return Pending(f"it knows {', '.join(found) or 'none'}")
    return Ok(None)


def _agents(cluster: Cluster) -> Ok[None] | Pending:
    own = {host.instance_id for host in cluster.hosts}
    try:
        checks: list[dict[str, Any]] = cluster.consul.get("/v1/health/state/any")
    except AgentApiError as error:
        return Pending(str(error))
    found = {str(one["Node"]) for one in checks if one["CheckID"] == _SERF_CHECK}
    return Ok(None) if found == own else Pending(f"its catalog has {', '.join(sorted(found)) or 'none'}")
