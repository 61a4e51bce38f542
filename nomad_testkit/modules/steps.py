"""Steps of a plan as pure data: calls of the AWS API, with references to what earlier calls answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nomad_testkit.errors import UsageError

RUN_TAG = "nomad-testkit-run"
RUN_ID_LENGTH = 20
GROUP_TAG = "nomad-testkit-group"
EXPIRES_TAG = "nomad-testkit-expires"
"""Says until when a run may live, as 2026-03-14T15:09:26Z; only targets that cost money limit that."""

KEY_PAIR = "key pair"
ROLE = "IAM role"
INSTANCE_PROFILE = "instance profile"
SECURITY_GROUP = "security group"
LAUNCH_TEMPLATE = "launch template"
AUTO_SCALING_GROUP = "auto scaling group"
INSTANCE = "instance"
VOLUME = "volume"
IMAGE = "AMI"
SNAPSHOT = "snapshot"


def checked_run_id(run_id: str) -> str:
    """Give a run's id if names and tags can be made of it; a ``*`` in one would match every run (EC2's Filters).

    Raises UsageError.

    >>> checked_run_id("nt-20260314-ab12cd")
    'nt-20260314-ab12cd'
    """
    if not re.fullmatch(rf"[a-z0-9][a-z0-9-]{{0,{RUN_ID_LENGTH - 1}}}", run_id):
        right = f"1 to {RUN_ID_LENGTH} small letters, digits and -, beginning with a letter or digit"
        raise UsageError(f"the run id is {run_id!r}; expected {right}")
    return run_id


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that is known when an earlier step is done.

    >>> str(Ref("servers: security group", "id"))
    '<id of servers: security group>'
    """

    step: str
    value: str = "id"

    def __str__(self) -> str:
        return f"<{self.value} of {self.step}>"


@dataclass(frozen=True, slots=True)
class Creates:
    """The resource that a step creates; `id` names it for the call that deletes it."""

    kind: str
    name: str
    id: str = ""
    """Where the answer holds the id, such as ``GroupId`` or ``Role.Arn``; empty where the name is the id."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the AWS API, in boto3's words; `arguments` may hold a Ref anywhere."""

    name: str
    service: str
    action: str
    """The method of boto3's client, such as ``create_security_group``."""
    arguments: Mapping[str, Any]
    creates: Creates | None = None
    """None where the step only changes what an earlier one created: it goes with that."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What later steps may refer to, besides ``id``: a name, and where the answer holds it."""
    transient: tuple[tuple[str, str], ...] = ()
    """Refusals that pass when AWS knows the earlier steps everywhere: an error's code, and a part of its message."""


def resolve(value: Any, known: Callable[[Ref], Any]) -> Any:
    """Put what `known` tells in the place of every Ref.

    >>> resolve({"Groups": [Ref("web")]}, lambda ref: "sg-0abc")
    {'Groups': ['sg-0abc']}
    """
    if isinstance(value, Ref):
        return known(value)
    if isinstance(value, Mapping):
        return {key: resolve(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, known) for item in value]
    return value


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Write tags as the AWS API wants them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
