"""Events of clusters for listeners such as the report: checks, faults, and the cluster's life."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Moment = Literal["deploying", "ready", "failed", "state", "kept", "destroyed"]

Progress = Callable[[str], None]
"""Takes one line of progress for the user."""


@dataclass(frozen=True, slots=True)
class CheckEvent:
    """The result of a check; times are in seconds, `began` since the epoch.

    >>> CheckEvent("nt-1", "RaftPeers", "3 peers", "3 peers", True, began=0.0, seconds=1.5).held
    True
    """

    run_id: str
    name: str
    """The check's class, and its agent if it has one: ``LeaderReelected consul``."""
    wanted: str
    seen: str
    """What was seen last, and on which host."""
    held: bool
    began: float
    seconds: float
    """Seconds until it held for good, or until the wait ended."""
    tries: int = 1


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """A fault that has been undone; it lasted from `began` to `ended`, in seconds since the epoch."""

    run_id: str
    what: str
    """The fault, such as ``kill nomad on i-0a1b``."""
    began: float
    ended: float
    undo_seconds: float
    """Seconds until it was undone, including the replacement of an instance."""
    left: tuple[str, ...] = ()
    """What could not be undone."""


@dataclass(frozen=True, slots=True)
class ClusterEvent:
    """A moment in the life of a cluster; `facts` are of JSON types and hold no secret."""

    run_id: str
    moment: Moment
    facts: Mapping[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""


Event = CheckEvent | FaultEvent | ClusterEvent
Listener = Callable[[Event], None]
_listeners: list[Listener] = []


def emit(event: Event) -> None:
    """Send an event to all listeners; callable from any thread."""
    for listener in tuple(_listeners):
        listener(event)


def wanted() -> bool:
    """Return whether there is a listener, so that reading a cluster's state is worthwhile."""
    return bool(_listeners)


def listen(listener: Listener) -> Callable[[], None]:
    """Register a listener for all events of this process and return the function that removes it. It must not raise."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Register a listener for all events of this process during a `with` block.

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
