"""What ends a deployment that is alive: Ctrl-C, SIGTERM, SIGHUP and a time limit. None cuts a teardown short."""

from __future__ import annotations

import errno
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_TERMINATING = (signal.SIGTERM, signal.SIGHUP)
"""SIGHUP is what a closed terminal sends."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; a KeyboardInterrupt, since whoever handles one of them means both."""


class Expired(Terminated):
    """The time of a deployment was up; the message says how long it was."""


_expired: list[str] = []
"""Why the next SIGTERM comes, where it comes from a time limit."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise Terminated in the main thread, as Ctrl-C raises KeyboardInterrupt.

    SIGHUP stays ignored where it was, as nohup wants it.

    Elsewhere than in the main thread, which alone may set handlers, it changes nothing.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            without_terminal()
            raise Terminated("SIGHUP")
        raise Expired(_expired.pop()) if _expired else Terminated("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _heard(_TERMINATING)}
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) is handler:  # else somebody else has taken it over since
                signal.signal(number, old)


def _heard(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Give the signals to be handled: not SIGHUP where nohup has had it ignored."""
    return [one for one in numbers if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]


def without_terminal() -> None:
    """Let what goes to a terminal that has been closed go nowhere: an EIO would cut the teardown short."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:  # pytest and the progress have duplicates
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(null, descriptor, inheritable=descriptor <= 2)
    os.close(null)


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
    """Hold SIGINT, SIGTERM and SIGHUP back until the block has ended, then raise; `told` gets a line when one comes."""
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGHUP:
            without_terminal()
        told(f"{signal.Signals(number).name}: the cluster is being destroyed, which takes a few seconds; then it ends")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _heard((signal.SIGINT, *_TERMINATING))}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    if came:
        raise (KeyboardInterrupt() if came[0] == signal.SIGINT else Terminated(signal.Signals(came[0]).name))
