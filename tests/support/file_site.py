"""A site of files on the loopback, such as that of the releases, which fails as a test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from local_server import QuietHandler, serving

BREAKS_OFF = 200


@dataclass
class FileSite:
    """What `files` holds by path, once each of `failures` has answered one request.

    A failure is a status, 0 for no failure, or 200 for a connection that breaks off in the middle.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def file_site() -> Iterator[FileSite]:
    """Serve it on 127.0.0.1."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            site.requests.append(self.path)
            content = site.files.get(self.path)
            failure = site.failures.pop(0) if site.failures else 0
            if content is None or failure not in (0, BREAKS_OFF):
                self.send_error(failure or 404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if failure == BREAKS_OFF else content)

    with serving(Handler) as port:
        site = FileSite(f"http://127.0.0.1:{port}")
        yield site
