"""The instance metadata service (IMDS), versions 1 and 2: HTTP at 169.254.169.254, one answer for each caller.

Paths and answers follow the EC2 User Guide, "Instance metadata categories" and "Use the Instance Metadata Service".
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from nomad_testkit.ec2.imds.tree import VERSIONS, find, tree
from nomad_testkit.ec2.machines.spec import InstanceView
from nomad_testkit.errors import Ec2Error

log = logging.getLogger(__name__)

Lookup = Callable[[str], InstanceView | None]

_TOKEN_PATH = "/latest/api/token"  # noqa: S105 (a path)
_TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 (a header)
_TTL = "X-aws-ec2-metadata-token-ttl-seconds"
_LONGEST_TTL = 21_600  # seconds, six hours
_DEFAULT_HOPS = 64
_IDLE = 60.0  # seconds that a kept-alive connection may be silent

_PAGE = """<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head><title>{code} - {phrase}</title></head>
 <body><h1>{code} - {phrase}</h1></body>
</html>
"""


class TokenMint:
    """Session tokens that carry their instance and their end, signed, so that nothing has to be kept."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock

    def make(self, instance_id: str, ttl: int) -> str:
        """Make a token that is valid for `ttl` seconds, for this instance only."""
        facts = f"{instance_id}.{int(self._clock()) + ttl}"
        return f"{facts}.{self._sign(facts)}"

    def remaining(self, token: str, instance_id: str) -> int | None:
        """Tell for how many seconds a token is still valid, or None where it is not."""
        facts, _, signature = token.rpartition(".")
        owner, _, end = facts.partition(".")
        if owner != instance_id or not hmac.compare_digest(signature.encode(), self._sign(facts).encode()):
            return None
        left = int(end) - int(self._clock())
        return left if left > 0 else None

    def _sign(self, facts: str) -> str:
        return hmac.new(self._key, facts.encode(), hashlib.sha256).hexdigest()


class MetadataService:
    """Serves each instance its own metadata; who asks is known by the source address.

    `lookup` gives the live instance that has a private address.
    """

    def __init__(self, lookup: Lookup, *, mint: TokenMint | None = None) -> None:
        self.lookup = lookup
        self.mint = mint or TokenMint()
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """The port in use."""
        assert self._server is not None, "it does not serve yet"
        return int(self._server.server_address[1])

    def serve(self, address: str, port: int = 80) -> None:
        """Serve in threads; with port 0, on a free port. Raises Ec2Error."""
        handler = type("_Handler", (_MetadataHandler,), {"service": self})
        try:
            self._server = _Server((address, port), handler)
        except OSError as error:
            raise Ec2Error(f"the metadata service cannot listen on {address} port {port}: {error}") from error
        threading.Thread(target=self._server.serve_forever, name="metadata", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("a request of %s ended early", client_address, exc_info=True)


class _MetadataHandler(BaseHTTPRequestHandler):
    service: MetadataService
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    timeout = _IDLE
    # The answers are small, and a host's boot waits for each of them.
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """Give a session token."""
        self._drop_body()
        view = self._caller()
        if view is None:
            return
        if urlsplit(self.path).path.rstrip("/") != _TOKEN_PATH:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        if "X-Forwarded-For" in self.headers:
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        ttl = self.headers.get(_TTL, "")
        if not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl) <= _LONGEST_TTL:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        # A container behind one more hop is meant to get no token unless the instance's hop limit allows it.
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, view.hop_limit)
        self._answer(HTTPStatus.OK, self.service.mint.make(view.instance_id, int(ttl)).encode(), {_TTL: ttl})
        self.wfile.flush()
        self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _DEFAULT_HOPS)

    def do_GET(self) -> None:
        """Give metadata, dynamic data or user data."""
        self._drop_body()
        view = self._caller()
        if view is None:
            return
        headers: dict[str, str] = {}
        token = self.headers.get(_TOKEN)
        if token is not None:
            left = self.service.mint.remaining(token, view.instance_id)
            if left is None:
                self._refuse(HTTPStatus.UNAUTHORIZED)
                return
            headers[_TTL] = str(left)
        elif view.token_required:
            self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        version, *path = [unquote(part) for part in urlsplit(self.path).path.split("/") if part] or [""]
        if not version:
            self._answer(HTTPStatus.OK, "\n".join(VERSIONS).encode(), headers)
            return
        content = find(tree(view), path) if version in VERSIONS else None
        if content is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, content, headers)

    do_HEAD = do_GET

    def _refuse_method(self) -> None:
        self._drop_body()
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)

    do_POST = do_DELETE = do_PATCH = _refuse_method

    def _caller(self) -> InstanceView | None:
        """Find out who asks, or refuse."""
        view = self.service.lookup(self.client_address[0])
        if view is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        if not view.metadata_enabled:
            self._refuse(HTTPStatus.FORBIDDEN)
            return None
        return view

    def _refuse(self, status: HTTPStatus) -> None:
        page = _PAGE.format(code=status.value, phrase=status.phrase).encode()
        self._answer(status, page, {"Content-Type": "text/html"})

    def _answer(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", **headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drop_body(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if length.isascii() and length.isdigit():
            self.rfile.read(min(int(length), 1 << 16))

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s: " + format, self.client_address[0], *args)
