"""A deployed cluster, as a test holds it in its hands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.agents import AgentName
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.secrets import RunSecrets
from nomad_testkit.cluster.timeline import HostTimeline
from nomad_testkit.errors import AgentApiError, DeployError
from nomad_testkit.examples.example import Roles
from nomad_testkit.modules.network import Instance

if TYPE_CHECKING:
    from nomad_testkit.cluster.check import Check
    from nomad_testkit.cluster.clients.consul import ConsulClient
    from nomad_testkit.cluster.clients.nomad import NomadClient
    from nomad_testkit.cluster.jobs import Job
    from nomad_testkit.examples.example import Example
    from nomad_testkit.targets.base import Target
    from nomad_testkit.wait import Deadline


@dataclass(frozen=True, repr=False)
class Cluster:
    """The hosts of one run and what runs on them; `nomad` and `consul` go to the leader.

    >>> cluster.require(RaftPeers(3), within=60)  # doctest: +SKIP
    >>> with cluster.submitted("web.nomad.hcl", count=6) as job:  # doctest: +SKIP
    ...     cluster.require(AllocationsRunning(job))
    """

    run_id: str
    target: Target
    hosts: Sequence[Host]
    roles: Roles
    ssh_user: str
    key_path: Path
    example: Example | None = None
    """None in a process that only destroys it."""
    secrets: RunSecrets | None = None
    """The run's secrets, where the example has a [security]."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """What the deployment tells under upstream's names: ``asg_name_servers``, ``security_group_id_clients``..."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds from the deployment's start to the end of each phase."""
    expires: str | None = None
    """Until when it may live, as its tags say; None for any time."""
    timeline: Sequence[HostTimeline] = field(default=(), repr=False)
    """When each host came to each phase of its boot."""
    sizes: Mapping[str, int] = field(default_factory=dict, repr=False)
    """How many hosts each group is to have, as the example says, or `operations.scale` since."""
    save: Callable[[Cluster], None] | None = field(default=None, repr=False, compare=False)
    """Writes down anew what another process needs to use it, once something of that has changed."""
    _states: Mapping[str, Instance] = field(default_factory=dict, repr=False, compare=False)
    """The instances that did not run when it was looked at them last, by their ids."""

    def __post_init__(self) -> None:
        if not self.sizes:
            counts = Counter(host.instance.group for host in self.hosts)
            object.__setattr__(self, "sizes", dict(counts))

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {group}" for group, count in self.sizes.items())
        return f"<Cluster {self.run_id}: {counts or 'no hosts'}>"

    def in_groups(self, *groups: str) -> Sequence[Host]:
        """List the hosts of some of the example's groups."""
        return [host for host in self.hosts if host.instance.group in groups]

    @property
    def consul_servers(self) -> Sequence[Host]:
        """The hosts that run Consul servers."""
        return self.in_groups(*self.roles.consul_servers)

    @property
    def nomad_servers(self) -> Sequence[Host]:
        """The hosts that run Nomad servers."""
        return self.in_groups(*self.roles.nomad_servers)

    @property
    def nomad_clients(self) -> Sequence[Host]:
        """The hosts that run Nomad clients."""
        return self.in_groups(*self.roles.nomad_clients)

    @property
    def servers(self) -> Sequence[Host]:
        """The Nomad servers; where Consul is colocated, its servers too."""
        return self.nomad_servers

    @property
    def clients(self) -> Sequence[Host]:
        """The Nomad clients."""
        return self.nomad_clients

    @property
    def nomad(self) -> NomadClient:
        """The API of the Nomad leader, or of the first server during an election."""
        return (self.leader("nomad") or self._first(self.nomad_servers)).nomad

    @property
    def consul(self) -> ConsulClient:
        """The API of the Consul leader, or of the first server during an election."""
        return (self.leader("consul") or self._first(self.consul_servers)).consul

    def leader(self, agent: AgentName) -> Host | None:
        """Find the server that leads, or None during an election and where no server answers.

        One server is asked after the other, since the first may be the one that a test stopped.

        >>> leader = cluster.leader("consul")  # doctest: +SKIP
        """
        servers = self.consul_servers if agent == "consul" else self.nomad_servers
        for host in servers:
            with suppress(AgentApiError):
                address = (host.consul if agent == "consul" else host.nomad).leader().rpartition(":")[0]
                if leading := next((one for one in servers if one.private_ip == address), None):
                    return leading
        return None

    def _first(self, servers: Sequence[Host]) -> Host:
        if not servers:
            raise DeployError(f"cluster {self.run_id} has no servers; its hosts: {_names(self.hosts)}")
        return servers[0]

    def require(self, *checks: Check[Any], within: float | Deadline = 60.0) -> None:
        """Wait until every check holds, all at the same time; `within` is in seconds. Raises CheckFailed."""
        from nomad_testkit.cluster.check import require

        __tracebackhide__ = True  # pytest shows the test that failed, and not what waited for it
        require(self, *checks, within=within)

    def refresh(self) -> None:
        """Look anew which instances run (DescribeInstances), since an auto scaling group may have replaced some."""
        from nomad_testkit.cluster.discovery import instances

        known = {host.instance_id: host for host in self.hosts}
        ports = {host.instance.group: host.ssh.port for host in self.hosts}
        found = instances(self.target.client, self.run_id, terminated=True)
        running = [one for one in found if one.state == "running"]
        hosts = [
            known.pop(one.instance_id)
            if one.instance_id in known
            else Host(
                one,
                address=self.target.address(one),
                ssh_user=self.ssh_user,
                key_path=self.key_path,
                ssh_port=ports.get(one.group, 22),
                secrets=self.secrets,
            )
            for one in running
        ]
        for host in known.values():
            host.close()
        others = {one.instance_id: one for one in found if one.state != "running"}
        # What of a cluster changes: its hosts, and with `resize` how many there are to be.
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "_states", others)

    def resize(self, group: str, count: int) -> None:
        """Note that a group is to have another number of hosts from now on."""
        object.__setattr__(self, "sizes", {**self.sizes, group: count})
        if self.save is not None:
            self.save(self)

    @property
    def missing_hosts(self) -> Sequence[str]:
        """Say of each group with fewer hosts than it is to have how many run, and what the others do instead."""
        lines = []
        for group, count in self.sizes.items():
            running = len(self.in_groups(group))
            if running < count:
                others = [f"{one.instance_id} is {one.state}" for one in self._states.values() if one.group == group]
                lines.append(", ".join([f"{running} of {count} hosts of {group} run", *others]))
        return lines

    def wanted(self, groups: Iterable[str]) -> int:
        """Count the hosts that some groups are to have together."""
        return sum(self.sizes.get(group, 0) for group in groups)

    def missing_rules(self) -> Sequence[str]:
        """List the rules that its security groups lack for its agents to reach each other."""
        from nomad_testkit.cluster.missing_rules import missing_rules

        return missing_rules(
            self.target.client,
            self.run_id,
            self.roles,
            machine_cidrs=self.target.inbound_cidrs,
            https=self.secrets is not None and self.secrets.access.ca_path is not None,
        )

    def submitted(self, job: str | Path, **overrides: Any) -> AbstractContextManager[Job]:
        """Submit a job for the time of a `with` block; see `jobs.submitted` for what can be overridden."""
        from nomad_testkit.cluster.jobs import submitted

        return submitted(self.nomad, job, **overrides)

    def describe(self) -> dict[str, Any]:
        """Tell, in JSON's types, what another process needs to use or destroy this cluster; no secret is in it."""
        return {
            "run_id": self.run_id,
            "target": dict(self.target.describe()),
            "hosts": [
                {"address": host.address, "ssh_port": host.ssh.port, **asdict(host.instance)} for host in self.hosts
            ],
            "roles": asdict(self.roles),
            "ssh_user": self.ssh_user,
            "key_path": str(self.key_path),
            "secrets_path": str(self.secrets.folder) if self.secrets else None,
            "outputs": dict(self.outputs),
            "timings": dict(self.timings),
            "expires": self.expires,
            "sizes": dict(self.sizes),
            "timeline": [asdict(host) for host in self.timeline],
        }

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], *, target: Target, example: Example | None = None
    ) -> Cluster:
        """Make the cluster that `describe` told of, over this process's own hold on its target."""
        ssh_user, key_path = description["ssh_user"], Path(description["key_path"])
        secrets = RunSecrets.load(Path(path)) if (path := description.get("secrets_path")) else None
        return cls(
            run_id=description["run_id"],
            target=target,
            hosts=[_host(facts, ssh_user, key_path, secrets) for facts in description["hosts"]],
            roles=Roles(**{role: tuple(groups) for role, groups in description["roles"].items()}),
            ssh_user=ssh_user,
            key_path=key_path,
            example=example.deployed(description["outputs"]) if example else None,
            secrets=secrets,
            outputs=description["outputs"],
            timings=description["timings"],
            expires=description.get("expires"),
            timeline=[HostTimeline(**host) for host in description.get("timeline", ())],
            sizes=description.get("sizes", {}),
        )

    def close(self) -> None:
        """Close every connection to the hosts; nothing is destroyed."""
        for host in self.hosts:
            host.close()


def _host(facts: Mapping[str, Any], ssh_user: str, key_path: Path, secrets: RunSecrets | None) -> Host:
    fields = dict(facts)
    address, ssh_port = fields.pop("address"), fields.pop("ssh_port")
    return Host(
        Instance(**fields),
        address=address,
        ssh_user=ssh_user,
        key_path=key_path,
        ssh_port=ssh_port,
        secrets=secrets,
    )


def _names(hosts: Iterable[Host]) -> str:
    return ", ".join(str(host) for host in hosts) or "none"
