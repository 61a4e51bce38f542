"""The target `aws` before anything is created: whose account it is, where it deploys, and what it refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_lab import Lab, cloud_lab
from aws_user import ACCOUNT, AMI, REGION, SOURCE, settings_for
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, UnauthorizedSSOTokenError
from click.testing import CliRunner
from faulty_api import refusal

from nomad_testkit.cli import main
from nomad_testkit.deployment.plan import plan
from nomad_testkit.deployment.preflight import survey
from nomad_testkit.errors import ExampleError, PreflightError, SettingsError, UsageError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.network import Instance
from nomad_testkit.settings import Settings
from nomad_testkit.targets import attach_target, open_target
from nomad_testkit.targets.aws.account import AwsSession, refused
from nomad_testkit.targets.aws.network import source_blocks
from nomad_testkit.targets.base import Target

COLOCATED = "nomad-consul-colocated-cluster"

log = logging.getLogger(__name__)
pytestmark = pytest.mark.usefixtures("aws_user", "models_are_read_once")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with cloud_lab() as lab:
        yield lab


class Opening:
    """Opens the target with a user's options, and keeps what it says."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.said: list[str] = []

    def settings(self, **options: str | None) -> Settings:
        return settings_for(self.lab.ec2.meta.endpoint_url, **options)

    def refused(self, **options: str | None) -> str:
        with pytest.raises(UsageError) as caught, open_target(self.settings(**options), progress=self.said.append):
            raise AssertionError("it is refused")
        return str(caught.value)

    def check_capacity(self, example: Example, **options: str | None) -> Target:
        with open_target(self.settings(**options), progress=self.said.append) as target:
            places = survey(example, target)
            planned = plan(example, run_id="nt-1", region=target.region, placements=places, public_key="")
            target.check_capacity(planned.launches, progress=self.said.append)
            return target


@pytest.fixture
def opening(lab: Lab) -> Opening:
    return Opening(lab)


def small(**variables: Any) -> Example:
    return Example.load(COLOCATED).replace(num_servers=1, num_clients=1, **variables)


def test_the_account_has_to_be_named_and_is_named_in_the_refusal(opening: Opening) -> None:
    found = f"these AWS credentials are of the account {ACCOUNT} (arn:aws:iam::{ACCOUNT}:user/nomad-testkit)"
    assert opening.refused(aws_account=None) == (
        f"{found}; nothing was created. If clusters may be deployed there, say so: --nomad-aws-account {ACCOUNT}"
    )
    assert opening.refused(aws_account="999999999999") == (
        f"option --nomad-aws-account: {found}, but may be used for 999999999999 only; nothing was created. "
        f"Right are credentials of that account (AWS_PROFILE), or --nomad-aws-account {ACCOUNT}"
    )
    assert opening.said == []
    with pytest.raises(SettingsError, match="--nomad-aws-account: found 'prod', expected the id of an AWS account"):
        opening.settings(aws_account="prod")


def test_it_tells_the_account_the_network_and_who_may_come_in(opening: Opening) -> None:
    with open_target(opening.settings(), progress=opening.said.append) as target:
        assert (target.region, target.endpoint_url) == (REGION, opening.lab.ec2.meta.endpoint_url)
        assert [subnet.availability_zone for subnet in target.network().subnets] == [
            f"{REGION}{zone}" for zone in "abc"
        ]
        assert target.inbound_cidrs == (SOURCE,)
        assert (target.time_limit, target.lost()) == (7200, None)
        public = Instance("i-1", "servers", "running", "172.31.0.4", "203.0.113.9", "us-east-1a", AMI)
        assert target.address(public) == "203.0.113.9"
        inside = Instance("i-1", "servers", "running", "172.31.0.4", "", "us-east-1a", AMI)
        assert target.address(inside) == "172.31.0.4"
    said = "\n".join(opening.said)
    assert f"account {ACCOUNT} in {REGION}, as arn:aws:iam::{ACCOUNT}:user/nomad-testkit (credentials: env)" in said
    assert f"the hosts let in {SOURCE}" in said


def test_another_process_uses_it_by_its_own_credentials_of_the_same_account(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_target(opening.settings(aws_budget="2", aws_max_time="60"), progress=log.info) as target:
        told = target.describe()
    assert "AKIA" not in str(told)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # what was told counts, not this
    with attach_target(told) as attached:
        assert attached.describe() == told
        assert attached.time_limit == 60
    with pytest.raises(UsageError, match=f"of the account {ACCOUNT} .* is in 999999999999: name a profile of that"):
        attach_target({**told, "account": "999999999999"}).__enter__()


def test_the_endpoint_of_the_environment_is_followed_and_remembered(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = opening.lab.ec2.meta.endpoint_url
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with open_target(opening.settings(aws_endpoint_url=None), progress=log.info) as target:
        assert target.describe()["endpoint_url"] == url
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert AwsSession(REGION).endpoint_url is None
    assert "could not be reached" in opening.refused(aws_endpoint_url="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "no AWS credentials were found: log in (`aws sso login`), name a profile (AWS_PROFILE)",
        ),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        (
            {"AWS_PROFILE": "testin"},
            "AWS_PROFILE: there is no profile 'testin' in ~/.aws/config; did you mean testing?",
        ),
    ],
)
def test_no_credentials_half_of_a_key_or_an_unknown_profile(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    (tmp_path / "config").write_text("[profile testing]\nregion = eu-west-1\n[profile production]\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    assert said in opening.refused()


def test_the_region_is_the_users_own_unless_one_is_given(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[profile testing]\nregion = eu-west-1\n")
    assert opening.refused(region=None).startswith("no AWS region is chosen: give one (--nomad-region, AWS_DEFAULT_REG")
    monkeypatch.setenv("AWS_PROFILE", "testing")
    assert AwsSession().region == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert AwsSession().region == "eu-west-2"
    assert AwsSession("eu-west-3").region == "eu-west-3"
    assert opening.refused(region="us-east-9").startswith("there is no AWS region 'us-east-9'; did you mean us-east-")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoCredentialsError(), "no AWS credentials were found: "),
        (
            refusal("ExpiredToken", "It is expired"),
            "the AWS credentials have expired (ExpiredToken: It is expired): get new ones, for example",
        ),
        (UnauthorizedSSOTokenError(), "the SSO login of the profile 'testing' cannot be used"),
        (
            refusal("InvalidClientTokenId", "It is invalid"),
            "AWS does not take these credentials in eu-south-1 (InvalidClientTokenId: It is invalid): log in",
        ),
        (EndpointConnectionError(endpoint_url="https://sts.x"), "the API in eu-south-1 could not be reached"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_credentials_that_cannot_be_used_are_told_with_the_remedy(error: Exception, said: str) -> None:
    assert str(refused(error, "eu-south-1", "testing")).startswith(said)


def test_the_source_address_is_found_and_never_the_whole_internet(opening: Opening) -> None:
    def choose(given: tuple[str, ...] | None, **how: Any) -> tuple[str, ...]:
        return source_blocks(given, **{"allow_anywhere": False, "endpoint_url": None, **how})

    assert choose(None, ask=lambda: "203.0.113.7\n") == (SOURCE,)
    assert choose(("10.0.0.0/8", SOURCE)) == ("10.0.0.0/8", SOURCE)
    for wide in ("0.0.0.0/0", "128.0.0.0/1"):
        with pytest.raises(UsageError, match=f"{wide} lets the whole internet try SSH .* --nomad-aws-allow-anywhere"):
            choose((SOURCE, wide))
        assert choose((wide,), allow_anywhere=True) == (wide,)

    def offline() -> str:
        raise OSError("no route to host")

    for ask in (offline, lambda: "<html>log in</html>"):
        with pytest.raises(UsageError, match=r"could not be found by https://checkip.*--nomad-aws-source-cidr CIDR"):
            choose(None, ask=ask)
    assert "give --nomad-aws-source-cidr CIDR" in opening.refused(aws_source_cidr=None)
    assert opening.refused(aws_source_cidr="0.0.0.0/0").startswith("option --nomad-aws-source-cidr: 0.0.0.0/0 lets")
    for malformed in ("203.0.113.7/33", "203.0.113.7/24", "everywhere", "::1/128"):
        with pytest.raises(SettingsError, match=f"--nomad-aws-source-cidr: found '{malformed}', expected IPv4 blocks"):
            opening.settings(aws_source_cidr=malformed)


def test_a_vpc_of_the_users_choice(opening: Opening) -> None:
    ec2 = opening.lab.ec2
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    option = "option --nomad-aws-vpc"
    assert opening.refused(aws_vpc=vpc) == (
        f"{option}: the VPC {vpc} has no subnets; expected a VPC with one in each zone to use"
    )
    made = {
        block: ec2.create_subnet(VpcId=vpc, CidrBlock=block, AvailabilityZone=f"{REGION}{zone}")["Subnet"]["SubnetId"]
        for block, zone in (("10.9.0.0/28", "b"), ("10.9.1.0/24", "b"), ("10.9.2.0/28", "a"))
    }
    with open_target(opening.settings(aws_vpc=vpc), progress=log.info) as target:
        network = target.network()
    assert network.vpc_id == vpc
    assert [(one.subnet_id, one.availability_zone) for one in network.subnets] == [
        (made["10.9.2.0/28"], f"{REGION}a"),
        (made["10.9.1.0/24"], f"{REGION}b"),
    ]
    said = opening.refused(aws_vpc="vpc-0123456789abcdef0")
    assert said.startswith(f"{option}: there is no VPC vpc-0123456789abcdef0 in {REGION}; expected one of vpc-")
    assert f"{vpc} (10.9.0.0/16)" in said
    assert "the default one" in said


def test_without_a_default_vpc_one_has_to_be_named(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening.lab.api._ec2.get_default_vpc(), "is_default", "false")
    said = opening.refused()
    assert said.startswith(f"{REGION} has no default VPC: name one (--nomad-aws-vpc VPC), one of vpc-")


def test_an_image_has_to_be_named_and_to_be_there(opening: Opening) -> None:
    with open_target(opening.settings(ami=None), progress=log.info) as target:
        assert target.image(small(ami_id=AMI)) == AMI
        with pytest.raises(UsageError, match=r"example.toml names no AMI .* \(--nomad-ami AMI\), .*fixture nomad_ami"):
            target.image(small())
        with pytest.raises(ExampleError, match=f"'ami-00000000', which is not in {REGION}"):
            survey(small(ami_id="ami-00000000"), target)
    with (
        open_target(opening.settings(ami="ami-00000000"), progress=log.info) as target,
        pytest.raises(UsageError, match=f"option --nomad-ami: there is no AMI ami-00000000 in {REGION} for account"),
    ):
        target.image(small())


def test_a_deployment_has_to_fit_the_budget(opening: Opening) -> None:
    opening.check_capacity(small(), aws_budget="0.5")
    assert any(line.startswith("AWS preflight: estimated cost: 1 x t2.micro (servers)") for line in opening.said)
    with pytest.raises(UsageError) as caught:
        opening.check_capacity(small(), aws_budget="0.05", aws_max_time="3600000")
    said = str(caught.value)
    assert said.startswith("option --nomad-aws-budget: found a budget of 0.05 USD, but the estimate is 4")
    assert "for 3.6e+06 s (option --nomad-aws-max-time); expected 4" in said
    with pytest.raises(UsageError, match=r"no price of i3\.large is known, so the budget of 9\.00 USD cannot be held"):
        opening.check_capacity(small(instance_type="i3.large"), aws_budget="9")
    for malformed in ("0", "-1", "ten", "nan"):
        with pytest.raises(SettingsError, match=f"aws-budget: found '{malformed}', expected a sum in US dollars"):
            opening.settings(aws_budget=malformed)


def test_what_ec2_would_refuse_is_told_before_anything_is_created(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    def strike(params: Any, **_: Any) -> None:
        if params.get("DryRun"):
            raise refusal("OptInRequired", "Accept the terms first", "RunInstances")

    made = boto3.session.Session.client

    def client(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = made(self, *args, **kwargs)
        answer.meta.events.register("before-parameter-build.ec2.RunInstances", strike)
        return answer

    monkeypatch.setattr(boto3.session.Session, "client", client)
    with pytest.raises(PreflightError) as caught:
        opening.check_capacity(small())
    said = str(caught.value)
    assert said.startswith(f"account {ACCOUNT} in {REGION} lacks 2 thing(s) that are needed:")
    assert f"a launch of 1 x t2.micro of {AMI} in subnet-" in said
    assert "EC2 refuses it: OptInRequired: Accept the terms first" in said
    made_for_a_run = [{"Name": "tag-key", "Values": ["nomad-testkit-run"]}]
    assert opening.lab.ec2.describe_security_groups(Filters=made_for_a_run)["SecurityGroups"] == []


def test_the_command_line_names_its_own_options(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", opening.lab.ec2.meta.endpoint_url)
    where = ["--target", "aws", "--region", REGION, "--aws-source-cidr", SOURCE]
    up = CliRunner().invoke(main, ["up", COLOCATED, *where])
    assert (up.exit_code, up.output.strip().rpartition(": ")[2]) == (2, f"--aws-account {ACCOUNT}")
    doctor = CliRunner().invoke(main, ["doctor", *where])
    assert doctor.exit_code == 1
    assert f" --aws-account {ACCOUNT}\n" in doctor.output
