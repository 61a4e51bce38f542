"""An AWS API that answers some calls as a test says, and passes the others on to another one: for botocore to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from forwarding import Forwarding
from local_server import serving


@dataclass(frozen=True)
class Call:
    """One request of AWS's Query protocol."""

    region: str
    service: str
    action: str
    parameters: Mapping[str, str]


Answer = Callable[[Call], tuple[int, str] | None]
"""Gives a status and an XML document, or None to pass the call on."""


@dataclass
class ScriptedAws:
    """Where it is, and what it has been asked."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)

    def count(self, action: str) -> int:
        """Count the calls of an action."""
        return sum(call.action == action for call in self.calls)


def ec2_error(code: str, message: str = "no", status: int = 403) -> tuple[int, str]:
    """Refuse as EC2 does."""
    return (
        status,
        f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors></Response>",
    )


@contextmanager
def scripted_aws(answer: Answer, upstream: str | None = None) -> Iterator[ScriptedAws]:
    """Serve it on 127.0.0.1."""
    served = ScriptedAws()
    with serving(_handler(answer, upstream and urlsplit(upstream).netloc, served)) as port:
        served.url = f"http://127.0.0.1:{port}"
        yield served


def _handler(answer: Answer, upstream: str | None, served: ScriptedAws) -> type[Forwarding]:
    class Handler(Forwarding):
        def do_POST(self) -> None:
            body = self.body()
            scope = re.search(r"Credential=[^/]+/[0-9]+/([^/]+)/(\w+)/", self.headers["Authorization"])
            assert scope is not None
            parameters = dict(parse_qsl(body.decode(errors="replace")))
            call = Call(scope[1], scope[2], parameters.get("Action", ""), parameters)
            served.calls.append(call)
            found = answer(call)
            if found is not None:
                self.reply(found[0], [("Content-Type", "text/xml")], found[1].encode())
            elif upstream is not None:
                self.reply(*self.forward(upstream, body))
            else:
                self.reply(400, [], ec2_error("UnknownAction")[1].encode())

    return Handler
