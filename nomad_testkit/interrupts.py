"""What ends a deployment that is alive: Ctrl-C, SIGTERM and a time limit. None of them cuts a teardown short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; a KeyboardInterrupt, since whoever handles one of them means both."""


class Expired(Terminated):
    """The time of a deployment was up; the message says how long it was."""


_expired: list[str] = []
"""Why the next SIGTERM comes, where it comes from a time limit."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Make SIGTERM raise Terminated in the main thread, as Ctrl-C raises KeyboardInterrupt.

    Elsewhere than in the main thread, which alone may set handlers, it changes nothing.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        raise Expired(_expired.pop()) if _expired else Terminated("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handler:  # else somebody else has taken it over since
            signal.signal(signal.SIGTERM, before)


@contextmanager
def time_limit(seconds: float | None, why: str, told: Callable[[str], None]) -> Iterator[threading.Event]:
    """Raise Expired in the main thread after so many seconds, unless the block has ended; None is any time.

    The event that it lends is set then, for the one who ends the block may not be the one who gets the exception.

    `told` gets to know why, since a worker of pytest-xdist shows no interrupt. Within `termination_raises`, which takes
    the signal. Elsewhere than in the main thread it changes nothing.
    """
    main, expired = threading.main_thread(), threading.Event()
    if seconds is None or threading.current_thread() is not main:
        yield expired
        return
    lock, over = threading.Lock(), False

    def expire() -> None:
        with lock:
            if not over:
                expired.set()
                told(why)
                _expired.append(why)
                # To this very thread: a signal that another one gets does not wake it from a wait.
                signal.pthread_kill(main.ident or 0, signal.SIGTERM)

    timer = threading.Timer(max(0.0, seconds), expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        with lock:
            over = True
        timer.cancel()


@contextmanager
def deferred(told: Callable[[str], None]) -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block has ended, then raise; `told` gets a line when one comes."""
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        told(f"{signal.Signals(number).name}: the cluster is being destroyed, which takes a few seconds; then it ends")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    if came:
        raise (Terminated("SIGTERM") if came[0] == signal.SIGTERM else KeyboardInterrupt())
