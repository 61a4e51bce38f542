"""Ctrl-C, SIGTERM, SIGHUP and the time limit end a deployment; none of them cuts a teardown short."""

from __future__ import annotations

import errno
import os
import signal
import termios
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_TERMINATING = (signal.SIGTERM, signal.SIGHUP)
"""A closed terminal sends SIGHUP."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; a KeyboardInterrupt, because callers handle both alike."""


class Expired(Terminated):
    """A deployment's time limit passed; the message states the limit."""


_expired: list[str] = []
"""The reason of the next SIGTERM, if a time limit sends it."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise Terminated in the main thread, as Ctrl-C raises KeyboardInterrupt.

    An ignored SIGHUP stays ignored, for nohup. Only the main thread may set handlers: in another, this does nothing.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            detach_terminal()
            raise Terminated("SIGHUP")
        raise Expired(_expired.pop()) if _expired else Terminated("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _handled(_TERMINATING)}
    try:
        yield
    finally:
        for number, old in before.items():
            if signal.getsignal(number) is handler:  # otherwise another handler has replaced it
                signal.signal(number, old)


def _handled(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return the signals to handle: without SIGHUP if it is ignored, as under nohup."""
    return [one for one in numbers if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]


def detach_terminal() -> None:
    """Redirect output from a closed terminal to /dev/null: an EIO would cut the teardown short."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:  # pytest and the progress hold duplicates
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(null, descriptor, inheritable=descriptor <= 2)
    os.close(null)


@contextmanager
def time_limit(seconds: float | None, why: str, report: Callable[[str], None]) -> Iterator[threading.Event]:
    """Raise Expired in the main thread after `seconds`, unless the block has ended; None means no limit.

    The event that is yielded is set then: code other than the block may catch the exception. `report` gets the reason,
    because a worker of pytest-xdist shows no interrupt. Use within `termination_raises`, which handles the signal.
    Outside the main thread this does nothing.
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
                report(why)
                _expired.append(why)
                # Directed at the main thread: a signal to another thread does not wake it from a wait.
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
def deferred(report: Callable[[str], None]) -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP until the block has ended, then raise; `report` gets a line for each signal."""
    came: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if number == signal.SIGHUP:
            detach_terminal()
        # A signal that interrupts a write may not write to the same stream ("reentrant call"): the line is lost then.
        with suppress(RuntimeError):
            report(f"{signal.Signals(number).name}: destroying the cluster first, which takes a few seconds")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _handled((signal.SIGINT, *_TERMINATING))}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    if came:
        raise (KeyboardInterrupt() if came[0] == signal.SIGINT else Terminated(signal.Signals(came[0]).name))
