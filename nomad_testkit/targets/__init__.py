"""Where clusters are deployed to: every target speaks the EC2 API, and only this package knows how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from nomad_testkit.errors import UsageError
from nomad_testkit.targets.base import Target

if TYPE_CHECKING:
    from nomad_testkit.model import Progress
    from nomad_testkit.settings import Settings

__all__ = ["Target", "attach_target", "open_target"]


def open_target(settings: Settings, *, progress: Progress) -> AbstractContextManager[Target]:
    """Open the target that the settings name; leaving the context gives it back, and proves that nothing is left.

    Raises PreflightError with everything that this machine lacks, and Ec2Error when the target cannot be opened.
    """
    from nomad_testkit.targets.embedded import EmbeddedTarget

    return EmbeddedTarget.open(settings, progress=progress)


def attach_target(description: Mapping[str, Any]) -> AbstractContextManager[Target]:
    """Use a target that another process opened, from what its `describe` told; leaving ends only the use.

    Raises Ec2Error when it is gone.
    """
    from nomad_testkit.targets.embedded import EmbeddedTarget

    name = description.get("name")
    if name != EmbeddedTarget.name:
        raise UsageError(f"there is no target {name!r} in this version; there is: {EmbeddedTarget.name}")
    return EmbeddedTarget.attach(description)
