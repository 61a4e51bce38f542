"""The two agents of a cluster, and their status in a gossip pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

AgentName = Literal["consul", "nomad"]
AGENTS: tuple[AgentName, ...] = ("consul", "nomad")

_STATUS = {0: "none", 1: "alive", 2: "leaving", 3: "left", 4: "failed"}


def serf_status(member: Mapping[str, Any]) -> str:
    """Return in a word what Consul's GET /v1/agent/members gives as a number (serf.MemberStatus).

    >>> serf_status({"Name": "i-1", "Status": 1}), serf_status({"Name": "i-2", "Status": 99})
    ('alive', 'unknown')
    """
    return _STATUS.get(member["Status"], "unknown")
