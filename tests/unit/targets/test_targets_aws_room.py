"""What an account has to allow and to have room for, on answers that AWS gives: quotas, permissions, prices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from nomad_testkit.errors import UsageError
from nomad_testkit.targets.aws.account import Identity
from nomad_testkit.targets.aws.cost import Estimate, Price, Prices, estimate, from_table, refuse_above
from nomad_testkit.targets.aws.permissions import _questions, missing_permissions
from nomad_testkit.targets.aws.policy import DEPLOYING, needs_of, seen_calls
from nomad_testkit.targets.aws.quotas import lacking_vcpus, quota_code
from nomad_testkit.targets.base import LaunchRequest

REGION = "eu-west-1"
ACCOUNT = "123456789012"
STANDARD = "L-1216C47A"
SESSION = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)
SERVERS = LaunchRequest("servers", 3, "t3.micro", "ami-1", "subnet-1", (("gp2", 50),))
CLIENTS = LaunchRequest("clients", 6, "m5.large", "ami-1", "subnet-1", (("gp3", 73),), public_address=False)
ROLE = Identity(ACCOUNT, f"arn:aws:sts::{ACCOUNT}:assumed-role/nightly/session")


class Stubs:
    """Clients that answer as they are told, in that order, and take nothing else."""

    def __init__(self) -> None:
        self.stubbers: dict[str, Stubber] = {}
        self.clients: dict[str, Any] = {}
        self.remarks: list[str] = []

    def __getitem__(self, service: str) -> Stubber:
        if service not in self.stubbers:
            self.clients[service] = SESSION.client(service)  # type: ignore[call-overload]
            self.stubbers[service] = Stubber(self.clients[service])
            self.stubbers[service].activate()
        return self.stubbers[service]

    def client(self, service: str, region: str = REGION) -> Any:
        assert self[service] is not None
        return self.clients[service]


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    stubs = Stubs()
    yield stubs
    for stubber in stubs.stubbers.values():
        stubber.assert_no_pending_responses()


def types(stubs: Stubs, **vcpus: int) -> None:
    named = {name.replace("_", "."): count for name, count in vcpus.items()}
    answer = [{"InstanceType": name, "VCpuInfo": {"DefaultVCpus": count}} for name, count in named.items()]
    stubs["ec2"].add_response("describe_instance_types", {"InstanceTypes": answer}, {"InstanceTypes": sorted(named)})


def quota(stubs: Stubs, code: str, most: float) -> None:
    found = {"QuotaName": "Running On-Demand Standard instances", "Value": most}
    stubs["service-quotas"].add_response(
        "get_service_quota", {"Quota": found}, {"ServiceCode": "ec2", "QuotaCode": code}
    )


def running(stubs: Stubs, *instances: tuple[str, str | None]) -> None:
    found = [
        {"InstanceType": kind} | ({"InstanceLifecycle": lifecycle} if lifecycle else {})
        for kind, lifecycle in instances
    ]
    stubs["ec2"].add_response("describe_instances", {"Reservations": [{"Instances": found}]}, {"Filters": ANY})


# -- quotas


def test_each_family_counts_for_its_quota() -> None:
    assert {quota_code(kind) for kind in ("t2.micro", "m7i.large", "im4gn.large")} == {STANDARD}
    assert (quota_code("g4dn.xlarge"), quota_code("x1.32xlarge")) == ("L-DB2E81BA", "L-7295265B")
    assert (quota_code("c5.large", spot=True), quota_code("mac1.metal"), quota_code("")) == ("L-34B43A08", None, None)


def lacking(stubs: Stubs, *launches: LaunchRequest) -> tuple[list[str], list[str]]:
    missing, lines = lacking_vcpus(stubs.client, launches, region=REGION, remark=stubs.remarks.append)
    return [str(one) for one in missing], lines


def test_room_enough_is_told(stubs: Stubs) -> None:
    types(stubs, m5_large=2, t3_micro=2)
    quota(stubs, STANDARD, 32)
    running(stubs, ("m5.large", None), ("m5.large", None), ("g4dn.xlarge", None), ("m5.large", "spot"))
    types(stubs, m5_large=2)
    name = "Running On-Demand Standard instances"
    line = f"quota {STANDARD} ({name}) in {REGION}: 4 of 32 vCPUs are in use, 18 more needed"
    assert lacking(stubs, SERVERS, CLIENTS) == ([], [line])
    assert stubs.remarks == []


def test_too_little_room_names_the_quota_what_is_in_use_and_where_to_ask_for_more(stubs: Stubs) -> None:
    types(stubs, m5_large=2, t3_micro=2)
    quota(stubs, STANDARD, 21)
    running(stubs, ("m5.large", None), ("m5.large", None))
    types(stubs, m5_large=2)
    (missing,), _ = lacking(stubs, SERVERS, CLIENTS)
    assert missing.startswith(
        f"18 vCPUs of the quota {STANDARD} (Running On-Demand Standard instances) in {REGION}: 4 of 21 are in use: "
    )
    assert missing.endswith(f"/servicequotas/home/services/ec2/quotas/{STANDARD})")


def test_a_quota_that_cannot_be_read_is_a_remark(stubs: Stubs) -> None:
    types(stubs, t3_micro=2)
    stubs["service-quotas"].add_client_error("get_service_quota", "AccessDeniedException", "You may not")
    assert lacking(stubs, SERVERS) == ([], [])
    assert stubs.remarks == [f"the quota {STANDARD} of vCPUs could not be read: AccessDeniedException: You may not"]


# -- permissions


def dry_runs(stubs: Stubs, **said: str) -> None:
    """Let EC2 answer dry runs: with DryRunOperation, unless told otherwise."""
    for call in ("create_security_group", "create_launch_template", "import_key_pair"):
        message = "You are not authorized. Encoded authorization failure message: xyz"
        stubs["ec2"].add_client_error(call, said.get(call, "DryRunOperation"), message)


def simulated(
    stubs: Stubs,
    denied: Callable[[str, str], str | None],
    arn: str = f"arn:aws:iam::{ACCOUNT}:role/nightly",
    unknown: Sequence[str] = (),
) -> None:
    """Let IAM's simulator allow everything but what is `denied`, which tells how."""
    for resource, _, actions in _questions(needs_of(seen_calls(*DEPLOYING)), ACCOUNT, REGION):
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": resource,
                "EvalDecision": denied(action, resource) or "allowed",
                "MissingContextValues": list(unknown),
            }
            for action in actions
        ]
        asked = {"PolicySourceArn": arn, "ActionNames": actions, "ResourceArns": [resource], "ContextEntries": ANY}
        stubs["iam"].add_response("simulate_principal_policy", {"EvaluationResults": results}, asked)


def role(stubs: Stubs, path: str = "/") -> None:
    found = {
        "Path": path,
        "RoleName": "nightly",
        "RoleId": "AROAIOSFODNN7EXAMPLE",
        "Arn": f"arn:aws:iam::{ACCOUNT}:role{path}nightly",
        "CreateDate": "2026-01-01T00:00:00Z",
    }
    stubs["iam"].add_response("get_role", {"Role": found}, {"RoleName": "nightly"})


def missing(stubs: Stubs, identity: Identity = ROLE) -> list[str]:
    found = missing_permissions(stubs.client, identity, region=REGION, vpc_id="vpc-1", remark=stubs.remarks.append)
    return [str(one) for one in found]


def test_a_role_that_may_do_everything_lacks_nothing(stubs: Stubs) -> None:
    dry_runs(stubs)
    role(stubs, "/ci/")
    simulated(stubs, lambda action, resource: None, f"arn:aws:iam::{ACCOUNT}:role/ci/nightly")
    assert (missing(stubs), stubs.remarks) == ([], [])


def test_a_role_whose_path_may_not_be_asked_for_is_taken_to_have_none(stubs: Stubs) -> None:
    dry_runs(stubs)
    stubs["iam"].add_client_error("get_role", "AccessDenied", "no")
    simulated(stubs, lambda action, resource: None)
    assert (missing(stubs), stubs.remarks) == ([], [])


def test_what_is_denied_names_the_action_the_resource_and_the_remedy(stubs: Stubs) -> None:
    dry_runs(stubs, import_key_pair="UnauthorizedOperation")
    role(stubs)
    decisions = {
        "iam:PassRole": "implicitDeny",
        "autoscaling:DeleteAutoScalingGroup": "explicitDeny",
        "ec2:CreateSecurityGroup": "implicitDeny",  # EC2 itself says otherwise
        "ec2:RebootInstances": "implicitDeny",  # only tests of faults do it
    }
    simulated(stubs, lambda action, resource: decisions.get(action))
    remedy = "allow it, as the policy does that `nomad-testkit iam-policy` prints"
    assert sorted(missing(stubs)) == [
        "the permission autoscaling:DeleteAutoScalingGroup on arn:aws:autoscaling:eu-west-1:123456789012:"
        "autoScalingGroup:nt-20000101-000000:autoScalingGroupName/nt-20000101-000000 (denied by a policy): " + remedy,
        "the permission ec2:ImportKeyPair on what is in eu-west-1 (UnauthorizedOperation: You are not authorized.): "
        + remedy,
        "the permission iam:PassRole on arn:aws:iam::123456789012:role/nomad-nt-20000101-000000 (no policy allows it): "
        + remedy,
    ]
    assert stubs.remarks == ["what only tests of faults and this preflight do is not allowed: ec2:RebootInstances"]


def test_without_the_simulator_only_the_dry_runs_count(stubs: Stubs) -> None:
    dry_runs(stubs, create_launch_template="UnauthorizedOperation", create_security_group="RequestLimitExceeded")
    role(stubs)
    stubs["iam"].add_client_error("simulate_principal_policy", "AccessDenied", "You may not simulate")
    assert [one.partition(" on ")[0] for one in missing(stubs)] == ["the permission ec2:CreateLaunchTemplate"]
    assert [remark.partition(":")[0] for remark in stubs.remarks] == ["ec2", "permissions could not be simulated (iam"]


@pytest.mark.parametrize(
    ("arn", "remark"),
    [
        (f"arn:aws:iam::{ACCOUNT}:root", "these are credentials of the account's root user"),
        (f"arn:aws:sts::{ACCOUNT}:federated-user/bob", "is neither a user nor a role"),
    ],
)
def test_who_cannot_be_simulated(stubs: Stubs, arn: str, remark: str) -> None:
    dry_runs(stubs)
    assert missing(stubs, Identity(ACCOUNT, arn)) == []
    assert [remark in one for one in stubs.remarks] == [True]


def test_the_simulator_is_asked_of_single_resources_under_the_conditions_of_a_run(stubs: Stubs) -> None:
    dry_runs(stubs)
    asked: list[dict[str, Any]] = []
    user = f"arn:aws:iam::{ACCOUNT}:user/bob"
    simulated(stubs, lambda action, resource: None, user)
    stubs.client("iam").meta.events.register(
        "provide-client-params.iam.SimulatePrincipalPolicy", lambda params, **_: asked.append(params)
    )
    missing(stubs, Identity(ACCOUNT, user))
    arns = [one["ResourceArns"][0] for one in asked]
    assert [arn for arn in arns if "*" in arn] == ["*"]
    of_key_pairs = [one for one in asked if one["ResourceArns"][0].endswith(":key-pair/nt-20000101-000000")]
    (tagging,) = [one for one in of_key_pairs if one["ActionNames"] == ["ec2:CreateTags"]]
    values = {one["ContextKeyName"]: one["ContextKeyValues"] for one in tagging["ContextEntries"]}
    assert values == {"aws:RequestedRegion": [REGION], "ec2:CreateAction": ["ImportKeyPair"]}
    entries = [entry for one in asked for entry in one["ContextEntries"]]
    templates = [entry for entry in entries if entry["ContextKeyName"] == "ec2:LaunchTemplate"]
    assert {value for entry in templates for value in entry["ContextKeyValues"]} == {
        f"arn:aws:ec2:{REGION}:{ACCOUNT}:launch-template/nt-20000101-000000"
    }


@pytest.mark.parametrize("decision", ["implicitDeny", "explicitDeny"])
@pytest.mark.parametrize("key", ["aws:MultiFactorAuthPresent", "aws:SourceIp", "aws:PrincipalOrgID"])
def test_a_policy_that_asks_for_what_the_simulator_is_not_told_is_no_denial(
    stubs: Stubs, key: str, decision: str
) -> None:
    dry_runs(stubs)
    role(stubs)
    simulated(stubs, lambda action, resource: decision, unknown=[key])
    assert missing(stubs) == []
    (said,) = stubs.remarks
    assert said.startswith("it is not known whether ")
    assert (
        f"the policies ask for {key}, which only real calls have; give them with --nomad-aws-context KEY=VALUE" in said
    )


# -- prices


def product(dollars: str, unit: str = "Hrs") -> str:
    terms = {"OnDemand": {"A": {"priceDimensions": {"B": {"unit": unit, "pricePerUnit": {"USD": dollars}}}}}}
    return json.dumps({"product": {}, "terms": terms})


def test_the_price_list_is_asked_for_linux_on_demand_in_the_region(stubs: Stubs) -> None:
    asked = {
        "instanceType": "t3.micro",
        "regionCode": REGION,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "tenancy": "Shared",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in asked.items()]
    answer = {"PriceList": [product("0.0000000000"), product("0.0114000000"), product("9.0", unit="Quantity")]}
    stubs["pricing"].add_response("get_products", answer, {"ServiceCode": "AmazonEC2", "Filters": filters})
    prices = Prices(stubs.client, REGION, stubs.remarks.append)
    listed = Price(0.0114, "AWS's price list of eu-west-1")
    assert [prices("t3.micro", "default") for _ in range(2)] == [listed, listed]


def test_the_table_stands_in_for_a_price_list_that_may_not_be_asked_or_has_nothing(stubs: Stubs) -> None:
    stubs["pricing"].add_response("get_products", {"PriceList": []}, {"ServiceCode": ANY, "Filters": ANY})
    stubs["pricing"].add_client_error("get_products", "AccessDeniedException", "no")
    prices = Prices(stubs.client, REGION, stubs.remarks.append)
    found = [prices(kind, "default") for kind in ("m5.large", "t3.micro")]
    assert [(one.dollars, one.at_most) for one in found if one] == [(0.192, True), (0.0208, True)]
    said = "the price list could not be asked, so a table stands in for it (AccessDeniedException: no)"
    assert stubs.remarks == [said]
    assert prices("u-24tb1.metal", "default") is None


def test_the_table() -> None:
    known = {"t2.micro": 0.0116, "t3.xlarge": 0.1664, "m5.2xlarge": 0.384, "t4g.nano": 0.0042}
    found = {kind: from_table(kind, "default", "us-east-1") for kind in known}
    assert {kind: round(price.dollars, 4) for kind, price in found.items() if price} == known
    assert from_table("t2.micro", "dedicated", "us-east-1") is None


def test_an_estimate_is_of_hosts_their_disks_and_public_addresses() -> None:
    found = estimate([SERVERS, CLIENTS], lambda kind, tenancy: Price(0.1, "a list"), region="us-east-1")
    # 9 hosts, 3 addresses, 3 x 50 GiB at 0.10 and 6 x 73 GiB at 0.08 a month of 730 hours
    assert found.hourly == pytest.approx(0.9 + 3 * 0.005 + (15 + 35.04) / 730)
    assert found.summary(1800).startswith(
        "estimated cost: 3 x t3.micro (servers) x 0.1000, 6 x m5.large (clients) x 0.1000: 0.98 USD an hour, "
        "0.49 USD in 0.5 h (a list; without traffic"
    )
    spot = LaunchRequest("clients", 2, "m5.large", "ami-1", "subnet-1", public_address=False, spot_price=0.03)
    bid = estimate([spot, LaunchRequest("none", 0, "m5.large", "ami-1", "subnet-1")], lambda *_: None, region=REGION)
    assert bid.hourly == pytest.approx(0.06)
    assert bid.at_most
    assert bid.unknown == ()


def test_a_budget_is_held_against_the_whole_time() -> None:
    found = Estimate(1.0, ("x",), ("a list",), False, ())
    names = {"source": "option --nomad-aws-budget", "time_source": "default"}
    refuse_above(None, found, 1e9, **names)
    refuse_above(2.0, found, 7200, **names)
    said = r"found a budget of 1\.50 USD, but the estimate is 2\.00 USD for 7200 s .*5400 s"
    with pytest.raises(UsageError, match=said):
        refuse_above(1.5, found, 7200, **names)
