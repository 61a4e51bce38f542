"""The frame of checks: observe every server, then judge purely; `require` waits for several."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from nomad_testkit.cluster.arguments import check_arguments
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import (
    AgentApiError,
    BrokenError,
    CheckFailed,
    HostError,
    TestkitError,
    UsageError,
    WaitTimeout,
    said,
)
from nomad_testkit.events import CheckEvent, emit
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
ObservationT = TypeVar("ObservationT")

Verdict = Ok[str] | Pending | Broken
"""Ok says what was seen; Pending what is missing yet, and on which host; Broken why it can no longer come."""

DEFAULT_WITHIN = 60.0
_THREADS = 16


class ClusterView(Protocol):
    """What checks need of a cluster; colocated, consul_servers and nomad_servers are both the servers."""

    @property
    def hosts(self) -> Sequence[Host]: ...
    @property
    def servers(self) -> Sequence[Host]: ...
    @property
    def clients(self) -> Sequence[Host]: ...
    @property
    def consul_servers(self) -> Sequence[Host]: ...
    @property
    def nomad_servers(self) -> Sequence[Host]: ...
    @property
    def nomad_clients(self) -> Sequence[Host]: ...
    @property
    def missing_hosts(self) -> Sequence[str]:
        """Describe each group that has fewer hosts than the example asks for, and what became of them."""
        ...

    def missing_rules(self) -> Sequence[str]:
        """List the security group rules that the agents lack."""
        ...


@dataclass(frozen=True, slots=True)
class HostRef:
    """A host by its id and addresses, as checks name it.

    >>> str(HostRef("i-0a1b", "172.31.16.5", "127.31.16.5"))
    'i-0a1b (127.31.16.5)'
    """

    instance_id: str
    private_ip: str
    address: str

    @classmethod
    def of(cls, host: Host) -> HostRef:
        """Return the reference to a host."""
        return cls(host.instance_id, host.private_ip, host.address)

    def __str__(self) -> str:
        return f"{self.instance_id} ({self.address})"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T_co]):
    """What one host answered."""

    place: HostRef
    value: T_co


class Check(ABC, Generic[ObservationT]):
    """One expectation of a cluster; subclasses are frozen dataclasses, and reports show their repr.

    Raises UsageError for an argument that does not fit its field's type.
    """

    survives_lost_hosts: ClassVar[bool] = False
    """Whether the check may hold while hosts of the example are missing."""

    def __post_init__(self) -> None:
        check_arguments(self)

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What this check demands, for a person to read."""

    @abstractmethod
    def observe(self, cluster: ClusterView) -> ObservationT:
        """Collect what `judge` needs, from every server. Raises AgentApiError and HostError."""

    @abstractmethod
    def judge(self, observed: ObservationT) -> Verdict:
        """Decide from the observation alone."""

    def verdict(self, cluster: ClusterView) -> Verdict:
        """Observe and judge once; a host that is silent or missing makes the verdict Pending.

        With fewer hosts than the example asks for no check holds, unless it `survives_lost_hosts`.
        """
        missing = () if self.survives_lost_hosts else tuple(cluster.missing_hosts)
        try:
            verdict = self.judge(self.observe(cluster))
        except (AgentApiError, HostError, Unanswered) as error:
            verdict = Pending(str(error))
        if not missing or isinstance(verdict, Broken):
            return verdict
        return Pending("; ".join([*missing, *([verdict.seen] if isinstance(verdict, Pending) else [])]))


class Unanswered(TestkitError):
    """Some hosts did not answer although all have to, or the list is empty; leaves this package as a Pending."""


def places(hosts: Iterable[Host]) -> tuple[HostRef, ...]:
    """Return references to some hosts."""
    return tuple(HostRef.of(host) for host in hosts)


def ask_every(hosts: Sequence[Host], question: Callable[[Host], T]) -> tuple[Answer[T], ...]:
    """Ask every host the same question in parallel, and return the answers in the hosts' order.

    Raises Unanswered, which names every host that did not answer and its error, and if there are no hosts: no answer
    is no verdict.
    """
    if not hosts:
        raise Unanswered("there is no host to ask")

    def ask(host: Host) -> Answer[T] | str:
        try:
            return Answer(HostRef.of(host), question(host))
        except (AgentApiError, HostError) as error:
            return f"{host}: {error}"

    with ThreadPoolExecutor(min(_THREADS, len(hosts)), thread_name_prefix="nomad-testkit-check") as pool:
        answers = list(pool.map(ask, hosts))
    silent = [answer for answer in answers if isinstance(answer, str)]
    if silent:
        raise Unanswered("; ".join(silent))
    return tuple(answer for answer in answers if isinstance(answer, Answer))


def require(
    cluster: ClusterView,
    *checks: Check[Any],
    within: float | Deadline = DEFAULT_WITHIN,
    on_pending: Callable[[str], None] | None = None,
) -> None:
    """Wait until all checks hold at the same time; `within` is in seconds.

    Raises CheckFailed at the deadline, or as soon as one check can no longer hold: for each check that fails
    it says what was wanted, what was seen and on which host, for how long, and after how many tries.

    >>> require(cluster, RaftPeers(3), Registered("nomad-client", 3), within=60)  # doctest: +SKIP
    """
    __tracebackhide__ = True  # pytest shows the failed test, not this wait
    _refuse_arguments(checks, within)
    deadline = within if isinstance(within, Deadline) else Deadline.after(within)
    started, began, now = deadline.clock(), time.time(), time.monotonic
    asked_at = now()
    failing: dict[Check[Any], Pending | Broken] = {}
    held: dict[Check[Any], tuple[str, float]] = {}
    tries = 0

    def look(some: Sequence[Check[Any]]) -> None:
        # All at once: a host that is not up yet costs each check a time-out, and so they pass together.
        with ThreadPoolExecutor(min(_THREADS, len(some)), thread_name_prefix="nomad-testkit-require") as pool:
            verdicts = list(pool.map(lambda check: check.verdict(cluster), some))
        for check, verdict in zip(some, verdicts, strict=True):
            if isinstance(verdict, Ok):
                failing.pop(check, None)
                held[check] = (verdict.value, held[check][1] if check in held else now() - asked_at)
            else:
                failing[check] = verdict
                held.pop(check, None)

    def probe() -> Ok[None] | Pending | Broken:
        nonlocal tries
        # Only what failed is asked again; once all of it holds, everything has to hold in one and the same
        # round.
        again = list(failing)
        tries += 1
        look(again or checks)
        if again and not failing:
            look(checks)
        if not failing:
            return Ok(None)
        if any(isinstance(verdict, Broken) for verdict in failing.values()):
            return Broken("see below")
        return Pending("; ".join(f"{check!r}: {_text(verdict)}" for check, verdict in failing.items()))

    def tell() -> None:
        for check in dict.fromkeys(checks):
            seen, seconds = held.get(check) or (_text(failing[check]), now() - asked_at)
            emit(CheckEvent(run_of(cluster), name_of(check), check.wanted, seen, check in held, began, seconds, tries))

    try:
        wait_until("the checks", probe, deadline=deadline, on_pending=on_pending)
        tell()
    except (WaitTimeout, BrokenError):
        tell()
        report = _report(failing, len(checks), deadline.clock() - started, tries)
        raise CheckFailed(report + explained(cluster)) from None


def _refuse_arguments(checks: Sequence[object], within: object) -> None:
    __tracebackhide__ = True
    if not checks:
        raise CheckFailed("require() was given no check, so nothing would have been verified; name at least one")
    for one in checks:
        if isinstance(one, type) and issubclass(one, Check):
            raise UsageError(f"require({one.__name__}): expected a check, found its class; write {one.__name__}(...)")
        if not isinstance(one, Check):
            raise UsageError(f"require({one!r}): expected a check such as NodesReady(3), found {type(one).__name__}")
    if not isinstance(within, Deadline) and (
        isinstance(within, bool) or not isinstance(within, int | float) or not within >= 0
    ):
        raise UsageError(f"require(within={within!r}): expected seconds, 0 or more, or a Deadline")


def run_of(cluster: object) -> str:
    """Return the id of a cluster's run; empty for an object without one."""
    return str(getattr(cluster, "run_id", ""))


def name_of(check: Check[Any]) -> str:
    """Name a check for a report: its class, and the agent that it is about.

    >>> name_of(LeaderReelected("consul", old))  # doctest: +SKIP
    'LeaderReelected consul'
    """
    agents = getattr(check, "agents", ())
    return " ".join([type(check).__name__, *([getattr(check, "agent", "")] if len(agents) != 1 else agents)]).strip()


def explained(cluster: ClusterView) -> str:
    """Return lines on the rules that keep a cluster's agents apart; empty without any. Never raises."""
    try:
        missing_rules = cluster.missing_rules()
    except Exception as error:  # an API that is gone, for example, must not hide the verdict
        logger.warning("the security groups cannot be looked at: %s", said(error))
        return ""
    if not missing_rules:
        return ""
    return "\n".join(["", "The security groups keep agents apart:", *(f"- {rule}" for rule in missing_rules)])


def _text(verdict: Pending | Broken) -> str:
    return verdict.seen if isinstance(verdict, Pending) else verdict.reason


def brief(seen: str) -> str:
    """Return the first line of what was seen, without the journal that may follow.

    >>> brief("clients-0: nomad is failed; its journal ends:\\n    nomad exited")
    'clients-0: nomad is failed'
    """
    return (seen.strip().splitlines() or [""])[0].removesuffix(":").removesuffix("; its journal ends")


def _report(failing: dict[Check[Any], Pending | Broken], total: int, elapsed: float, tries: int) -> str:
    """Say what failed, the cause first: pytest's summary and JUnit XML show the first line alone."""
    chosen = {check: verdict for check, verdict in failing.items() if isinstance(verdict, Broken)} or failing
    first, *others = chosen
    more = f" (and {len(others)} more)" if others else ""
    after = f"after {elapsed:.1f} s and {tries} {'try' if tries == 1 else 'tries'}"
    lines = [
        f"{first!r}: {brief(_text(chosen[first]))}, after {elapsed:.0f} s{more}",
        f"{len(chosen)} of {total} checks failed {after}:",
    ]
    for check, verdict in chosen.items():
        lines += [f"- {check!r}", f"    wanted: {check.wanted}", f"    seen:   {_text(verdict)}"]
        if isinstance(verdict, Broken):
            lines.append("    This cannot come right by waiting longer.")
    return "\n".join(lines)
