"""Apply a plan: one API call after the other, each journaled before it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nomad_testkit.deployment.made_already import look_up
from nomad_testkit.errors import DeployError, WaitTimeout
from nomad_testkit.modules.steps import Ref, Step, resolve
from nomad_testkit.targets.aws.errors import AWS_ERRORS, code_of, describe_error, is_throttled
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from nomad_testkit.deployment.plan import Plan
    from nomad_testkit.events import Progress
    from nomad_testkit.examples.example import Example
    from nomad_testkit.runs.journal import Journal


@dataclass(frozen=True)
class Applied:
    """What a plan or Terraform created, as the readiness wait and the cluster need it."""

    example: Example
    """The example as deployed."""
    outputs: Mapping[str, Any]
    """By upstream's names: ``asg_name_servers``, ``security_group_id_clients``..."""
    hosts: Mapping[str, int]
    """The number of hosts in each group."""
    ssh_ports: Mapping[str, int] = field(default_factory=dict)
    """The SSH port of each group's hosts."""
    capacity_seconds: Mapping[str, float | None] = field(default_factory=dict)
    """Seconds until all hosts of a group must be up; None for the deployment's time-out alone."""


INTERVAL = 1.0
"""Seconds between two attempts of a transient failure."""

CONSISTENCY_SECONDS = 60.0
"""Seconds for a new role or group to reach all of AWS; IAM's documentation promises no limit."""


def apply(
    plan: Plan,
    client: Callable[[str], Any],
    journal: Journal,
    *,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Apply a plan's steps in order and return its outputs; `client` makes the boto3 client of a service.

    A step is retried for up to a minute if AWS throttles it or does not see an earlier step's resource yet. A call
    without a response is not retried: AWS may have carried it out. When botocore itself retried and AWS answers that
    the resource exists, the step succeeds if the resource bears this run's tag.

    Raise DeployError if a step fails: it names the step, the API call, the resource, and AWS's code and message. What
    was created so far is in the journal, and `sweep` destroys it.
    """
    deadline = deadline or Deadline.after(10 * CONSISTENCY_SECONDS)
    clients: dict[str, Any] = {}
    known: dict[Ref, Any] = {}
    for step in plan.steps:
        if deadline.passed:
            raise DeployError(f"no time was left for the step {step.name!r} of run {plan.run_id}")
        if progress is not None:
            progress(f"creating {step.name}")
        if step.service not in clients:
            clients[step.service] = client(step.service)
        limit = deadline.child(CONSISTENCY_SECONDS)
        _apply(step, clients[step.service], journal, known, plan.run_id, limit)
    return {name: resolve(value, known.__getitem__) for name, value in plan.outputs.items()}


def _apply(step: Step, client: Any, journal: Journal, known: dict[Ref, Any], run_id: str, deadline: Deadline) -> None:
    arguments = resolve(step.arguments, known.__getitem__)
    if step.creates is not None:
        journal.record(step.creates.kind, step.creates.name, step=step.name)
    answer = _call(step, client, arguments, run_id, deadline)
    known.update({Ref(step.name, name): _at(answer, path) for name, path in step.values.items()})
    if step.creates is not None:
        created = str(_at(answer, step.creates.id)) if step.creates.id else step.creates.name
        known[Ref(step.name)] = created
        journal.created(step.creates.kind, step.creates.name, created)


def _call(step: Step, client: Any, arguments: Mapping[str, Any], run_id: str, deadline: Deadline) -> Mapping[str, Any]:
    def probe() -> Ok[Mapping[str, Any]] | Pending:
        try:
            return Ok(getattr(client, step.action)(**arguments))
        except AWS_ERRORS as error:
            said = describe_error(error)
            try:
                found = look_up(step, client, arguments, run_id, error)
            except AWS_ERRORS as other:
                return Pending(f"{said}; its tags could not be read: {describe_error(other)}")
            if isinstance(found, str):
                raise _refused(step, client, f"{said} ({found})") from error
            if found is not None:
                return found
            not_yet = any(code_of(error) == code and part in said for code, part in step.transient)
            if not_yet or is_throttled(error):
                return Pending(said)
            raise _refused(step, client, said) from error

    try:
        return wait_until(f"AWS to carry out {step.name!r}", probe, deadline=deadline, interval=INTERVAL)
    except WaitTimeout as error:
        raise _refused(step, client, str(error)) from error


def _refused(step: Step, client: Any, said: str) -> DeployError:
    operation = client.meta.method_to_api_mapping.get(step.action, step.action)
    resource = f" of the {step.creates.kind} {step.creates.name}" if step.creates else ""
    return DeployError(f"the step {step.name!r} was refused: {step.service} {operation}{resource} answered {said}")


def _at(answer: Mapping[str, Any], path: str) -> Any:
    value: Any = answer
    for part in path.split("."):
        value = value[part]
    return value
