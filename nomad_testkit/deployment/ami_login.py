"""Log in to hosts as the user of their AMI, where it was imported with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nomad_testkit.examples.example import Example
    from nomad_testkit.settings import Settings

_VARIABLE = "ssh_user"


def login_user(example: Example, settings: Settings, ami: str | None) -> str:
    """Return the user of an imported AMI, unless the settings name one; else the example's."""
    from nomad_testkit.targets.embedded.imported import imported_image

    image = None if _VARIABLE in settings.var else imported_image(ami)
    return image.user if image else example.ssh_user


def with_login_of_ami(example: Example, settings: Settings) -> Example:
    """Give an example the user of its AMI in its variable ssh_user, if it has one."""
    user = login_user(example, settings, settings.ami or example.ami_id)
    if user == example.ssh_user or _VARIABLE not in example.declarations:
        return example
    return example.replace(**{_VARIABLE: user})
