"""moto's account, and one run in it: what deploying makes there, and what a sweep leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws
from moto.server import ThreadedMotoServer

from nomad_testkit.deployment.apply import apply
from nomad_testkit.deployment.inventory import Inventory
from nomad_testkit.deployment.plan import Plan, plan
from nomad_testkit.deployment.sweep import sweep
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.runs.journal import Journal
from nomad_testkit.targets.aws.account import RETRIES
from nomad_testkit.wait import Deadline

REGION, RUN, OTHER = "us-east-1", "nt-20260314-ab12cd", "nt-20260314-ffffff"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUFZ2TjiIdWFWfgcg2cl4lyFpJuXzUE8PkcN0CI/+eD"
RUN_TAG = "nomad-testkit-run"

Client = Callable[[str], Any]


@cache  # making one takes longer than most of what is asked of it, and moto answers those made before, too
def make_client(service: str, region: str = REGION) -> Any:
    """Make boto3's client, whom `moto_account` answers."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client(service, region_name=region, **keys)  # type: ignore[call-overload]


@contextmanager
def moto_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Answer boto3's clients from an empty account, without the hundreds of AMIs that moto knows."""
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    with mock_aws():
        yield make_client


@contextmanager
def moto_server() -> Iterator[str]:
    """Serve such an account over HTTP."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


_SESSION = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)


def clients_over_http(url: str) -> Client:
    """Make clients as `AwsSession` does, with its retries."""
    config = Config(retries=RETRIES, proxies={})  # type: ignore[arg-type]
    return cache(lambda service: _SESSION.client(service, endpoint_url=url, config=config))


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Write tags as AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def of_run(run_id: str = RUN) -> dict[str, str]:
    """Give the tag that makes something a run's."""
    return {RUN_TAG: run_id}


def _tagged(kind: str, tags: Mapping[str, str] | None) -> dict[str, Any]:
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tag_list(tags)}]} if tags else {}


def an_image(client: Client) -> str:
    """Give an AMI of the account's own, made where there is none."""
    images = client("ec2").describe_images(Owners=["self"])["Images"] or [client("ec2").register_image(Name="debian")]
    return str(images[0]["ImageId"])


def launch(client: Client, tags: Mapping[str, str] | None = None, count: int = 1) -> list[str]:
    """Launch instances with these tags."""
    how = {"ImageId": an_image(client), "MinCount": count, "MaxCount": count, **_tagged("instance", tags)}
    made = client("ec2").run_instances(**how)
    return [str(one["InstanceId"]) for one in made["Instances"]]


def security_group(client: Client, name: str, tags: Mapping[str, str] | None = None) -> str:
    """Make a security group of the default VPC."""
    vpc = client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    how = {"GroupName": name, "Description": name, "VpcId": vpc, **_tagged("security-group", tags)}
    made = client("ec2").create_security_group(**how)
    return str(made["GroupId"])


def snapshots(client: Client) -> set[str]:
    """List the account's own snapshots."""
    return {str(one["SnapshotId"]) for one in client("ec2").describe_snapshots(OwnerIds=["self"])["Snapshots"]}


class RunInAccount:
    """A run of the colocated example, deployed and destroyed through a client."""

    def __init__(self, client: Client, journal: Journal, run_id: str = RUN) -> None:
        self.client, self.journal, self.run_id = client, journal, run_id

    def plan(self, zones: int = 1, **variables: Any) -> Plan:
        """Plan it, by itself with a server and a client."""
        found = self.client("ec2").describe_subnets()["Subnets"][:zones]
        subnets = tuple(Subnet(one["SubnetId"], one["AvailabilityZone"], one["CidrBlock"]) for one in found)
        place = Placement(Network(found[0]["VpcId"], subnets), an_image(self.client), "/dev/xvda")
        return plan(
            Example.load("nomad-consul-colocated-cluster").replace(**{"num_servers": 1, "num_clients": 1, **variables}),
            run_id=self.run_id,
            region=REGION,
            placements=dict.fromkeys(("servers", "clients"), place),
            public_key=PUBLIC_KEY,
            inbound_cidrs=["192.0.2.0/24"],
        )

    def apply(self, planned: Plan | None = None, **variables: Any) -> Mapping[str, Any]:
        """Apply a plan, by itself one with these variables."""
        return apply(planned or self.plan(**variables), self.client, self.journal)

    def sweep(self, seconds: float = 60, *, journal: bool = True, through: Client | None = None) -> list[str]:
        """Destroy it, with its journal or by tags alone."""
        known = self.journal if journal else None
        return sweep(through or self.client, self.run_id, known, deadline=Deadline.after(seconds))

    def listed(self) -> list[str]:
        """List what the inventory finds of it."""
        ec2, scaling, iam = (self.client(service) for service in ("ec2", "autoscaling", "iam"))
        return [str(one) for one in Inventory(ec2, scaling, iam, self.run_id).everything()]

    def left(self, *, untagged_images: bool = False) -> list[str]:
        """List what bears its tag, by calls of our own: the sweep's own eyes would miss what it misses."""
        ec2, scaling, iam = (self.client(service) for service in ("ec2", "autoscaling", "iam"))
        reservations = ec2.describe_instances()["Reservations"]
        instances = [one for some in reservations for one in some["Instances"] if one["State"]["Name"] != "terminated"]
        volumes = [one for one in ec2.describe_volumes()["Volumes"] if one["State"] == "available"]
        roles = [iam.get_role(RoleName=one["RoleName"])["Role"] for one in iam.list_roles()["Roles"]]
        found = {
            "Auto Scaling group": scaling.describe_auto_scaling_groups()["AutoScalingGroups"],
            "instance": instances,
            "volume": volumes,
            "launch template": ec2.describe_launch_templates()["LaunchTemplates"],
            "instance profile": iam.list_instance_profiles()["InstanceProfiles"],
            "role": roles,
            "security group": ec2.describe_security_groups()["SecurityGroups"],
            "key pair": ec2.describe_key_pairs()["KeyPairs"],
            "AMI": ec2.describe_images(Owners=["self"])["Images"],
            "snapshot": ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
        }

        def is_its(kind: str, one: dict[str, Any]) -> bool:
            tags = {tag["Key"]: tag["Value"] for tag in one.get("Tags", ())}
            by_name = untagged_images and kind == "AMI" and f"-{self.run_id}-" in one["Name"]
            return tags.get(RUN_TAG) == self.run_id or by_name

        def name_of(one: dict[str, Any]) -> str:
            return str(next((one[key] for key in ("LaunchTemplateName", "GroupName", "Name") if key in one), ""))

        return [f"{kind} {name_of(one)}".strip() for kind, these in found.items() for one in these if is_its(kind, one)]


def instead(monkeypatch: pytest.MonkeyPatch, client: Any, action: str, call: Callable[..., Any]) -> list[Any]:
    """Put a function in the place of a client's call; it gets the real one first. Gives a list that notes the calls."""
    real, calls = getattr(client, action), list[Any]()

    def noted(**arguments: Any) -> Any:
        calls.append(arguments)
        return call(partial(real), **arguments)

    monkeypatch.setattr(client, action, noted)
    return calls
