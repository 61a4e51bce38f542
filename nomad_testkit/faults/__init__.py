"""Faults of a cluster, named as the field names them, each for the time of a `with` block.

>>> with nomad_faults.kill("consul", leader), nomad_faults.partition([a], [b, c]):  # doctest: +SKIP
...     nomad_cluster.require(...)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nomad_testkit.cluster.agents import AgentName
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError, UsageError
from nomad_testkit.faults import agents, changes, clock, disk, instances, network, traffic
from nomad_testkit.faults.fault import Fault, not_undone, own

if TYPE_CHECKING:
    from nomad_testkit.faults.leader_watch import watching_leaders
    from nomad_testkit.faults.linearizability import FaultStep, check_kv
    from nomad_testkit.faults.linearizability.checker import get_checker
    from nomad_testkit.faults.workload import Workload, writing

__all__ = [
    "Fault",
    "FaultStep",
    "Faults",
    "Workload",
    "changes",
    "check_kv",
    "get_checker",
    "watching_leaders",
    "writing",
]

_HOMES = {
    "FaultStep": "nomad_testkit.faults.linearizability",
    "Workload": "nomad_testkit.faults.workload",
    "check_kv": "nomad_testkit.faults.linearizability",
    "get_checker": "nomad_testkit.faults.linearizability.checker",
    "watching_leaders": "nomad_testkit.faults.leader_watch",
    "writing": "nomad_testkit.faults.workload",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


class Faults:
    """What can be done to the hosts of one cluster; the fixture `nomad_faults` is one of these.

    Everything here makes a `Fault`, to be used by `with`. Nothing is done before that; what cannot be meant, such as a
    host of another cluster, raises UsageError at once. What cannot be done or undone raises FaultError.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made: list[Fault] = []

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self.undo()
        except FaultError as second:
            if error is None:
                raise
            error.add_note(f"then {second}")

    # -- agents

    def stop(self, agent: AgentName, *hosts: Host) -> Fault:
        """Stop an agent as an operator does (`systemctl stop`); undone once its unit has been started."""
        return self._keep(agents.stop(self._cluster, agent, hosts))

    def kill(self, agent: AgentName, *hosts: Host, respawn: bool = False) -> Fault:
        """Kill an agent with SIGKILL, and let it lie until the end of the block; or, with `respawn`, let systemd go on.

        The unit of a client has KillMode=process, so its tasks outlive it.
        """
        return self._keep(agents.kill(self._cluster, agent, hosts, respawn=respawn))

    def freeze(self, agent: AgentName, *hosts: Host) -> Fault:
        """Freeze an agent with SIGSTOP: its ports stay open, and nothing answers."""
        return self._keep(agents.freeze(self._cluster, agent, hosts))

    # -- instances

    def reboot_instance(self, *hosts: Host) -> Fault:
        """Reboot instances, all at once (RebootInstances); undone once SSH answers again."""
        return self._keep(instances.reboot(self._cluster, hosts))

    def stop_instance(self, *hosts: Host, replaced: bool = False) -> Fault:
        """Stop instances (StopInstances), and start them again; their auto scaling groups look away meanwhile.

        With `replaced` the groups look after them: undone once they have replaced them.
        """
        return self._keep(instances.stop(self._cluster, hosts, replaced=replaced))

    def terminate_instance(self, *hosts: Host, power_cut: bool = False) -> Fault:
        """Terminate instances (TerminateInstances), with `power_cut` without their own shutdown (SkipOsShutdown).

        Undone is it when their auto scaling groups have replaced them; the cluster then has the new hosts.
        """
        return self._keep(instances.terminate(self._cluster, hosts, power_cut=power_cut))

    # -- the network

    def partition(self, side: Iterable[Host], other: Iterable[Host], *, one_way: bool = False) -> Fault:
        """Cut some hosts off from others; with `one_way` only what goes from `side` to `other` is lost."""
        return self._keep(network.partition(self._cluster, list(side), list(other), one_way=one_way))

    def isolate(self, *hosts: Host) -> Fault:
        """Cut hosts off from all others of the cluster; among each other they still speak."""
        chosen = own(self._cluster, hosts)
        rest = [host for host in self._cluster.hosts if host not in chosen]
        if not rest:
            raise UsageError(f"expected hosts to leave others in {self._cluster.run_id}, found all of its hosts")
        return self._keep(network.partition(self._cluster, chosen, rest, one_way=False))

    def block_port(self, port: int, *hosts: Host) -> Fault:
        """Drop what anyone sends to a port of hosts, over TCP and UDP, from this machine too; not the host itself."""
        return self._keep(network.block_port(self._cluster, port, hosts))

    def lose(self, share: float, *hosts: Host) -> Fault:
        """Lose a share of the packets, from 0 to 1, that hosts get from others of the cluster."""
        return self._keep(network.lose(self._cluster, share, hosts))

    def throttle(self, kilobytes: int, *hosts: Host) -> Fault:
        """Limit what hosts get from others of the cluster to some kilobytes a second, by dropping what is more."""
        return self._keep(network.throttle(self._cluster, kilobytes, hosts))

    def delay(self, seconds: float, *hosts: Host) -> Fault:
        """Delay what hosts send to others of the cluster, at least by a millisecond and at most by a minute.

        netem does it where the kernel has it (tc-netem(8)), else a program on the host.
        """
        return self._keep(traffic.delay(self._cluster, seconds, hosts))

    # -- disk and clock

    def fill_disk(self, host: Host, folder: str = "/", *, most: int = disk.MOST) -> Fault:
        """Fill the disk of a folder on a host, such as an agent's data; at most `most` bytes are taken for it.

        Where more are free, the folder gets a small file system first, and agents that use it are restarted.
        """
        return self._keep(disk.fill_disk(self._cluster, host, folder, most=most))

    def shift_clock(self, seconds: float, *hosts: Host) -> Fault:
        """Set the clocks of hosts forward, or back by negative seconds; not where hosts share a kernel."""
        return self._keep(clock.shift_clock(self._cluster, seconds, hosts))

    def undo(self) -> None:
        """Undo what is left of every fault, the last one first. Raises FaultError that lists what is left even so."""
        left = [one for fault in reversed(self._made) for one in fault.repairs.run()]
        if left:
            raise FaultError(not_undone(left))

    def _keep(self, fault: Fault) -> Fault:
        fault.run_id = self._cluster.run_id
        self._made.append(fault)
        return fault
