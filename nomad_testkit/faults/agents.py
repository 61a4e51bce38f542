"""Faults of an agent, by systemd on its host: stopped, killed, frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from nomad_testkit.cluster.agents import AgentName
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError, UsageError
from nomad_testkit.faults.arguments import flag, one_of
from nomad_testkit.faults.fault import Fault, listed, own
from nomad_testkit.faults.repairs import Repairs, Turn, in_words, undoes
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

WITHIN = 60.0
"""Seconds for a unit to come to the state that it is to be in."""
# In /run, so that a reboot takes it away.
_DROP_IN = "/run/systemd/system/{agent}.service.d/nomad-testkit-fault.conf"
_BACK = ("active", "activating")


def agent_fault(
    cluster: Cluster,
    agent: AgentName,
    hosts: Sequence[Host],
    what: str,
    make: Callable[[Host, Repairs], None],
) -> Fault:
    """Make the fault that does the same to an agent on each of some hosts, all at once. Raises UsageError."""
    one_of("agent", agent, ("consul", "nomad"))
    chosen = own(cluster, hosts)
    running = {
        host.instance_id
        for host in (cluster.hosts if agent == "consul" else [*cluster.nomad_servers, *cluster.nomad_clients])
    }
    if without := [host for host in chosen if host.instance_id not in running]:
        raise UsageError(f"there is no {agent} on {listed(without)}, in the group {without[0].instance.group}")

    def run(repairs: Repairs) -> None:
        for host in chosen:
            if (state := host.unit_state(agent)).active != "active":
                raise FaultError(f"{host}: {state}; only an active unit can be stopped, killed or frozen")
        at_once(chosen, lambda host: make(host, repairs))

    return Fault(f"{what} {agent} on {listed(chosen)}", run)


def at_once(hosts: Sequence[Host], do: Callable[[Host], None]) -> None:
    """Do something to several hosts at the same time, and to all of them even where one fails."""
    with ThreadPoolExecutor(len(hosts), thread_name_prefix="nomad-testkit-fault") as pool:
        done = [pool.submit(do, host) for host in hosts]
    failed = [error for one in done if (error := one.exception()) is not None]
    for other in failed[1:]:
        failed[0].add_note(f"and {in_words(other) if isinstance(other, Exception) else type(other).__name__}")
    if failed:
        raise failed[0]


def stop(cluster: Cluster, agent: AgentName, hosts: Sequence[Host]) -> Fault:
    """Make the fault that stops an agent as an operator does (`systemctl stop`)."""

    def make(host: Host, repairs: Repairs) -> None:
        repairs.plan(f"start {agent} on {host}", _start, cluster, [host], agent=agent)
        host.run(f"systemctl stop {agent}", sudo=True, timeout=WITHIN * 2)

    return agent_fault(cluster, agent, hosts, "stop", make)


def kill(cluster: Cluster, agent: AgentName, hosts: Sequence[Host], *, respawn: bool) -> Fault:
    """Make the fault that kills an agent with SIGKILL; without `respawn` systemd does not start it again meanwhile."""
    flag("respawn", respawn)
    drop_in = _DROP_IN.format(agent=agent)

    def make(host: Host, repairs: Repairs) -> None:
        repairs.plan(f"start {agent} on {host}", _start, cluster, [host], agent=agent, drop_in=drop_in)
        command = f"systemctl kill --kill-who=main --signal=KILL {agent}"
        if not respawn:
            folder = drop_in.rpartition("/")[0]
            keep = f"mkdir -p {folder} && printf '[Service]\\nRestart=no\\n' > {drop_in} && systemctl daemon-reload"
            command = f"{keep} && {command}"
        host.run(command, sudo=True)
        if not respawn:
            await_unit(host, agent, ("failed", "inactive"))

    return agent_fault(cluster, agent, hosts, "kill", make)


def freeze(cluster: Cluster, agent: AgentName, hosts: Sequence[Host]) -> Fault:
    """Make the fault that freezes an agent with SIGSTOP: its connections stay open, and nothing answers."""

    def make(host: Host, repairs: Repairs) -> None:
        repairs.plan(f"thaw {agent} on {host}", _thaw, cluster, [host], agent=agent)
        host.run(f"systemctl kill --kill-who=main --signal=STOP {agent}", sudo=True)
        _await_process(host, agent, frozen=True)

    return agent_fault(cluster, agent, hosts, "freeze", make)


@undoes("start agent", Turn.HOST)
def _start(cluster: Cluster, hosts: Sequence[Host], *, agent: AgentName, drop_in: str = "") -> None:
    """Start a unit; not until the agent is ready, for which it may need one that is not there yet."""
    (host,) = hosts
    clean = f"rm -f {drop_in} && systemctl daemon-reload; " if drop_in else ""
    host.run(f"{clean}systemctl reset-failed {agent}; systemctl start --no-block {agent}", sudo=True)
    await_unit(host, agent, _BACK)


@undoes("thaw agent", Turn.HOST)
def _thaw(cluster: Cluster, hosts: Sequence[Host], *, agent: AgentName) -> None:
    (host,) = hosts
    host.run(f"systemctl kill --kill-who=main --signal=CONT {agent}", sudo=True)
    _await_process(host, agent, frozen=False)


def await_unit(host: Host, agent: str, wanted: tuple[str, ...]) -> None:
    """Wait until a unit is in one of some states. Raises WaitTimeout."""

    def probe() -> Ok[None] | Pending:
        state = host.unit_state(agent)
        if state.active in wanted:
            return Ok(None)
        # A start that waits for another unit, such as Nomad's for a Consul that is cut off, has a job and no state yet.
        job = "activating" in wanted and host.run(f"systemctl show -p Job --value {agent}").stdout.strip()
        return Ok(None) if job and job != "0" else Pending(str(state))

    wait_until(f"unit {agent} to be {' or '.join(wanted)}", probe, deadline=Deadline.after(WITHIN), where=str(host))


def _await_process(host: Host, agent: AgentName, *, frozen: bool) -> None:
    # proc(5): the third field of stat, after the name in parentheses, is T for a process that a signal has stopped.
    look = f"sed 's/.*) //' /proc/$(systemctl show -p MainPID --value {agent})/stat | cut -c1"

    def probe() -> Ok[None] | Pending:
        state = host.run(look, sudo=True, check=False).stdout.strip()
        return Ok(None) if (state == "T") is frozen and state else Pending(f"its state is {state or 'unknown'}")

    what = f"{agent} to {'stand still' if frozen else 'run again'}"
    wait_until(what, probe, deadline=Deadline.after(WITHIN), where=str(host))
