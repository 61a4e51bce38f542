"""What callers may do: by the policies of users, groups and roles, by boundaries and sessions, in AWS's words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from api_lab import AMI, REGION, Lab, cloud_lab, refused
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from nomad_testkit.targets.aws.account import Identity
from nomad_testkit.targets.aws.permissions import missing_permissions

ACCOUNT = "123456789012"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with cloud_lab() as made:
        yield made


def allow(*actions: str, resource: Any = "*", effect: str = "Allow", **more: Any) -> str:
    statement = {"Effect": effect, "Action": list(actions), "Resource": resource, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def user(lab: Lab, *policies: str, name: str = "someone") -> dict[str, str]:
    """Make a user with policies; gives the options of its clients."""
    lab.iam.create_user(UserName=name)
    for number, policy in enumerate(policies):
        lab.iam.put_user_policy(UserName=name, PolicyName=f"policy-{number}", PolicyDocument=policy)
    made = lab.iam.create_access_key(UserName=name)["AccessKey"]
    return {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}


def session(lab: Lab, role: dict[str, Any], **options: Any) -> dict[str, str]:
    """Give the options of the clients of a role's session."""
    made = lab.client("sts", **options.pop("caller", {})).assume_role(
        RoleArn=role["Arn"], RoleSessionName="session", **options
    )["Credentials"]
    return {
        "aws_access_key_id": made["AccessKeyId"],
        "aws_secret_access_key": made["SecretAccessKey"],
        "aws_session_token": made["SessionToken"],
    }


def role(lab: Lab, *policies: str, trusts: Any = None, **options: Any) -> dict[str, Any]:
    trust = {"Statement": [{"Effect": "Allow", "Principal": trusts or {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}]}
    document = json.dumps({"Version": "2012-10-17", **trust})
    made: dict[str, Any] = lab.iam.create_role(RoleName="one", AssumeRolePolicyDocument=document, **options)["Role"]
    for number, policy in enumerate(policies):
        lab.iam.put_role_policy(RoleName="one", PolicyName=f"policy-{number}", PolicyDocument=policy)
    return made


def test_an_instances_role_may_do_what_its_policies_say(lab: Lab) -> None:
    lab.iam.create_role(RoleName="hosts", AssumeRolePolicyDocument=json.dumps(TRUST))
    lab.iam.put_role_policy(RoleName="hosts", PolicyName="own", PolicyDocument=allow("ec2:DescribeTags"))
    lab.iam.create_instance_profile(InstanceProfileName="hosts")
    lab.iam.add_role_to_instance_profile(InstanceProfileName="hosts", RoleName="hosts")
    instance = lab.running(IamInstanceProfile={"Name": "hosts"})
    profile = lab.view(instance).profile
    assert profile is not None
    key = profile.credentials
    ec2 = lab.client(
        "ec2",
        aws_access_key_id=key.access_key_id,
        aws_secret_access_key=key.secret_access_key,
        aws_session_token=key.session_token,
    )
    assert ec2.describe_tags()["Tags"] == []
    assert refused("UnauthorizedOperation", ec2.describe_instances) == (
        "You are not authorized to perform this operation. "
        f"User: arn:aws:sts::{ACCOUNT}:assumed-role/hosts/{instance} is not authorized to perform: "
        "ec2:DescribeInstances because no identity-based policy allows the ec2:DescribeInstances action"
    )
    lab.iam.put_role_policy(RoleName="hosts", PolicyName="more", PolicyDocument=allow("ec2:DescribeInstances"))
    assert ec2.describe_instances()["Reservations"]


def test_each_service_words_it_and_nothing_happens(lab: Lab) -> None:
    theirs = user(lab)
    who = f"User: arn:aws:iam::{ACCOUNT}:user/someone is not authorized to perform: "
    said = refused("UnauthorizedOperation", lambda: lab.client("ec2", **theirs).create_key_pair(KeyName="mine"))
    assert f"{who}ec2:CreateKeyPair on resource: arn:aws:ec2:us-east-1:{ACCOUNT}:key-pair/mine because" in said
    made: Any = {"RoleName": "mine", "AssumeRolePolicyDocument": json.dumps(TRUST)}
    said = refused("AccessDenied", lambda: lab.client("iam", **theirs).create_role(**made))
    assert said == (
        f"{who}iam:CreateRole on resource: arn:aws:iam::{ACCOUNT}:role/mine "
        "because no identity-based policy allows the iam:CreateRole action"
    )
    autoscaling = lab.client("autoscaling", **theirs)
    said = refused("AccessDenied", autoscaling.describe_auto_scaling_groups)
    assert said.startswith(f"{who}autoscaling:DescribeAutoScalingGroups because")
    s3 = lab.client("s3", **theirs)
    said = refused("AccessDenied", lambda: s3.create_bucket(Bucket="mine"))
    assert said.startswith(f"{who}s3:CreateBucket on resource: arn:aws:s3:::mine because")
    refused("AccessDenied", s3.list_buckets)
    assert lab.client("sts", **theirs).get_caller_identity()["Account"] == ACCOUNT  # which needs no permission
    assert lab.ec2.describe_key_pairs()["KeyPairs"] == []
    assert lab.iam.list_roles()["Roles"] == []
    assert lab.client("s3").list_buckets()["Buckets"] == []


def test_the_policies_of_a_users_groups_count(lab: Lab) -> None:
    theirs = user(lab)
    ec2 = lab.client("ec2", **theirs)
    lab.iam.create_group(GroupName="readers")
    lab.iam.put_group_policy(GroupName="readers", PolicyName="own", PolicyDocument=allow("ec2:Describe*"))
    refused("UnauthorizedOperation", ec2.describe_vpcs)
    lab.iam.add_user_to_group(GroupName="readers", UserName="someone")
    assert ec2.describe_vpcs()["Vpcs"]
    made = lab.iam.create_policy(PolicyName="never", PolicyDocument=allow("ec2:DescribeVpcs", effect="Deny"))
    lab.iam.attach_user_policy(UserName="someone", PolicyArn=made["Policy"]["Arn"])
    said = refused("UnauthorizedOperation", ec2.describe_vpcs)
    assert said.endswith(
        "is not authorized to perform: ec2:DescribeVpcs with an explicit deny in an identity-based policy"
    )


def test_a_boundary_and_a_sessions_policy_limit_a_role(lab: Lab) -> None:
    boundary = lab.iam.create_policy(PolicyName="most", PolicyDocument=allow("ec2:Describe*"))["Policy"]["Arn"]
    made = role(lab, allow("*"), PermissionsBoundary=boundary)
    ec2 = lab.client("ec2", **session(lab, made))
    assert ec2.describe_vpcs()["Vpcs"]
    said = refused("UnauthorizedOperation", lambda: ec2.create_key_pair(KeyName="mine"))
    assert said.endswith("because no permissions boundary allows the ec2:CreateKeyPair action")
    ec2 = lab.client("ec2", **session(lab, made, Policy=allow("ec2:DescribeSubnets")))
    assert ec2.describe_subnets()["Subnets"]
    said = refused("UnauthorizedOperation", ec2.describe_vpcs)
    assert said.endswith("because no session policy allows the ec2:DescribeVpcs action")
    lab.iam.delete_role_permissions_boundary(RoleName="one")
    lab.client("ec2", **session(lab, made)).create_key_pair(KeyName="mine")


def test_a_role_is_taken_by_whom_it_trusts(lab: Lab) -> None:
    theirs = user(lab)
    made = role(lab, allow("ec2:Describe*"))
    refused("AccessDenied", lambda: session(lab, made, caller=theirs))  # the account is trusted, but may this user?
    assume = allow("sts:AssumeRole", resource=made["Arn"])
    lab.iam.put_user_policy(UserName="someone", PolicyName="assume", PolicyDocument=assume)
    assert lab.client("ec2", **session(lab, made, caller=theirs)).describe_vpcs()["Vpcs"]
    lab.iam.update_assume_role_policy(RoleName="one", PolicyDocument=json.dumps(TRUST))
    said = refused("AccessDenied", lambda: session(lab, made, caller=theirs))
    assert said.endswith(f"sts:AssumeRole on resource: {made['Arn']} because the role does not trust it")
    refused("AccessDenied", lambda: session(lab, made))  # not even for the cloud's maker
    refused("AccessDenied", lambda: session(lab, {"Arn": f"arn:aws:iam::{ACCOUNT}:role/none"}))


def test_no_role_is_taken_by_a_proof_that_nobody_checks(lab: Lab) -> None:
    made, theirs = role(lab, allow("*")), user(lab, allow("sts:*"))
    sts = lab.client("sts", **theirs)
    saml = {"RoleArn": made["Arn"], "PrincipalArn": made["Arn"], "SAMLAssertion": "eHh4eA=="}
    identity = {"RoleArn": made["Arn"], "RoleSessionName": "me", "WebIdentityToken": "anything"}
    # SDKs do not sign these.
    refused("MissingAuthenticationToken", lambda: sts.assume_role_with_saml(**saml))
    refused("MissingAuthenticationToken", lambda: sts.assume_role_with_web_identity(**identity))
    assert refused("NotImplemented", sts.get_session_token).endswith("; use AssumeRole")
    for action, parameters in (("AssumeRoleWithSAML", saml), ("AssumeRoleWithWebIdentity", identity)):
        body = urlencode({"Action": action, "Version": "2011-06-15", **parameters}).encode()
        request: Any = AWSRequest("POST", f"{sts.meta.endpoint_url}/", data=body)
        request.headers["Content-Type"] = "application/x-www-form-urlencoded"
        signing = Credentials(theirs["aws_access_key_id"], theirs["aws_secret_access_key"])
        SigV4Auth(signing, "sts", REGION).add_auth(request)
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(request.url, body, dict(request.headers.items())), timeout=10)
        assert caught.value.code == 501
        assert b"<Code>NotImplemented</Code>" in caught.value.read()


def test_tags_and_resources_decide(lab: Lab) -> None:
    own, new = ({"Null": {f"aws:{kind}Tag/run": "false"}} for kind in ("Resource", "Request"))
    instances, besides = f"arn:aws:ec2:*:{ACCOUNT}:instance/*", ("volume", "network-interface", "image")
    theirs = user(
        lab,
        allow("ec2:RunInstances", resource=instances, Condition=new),
        allow("ec2:RunInstances", resource=[f"arn:aws:ec2:*:*:{kind}/*" for kind in besides]),
        allow("ec2:CreateTags", resource=instances, Condition={"StringEquals": {"ec2:CreateAction": "RunInstances"}}),
        allow("ec2:StopInstances", resource=instances, Condition=own),
    )  # fmt: skip
    ec2 = lab.client("ec2", **theirs)
    request: dict[str, Any] = {"ImageId": AMI, "MinCount": 1, "MaxCount": 1}
    said = refused("UnauthorizedOperation", lambda: ec2.run_instances(**request))
    assert f"ec2:RunInstances on resource: arn:aws:ec2:us-east-1:{ACCOUNT}:instance/*" in said
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": "nt-1"}]}]
    mine = ec2.run_instances(**request, TagSpecifications=tagged)["Instances"][0]["InstanceId"]
    lab.api.running(mine)
    volume = [{"ResourceType": "volume", "Tags": [{"Key": "run", "Value": "nt-1"}]}]
    said = refused("UnauthorizedOperation", lambda: ec2.run_instances(**request, TagSpecifications=[*tagged, *volume]))
    assert "ec2:CreateTags on resource" in said
    others = lab.running()
    refused("UnauthorizedOperation", lambda: ec2.stop_instances(InstanceIds=[mine, others]))
    refused("UnauthorizedOperation", lambda: ec2.create_tags(Resources=[others], Tags=[{"Key": "run", "Value": "x"}]))
    assert (lab.state(mine), lab.state(others)) == ("running", "running")
    ec2.stop_instances(InstanceIds=[mine])
    assert lab.state(mine) == "stopping"


def test_the_simulator_answers_for_a_user_and_a_role(lab: Lab) -> None:
    user(lab, allow("ec2:Describe*"), allow("ec2:Stop*", Condition={"StringEquals": {"aws:ResourceTag/run": "1"}}))
    lab.iam.create_policy(PolicyName="never", PolicyDocument=allow("iam:*", effect="Deny"))
    never = f"arn:aws:iam::{ACCOUNT}:policy/never"
    lab.iam.attach_user_policy(UserName="someone", PolicyArn=never)

    def decisions(arn: str, **context: str) -> dict[str, str]:
        actions = ["ec2:DescribeVpcs", "ec2:StopInstances", "iam:GetRole", "s3:GetObject"]
        entries = [
            {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in context.items()
        ]
        asked = {"PolicySourceArn": arn, "ActionNames": actions, "ContextEntries": entries}
        found = lab.iam.simulate_principal_policy(**asked)["EvaluationResults"]
        assert found[1].get("MissingContextValues", []) == (
            [] if context else ["aws:ResourceTag/run"] * (":user" in arn)
        )
        return {one["EvalActionName"].partition(":")[2]: one["EvalDecision"] for one in found}

    arn = f"arn:aws:iam::{ACCOUNT}:user/someone"
    expected = {"DescribeVpcs": "allowed", "StopInstances": "implicitDeny", "GetRole": "explicitDeny"}
    assert decisions(arn) == {**expected, "GetObject": "implicitDeny"}
    assert decisions(arn, **{"aws:ResourceTag/run": "1"})["StopInstances"] == "allowed"
    most = lab.iam.create_policy(PolicyName="most", PolicyDocument=allow("ec2:Describe*"))["Policy"]["Arn"]
    made = role(lab, allow("*"), PermissionsBoundary=most)
    denied = dict.fromkeys(("StopInstances", "GetRole", "GetObject"), "implicitDeny")
    assert decisions(made["Arn"]) == {"DescribeVpcs": "allowed", **denied}
    refused("NoSuchEntity", lambda: decisions(f"{arn}-else"))


@pytest.mark.parametrize(
    ("context", "known", "denied"),
    [
        ({}, False, False),
        ({"aws:PrincipalOrgID": "o-1", "aws:SourceIp": "203.0.113.7"}, True, False),
        ({"aws:PrincipalOrgID": "o-1", "aws:SourceIp": "198.51.100.7"}, True, True),
        ({"aws:PrincipalOrgID": "o-2", "aws:SourceIp": "203.0.113.7"}, True, True),
    ],
)
def test_the_preflight_gives_the_simulator_what_conditions_ask_for(
    lab: Lab, context: dict[str, str], known: bool, denied: bool
) -> None:
    conditions = {
        "StringEquals": {"aws:PrincipalOrgID": "o-1"},
        "IpAddress": {"aws:SourceIp": "203.0.113.0/24"},
    }
    key = user(lab, allow("ec2:*", "iam:Simulate*"), allow("autoscaling:*", "iam:*", Condition=conditions))
    caller = Identity(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/someone")
    remarks: list[str] = []
    vpc_id = lab.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    missing = missing_permissions(
        lambda service: lab.client(service, **key),
        caller,
        region=REGION,
        vpc_id=vpc_id,
        remark=remarks.append,
        context=context,
    )
    unknown = "the policies ask for aws:PrincipalOrgID, aws:SourceIp, which only real calls have"
    assert any(unknown in remark for remark in remarks) != known
    assert any("the permission iam:PassRole on" in str(one) for one in missing) == denied
    assert any("the permission autoscaling:CreateAutoScalingGroup on" in str(one) for one in missing) == denied


def test_a_dry_run_says_whether_it_would_be_allowed(lab: Lab) -> None:
    ec2 = lab.client("ec2", **user(lab, allow("ec2:ImportKeyPair")))
    key: dict[str, Any] = {"KeyName": "mine", "PublicKeyMaterial": b"ssh-ed25519 AAAA", "DryRun": True}
    refused("DryRunOperation", lambda: ec2.import_key_pair(**key))
    refused("UnauthorizedOperation", lambda: ec2.create_key_pair(KeyName="mine", DryRun=True))


def test_objects_of_s3_have_permissions_of_their_own(lab: Lab) -> None:
    lab.client("s3").create_bucket(Bucket="shared")
    s3 = lab.client("s3", **user(lab, allow("s3:PutObject", "s3:GetObject", resource="arn:aws:s3:::shared/mine/*")))
    s3.put_object(Bucket="shared", Key="mine/a", Body=b"a")
    refused("AccessDenied", lambda: s3.put_object(Bucket="shared", Key="theirs/a", Body=b"a"))
    refused("AccessDenied", lambda: s3.delete_object(Bucket="shared", Key="mine/a"))
    refused("AccessDenied", lambda: s3.list_objects_v2(Bucket="shared"))
    assert s3.get_object(Bucket="shared", Key="mine/a")["Body"].read() == b"a"
