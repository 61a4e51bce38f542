from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from nomad_testkit.errors import UsageError
from nomad_testkit.modules.auto_scaling_group import Placement, cluster_outputs, cluster_steps
from nomad_testkit.modules.bundle import examples_dir
from nomad_testkit.modules.cluster_tables import LAUNCHING, EbsBlockDevice, LifecycleHook, Tag
from nomad_testkit.modules.cluster_variables import ClusterModule
from nomad_testkit.modules.consul_cluster import ConsulCluster
from nomad_testkit.modules.iam_policies import CONSUL_AUTO_JOIN, EC2_TRUST
from nomad_testkit.modules.network import Network, Subnet
from nomad_testkit.modules.nomad_cluster import NomadCluster
from nomad_testkit.modules.security_group_rules import (
    Port,
    consul_client_ports,
    fitted,
    inbound_rules,
    nomad_ports,
    outbound_rules,
)
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG, Ref, Step, checked_run_id, resolve

NETWORK = Network(
    "vpc-1", (Subnet("subnet-a", "us-east-1a", "10.0.0.0/20"), Subnet("subnet-b", "us-east-1b", "10.0.16.0/20"))
)
PLACEMENT = Placement(
    run_id="nt-1", group="servers", network=NETWORK, image_id="ami-1", root_device="/dev/xvda", key_name="run-key"
)
GROUP = Ref("servers: security group")


def consul(**variables: Any) -> ConsulCluster:
    given = {"cluster_name": "web", "instance_type": "t2.micro", "allowed_inbound_cidr_blocks": ("10.0.0.0/16",)}
    return ConsulCluster(**{**given, **variables})


def nomad(**variables: Any) -> NomadCluster:
    given = {"cluster_name": "web", "instance_type": "t2.micro", "allowed_inbound_cidr_blocks": ("10.0.0.0/16",)}
    return NomadCluster(**{**given, "min_size": 1, "max_size": 3, "desired_capacity": 2, **variables})


def steps(module: ClusterModule, **more: Any) -> dict[str, Step]:
    return {step.action: step for step in cluster_steps(module, PLACEMENT, **more)}


def ingress(module: ClusterModule, **more: Any) -> list[Any]:
    return list(steps(module, **more)["authorize_security_group_ingress"].arguments["IpPermissions"])


def open_ports(module: ClusterModule, **more: Any) -> set[tuple[str, int]]:
    return {(rule["IpProtocol"], rule["FromPort"]) for rule in ingress(module, **more)}


def template(module: ClusterModule) -> Mapping[str, Any]:
    data: Mapping[str, Any] = steps(module)["create_launch_template"].arguments["LaunchTemplateData"]
    return data


def group(module: ClusterModule) -> Mapping[str, Any]:
    return steps(module)["create_auto_scaling_group"].arguments


def ports(tcp: Iterable[int], udp: Iterable[int]) -> set[tuple[str, int]]:
    return {*(("tcp", port) for port in tcp), *(("udp", port) for port in udp)}


CONSUL_SERVER = ports((8300, 8301, 8302, 8400, 8500, 8600), (8301, 8302, 8600))
NOMAD = ports((4646, 4647, 4648), (4648,))


def test_the_defaults_are_those_of_upstream() -> None:
    module = consul()
    assert (module.cluster_size, module.cluster_tag_key, module.cluster_tag_value) == (3, "consul-servers", "auto-join")
    assert (module.root_volume_type, module.root_volume_size, module.health_check_type) == ("standard", 50, "EC2")
    assert (module.associate_public_ip_address, module.allowed_ssh_cidr_blocks, module.ssh_port) == (False, (), 22)
    assert nomad().cluster_tag_key == "nomad-servers"


def test_consul_servers_open_their_ports_and_no_other_and_nomad_hosts_the_gossip_of_their_clients_too() -> None:
    assert open_ports(consul()) == CONSUL_SERVER
    for rule in ingress(consul()):
        assert [one["CidrIp"] for one in rule["IpRanges"]] == ["10.0.0.0/16"]
        assert [one["GroupId"] for one in rule["UserIdGroupPairs"]] == [GROUP]
        assert rule["FromPort"] == rule["ToPort"]
    assert open_ports(nomad()) == NOMAD | {("tcp", 8301), ("udp", 8301)}


def test_an_example_adds_ports_and_ssh_where_it_is_allowed() -> None:
    module = consul(allowed_ssh_cidr_blocks=("192.0.2.7/32",), allowed_ssh_security_group_ids=("sg-9",))
    assert open_ports(module, ports=nomad_ports()) == CONSUL_SERVER | NOMAD | {("tcp", 22)}
    ssh = ingress(module, ports=nomad_ports())[-1]
    assert [one["CidrIp"] for one in ssh["IpRanges"]] == ["192.0.2.7/32"]
    assert [one["GroupId"] for one in ssh["UserIdGroupPairs"]] == ["sg-9"]


def test_ports_are_variables() -> None:
    module = consul(
        server_rpc_port=18300,
        cli_rpc_port=18400,
        serf_lan_port=18301,
        serf_wan_port=18302,
        http_api_port=18500,
        https_api_port=18501,
        enable_https_port=True,
        dns_port=18600,
    )
    tcp = (18300, 18301, 18302, 18400, 18500, 18501, 18600)
    assert open_ports(module) == ports(tcp, (18301, 18302, 18600))
    other = nomad(http_port=14646, rpc_port=14647, serf_port=14648, ssh_port=2222, allowed_ssh_cidr_blocks=("::/0",))
    assert open_ports(other) == ports((2222, 8301, 14646, 14647, 14648), (8301, 14648))


def test_a_port_named_twice_is_one_rule_and_without_a_source_there_is_none() -> None:
    port = Port("tcp", 22, "SSH")
    assert len(inbound_rules([port, port], cidr_blocks=["10.0.0.0/8", "10.0.0.0/8"], security_groups=[])) == 1
    assert inbound_rules(nomad_ports(), cidr_blocks=[], security_groups=[]) == []


def test_ports_are_joined_only_where_there_would_be_too_many_rules() -> None:
    opened = (*nomad_ports(), *consul_client_ports())
    single = inbound_rules(opened, cidr_blocks=["10.0.0.0/8"], security_groups=["sg-1"])
    assert fitted(single) == single
    many = [f"10.{number}.0.0/16" for number in range(20)]
    rules = inbound_rules(opened, cidr_blocks=many, security_groups=[])
    ssh = inbound_rules([Port("tcp", 4649, "SSH")], cidr_blocks=["192.0.2.7/32"], security_groups=[])
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in fitted(rules + ssh)] == [
        ("tcp", 4646, 4648),
        ("tcp", 4649, 4649),  # for others
        ("tcp", 8301, 8301),
        ("udp", 4648, 4648),
        ("udp", 8301, 8301),
    ]
    (first, *_) = fitted(rules)
    names = "Nomad HTTP API, Nomad RPC, Nomad Serf WAN"
    assert first["IpRanges"][19] == {"CidrIp": "10.19.0.0/16", "Description": names}


def test_blocks_of_both_kinds() -> None:
    assert outbound_rules(["10.0.0.0/8", "2001:db8::/32"]) == [
        {
            "IpProtocol": "-1",
            "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "outbound"}],
            "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32", "Description": "outbound"}],
        }
    ]


def test_outbound_is_open_unless_limited() -> None:
    assert "revoke_security_group_egress" not in steps(consul())
    limited = steps(consul(allow_outbound_cidr_blocks=("10.0.0.0/8",)))
    (revoked,) = limited["revoke_security_group_egress"].arguments["IpPermissions"]
    assert revoked["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    assert limited["authorize_security_group_egress"].arguments["IpPermissions"] == outbound_rules(["10.0.0.0/8"])
    assert "authorize_security_group_egress" not in steps(consul(allow_outbound_cidr_blocks=()))


def test_consul_servers_may_look_for_each_other() -> None:
    made = steps(consul())
    assert made["create_role"].arguments["AssumeRolePolicyDocument"] == EC2_TRUST
    assert made["put_role_policy"].arguments["PolicyDocument"] == CONSUL_AUTO_JOIN
    actions = ["ec2:DescribeInstances", "ec2:DescribeTags", "autoscaling:DescribeAutoScalingGroups"]
    assert json.loads(CONSUL_AUTO_JOIN)["Statement"][0]["Action"] == actions
    assert "put_role_policy" not in steps(nomad())
    assert "put_role_policy" in steps(nomad(), policies={"consul-iam-policies": CONSUL_AUTO_JOIN})


def test_an_instance_profile_of_the_users_own() -> None:
    made = steps(consul(enable_iam_setup=False, iam_instance_profile_name="mine"))
    assert "create_role" not in made
    data = made["create_launch_template"].arguments["LaunchTemplateData"]
    assert data["IamInstanceProfile"] == {"Name": "mine"}
    told = cluster_outputs(consul(enable_iam_setup=False, iam_instance_profile_name="mine"), PLACEMENT)
    assert (told["iam_role_arn"], told["iam_role_id"], told["iam_instance_profile_arn"]) == ("", "", "")
    assert told["iam_instance_profile_name"] == "mine"
    # One that is not there will not come.
    assert not any("Profile" in said for _, said in made["create_auto_scaling_group"].transient)
    assert any("Profile" in said for _, said in steps(consul())["create_auto_scaling_group"].transient)


def test_role_and_profile_take_path_and_boundary() -> None:
    made = steps(consul(instance_profile_path="/kit/", iam_permissions_boundary="arn:aws:iam::1:policy/edge"))
    assert made["create_role"].arguments["Path"] == made["create_instance_profile"].arguments["Path"] == "/kit/"
    assert made["create_role"].arguments["PermissionsBoundary"] == "arn:aws:iam::1:policy/edge"


def test_the_launch_template() -> None:
    data = template(consul(user_data=b"#!/bin/bash\n", additional_security_group_ids=("sg-9",), tenancy="dedicated"))
    root = {"VolumeType": "standard", "VolumeSize": 50, "DeleteOnTermination": True, "Encrypted": False}
    interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": False, "DeleteOnTermination": True}
    expected = {
        "UserData": base64.b64encode(b"#!/bin/bash\n").decode(),
        "ImageId": "ami-1",
        "KeyName": "run-key",
        "IamInstanceProfile": {"Name": "web-nt-1"},
        "NetworkInterfaces": [{**interface, "Groups": [GROUP, "sg-9"]}],
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "optional", "InstanceMetadataTags": "enabled"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": root}],
        "Placement": {"Tenancy": "dedicated"},
    }
    assert {name: data[name] for name in expected} == expected
    # What the user names comes before what the run has.
    assert template(consul(ssh_key_name="mine"))["KeyName"] == "mine"
    assert template(nomad(metadata_http_tokens="required"))["MetadataOptions"]["HttpTokens"] == "required"


def test_the_auto_scaling_group() -> None:
    tags = (Tag(key="team", value="a"), Tag(key="inside", value="b", propagate_at_launch=False))
    module = nomad(asg_name="pool", tags=tags, cluster_tag_value="x")
    arguments = group(module)
    assert arguments["AutoScalingGroupName"] == "pool-nt-1"
    assert (arguments["MinSize"], arguments["MaxSize"], arguments["DesiredCapacity"]) == (1, 3, 2)
    assert arguments["VPCZoneIdentifier"] == "subnet-a,subnet-b"
    assert arguments["LaunchTemplate"] == {"LaunchTemplateId": Ref("servers: launch template"), "Version": "1"}
    assert [tag["Key"] for tag in arguments["Tags"] if not tag["PropagateAtLaunch"]] == ["inside"]
    volumes = template(module)["TagSpecifications"][0]["Tags"]
    assert [tag["Key"] for tag in volumes] == ["team", "Name", RUN_TAG, GROUP_TAG]
    of_run = {"Name": "web", RUN_TAG: "nt-1", GROUP_TAG: "servers", "nomad-servers": "x"}
    assert {tag["Key"]: tag["Value"] for tag in arguments["Tags"]} == {"team": "a", "inside": "b", **of_run}


def test_what_upstream_gives_a_group() -> None:
    module = consul(
        termination_policies=("NewestInstance", "Default"),
        protect_from_scale_in=True,
        lifecycle_hooks=(LifecycleHook(name="ready", lifecycle_transition=LAUNCHING, heartbeat_timeout=60),),
        enabled_metrics=("GroupTotalInstances",),
        health_check_type="ELB",
        health_check_grace_period=30,
        service_linked_role_arn="arn:aws:iam::1:role/x",
    )
    hook = {"LifecycleHookName": "ready", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING"}
    expected = {
        "TerminationPolicies": ["NewestInstance", "Default"],
        "NewInstancesProtectedFromScaleIn": True,
        "LifecycleHookSpecificationList": [{**hook, "DefaultResult": "ABANDON", "HeartbeatTimeout": 60}],
        "HealthCheckType": "ELB",
        "HealthCheckGracePeriod": 30,
        "ServiceLinkedRoleARN": "arn:aws:iam::1:role/x",
    }
    assert {name: group(module)[name] for name in expected} == expected
    assert steps(module)["enable_metrics_collection"].arguments == {
        "AutoScalingGroupName": "web-nt-1",
        "Metrics": ["GroupTotalInstances"],
        "Granularity": "1Minute",
    }
    assert group(consul())["TerminationPolicies"] == ["Default"]
    assert "enable_metrics_collection" not in steps(consul())
    assert "LifecycleHookSpecificationList" not in group(consul())


def test_volumes_and_spot_instances() -> None:
    devices = (
        EbsBlockDevice(device_name="/dev/sdf", volume_type="gp3", volume_size=3, iops=3000, throughput=125),
        EbsBlockDevice(device_name="/dev/sdg", snapshot_id="snap-1", delete_on_termination=False, encrypted=True),
    )
    given: dict[str, Any] = {"type": "io1", "size": 9, "iops": 100, "encrypted": True, "delete_on_termination": False}
    volume = {f"root_volume_{name}": value for name, value in {**given, "ebs_optimized": True}.items()}
    module = consul(**volume, ebs_block_devices=devices, spot_price=0.0125, tenancy="")
    data = template(module)
    root = {"VolumeType": "io1", "VolumeSize": 9, "Iops": 100, "DeleteOnTermination": False, "Encrypted": True}
    sdf = {"VolumeType": "gp3", "VolumeSize": 3, "Iops": 3000, "Throughput": 125}
    assert data["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": root},
        {"DeviceName": "/dev/sdf", "Ebs": {**sdf, "DeleteOnTermination": True, "Encrypted": False}},
        {"DeviceName": "/dev/sdg", "Ebs": {"SnapshotId": "snap-1", "DeleteOnTermination": False, "Encrypted": True}},
    ]
    assert data["EbsOptimized"] is True
    spot = {"MaxPrice": "0.0125", "SpotInstanceType": "one-time"}
    assert data["InstanceMarketOptions"] == {"MarketType": "spot", "SpotOptions": spot}
    assert "Placement" not in data
    assert "InstanceMarketOptions" not in template(consul())


@pytest.mark.parametrize(("key", "told"), [("team", "enabled"), ("kubernetes.io/name", "disabled")])
def test_tags_are_in_the_metadata_where_all_of_them_may_be(key: str, told: str) -> None:
    options = template(consul(tags=(Tag(key=key, value="x"),)))["MetadataOptions"]
    assert options["InstanceMetadataTags"] == told


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("1.5s", 1.5), ("0", None)])
def test_capacity_timeouts(text: str, seconds: float | None) -> None:
    module = consul(wait_for_capacity_timeout=text)
    assert (module.capacity_seconds, list(module.faults())) == (seconds, [])
    assert list(nomad().faults()) == []


def test_everything_that_is_created_bears_the_tag() -> None:
    for step in cluster_steps(consul(), PLACEMENT):
        if step.creates is None:
            continue
        tags = step.arguments.get("Tags") or step.arguments["TagSpecifications"][0]["Tags"]
        assert ("nomad-testkit-run", "nt-1") in [(tag["Key"], tag["Value"]) for tag in tags], step.name
        assert step.creates.name == "web-nt-1"


LAUNCHED = LifecycleHook(name="x", lifecycle_transition="LAUNCHING")


@pytest.mark.parametrize(
    ("module", "fault"),
    [
        (consul(cluster_name="a b"), ("cluster_name", "'a b'")),
        (consul(cluster_name=""), ("cluster_name", "''")),
        (consul(user_data=b"#!" + b"x" * 16_383), ("user_data", "16385 bytes")),
        (consul(http_api_port=70_000), ("http_api_port", "70000")),
        (consul(metadata_http_tokens="maybe"), ("metadata_http_tokens", "'maybe'")),
        (consul(enable_iam_setup=False), ("iam_instance_profile_name", "'' with enable_iam_setup = false")),
        (consul(iam_instance_profile_name="x"), ("iam_instance_profile_name", "'x' with enable_iam_setup = true")),
        (nomad(desired_capacity=4), ("min_size", "1, 4 and 3")),
        (nomad(asg_name="a/b"), ("asg_name", "'a/b'")),
        (consul(tenancy="shared"), ("tenancy", "'shared'")),
        (consul(health_check_type="TCP"), ("health_check_type", "'TCP'")),
        (consul(health_check_grace_period=-1), ("health_check_grace_period", "-1")),
        (consul(termination_policies="Oldest"), ("termination_policies", "'Oldest'")),
        (consul(enabled_metrics=("CPUUtilization",)), ("enabled_metrics", "'CPUUtilization'")),
        (consul(enabled_metrics=("GroupMin\u0663",)), ("enabled_metrics", "'GroupMin\u0663'")),
        (consul(wait_for_capacity_timeout="ten"), ("wait_for_capacity_timeout", "'ten'")),
        (consul(spot_price=-1.0), ("spot_price", "-1.0")),
        (consul(root_volume_type="st1"), ("root_volume_type", "'st1'")),
        (consul(root_volume_size=0), ("root_volume_size", "0")),
        (consul(root_volume_type="io1"), ("root_volume_iops", "0 with root_volume_type = 'io1'")),
        (consul(instance_profile_path="x"), ("instance_profile_path", "'x'")),
        (consul(iam_permissions_boundary="edge"), ("iam_permissions_boundary", "'edge'")),
        (consul(tags=(Tag(key="aws:x", value=""),)), ("tags[0].key", "'aws:x'")),
        (consul(tags=(Tag(key="nomad-testkit-run", value="x"),)), ("tags[0].key", "'nomad-testkit-run'")),
        (consul(tags=(Tag(key="a", value="x"), Tag(key="a", value="y"))), ("tags[1].key", "'a'")),
        (consul(lifecycle_hooks=(LAUNCHED,)), ("lifecycle_hooks[0].lifecycle_transition", "'LAUNCHING'")),
        (
            consul(ebs_block_devices=(EbsBlockDevice(device_name="/dev/sdf"),)),
            ("ebs_block_devices[0].volume_size", "0"),
        ),
        (
            consul(ebs_block_devices=(EbsBlockDevice(device_name="sdf", volume_size=1),)),
            ("ebs_block_devices[0].device_name", "'sdf'"),
        ),
    ],
)
def test_faults(module: ClusterModule, fault: tuple[str, str]) -> None:
    assert [(key, found) for key, found, _ in module.faults()] == [fault]


def test_resolve_reaches_every_ref() -> None:
    known = {Ref("a"): "sg-1", Ref("a", "arn"): "arn:1"}
    assert resolve({"x": [Ref("a"), {"y": Ref("a", "arn")}], "z": (1, None)}, known.__getitem__) == {
        "x": ["sg-1", {"y": "arn:1"}],
        "z": [1, None],
    }


@pytest.mark.parametrize("run_id", ["", "*", "A", "-a", "a" * 21, "a\n"])
def test_run_ids(run_id: str) -> None:
    with pytest.raises(UsageError, match="1 to 20 small letters"):
        checked_run_id(run_id)


def test_the_readme_tells_every_input_and_output() -> None:
    text = (examples_dir() / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", text, re.MULTILINE)
    told = {name: cells for name, *cells in rows}
    modules = (ConsulCluster, NomadCluster)
    fields = [{item.name: item for item in dataclasses.fields(module)} for module in modules]
    names = {name for one in fields for name in one} - {"user_data"}  # a key of the group, not an input
    assert {name: [in_toml(one[name]) if name in one else "-" for one in fields] for name in names} == told
    for name in cluster_outputs(consul(), PLACEMENT):
        shown = "num" if name == "cluster_size" else name
        assert f"`{shown}_" in text, name


def in_toml(item: dataclasses.Field[Any]) -> str:
    if item.default_factory is not dataclasses.MISSING:
        return "`{}`"
    if item.default is dataclasses.MISSING:
        return "required"
    return f"`{json.dumps(item.default)}`"


def test_a_tag_of_the_runs_own_reaches_its_instances_whatever_the_users_say() -> None:
    module = nomad(tags=(Tag(key=RUN_TAG, value="mine", propagate_at_launch=False),))
    (tag,) = (tag for tag in group(module)["Tags"] if tag["Key"] == RUN_TAG)
    assert (tag["Value"], tag["PropagateAtLaunch"]) == ("nt-1", True)


def test_the_groups_that_a_module_names_are_let_in_beside_its_own() -> None:
    http = next(
        rule for rule in ingress(nomad(allowed_inbound_security_group_ids=("sg-other",))) if rule["FromPort"] == 4646
    )
    assert [pair["GroupId"] for pair in http["UserIdGroupPairs"]] == ["sg-other", GROUP]
