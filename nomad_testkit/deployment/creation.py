"""How the resources of a run are created: by a plan that an example.toml makes, or by Terraform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.demand import demands
from nomad_testkit.deployment.plan import plan
from nomad_testkit.deployment.preflight import survey
from nomad_testkit.deployment.readiness import expected_hosts
from nomad_testkit.deployment.tag_in_use import claim_tags, discovery_tags, refuse_tags_in_use
from nomad_testkit.deployment.terraform.apply import apply_terraform
from nomad_testkit.errors import UsageError
from nomad_testkit.examples.terraform import TerraformExample

if TYPE_CHECKING:
    from nomad_testkit.deployment.plan import Plan
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.runs.run import Run
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import Target
    from nomad_testkit.wait import Deadline


@dataclass(frozen=True)
class Created:
    """What was created, as far as the wait for it and its users need that."""

    example: Example
    """As it was deployed."""
    outputs: Mapping[str, Any]
    hosts: Mapping[str, int]
    """How many hosts each group has."""
    ssh_ports: Mapping[str, int] = field(default_factory=dict)
    capacity_seconds: Mapping[str, float | None] = field(default_factory=dict)


Creation = Callable[["Deadline", "Progress"], Created]
"""Creates, until the deadline; what it raises, its makers tell."""


def creation(
    example: Example,
    run: Run,
    *,
    public_key: str,
    target: Target,
    tags: Mapping[str, str],
    settings: Settings,
    progress: Progress,
) -> Creation:
    """Look at what an example asks for, and whom its agents would join, and give what creates it.

    Raises ExampleError for what the target does not have, UsageError for a budget that cannot be held and for a
    discovery tag that is in use, and what
    `Target.admit` raises.
    """
    discovery = discovery_tags(example, run.run_id)
    refuse_tags_in_use(discovery, target, run.run_id)
    claim = partial(claim_tags, discovery, target, run.run_id, run.journal, public_key=public_key, own=tags)
    if isinstance(example, TerraformExample):
        if target.name == "aws" and settings.aws_budget is not None:
            raise UsageError(
                f"{settings.source('aws_budget')}: found a budget of {settings.aws_budget:.2f} USD, but what "
                f"{example.folder} makes, and so what it costs, only Terraform knows; expected no budget, or an "
                "example.toml"
            )
        return _claiming(
            claim,
            partial(
                _by_terraform,
                example,
                run,
                public_key=public_key,
                target=target,
                tags=tags,
                named=settings.terraform,
                say=progress,
            ),
        )
    sites = survey(example, target)
    target.admit(demands(example, sites), progress=progress)
    steps = plan(
        example,
        run_id=run.run_id,
        region=target.region,
        sites=sites,
        public_key=public_key,
        inbound_cidrs=target.inbound_cidrs,
        tags=tags,
    )
    return _claiming(claim, partial(_by_plan, example, steps, run, target))


def _claiming(claim: Callable[..., None], create: Creation) -> Creation:
    def created(deadline: Deadline, progress: Progress) -> Created:
        claim(deadline=deadline)
        return create(deadline, progress)

    return created


def _by_plan(
    example: Example, steps: Plan, run: Run, target: Target, deadline: Deadline, progress: Progress
) -> Created:
    outputs = apply(steps, target.client, run.journal, deadline=deadline, progress=progress)
    return Created(example, outputs, expected_hosts(steps), steps.ssh_ports, steps.capacity_seconds)


def _by_terraform(
    example: TerraformExample,
    run: Run,
    deadline: Deadline,
    progress: Progress,
    *,
    public_key: str,
    target: Target,
    tags: Mapping[str, str],
    named: Path | None,
    say: Progress,
) -> Created:
    made = apply_terraform(
        example,
        named=named,
        run_id=run.run_id,
        folder=run.folder,
        journal=run.journal,
        public_key=public_key,
        target=target,
        tags=tags,
        deadline=deadline,
        say=say,
        progress=progress,
    )
    return Created(example.deployed(made.outputs), made.outputs, made.hosts, made.ssh_ports)
