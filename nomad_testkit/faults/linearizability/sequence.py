"""A sequence of faults that a seed decides: which ones, on which servers, for how long; and how it is carried out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nomad_testkit.checks.healing import leader_of
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, UsageError
from nomad_testkit.faults import Fault, Faults
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

LEADER_WITHIN = 60.0
"""Seconds until the servers agree on a leader again when a fault is over."""
PAUSES, LASTS = (0.5, 3.0), (1.5, 6.0)
"""Between which seconds a pause is, and a fault lasts: from less than an election takes to more."""
LOST = 0.3
"""The share of packets that are lost."""
SLOW = 20
"""Kilobytes a second that get through."""

Make = Callable[[Faults, Host, Sequence[Host]], Fault]
"""Makes a fault of one server, given all others."""

KINDS: Mapping[str, Make] = {
    "partition": lambda faults, host, others: faults.partition([host], others),
    "partition of what it sends": lambda faults, host, others: faults.partition([host], others, one_way=True),
    "partition of what it gets": lambda faults, host, others: faults.partition(others, [host], one_way=True),
    "partition from one": lambda faults, host, others: faults.partition([host], others[:1]),
    "kill": lambda faults, host, others: faults.kill("consul", host),
    "kill all": lambda faults, host, others: faults.kill("consul", host, *others),
    "stop": lambda faults, host, others: faults.stop("consul", host),
    "freeze": lambda faults, host, others: faults.freeze("consul", host),
    "lose": lambda faults, host, others: faults.lose(LOST, host),
    "throttle": lambda faults, host, others: faults.throttle(SLOW, host),
}
"""What can be done to a server, by the name that a FaultStep has for it."""
ALONE = ("kill", "kill all", "stop", "freeze")
"""Those that a single server can have."""


@dataclass(frozen=True, slots=True)
class FaultStep:
    """One fault of a sequence: after a pause, for some seconds, on a server that is found when its turn comes.

    >>> FaultStep("freeze", 0, pause=1, lasts=3)
    FaultStep(kind='freeze', server=0, pause=1, lasts=3)
    """

    kind: str
    """One of KINDS."""
    server: int
    """0 for the leader of that time; above it one of the followers, in the order of their addresses."""
    pause: float
    lasts: float

    def check(self, servers: int) -> None:
        """Raise UsageError for what cannot be done to a cluster with so many servers."""
        kinds = tuple(KINDS) if servers > 1 else ALONE
        if self.kind not in kinds:
            raise UsageError(f"{self}: expected a kind of fault that {servers} servers have, one of {', '.join(kinds)}")
        if not 0 <= self.server < servers:
            raise UsageError(f"{self}: expected 0, the leader, to {servers - 1}")
        if not (self.pause >= 0 and self.lasts >= 0):
            raise UsageError(f"{self}: expected seconds from 0")


def steps(seed: int, servers: int) -> Iterator[FaultStep]:
    """Give the faults that a seed stands for, without end; the leader has every second of them.

    >>> first, again = steps(7, servers=3), steps(7, servers=3)
    >>> [next(first) for _ in range(9)] == [next(again) for _ in range(9)]
    True
    """
    dice = random.Random(seed)  # noqa: S311
    kinds = tuple(KINDS) if servers > 1 else ALONE
    while True:
        server = dice.choice((0, dice.randrange(servers)))
        yield FaultStep(dice.choice(kinds), server, round(dice.uniform(*PAUSES), 2), round(dice.uniform(*LASTS), 2))


@dataclass(frozen=True, slots=True)
class Done:
    """A fault that was there; times are nanoseconds on the history's clock."""

    step: FaultStep
    what: str
    """What was done to which host, such as ``kill consul on i-0a1b``."""
    start: int
    """When it began to be made; it was there from `there` on."""
    there: int
    undoing: int
    end: int
    """When it was undone."""

    def facts(self) -> dict[str, Any]:
        """Tell it in JSON's types."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.there / 1e9:.3f} s to {self.end / 1e9:.3f} s: {self.what}"


def carry_out(
    cluster: Cluster, faults: Faults, sequence: Iterable[FaultStep], deadline: Deadline, clock: Callable[[], int]
) -> Iterator[Done]:
    """Make and undo one fault after the other, and give each when it is over; none begins after the deadline.

    Raises FaultError where one cannot be made or undone, and WaitTimeout where the servers find no leader afterwards.
    """
    for step in sequence:
        if deadline.passed:
            return
        time.sleep(step.pause)
        servers = servers_by_role(cluster)
        host = servers.pop(step.server)
        fault = KINDS[step.kind](faults, host, servers)
        start = clock()
        with fault:
            there = clock()
            time.sleep(step.lasts)
            undoing = clock()
        yield Done(step, fault.what, start, there, undoing, clock())


def servers_by_role(cluster: Cluster) -> list[Host]:
    """List the Consul servers: the leader, then its followers, by their addresses. Raises WaitTimeout."""

    def probe() -> Ok[Host] | Pending:
        try:
            return Ok(leader_of(cluster, "consul"))
        except AgentApiError as error:
            return Pending(str(error))

    leader = wait_until("the servers to agree on a leader", probe, deadline=Deadline.after(LEADER_WITHIN))
    followers = [host for host in cluster.consul_servers if host.instance_id != leader.instance_id]
    return [leader, *sorted(followers, key=lambda host: tuple(map(int, host.private_ip.split("."))))]
