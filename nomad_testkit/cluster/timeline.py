"""When each host of a deployment came to each phase of its boot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PENDING, BOOTING, USER_DATA, CONSUL_JOINED, NOMAD_READY = (
    "pending",
    "booting",
    "user data",
    "Consul joined",
    "Nomad ready",
)
PHASES = (PENDING, BOOTING, USER_DATA, CONSUL_JOINED, NOMAD_READY)
"""In the order in which a host comes to them; one that runs no Nomad ends with the last but one."""


@dataclass(frozen=True)
class HostTimeline:
    """One host's phases, as far as it came; `entered` has seconds since the start of the deployment.

    >>> HostTimeline("i-1", "servers", "us-east-1a", "172.31.0.4", {"pending": 1.5, "booting": 2.0}).phase
    'booting'
    """

    instance_id: str
    group: str
    zone: str
    private_ip: str
    entered: Mapping[str, float] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """The last phase that the host has come to."""
        return max(self.entered, key=PHASES.index, default=PENDING)
