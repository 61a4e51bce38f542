"""Wait from the first instance to a ready cluster, phase by phase; fail at once if it can no longer become ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from nomad_testkit.checks import BootstrapExpectAgrees, Check, Leader, NodesReady, NotSplit, RaftPeers
from nomad_testkit.checks.raft import all_of
from nomad_testkit.cluster.agents import AGENTS, AgentName
from nomad_testkit.cluster.check import explained
from nomad_testkit.cluster.discovery import group_names, instances, scaling_activities
from nomad_testkit.cluster.host import Host
from nomad_testkit.cluster.host_watch import HostWatch
from nomad_testkit.cluster.timeline import USER_DATA
from nomad_testkit.deployment.agent_watch import AgentWatch
from nomad_testkit.deployment.stuck_hosts import stuck_hosts
from nomad_testkit.errors import BrokenError, WaitTimeout
from nomad_testkit.targets.aws.errors import AWS_ERRORS, looked
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.cluster.check import ClusterView
    from nomad_testkit.deployment.boot import Boot
    from nomad_testkit.examples.example import Roles
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.targets.base import Target

T = TypeVar("T")

HOSTS_UP, CONSUL_LEADER, NOMAD_LEADER, CLIENTS_READY = "hosts up", "Consul leader", "Nomad leader", "clients ready"
_ALIVE = ("pending", "running")
_INSTANCES_INTERVAL = 2.0
"""Seconds between polls of the instances once all are running: few end after that."""


@dataclass
class Readiness:
    """Waits for one deployment; `timings` maps each phase to the seconds from the start of the boot to its end.

    `prepare` is called for each host as soon as SSH works. The deadline is the boot's.
    """

    target: Target
    run_id: str
    boot: Boot
    roles: Roles
    prepare: Callable[[Host], None] | None = None
    watch: HostWatch = field(init=False)
    agents: AgentWatch = field(init=False)
    timings: dict[str, float] = field(default_factory=dict)
    _looked: float = 0.0
    _hosts: list[Host] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = HostWatch(self.deadline, self.prepare, lambda host: self.target.console(host.instance))
        self.agents = AgentWatch(self.boot, self.roles)

    @property
    def deadline(self) -> Deadline:
        """The boot's deadline."""
        return self.boot.deadline

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.stop()
        self.agents.stop()

    def await_hosts(
        self,
        expected: Mapping[str, int],
        make: Callable[[Instance], Host],
        limits: Mapping[str, float | None] | None = None,
    ) -> list[Host]:
        """Wait until SSH works on every host and return the hosts; `limits` are seconds by group.

        Raise BrokenError or WaitTimeout if a host does not come up.
        """
        hosts: dict[str, Host] = {}
        greeted: set[str] = set()
        self.boot.expect(expected)

        def probe() -> Ok[list[Host]] | Pending | Broken:
            found = self._instances()
            if ended := self._ended(found):
                return ended
            for instance in found:
                if instance.state == "running" and instance.instance_id not in hosts:
                    hosts[instance.instance_id] = make(instance)
                    self.watch.add(hosts[instance.instance_id])
            self._hosts = list(hosts.values())
            up = [host for host in hosts.values() if self.watch.is_up(host)]
            for host in up:
                if host.instance_id not in greeted:
                    greeted.add(host.instance_id)
                    self.boot.enter(host.instance_id, USER_DATA)
                    self.agents.add(host)
            counts = {group: sum(host.instance.group == group for host in up) for group in expected}
            if counts == dict(expected) and len(up) == len(found):
                return Ok(sorted(up, key=lambda host: (host.instance.group, host.instance_id)))
            seen = ", ".join(f"{counts[group]} of {expected[group]} {group}" for group in expected) + " are up"
            for group, seconds in (limits or {}).items():
                if seconds is not None and counts[group] < expected[group] and self.boot.elapsed() > seconds:
                    why = scaling_activities(self.target.client, self.run_id, group)
                    return Broken(f"{seen} after {seconds:g} s, the wait_for_capacity_timeout of {group}{why}")
            return Pending(seen)

        return self._phase(HOSTS_UP, probe)

    def await_agents(self, cluster: ClusterView) -> None:
        """Wait until all servers agree on a Consul and a Nomad leader, and every client is ready.

        The agents' services in Consul may still be critical: their checks first run up to 10 s later.

        Raise BrokenError or WaitTimeout if the cluster does not become ready.
        """
        for phase, agent in zip((CONSUL_LEADER, NOMAD_LEADER), AGENTS, strict=True):
            self._await(phase, cluster, *_one_leader(agent))
        peers = (
            RaftPeers(len(cluster.consul_servers), ("consul",)),
            RaftPeers(len(cluster.nomad_servers), ("nomad",)),
        )
        self._await(CLIENTS_READY, cluster, NodesReady(len(cluster.nomad_clients)), Leader(), *peers)
        self.boot.all_ready()

    def _await(self, phase: str, cluster: ClusterView, *checks: Check[Any]) -> None:
        self._phase(phase, lambda: all_of([check.verdict(cluster) for check in checks]), lambda: explained(cluster))

    def _phase(
        self, name: str, probe: Callable[[], Ok[T] | Pending | Broken], explain: Callable[[], str] = lambda: ""
    ) -> T:
        def guarded() -> Ok[T] | Pending | Broken:
            if reason := self.watch.broken:
                return Broken(reason)
            answer = looked(lambda: (self._look() if name != HOSTS_UP else None) or probe())
            if isinstance(answer, Pending):
                self.boot.waits(name, answer.seen)
            return answer

        self.boot.waits(name)
        try:
            value = wait_until(name, guarded, deadline=self.deadline, where=f"run {self.run_id}")
        except (WaitTimeout, BrokenError) as error:
            # A Broken result already says where and why.
            stuck = "" if self.watch.broken else stuck_hosts(self._stuck(), self.target)
            explained_error = type(error)(f"{error}{explain()}{stuck}")
            explained_error.cause = error.cause
            raise explained_error from None
        self.timings[name] = self.boot.ended(name)
        return value

    def _stuck(self) -> list[tuple[str, Host]]:
        """List the hosts that are not ready, with their names; all hosts if every one is ready."""
        rows = self.boot.view().rows
        names = group_names([(row.host.instance_id, row.host.group) for row in rows])
        ready = {row.host.instance_id for row in rows if row.ready}
        waiting = [host for host in self._hosts if host.instance_id not in ready] or self._hosts
        return [(names.get(host.instance_id, host.instance.group), host) for host in waiting]

    def _instances(self) -> list[Instance]:
        found = instances(self.target.client, self.run_id, terminated=True)
        self.boot.see(found)
        return found

    def _look(self) -> Broken | None:
        """Poll the instances, but not on every attempt."""
        now = self.deadline.clock()
        if now - self._looked < _INSTANCES_INTERVAL:
            return None
        self._looked = now
        return self._ended(self._instances())

    def _ended(self, found: Sequence[Instance]) -> Broken | None:
        ended = [instance for instance in found if instance.state not in _ALIVE]
        if not ended:
            return None
        return Broken("; ".join(_describe_end(self.target, instance) for instance in ended))


def _describe_end(target: Target, instance: Instance) -> str:
    try:
        facts = target.client("ec2").describe_instances(InstanceIds=[instance.instance_id])
        described = facts["Reservations"][0]["Instances"][0]
    except (*AWS_ERRORS, IndexError):  # AWS forgets terminated instances
        described = {}
    reason = (
        described.get("StateReason", {}).get("Message")
        or described.get("StateTransitionReason")
        or "AWS gave no reason"
    )
    return f"instance {instance.instance_id} of {instance.group} is {instance.state}: {reason}"


def _one_leader(agent: AgentName) -> tuple[Check[Any], ...]:
    """Return the checks for one leader, which also fail at once if the servers can never agree on one."""
    return Leader((agent,)), NotSplit((agent,)), BootstrapExpectAgrees((agent,))
