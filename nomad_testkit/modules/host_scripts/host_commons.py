"""What every script on a host needs: its log, its way to fail, waiting, and HTTP to services beside it.

Kept free of slow imports: where one machine boots many hosts at once, Python's start-up is what costs.
"""

from __future__ import annotations

import http.client
import json
import ssl  # http.client imports it anyway
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


class Tls:
    """How to speak HTTPS: whom to trust, what to show, and the name that the other's certificate has to hold.

    An empty `server_name` means the address that is connected to; an empty `cert_file`, no certificate to show.
    """

    def __init__(
        self, *, ca_file: str = "", ca_path: str = "", cert_file: str = "", key_file: str = "", server_name: str = ""
    ) -> None:
        self.trusted = ca_file or ca_path
        self.server_name = server_name
        self._paths = (ca_file, ca_path, cert_file, key_file)

    def context(self) -> ssl.SSLContext:
        """Read the files; raises HostFault naming one that cannot be used."""
        ca_file, ca_path, cert_file, key_file = self._paths
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        named = ca_file or ca_path
        try:
            if ca_path:
                # The agents take a folder of any files; OpenSSL only one whose names it has hashed.
                for path in sorted(path for path in Path(ca_path).iterdir() if path.is_file()):
                    named = str(path)
                    context.load_verify_locations(named)
            else:
                context.load_verify_locations(ca_file)
            if cert_file:
                named = f"{cert_file} with {key_file}"
                context.load_cert_chain(cert_file, key_file)
        except (OSError, ValueError) as error:
            raise HostFault(f"{named} cannot be used for TLS: {error}") from None
        return context


class Service:
    """An HTTP service, reached over one connection that is kept; with `tls`, an HTTPS service.

    Never by a proxy: the services meant are link-local, on the host itself, or in its cluster.
    """

    def __init__(self, host: str, port: int, *, timeout: float = 5.0, tls: Tls | None = None) -> None:
        scheme, usual = ("https", 443) if tls else ("http", 80)
        self.name = f"{scheme}://{host}" if port == usual else f"{scheme}://{host}:{port}"
        self._tls = tls
        self._connection = (
            _TlsConnection(host, port, timeout=timeout, tls=tls)
            if tls
            else http.client.HTTPConnection(host, port, timeout=timeout)
        )

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send one request; raises OSError, or HTTPException where the answer is not HTTP.

        Raises HostFault where the service's certificate is refused: waiting makes it no better.
        """
        reused = self._connection.sock is not None
        try:
            return self._send(method, path, headers or {}, body)
        except ssl.SSLCertVerificationError as error:
            self._connection.close()
            trusted = self._tls.trusted if self._tls else ""
            raise HostFault(
                f"the certificate of {self.name} is refused: {error.verify_message}; expected one by {trusted}"
            ) from None
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            # A server may close a kept connection at any time; a fresh one tells whether it is gone.
            if not reused or isinstance(error, TimeoutError):
                raise
        try:
            return self._send(method, path, headers or {}, body)
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connection; a later request opens another."""
        self._connection.close()

    def _send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        return Answer(response.status, response.read())


class _TlsConnection(http.client.HTTPConnection):
    """A connection that checks the name that it is told to, which need not be the address."""

    def __init__(self, host: str, port: int, *, timeout: float, tls: Tls) -> None:
        super().__init__(host, port, timeout=timeout)
        self._context = tls.context()
        self._server_name = tls.server_name or host

    def connect(self) -> None:
        super().connect()
        plain = self.sock
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=self._server_name)
        except BaseException:
            plain.close()
            raise


UNREACHABLE = (OSError, http.client.HTTPException)
"""What `Service.request` raises when nobody answers."""
