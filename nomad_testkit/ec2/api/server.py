"""Serves moto's applications over HTTP and HTTPS: which service a request is for, errors as AWS words them."""

from __future__ import annotations

import io
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server import werkzeug_app
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

from nomad_testkit.ec2.api.authorization import AUTHORIZE
from nomad_testkit.ec2.api.principals import Principals
from nomad_testkit.ec2.api.refusals import Refusal, Unauthenticated, unauthenticated
from nomad_testkit.ec2.api.signatures import Presented
from nomad_testkit.ec2.vpc.names import API_SERVICES
from nomad_testkit.errors import Ec2Error

log = logging.getLogger(__name__)

_REGIONAL = ("ec2", "autoscaling")
_IDLE = 120.0  # seconds that a kept-alive connection may be silent
_LARGEST_REQUEST = 64 << 20  # bytes


class ApiApplication:
    """The WSGI application: one request at a time, since moto is not thread-safe.

    `principals` says whose an access key is, and `decide` what they may do; the lock is held while they are asked.
    """

    def __init__(
        self, region: str, lock: AbstractContextManager[object], principals: Principals, decide: Callable[..., None]
    ) -> None:
        self._region = region
        self._lock = lock
        self._principals, self._decide = principals, decide
        # Web pages have no business here, so nobody else's may read an answer.
        werkzeug_app.DISABLE_GLOBAL_CORS = True
        self._applications = {service: create_backend_app(service) for service in API_SERVICES}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        service = "ec2"
        try:
            _refuse_browsers(environ)
            signer = self._signer(environ)
            service = signer.service
            return self._answer(signer, environ, start_response)
        except Refusal as refusal:
            return refusal.answer(start_response)
        except NotImplementedError as error:
            # Not 500, which SDKs repeat.
            log.warning("%s: not implemented: %s", service, error)
            message = str(error) or "not implemented"
            return Refusal(service, HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", message).answer(start_response)
        except Exception as error:
            log.exception("a request to %s failed", service)
            message = f"{type(error).__name__}: {error}"
            return Refusal(service, HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", message).answer(start_response)

    def _answer(self, signer: Presented, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        service = signer.service
        # Read before the lock is taken, so that a slow client keeps nobody else waiting.
        body = _body(service, environ)
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
            started.append((status, headers))
            return lambda _data: None

        with self._lock:
            principal = self._principals.find(signer.access_key_id)
            signer.verify(environ, body, principal, datetime.now(UTC))
            environ[AUTHORIZE] = partial(self._decide, principal)
            # moto takes a region from a user agent, and an account from this header; both are settled here.
            environ["HTTP_USER_AGENT"] = ""
            environ.pop("HTTP_X_MOTO_ACCOUNT_ID", None)
            environ["HTTP_AUTHORIZATION"] = signer.authorization
            answer = self._applications[service](environ, start)
            try:
                content = b"".join(answer)
            finally:
                if close := getattr(answer, "close", None):
                    close()
        status, headers = started[-1]
        if status.startswith("5") and any(
            name.lower() == "content-type" and "html" in value for name, value in headers
        ):
            number, _, phrase = status.partition(" ")
            raise Refusal(service, HTTPStatus(int(number)), "InternalError", phrase)
        start_response(status, headers)
        return [content]

    def _signer(self, environ: WSGIEnvironment) -> Presented:
        """Tell whose a request says it is, and for which service; the host's name words a refusal of one that does not.

        AWS lets anybody call a few actions, such as AssumeRoleWithWebIdentity: here nobody could vouch for the caller.
        """
        signer = Presented.of(environ)
        if signer is None:
            signed = "HTTP_AUTHORIZATION" in environ or "X-Amz-Signature=" in environ.get("QUERY_STRING", "")
            raise unauthenticated(
                _addressed(environ), Unauthenticated.INCOMPLETE if signed else Unauthenticated.UNSIGNED
            )
        service = signer.service
        if service not in self._applications:
            raise Refusal(
                "json" if "HTTP_X_AMZ_TARGET" in environ else service,
                HTTPStatus.NOT_IMPLEMENTED,
                "NotImplemented",
                f"The embedded EC2 offers {', '.join(API_SERVICES)}; a request came for {service}.",
            )
        if service in _REGIONAL and signer.region != self._region:
            raise Refusal(
                service,
                HTTPStatus.FORBIDDEN,
                "SignatureDoesNotMatch",
                f"Credential should be scoped to a valid region, not '{signer.region}'. "
                f"The region of this cloud is {self._region}.",
            )
        return signer


def _refuse_browsers(environ: WSGIEnvironment) -> None:
    """Refuse what a web page makes a browser send: a page has no credentials, and needs to learn nothing."""
    if "HTTP_ORIGIN" in environ or environ["REQUEST_METHOD"] == "OPTIONS":
        raise Refusal("ec2", HTTPStatus.FORBIDDEN, "AccessDenied", "Web pages may not ask the embedded EC2")


def _addressed(environ: WSGIEnvironment) -> str:
    """Guess the service of a request that nobody has signed well: by what its scope says, else by the host's name."""
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/(\w+)/", environ.get("HTTP_AUTHORIZATION", ""))
    label = scope[1] if scope else environ.get("HTTP_HOST", "").split(".")[0].lower()
    if label in API_SERVICES:
        return label
    return "ec2" if environ["REQUEST_METHOD"] == "POST" else "s3"


def _body(service: str, environ: WSGIEnvironment) -> bytes:
    """Read a request's body, and leave it to be read again."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length <= _LARGEST_REQUEST:
        chunked = environ.get("wsgi.input_terminated", False)
        body = bytes(environ["wsgi.input"].read(_LARGEST_REQUEST + 1 if chunked else length))
        length = max(length, len(body))
    if length > _LARGEST_REQUEST:
        raise Refusal(service, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLarge", f"{length} bytes are too many")
    environ["wsgi.input"] = io.BytesIO(body)
    return body


class _RequestHandler(MotoRequestHandler):  # type: ignore[misc]
    protocol_version = "HTTP/1.1"
    timeout = _IDLE
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        log.debug(message.rstrip(), *args)


class ApiServer(ThreadedWSGIServer):
    """An HTTP or HTTPS server in threads."""

    daemon_threads = True

    def __init__(
        self, address: str, port: int, application: ApiApplication, context: ssl.SSLContext | None = None
    ) -> None:
        # werkzeug ends the process when it cannot bind, so it gets a socket that is bound.
        try:
            listener = socket.create_server((address, port), backlog=128)
        except OSError as error:
            raise Ec2Error(f"the cloud's API cannot listen on {address} port {port}: {error}") from error
        with listener:
            super().__init__(address, port, application, _RequestHandler, fd=listener.fileno())
        self._context = context
        threading.Thread(target=self.serve_forever, name=f"API port {self.port}", daemon=True).start()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its handshake comes in its own thread, where it delays no other client."""
        connection, peer = super().get_request()
        if self._context is not None:
            connection.settimeout(_IDLE)
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, peer

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection from %s ended early", client_address, exc_info=True)

    def log(self, type: str, message: str, *args: Any) -> None:
        log.debug(message.rstrip(), *args)

    def stop(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
