"""Run a command that has to end in time: ``python time_limit.py SECONDS COMMAND…``, for tox, which has no limit itself.

Where SUITES_END names a moment (in seconds since 1970), it has to end by then, too. A command whose time is up is
interrupted, so that it shows how far it got and destroys its clusters, and killed if it does not end. The same happens
when whoever started this ends first, e.g. a tox that was killed. Only the standard library is imported: the environment
of the wheel has nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

GRACE = 120.0
"""Seconds from the first interrupt to the second: a teardown takes at most this long."""
END_VARIABLE = "SUITES_END"
TIME_IS_UP = 124
"""The exit status, as timeout(1) has it."""
_ONE_PRESS = 2.0
"""Seconds in which two interrupts are one: Ctrl-C comes from the terminal and again from tox."""


class Limited:
    """A command in a process group of its own, unless it may read from a terminal."""

    def __init__(self, command: Sequence[str], *, grace: float = GRACE) -> None:
        self._command, self._grace = command, grace
        self._terminal = sys.stdin is not None and sys.stdin.isatty()
        self._interrupted = 0.0
        self._starter = os.getppid()
        # A shell in the background has SIGINT ignored in its commands, and nohup SIGHUP: tests send both.
        for number in (signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        output = None if self._terminal else subprocess.PIPE
        # Killed with this process, it leaves nothing either: clusters end with whoever holds them.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            start_new_session=not self._terminal,
            stdout=output,
            stderr=None if self._terminal else subprocess.STDOUT,
        )
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def wait(self, seconds: float) -> int:
        """Wait for its end, and return its exit status: 124 when its time was up, 128 and more for a signal's."""
        deadline = time.monotonic() + seconds
        while self._poll() is None:
            if os.getppid() != self._starter:
                return self._end("whoever started this has ended")
            if time.monotonic() > deadline:
                self._end(f"its {seconds:g} s are up")
                return TIME_IS_UP
        self._kill_group()
        return _shells(self._process.returncode)

    def _pass_on(self) -> None:
        """Pass on the output, as long as somebody reads it: a command that cannot write does not clean up either."""
        heard = True
        while self._process.stdout is not None and (some := os.read(self._process.stdout.fileno(), 65536)):
            heard = heard and _write(some)

    def _poll(self, seconds: float = 1.0) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def _end(self, why: str) -> int:
        _write(f"time_limit: {why}: interrupting {' '.join(self._command)}\n".encode())
        for grace in (self._grace, self._grace / 4):
            self._interrupt()
            if self._poll(grace) is not None:
                break
        else:
            _write(b"time_limit: it does not end; killing it\n")
        self._kill_group()
        return _shells(self._process.wait())

    def _on_signal(self, number: int, _: object) -> None:
        now = time.monotonic()
        # A terminal has told the command itself.
        if now - self._interrupted > _ONE_PRESS and not (self._terminal and number == signal.SIGINT):
            self._interrupted = now
            self._interrupt()

    def _interrupt(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._terminal:
                self._process.send_signal(signal.SIGINT)
            else:
                os.killpg(self._process.pid, signal.SIGINT)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._terminal:
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._relay.join(5)  # what has a session of its own may hold the output longer


def _write(some: bytes) -> bool:
    """Write to standard output; False when nobody reads it any more."""
    try:
        while some:
            some = some[os.write(1, some) :]
    except OSError:
        return False
    return True


def _shells(status: int) -> int:
    return status if status >= 0 else 128 - status


def main() -> int:
    """Run what the command line says."""
    seconds = min(float(sys.argv[1]), float(os.environ.get(END_VARIABLE, "inf")) - time.time())
    if seconds <= 0:
        _write(f"time_limit: no time is left: not running {' '.join(sys.argv[2:])}\n".encode())
        return TIME_IS_UP
    return Limited(sys.argv[2:]).wait(seconds)


if __name__ == "__main__":
    sys.exit(main())
