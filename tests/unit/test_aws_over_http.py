"""What an account answers that is none like the others, read by botocore itself from a server that answers so."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from api_lab import Lab, cloud_lab
from aws_user import ACCOUNT, REGION, settings_for
from scripted_aws import Answer, Call, ec2_error, scripted_aws

from nomad_testkit.deployment.plan import plan
from nomad_testkit.deployment.preflight import survey
from nomad_testkit.errors import PreflightError, UsageError
from nomad_testkit.examples.example import Example
from nomad_testkit.targets import open_target
from nomad_testkit.targets.aws.account import AwsSession

pytestmark = pytest.mark.usefixtures("aws_user", "models_are_read_once")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with cloud_lab() as lab:
        yield lab


def opened(lab: Lab, answer: Answer, **options: str | None) -> list[str]:
    """Open the target where some calls are answered otherwise, and give what it says."""
    said: list[str] = []
    url = lab.ec2.meta.endpoint_url
    with scripted_aws(answer, url) as api, open_target(settings_for(api.url, **options), progress=said.append):
        return said


# -- credentials

_MFA = f"""
[profile admin]
role_arn = arn:aws:iam::{ACCOUNT}:role/admin
source_profile = base
mfa_serial = arn:aws:iam::{ACCOUNT}:mfa/bob
[profile base]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = nobodys
"""
_ASK_OFTEN = """
from concurrent.futures import ThreadPoolExecutor
from nomad_testkit.errors import UsageError
from nomad_testkit.targets.aws.account import AwsSession, clients, enabled_regions
try:
    with ThreadPoolExecutor(4) as pool:
        session = AwsSession("us-east-1")
        list(pool.map(session.client, ["ec2", "iam", "sts", "autoscaling"]))
        print(AwsSession("eu-west-1").identity().account, clients("eu-west-2")("ec2") and "all", enabled_regions())
except UsageError as error:
    print("UsageError:", error)
"""


def assumed_role(call: Call) -> tuple[int, str] | None:
    until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    if call.action == "AssumeRole":
        return 200, (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
            "<AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
            f"<SessionToken>t</SessionToken><Expiration>{until}</Expiration></Credentials></AssumeRoleResult>"
            "</AssumeRoleResponse>"
        )
    if call.action == "GetCallerIdentity":
        return 200, (
            '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Account>{ACCOUNT}</Account><Arn>arn:aws:sts::{ACCOUNT}:assumed-role/admin/x</Arn>"
            "</GetCallerIdentityResult></GetCallerIdentityResponse>"
        )
    if call.action == "DescribeRegions":
        return 200, "<DescribeRegionsResponse><regionInfo/></DescribeRegionsResponse>"
    return None


@pytest.fixture
def with_mfa(aws_user: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(_MFA)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "admin")


@pytest.mark.usefixtures("with_mfa")
def test_a_profile_with_mfa_and_no_terminal_is_told_what_to_do() -> None:
    with scripted_aws(assumed_role) as api:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _ASK_OFTEN],
            env={**os.environ, "AWS_ENDPOINT_URL": api.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            start_new_session=True,  # no terminal by another way
        )
    refusal = "UsageError: the profile 'admin' asks for an MFA code, and there is no terminal"
    assert done.stdout.startswith(refusal), done
    assert "aws configure export-credentials" in done.stdout
    assert "EOFError" not in done.stdout + done.stderr
    assert api.count("AssumeRole") == 0


@pytest.mark.usefixtures("with_mfa")
def test_a_profile_with_mfa_asks_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_aws(assumed_role) as api:
        monkeypatch.setenv("AWS_ENDPOINT_URL", api.url)
        process, terminal = pty.fork()
        if process == 0:
            os.execv(sys.executable, [sys.executable, "-W", "ignore", "-c", _ASK_OFTEN])
        seen, answered = b"", 0
        try:
            while True:
                try:
                    data = os.read(terminal, 4096)
                except OSError:  # the process has ended
                    break
                seen += data
                if seen.count(b"MFA code for") > answered:
                    answered += 1
                    os.write(terminal, b"123456\n")
        finally:
            os.waitpid(process, 0)
            os.close(terminal)
    assert f"{ACCOUNT} all []" in seen.decode()
    assert (answered, api.count("AssumeRole")) == (1, 1)
    (asked,) = [call for call in api.calls if call.action == "AssumeRole"]
    assert asked.parameters["TokenCode"] == "123456"


_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    ],
}


def session(lab: Lab) -> dict[str, str]:
    """Give the variables of temporary credentials of a role that may do everything."""
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    if not lab.iam.list_roles()["Roles"]:
        lab.iam.create_role(RoleName="deployer", AssumeRolePolicyDocument=json.dumps(_TRUST))
    lab.iam.put_role_policy(RoleName="deployer", PolicyName="all", PolicyDocument=json.dumps(everything))
    role = f"arn:aws:iam::{ACCOUNT}:role/deployer"
    made = lab.client("sts").assume_role(RoleArn=role, RoleSessionName="ci")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
        "AWS_SESSION_TOKEN": made["SessionToken"],
    }


def in_minutes(minutes: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(("minutes", "remarked"), [(None, False), (20, True), (100, True), (3000, False)])
def test_credentials_that_end_before_the_clusters_time_are_remarked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, minutes: int | None, remarked: bool
) -> None:
    for name, value in session(lab).items():
        monkeypatch.setenv(name, value)
    if minutes:
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", in_minutes(minutes))
    said = opened(lab, lambda call: None)
    found = [line for line in said if "these credentials expire in" in line]
    assert found == ([said[-1]] if remarked else [])
    assert all("(7200 s, --nomad-aws-max-time)" in line for line in found)


@pytest.mark.parametrize("until", ["", "tomorrow", "2030-03-14T09:00:00"], ids=["past", "unreadable", "without a zone"])
def test_credentials_whose_end_is_past_or_unreadable(monkeypatch: pytest.MonkeyPatch, until: str) -> None:
    found = f"AWS_CREDENTIAL_EXPIRATION: found '{until}', expected a time with its zone"
    said = found if until else "the AWS credentials have expired"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "nobodys")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", until or in_minutes(-1))
    with pytest.raises(UsageError) as caught:
        AwsSession(REGION)
    assert str(caught.value).startswith(said)


# -- what may be done


def no_security_groups(call: Call) -> tuple[int, str] | None:
    if call.action == "CreateSecurityGroup":
        return ec2_error("UnauthorizedOperation", "You are not authorized")
    return None


def test_what_may_not_be_done_is_a_remark_where_permissions_are_skipped(lab: Lab) -> None:
    with pytest.raises(PreflightError, match="the permission ec2:CreateSecurityGroup on what is in"):
        opened(lab, no_security_groups)
    said = opened(lab, no_security_groups, aws_skip_permissions="true")
    (line,) = [line for line in said if "ec2:CreateSecurityGroup" in line and "taken as no obstacle" in line]
    assert "(option --nomad-aws-skip-permissions): the permission" in line


OFFERED = [("abc", ""), ("ab", "c"), ("c", "ab"), ("", "abc")]


@pytest.mark.parametrize(("offered", "refused"), OFFERED, ids=lambda value: value or "none")
def test_the_type_has_to_be_offered_in_the_zone_of_every_subnet(lab: Lab, offered: str, refused: str) -> None:
    def answer(call: Call) -> tuple[int, str] | None:
        if call.action != "DescribeInstanceTypeOfferings":
            return None
        assert call.parameters["LocationType"] == "availability-zone"
        items = "".join(
            f"<item><instanceType>t2.micro</instanceType><locationType>availability-zone</locationType>"
            f"<location>{REGION}{zone}</location></item>"
            for zone in offered
        )
        return 200, (
            '<DescribeInstanceTypeOfferingsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet></DescribeInstanceTypeOfferingsResponse>"
        )

    example = Example.load("nomad-consul-colocated-cluster").replace(num_servers=1, num_clients=1)
    found = ""
    with (
        scripted_aws(answer, lab.ec2.meta.endpoint_url) as api,
        open_target(settings_for(api.url), progress=lambda line: None) as target,
    ):
        planned = plan(example, run_id="nt-1", region=REGION, placements=survey(example, target), public_key="")
        wanted = planned.launches
        assert [len(one.subnets) for one in wanted] == [3, 3]
        try:
            target.check_capacity(wanted, progress=lambda line: None)
        except PreflightError as error:
            found = str(error)
    for group in ("servers", "clients"):
        (line,) = [one for one in found.splitlines() if f"t2.micro ({group}) in" in one] or [""]
        assert [zone for zone in "abc" if f"{REGION}{zone} (subnet-" in line] == list(refused)
