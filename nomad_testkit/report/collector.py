"""Collects what a report tells: events as they come, in the process that runs tests, and tests, where all are known."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nomad_testkit.events import CheckEvent, ClusterEvent, Event, FaultEvent
from nomad_testkit.report.model import ClusterRecord, Outcome, RunOutcome, RunReport, TestRecord, healed

Facts = dict[str, Any]
"""Of JSON's types, so that a worker of pytest-xdist can send them to the controller."""
Phase = Literal["setup", "call", "teardown"]

_KINDS: dict[str, type[Event]] = {"check": CheckEvent, "fault": FaultEvent, "cluster": ClusterEvent}


class EventLog:
    """The events of this process since they were last taken."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Keep an event."""
        with self._lock:
            self._events.append(event)

    def take(self) -> list[Facts]:
        """Give the events as facts, and forget them."""
        with self._lock:
            events, self._events = self._events, []
        return [as_facts(event) for event in events]


def as_facts(event: Event) -> Facts:
    """Give an event in JSON's types; `as_event` makes it again."""
    kind = next(kind for kind, known in _KINDS.items() if isinstance(event, known))
    return dict(json.loads(json.dumps({"kind": kind, **asdict(event)}, default=str)))


def as_event(facts: Mapping[str, Any]) -> Event:
    """Make an event of what `as_facts` gave."""
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    return _KINDS[given.pop("kind")](**given)


@dataclass
class PhaseFacts:
    """One of the three phases of one test, as pytest reports it."""

    nodeid: str
    phase: str
    """``setup``, ``call`` or ``teardown``; anything else for a test whose worker died."""
    outcome: str
    """``passed``, ``failed`` or ``skipped``."""
    xfail: bool = False
    began: float = 0.0
    seconds: float = 0.0
    worker: str = ""
    headline: str = ""
    message: str = ""
    evidence: str = ""
    artifacts: str = ""
    run_id: str = ""
    events: Sequence[Facts] = ()
    properties: Sequence[tuple[str, str]] = ()


@dataclass
class Collector:
    """Makes a RunReport of phases of tests and of events, in whatever order they come from several workers."""

    began: float = field(default_factory=time.time)
    _tests: dict[str, TestRecord] = field(default_factory=dict)
    _checks: dict[str, list[CheckEvent]] = field(default_factory=dict)
    _faults: dict[str, list[FaultEvent]] = field(default_factory=dict)
    _clusters: dict[str, ClusterRecord] = field(default_factory=dict)
    _problems: list[str] = field(default_factory=list)

    def add_phase(self, facts: PhaseFacts) -> None:
        """Add one phase of a test."""
        test = self._tests.get(facts.nodeid) or TestRecord(facts.nodeid, "passed", began=facts.began)
        outcome = _outcome(test.outcome, facts)
        told = outcome != test.outcome or (facts.outcome == "failed" and not test.message)
        named = f"{facts.phase}_seconds" if facts.phase in ("setup", "call", "teardown") else "call_seconds"
        self._tests[facts.nodeid] = replace(
            test,
            outcome=outcome,
            finished=test.finished or facts.phase not in ("setup", "call"),
            run_id=facts.run_id or test.run_id,
            worker=facts.worker or test.worker,
            headline=facts.headline if told and facts.headline else test.headline,
            message="\n\n".join(filter(None, [test.message, facts.message])),
            evidence="\n\n".join(filter(None, [test.evidence, facts.evidence])),
            artifacts=facts.artifacts or test.artifacts,
            properties=tuple((str(name), str(value)) for name, value in facts.properties) or test.properties,
            **{named: facts.seconds},  # type: ignore[arg-type]
        )
        self.add_events(facts.events, nodeid=facts.nodeid, in_setup=facts.phase == "setup")

    def add_events(self, events: Iterable[Facts], *, nodeid: str = "", in_setup: bool = False) -> None:
        """Add what was heard, in the test `nodeid` or outside of any."""
        for event in map(as_event, events):
            if isinstance(event, CheckEvent):
                self._checks.setdefault(nodeid, []).append(event)
            elif isinstance(event, FaultEvent):
                self._faults.setdefault(nodeid, []).append(event)
            else:
                self._clusters[event.run_id] = _after(self._clusters.get(event.run_id), event, in_setup=in_setup)

    def add_problem(self, problem: str) -> None:
        """Add what went wrong outside of any test."""
        if problem not in self._problems:
            self._problems.append(problem)

    def report(
        self,
        *,
        outcome: RunOutcome,
        ended: float | None = None,
        artifacts: Path | None = None,
        settings: Sequence[str] = (),
        software: Mapping[str, str] | None = None,
    ) -> RunReport:
        """Give the report of all that was added, until `ended` or else until now.

        Evidence of failed deployments is looked for in `artifacts`.
        """
        tests = tuple(
            replace(
                test,
                outcome=test.outcome if test.finished or test.outcome != "passed" else "unfinished",
                checks=tuple(self._checks.get(nodeid, ())),
                faults=healed(self._faults.get(nodeid, ()), self._checks.get(nodeid, ())),
            )
            for nodeid, test in self._tests.items()
        )
        return RunReport(
            outcome=outcome,
            began=self.began,
            seconds=(time.time() if ended is None else ended) - self.began,
            tests=tests,
            clusters=tuple(
                _with_artifacts(cluster, artifacts)
                for cluster in sorted(self._clusters.values(), key=lambda one: one.began)
            ),
            problems=tuple(self._problems),
            settings=tuple(settings),
            software=dict(software or {}),
        )


def _with_artifacts(cluster: ClusterRecord, artifacts: Path | None) -> ClusterRecord:
    folder = artifacts / cluster.run_id if artifacts else None
    if cluster.outcome != "failed" or folder is None or not folder.is_dir():
        return cluster
    return replace(cluster, artifacts=str(folder.absolute()))


def _outcome(before: Outcome, facts: PhaseFacts) -> Outcome:
    if facts.outcome == "failed":
        if before == "failed":
            return "failed"
        return "error" if facts.phase in ("setup", "teardown") else "failed"
    if facts.outcome == "skipped":
        return "xfailed" if facts.xfail else "skipped"
    if facts.phase == "call" and facts.xfail:
        return "xpassed"
    return before


def _after(cluster: ClusterRecord | None, event: ClusterEvent, *, in_setup: bool) -> ClusterRecord:
    """Give the record of a cluster after one more event of it."""
    known = cluster or ClusterRecord(event.run_id, "deploying", event.at, in_setup=in_setup)
    facts, since = event.facts, event.at - known.began
    if event.moment == "deploying":
        return replace(known, began=event.at, example=facts["example"], target=facts["target"], region=facts["region"])
    if event.moment == "ready":
        return replace(
            known,
            outcome="ready",
            ready_seconds=max(facts["timings"].values(), default=since),
            timings=facts["timings"],
            timeline=tuple(facts["timeline"]),
            images=tuple(facts["images"]),
            security=facts["security"],
        )
    if event.moment == "failed":
        return replace(
            known,
            outcome="failed",
            error=facts["error"],
            failed_seconds=since,
            timeline=tuple(facts.get("timeline", ())),
        )
    if event.moment == "state":
        # The first one and the last one tell how it changed.
        return replace(known, states=(*known.states[:1], facts))
    if event.moment == "kept":
        return replace(known, outcome="kept")
    # A cluster that failed has been destroyed too, and stays one that failed.
    failed = known.outcome == "failed"
    return replace(known, outcome="failed" if failed else "destroyed", destroy_seconds=facts.get("seconds"))
