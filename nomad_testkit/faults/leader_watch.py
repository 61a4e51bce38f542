"""Whether there are ever two leaders: every server is asked all the time while something fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

from nomad_testkit.checks.raft import servers_of
from nomad_testkit.cluster.agents import AGENTS, AgentName
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import AgentApiError, CheckFailed
from nomad_testkit.events import CheckEvent, emit

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

    def leaders(self, agent: AgentName) -> tuple[str, ...]:
        """List the instances that have led, one after the other.

        A server that is elected again stays one leader: on a busy machine it may lose its majority for a moment.
        """
        claims = sorted((claim for claim in self.claims if claim.agent == agent), key=lambda claim: claim.term)
        return tuple(instance_id for instance_id, _ in groupby(claims, key=lambda claim: claim.instance_id))

    def verify(self) -> None:
        """Raise CheckFailed where two servers led in the same term, or where nothing was seen at all."""
        if found := rivals(self.claims):
            raise CheckFailed("two leaders at once: " + "; ".join(found))
        if unseen := [agent for agent in AGENTS if not self.leaders(agent)]:
            raise CheckFailed(
                f"no leader of {' and '.join(unseen)} was seen in {self.answers} answers, so nothing is proven"
            )

    def verify_throughout(self, *agents: AgentName) -> None:
        """Raise CheckFailed where the servers of an agent, or of either where none is named, changed their leader."""
        for agent in agents or AGENTS:
            leaders = self.leaders(agent)
            if len(leaders) != 1:
                raise CheckFailed(f"{agent} had not one leader throughout: {', then '.join(leaders) or 'nobody'} led")

    def follow(self, cluster: Cluster, failed: list[BaseException]) -> None:
        """Ask every server of a cluster until the watch ends, also those that it gets meanwhile."""
        watched: dict[tuple[AgentName, Host], threading.Thread] = {}
        while not self._stop.is_set():
            now = {(agent, host) for agent in AGENTS for host in servers_of(cluster, agent)}
            for agent, host in now - watched.keys():
                watched[agent, host] = threading.Thread(
                    target=self._watch, args=(cluster, agent, host, failed), daemon=True
                )
                watched[agent, host].start()
            self._stop.wait(INTERVAL)
        for thread in watched.values():
            thread.join()

    def _watch(self, cluster: Cluster, agent: AgentName, host: Host, failed: list[BaseException]) -> None:
        try:
            while host in cluster.hosts and not self._stop.is_set():
                self.ask(agent, host)
                self._stop.wait(INTERVAL)
        except Exception as error:
            failed.append(error)

    def ask(self, agent: AgentName, host: Host) -> None:
        """Ask one server once (GET /v1/agent/self)."""
        try:
            raft = host.consul.agent()["Stats"]["raft"] if agent == "consul" else host.nomad.agent()["stats"]["raft"]
        except AgentApiError:
            return  # a server that does not answer claims nothing
        self.answers += 1
        if raft["state"] == "Leader":
            self.claims.add(Claim(agent, int(raft["term"]), host.instance_id))

    def stop(self) -> None:
        """End the watch."""
        self._stop.set()


@contextmanager
def watching_leaders(cluster: Cluster) -> Iterator[LeaderWatch]:
    """Ask every server of both agents who leads, for the time of a `with` block; it fails if two ever did.

    >>> with watching_leaders(nomad_cluster), nomad_faults.isolate(leader):  # doctest: +SKIP
    ...     nomad_cluster.require(LeaderReelected("consul", leader))
    >>> with watching_leaders(nomad_cluster) as watch:  # doctest: +SKIP
    ...     scale(nomad_cluster, "servers", 5)
    ...     watch.verify_throughout()
    """
    watch, began = LeaderWatch(), time.time()
    failed: list[BaseException] = []
    thread = threading.Thread(target=watch.follow, args=(cluster, failed), name="nomad-testkit-leaders", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
    if failed:
        raise failed[0]
    _tell(cluster, watch, began)
    watch.verify()


def _tell(cluster: Cluster, watch: LeaderWatch, began: float) -> None:
    found = rivals(watch.claims)
    terms = "; ".join(f"{one.agent}, term {one.term}: {one.instance_id}" for one in sorted(watch.claims, key=_by_term))
    seen = f"{'; '.join(found) or terms or 'no leader'} ({watch.answers} answers)"
    held = all(watch.leaders(agent) for agent in AGENTS) and not found
    wanted = "never two leaders in the same term of Raft"
    emit(CheckEvent(cluster.run_id, "LeaderWatch", wanted, seen, held, began, time.time() - began, watch.answers))


def _by_term(claim: Claim) -> tuple[str, int]:
    return claim.agent, claim.term
