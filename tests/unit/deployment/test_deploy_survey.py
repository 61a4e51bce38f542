"""What a survey finds in an account, and what it refuses before anything is made there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_api import REFUSED, faults, refusal
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto_account import REGION, an_image, make_client, moto_account, security_group

from nomad_testkit.deployment.preflight import survey
from nomad_testkit.errors import DeployError, ExampleError
from nomad_testkit.examples.example import Example
from nomad_testkit.examples.login_key import public_line
from nomad_testkit.modules.auto_scaling_group import Placement
from nomad_testkit.modules.network import Network
from nomad_testkit.targets.base import Room, default_network
from nomad_testkit.targets.key_pair import write_key_pair

COLOCATED = Example.load("nomad-consul-colocated-cluster")


class Account:
    """moto's account as a target."""

    name, region = "aws", REGION
    own_image = ""
    room: Room | None = None

    def __init__(self) -> None:
        self.ec2 = self.client("ec2")
        self.chosen = an_image(make_client)

    def client(self, service: str) -> Any:
        return make_client(service)

    def network(self) -> Network:
        return default_network(self.ec2)

    def image(self, example: Example) -> str:
        return self.chosen

    def most_hosts(self) -> Room | None:
        return self.room

    def image_facts(self, image_id: str) -> Any:
        return ec2_backends[DEFAULT_ACCOUNT_ID][REGION].amis[image_id]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with moto_account(monkeypatch):
        target = Account()
        facts = target.image_facts(target.chosen)
        facts.architecture, facts.root_device_name = "x86_64", "/dev/xvda"
        yield target


@pytest.fixture
def with_inputs(tmp_path: Path) -> Callable[..., Example]:
    """Give a function that adds inputs to a group of the bundled example."""

    def make(group: str, inputs: str, **variables: Any) -> Example:
        folder = tmp_path / "mine"
        shutil.copytree(COLOCATED.folder, folder)
        file = folder / "example.toml"
        place = f"[groups.{group}.inputs]\n"
        file.write_text(file.read_text().replace(place, place + inputs + "\n"))
        return Example.load(folder).replace(**variables)

    return make


def sites(account: Account, example: Example = COLOCATED) -> dict[str, Placement]:
    return survey(example, account)  # type: ignore[arg-type]


def refused(account: Account, example: Example) -> str:
    with pytest.raises(ExampleError) as caught:
        sites(account, example)
    assert str(caught.value).startswith(f"{example.file}: ")
    return str(caught.value).removeprefix(f"{example.file}: ")


def zones(site: Placement) -> list[str]:
    return [subnet.availability_zone for subnet in site.network.subnets]


def test_the_default_network_and_the_images_own_root(account: Account) -> None:
    account.image_facts(account.chosen).root_device_name = "/dev/sda1"
    found = sites(account)
    assert list(found) == ["servers", "clients"]
    for site in found.values():
        assert site == Placement(default_network(account.ec2), account.chosen, "/dev/sda1")
        assert zones(site) == ["us-east-1a", "us-east-1b", "us-east-1c"]


def test_a_groups_own_image_and_the_chosen_one_in_the_place_of_the_examples(
    account: Account, with_inputs: Callable[..., Example]
) -> None:
    found = sites(account, COLOCATED.replace(ami_id="ami-0abc"))
    assert {site.image_id for site in found.values()} == {account.chosen}  # what --nomad-ami says
    other = account.ec2.register_image(Name="other")["ImageId"]
    account.image_facts(other).architecture = "x86_64"
    text = with_inputs("servers", "").file
    text.write_text(text.read_text().replace('ami_id = "${ami_id}"', f'ami_id = "{other}"', 1))
    found = sites(account, Example.load(text))
    assert [site.image_id for site in found.values()] == [other, account.chosen]


def test_availability_zones_and_subnets_of_the_default_vpc(
    account: Account, with_inputs: Callable[..., Example]
) -> None:
    example = with_inputs("clients", 'availability_zones = ["us-east-1f", "us-east-1a"]')
    found = sites(account, example)
    assert (zones(found["servers"])[0], zones(found["clients"])) == ("us-east-1a", ["us-east-1f", "us-east-1a"])
    said = refused(account, Example.load(edited(example, '"us-east-1f", "us-east-1a"', '"us-east-1z"')))
    assert said.startswith("groups.clients.inputs.availability_zones: found 'us-east-1z'; expected a zone where vpc-")
    assert said.endswith("; did you mean us-east-1f?")
    in_zone = [{"Name": "availability-zone", "Values": ["us-east-1e"]}]
    (subnet,) = account.ec2.describe_subnets(Filters=in_zone)["Subnets"]
    by_id = edited(example, 'availability_zones = ["us-east-1z"]', f'subnet_ids = ["{subnet["SubnetId"]}"]')
    found = sites(account, Example.load(by_id))
    assert [one.cidr for one in found["clients"].network.subnets] == [subnet["CidrBlock"]]


def test_subnets_that_do_not_fit(account: Account, with_inputs: Callable[..., Example]) -> None:
    vpc, subnet = foreign(account)
    example = with_inputs("clients", 'subnet_ids = ["subnet-0abc"]')
    assert refused(account, example) == (
        "groups.clients.inputs.subnet_ids: found 'subnet-0abc', which is not in us-east-1; expected subnets "
        "of this region"
    )
    own = account.network()
    both = Example.load(edited(example, "subnet-0abc", f'{subnet}", "{own.subnets[0].subnet_id}'))
    assert "found subnets of vpc-" in refused(account, both)
    zone = Example.load(edited(both, f', "{own.subnets[0].subnet_id}"]', ']\navailability_zones = ["us-east-1b"]'))
    assert refused(account, zone) == (
        "groups.clients.inputs.availability_zones: found us-east-1b; expected the zones of its subnet_ids, us-east-1a, "
        "or none"
    )
    assert refused(account, COLOCATED.replace(vpc_id="vpc-0abc")) == (
        "groups.servers.inputs.vpc_id: found 'vpc-0abc'; expected a VPC of us-east-1 with subnets, or \"\""
    )
    assert {site.network.vpc_id for site in sites(account, COLOCATED.replace(vpc_id=vpc)).values()} == {vpc}


def foreign(account: Account) -> tuple[str, str]:
    vpc = account.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    made = account.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/28", AvailabilityZone="us-east-1a")
    return vpc, made["Subnet"]["SubnetId"]


def edited(example: Example, old: str, new: str) -> Path:
    text = example.file.read_text()
    assert old in text
    example.file.write_text(text.replace(old, new, 1))
    return example.file


def test_a_cluster_larger_than_its_target(account: Account) -> None:
    account.room = Room(12, "memory left (960 MiB)", "free memory")
    assert sites(account, COLOCATED.replace(num_clients=9))
    assert refused(account, COLOCATED.replace(num_clients=10)) == (
        "groups.clients.inputs.desired_capacity: found 10 beside 3 servers; expected at most 12 hosts in all, by "
        "this machine's memory left (960 MiB); free memory"
    )


def test_a_cluster_larger_than_its_subnets(account: Account, with_inputs: Callable[..., Example]) -> None:
    vpc, subnet = foreign(account)  # a /28 has 16 addresses, of which AWS keeps 5
    example = COLOCATED.replace(vpc_id=vpc, num_clients=9)
    assert refused(account, example) == (
        "groups.clients.inputs.desired_capacity: found 9 beside 3 servers; expected at most 11 hosts in all, by "
        f"the free addresses of the subnets: 11 in {subnet}"
    )
    assert len(sites(account, example.replace(num_clients=8))) == 2
    servers = with_inputs("servers", f'subnet_ids = ["{subnet}"]', num_servers=7, num_clients=3)
    account.ec2.create_network_interface(SubnetId=subnet)
    assert len(sites(account, servers)) == 2
    for _ in range(4):
        account.ec2.create_network_interface(SubnetId=subnet)
    assert refused(account, servers).startswith(
        "groups.servers.inputs.cluster_size: found 7; expected at most 6 hosts in all"
    )


def test_an_image_of_another_architecture(account: Account) -> None:
    account.image_facts(account.chosen).architecture = "arm64"
    mixed = COLOCATED.replace(instance_type="t3.micro", server_instance_type="t4g.micro")
    assert refused(account, mixed) == (
        f"groups.clients.inputs.instance_type: found 't3.micro', which is x86_64, for the AMI {account.chosen}, which "
        "is arm64; expected an instance type of arm64, such as t4g.micro, or an AMI of x86_64 (ami_id, or the "
        "setting ami)"
    )
    arm = COLOCATED.replace(instance_type="t4g.micro", server_instance_type="t4g.micro")
    assert len(sites(account, arm)) == 2
    account.own_image = account.chosen  # an embedded cloud's own fits whatever the type
    assert len(sites(account)) == 2


def test_a_root_volume_smaller_than_the_image(
    account: Account, with_inputs: Callable[..., Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = with_inputs("clients", "root_volume_size = 8")
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}
    image = {"ImageId": "ami-1", "Architecture": "x86_64", "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": [root]}
    monkeypatch.setattr(account.ec2, "describe_images", lambda **_: {"Images": [image]})
    assert len(sites(account, example)) == 2
    root["Ebs"] = {"VolumeSize": 9}
    assert refused(account, example) == (
        "groups.clients.inputs.root_volume_size: found 8 for the AMI ami-1; expected at least 9 GiB, the size of its "
        "snapshot"
    )


def test_an_image_or_a_type_that_is_not_there(account: Account) -> None:
    example = COLOCATED
    assert refused(account, example.replace(instance_type="t9.micro")) == (
        "groups.clients.inputs.instance_type: found 't9.micro', which is not in us-east-1; expected an instance type "
        "of this region"
    )
    account.image_facts(account.chosen).state = "pending"
    assert "which is pending; expected an AMI that is available" in refused(account, example)
    account.chosen = "ami-0abc"
    assert refused(account, example) == (
        "groups.servers.inputs.ami_id: found 'ami-0abc', which is not in us-east-1; expected an AMI of this region"
    )


def test_a_key_pair_and_its_private_key(account: Account, tmp_path: Path) -> None:
    for name in ("mine", "other"):
        write_key_pair(tmp_path / name)
    example = COLOCATED.replace(ssh_key_name="mine", ssh_private_key_file=str(tmp_path / "mine"))
    assert refused(account, example) == (
        "groups.servers.inputs.ssh_key_name: found 'mine', which is not in us-east-1; expected a key pair of this "
        'region, or "" for the run\'s own key pair'
    )
    account.ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=public_line(tmp_path / "mine").encode())
    assert len(sites(account, example)) == 2
    wrong = example.replace(ssh_private_key_file=str(tmp_path / "other"))
    assert refused(account, wrong) == (
        f"variable ssh_private_key_file: found '{tmp_path}/other', which is not the private key of the key pair 'mine'"
        "; expected the file of that private key"
    )


def test_an_instance_profile_of_ones_own(account: Account, with_inputs: Callable[..., Example]) -> None:
    example = with_inputs("clients", 'enable_iam_setup = false\niam_instance_profile_name = "mine"')
    assert refused(account, example) == (
        "groups.clients.inputs.iam_instance_profile_name: found 'mine', which does not exist; expected the name of an "
        "instance profile"
    )
    account.client("iam").create_instance_profile(InstanceProfileName="mine")
    assert len(sites(account, example)) == 2


def test_security_groups_of_ones_own(account: Account, with_inputs: Callable[..., Example]) -> None:
    example = with_inputs("servers", 'additional_security_group_ids = ["sg-0abc"]')
    assert refused(account, example) == (
        "groups.servers.inputs.additional_security_group_ids: found 'sg-0abc', which is not in us-east-1; expected the "
        "ids of security groups"
    )
    vpc, _ = foreign(account)
    there = account.ec2.create_security_group(GroupName="x", Description="x", VpcId=vpc)["GroupId"]
    elsewhere = Example.load(edited(example, "sg-0abc", there))
    assert f"which is of {vpc}; expected security groups of vpc-" in refused(account, elsewhere)
    assert len(sites(account, Example.load(edited(elsewhere, there, security_group(make_client, "x"))))) == 2


def test_a_target_that_cannot_be_asked(account: Account) -> None:
    with (
        faults(make_client, ["ec2"], lambda operation, _: refusal(*REFUSED, operation)),
        pytest.raises(DeployError, match=r"aws could not check the inputs of .*: UnauthorizedOperation: not you"),
    ):
        sites(account)
