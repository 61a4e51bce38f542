"""What happens to clusters, told to whoever listens, such as a report: checks, faults, and the life of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Moment = Literal["deploying", "ready", "failed", "state", "kept", "destroyed"]

Progress = Callable[[str], None]
"""Takes one line that tells a person what is being done now."""


@dataclass(frozen=True, slots=True)
class CheckEvent:
    """A check that held or did not; times are in seconds, `began` since the epoch.

    >>> CheckEvent("nt-1", "RaftPeers", "3 peers", "3 peers", True, began=0.0, seconds=1.5).held
    True
    """

    run_id: str
    name: str
    """The check's class, and the agent where it is about one: ``LeaderReelected consul``."""
    wanted: str
    seen: str
    """What was seen last, and on which host."""
    held: bool
    began: float
    seconds: float
    """Until it held for good, or until nobody waited for it any more."""
    tries: int = 1


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A fault that is over; `began` and `ended` are seconds since the epoch, between which it was there."""

    run_id: str
    what: str
    """What was done, such as ``kill nomad on i-0a1b``."""
    began: float
    ended: float
    undo_seconds: float
    """How long it took until all of it was undone, which may mean until an instance was replaced."""
    left: tuple[str, ...] = ()
    """What could not be undone."""


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """Something in the life of a cluster; `facts` are of JSON's types and hold no secret."""

    run_id: str
    moment: Moment
    facts: Mapping[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""


Event = CheckEvent | FaultEvent | ClusterEvent
Listener = Callable[[Event], None]
_listeners: list[Listener] = []


def emit(event: Event) -> None:
    """Tell an event to everyone who listens; from any thread."""
    for listener in tuple(_listeners):
        listener(event)


def wanted() -> bool:
    """Whether anybody listens, so that it is worth to ask a cluster for its state."""
    return bool(_listeners)


def listen(listener: Listener) -> Callable[[], None]:
    """Let a listener hear of all events of this process; give what ends that. It must not raise."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener hear of all events of this process, for the time of a `with` block.

    >>> heard = []
    >>> with listening(heard.append):
    ...     emit(ClusterEvent("nt-1", "destroyed"))
    >>> heard[0].moment
    'destroyed'
    """
    end = listen(listener)
    try:
        yield
    finally:
        end()
