"""An endpoint that passes requests on to an AWS API, and notes their actions: for programs that make their own."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length")


@contextmanager
def recording(endpoint_url: str) -> Iterator[tuple[str, list[str]]]:
    """Give a URL that stands for another, and a list that gets each call, as ``ec2:RunInstances``."""
    calls: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(urlsplit(endpoint_url).netloc, calls))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _action(target: str | None, body: bytes, path: str) -> str:
    """Find an action's name where each of AWS's protocols has it (https://smithy.io/2.0/aws/protocols/index.html)."""
    if target is not None:
        return target.rpartition(".")[2]
    (action,) = parse_qs(body.decode(errors="replace")).get("Action") or [path.rpartition("/")[2]]
    return action


def _handler(upstream: str, calls: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            scope = re.search(r"Credential=[^/]+/\d+/[^/]+/(\w+)/", self.headers["Authorization"])
            assert scope is not None
            calls.append(f"{scope[1]}:{_action(self.headers.get('X-Amz-Target'), body, self.path)}")
            connection = http.client.HTTPConnection(upstream, timeout=60)
            try:
                connection.request("POST", self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            finally:
                connection.close()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler
