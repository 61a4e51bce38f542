"""One check: clients at work, faults meanwhile, and the verdict on what the clients saw."""

from __future__ import annotations

import logging
import math
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from nomad_testkit.cluster.clients.consul import ConsulClient
from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import CheckFailed, UsageError
from nomad_testkit.events import Progress
from nomad_testkit.faults import Faults
from nomad_testkit.faults.linearizability.checker import LIMIT, Judgement, Violation, get_checker, judge
from nomad_testkit.faults.linearizability.history import Operation, OperationHistory, write_lines
from nomad_testkit.faults.linearizability.kv_clients import ANSWER_SECONDS, Reads, Server, read_everything, working
from nomad_testkit.faults.linearizability.sequence import Done, FaultStep, carry_out, steps
from nomad_testkit.images.cache import Cache
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

logger = logging.getLogger(__name__)

HEAL_WITHIN = 120.0
"""Seconds until every server answers again when the last fault is over."""
HISTORY, FAULTS, PICTURE = "history.jsonl", "faults.jsonl", "violation.html"
_MOST = 3
"""How many violations the message of a failure shows."""


@dataclass(frozen=True)
class Outcome:
    """What was done, and what the checker says of it."""

    seed: int
    seconds: float
    """From the first operation to the last one."""
    operations: Sequence[Operation]
    faults: Sequence[Done]
    judgement: Judgement
    folder: Path | None
    """Where history and faults are kept, where that was asked for."""

    @property
    def rate(self) -> float:
        """Operations a second."""
        return len(self.operations) / self.seconds

    @property
    def unknown(self) -> float:
        """The share, from 0 to 1, of operations that may or may not have had an effect, or have no answer."""
        return sum(one.outcome == "unknown" for one in self.operations) / max(1, len(self.operations))

    def __str__(self) -> str:
        verdict = {"ok": "linearizable", "illegal": "not linearizable", "unknown": "undecided"}
        return (
            f"{verdict[self.judgement.verdict]}: {len(self.operations)} operations on {self.judgement.keys} keys in "
            f"{self.seconds:.1f} s ({self.rate:.0f}/s), {self.unknown:.1%} of them unknown, "
            f"{len(self.faults)} faults, seed {self.seed}"
        )


def check_kv(
    cluster: Cluster,
    faults: Faults,
    *,
    seed: int,
    seconds: float,
    sequence: Iterable[FaultStep] | None = None,
    reads: Reads = "consistent",
    artifacts: Path | None = None,
    replay: str = "",
    cache: Cache | None = None,
    progress: Progress = logger.info,
    limit: float = LIMIT,
) -> Outcome:
    """Check that Consul's KV is linearizable while faults follow one another for some seconds.

    Three clients of each server get, put, delete and compare-and-set a few keys; the faults, and what the clients do,
    are those that `seed` stands for, unless a `sequence` says which. The last fault is seen through, all are undone,
    and every key is read once more. `reads` is the consistency mode of all other reads: only ``consistent`` ones are
    meant to be linearizable. In `artifacts` a folder is made for the history and the faults, with their times, and for
    porcupine's picture of a violation. `replay` is the command that does it all again, for the message of a failure,
    `limit` the seconds that the checker may take.

    Raises CheckFailed where the history is not linearizable, or where that could not be decided in time, or nothing
    was there to decide. Raises UsageError for arguments that cannot be used, PreflightError where the checker has to
    be built and that lacks something, FaultError where a fault cannot be made or undone, and WaitTimeout where the
    cluster does not heal.

    >>> with Faults(cluster) as faults:  # doctest: +SKIP
    ...     print(check_kv(cluster, faults, seed=42, seconds=30))
    linearizable: 8131 operations on 21 keys in 33.5 s (243/s), 0.4% of them unknown, 5 faults, seed 42
    """
    servers = len(cluster.consul_servers)
    if not servers:
        raise UsageError(f"expected Consul servers in {cluster.run_id}, found none that run")
    if reads not in get_args(Reads):
        raise UsageError(f"reads: found {reads!r}; expected one of {', '.join(get_args(Reads))}")
    for name, value in (("seconds", seconds), ("limit", limit)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name}: found {value}; expected a number above 0")
    if sequence is not None:
        sequence = tuple(sequence)
        for step in sequence:
            step.check(servers)
    checker = get_checker(cache or Cache(), progress)
    history, done = OperationHistory(), list[Done]()
    with _folder(artifacts, cluster, seed) as folder:
        todo = steps(seed, servers) if sequence is None else sequence
        try:
            _work(cluster, faults, history, done, seed, todo, Deadline.after(seconds), reads)
        finally:
            took = history.now() / 1e9
            history.write(folder / HISTORY)
            write_lines(folder / FAULTS, ({"what": one.what, **one.facts()} for one in done))
        if nothing := _nothing(history, done, faults_due=sequence != ()):
            raise CheckFailed(f"{nothing}, so nothing is proven{_replaying(replay, seed, seconds)}")
        found = judge(checker, folder / HISTORY, picture=folder / PICTURE, faults=folder / FAULTS, limit=limit)
        outcome = Outcome(seed, took, history.operations, done, found, folder if artifacts else None)
    progress(str(outcome))
    if found.verdict != "ok":
        lines = [*_wrong(outcome, reads, limit), *_summary(outcome)]
        raise CheckFailed("\n".join(lines) + _replaying(replay, seed, seconds))
    return outcome


def _work(
    cluster: Cluster,
    faults: Faults,
    history: OperationHistory,
    done: list[Done],
    seed: int,
    sequence: Iterable[FaultStep],
    deadline: Deadline,
    reads: Reads,
) -> None:
    servers = [Server(host.instance_id, lambda host=host: _connected(host)) for host in cluster.consul_servers]  # type: ignore[misc]
    prefix = f"nomad-testkit/linearizability-{secrets.token_hex(4)}"
    with working(servers, history, prefix=prefix, seed=seed, reads=reads):
        for one in carry_out(cluster, faults, sequence, deadline, history.now):
            logger.info("%s", one)
            done.append(one)
        time.sleep(deadline.remaining())

    def probe() -> Ok[None] | Pending:
        return Ok(None) if read_everything(servers, history) else Pending(history.operations[-1].error)

    wait_until("every server to answer once more", probe, deadline=Deadline.after(HEAL_WITHIN), interval=1)
    cluster.consul.delete_key(prefix, recurse=True)


@contextmanager
def _connected(host: Host) -> Iterator[ConsulClient]:
    client = host.connect_consul(timeout=ANSWER_SECONDS)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _folder(artifacts: Path | None, cluster: Cluster, seed: int) -> Iterator[Path]:
    """Make a folder for what is recorded: one that stays, or else one for as long as it is needed."""
    if artifacts is None:
        # In the run's folder, which a sweep removes where this process cannot any more.
        with tempfile.TemporaryDirectory(prefix="linearizability-", dir=cluster.key_path.parent) as name:
            yield Path(name)
        return
    above = artifacts / cluster.run_id
    above.mkdir(parents=True, exist_ok=True)
    yield Path(tempfile.mkdtemp(prefix=f"linearizability-{seed}-", dir=above))


def _nothing(history: OperationHistory, done: Sequence[Done], *, faults_due: bool) -> str:
    """Tell what is missing without which a history proves nothing; empty where nothing is."""
    answered = [one for one in history.operations if one.outcome == "ok"]
    for what, found in (
        ("write", any(one.kind == "put" or one.done for one in answered)),
        ("read", any(one.kind == "get" for one in answered)),
    ):
        if not found:
            return f"no {what} of {len(history.operations)} operations was acknowledged"
    return "no fault was made; give more seconds" if faults_due and not done else ""


def _wrong(outcome: Outcome, reads: Reads, limit: float) -> list[str]:
    """Tell in lines why an outcome is no good one."""
    found = outcome.judgement
    if found.verdict == "unknown":
        left = f"for {len(found.undecided)} of {found.keys} keys within {limit:g} s"
        said = f"Whether Consul KV is linearizable could not be decided {left}, so nothing is proven"
        return [f"{said}; give the checker more time (limit=)"]
    broken = f"{len(found.violations)} of {found.keys} keys"
    said = f"Consul KV is not linearizable with {reads} reads: nothing explains what was seen of {broken}."
    shown = (line for violation in found.violations[:_MOST] for line in _explained(violation, outcome))
    return [said, "These operations, as few as show it, go together in no order:", *shown]


def _replaying(replay: str, seed: int, seconds: float) -> str:
    return f"\nTo replay it: {replay or f'--nomad-fault-seed {seed} --nomad-fault-time {seconds:g}'}"


def _explained(violation: Violation, outcome: Outcome) -> Iterator[str]:
    by_id = {one.id: one for one in outcome.operations}
    yield f"- {violation.key}"
    yield from (f"    {by_id[number]}" for number in violation.operations)


def _summary(outcome: Outcome) -> Iterator[str]:
    """Tell in lines what a person needs who looks into a failure."""
    yield str(outcome)
    yield "Faults:"
    yield from (f"- {one}" for one in outcome.faults)
    if outcome.folder is not None:
        yield f"History, faults, and a picture of a violation: {outcome.folder.absolute()}"
