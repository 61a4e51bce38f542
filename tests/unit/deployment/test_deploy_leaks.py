"""What lost runs left in an account: found by tag and age in every region, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from faulty_api import REFUSED, faults, refusal
from moto import mock_aws

from nomad_testkit.cli import main
from nomad_testkit.deployment.lost_runs import destroy_lost, find_lost
from nomad_testkit.errors import TeardownError
from nomad_testkit.runs.expiry import expiry_tags
from nomad_testkit.runs.journal import Journal
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.aws import account

NEAR, FAR = "us-east-1", "eu-west-1"
OLD, OTHER = "nt-20260314-ab12cd", "nt-20260314-ffffff"
AGE = timedelta(hours=6)
LATER = datetime.now(UTC) + timedelta(hours=7)
"""When what the tests create is old enough."""


@cache
def client(region: str) -> Callable[[str], Any]:
    credentials = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return cache(lambda service: boto3.client(service, region_name=region, **credentials))  # type: ignore[call-overload]


REGIONS = {region: client(region) for region in (NEAR, FAR)}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    monkeypatch.setattr(account, "clients", lambda region, *, endpoint_url: client(region))
    monkeypatch.setattr(account, "enabled_regions", lambda *, endpoint_url: sorted(REGIONS))
    with mock_aws():
        yield


def tags(run_id: str | None) -> list[dict[str, str]]:
    return [{"Key": "Name", "Value": "web"}] + (
        [{"Key": "nomad-testkit-run", "Value": run_id}] if run_id is not None else []
    )


def instance(run_id: str | None, region: str = NEAR) -> str:
    ec2 = client(region)("ec2")
    image = ec2.register_image(Name=f"debian-{datetime.now(UTC).timestamp()}")["ImageId"]
    made = ec2.run_instances(
        ImageId=image,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags(run_id)}],
    )
    return str(made["Instances"][0]["InstanceId"])


def security_group(run_id: str | None, name: str, region: str = NEAR) -> str:
    ec2 = client(region)("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    specified = [{"ResourceType": "security-group", "Tags": tags(run_id)}]
    made = ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc, TagSpecifications=specified)
    return str(made["GroupId"])


def role(run_id: str | None, name: str) -> None:
    client(NEAR)("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}", Tags=tags(run_id))


def alive(region: str = NEAR) -> set[str]:
    reservations = client(region)("ec2").describe_instances()["Reservations"]
    return {
        one["InstanceId"] for all_ in reservations for one in all_["Instances"] if one["State"]["Name"] == "running"
    }


def groups(region: str = NEAR) -> set[str]:
    found = client(region)("ec2").describe_security_groups()["SecurityGroups"]
    return {one["GroupName"] for one in found} - {"default"}


def roles() -> set[str]:
    return {one["RoleName"] for one in client(NEAR)("iam").list_roles()["Roles"]}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sweep", "--aws-account", "123456789012", *arguments])


def test_finds_by_tag_in_every_region_and_destroys_that_alone() -> None:
    mine = instance(None)
    security_group(None, f"mine-{OLD}")
    role(None, f"mine-{OLD}")
    instance(OLD)
    instance(OLD, FAR)
    security_group(OLD, "servers", FAR)
    role(OLD, f"servers-{OLD}")
    kept = instance(OTHER, FAR)

    lost = {run.run_id: run for run in find_lost(REGIONS, older_than=AGE, now=LATER)}
    assert set(lost) == {OLD, OTHER}
    found = {region: [one.kind for one in resources] for region, resources in lost[OLD].resources.items()}
    assert found == {NEAR: ["instance", "IAM role"], FAR: ["instance", "security group"]}
    assert "  eu-west-1: security group servers (sg-" in str(lost[OLD])

    destroyed = destroy_lost(lost[OLD], REGIONS)

    assert len(destroyed) == 4
    assert (alive(NEAR), alive(FAR)) == ({mine}, {kept})
    assert (groups(NEAR), groups(FAR)) == ({f"mine-{OLD}"}, set())
    assert roles() == {f"mine-{OLD}"}
    assert [run.run_id for run in find_lost(REGIONS, older_than=AGE, now=LATER)] == [OTHER]


def test_a_run_is_as_old_as_the_first_of_what_is_left() -> None:
    instance(OLD)
    assert find_lost(REGIONS, older_than=AGE) == []
    assert find_lost(REGIONS, older_than=AGE, now=datetime.now(UTC) + timedelta(hours=5)) == []
    (run,) = find_lost(REGIONS, older_than=AGE, now=LATER)
    assert abs(run.started - datetime.now(UTC)) < timedelta(minutes=10)


def test_a_security_group_alone_is_as_old_as_the_day_in_the_runs_id() -> None:
    security_group(OLD, "servers")
    security_group("nt-20269999-ab12cd", "of no day")

    def lost(now: datetime) -> list[str]:
        return [run.run_id for run in find_lost(REGIONS, older_than=AGE, now=now)]

    assert lost(datetime(2026, 3, 15, 5, 59, tzinfo=UTC)) == []
    assert lost(datetime(2026, 3, 15, 6, 1, tzinfo=UTC)) == [OLD]


def test_a_run_lives_until_the_last_time_that_its_tags_tell() -> None:
    now = datetime.now(UTC)
    for hours in (2, 1):
        made, (tag,) = instance(OLD), expiry_tags(hours * 3600, now=now).items()
        client(NEAR)("ec2").create_tags(Resources=[made], Tags=[{"Key": tag[0], "Value": tag[1]}])
    instance(OTHER)  # says nothing, and so never expires

    def expired(hours: float) -> list[str]:
        lost = find_lost(REGIONS, older_than=None, expired=True, now=now + timedelta(hours=hours))
        return [run.run_id for run in lost]

    assert expired(1.5) == []
    assert expired(2.5) == [OLD]


def test_a_run_in_use_is_spared() -> None:
    instance(OLD)
    assert find_lost(REGIONS, older_than=AGE, now=LATER, in_use=[OLD]) == []


@pytest.mark.parametrize("value", ["*", "nt-*", "nt-20260314-", "", "production", f"{OLD}-2", f"my-{OLD}"])
def test_a_tag_that_names_no_run_is_left_alone(value: str) -> None:
    kept = instance(value)
    instance(OLD)
    (run,) = find_lost(REGIONS, older_than=AGE, now=LATER)
    destroy_lost(run, REGIONS)
    assert alive() == {kept}


def test_without_anything_of_its_own_it_destroys_nothing() -> None:
    mine = instance(None)
    security_group(None, "mine")
    role(None, "mine")
    assert find_lost(REGIONS, older_than=AGE, now=LATER) == []
    assert call("--older-than", "1s").stdout == "there is nothing to destroy\n"
    assert (alive(), groups(), roles()) == ({mine}, {"mine"}, {"mine"})


def test_a_journal_tells_of_what_the_tags_index_does_not_show_yet(tmp_path: Path) -> None:
    name = f"servers-{OLD}"
    security_group(OLD, name)
    security_group(None, "mine")
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record("security group", name)
    journal.record("security group", "mine")
    shown = client(NEAR)("ec2")
    real = shown.get_paginator

    class Empty:
        def paginate(self, **_: Any) -> list[Any]:
            return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "get_paginator", lambda what: Empty() if "security" in what else real(what))
        assert find_lost({NEAR: client(NEAR)}, older_than=AGE, now=LATER) == []
        (run,) = find_lost({NEAR: client(NEAR)}, older_than=AGE, now=LATER, journals={OLD: journal})
        destroy_lost(run, REGIONS, journal=journal)
    assert groups() == {"mine"}


def test_what_cannot_be_destroyed_is_told_for_each_region_and_the_next_sweep_does_it() -> None:
    for region in REGIONS:
        instance(OLD, region)
    (run,) = find_lost(REGIONS, older_than=AGE, now=LATER)

    def strike(operation: str, carried_out: bool) -> Exception | None:
        return refusal(*REFUSED, operation) if operation == "TerminateInstances" else None

    with faults(client(NEAR), ["ec2"], strike), pytest.raises(TeardownError) as caught:
        destroy_lost(run, REGIONS)
    assert "us-east-1: run nt-20260314-ab12cd is not destroyed" in str(caught.value)
    assert "UnauthorizedOperation: not you" in str(caught.value)
    assert (len(alive(NEAR)), alive(FAR)) == (1, set())
    destroy_lost(run, REGIONS)
    assert alive(NEAR) == set()


def test_a_region_that_cannot_be_asked_is_an_error() -> None:
    def strike(operation: str, carried_out: bool) -> Exception | None:
        return refusal(*REFUSED, operation) if operation == "DescribeVolumes" else None

    with faults(client(FAR), ["ec2"], strike), pytest.raises(TeardownError, match="eu-west-1 could not be asked"):
        find_lost(REGIONS, older_than=AGE)


def test_the_command_lists_and_destroys(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.new()
    run.note({"target": {"name": "aws", "region": NEAR, "endpoint_url": None}})
    run.journal.record("key pair", "web")
    used = Run.new()
    used.note({"target": {"name": "aws", "region": NEAR, "endpoint_url": None}})
    mine, busy = instance(None), instance(used.run_id)
    lost = instance(run.run_id)
    lock = used.lock
    assert lock.try_acquire()
    try:
        assert "there is nothing to destroy" in call("--older-than", "6h").output
        monkeypatch.setattr("nomad_testkit.deployment.lost_runs.datetime", _Later)
        listed = call("--older-than", "6h", "--dry-run").output
        assert f"us-east-1: instance {lost}\n" in listed
        assert "would be destroyed" in listed
        assert alive() == {mine, busy, lost}
        assert "there is nothing to destroy" in call("--older-than", "6h", "--region", FAR).output
        result = call("--older-than", "6h")
    finally:
        lock.release()
    assert (result.exit_code, alive()) == (0, {mine, busy})
    assert f"{run.run_id} is destroyed: 1 resources" in result.stdout
    assert [one.run_id for one in Run.every()] == [used.run_id]


class _Later(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return LATER


@pytest.mark.parametrize("age", ["6", "h", "0h", "-1h", "6w", "1.5h", ""])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    result = call("--older-than", age)
    assert result.exit_code == 2
    assert "expected a whole number above 0 with s, m, h or d, such as 6h" in result.stderr.replace("\n", " ")


def test_a_region_goes_with_an_age() -> None:
    result = call("--region", NEAR)
    assert result.exit_code == 2
    assert "--older-than 6h" in result.stderr


def test_a_dry_run_of_what_is_remembered_destroys_nothing() -> None:
    run = Run.new()
    run.note({"target": {"name": "fake"}})
    run.journal.record("security group", "web")
    result = call("--dry-run")
    assert result.output == f"{run.run_id} would be destroyed\n  security group web\n"
    assert Run.every() == [run]


def test_a_region_that_may_not_be_asked_does_not_keep_the_others_from_being_swept() -> None:
    instance(OLD)
    denied = ("AccessDenied", "with an explicit deny in a service control policy")
    with faults(client(FAR), ["ec2"], lambda operation, _: refusal(*denied, operation)):
        unasked: list[str] = []
        (run,) = find_lost(REGIONS, older_than=AGE, now=LATER, unasked=unasked)
        with pytest.raises(TeardownError, match=FAR):
            find_lost(REGIONS, older_than=AGE, now=LATER)
        with pytest.raises(TeardownError, match=FAR):
            find_lost({FAR: client(FAR)}, older_than=AGE, now=LATER, unasked=[])
    assert run.run_id == OLD
    assert len(unasked) == 1
    assert f"{FAR} could not be asked" in unasked[0]
    assert "service control policy" in unasked[0]


def test_an_account_that_is_not_named_is_not_swept() -> None:
    instance(OLD)
    runner = CliRunner(env={"NOMAD_TESTKIT_AWS_ACCOUNT": None})
    for named, said in (([], "say so: --aws-account 123456789012"), (["--aws-account", "9" * 12], "for 999999999999")):
        result = runner.invoke(main, ["sweep", "--older-than", "1s", "--region", NEAR, *named])
        assert result.exit_code == 2
        assert "nothing was destroyed" in result.output
        assert said in result.output
    looked = runner.invoke(main, ["sweep", "--older-than", "1s", "--region", NEAR, "--dry-run"])
    assert looked.exit_code == 0, looked.output
    assert "looking through account 123456789012" in looked.output
