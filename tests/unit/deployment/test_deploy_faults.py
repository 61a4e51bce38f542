"""An API that throttles, refuses and does not answer: what is tried again, what is reported, and that it ends."""

from __future__ import annotations

import pytest
from botocore.exceptions import ReadTimeoutError
from faulty_api import REFUSED, THROTTLED, at_random, faults, refusal
from moto_account import RunInAccount

from nomad_testkit.errors import DeployError, TeardownError
from nomad_testkit.targets.aws import account
from nomad_testkit.targets.aws.errors import retry_transient
from nomad_testkit.wait import Deadline

SERVICES = ("ec2", "autoscaling", "iam")
LOST = ReadTimeoutError(endpoint_url="https://ec2.invalid")
INVALID = "You must use a valid fully-formed launch template."


class Once:
    """Fails the first call of each operation, as `errors` says."""

    def __init__(self, *errors: Exception, carried_out: bool = False) -> None:
        self.errors, self.carried_out = errors, carried_out
        self.calls: dict[str, int] = {}

    def __call__(self, operation: str, carried_out: bool) -> Exception | None:
        if carried_out is not self.carried_out:
            return None
        count = self.calls[operation] = self.calls.get(operation, 0) + 1
        return self.errors[count - 1] if count <= len(self.errors) else None


def test_every_throttled_call_is_made_again(run: RunInAccount) -> None:
    steps = run.plan()
    throttled = Once(refusal(*THROTTLED))
    with faults(run.client, SERVICES, throttled):
        run.apply(steps)
        run.sweep()
    assert run.listed() == []
    assert {"CreateRole", "CreateAutoScalingGroup", "DeleteRole", "DeleteSecurityGroup"} <= throttled.calls.keys()
    assert min(throttled.calls.values()) >= 2


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        ("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound", "The security group 'sg-1' does not exist"),
        ("PutRolePolicy", "NoSuchEntity", "The role with name nomad cannot be found."),
        ("AddRoleToInstanceProfile", "NoSuchEntity", "Instance Profile nomad cannot be found."),
        ("CreateAutoScalingGroup", "ValidationError", "Invalid IAM Instance Profile name"),
        ("CreateAutoScalingGroup", "ValidationError", f"{INVALID} The key pair 'nomad' does not exist"),
    ],
)
def test_what_aws_does_not_know_everywhere_yet_is_asked_for_again(
    run: RunInAccount, operation: str, code: str, message: str
) -> None:
    not_yet = Once(refusal(code, message))
    with faults(run.client, SERVICES, lambda name, done: not_yet(name, done) if name == operation else None):
        run.apply()
    assert not_yet.calls[operation] >= 2
    run.sweep()


def test_a_creation_without_an_answer_is_not_made_twice(run: RunInAccount) -> None:
    lost = Once(LOST, carried_out=True)
    with (
        faults(run.client, SERVICES, lambda name, done: lost(name, done) if name == "CreateLaunchTemplate" else None),
        pytest.raises(DeployError, match=r"CreateLaunchTemplate of the launch template \S+ answered ReadTimeoutError"),
    ):
        run.apply()
    assert lost.calls == {"CreateLaunchTemplate": 1}
    assert "launch template" in " ".join(run.listed())
    run.sweep()
    assert run.listed() == []


def test_a_deletion_without_an_answer_is_made_again(run: RunInAccount) -> None:
    run.apply()
    with faults(run.client, SERVICES, Once(LOST, carried_out=True)):
        destroyed = run.sweep()
    assert run.listed() == []
    assert len(destroyed) == len(set(destroyed))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_at_random_a_sweep_ends_and_the_next_one_finishes_it(run: RunInAccount, seed: int) -> None:
    run.apply()
    before = run.listed()
    try:
        with faults(run.client, SERVICES, at_random(seed, share=0.3)):
            run.sweep()
        reported = "nothing"
    except TeardownError as error:
        reported = str(error)
    remains = run.listed()
    assert set(remains) <= set(before), f"seed {seed}"
    # What is left is told, unless nobody could ask what is.
    unknown = "it could not be listed" in reported
    assert unknown or all(line in reported for line in remains), f"seed {seed}: {remains}, reported {reported}"
    run.sweep()
    assert (run.listed(), run.journal.left()) == ([], []), f"seed {seed}"


def test_an_api_that_never_answers_does_not_keep_a_sweep_for_ever(run: RunInAccount) -> None:
    calls = []

    def silent(operation: str, carried_out: bool) -> Exception:
        calls.append(operation)
        return LOST

    with faults(run.client, SERVICES, silent), pytest.raises(TeardownError) as caught:
        run.sweep(0)
    assert len(calls) == 1
    assert "unknown: it could not be listed" in str(caught.value)
    assert "not tried, because the deadline has passed and the API does not answer" in str(caught.value)


def test_a_refusal_that_does_not_pass_is_not_repeated() -> None:
    tries = []

    def refused() -> None:
        tries.append(1)
        raise refusal(*REFUSED)

    with pytest.raises(type(refusal(*REFUSED)), match="not you"):
        retry_transient("it", refused, deadline=Deadline.after(60))
    assert len(tries) == 1


def test_an_accounts_clients_retry_as_aws_advises(run: RunInAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    make = account.clients("eu-west-1")
    assert make("ec2") is make("ec2")
    retries = make("ec2").meta.config.retries
    assert (retries["mode"], retries["total_max_attempts"]) == ("standard", 10)
    assert "eu-west-1" in account.enabled_regions()
