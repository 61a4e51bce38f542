"""An API that throttles, refuses and does not answer: what is tried again, what is reported, and that it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from faulty_api import REFUSED, THROTTLED, at_random, faults, refusal
from moto import mock_aws

from nomad_testkit.deployment import apply as applying
from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.inventory import Inventory
from nomad_testkit.deployment.plan import Plan, plan
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.errors import DeployError, TeardownError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws import account, errors
from nomad_testkit.targets.aws.errors import retry_transient
from nomad_testkit.wait import Deadline

RUN, REGION = "nt-20260314-ab12cd", "us-east-1"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUFZ2TjiIdWFWfgcg2cl4lyFpJuXzUE8PkcN0CI/+eD"
SERVICES = ("ec2", "autoscaling", "iam")

Client = Callable[[str], Any]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    for module in (errors, applying):  # nothing here has to be given time
        monkeypatch.setattr(module, "INTERVAL", 0.0)
    with mock_aws():
        yield make_client


@cache
def make_client(service: str) -> Any:
    credentials = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, region_name=REGION, **credentials)  # type: ignore[call-overload]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def small_plan(client: Client) -> Plan:
    ec2 = client("ec2")
    image = ec2.register_image(Name="debian")["ImageId"]
    subnet = ec2.describe_subnets()["Subnets"][0]
    network = Network(subnet["VpcId"], (Subnet(subnet["SubnetId"], subnet["AvailabilityZone"], subnet["CidrBlock"]),))
    return plan(
        Example.load("nomad-consul-colocated-cluster").replace(num_servers=1, num_clients=1),
        run_id=RUN,
        region=REGION,
        placements=dict.fromkeys(("servers", "clients"), Placement(network, image, "/dev/xvda")),
        public_key=PUBLIC_KEY,
    )


def left(client: Client) -> list[str]:
    return [str(one) for one in Inventory(client("ec2"), client("autoscaling"), client("iam"), RUN).everything()]


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


def test_every_throttled_call_is_made_again(client: Client, journal: Journal) -> None:
    steps = small_plan(client)
    throttled = Once(refusal(*THROTTLED))
    with faults(client, SERVICES, throttled):
        apply(steps, client, journal)
        sweep(client, RUN, journal, deadline=Deadline.after(60))
    assert left(client) == []
    assert {"CreateRole", "CreateAutoScalingGroup", "DeleteRole", "DeleteSecurityGroup"} <= throttled.calls.keys()
    assert min(throttled.calls.values()) >= 2


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        ("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound", "The security group 'sg-1' does not exist"),
        ("PutRolePolicy", "NoSuchEntity", "The role with name nomad cannot be found."),
        ("AddRoleToInstanceProfile", "NoSuchEntity", "Instance Profile nomad cannot be found."),
        ("CreateAutoScalingGroup", "ValidationError", "Invalid IAM Instance Profile name"),
        (
            "CreateAutoScalingGroup",
            "ValidationError",
            "You must use a valid fully-formed launch template. The key pair 'nomad' does not exist",
        ),
    ],
)
def test_what_aws_does_not_know_everywhere_yet_is_asked_for_again(
    client: Client, journal: Journal, operation: str, code: str, message: str
) -> None:
    not_yet = Once(refusal(code, message))
    with faults(client, SERVICES, lambda name, done: not_yet(name, done) if name == operation else None):
        apply(small_plan(client), client, journal)
    assert not_yet.calls[operation] >= 2
    sweep(client, RUN, journal, deadline=Deadline.after(60))


def test_a_creation_without_an_answer_is_not_made_twice(client: Client, journal: Journal) -> None:
    lost = Once(ReadTimeoutError(endpoint_url="https://ec2.invalid"), carried_out=True)
    with (
        faults(client, SERVICES, lambda name, done: lost(name, done) if name == "CreateLaunchTemplate" else None),
        pytest.raises(DeployError, match=r"CreateLaunchTemplate of the launch template \S+ answered ReadTimeoutError"),
    ):
        apply(small_plan(client), client, journal)
    assert lost.calls == {"CreateLaunchTemplate": 1}
    assert "launch template" in " ".join(left(client))
    sweep(client, RUN, journal, deadline=Deadline.after(60))
    assert left(client) == []


def test_a_deletion_without_an_answer_is_made_again(client: Client, journal: Journal) -> None:
    apply(small_plan(client), client, journal)
    with faults(client, SERVICES, Once(ReadTimeoutError(endpoint_url="https://ec2.invalid"), carried_out=True)):
        destroyed = sweep(client, RUN, journal, deadline=Deadline.after(60))
    assert left(client) == []
    assert len(destroyed) == len(set(destroyed))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_at_random_a_sweep_ends_and_the_next_one_finishes_it(
    client: Client, journal: Journal, seed: int
) -> None:
    apply(small_plan(client), client, journal)
    before = left(client)
    try:
        with faults(client, SERVICES, at_random(seed, share=0.3)):
            sweep(client, RUN, journal, deadline=Deadline.after(60))
        reported = "nothing"
    except TeardownError as error:
        reported = str(error)
    remains = left(client)
    assert set(remains) <= set(before), f"seed {seed}"
    # What is left is told, unless nobody could ask what is.
    unknown = "it could not be asked for" in reported
    assert unknown or all(line in reported for line in remains), f"seed {seed}: {remains}, reported {reported}"
    sweep(client, RUN, journal, deadline=Deadline.after(60))
    assert (left(client), journal.left()) == ([], []), f"seed {seed}"


def test_an_api_that_never_answers_does_not_keep_a_sweep_for_ever(client: Client, journal: Journal) -> None:
    calls = []

    def silent(operation: str, carried_out: bool) -> Exception:
        calls.append(operation)
        return ReadTimeoutError(endpoint_url="https://ec2.invalid")

    with faults(client, SERVICES, silent), pytest.raises(TeardownError) as caught:
        sweep(client, RUN, journal, deadline=Deadline.after(0))
    assert len(calls) == 1
    assert "unknown: it could not be asked for" in str(caught.value)
    assert "not tried, since the time is up and the API does not answer" in str(caught.value)


def test_a_refusal_that_does_not_pass_is_not_repeated() -> None:
    tries = []

    def refused() -> None:
        tries.append(1)
        raise refusal(*REFUSED)

    with pytest.raises(type(refusal(*REFUSED)), match="not you"):
        retry_transient("it", refused, deadline=Deadline.after(60))
    assert len(tries) == 1


def test_an_accounts_clients_retry_as_aws_advises(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    make = account.clients("eu-west-1")
    assert make("ec2") is make("ec2")
    retries = make("ec2").meta.config.retries
    assert (retries["mode"], retries["total_max_attempts"]) == ("standard", 10)
    assert "eu-west-1" in account.enabled_regions()
