"""Whether there are ever two leaders: every server is asked all the time while something fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from nomad_testkit.checks.raft import AGENTS, AgentName, servers_of
from nomad_testkit.cluster import Cluster
from nomad_testkit.errors import AgentApiError, CheckFailed
from nomad_testkit.events import CheckEvent, emit
from nomad_testkit.host import Host

INTERVAL = 0.5
"""Seconds between two questions to the same server."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A server that held itself for the leader of a term of Raft."""

    agent: AgentName
    term: int
    instance_id: str


def rivals(claims: Iterable[Claim]) -> list[str]:
    """Name the terms in which several servers held themselves for the leader, which Raft rules out.

    An old leader that is cut off may believe for a moment that it is one still, in its own, older term: nobody votes
    for it any more, so nothing that it is told is acknowledged.

    >>> rivals([Claim("consul", 2, "i-1"), Claim("consul", 3, "i-2"), Claim("consul", 3, "i-3")])
    ['consul, term 3: i-2 and i-3']
    """
    leaders: dict[tuple[AgentName, int], set[str]] = {}
    for claim in claims:
        leaders.setdefault((claim.agent, claim.term), set()).add(claim.instance_id)
    return [
        f"{agent}, term {term}: {' and '.join(sorted(found))}"
        for (agent, term), found in sorted(leaders.items())
        if len(found) > 1
    ]


class LeaderWatch:
    """What servers have said of themselves; see `watching_leaders`."""

    def __init__(self) -> None:
        self.claims: set[Claim] = set()
        self.answers = 0
        self._stop = threading.Event()

    def verify(self) -> None:
        """Raise CheckFailed where two servers led in the same term, or where nothing was seen at all."""
        if found := rivals(self.claims):
            raise CheckFailed("two leaders at once: " + "; ".join(found))
        if not self.claims:
            raise CheckFailed(f"no leader was seen in {self.answers} answers, so nothing is proven")

    def watch(self, agent: AgentName, host: Host) -> None:
        """Ask one server until the watch ends (GET /v1/agent/self)."""
        while not self._stop.is_set():
            try:
                raft = (
                    host.consul.agent()["Stats"]["raft"] if agent == "consul" else host.nomad.agent()["stats"]["raft"]
                )
                self.answers += 1
                if raft["state"] == "Leader":
                    self.claims.add(Claim(agent, int(raft["term"]), host.instance_id))
            except AgentApiError:
                pass  # a server that does not answer claims nothing
            self._stop.wait(INTERVAL)

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()


@contextmanager
def watching_leaders(cluster: Cluster) -> Iterator[LeaderWatch]:
    """Ask every server of both agents who leads, for the time of a `with` block; it fails if two ever did.

    >>> with watching_leaders(nomad_cluster), nomad_faults.isolate(leader):  # doctest: +SKIP
    ...     nomad_cluster.require(LeaderReelected("consul", leader))
    """
    watch, began = LeaderWatch(), time.time()
    watched = [(agent, host) for agent in AGENTS for host in servers_of(cluster, agent)]
    with ThreadPoolExecutor(len(watched), thread_name_prefix="nomad-testkit-leaders") as pool:
        done = [pool.submit(watch.watch, agent, host) for agent, host in watched]
        try:
            yield watch
        finally:
            watch.stop()
    for one in done:
        one.result()
    _tell(cluster, watch, began)
    watch.verify()


def _tell(cluster: Cluster, watch: LeaderWatch, began: float) -> None:
    found = rivals(watch.claims)
    terms = "; ".join(f"{one.agent}, term {one.term}: {one.instance_id}" for one in sorted(watch.claims, key=_by_term))
    seen = f"{'; '.join(found) or terms or 'no leader'} ({watch.answers} answers)"
    held = bool(watch.claims) and not found
    wanted = "never two leaders in the same term of Raft"
    emit(CheckEvent(cluster.run_id, "LeaderWatch", wanted, seen, held, began, time.time() - began, watch.answers))


def _by_term(claim: Claim) -> tuple[str, int]:
    return claim.agent, claim.term
