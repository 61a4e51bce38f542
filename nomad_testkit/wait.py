"""Wait for a condition, never for a fixed time: deadlines, probes and the one waiting loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nomad_testkit.errors import BrokenError, WaitTimeout

T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Ok(Generic[T]):
    """The condition holds; `value` is what the wait returns."""

    value: T


@dataclass(frozen=True, slots=True)
class Pending:
    """The condition does not hold yet; `seen` is the current state."""

    seen: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The condition can no longer come true; `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time on a monotonic clock.

    >>> session = Deadline.after(300)
    >>> session.child(10_000).remaining() <= 300
    True
    """

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, *, clock: Clock = time.monotonic) -> Deadline:
        """Return a deadline `seconds` from now."""
        return cls(clock() + seconds, clock)

    def child(self, seconds: float) -> Deadline:
        """Return a deadline `seconds` from now, but not after this one."""
        return Deadline(min(self.at, self.clock() + seconds), self.clock)

    def remaining(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0.0, self.at - self.clock())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining() == 0.0


def wait_until(
    what: str,
    probe: Callable[[], Ok[T] | Pending | Broken],
    *,
    deadline: Deadline,
    where: str = "",
    interval: float = 0.2,
    longest: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    on_pending: Callable[[str], None] | None = None,
) -> T:
    """Call `probe` until it returns Ok, and return its value.

    The first call is made at once and the last at the deadline. `interval` is in seconds, and grows by half each time
    up to `longest`, if that is more. `on_pending` gets each change of what was seen.

    Raise BrokenError as soon as the probe returns Broken, and WaitTimeout at the deadline: it states what was awaited,
    what was last seen, where, for how long and after how many tries.

    >>> wait_until("a number", lambda: Ok(42), deadline=Deadline.after(1))
    42
    """
    started = deadline.clock()
    tries = 0
    place = f" on {where}" if where else ""
    last = ""
    while True:
        final = deadline.passed
        answer = probe()
        tries += 1
        if isinstance(answer, Ok):
            return answer.value
        elapsed = deadline.clock() - started
        if isinstance(answer, Broken):
            broken = BrokenError(
                f"waited for {what}{place}; it can no longer come: {answer.reason} (after {elapsed:.1f} s)"
            )
            broken.cause = f"{what}: {answer.reason}"
            raise broken
        if answer.seen != last and on_pending is not None:
            on_pending(answer.seen)
        last = answer.seen
        if final:
            late = WaitTimeout(
                f"waited for {what}{place}; last seen: {last or 'nothing'} (after {elapsed:.1f} s and {tries} tries)"
            )
            late.cause = f"{what}: {last or 'nothing was seen'}, after {elapsed:.0f} s"
            raise late
        sleep(min(interval, deadline.remaining()))
        interval = max(interval, min(interval * 1.5, longest))
