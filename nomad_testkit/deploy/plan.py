"""What to create, and in which order: pure data, made without a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomad_testkit.modules.steps import Step

if TYPE_CHECKING:
    from nomad_testkit.examples import Example
    from nomad_testkit.model import Network


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one deployment, in order; every resource bears the tag nomad-testkit-run = `run_id`."""

    run_id: str
    region: str
    steps: tuple[Step, ...]
    outputs: Mapping[str, Any]


def plan(
    example: Example,
    *,
    run_id: str,
    region: str,
    network: Network,
    image_id: str,
    public_key: str,
    inbound_cidrs: Sequence[str] = (),
) -> Plan:
    """Plan the deployment of an example."""
    raise NotImplementedError
