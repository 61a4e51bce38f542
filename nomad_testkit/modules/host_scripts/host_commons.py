"""What every script on a host needs: its log, its way to fail, waiting, and HTTP to services beside it.

Kept free of slow imports: where one machine boots many hosts at once, Python's start-up is what costs.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path

TYPE_CHECKING = False  # not imported from typing, whose import takes longer than this whole module's
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")


class HostFault(Exception):
    """The host, its agent or its cloud is not as the script needs it; the script ends with status 1."""


def script_name() -> str:
    """Name the running script as its user called it."""
    return Path(sys.argv[0]).name or "nomad-testkit"


def log(message: str) -> None:
    """Write a line with the time in UTC to stderr, which user data sends to /var/log/user-data.log."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{moment} {script_name()}: {message}", file=sys.stderr, flush=True)


class Clock:
    """Time, which tests replace."""

    def now(self) -> float:
        """Give seconds on a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        time.sleep(seconds)


class Waiting(Exception):
    """Raised by a probe whose condition does not hold yet; its text is what was seen instead."""


def wait_until(
    what: str,
    probe: Callable[[], T],
    seconds: float,
    *,
    clock: Clock,
    interval: float = 0.25,
    longest: float = 0.25,
) -> T:
    """Call `probe` until it stops raising `Waiting`, and return what it returns.

    The pause between two calls grows from `interval` to `longest`, both in seconds. The log says what is
    awaited, when that changes and every 15 s. Raises HostFault when `seconds` are over; a HostFault of the
    probe ends the wait.
    """
    start = clock.now()
    logged_at, logged = start, ""
    while True:
        try:
            return probe()
        except Waiting as waiting:
            seen = str(waiting)
        passed = clock.now() - start
        if passed >= seconds:
            raise HostFault(f"gave up after {passed:.0f} s of waiting for {what}: {seen}")
        if seen != logged or clock.now() - logged_at >= 15:
            log(f"waiting for {what}: {seen} ({passed:.0f} of {seconds:.0f} s)")
            logged_at, logged = clock.now(), seen
        clock.sleep(min(interval, seconds - passed))
        interval = min(longest, interval * 1.5)


class Answer:
    """An HTTP response."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body

    @property
    def text(self) -> str:
        """The body, whatever its bytes, without space around it."""
        return self.body.decode("utf-8", "replace").strip()

    def json(self) -> Any:
        """Parse the body; raises ValueError where it is not JSON."""
        return json.loads(self.body)


class Service:
    """A plain HTTP service, reached over one connection that is kept.

    Never by a proxy and never by a look-up: the services meant are link-local, or on the host itself.
    """

    def __init__(self, host: str, port: int, *, timeout: float = 5.0) -> None:
        self.name = f"http://{host}" if port == 80 else f"http://{host}:{port}"
        self._connection = http.client.HTTPConnection(host, port, timeout=timeout)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request; raises OSError, or HTTPException where the answer is not HTTP."""
        reused = self._connection.sock is not None
        try:
            return self._send(method, path, headers or {})
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            # A server may close a kept connection at any time; a fresh one tells whether it is gone.
            if not reused or isinstance(error, TimeoutError):
                raise
        try:
            return self._send(method, path, headers or {})
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; a later request opens another."""
        self._connection.close()

    def _send(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        self._connection.request(method, path, headers=dict(headers))
        response = self._connection.getresponse()
        return Answer(response.status, response.read())


UNREACHABLE = (OSError, http.client.HTTPException)
"""What `Service.request` raises when nobody answers."""
