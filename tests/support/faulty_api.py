"""An API that refuses, throttles or does not answer: faults that are put into boto3's clients, by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

Client = Callable[[str], Any]

REFUSED = ("UnauthorizedOperation", "not you")
THROTTLED = ("RequestLimitExceeded", "Request limit exceeded.")


def refusal(code: str, message: str, operation: str = "Any") -> ClientError:
    """Make the error that boto3 raises for AWS's answer."""
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


@contextmanager
def faults(client: Client, services: Sequence[str], strike: Callable[[str, bool], Exception | None]) -> Iterator[None]:
    """Let calls of these services fail, those of paginators too, as botocore does when it has given up.

    `strike` is asked twice for each call, by the operation's name (``TerminateInstances``): before it is made, and when
    it has been carried out, where only a lost answer makes sense. It gives the error, or None.
    """

    def before(model: Any, **_: Any) -> None:
        if (error := strike(model.name, False)) is not None:
            raise error

    def after(model: Any, **_: Any) -> None:
        if (error := strike(model.name, True)) is not None:
            raise error

    registered = [(client(service).meta.events, service) for service in services]
    for events, service in registered:
        events.register(f"before-call.{service}", before)
        events.register(f"after-call.{service}", after)
    try:
        yield
    finally:
        for events, service in registered:
            events.unregister(f"before-call.{service}", before)
            events.unregister(f"after-call.{service}", after)


def at_random(seed: int, share: float) -> Callable[[str, bool], Exception | None]:
    """Refuse, throttle or leave unanswered a share of the calls."""
    chance = random.Random(seed)

    def strike(operation: str, carried_out: bool) -> Exception | None:
        if chance.random() >= share / 2:  # each call is asked for twice
            return None
        if carried_out:
            return ReadTimeoutError(endpoint_url="https://ec2.invalid")
        return refusal(*chance.choice((REFUSED, THROTTLED)), operation)

    return strike
