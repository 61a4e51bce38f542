"""Which version of an agent runs on hosts."""

from __future__ import annotations

from dataclasses import dataclass

from nomad_testkit.checks.raft import servers_of
from nomad_testkit.cluster.agents import AgentName
from nomad_testkit.cluster.check import Answer, Check, ClusterView, Verdict, ask_every
from nomad_testkit.cluster.host import Host
from nomad_testkit.wait import Ok, Pending


@dataclass(frozen=True)
class RunsVersion(Check[tuple[Answer[str], ...]]):
    """An agent runs in one version, as it says itself, on some hosts, or on every one that has it.

    >>> RunsVersion("consul", "1.14.0").wanted
    'consul 1.14.0 on every host'
    """

    agent: AgentName
    version: str
    hosts: tuple[Host, ...] = ()
    """Every one that has the agent, where none is named."""

    @property
    def wanted(self) -> str:
        """What this check demands."""
        where = ", ".join(host.instance_id for host in self.hosts) or "every host"
        return f"{self.agent} {self.version} on {where}"

    def observe(self, cluster: ClusterView) -> tuple[Answer[str], ...]:
        """Ask each agent (GET /v1/agent/self)."""
        if self.agent == "consul":
            return ask_every(self.hosts or cluster.hosts, lambda host: host.consul.version())
        every = dict.fromkeys([*servers_of(cluster, "nomad"), *cluster.nomad_clients])
        return ask_every(self.hosts or tuple(every), lambda host: host.nomad.version())

    def judge(self, observed: tuple[Answer[str], ...]) -> Verdict:
        """Compare what they say; an upgrade may be under way."""
        others = [f"{answer.value} on {answer.place}" for answer in observed if answer.value != self.version]
        if others or not observed:
            return Pending(f"{self.agent}: {', '.join(others) or 'no host'}")
        return Ok(f"{self.agent} {self.version} on {len(observed)} hosts")
