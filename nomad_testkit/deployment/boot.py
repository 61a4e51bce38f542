"""The state of a cluster's boot: the source of the progress display and of the timeline."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nomad_testkit.cluster.timeline import BOOTING, CONSUL_JOINED, NOMAD_READY, PENDING, PHASES, USER_DATA, HostTimeline

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Roles
    from nomad_testkit.modules.network import Instance
    from nomad_testkit.wait import Deadline

HEARTBEAT_SECONDS = 15.0
"""Seconds without output after which a line says what is still awaited."""

_AWAITED = {PENDING: "the instance to run", BOOTING: "sshd", USER_DATA: "Consul to join", CONSUL_JOINED: "Nomad"}
_SEEN = 160
"""Longest excerpt of what was seen, in characters."""


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host's line in the progress display."""

    host: HostTimeline
    state: str
    """The instance's state if it is neither pending nor running, else empty."""
    phase_seconds: float
    """Seconds in the current phase; for a ready host, seconds until it was ready."""
    ready: bool
    awaited: str
    """What the host waits for; empty if it is ready or has ended."""


@dataclass(frozen=True, slots=True)
class BootView:
    """A snapshot of the whole boot; times in seconds."""

    title: str
    elapsed: float
    left: float
    awaited: str
    """What the whole cluster waits for, such as ``Consul leader``."""
    seen: str
    """What was seen last."""
    rows: tuple[HostRow, ...]
    missing: Mapping[str, int] = field(default_factory=dict)
    """The number of instances of each group that are not launched yet."""


class Boot:
    """Collects a deployment's progress; `say` gets a line for each phase that ends, from any thread.

    Unless a live area shows the boot (`is_shown`), `say` also gets a line after HEARTBEAT_SECONDS without one.
    `started` is on the deadline's clock, by default now.

    >>> boot = Boot("example as nt-1", Deadline.after(300), say=print)  # doctest: +SKIP
    >>> boot.ended("hosts up")  # doctest: +SKIP
      3.1 s  hosts up
    """

    def __init__(
        self, title: str, deadline: Deadline, *, say: Progress, roles: Roles | None = None, started: float | None = None
    ) -> None:
        self.title, self.deadline, self.is_shown = title, deadline, False
        self._say, self._started = say, deadline.clock() if started is None else started
        self._lock = threading.Lock()
        self._expected: dict[str, int] = {}
        self._instances: dict[str, Instance] = {}
        self._entered: dict[str, dict[str, float]] = {}
        self._awaited = self._seen = ""
        self._said = 0.0
        self._last: dict[str, str] = {}
        if roles is not None:
            self._last |= dict.fromkeys(roles.consul_servers, CONSUL_JOINED)
            self._last |= dict.fromkeys((*roles.nomad_servers, *roles.nomad_clients), NOMAD_READY)

    def elapsed(self) -> float:
        """Return the seconds since the start of the deployment."""
        return self.deadline.clock() - self._started

    def expect(self, hosts: Mapping[str, int]) -> None:
        """Set the number of hosts that each group will have."""
        with self._lock:
            self._expected = dict(hosts)

    def see(self, found: Sequence[Instance]) -> None:
        """Record the instances that DescribeInstances has just returned."""
        now = self.elapsed()
        with self._lock:
            for instance in found:
                self._instances[instance.instance_id] = instance
                self._enter(instance.instance_id, BOOTING if instance.state == "running" else PENDING, now)

    def enter(self, instance_id: str, phase: str) -> None:
        """Record that a host has reached a phase, and so all before it; an earlier phase changes nothing."""
        now = self.elapsed()
        with self._lock:
            if instance_id in self._instances:
                self._enter(instance_id, phase, now)

    def enter_by_address(self, private_ips: Sequence[str], phase: str) -> None:
        """Record that the hosts with these addresses have reached a phase."""
        with self._lock:
            known = {one.private_ip: instance_id for instance_id, one in self._instances.items() if one.private_ip}
        for address in private_ips:
            if address in known:
                self.enter(known[address], phase)

    def lacks(self, phase: str) -> bool:
        """Return whether a host has not reached a phase yet, or an instance is not launched yet."""
        with self._lock:
            due = [
                one for one in self._instances.values() if PHASES.index(self._last_phase(one)) >= PHASES.index(phase)
            ]
            missing = len(self._instances) < sum(self._expected.values())
            return missing or any(phase not in self._entered[one.instance_id] for one in due)

    def all_ready(self) -> None:
        """Record that every host has reached its last phase."""
        now = self.elapsed()
        with self._lock:
            for instance_id, instance in self._instances.items():
                self._enter(instance_id, self._last_phase(instance), now)

    def waits(self, what: str, seen: str = "") -> None:
        """Record what the whole cluster waits for, and what was seen last."""
        now = self.elapsed()
        with self._lock:
            self._awaited, self._seen = what, seen
            due = not self.is_shown and now - self._said >= HEARTBEAT_SECONDS
        if due:
            left = f"waiting for {what}, at most {self.deadline.remaining():.0f} s more"
            self._line(f"{left}: {seen[:_SEEN]}" if seen else left)

    def ended(self, what: str) -> float:
        """Record the end of a wait and return the seconds since the start."""
        with self._lock:
            self._awaited = self._seen = ""
        return self._line(what)

    def view(self) -> BootView:
        """Return a snapshot."""
        now = self.elapsed()
        with self._lock:
            counts: dict[str, int] = {}
            for instance in self._instances.values():
                counts[instance.group] = counts.get(instance.group, 0) + 1
            missing = {group: n - counts.get(group, 0) for group, n in self._expected.items()}
            return BootView(
                self.title,
                now,
                self.deadline.remaining(),
                self._awaited,
                self._seen,
                tuple(self._row(instance, now) for instance in self._in_order()),
                {group: n for group, n in missing.items() if n > 0},
            )

    def timeline(self) -> tuple[HostTimeline, ...]:
        """Return when each host reached each phase."""
        with self._lock:
            return tuple(self._host(instance) for instance in self._in_order())

    def _in_order(self) -> list[Instance]:
        order = list(self._expected)

        def key(one: Instance) -> tuple[int, str, str]:
            return (order.index(one.group) if one.group in order else len(order), one.group, one.instance_id)

        return sorted(self._instances.values(), key=key)

    def _host(self, instance: Instance) -> HostTimeline:
        entered = dict(self._entered[instance.instance_id])
        zone = instance.availability_zone
        return HostTimeline(instance.instance_id, instance.group, zone, instance.private_ip, entered)

    def _row(self, instance: Instance, now: float) -> HostRow:
        host = self._host(instance)
        state = "" if instance.state in ("pending", "running") else instance.state
        ready = not state and host.phase == self._last_phase(instance)
        since = host.entered[host.phase]
        seconds = since if ready else now - since
        return HostRow(host, state, seconds, ready, "" if ready or state else _AWAITED.get(host.phase, ""))

    def _last_phase(self, instance: Instance) -> str:
        return self._last.get(instance.group, USER_DATA)

    def _enter(self, instance_id: str, phase: str, now: float) -> None:
        entered = self._entered.setdefault(instance_id, {})
        for earlier in PHASES[: PHASES.index(phase) + 1]:
            entered.setdefault(earlier, now)

    def _line(self, text: str) -> float:
        now = self.elapsed()
        with self._lock:
            self._said = now
        self._say(f"{now:5.1f} s  {text}")
        return now
