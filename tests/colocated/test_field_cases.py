"""Faults that users of the upstream modules met, each on a real cluster: the deployment ends at once and says why."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from deploying import everything

from nomad_testkit import Example
from nomad_testkit.errors import BrokenError, DeployError, TestkitError
from nomad_testkit.modules.iam_policies import CONSUL_AUTO_JOIN
from nomad_testkit.ssh import SshConnection
from nomad_testkit.targets import Target
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from deploying import Deploy, Variant

# A server's own configuration, as a user may bring it: `run-consul --skip-consul-config` leaves it alone.
OWN_CONFIGURATION = """
metadata=http://169.254.169.254/latest/meta-data
address=$(curl -sf $metadata/local-ipv4)
name=$(curl -sf $metadata/instance-id)
zone=$(curl -sf $metadata/placement/availability-zone)
case $zone in *a) expect=1 ;; *) expect={others} ;; esac
cat > /opt/consul/config/default.json <<END
{{"bind_addr": "$address", "client_addr": "0.0.0.0", "node_name": "$name", "datacenter": "us-east-1", "server": true,
  "retry_join": ["provider=aws region=us-east-1 tag_key=${{cluster_tag_key}} tag_value={joins}"],
  "bootstrap_expect": $expect}}
END
chown consul: /opt/consul/config/default.json
/opt/consul/bin/run-consul --server --skip-consul-config
/opt/nomad/bin/run-nomad --server --num-servers "${{num_servers}}"
"""


@pytest.fixture(scope="module", autouse=True)
def before(nomad_target: Target) -> dict[str, list[str]]:
    """What is there already; the session's own cluster may be."""
    return everything(nomad_target)


def failing(deploy: Deploy, example: Example, error: type[TestkitError] = BrokenError) -> str:
    """Deploy what cannot work; gives what is said of it."""
    with pytest.raises(error) as caught, deploy(example):
        pytest.fail("the deployment was called ready")
    return str(caught.value)


def test_servers_that_see_only_themselves(deploy: Deploy, variant: Variant) -> None:
    instead = OWN_CONFIGURATION.format(others=1, joins="nobody-has-this-value")
    said = failing(deploy, variant(instead=instead, num_clients=0))
    assert "sees only itself" in said or "bootstrap_expect" in said
    assert said.count("i-") >= 3


def test_bootstrap_expect_that_differs(deploy: Deploy, variant: Variant) -> None:
    said = failing(
        deploy, variant(instead=OWN_CONFIGURATION.format(others=3, joins="${cluster_tag_value}"), num_clients=0)
    )
    assert "consul's bootstrap_expect differs between servers" in said
    assert "1 on i-" in said
    assert "3 on i-" in said


def test_a_key_that_this_version_refuses(deploy: Deploy, variant: Variant) -> None:
    first = """echo '{"telemetry": {"disable_compat_1.9": true}}' > /opt/consul/config/telemetry.json"""
    said = failing(deploy, variant(first=first, num_servers=1, num_clients=0))
    assert "i-" in said
    assert "consul.service" in said
    assert "disable_compat_1.9" in said
    assert "invalid config key" in said


def test_user_data_that_fails(deploy: Deploy, variant: Variant) -> None:
    said = failing(deploy, variant(first="echo the last words; exit 7", num_servers=1, num_clients=0))
    assert "user data failed" in said
    assert "the last words" in said
    assert "user data ended with status 7" in said
    assert "i-" in said


def test_a_port_that_is_taken(deploy: Deploy, variant: Variant) -> None:
    first = "systemd-run --quiet python3 -m http.server 8500; until ss -Hltn | grep -q :8500; do :; done"
    said = failing(deploy, variant(first=first, num_servers=1, num_clients=0))
    assert "consul.service" in said
    assert "8500" in said
    assert "address already in use" in said


def test_an_image_that_does_not_exist(deploy: Deploy, nomad_target: Target, before: dict[str, list[str]]) -> None:
    example = Example.load("nomad-consul-colocated-cluster").replace(ami_id="ami-0123456789abcdef0")
    said = failing(deploy, example, DeployError)
    assert "ami-0123456789abcdef0" in said
    assert everything(nomad_target)["templates"] == before["templates"]


def test_nothing_of_the_failures_is_left(nomad_target: Target, before: dict[str, list[str]]) -> None:
    assert everything(nomad_target) == before


class LateServers:
    """A group of servers whose instances get their tags only when `tag` is called."""

    def __init__(self, target: Target, key_name: str, size: int) -> None:
        self.target, self.size = target, size
        self.ec2, self.scaling = target.client("ec2"), target.client("autoscaling")
        script = (
            "#!/bin/bash\nexec > /var/log/user-data.log 2>&1\n"
            "/opt/consul/bin/run-consul --server --cluster-tag-key late --cluster-tag-value late\n"
        )
        self.group = self.ec2.create_security_group(GroupName="late", Description="All from each other, and SSH")[
            "GroupId"
        ]
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        self.ec2.authorize_security_group_ingress(
            GroupId=self.group,
            IpPermissions=[
                {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": self.group}]},
                {**ssh, "IpRanges": [{"CidrIp": cidr} for cidr in target.inbound_cidrs]},
            ],
        )
        self.iam = target.client("iam")
        self.iam.create_role(RoleName="late", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
        self.iam.put_role_policy(RoleName="late", PolicyName="join", PolicyDocument=CONSUL_AUTO_JOIN)
        self.iam.create_instance_profile(InstanceProfileName="late")
        self.iam.add_role_to_instance_profile(InstanceProfileName="late", RoleName="late")
        self.ec2.create_launch_template(
            LaunchTemplateName="late",
            LaunchTemplateData={
                "ImageId": target.image(Example.load("nomad-consul-colocated-cluster")),
                "InstanceType": "t2.micro",
                "KeyName": key_name,
                "SecurityGroupIds": [self.group],
                "IamInstanceProfile": {"Name": "late"},
                "UserData": base64.b64encode(script.encode()).decode(),
            },
        )
        self.scaling.create_auto_scaling_group(
            AutoScalingGroupName="late",
            LaunchTemplate={"LaunchTemplateName": "late"},
            MinSize=size,
            MaxSize=size,
            DesiredCapacity=size,
            VPCZoneIdentifier=",".join(subnet.subnet_id for subnet in target.network().subnets),
        )

    def instances(self) -> list[dict[str, Any]]:
        """List them as DescribeInstances does."""
        filters = [{"Name": "tag:aws:autoscaling:groupName", "Values": ["late"]}]
        found = self.ec2.describe_instances(Filters=filters)["Reservations"]
        return [instance for one in found for instance in one["Instances"]]

    def tag(self) -> None:
        """Let the tags arrive."""
        ids = [instance["InstanceId"] for instance in self.instances()]
        self.ec2.create_tags(Resources=ids, Tags=[{"Key": "late", "Value": "late"}])

    def destroy(self) -> None:
        """Remove everything."""
        ids = [instance["InstanceId"] for instance in self.instances()]
        self.scaling.delete_auto_scaling_group(AutoScalingGroupName="late", ForceDelete=True)
        self.ec2.get_waiter("instance_terminated").wait(InstanceIds=ids, WaiterConfig={"Delay": 1})
        self.ec2.delete_launch_template(LaunchTemplateName="late")
        self.ec2.delete_security_group(GroupId=self.group)
        self.iam.remove_role_from_instance_profile(InstanceProfileName="late", RoleName="late")
        self.iam.delete_instance_profile(InstanceProfileName="late")
        self.iam.delete_role_policy(RoleName="late", PolicyName="join")
        self.iam.delete_role(RoleName="late")


def test_tags_that_arrive_late(nomad_target: Target, tmp_path: Path) -> None:
    ec2 = nomad_target.client("ec2")
    key = tmp_path / "id"
    key.touch(mode=0o600)
    key.write_text(ec2.create_key_pair(KeyName="late", KeyType="ed25519")["KeyMaterial"])
    servers = LateServers(nomad_target, "late", 3)
    try:
        hosts = [SshConnection(instance["PublicIpAddress"], "admin", key) for instance in servers.instances()]

        def waits() -> Ok[None] | Pending:
            logs = [host.run("cat /var/log/user-data.log", sudo=True, check=False).stdout for host in hosts]
            return Ok(None) if all("tag" in text for text in logs) else Pending(repr(logs))

        for host in hosts:
            host.ensure(Deadline.after(60))
        wait_until("every server to wait for its tag", waits, deadline=Deadline.after(60))
        for host in hosts:
            assert host.run("systemctl is-active consul", sudo=True, check=False).stdout.strip() == "inactive"
        servers.tag()

        def formed() -> Ok[None] | Pending:
            peers = {
                host.run("curl -s localhost:8500/v1/status/peers", check=False).stdout.count(":8300") for host in hosts
            }
            return Ok(None) if peers == {3} else Pending(f"peers {peers}")

        wait_until("one cluster of three", formed, deadline=Deadline.after(60))
        for host in hosts:
            assert '"bootstrap_expect": 3' in host.run("cat /opt/consul/config/default.json", sudo=True).stdout
            host.close()
    finally:
        servers.destroy()
        ec2.delete_key_pair(KeyName="late")
