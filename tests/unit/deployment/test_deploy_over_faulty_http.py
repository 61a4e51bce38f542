"""Deploying and sweeping over HTTP that loses answers, with botocore's own retries: what it repeats is recognised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from faulty_proxy import CLOSE, DELAY, LOSE, THROTTLE, UNAVAILABLE, Strike, faulty_proxy, first
from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.models import AutoScalingBackend
from moto.iam.exceptions import NotFoundException
from moto.iam.models import IAMBackend
from moto.server import ThreadedMotoServer

from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.inventory import Inventory
from nomad_testkit.deployment.plan import Plan, plan
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.errors import DeployError
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws.account import RETRIES
from nomad_testkit.wait import Deadline

RUN, REGION = "nt-20260314-ab12cd", "us-east-1"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUFZ2TjiIdWFWfgcg2cl4lyFpJuXzUE8PkcN0CI/+eD"

Client = Callable[[str], Any]


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
    """An AWS API that answers over HTTP."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        as_aws_answers(monkeypatch)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(autouse=True)
def empty_account(api: str) -> None:
    requests.post(f"{api}/moto-api/reset", timeout=60).raise_for_status()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


_SESSION = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)


def clients(url: str) -> Client:
    """As `AwsSession` makes them, with its retries."""
    config = Config(retries=RETRIES, proxies={})  # type: ignore[arg-type]
    return cache(lambda service: _SESSION.client(service, endpoint_url=url, config=config))


def small_plan(client: Client, **variables: Any) -> Plan:
    ec2 = client("ec2")
    image = ec2.register_image(Name="debian")["ImageId"]
    subnet = ec2.describe_subnets()["Subnets"][0]
    network = Network(subnet["VpcId"], (Subnet(subnet["SubnetId"], subnet["AvailabilityZone"], subnet["CidrBlock"]),))
    return plan(
        Example.load("nomad-consul-colocated-cluster").replace(num_servers=1, num_clients=1, **variables),
        run_id=RUN,
        region=REGION,
        placements=dict.fromkeys(("servers", "clients"), Placement(network, image, "/dev/xvda")),
        public_key=PUBLIC_KEY,
    )


def left(client: Client) -> list[str]:
    return [str(one) for one in Inventory(client("ec2"), client("autoscaling"), client("iam"), RUN).everything()]


@pytest.mark.parametrize("fault", [LOSE, CLOSE, UNAVAILABLE, THROTTLE, DELAY])
def test_a_deployment_survives_a_fault_of_every_first_call(api: str, journal: Journal, fault: str) -> None:
    direct = clients(api)
    steps = small_plan(direct)
    with faulty_proxy(api, first(fault)) as proxy:
        apply(steps, clients(proxy.url), journal)
    assert {step.creates.name for step in steps.steps if step.creates} == {one.name for one in journal.left()}
    assert all(one.id for one in journal.left())
    created = {"ImportKeyPair", "CreateRole", "CreateInstanceProfile", "CreateSecurityGroup", "CreateLaunchTemplate"}
    assert created | {"CreateAutoScalingGroup", "AddRoleToInstanceProfile"} <= {action for action, _ in proxy.struck}
    groups = [one["GroupName"] for one in direct("ec2").describe_security_groups()["SecurityGroups"]]
    assert len(groups) == len(set(groups)) == 3  # the default one, and one of each group
    assert len(direct("ec2").describe_instances()["Reservations"]) == 2


@pytest.mark.parametrize("fault", [LOSE, CLOSE, UNAVAILABLE])
def test_a_sweep_survives_a_fault_of_every_first_call(api: str, journal: Journal, fault: str) -> None:
    direct = clients(api)
    apply(small_plan(direct), direct, journal)
    with faulty_proxy(api, first(fault)) as proxy:
        destroyed = sweep(clients(proxy.url), RUN, journal, deadline=Deadline.after(120))
    assert left(direct) == []
    assert journal.left() == []
    assert len(destroyed) == len(set(destroyed))
    assert {"DeleteRole", "DeleteSecurityGroup", "RemoveRoleFromInstanceProfile"} <= {name for name, _ in proxy.struck}


def somebody_elses(client: Client, name: str, vpc: str) -> dict[str, Callable[[], object]]:
    tags = [{"Key": "nomad-testkit-run", "Value": "nt-20260314-ffffff"}]
    return {
        "security group without a tag": lambda: client("ec2").create_security_group(
            GroupName=name, Description="mine", VpcId=vpc
        ),
        "security group of another run": lambda: client("ec2").create_security_group(
            GroupName=name,
            Description="mine",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
        ),
        "launch template": lambda: client("ec2").create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"InstanceType": "t3.micro"}
        ),
        "IAM role": lambda: client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}", Tags=tags),
        "instance profile": lambda: client("iam").create_instance_profile(InstanceProfileName=name),
        "key pair": lambda: client("ec2").create_key_pair(KeyName=f"nomad-testkit-{RUN}"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "security group without a tag",
        "security group of another run",
        "launch template",
        "IAM role",
        "instance profile",
        "key pair",
    ],
)
def test_somebody_elses_of_the_same_name_stays_an_error(
    api: str, journal: Journal, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nomad_testkit.deployment.apply.CONSISTENCY_SECONDS", 0.2)
    monkeypatch.setattr("nomad_testkit.deployment.apply.INTERVAL", 0.01)
    direct = clients(api)
    steps = small_plan(direct)
    key = next(step.creates.name for step in steps.steps if step.creates and step.creates.kind == "key pair")
    vpc = direct("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    mine = somebody_elses(direct, f"nomad-example-server-{RUN}", vpc)
    if kind == "key pair":
        direct("ec2").create_key_pair(KeyName=key)
    else:
        mine[kind]()
    with pytest.raises(DeployError, match=r"Duplicate|AlreadyExists") as caught:
        apply(steps, direct, journal)
    assert "it is not of run nt-20260314-ab12cd" in str(caught.value)


def test_what_is_not_found_yet_after_a_lost_answer_is_looked_for_again(api: str, journal: Journal) -> None:
    """The first look does not show the group that the lost call has made."""
    direct = clients(api)
    steps = small_plan(direct)
    strike: Strike = first(LOSE, "CreateSecurityGroup", "DescribeSecurityGroups")
    with faulty_proxy(api, strike) as proxy:
        apply(steps, clients(proxy.url), journal)
    assert proxy.received["DescribeSecurityGroups"] == 2


def test_a_sweep_deletes_the_snapshots_of_an_image_whose_deregistration_had_no_answer(
    api: str, journal: Journal
) -> None:
    direct = clients(api)
    ec2 = direct("ec2")
    image = ec2.register_image(Name="debian")["ImageId"]
    instance = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    before = {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    made = ec2.create_image(InstanceId=instance, Name="web")["ImageId"]
    ec2.create_tags(Resources=[made], Tags=[{"Key": "nomad-testkit-run", "Value": RUN}])
    with faulty_proxy(api, first(LOSE, "DeregisterImage", "DeleteSnapshot")) as proxy:
        sweep(clients(proxy.url), RUN, None, deadline=Deadline.after(60))
    assert proxy.received["DeregisterImage"] == 2
    assert {one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]} == before
    assert left(direct) == []
