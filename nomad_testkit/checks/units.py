"""The agents' systemd units on the hosts: a unit that systemd gave up on ends a wait at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from nomad_testkit.cluster.check import Answer, Check, ClusterView, Verdict, ask_every
from nomad_testkit.cluster.host import Host, UnitState
from nomad_testkit.wait import Broken, Ok, Pending

AGENT_UNITS = ("consul", "nomad")
JOURNAL_LINES = 15


STEADY_SECONDS = 8.0
"""For how long a unit has to be active before it counts: systemd starts one that keeps ending again and again."""

_restarts: WeakKeyDictionary[Host, dict[str, int]] = WeakKeyDictionary()
"""How often each unit of a host had been started again when it was looked at last."""


@dataclass(frozen=True, slots=True)
class UnitsView:
    """The units' states on one host, and the end of the journal of those that failed."""

    states: tuple[UnitState, ...]
    journals: tuple[tuple[str, str], ...]
    restarts_before: Mapping[str, int] = field(default_factory=dict)
    """How often each had been started again at the last look, where there was one."""


def _observe(host: Host, units: tuple[str, ...]) -> UnitsView:
    states = host.unit_states(*units)
    before = dict(_restarts.get(host, {}))
    _restarts[host] = before | {state.unit: state.restarts for state in states}
    failed = [state.unit for state in states if state.failed]
    return UnitsView(states, tuple((unit, host.journal(unit, JOURNAL_LINES)) for unit in failed), before)


def _unsteady(state: UnitState, before: int | None) -> str | None:
    """Say why a unit that is active may be about to end again, or None."""
    if before is not None and state.restarts > before:
        return f"{state}, {state.restarts - before} of them since the last look"
    if state.active_seconds is not None and state.active_seconds < STEADY_SECONDS:
        return f"{state}, and only for {state.active_seconds:.1f} s"
    return None


@dataclass(frozen=True)
class UnitsActive(Check[tuple[Answer[UnitsView], ...]]):
    """The units run on every host that is to run them; one that systemd gave up on is Broken, with its last words.

    ``nomad`` is to run on the Nomad servers and clients, every other unit on all hosts. Asked with `systemctl show`
    over SSH, so it also tells of agents that never came to answer their API. One that has been active for less than
    STEADY_SECONDS, or that was started again since the last look, does not count: it may be flapping.

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
            journals, before = dict(answer.value.journals), answer.value.restarts_before
            for state in answer.value.states:
                if state.failed:
                    journal = journals.get(state.unit, "")
                    failed.append(f"{answer.place}: {state}; its journal ends:\n{journal}")
                elif state.active != "active":
                    waiting.append(f"{answer.place}: {state}")
                elif unsteady := _unsteady(state, before.get(state.unit)):
                    waiting.append(f"{answer.place}: {unsteady}")
        if failed:
            return Broken("\n".join(failed))
        if waiting:
            return Pending("; ".join(waiting))
        return Ok(f"units {', '.join(self.units)} are active on {len(observed)} hosts")
