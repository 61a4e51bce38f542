"""The agents' systemd units on the hosts: a unit that systemd gave up on ends a wait at once."""

from __future__ import annotations

from dataclasses import dataclass

from nomad_testkit.checks.base import Answer, Check, ClusterView, Verdict, ask_every
from nomad_testkit.host import Host, UnitState
from nomad_testkit.wait import Broken, Ok, Pending

AGENT_UNITS = ("consul", "nomad")
JOURNAL_LINES = 15


@dataclass(frozen=True, slots=True)
class UnitsView:
    """The units' states on one host, and the end of the journal of those that failed."""

    states: tuple[UnitState, ...]
    journals: tuple[tuple[str, str], ...]


def _observe(host: Host, units: tuple[str, ...]) -> UnitsView:
    states = host.unit_states(*units)
    failed = [state.unit for state in states if state.failed]
    return UnitsView(states, tuple((unit, host.journal(unit, JOURNAL_LINES)) for unit in failed))


@dataclass(frozen=True)
class UnitsActive(Check[tuple[Answer[UnitsView], ...]]):
    """The units run on every host that is to run them; one that systemd gave up on is Broken, with its last words.

    ``nomad`` is to run on the Nomad servers and clients, every other unit on all hosts. Asked with `systemctl show`
    over SSH, so it also tells of agents that never came to answer their API.

    >>> UnitsActive(("consul",)).wanted
    'units consul active on every host that is to run them'
    """

    units: tuple[str, ...] = AGENT_UNITS

    @property
    def wanted(self) -> str:
        """What this check demands."""
        return f"units {', '.join(self.units)} active on every host that is to run them"

    def observe(self, cluster: ClusterView) -> tuple[Answer[UnitsView], ...]:
        """Ask systemd on every host, and its journal where a unit failed."""
        with_nomad = {host.instance_id for host in (*cluster.nomad_servers, *cluster.nomad_clients)}
        without = tuple(unit for unit in self.units if unit != "nomad")
        units = {host: self.units if host.instance_id in with_nomad else without for host in cluster.hosts}
        return ask_every([host for host in units if units[host]], lambda host: _observe(host, units[host]))

    def judge(self, observed: tuple[Answer[UnitsView], ...]) -> Verdict:
        """Look at each unit on each host."""
        failed, waiting = [], []
        for answer in observed:
            journals = dict(answer.value.journals)
            for state in answer.value.states:
                if state.failed:
                    journal = journals.get(state.unit, "")
                    failed.append(f"{answer.place}: {state}; its journal ends:\n{journal}")
                elif state.active != "active":
                    waiting.append(f"{answer.place}: {state}")
        if failed:
            return Broken("\n".join(failed))
        if waiting:
            return Pending("; ".join(waiting))
        return Ok(f"units {', '.join(self.units)} are active on {len(observed)} hosts")
