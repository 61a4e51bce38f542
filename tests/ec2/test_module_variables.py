"""The variables of consul-cluster and nomad-cluster on one small cluster, seen through the API and on its hosts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from deploying import everything

from nomad_testkit import Cluster, Example
from nomad_testkit.cluster.host import Host
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.errors import ExampleError
from nomad_testkit.modules.iam_policies import CONSUL_AUTO_JOIN, EC2_TRUST
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

METADATA = "http://169.254.169.254/latest"
SERVERS = """
availability_zones = ["us-east-1e"]
tags = [
    { key = "team", value = "testers" },
    { key = "inside", value = "kept back", propagate_at_launch = false },
]
security_group_tags = { purpose = "testing" }
additional_security_group_ids = ["${extra_group}"]
allowed_inbound_security_group_ids = ["${extra_group}"]
allowed_ssh_security_group_ids = ["${extra_group}"]
termination_policies = "NewestInstance"
protect_from_scale_in = true
enabled_metrics = ["GroupInServiceInstances", "GroupTotalInstances"]
wait_for_capacity_timeout = "9m"
health_check_type = "ELB"
health_check_grace_period = 123
service_linked_role_arn = "arn:aws:iam::123456789012:role/aws-service-role/autoscaling.amazonaws.com/Mine"
tenancy = "dedicated"
spot_price = 0.0125
root_volume_type = "gp3"
root_volume_size = 11
root_volume_ebs_optimized = true
root_volume_delete_on_termination = false
root_volume_encrypted = true
iam_permissions_boundary = "${boundary}"
instance_profile_path = "/testing/"
metadata_http_tokens = "required"
ssh_port = 2222
cli_rpc_port = 18400
serf_wan_port = 18302
https_api_port = 18501
enable_https_port = true
lifecycle_hooks = [
    { name = "in", lifecycle_transition = "autoscaling:EC2_INSTANCE_LAUNCHING", default_result = "CONTINUE" },
    { name = "out", lifecycle_transition = "autoscaling:EC2_INSTANCE_TERMINATING", heartbeat_timeout = 7200 },
]
"""
CLIENTS = """
asg_name = "pool"
subnet_ids = ["${subnet}"]
security_groups = ["${extra_group}"]
allow_outbound_cidr_blocks = ["172.31.0.0/16", "0.0.0.0/0"]
enable_iam_setup = false
iam_instance_profile_name = "${profile}"
serf_port = 14648
root_volume_type = "io1"
root_volume_iops = 200
root_volume_size = 9
ebs_block_devices = [
    { device_name = "/dev/sdf", volume_type = "gp3", volume_size = 2, delete_on_termination = false },
    { device_name = "/dev/sdg", volume_size = 3, encrypted = true },
]
"""


@dataclass(frozen=True)
class Own:
    """What there is in the cloud before the run, and has to be there after it."""

    extra_group: str
    subnet: str
    profile: str
    profile_arn: str
    boundary: str
    key_file: Path


@dataclass(frozen=True)
class Deployed:
    """The cluster, with what the API tells of it."""

    cluster: Cluster
    own: Own
    target: Target

    def group(self, name: str) -> dict[str, Any]:
        asg = self.cluster.outputs[f"asg_name_{name}"]
        found = self.target.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[asg])
        return dict(found["AutoScalingGroups"][0])

    def host(self, name: str) -> Host:
        (host,) = self.cluster.in_groups(name)
        return host

    def instance(self, name: str) -> dict[str, Any]:
        found = self.target.client("ec2").describe_instances(InstanceIds=[self.host(name).instance_id])
        return dict(found["Reservations"][0]["Instances"][0])

    def volumes(self, name: str) -> dict[str, dict[str, Any]]:
        attached = [{"Name": "attachment.instance-id", "Values": [self.host(name).instance_id]}]
        volumes = self.target.client("ec2").describe_volumes(Filters=attached)["Volumes"]
        return {volume["Attachments"][0]["Device"]: volume for volume in volumes}

    def security_group(self, name: str) -> dict[str, Any]:
        group_id = self.cluster.outputs[f"security_group_id_{name}"]
        (group,) = self.target.client("ec2").describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
        return dict(group)

    def metadata(self, name: str, path: str) -> str:
        token = f"$(curl -sfX PUT {METADATA}/api/token -H 'X-aws-ec2-metadata-token-ttl-seconds: 60')"
        return self.host(name).run(f'curl -sf -H "X-aws-ec2-metadata-token: {token}" {METADATA}/{path}').stdout


def tags(resource: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource["Tags"]}


def ending(instance: dict[str, Any]) -> dict[str, bool]:
    """Tell which volumes end with their instance."""
    return {one["DeviceName"]: one["Ebs"]["DeleteOnTermination"] for one in instance["BlockDeviceMappings"]}


def ports(rules: list[dict[str, Any]]) -> set[tuple[str, int]]:
    ranges = ((rule["IpProtocol"], range(rule["FromPort"], rule["ToPort"] + 1)) for rule in rules)
    return {(protocol, port) for protocol, numbers in ranges for port in numbers}


@pytest.fixture(scope="module")
def own(nomad_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    ec2, iam, network = nomad_target.client("ec2"), nomad_target.client("iam"), nomad_target.network()
    extra = ec2.create_security_group(GroupName="extra", Description="extra", VpcId=network.vpc_id)["GroupId"]
    made = ec2.create_subnet(VpcId=network.vpc_id, CidrBlock="172.31.240.0/28", AvailabilityZone="us-east-1d")
    iam.create_role(RoleName="users-own", AssumeRolePolicyDocument=EC2_TRUST)
    iam.put_role_policy(RoleName="users-own", PolicyName="join", PolicyDocument=CONSUL_AUTO_JOIN)
    profile = iam.create_instance_profile(InstanceProfileName="users-own")["InstanceProfile"]["Arn"]
    iam.add_role_to_instance_profile(InstanceProfileName="users-own", RoleName="users-own")
    boundary = iam.create_policy(PolicyName="boundary", PolicyDocument=CONSUL_AUTO_JOIN)["Policy"]["Arn"]
    key_file = tmp_path_factory.mktemp("key") / "users-own"
    ec2.import_key_pair(KeyName="users-own", PublicKeyMaterial=write_key_pair(key_file).encode())
    yield Own(extra, made["Subnet"]["SubnetId"], "users-own", profile, boundary, key_file)
    assert iam.get_instance_profile(InstanceProfileName="users-own")["InstanceProfile"]["Roles"]
    iam.remove_role_from_instance_profile(InstanceProfileName="users-own", RoleName="users-own")
    iam.delete_instance_profile(InstanceProfileName="users-own")
    iam.delete_role_policy(RoleName="users-own", PolicyName="join")
    iam.delete_role(RoleName="users-own")
    iam.delete_policy(PolicyArn=boundary)
    ec2.delete_key_pair(KeyName="users-own")
    ec2.delete_security_group(GroupId=extra)
    ec2.delete_subnet(SubnetId=made["Subnet"]["SubnetId"])


def example(folder: Path, own: Own, **variables: Any) -> Example:
    """Copy the bundled example with inputs of the test's own, one server and one client."""
    shutil.copytree(Example.load("nomad-consul-colocated-cluster").folder, folder)
    file = folder / "example.toml"
    text = file.read_text()
    for name in ("extra_group", "subnet", "profile", "boundary"):
        text = f'[variables.{name}]\ntype = "string"\ndefault = "{getattr(own, name)}"\n\n' + text
    text = text.replace("[groups.servers.inputs]\n", f"[groups.servers.inputs]\n{SERVERS}")
    text = text.replace("[groups.clients.inputs]\n", f"[groups.clients.inputs]\n{CLIENTS}")
    head, client = text.split("[groups.clients]")
    client = client.replace("associate_public_ip_address = true", "associate_public_ip_address = false")
    client = client.replace('min_size = "${num_clients}"\nmax_size = "${num_clients}"', "min_size = 0\nmax_size = 20")
    description = 'description = "Nomad and Consul servers on the same hosts, and Nomad clients on others."\n'
    file.write_text(description + head.replace(description, "") + "[groups.clients]" + client)
    script = folder / "user-data-server.sh"
    listening = "printf 'Port 22\\nPort 2222\\n' >/etc/ssh/sshd_config.d/60-ports.conf\nsystemctl restart ssh\n"
    run_consul = "/opt/consul/bin/run-consul"
    script.write_text(script.read_text().replace(run_consul, f"{listening}\n{run_consul}"))
    login = {"ssh_key_name": "users-own", "ssh_private_key_file": str(own.key_file)}
    return Example.load(folder).replace(num_servers=1, num_clients=1, **login, **variables)


@pytest.fixture(scope="module")
def made(
    nomad_settings: Settings, nomad_target: Target, own: Own, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("variables")
    settings = replace(nomad_settings, artifacts=folder / "artifacts", ami=None)
    before = everything(nomad_target)
    with deployed(settings, example(folder / "example", own), target=nomad_target, progress=print) as cluster:
        yield Deployed(cluster, own, nomad_target)
    # Neither protection, hooks, a boundary nor volumes that outlive their instances keep anything alive.
    assert everything(nomad_target) == before


def reservations(target: Target) -> list[str]:
    return sorted(one["ReservationId"] for one in target.client("ec2").describe_instances()["Reservations"])


def test_bad_input_leaves_nothing_behind(
    nomad_settings: Settings, nomad_target: Target, own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(tmp_path / "state"))
    settings = replace(nomad_settings, artifacts=tmp_path / "artifacts")
    good = example(tmp_path / "example", own)
    arm = nomad_target.client("ec2").register_image(Name="arm", Architecture="arm64")["ImageId"]
    bad = (
        (good.replace(ami_id=arm), f"for the AMI {arm}, which is arm64; expected an instance type of arm64"),
        (
            good.replace(num_clients=12),
            f"expected at most 11 hosts in all, by the free addresses of the subnets: 11 in {own.subnet}",
        ),
    )
    before, launched = everything(nomad_target), reservations(nomad_target)
    for one, said in bad:
        with pytest.raises(ExampleError) as caught, deployed(settings, one, target=nomad_target, progress=print):
            pass
        assert str(caught.value).startswith(f"{one.file}: groups.")
        assert said in str(caught.value)
    assert everything(nomad_target) == before
    assert reservations(nomad_target) == launched, "not even one that is terminated again"
    nomad_target.client("ec2").deregister_image(ImageId=arm)
    assert Run.every() == []
    assert not settings.artifacts.exists()


def test_a_group_of_consul_cluster(made: Deployed) -> None:
    group = made.group("servers")
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (1, 1, 1)
    assert group["AvailabilityZones"] == ["us-east-1e"]
    assert group["TerminationPolicies"] == ["NewestInstance"]
    assert group["NewInstancesProtectedFromScaleIn"] is True
    assert [member["ProtectedFromScaleIn"] for member in group["Instances"]] == [True]
    assert (group["HealthCheckType"], group["HealthCheckGracePeriod"]) == ("ELB", 123)
    metrics = {metric["Metric"] for metric in group["EnabledMetrics"]}
    assert metrics == {"GroupInServiceInstances", "GroupTotalInstances"}
    assert group["ServiceLinkedRoleARN"].endswith(":role/aws-service-role/autoscaling.amazonaws.com/Mine")
    propagated = {tag["Key"]: tag["PropagateAtLaunch"] for tag in group["Tags"]}
    assert (propagated["team"], propagated["inside"], propagated["nomad-servers"]) == (True, False, True)


def test_a_group_of_nomad_cluster(made: Deployed) -> None:
    group = made.group("clients")
    assert group["AutoScalingGroupName"] == f"pool-{made.cluster.run_id}"
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (0, 20, 1)
    assert group["VPCZoneIdentifier"] == made.own.subnet
    assert (group["TerminationPolicies"], group["NewInstancesProtectedFromScaleIn"]) == (["Default"], False)
    assert (group["HealthCheckType"], group["HealthCheckGracePeriod"]) == ("EC2", 300)


def test_instances(made: Deployed) -> None:
    server, client = made.instance("servers"), made.instance("clients")
    assert (server["Placement"]["Tenancy"], client["Placement"]["Tenancy"]) == ("dedicated", "default")
    assert (server["InstanceLifecycle"], client.get("InstanceLifecycle")) == ("spot", None)
    assert (server["EbsOptimized"], client["EbsOptimized"]) == (True, False)
    assert server["Placement"]["AvailabilityZone"] == "us-east-1e"
    assert (client["Placement"]["AvailabilityZone"], client["SubnetId"]) == ("us-east-1d", made.own.subnet)
    assert "PublicIpAddress" in server
    assert "PublicIpAddress" not in client
    assert [one["MetadataOptions"]["HttpTokens"] for one in (server, client)] == ["required", "optional"]
    assert {server["KeyName"], client["KeyName"]} == {"users-own"}
    for name, instance in (("servers", server), ("clients", client)):
        own_group = made.cluster.outputs[f"security_group_id_{name}"]
        assert {group["GroupId"] for group in instance["SecurityGroups"]} == {own_group, made.own.extra_group}
    assert tags(server)["team"] == "testers"
    assert "inside" not in tags(server)
    assert server["IamInstanceProfile"]["Arn"] == made.cluster.outputs["iam_instance_profile_arn_servers"]
    assert client["IamInstanceProfile"]["Arn"] == made.own.profile_arn


def test_hosts_see_what_they_are(made: Deployed) -> None:
    assert made.metadata("servers", "meta-data/placement/availability-zone") == "us-east-1e"
    assert made.metadata("servers", "meta-data/instance-life-cycle") == "spot"
    assert made.metadata("servers", "meta-data/tags/instance/team") == "testers"
    assert "inside" not in made.metadata("servers", "meta-data/tags/instance/").split()
    assert set(made.metadata("clients", "meta-data/security-groups").split()) == {
        f"nomad-example-client-{made.cluster.run_id}",
        "extra",
    }
    for name, profile in (
        ("servers", made.cluster.outputs["iam_instance_profile_arn_servers"]),
        ("clients", made.own.profile_arn),
    ):
        assert json.loads(made.metadata(name, "meta-data/iam/info"))["InstanceProfileArn"] == profile
    without_token = f"curl -s -o /dev/null -w '%{{http_code}}' {METADATA}/meta-data/instance-id"
    assert made.host("servers").run(without_token).stdout == "401"
    assert made.host("clients").run(without_token).stdout == "200"
    assert made.metadata("servers", "meta-data/public-ipv4") == made.instance("servers")["PublicIpAddress"]
    public = made.host("clients").run(f"curl -s -o /dev/null -w '%{{http_code}}' {METADATA}/meta-data/public-ipv4")
    assert public.stdout == "404"


def test_hosts_are_logged_in_to_on_the_port_that_is_open(made: Deployed) -> None:
    server, client = made.host("servers"), made.host("clients")
    assert server.run("echo $SSH_CONNECTION").stdout.split()[3] == "2222"
    assert client.run("echo $SSH_CONNECTION").stdout.split()[3] == "22"
    again = Cluster.from_description(json.loads(json.dumps(made.cluster.describe())), target=made.target)
    assert [host.ssh.port for host in again.hosts] == [host.ssh.port for host in made.cluster.hosts]
    assert again.outputs == made.cluster.outputs


def test_volumes(made: Deployed) -> None:
    server, client = made.volumes("servers"), made.volumes("clients")
    assert list(server) == ["/dev/xvda"]
    root = server["/dev/xvda"]
    assert (root["VolumeType"], root["Size"], root["Encrypted"]) == ("gp3", 11, True)
    assert ending(made.instance("servers")) == {"/dev/xvda": False}
    assert tags(root)["team"] == "testers"
    assert "inside" not in tags(root)
    assert set(client) == {"/dev/xvda", "/dev/sdf", "/dev/sdg"}
    shown = {name: (one["VolumeType"], one["Size"], one["Encrypted"]) for name, one in client.items()}
    assert (shown["/dev/xvda"], client["/dev/xvda"]["Iops"]) == (("io1", 9, False), 200)
    assert (shown["/dev/sdf"], shown["/dev/sdg"][1:]) == (("gp3", 2, False), (3, True))
    assert ending(made.instance("clients")) == {"/dev/xvda": True, "/dev/sdf": False, "/dev/sdg": True}


def test_hosts_see_their_volumes(made: Deployed) -> None:
    for name, size in (("servers", 11), ("clients", 9)):
        assert int(made.host(name).run("df --block-size=1G --output=size / | tail -1").stdout) == size
    assert made.metadata("clients", "meta-data/block-device-mapping/ebs1") == "sdf"
    assert made.metadata("clients", "meta-data/block-device-mapping/ebs2") == "sdg"
    assert "ebs1" not in made.metadata("servers", "meta-data/block-device-mapping/").split()


def test_security_groups(made: Deployed) -> None:
    servers, clients = made.security_group("servers"), made.security_group("clients")
    assert tags(servers)["purpose"] == "testing"
    assert {
        *(("tcp", port) for port in (2222, 4646, 4647, 4648, 8300, 8301, 8500, 18302, 18400, 18501, 8600)),
        *(("udp", port) for port in (4648, 8301, 18302, 8600)),
    } == ports(servers["IpPermissions"])
    for rule in servers["IpPermissions"]:
        sources = {pair["GroupId"] for pair in rule["UserIdGroupPairs"]}
        assert sources == (
            {made.own.extra_group} if rule["FromPort"] == 2222 else {made.own.extra_group, servers["GroupId"]}
        )
        # Both groups' subnets, though they are in different zones, and this machine; nobody else.
        blocks = {one["CidrIp"] for one in rule["IpRanges"]}
        assert blocks == {"172.31.64.0/20", "172.31.240.0/28", *made.target.inbound_cidrs}
    consul_client = {("tcp", 8301), ("udp", 8301), ("tcp", 8500), ("tcp", 8501)}
    nomad = {*(("tcp", port) for port in (4646, 4647, 14648)), ("udp", 14648)}
    assert ports(clients["IpPermissions"]) == {("tcp", 22)} | consul_client | nomad
    (outbound,) = clients["IpPermissionsEgress"]
    assert {one["CidrIp"] for one in outbound["IpRanges"]} == {"172.31.0.0/16", "0.0.0.0/0"}


def test_the_role(made: Deployed) -> None:
    iam, outputs = made.target.client("iam"), made.cluster.outputs
    role = iam.get_role(RoleName=outputs["iam_role_id_servers"])["Role"]
    assert role["Arn"] == outputs["iam_role_arn_servers"]
    assert role["Path"] == "/testing/"
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == made.own.boundary
    name = outputs["iam_instance_profile_name_servers"]
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    assert (profile["Path"], profile["Arn"]) == ("/testing/", outputs["iam_instance_profile_arn_servers"])


def test_outputs(made: Deployed) -> None:
    run_id, outputs = made.cluster.run_id, made.cluster.outputs
    assert (outputs["aws_region"], outputs["num_servers"], outputs["num_clients"]) == ("us-east-1", 1, 1)
    assert outputs["asg_name_servers"] == f"nomad-example-server-{run_id}"
    assert outputs["asg_name_clients"] == f"pool-{run_id}"
    named = [outputs["launch_config_name_clients"]]
    (template,) = made.target.client("ec2").describe_launch_templates(LaunchTemplateNames=named)["LaunchTemplates"]
    assert template["LaunchTemplateId"] == outputs["launch_template_id_clients"]
    assert (outputs["iam_role_arn_clients"], outputs["iam_role_id_clients"]) == ("", "")
    assert outputs["iam_instance_profile_name_clients"] == "users-own"
    assert [outputs[f"cluster_tag_key_{group}"] for group in ("servers", "clients")] == [
        "nomad-servers",
        "nomad-clients",
    ]
    assert outputs["nomad_servers_cluster_tag_value"] == outputs["cluster_tag_value_servers"] == f"auto-join-{run_id}"


def test_lifecycle_hooks(made: Deployed) -> None:
    autoscaling, asg = made.target.client("autoscaling"), made.cluster.outputs["asg_name_servers"]
    hooks = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=asg)["LifecycleHooks"]
    told = {hook["LifecycleHookName"]: (hook["DefaultResult"], hook["HeartbeatTimeout"]) for hook in hooks}
    assert told == {"in": ("CONTINUE", 3600), "out": ("ABANDON", 7200)}
    (member,) = made.group("servers")["Instances"]
    assert member["LifecycleState"] == "Pending:Wait"
    assert made.metadata("servers", "meta-data/autoscaling/target-lifecycle-state") == "InService"
    autoscaling.complete_lifecycle_action(
        AutoScalingGroupName=asg,
        LifecycleHookName="in",
        InstanceId=member["InstanceId"],
        LifecycleActionResult="CONTINUE",
    )

    def probe() -> Ok[None] | Pending:
        seen = [each["LifecycleState"] for each in made.group("servers")["Instances"]]
        return Ok(None) if seen == ["InService"] else Pending(str(seen))

    wait_until("the server in service", probe, deadline=Deadline.after(60))
