"""A proxy in front of an AWS API that loses answers, delays, answers 503 and closes connections: below retries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from forwarding import Forwarding
from local_server import serving

LOSE = "lose the answer"
CLOSE = "close the connection"
UNAVAILABLE = "503"
THROTTLE = "RequestLimitExceeded"
DELAY = "delay"
FAULTS = (LOSE, CLOSE, UNAVAILABLE, THROTTLE, DELAY)
DELAY_SECONDS = 0.3

_ERROR = (
    b"<Response><Errors><Error><Code>%s</Code><Message>Try again</Message></Error></Errors>"
    b"<RequestID>0</RequestID></Response>"
)
_IAM_ERROR = b"<ErrorResponse><Error><Code>%s</Code><Message>Try again</Message></Error></ErrorResponse>"

Strike = Callable[[str, int], str | None]
"""Which fault hits a call, by its action (``CreateRole``) and how many of that action there were before; or None."""


class Proxy:
    """What a proxy has seen."""

    def __init__(self) -> None:
        self.url = ""
        self.received: dict[str, int] = {}
        """How often each action came, botocore's own repetitions included."""
        self.struck: list[tuple[str, str]] = []
        """Each action that a fault has hit, and the fault."""


def first(fault: str, *actions: str) -> Strike:
    """Hit the first call of each of these actions; of every action where none is named."""
    return lambda action, before: fault if before == 0 and (not actions or action in actions) else None


@contextmanager
def faulty_proxy(endpoint_url: str, strike: Strike) -> Iterator[Proxy]:
    """Serve on 127.0.0.1 what stands for an AWS API and is as unreliable as `strike` says."""
    proxy = Proxy()
    with serving(_handler(urlsplit(endpoint_url).netloc, strike, proxy)) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


def _handler(upstream: str, strike: Strike, proxy: Proxy) -> type[Forwarding]:
    counting = threading.Lock()

    class Handler(Forwarding):
        def do_POST(self) -> None:
            body = self.body()
            (action,) = parse_qs(body.decode()).get("Action", ["unknown"])
            with counting:
                before = proxy.received.get(action, 0)
                proxy.received[action] = before + 1
                if (fault := strike(action, before)) is not None:
                    proxy.struck.append((action, fault))
            if fault == CLOSE:
                self.close_connection = True
                return
            if fault in (UNAVAILABLE, THROTTLE):
                ec2 = "/ec2/" in self.headers.get("Authorization", "")
                code = b"Unavailable" if fault == UNAVAILABLE else b"RequestLimitExceeded"
                self.reply(503, [], (_ERROR if ec2 else _IAM_ERROR) % code)
                return
            if fault == DELAY:
                time.sleep(DELAY_SECONDS)
            status, headers, content = self.forward(upstream, body)
            if fault == LOSE:
                self.close_connection = True
                return
            self.reply(status, headers, content)

    return Handler
