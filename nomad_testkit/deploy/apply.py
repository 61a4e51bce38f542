"""Applying a plan: one call after the other, each journaled before it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_testkit.deploy.plan import Plan
    from nomad_testkit.journal import Journal
    from nomad_testkit.model import Progress
    from nomad_testkit.wait import Deadline

Outputs = Mapping[str, Any]
"""What a deployment tells, under upstream's names: ``asg_name_servers``, ``security_group_id_clients``..."""


def apply(
    plan: Plan,
    client: Callable[[str], Any],
    journal: Journal,
    *,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> Outputs:
    """Carry out a plan's steps. Raises DeployError."""
    raise NotImplementedError
