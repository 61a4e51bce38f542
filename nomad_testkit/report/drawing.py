"""What the page draws, as positions: the timeline of a deployment, the topology by zone, and faults that heal.

Along a line everything is in percent of its width, so that the page can be as wide as it likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nomad_testkit.cluster.timeline import PHASES
from nomad_testkit.report.model import ClusterRecord, FaultRecord

_TICKS = 7
"""At most, along a line."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a line."""

    name: str
    style: str
    """The class of its colour."""
    start: float
    end: float
    """Both in seconds."""
    left: float
    width: float
    """Both in percent."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


@dataclass(frozen=True)
class Tick:
    """A mark of an axis."""

    left: float
    seconds: float


@dataclass(frozen=True)
class HostLine:
    """One host's line in the timeline."""

    host: HostLabel
    zone: str
    private_ip: str
    phase: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class HostLabel:
    """How a host is called: by its group and its place in it; the id is on the page too."""

    instance_id: str
    name: str


@dataclass(frozen=True)
class Timeline:
    """A deployment, from its start until everything was ready."""

    total: float
    phases: tuple[Segment, ...]
    hosts: tuple[HostLine, ...]
    ticks: tuple[Tick, ...]


def ticks(total: float) -> tuple[Tick, ...]:
    """Choose round seconds for an axis.

    >>> [tick.seconds for tick in ticks(15.2)]
    [0, 5, 10, 15]
    """
    if total <= 0:
        return ()
    rough = total / _TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)
    count = int(total / step + 1e-9)
    return tuple(Tick(_percent(step * number, total), round(step * number, 6)) for number in range(count + 1))


def labels(cluster: ClusterRecord) -> dict[str, HostLabel]:
    """Name every host that was ever seen of a cluster as the command line does: ``servers-0``, ``servers-1``..."""
    found: dict[str, HostLabel] = {}
    counts: dict[str, int] = {}
    for hosts in (cluster.timeline, *(state.get("hosts", ()) for state in cluster.states)):
        for host in sorted(hosts, key=lambda one: (one["group"], one["instance_id"])):
            if host["instance_id"] not in found:
                number = counts.get(host["group"], 0)
                counts[host["group"]] = number + 1
                found[host["instance_id"]] = HostLabel(host["instance_id"], f"{host['group']}-{number}")
    return found


def _servers_first(host: Mapping[str, Any]) -> tuple[bool, str, str]:
    return "server" not in host["group"], host["group"], host["instance_id"]


def titles(clusters: Sequence[ClusterRecord]) -> dict[str, str]:
    """Name clusters, by run id: by their examples, and where several have the same one by the run too."""
    examples = [one.example for one in clusters]
    return {
        one.run_id: one.example
        if one.example and examples.count(one.example) == 1
        else " ".join(filter(None, [one.example or "cluster", one.run_id.rpartition("-")[2]]))
        for one in clusters
    }


def timeline(cluster: ClusterRecord) -> Timeline | None:
    """Draw how a cluster was deployed; None where nothing is known of it."""
    entered = [float(at) for host in cluster.timeline for at in host["entered"].values()]
    total = max([*entered, cluster.ready_seconds or cluster.failed_seconds or 0.0], default=0.0)
    if total <= 0 or not (cluster.timings or cluster.timeline):
        return None
    named = labels(cluster)
    lines = tuple(
        HostLine(
            host=named[host["instance_id"]],
            zone=host["zone"],
            private_ip=host["private_ip"],
            phase=max(host["entered"], key=PHASES.index, default=PHASES[0]),
            segments=_host_segments(host["entered"], total),
        )
        for host in sorted(cluster.timeline, key=_servers_first)
    )
    return Timeline(total, _phases(cluster.timings, total), lines, ticks(total))


def _host_segments(entered: Mapping[str, float], total: float) -> tuple[Segment, ...]:
    found = sorted(entered.items(), key=lambda one: PHASES.index(one[0]))
    ends = [at for _, at in found[1:]] + [total]
    return tuple(
        _segment(phase, f"phase-{PHASES.index(phase)}", at, max(at, end), total)
        for (phase, at), end in zip(found, ends, strict=True)
    )


def _phases(timings: Mapping[str, float], total: float) -> tuple[Segment, ...]:
    begins, found = 0.0, []
    for number, (name, end) in enumerate(sorted(timings.items(), key=lambda one: one[1])):
        found.append(_segment(name, f"step-{number % 4}", begins, max(begins, end), total))
        begins = max(begins, end)
    return tuple(found)


def _segment(name: str, style: str, start: float, end: float, total: float) -> Segment:
    return Segment(name, style, start, end, _percent(start, total), _percent(end - start, total))


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100 * part / whole)), 3)


# -- topology

WIDTH = 300
"""Of one zone's drawing; as wide as a phone shows it, so that its text is never small."""
_PADDING, _GAP, _TOP = 12, 10, 4
_SQUARE, _STEP, _PER_ROW, _MOST = 12, 16, 17, 51


@dataclass(frozen=True)
class Square:
    """One allocation."""

    x: int
    y: int
    status: str
    title: str


@dataclass(frozen=True)
class Badge:
    """A word in a frame, and what it means: ``leader`` or ``trouble``."""

    x: int
    width: int
    kind: str
    text: str


@dataclass(frozen=True)
class HostBox:
    """One host in its zone."""

    label: HostLabel
    y: int
    height: int
    role: str
    """``server`` or ``client``."""
    roles: str
    private_ip: str
    badges: tuple[Badge, ...]
    squares: tuple[Square, ...]
    more: int
    """Allocations beyond those that are drawn."""


@dataclass(frozen=True)
class Zone:
    """One availability zone."""

    name: str
    height: int
    hosts: tuple[HostBox, ...]

    @property
    def description(self) -> str:
        """The drawing in words."""
        return " ".join(
            f"{host.label.name} ({host.label.instance_id}, {host.roles})"
            + "".join(f", {badge.text}" for badge in host.badges)
            + f": {len(host.squares) + host.more} allocations."
            for host in self.hosts
        )


@dataclass(frozen=True)
class Topology:
    """A cluster at one moment."""

    at: float
    zones: tuple[Zone, ...]
    statuses: tuple[str, ...]
    """Of the allocations that are drawn."""
    problems: tuple[str, ...] = field(default=())


def topology(cluster: ClusterRecord) -> Topology | None:
    """Draw where a cluster's hosts are, who leads, and what runs or ran where; None where it was never seen."""
    if not cluster.states:
        return None
    state, named = cluster.states[-1], labels(cluster)
    allocations: dict[str, list[Mapping[str, Any]]] = {}
    for allocation in state["allocations"]:
        allocations.setdefault(allocation["node"], []).append(allocation)
    zones = []
    for name in sorted({host["zone"] for host in state["hosts"]}):
        y, boxes = _TOP, []
        hosts = [host for host in state["hosts"] if host["zone"] == name]
        for host in sorted(hosts, key=_servers_first):
            box = _box(host, named[host["instance_id"]], y, allocations.get(host["instance_id"], ()))
            boxes.append(box)
            y += box.height + _GAP
        zones.append(Zone(name, y - _GAP + _TOP, tuple(boxes)))
    statuses = {square.status for zone in zones for host in zone.hosts for square in host.squares}
    return Topology(state["at"], tuple(zones), tuple(sorted(statuses)), tuple(state.get("problems", ())))


def _is_server(host: Mapping[str, Any]) -> bool:
    return any(role.endswith("server") for role in host["roles"])


def _box(host: Mapping[str, Any], label: HostLabel, y: int, allocations: Sequence[Mapping[str, Any]]) -> HostBox:
    height, x, badges = 48, _PADDING, []
    words = [("leader", f"{agent} leader") for agent in host["leads"]]
    words += [("trouble", f"Consul: {host['consul']}")] if host["consul"] not in ("alive", "") else []
    words += [("trouble", f"Nomad: {host['nomad']}")] if host["nomad"] not in ("ready", "alive", "") else []
    for kind, text in words:
        width = 34 + 7 * len(text)
        badges.append(Badge(x, width, kind, text))
        x += width + 6
    height += 26 if badges else 0
    squares = tuple(
        Square(
            x=_PADDING + _STEP * (number % _PER_ROW),
            y=height + _STEP * (number // _PER_ROW),
            status=one["status"],
            title=f"{one['name']} {one['id'][:8]}: {one['status']}",
        )
        for number, one in enumerate(allocations[:_MOST])
    )
    if squares:
        height += _STEP * math.ceil(len(squares) / _PER_ROW) + 6
    return HostBox(
        label=label,
        y=y,
        height=height,
        role="server" if _is_server(host) else "client",
        roles=_roles(host["roles"]),
        private_ip=host["private_ip"],
        badges=tuple(badges),
        squares=squares,
        more=max(0, len(allocations) - _MOST),
    )


def _roles(roles: Sequence[str]) -> str:
    """Say what a host is.

    >>> _roles(("Consul server", "Nomad server"))
    'Consul and Nomad server'
    """
    if {"Consul server", "Nomad server"} <= set(roles):
        return ", ".join(["Consul and Nomad server", *(role for role in roles if not role.endswith("server"))])
    return ", ".join(roles)


# -- faults


@dataclass(frozen=True)
class FaultLine:
    """One fault and what came after it, from its beginning until the last thing held again."""

    total: float
    there: Segment
    undoing: Segment
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Mark:
    """The moment at which something held again."""

    left: float
    seconds: float
    """Since the fault began."""
    number: int


def fault_line(fault: FaultRecord) -> FaultLine:
    """Draw a fault."""
    undone = fault.seconds + fault.undo_seconds
    moments = [one.seconds + (0.0 if one.since == "begun" else undone) for one in fault.healed]
    total = max([undone, *moments, 0.001])
    return FaultLine(
        total=total,
        there=_segment("fault", "fault-there", 0.0, fault.seconds, total),
        undoing=_segment("being undone", "fault-undoing", fault.seconds, undone, total),
        marks=tuple(Mark(_percent(at, total), at, number) for number, at in enumerate(moments, 1)),
        ticks=ticks(total),
    )
