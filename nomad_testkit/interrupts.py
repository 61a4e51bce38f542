"""Ctrl-C and SIGTERM while a deployment is alive: both end it with a teardown, and neither cuts a teardown short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; a KeyboardInterrupt, since whoever handles one of them means both."""


@contextmanager
def termination_raises() -> Iterator[None]:
    """Make SIGTERM raise Terminated in the main thread, as Ctrl-C raises KeyboardInterrupt.

    Elsewhere than in the main thread, which alone may set handlers, it changes nothing.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated("SIGTERM")

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
