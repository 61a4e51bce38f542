"""What lost runs left in an account: found by tag and age in every region, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from faulty_api import REFUSED, faults, refusal
from moto_account import OTHER, Client, launch, make_client, moto_account, of_run, tag_list
from moto_account import RUN as OLD
from moto_account import security_group as make_security_group

from nomad_testkit.cli import main
from nomad_testkit.deployment.lost_runs import LostRun, destroy_lost, find_lost
from nomad_testkit.errors import TeardownError
from nomad_testkit.modules.steps import EXPIRES_TAG
from nomad_testkit.runs.expiry import expiry_tags
from nomad_testkit.runs.journal import Journal
from nomad_testkit.runs.run import Run
from nomad_testkit.targets.aws import account

NEAR, FAR = "us-east-1", "eu-west-1"
REGIONS: dict[str, Client] = {region: partial(make_client, region=region) for region in (NEAR, FAR)}
AGE = timedelta(hours=6)
LATER = datetime.now(UTC) + timedelta(hours=7)
"""When what the tests create is old enough."""


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path))
    monkeypatch.setattr(account, "clients", lambda region, *, endpoint_url: REGIONS[region])
    monkeypatch.setattr(account, "enabled_regions", lambda *, endpoint_url: sorted(REGIONS))
    with moto_account(monkeypatch):
        yield


def named(run_id: str | None) -> dict[str, str]:
    return {"Name": "web"} | ({} if run_id is None else of_run(run_id))


def instance(run_id: str | None, region: str = NEAR) -> str:
    return launch(REGIONS[region], named(run_id))[0]


def security_group(run_id: str | None, name: str, region: str = NEAR) -> None:
    make_security_group(REGIONS[region], name, named(run_id))


def role(run_id: str | None, name: str) -> None:
    tags = tag_list(named(run_id))
    make_client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}", Tags=tags)


def alive(region: str = NEAR) -> set[str]:
    reservations = REGIONS[region]("ec2").describe_instances()["Reservations"]
    return {
        one["InstanceId"] for all_ in reservations for one in all_["Instances"] if one["State"]["Name"] == "running"
    }


def groups(region: str = NEAR) -> set[str]:
    found = REGIONS[region]("ec2").describe_security_groups()["SecurityGroups"]
    return {one["GroupName"] for one in found} - {"default"}


def roles() -> set[str]:
    return {one["RoleName"] for one in REGIONS[NEAR]("iam").list_roles()["Roles"]}


def refused(region: str, operation: str = "", by: tuple[str, str] = REFUSED) -> AbstractContextManager[None]:
    """Let EC2 refuse an operation in a region, or all."""
    return faults(REGIONS[region], ["ec2"], lambda name, _: refusal(*by, name) if operation in ("", name) else None)


def lost(now: datetime = LATER, **how: Any) -> list[LostRun]:
    return find_lost(REGIONS, older_than=AGE, now=now, **how)


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

    runs = {run.run_id: run for run in lost()}
    assert set(runs) == {OLD, OTHER}
    found = {region: [one.kind for one in resources] for region, resources in runs[OLD].resources.items()}
    assert found == {NEAR: ["instance", "IAM role"], FAR: ["instance", "security group"]}
    assert "  eu-west-1: security group servers (sg-" in str(runs[OLD])

    destroyed = destroy_lost(runs[OLD], REGIONS)

    assert len(destroyed) == 4
    assert (alive(NEAR), alive(FAR)) == ({mine}, {kept})
    assert (groups(NEAR), groups(FAR)) == ({f"mine-{OLD}"}, set())
    assert roles() == {f"mine-{OLD}"}
    assert [run.run_id for run in lost()] == [OTHER]


def test_a_run_is_as_old_as_the_first_of_what_is_left() -> None:
    instance(OLD)
    assert find_lost(REGIONS, older_than=AGE) == []
    assert lost(datetime.now(UTC) + timedelta(hours=5)) == []
    (run,) = lost()
    assert abs(run.started - datetime.now(UTC)) < timedelta(minutes=10)


def test_a_security_group_alone_is_as_old_as_the_day_in_the_runs_id() -> None:
    security_group(OLD, "servers")
    security_group("nt-20269999-ab12cd", "of no day")

    assert lost(datetime(2026, 3, 15, 5, 59, tzinfo=UTC)) == []
    assert [run.run_id for run in lost(datetime(2026, 3, 15, 6, 1, tzinfo=UTC))] == [OLD]


def test_a_run_lives_until_the_last_time_that_its_tags_tell() -> None:
    now = datetime.now(UTC)
    for hours in (2, 1):
        launch(REGIONS[NEAR], {**of_run(OLD), **expiry_tags(hours * 3600, now=now)})
    instance(OTHER)  # says nothing, and so never expires

    def expired(hours: float) -> list[str]:
        found = find_lost(REGIONS, older_than=None, expired=True, now=now + timedelta(hours=hours))
        return [run.run_id for run in found]

    assert expired(1.5) == []
    assert expired(2.5) == [OLD]


def test_only_what_has_expired_is_swept_as_expired() -> None:
    late, *others = (f"nt-20260101-00000{letter}" for letter in "abcd")
    until = ("2026-01-01T10:00:00Z", "2999-01-01T10:00:00Z", "some day")
    for run_id, expires in zip((late, *others), until, strict=False):
        make_security_group(REGIONS[NEAR], run_id, {**of_run(run_id), EXPIRES_TAG: expires})
    security_group(others[-1], others[-1])
    listed = call("--expired", "--dry-run")
    assert (listed.exit_code, late in listed.output) == (0, True)
    assert "may live until 2026-01-01 10:00 UTC: 1 resources" in listed.output
    swept = call("--expired")
    assert (swept.exit_code, f"{late} is destroyed: 1 resources" in swept.output) == (0, True)
    assert groups() == set(others)


def test_a_run_in_use_is_spared() -> None:
    instance(OLD)
    assert lost(in_use=[OLD]) == []


@pytest.mark.parametrize("value", ["*", "nt-*", "nt-20260314-", "", "production", f"{OLD}-2", f"my-{OLD}"])
def test_a_tag_that_names_no_run_is_left_alone(value: str) -> None:
    kept = instance(value)
    instance(OLD)
    (run,) = lost()
    destroy_lost(run, REGIONS)
    assert alive() == {kept}


def test_without_anything_of_its_own_it_destroys_nothing() -> None:
    mine = instance(None)
    security_group(None, "mine")
    role(None, "mine")
    assert lost() == []
    assert call("--older-than", "1s").stdout == "there is nothing to destroy\n"
    assert (alive(), groups(), roles()) == ({mine}, {"mine"}, {"mine"})


def test_a_journal_tells_of_what_the_tags_index_does_not_show_yet(tmp_path: Path) -> None:
    name = f"servers-{OLD}"
    security_group(OLD, name)
    security_group(None, "mine")
    journal = Journal(tmp_path / "journal.jsonl")
    journal.record("security group", name)
    journal.record("security group", "mine")
    shown = REGIONS[NEAR]("ec2")
    real = shown.get_paginator

    class Empty:
        def paginate(self, **_: Any) -> list[Any]:
            return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "get_paginator", lambda what: Empty() if "security" in what else real(what))
        assert find_lost({NEAR: REGIONS[NEAR]}, older_than=AGE, now=LATER) == []
        (run,) = find_lost({NEAR: REGIONS[NEAR]}, older_than=AGE, now=LATER, journals={OLD: journal})
        destroy_lost(run, REGIONS, journal=journal)
    assert groups() == {"mine"}


def test_what_cannot_be_destroyed_is_told_for_each_region_and_the_next_sweep_does_it() -> None:
    for region in REGIONS:
        instance(OLD, region)
    (run,) = lost()

    with refused(NEAR, "TerminateInstances"), pytest.raises(TeardownError) as caught:
        destroy_lost(run, REGIONS)
    assert "us-east-1: run nt-20260314-ab12cd is not destroyed" in str(caught.value)
    assert "UnauthorizedOperation: not you" in str(caught.value)
    assert (len(alive(NEAR)), alive(FAR)) == (1, set())
    destroy_lost(run, REGIONS)
    assert alive(NEAR) == set()


def test_a_region_that_cannot_be_asked_is_an_error() -> None:
    with (
        refused(FAR, "DescribeVolumes"),
        pytest.raises(TeardownError, match="eu-west-1 could not be searched"),
    ):
        find_lost(REGIONS, older_than=AGE)


def test_the_command_lists_and_destroys(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.new()
    run.note({"target": {"name": "aws", "region": NEAR, "endpoint_url": None}})
    run.journal.record("key pair", "web")
    used = Run.new()
    used.note({"target": {"name": "aws", "region": NEAR, "endpoint_url": None}})
    mine, busy = instance(None), instance(used.run_id)
    left = instance(run.run_id)
    lock = used.lock
    assert lock.try_acquire()
    try:
        assert "there is nothing to destroy" in call("--older-than", "6h").output
        monkeypatch.setattr("nomad_testkit.deployment.lost_runs.datetime", _Later)
        listed = call("--older-than", "6h", "--dry-run").output
        assert f"us-east-1: instance {left}\n" in listed
        assert "would be destroyed" in listed
        assert alive() == {mine, busy, left}
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
    assert "expected a whole number above 0 with s, m, h or d, such as 10m" in result.stderr.replace("\n", " ")


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
    with refused(FAR, by=denied):
        unasked: list[str] = []
        (run,) = lost(unasked=unasked)
        with pytest.raises(TeardownError, match=FAR):
            lost()
        with pytest.raises(TeardownError, match=FAR):
            find_lost({FAR: REGIONS[FAR]}, older_than=AGE, now=LATER, unasked=[])
    assert run.run_id == OLD
    assert len(unasked) == 1
    assert f"{FAR} could not be searched for lost runs" in unasked[0]
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
