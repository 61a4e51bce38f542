"""What a report tells, as plain values: a run, its clusters, its tests with their checks, faults and healing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nomad_testkit.events import CheckEvent, FaultEvent

Outcome = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "unfinished"]
RunOutcome = Literal["passed", "failed", "interrupted", "nothing"]
ClusterOutcome = Literal["destroyed", "kept", "failed", "deploying", "ready"]

BAD: tuple[Outcome, ...] = ("failed", "error")
_HOST = re.compile(r"\bi-[0-9a-f]{8,17}\b")


@dataclass(frozen=True)
class Healing:
    """A check that held again after a fault."""

    check: str
    wanted: str
    seconds: float
    since: Literal["begun", "undone"]
    """Whether `seconds` count from when the fault was there, or from when it had been undone."""


@dataclass(frozen=True)
class FaultRecord:
    """A fault and what healed meanwhile and afterwards; all times are in seconds."""

    run_id: str
    what: str
    began: float
    seconds: float
    """How long it was there."""
    undo_seconds: float
    left: tuple[str, ...] = ()
    healed: tuple[Healing, ...] = ()

    @property
    def kind(self) -> str:
        """What was done, whichever host it was done to.

        >>> FaultRecord("nt-1", "kill nomad on i-0123456789abcdef0", 0, 3, 1).kind
        'kill nomad'
        """
        return re.sub(r"\s+", " ", re.sub(rf"\s+(on|from|of|to)?\s*{_HOST.pattern}.*", "", self.what)).strip()


@dataclass(frozen=True)
class TestRecord:
    """One test; times are in seconds, `began` since the epoch."""

    __test__ = False

    nodeid: str
    outcome: Outcome
    began: float = 0.0
    setup_seconds: float = 0.0
    call_seconds: float = 0.0
    teardown_seconds: float = 0.0
    finished: bool = False
    """Whether all of its phases are known."""
    run_id: str = ""
    """The run of the cluster that it used; empty for a test without one."""
    worker: str = ""
    headline: str = ""
    """Why it failed or was skipped, in a line or a few."""
    message: str = ""
    """All that pytest says of the failure."""
    evidence: str = ""
    """What nomad_testkit says of it."""
    artifacts: str = ""
    """The folder with the evidence; empty if none was collected."""
    checks: tuple[CheckEvent, ...] = ()
    faults: tuple[FaultRecord, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()

    @property
    def bad(self) -> bool:
        """Whether it makes the run red."""
        return self.outcome in BAD

    @property
    def seconds(self) -> float:
        """Everything together."""
        return self.setup_seconds + self.call_seconds + self.teardown_seconds


@dataclass(frozen=True)
class ClusterRecord:
    """One cluster; times are in seconds, `began` since the epoch. States are those of `cluster_state`, as facts."""

    run_id: str
    outcome: ClusterOutcome
    began: float
    example: str = ""
    target: str = ""
    region: str = ""
    error: str = ""
    ready_seconds: float | None = None
    failed_seconds: float | None = None
    destroy_seconds: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    timeline: Sequence[Mapping[str, Any]] = ()
    images: tuple[str, ...] = ()
    security: bool = False
    artifacts: str = ""
    states: tuple[Mapping[str, Any], ...] = ()
    in_setup: bool = False
    """Whether a fixture made it, rather than a test itself."""

    @property
    def versions(self) -> dict[str, tuple[str, ...]]:
        """The agents' versions, all that were ever seen, by ``consul`` and ``nomad``."""
        found: dict[str, set[str]] = {}
        for state in self.states:
            for agent, versions in state.get("versions", {}).items():
                found.setdefault(str(agent), set()).update(map(str, versions))
        return {agent: tuple(sorted(versions)) for agent, versions in found.items()}


@dataclass(frozen=True)
class RunReport:
    """One run of tests, green or red."""

    outcome: RunOutcome
    began: float
    seconds: float
    tests: tuple[TestRecord, ...] = ()
    clusters: tuple[ClusterRecord, ...] = ()
    problems: tuple[str, ...] = ()
    """What went wrong outside of any test: files that could not be collected, workers that died."""
    settings: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)

    def count(self, *outcomes: Outcome) -> int:
        """Count the tests with some outcomes."""
        return sum(test.outcome in outcomes for test in self.tests)

    @property
    def checks(self) -> int:
        """How many checks were made."""
        return sum(len(test.checks) for test in self.tests)

    @property
    def checks_as_wanted(self) -> int:
        """How many held, or did not where the test wanted just that: it passed all the same."""
        return sum(check.held or not test.bad for test in self.tests for check in test.checks)

    def tests_of(self, run_id: str) -> tuple[TestRecord, ...]:
        """List the tests that used a cluster."""
        return tuple(test for test in self.tests if test.run_id == run_id)


def healed(faults: Iterable[FaultEvent], checks: Iterable[CheckEvent]) -> tuple[FaultRecord, ...]:
    """Tell of each fault of a test what held again, and after how long.

    A check that began while the fault was there counts from when that had begun; one that began when it had been undone
    counts from then, unless another fault came first. What was watched all along, such as a workload, heals nothing,
    and a check of one agent says nothing of a fault of the other. What healed first comes first.
    """
    found = sorted(faults, key=lambda fault: fault.began)
    held = [check for check in checks if check.held]
    records = []
    for fault in found:
        undone = fault.ended + fault.undo_seconds
        following = min((one.began for one in found if one.began >= undone), default=float("inf"))
        healings = []
        for check in held:
            if not _about(fault, check):
                continue
            if fault.began <= check.began < fault.ended:
                seconds = check.began + check.seconds - fault.began
                healings.append(Healing(check.name, check.wanted, seconds, "begun"))
            elif undone <= check.began < following:
                seconds = check.began + check.seconds - undone
                healings.append(Healing(check.name, check.wanted, seconds, "undone"))
        healings.sort(key=lambda one: one.seconds + (0.0 if one.since == "begun" else undone - fault.began))
        lasted = fault.ended - fault.began
        records.append(
            FaultRecord(
                fault.run_id, fault.what, fault.began, lasted, fault.undo_seconds, tuple(fault.left), tuple(healings)
            )
        )
    return tuple(records)


def _about(fault: FaultEvent, check: CheckEvent) -> bool:
    agents, checked = ({agent for agent in ("consul", "nomad") if agent in text} for text in (fault.what, check.name))
    return not agents or not checked or bool(agents & checked)


def healing_times(faults: Iterable[FaultRecord]) -> dict[str, float]:
    """Give the longest seconds until each kind of check held again after each kind of fault, such as for a history.

    >>> led = Healing("Leader", "a leader", 2, "begun")
    >>> healing_times([FaultRecord("nt-1", "kill nomad on i-0123456789abcdef0", 0, 3, 1, (), (led,))])
    {'kill nomad: undone': 1, 'kill nomad: Leader': 2}
    """
    longest: dict[str, float] = {}
    for fault in faults:
        figures = [("undone", fault.undo_seconds), *((one.check, one.seconds) for one in fault.healed)]
        for name, seconds in figures:
            key = f"{fault.kind}: {name}"
            longest[key] = max(longest.get(key, 0.0), seconds)
    return longest
