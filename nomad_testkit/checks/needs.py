"""What a job's groups ask of a node, what the ready clients have, and which of it none of them meets."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import AgentApiError

if TYPE_CHECKING:
    from nomad_testkit.cluster.clients.nomad import NomadClient

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    """A node that is ready, as GET /v1/nodes lists it."""

    datacenter: str
    pool: str = "default"
    eligible: bool = True
    drivers: tuple[tuple[str, str], ...] = ()
    """Its drivers, and for each what its health check says where it is not healthy; empty for those that are."""

    @classmethod
    def parse(cls, node: Mapping[str, Any]) -> Client:
        """Read one entry of GET /v1/nodes."""
        return cls(
            str(node["Datacenter"]),
            str(node.get("NodePool") or "default"),
            node.get("SchedulingEligibility", "eligible") == "eligible",
            tuple(
                (name, "" if facts.get("Healthy") else str(facts.get("HealthDescription") or "not detected"))
                for name, facts in sorted((node.get("Drivers") or {}).items())
            ),
        )

    def has(self, driver: str) -> bool:
        """Whether it has a driver, and that is healthy."""
        return dict(self.drivers).get(driver) == ""


def ready_clients(nodes: Sequence[Mapping[str, Any]]) -> tuple[Client, ...]:
    """List the nodes that are ready, from the answer of GET /v1/nodes."""
    return tuple(Client.parse(node) for node in nodes if node["Status"] == "ready")


@dataclass(frozen=True, slots=True)
class Needs:
    """What one group of a job asks of a node."""

    group: str
    datacenters: tuple[str, ...] = ("*",)
    """Names or globs."""
    pool: str = "default"
    drivers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    """The network modes other than the host's own."""
    volumes: tuple[str, ...] = ()
    """The host volumes."""
    constraints: tuple[str, ...] = ()
    """Those of the job, the group and its tasks."""
    unmet: tuple[str, ...] = ()
    """The constraints that no ready client meets, where Nomad was asked for each of them."""

    @classmethod
    def parse(cls, job: Mapping[str, Any], group: Mapping[str, Any], unmet: Sequence[str] = ()) -> Needs:
        """Read one group of GET /v1/job/:id."""
        volumes = (group.get("Volumes") or {}).values()
        return cls(
            str(group["Name"]),
            tuple(job.get("Datacenters") or ("*",)),
            str(job.get("NodePool") or "default"),
            tuple(sorted({str(task["Driver"]) for task in group.get("Tasks") or ()})),
            tuple(str(one["Mode"]) for one in group.get("Networks") or () if one.get("Mode") not in (None, "", "host")),
            tuple(sorted(str(one["Source"]) for one in volumes if one.get("Type") == "host")),
            tuple(dict.fromkeys(map(constraint_text, _constraints(job, group)))),
            tuple(unmet),
        )

    def missing_drivers(self, clients: Sequence[Client]) -> Iterator[str]:
        """Tell of each driver that no ready client has, and what the clients say of it."""
        for driver in self.drivers:
            if any(one.has(driver) for one in clients):
                continue
            said = sorted({dict(one.drivers).get(driver, "no such driver") for one in clients})
            yield f"no ready client has a healthy driver {driver!r} ({', '.join(said) or 'no client is ready'})"


def constraint_text(constraint: Mapping[str, Any]) -> str:
    """Write a constraint as Nomad does.

    >>> constraint_text({"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "windows"})
    '${attr.kernel.name} = windows'
    """
    return " ".join(str(constraint.get(key) or "") for key in ("LTarget", "Operand", "RTarget")).strip()


def _constraints(job: Mapping[str, Any], group: Mapping[str, Any]) -> list[Json]:
    owners = (job, group, *(group.get("Tasks") or ()))
    return [one for owner in owners for one in owner.get("Constraints") or ()]


def unmet(nomad: NomadClient, job: Json, group: Json, clients: Sequence[Client]) -> tuple[str, ...]:
    """Name the constraints of a job and its group that no ready client meets, and the drivers that none has.

    Nomad's scheduler is asked for each alone (POST /v1/job/:id/plan, which changes nothing), since of nodes of a class
    that it has looked at before it tells no more than that. Where it does not answer none is named.
    """
    tasks = group.get("Tasks") or ()
    drivers = [f"driver {name!r}" for name in sorted({str(one["Driver"]) for one in tasks}) if not _has(clients, name)]
    driver = next((name for client in clients for name, fault in client.drivers if not fault), None)
    if driver is None:
        return tuple(drivers)
    every = _constraints(job, group)
    try:
        found = {constraint_text(one): None for one in every if _filters(nomad, _probe(job, group, one, driver))}
    except AgentApiError:
        return tuple(drivers)
    return (*found, *drivers)


def _has(clients: Sequence[Client], driver: str) -> bool:
    return any(one.has(driver) for one in clients)


def _probe(job: Json, group: Json, constraint: Json, driver: str) -> Json:
    """Make a job that asks for nothing but one constraint, in the datacenters and the pool of another."""
    bare = {key: copy.deepcopy(job.get(key)) for key in ("Region", "Namespace", "Type", "Datacenters", "NodePool")}
    task = {"Name": "probe", "Driver": driver, "Config": {"command": "/bin/true"}, "Resources": {"CPU": 1}}
    name = f"{job['ID']}-probe"
    only = {"Name": group["Name"], "Count": 1, "Constraints": [constraint], "Tasks": [task]}
    return {**bare, "ID": name, "Name": name, "TaskGroups": [only]}


def _filters(nomad: NomadClient, probe: Json) -> bool:
    failed = nomad.plan(probe).get("FailedTGAllocs") or {}
    return any(one.get("ConstraintFiltered") for one in failed.values())
