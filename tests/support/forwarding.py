"""An HTTP handler that passes requests on to another server of this machine, and answers with what it is given."""

from __future__ import annotations

import http.client

from local_server import QuietHandler

_HOP_BY_HOP = ("connection", "transfer-encoding", "content-length")


class Forwarding(QuietHandler):
    """What a proxy of an AWS API has in common, whatever it does with the answers."""

    protocol_version = "HTTP/1.0"

    def forward(self, upstream: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send the request on, and give the answer's status, headers and content."""
        connection = http.client.HTTPConnection(upstream, timeout=60)
        try:
            connection.request("POST", self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Answer the request."""
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
