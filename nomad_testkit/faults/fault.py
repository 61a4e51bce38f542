"""What a fault is: something done to hosts for the time of a `with` block, and undone whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nomad_testkit.cluster.cluster import Cluster
from nomad_testkit.cluster.host import Host
from nomad_testkit.errors import FaultError, TestkitError, UsageError, did_you_mean
from nomad_testkit.events import FaultEvent, emit
from nomad_testkit.faults.repairs import Repairs, in_words
from nomad_testkit.targets.aws.errors import AWS_ERRORS

logger = logging.getLogger(__name__)


class Make(Protocol):
    """Does what a fault is, after it has told the repairs how to undo it."""

    def __call__(self, repairs: Repairs) -> None: ...


@dataclass(eq=False)
class Fault:
    """One fault, for one `with` block; on leaving, all of it is undone, in reverse, and looked after.

    Raises FaultError when it cannot be made, after what was made of it is undone; and when something cannot be undone.
    An error of the block is never hidden: then that is a note of it.

    >>> with nomad_faults.freeze("consul", host) as fault:  # doctest: +SKIP
    ...     fault.seconds
    0.4
    """

    what: str
    """What is done, for a person to read, such as ``kill nomad on i-0a1b``."""
    _make: Make
    repairs: Repairs = field(default_factory=Repairs)
    run_id: str = ""
    """The run of the cluster that it is done to."""
    _began: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the fault was there. Raises UsageError outside of its block."""
        if self._began is None:
            raise UsageError(f"the fault has not begun: {self.what}; use it by `with`")
        return time.monotonic() - self._began

    def __enter__(self) -> Fault:
        if self._began is not None:
            raise UsageError(f"the fault was used already: {self.what}; make a new one for each `with`")
        self._began = time.monotonic()
        logger.info("fault: %s", self.what)
        try:
            self._make(self.repairs)
        except BaseException as error:
            _note(error, self.repairs.run())
            # What botocore raises is for a user no other thing than what SSH does.
            if isinstance(error, (TestkitError, *AWS_ERRORS)) and not isinstance(error, (FaultError, UsageError)):
                failed = FaultError(f"could not {self.what}: {in_words(error)}")
                for note in getattr(error, "__notes__", ()):
                    failed.add_note(note)
                raise failed from error
            raise
        self._began = time.monotonic()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        ended, seconds = time.time(), self.seconds
        left = self.repairs.run()
        emit(FaultEvent(self.run_id, self.what, ended - seconds, ended, self.seconds - seconds, tuple(left)))
        logger.info("%s: %s", "not undone" if left else "undone", self.what)
        if error is not None:
            _note(error, left)
        elif left:
            raise FaultError(not_undone(left))


def _note(error: BaseException, left: Sequence[str]) -> None:
    if left:
        error.add_note(f"then {not_undone(left)}")


def not_undone(left: Sequence[str]) -> str:
    """Say what is left of faults."""
    return "what is left of a fault could not be undone:" + "".join(f"\n- {one}" for one in left)


def own(cluster: Cluster, wanted: Sequence[Host]) -> list[Host]:
    """Give each of some hosts once, after it is made sure that they are the cluster's. Raises UsageError."""
    hosts: Sequence[object] = wanted
    if not hosts:
        raise UsageError(f"a fault needs a host; those of {cluster.run_id} are {_names(cluster.hosts)}")
    known = {host.instance_id: host for host in cluster.hosts}
    for one in hosts:
        if not isinstance(one, Host):
            names = [*known, *(host.private_ip for host in cluster.hosts)]
            several = "; give several hosts one by one, by *hosts" if isinstance(one, (list, tuple)) else ""
            raise UsageError(
                f"expected a Host of cluster {cluster.run_id}, found {one!r}{several}{did_you_mean(one, names)}; "
                f"its hosts are {_names(cluster.hosts)}"
            )
    strange = [host for host in wanted if host.instance_id not in known]
    if strange:
        raise UsageError(
            f"{_names(strange)}: not of cluster {cluster.run_id}, whose hosts are {_names(cluster.hosts)}; "
            "nothing was done to any of them"
        )
    return list(dict.fromkeys(known[host.instance_id] for host in wanted))


def _names(hosts: Sequence[Host]) -> str:
    return ", ".join(f"{host} in {host.instance.group}" for host in hosts) or "none"


def listed(hosts: Sequence[Host]) -> str:
    """Name hosts by their instance ids."""
    return ", ".join(host.instance_id for host in hosts)
