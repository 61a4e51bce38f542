"""Sweeping an account that answers slowly, with nothing, or not for every region; botocore itself reads the answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from moto_account import REGION, RUN, launch, moto_server, of_run, security_group, tag_list
from scripted_aws import Call, ec2_error, scripted_aws

from nomad_testkit.cli import main
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.targets.aws.account import clients
from nomad_testkit.wait import Deadline

pytestmark = pytest.mark.usefixtures("models_are_read_once")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobodys")


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AuthFailure", "OptInRequired"])
def test_a_region_that_may_not_be_asked_does_not_end_a_sweep(moto: str, code: str) -> None:
    def answer(call: Call) -> tuple[int, str] | None:
        denied = call.region == "eu-west-1" and call.service == "ec2"
        return ec2_error(code, "with an explicit deny in a service control policy") if denied else None

    after = {name: clients(name, endpoint_url=moto) for name in ("eu-west-1", "eu-west-2")}
    planted = security_group(after["eu-west-2"], "lost", of_run("nt-20200101-ab12cd"))
    with scripted_aws(answer, moto) as api:
        where = [*("--region", "eu-west-1"), *("--region", "eu-west-2"), *("--endpoint-url", api.url)]
        done = CliRunner().invoke(main, ["sweep", "--older-than", "1h", *where])
        only = CliRunner().invoke(main, ["sweep", "--older-than", "1h", *where[:2], *where[4:]])
    assert done.exit_code == 1
    assert f"eu-west-1 could not be searched for lost runs: {code}: with an explicit deny" in done.output
    assert "nt-20200101-ab12cd is destroyed: 1 resources" in done.output
    assert "1 of 2 regions could not be asked" in done.output
    groups = after["eu-west-2"]("ec2").describe_security_groups()["SecurityGroups"]
    assert planted not in [one["GroupId"] for one in groups]
    assert only.exit_code == 1
    assert "there is nothing to destroy" not in only.output


_EMPTY = '<{0}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{1}</{0}Response>'


@pytest.mark.parametrize(
    ("action", "inside"),
    [
        ("DescribeImages", "<imagesSet/>"),
        ("DescribeImages", ""),
        ("DeregisterImage", ""),
        ("DeregisterImage", "<requestId>1</requestId><return>true</return>"),
        ("DescribeSnapshots", "<snapshotSet/>"),
        ("DescribeSnapshots", ""),
    ],
)
def test_an_answer_with_nothing_in_it_does_not_stop_a_sweep(moto: str, action: str, inside: str) -> None:
    """The first answer about an image by its id is empty, or that to its deregistration, which is done then."""
    client = clients(REGION, endpoint_url=moto)
    ec2 = client("ec2")
    (instance,) = launch(client)
    image = ec2.create_image(InstanceId=instance, Name=f"web {action} {len(inside)}")["ImageId"]
    ec2.create_tags(Resources=[image], Tags=tag_list(of_run()))
    by_id = {"DescribeImages": "ImageId.1", "DescribeSnapshots": "SnapshotId.1", "DeregisterImage": "ImageId"}

    def answer(call: Call) -> tuple[int, str] | None:
        if call.action != action or by_id[action] not in call.parameters:
            return None
        if action == "DeregisterImage":
            ec2.deregister_image(ImageId=image)
        return 200, _EMPTY.format(action, inside)

    with scripted_aws(answer, moto) as api:
        destroyed = sweep(clients(REGION, endpoint_url=api.url), RUN, None, deadline=Deadline.after(60))
    assert any(image in one for one in destroyed)
    assert api.count(action) > 0


def test_a_long_sweep_lists_roles_rarely_and_looks_ever_more_seldom(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account allows few calls to IAM, whose roles can only be listed as a whole."""
    direct = clients(REGION, endpoint_url=moto)
    tags = tag_list(of_run())
    for number in range(5):
        direct("iam").create_role(RoleName=f"others-{number}", AssumeRolePolicyDocument="{}")
    direct("iam").create_role(RoleName=f"nomad-{RUN}", AssumeRolePolicyDocument="{}", Tags=tags)
    shown: list[float] = []

    def answer(call: Call) -> tuple[int, str] | None:
        """Show a group that the sweep has deleted for a while."""
        gone = direct("ec2").describe_security_groups(Filters=[{"Name": "group-name", "Values": ["slow"]}])
        if call.action == "DescribeSecurityGroups" and not gone["SecurityGroups"] and len(shown) < 8:
            shown.append(time.monotonic())
            return 200, _EMPTY.format(
                call.action,
                "<securityGroupInfo><item><groupId>sg-1</groupId><groupName>slow</groupName><tagSet><item>"
                f"<key>nomad-testkit-run</key><value>{RUN}</value></item></tagSet></item></securityGroupInfo>",
            )
        return None

    security_group(direct, "slow", of_run())
    monkeypatch.setattr("nomad_testkit.deployment.sweep.LONGEST", 0.5)
    with scripted_aws(answer, moto) as api:
        sweep(clients(REGION, endpoint_url=api.url), RUN, None, deadline=Deadline.after(120))
    pauses = [late - early for early, late in pairwise(shown)]
    assert len(pauses) == 7
    assert pauses[-1] >= 0.5
    assert api.count("ListRoles") <= 2
    assert api.count("ListInstanceProfiles") <= 2
    asked = [call.parameters.get("RoleName") for call in api.calls if call.action == "ListRoleTags"]
    assert set(asked) == {f"nomad-{RUN}"}
