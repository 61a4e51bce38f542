"""How faults are undone, by the process that made them, or by another one where that was killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import TestkitError
from nomad_testkit.faults.book import Book
from nomad_testkit.targets.aws.errors import AWS_ERRORS, describe_error

UNDO: dict[str, Undo] = {}
"""All that undoes a kind of fault, by the names that are in the books of faults."""


class Turn(IntEnum):
    """When something is undone after a process was killed: first what others need to be undone themselves."""

    INSTANCE = 0
    """Nothing on a host can be undone before it runs."""
    NETWORK = 1
    """An agent that is cut off does not come up."""
    HOST = 2
    CLUSTER = 3
    """What Nomad has to do, for which it needs its agents."""


@dataclass(frozen=True, slots=True)
class Undo:
    """One way to undo something on hosts, from nothing but facts in JSON's types; it can be done twice."""

    name: str
    """What a book of faults calls it; a change would leave the faults of an older version without an undo."""
    run: Callable[..., None]
    ssh: bool
    """Whether it goes by SSH, so that there is nothing to undo where the host is no more."""
    turn: Turn

    def __call__(self, cluster: Cluster, hosts: Sequence[Host], **facts: Any) -> None:
        """Undo it. Raises what hinders."""
        try:
            self.run(cluster, hosts, **facts)
        except Exception:
            if not self.ssh or not all(gone(cluster, host) for host in hosts):
                raise


def undoes(name: str, turn: Turn, *, ssh: bool = True) -> Callable[[Callable[..., None]], Undo]:
    """Register a function of a cluster, hosts and facts as what undoes a kind of fault."""

    def register(run: Callable[..., None]) -> Undo:
        UNDO[name] = Undo(name, run, ssh, turn)
        return UNDO[name]

    return register


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that undoes a part of a fault, and proves that it is undone; it can be tried again."""

    what: str
    """What is done, for a person to read, such as ``start nomad on i-0a1b``."""
    run: Callable[[], None]


class Repairs:
    """What there is to undo; the last thing done is undone first.

    A repair is added before the thing that it undoes is done: that may have happened even where it seems not to.
    """

    def __init__(self) -> None:
        self._left: list[Repair] = []

    def plan(
        self,
        what: str,
        undo: Undo,
        cluster: Cluster,
        hosts: Sequence[Host],
        *,
        instead: Callable[[], None] | None = None,
        **facts: Any,
    ) -> None:
        """Remember, in this process and in the run's folder, how to undo what is about to be done.

        `instead` is what this process itself does, where it knows more than the facts that another one would get.
        Raises FaultError or TestkitError where the folder cannot be written.
        """
        book = Book.of(cluster)
        key = book.note(undo.name, what, [host.instance_id for host in hosts], facts)

        def run() -> None:
            if instead is None:
                undo(cluster, hosts, **facts)
            else:
                instead()
            book.undone(key)

        self._left.append(Repair(what, run))

    def add(self, what: str, run: Callable[[], None]) -> None:
        """Remember in this process alone how to undo what is about to be done."""
        self._left.append(Repair(what, run))

    def run(self) -> list[str]:
        """Undo everything, whatever fails meanwhile; give what failed and why. What failed is left for another try."""
        failed: list[Repair] = []
        why: list[str] = []
        while self._left:
            repair = self._left.pop()
            try:
                repair.run()
            except Exception as error:  # each step is done, whatever kept one before it from being done
                failed.insert(0, repair)
                why.append(f"{repair.what}: {in_words(error)}")
            except BaseException:
                self._left += [repair, *failed]  # an interrupt: all of it is for another try
                raise
        self._left = failed
        return why


def in_words(error: Exception) -> str:
    """Put an error in words, with its type where nomad_testkit did not raise it on purpose."""
    if isinstance(error, AWS_ERRORS):
        return describe_error(error)
    return str(error) if isinstance(error, (TestkitError, OSError)) else f"{type(error).__name__}: {error}"


def gone(cluster: Cluster, host: Host) -> bool:
    """Whether a host's instance has been terminated, so that nothing on it is to be undone (DescribeInstances)."""
    from nomad_testkit.cluster.discovery import instances

    alive = ("pending", "running", "stopping", "stopped")
    found = {one.instance_id: one.state for one in instances(cluster.target.client, cluster.run_id)}
    return found.get(host.instance_id) not in alive
