"""The credentials of roles that the controller has assumed, for the workers of pytest-xdist.

A profile with MFA asks for its code at the controller's terminal, once. The workers have no terminal, and a code is
good for one of them only, so they ask for the credentials through execnet's channel: these are on no command line and
in no file. Nobody is asked before a worker needs them, since most runs with pytest-xdist deploy nothing.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from nomad_testkit.errors import UsageError

_CHANNEL = "nomad_testkit_roles"
_CODE_SECONDS = 600.0
"""For the person who has to read a code off a device."""


def offer_roles(node: Any) -> None:
    """Let a worker that is about to start ask this process for the credentials of assumed roles."""
    channel = node.gateway.newchannel()

    def answer(region: str) -> None:
        from nomad_testkit.targets.aws.account import roles_for_worker

        said: dict[str, Any]
        try:
            said = {"roles": roles_for_worker(region or None)}
        except UsageError as error:
            said = {"error": str(error)}
        channel.send(json.dumps(said))

    channel.setcallback(answer)
    node.workerinput[_CHANNEL] = channel


def ask_for_roles(config: pytest.Config) -> None:
    """In a worker, have the controller asked where a profile wants an MFA code."""
    channel = getattr(config, "workerinput", {}).get(_CHANNEL)
    if channel is None:
        return
    from nomad_testkit.targets.aws import account

    def ask(region: str) -> dict[str, Any]:
        channel.send(region)
        said = json.loads(channel.receive(_CODE_SECONDS))
        if "error" in said:
            raise UsageError(said["error"])
        return dict(said["roles"])

    account.roles_from(ask)
