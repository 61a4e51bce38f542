"""The checks before anything is created: inputs exist and fit, and no other run is disturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nomad_testkit.deployment.apply import Applied, apply
from nomad_testkit.deployment.plan import plan
from nomad_testkit.deployment.preflight import survey
from nomad_testkit.deployment.tag_in_use import claim_tags, discovery_tags, refuse_tags_in_use
from nomad_testkit.deployment.terraform.apply import apply_terraform
from nomad_testkit.errors import UsageError
from nomad_testkit.examples.terraform import TerraformExample

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.runs.run import Run
    from nomad_testkit.settings import Settings
    from nomad_testkit.targets.base import Target
    from nomad_testkit.wait import Deadline

Apply = Callable[["Deadline", "Progress"], Applied]
"""Creates a run's resources before the deadline, and reports each step; raises as `apply` and `apply_terraform`."""


def prepare(
    example: Example,
    run: Run,
    *,
    public_key: str,
    target: Target,
    tags: Mapping[str, str],
    settings: Settings,
    progress: Progress,
) -> Apply:
    """Check that an example can be deployed, and return the function that creates its resources.

    Raise ExampleError if the target lacks something, UsageError if the budget cannot be checked or another run uses the
    discovery tag, and as `Target.check_capacity`.
    """
    discovery = discovery_tags(example, run.run_id)
    refuse_tags_in_use(discovery, target, run.run_id)

    def claim(deadline: Deadline) -> None:
        claim_tags(discovery, target, run.run_id, run.journal, public_key=public_key, own=tags, deadline=deadline)

    if isinstance(example, TerraformExample):
        if target.name == "aws" and settings.aws_budget is not None:
            raise UsageError(
                f"{settings.source('aws_budget')}: found a budget of {settings.aws_budget:.2f} USD, but what "
                f"{example.folder} makes, and so what it costs, only Terraform knows; expected no budget, or an "
                "example.toml"
            )

        def by_terraform(deadline: Deadline, report: Progress) -> Applied:
            claim(deadline)
            return apply_terraform(
                example,
                named=settings.terraform,
                run_id=run.run_id,
                folder=run.folder,
                journal=run.journal,
                public_key=public_key,
                target=target,
                tags=tags,
                deadline=deadline,
                say=progress,
                progress=report,
            )

        return by_terraform

    planned = plan(
        example,
        run_id=run.run_id,
        region=target.region,
        placements=survey(example, target),
        public_key=public_key,
        inbound_cidrs=target.inbound_cidrs,
        tags=tags,
    )
    target.check_capacity(planned.launches, progress=progress)

    def by_plan(deadline: Deadline, report: Progress) -> Applied:
        claim(deadline)
        outputs = apply(planned, target.client, run.journal, deadline=deadline, progress=report)
        return Applied(
            example,
            outputs,
            hosts={one.group: one.count for one in planned.launches},
            ssh_ports={one.group: one.ssh_port for one in planned.launches},
            capacity_seconds={one.group: one.capacity_seconds for one in planned.launches},
        )

    return by_plan
