"""Deploying and sweeping over HTTP that loses answers, with botocore's own retries: what it repeats is recognised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from faulty_proxy import CLOSE, DELAY, LOSE, THROTTLE, UNAVAILABLE, faulty_proxy, first
from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.models import AutoScalingBackend
from moto.iam.exceptions import NotFoundException
from moto.iam.models import IAMBackend
from moto_account import (
    OTHER,
    RUN,
    Client,
    RunInAccount,
    clients_over_http,
    launch,
    moto_server,
    of_run,
    security_group,
    snapshots,
    tag_list,
)

from nomad_testkit.deployment import apply as applying
from nomad_testkit.deployment.apply import apply
from nomad_testkit.errors import DeployError
from nomad_testkit.runs.journal import Journal


def as_aws_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server refuse what AWS refuses the second time: moto makes a group twice, and ends a removal in a 500."""
    create, remove = AutoScalingBackend.create_auto_scaling_group, IAMBackend.remove_role_from_instance_profile

    def create_once(self: Any, name: str, *arguments: Any, **more: Any) -> Any:
        if name in self.autoscaling_groups:
            raise AutoscalingClientError("AlreadyExists", f"A group with the name {name} already exists")
        return create(self, name, *arguments, **more)

    def remove_once(self: Any, profile_name: str, role_name: str) -> None:
        if self.get_role(role_name) not in self.get_instance_profile(profile_name).roles:
            raise NotFoundException(f"The role {role_name} is not in {profile_name}")
        remove(self, profile_name, role_name)

    monkeypatch.setattr(AutoScalingBackend, "create_auto_scaling_group", create_once)
    monkeypatch.setattr(IAMBackend, "remove_role_from_instance_profile", remove_once)


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as monkeypatch, moto_server() as url:
        as_aws_answers(monkeypatch)
        yield url


@pytest.fixture
def run(api: str, journal: Journal) -> RunInAccount:
    requests.post(f"{api}/moto-api/reset", timeout=60).raise_for_status()
    return RunInAccount(clients_over_http(api), journal)


@pytest.mark.parametrize("fault", [LOSE, CLOSE, UNAVAILABLE, THROTTLE, DELAY])
def test_a_deployment_survives_a_fault_of_every_first_call(api: str, run: RunInAccount, fault: str) -> None:
    steps = run.plan()
    with faulty_proxy(api, first(fault)) as proxy:
        apply(steps, clients_over_http(proxy.url), run.journal)
    assert {step.creates.name for step in steps.steps if step.creates} == {one.name for one in run.journal.left()}
    assert all(one.id for one in run.journal.left())
    created = {"ImportKeyPair", "CreateRole", "CreateInstanceProfile", "CreateSecurityGroup", "CreateLaunchTemplate"}
    assert created | {"CreateAutoScalingGroup", "AddRoleToInstanceProfile"} <= {action for action, _ in proxy.struck}
    groups = [one["GroupName"] for one in run.client("ec2").describe_security_groups()["SecurityGroups"]]
    assert len(groups) == len(set(groups)) == 3  # the default one, and one of each group
    assert len(run.client("ec2").describe_instances()["Reservations"]) == 2


@pytest.mark.parametrize("fault", [LOSE, CLOSE, UNAVAILABLE])
def test_a_sweep_survives_a_fault_of_every_first_call(api: str, run: RunInAccount, fault: str) -> None:
    run.apply()
    with faulty_proxy(api, first(fault)) as proxy:
        destroyed = run.sweep(120, through=clients_over_http(proxy.url))
    assert (run.listed(), run.journal.left()) == ([], [])
    assert len(destroyed) == len(set(destroyed))
    assert {"DeleteRole", "DeleteSecurityGroup", "RemoveRoleFromInstanceProfile"} <= {name for name, _ in proxy.struck}


NAME = f"nomad-example-server-{RUN}"
TAGS = tag_list(of_run(OTHER))
SOMEBODY_ELSES: dict[str, Callable[[Client], object]] = {
    "security group without a tag": lambda client: security_group(client, NAME),
    "security group of another run": lambda client: security_group(client, NAME, of_run(OTHER)),
    "launch template": lambda client: client("ec2").create_launch_template(
        LaunchTemplateName=NAME, LaunchTemplateData={"InstanceType": "t3.micro"}
    ),
    "IAM role": lambda client: client("iam").create_role(RoleName=NAME, AssumeRolePolicyDocument="{}", Tags=TAGS),
    "instance profile": lambda client: client("iam").create_instance_profile(InstanceProfileName=NAME),
    "key pair": lambda client: client("ec2").create_key_pair(KeyName=f"nomad-testkit-{RUN}"),
}


@pytest.mark.parametrize("kind", SOMEBODY_ELSES)
def test_somebody_elses_of_the_same_name_stays_an_error(
    run: RunInAccount, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "CONSISTENCY_SECONDS", 0.2)
    monkeypatch.setattr(applying, "INTERVAL", 0.01)
    SOMEBODY_ELSES[kind](run.client)
    with pytest.raises(DeployError, match=r"Duplicate|AlreadyExists") as caught:
        run.apply()
    assert "not belong to run nt-20260314-ab12cd" in str(caught.value)


def test_what_is_not_found_yet_after_a_lost_answer_is_looked_for_again(api: str, run: RunInAccount) -> None:
    """The first look does not show the group that the lost call has made."""
    steps = run.plan()
    with faulty_proxy(api, first(LOSE, "CreateSecurityGroup", "DescribeSecurityGroups")) as proxy:
        apply(steps, clients_over_http(proxy.url), run.journal)
    assert proxy.received["DescribeSecurityGroups"] == 2


def test_a_sweep_deletes_the_snapshots_of_an_image_whose_deregistration_had_no_answer(
    api: str, run: RunInAccount
) -> None:
    (instance,) = launch(run.client)
    before = snapshots(run.client)
    made = run.client("ec2").create_image(InstanceId=instance, Name="web")["ImageId"]
    run.client("ec2").create_tags(Resources=[made], Tags=tag_list(of_run()))
    with faulty_proxy(api, first(LOSE, "DeregisterImage", "DeleteSnapshot")) as proxy:
        run.sweep(journal=False, through=clients_over_http(proxy.url))
    assert proxy.received["DeregisterImage"] == 2
    assert snapshots(run.client) == before
    assert run.listed() == []
