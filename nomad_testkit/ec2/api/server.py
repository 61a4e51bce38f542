"""Serves moto's applications over HTTP and HTTPS: which service a request is for, errors as AWS words them."""

from __future__ import annotations

import io
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from uuid import uuid4
from wsgiref.types import StartResponse, WSGIEnvironment
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

from nomad_testkit.ec2.vpc.names import API_SERVICES
from nomad_testkit.errors import Ec2Error

log = logging.getLogger(__name__)

_REGIONAL = ("ec2", "autoscaling")
_IDLE = 120.0  # seconds that a kept-alive connection may be silent
_LARGEST_REQUEST = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class _Refusal(Exception):
    """An answer that moto has no part in."""

    service: str
    status: HTTPStatus
    code: str
    message: str


class ApiApplication:
    """The WSGI application: one request at a time, since moto is not thread-safe."""

    def __init__(self, region: str, lock: AbstractContextManager[object]) -> None:
        self._region = region
        self._lock = lock
        self._applications = {service: create_backend_app(service) for service in API_SERVICES}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        service = "ec2"
        try:
            service = self._service(environ)
            return self._answer(service, environ, start_response)
        except _Refusal as refusal:
            return _error(refusal, start_response)
        except NotImplementedError as error:
            # Not 500, which SDKs repeat.
            log.warning("%s: not implemented: %s", service, error)
            message = str(error) or "not implemented"
            return _error(_Refusal(service, HTTPStatus.NOT_IMPLEMENTED, "NotImplemented", message), start_response)
        except Exception as error:
            log.exception("a request to %s failed", service)
            message = f"{type(error).__name__}: {error}"
            return _error(_Refusal(service, HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", message), start_response)

    def _answer(self, service: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Read before the lock is taken, so that a slow client keeps nobody else waiting. Only chunked bodies have no
        # length; moto reads those itself.
        if length := environ.get("CONTENT_LENGTH"):
            if int(length) > _LARGEST_REQUEST:
                raise _Refusal(
                    service, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLarge", f"{length} bytes are too many"
                )
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length)))
        # moto takes a region from a user agent, and an account from this header; both are settled here.
        environ["HTTP_USER_AGENT"] = ""
        environ.pop("HTTP_X_MOTO_ACCOUNT_ID", None)
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
            started.append((status, headers))
            return lambda _data: None

        with self._lock:
            answer = self._applications[service](environ, start)
            try:
                body = b"".join(answer)
            finally:
                if close := getattr(answer, "close", None):
                    close()
        status, headers = started[-1]
        if status.startswith("5") and any(
            name.lower() == "content-type" and "html" in value for name, value in headers
        ):
            number, _, phrase = status.partition(" ")
            raise _Refusal(service, HTTPStatus(int(number)), "InternalError", phrase)
        start_response(status, headers)
        return [body]

    def _service(self, environ: WSGIEnvironment) -> str:
        """Tell a request's service by its signature, else by the host's name."""
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        label = environ.get("HTTP_HOST", "").split(".")[0].lower()
        try:
            scope = authorization.split("Credential=", 1)[1].split(",")[0].split("/")
            region, service = str(scope[-3]), str(scope[-2]).lower()
        except IndexError:
            if environ.get("REQUEST_METHOD") == "POST" and label != "s3":
                raise _Refusal(
                    label if label in API_SERVICES else "ec2",
                    HTTPStatus.FORBIDDEN,
                    "MissingAuthenticationToken",
                    "Request is missing Authentication Token",
                ) from None
            return label if label in API_SERVICES else "s3"
        if service not in self._applications:
            raise _Refusal(
                "json" if "HTTP_X_AMZ_TARGET" in environ else service,
                HTTPStatus.NOT_IMPLEMENTED,
                "NotImplemented",
                f"The embedded EC2 offers {', '.join(API_SERVICES)}; a request came for {service}.",
            )
        if service in _REGIONAL and region != self._region:
            raise _Refusal(
                service,
                HTTPStatus.FORBIDDEN,
                "SignatureDoesNotMatch",
                f"Credential should be scoped to a valid region, not '{region}'. "
                f"The region of this cloud is {self._region}.",
            )
        return service


def _error(refusal: _Refusal, start_response: StartResponse) -> list[bytes]:
    """Answer with an error in the form that the service's SDK reads."""
    request_id = uuid4()
    error = f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
    if refusal.service == "ec2":
        text = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    elif refusal.service == "s3":
        text = f"<Error>{error}<RequestId>{request_id}</RequestId></Error>"
    else:
        side = "Receiver" if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "Sender"
        text = (
            f"<ErrorResponse><Error><Type>{side}</Type>{error}</Error><RequestId>{request_id}</RequestId>"
            "</ErrorResponse>"
        )
    kind, body = "text/xml", ('<?xml version="1.0" encoding="UTF-8"?>\n' + text).encode()
    if refusal.service == "json":
        kind = "application/x-amz-json-1.0"
        body = json.dumps({"__type": refusal.code, "message": refusal.message}).encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    start_response(f"{refusal.status.value} {refusal.status.phrase}", headers)
    return [body]


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
