"""An endpoint that passes requests on to an AWS API, and notes their actions: for programs that make their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from forwarding import Forwarding
from local_server import serving


@contextmanager
def recording(endpoint_url: str) -> Iterator[tuple[str, list[str]]]:
    """Give a URL that stands for another, and a list that gets each call, as ``ec2:RunInstances``."""
    calls: list[str] = []
    with serving(_handler(urlsplit(endpoint_url).netloc, calls)) as port:
        yield f"http://127.0.0.1:{port}", calls


def _action(target: str | None, body: bytes, path: str) -> str:
    """Find an action's name where each of AWS's protocols has it (https://smithy.io/2.0/aws/protocols/index.html)."""
    if target is not None:
        return target.rpartition(".")[2]
    (action,) = parse_qs(body.decode(errors="replace")).get("Action") or [path.rpartition("/")[2]]
    return action


def _handler(upstream: str, calls: list[str]) -> type[Forwarding]:
    class Handler(Forwarding):
        def do_POST(self) -> None:
            body = self.body()
            scope = re.search(r"Credential=[^/]+/\d+/[^/]+/(\w+)/", self.headers["Authorization"])
            assert scope is not None
            calls.append(f"{scope[1]}:{_action(self.headers.get('X-Amz-Target'), body, self.path)}")
            self.reply(*self.forward(upstream, body))

    return Handler
