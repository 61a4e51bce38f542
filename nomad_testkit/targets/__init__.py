"""The targets of a deployment: all speak the EC2 API, and only this package knows how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import UsageError
from nomad_testkit.targets.base import Target

if TYPE_CHECKING:
    from nomad_testkit.events import Progress
    from nomad_testkit.settings import Settings

__all__ = ["Target", "attach_target", "open_target"]


def open_target(settings: Settings, *, progress: Progress) -> AbstractContextManager[Target]:
    """Open the target that the settings name; leaving the context releases it and proves that nothing is left.

    For an AMI that `nomad-testkit ami build` made, this is the embedded EC2 that the AMI lives in, which outlasts the
    context.

    Raise PreflightError with everything that this machine or the account lacks, UsageError if a setting cannot be used,
    and Ec2Error if the embedded EC2 cannot be opened.
    """
    if settings.target == "aws":
        from nomad_testkit.targets.aws.target import AwsTarget

        return AwsTarget.open(settings, progress=progress)
    from nomad_testkit.targets.embedded.built_amis import home_of
    from nomad_testkit.targets.embedded.target import EmbeddedTarget

    if settings.ami and (home := home_of(settings.ami)) is not None:
        return EmbeddedTarget.attach(home)
    return EmbeddedTarget.open(settings, progress=progress)


def attach_target(description: Mapping[str, Any]) -> AbstractContextManager[Target]:
    """Attach to a target that another process opened, by its `describe`; leaving the context only detaches.

    Raise Ec2Error if the target has ended.
    """
    name = description.get("name")
    if name == "aws":
        from nomad_testkit.targets.aws.target import AwsTarget

        return AwsTarget.attach(description)
    from nomad_testkit.targets.embedded.target import EmbeddedTarget

    if name != EmbeddedTarget.name:
        raise UsageError(f"there is no target {name!r} in this version; there are: {EmbeddedTarget.name}, aws")
    return EmbeddedTarget.attach(description)
