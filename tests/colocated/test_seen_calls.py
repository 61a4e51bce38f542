"""The calls that whole runs make of AWS are the recorded ones, and the IAM policy made of them allows whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploying import Deploy
from seen_calls import note_calls

from nomad_testkit import Example
from nomad_testkit.cluster.discovery import scaling_activities
from nomad_testkit.deployment import evidence
from nomad_testkit.deployment.amis import launched
from nomad_testkit.ec2.credentials import Credentials
from nomad_testkit.faults import Faults
from nomad_testkit.modules.steps import RUN_TAG
from nomad_testkit.operations import scale
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets.aws.policy import DEPLOYING, least_policy, seen_calls
from nomad_testkit.targets.embedded.target import EmbeddedTarget

COLOCATED, SEPARATE = "nomad-consul-colocated-cluster", "nomad-consul-separate-cluster"
# Inputs of groups that make calls of their own; a volume that outlives its instance has to be deleted by the sweep.
MORE_INPUTS = {
    "servers": "root_volume_delete_on_termination = false\nenabled_metrics = ['GroupDesiredCapacity']\n",
    "clients": "allow_outbound_cidr_blocks = ['172.31.0.0/16']\n",
}
OFTEN = {"Delay": 1, "MaxAttempts": 120}
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "ec2:DescribeTags", "Resource": "*"}],
}


@pytest.fixture
def busy(tmp_path: Path) -> Example:
    folder = tmp_path / "busy"
    shutil.copytree(Example.load(COLOCATED).folder, folder)
    file = folder / "example.toml"
    for group, inputs in MORE_INPUTS.items():
        table = f"[groups.{group}.inputs]\n"
        assert table in file.read_text()
        file.write_text(file.read_text().replace(table, table + inputs))
    return Example.load(folder).replace(num_servers=1, num_clients=0)


def security_groups(ec2: Any, run_id: str) -> list[dict[str, Any]]:
    groups = ec2.describe_security_groups(Filters=[{"Name": f"tag:{RUN_TAG}", "Values": [run_id]}])["SecurityGroups"]
    return sorted(groups, key=lambda group: str(group["GroupName"]), reverse=True)


@pytest.fixture(scope="module")
def deployer(nomad_target: EmbeddedTarget) -> Iterator[Credentials]:
    """The key of a user who may do exactly what `nomad-testkit iam-policy` prints."""
    iam = nomad_target.client("iam")
    iam.create_user(UserName="deployer")
    policy = json.dumps(least_policy(seen_calls(*DEPLOYING)))
    iam.put_user_policy(UserName="deployer", PolicyName="least", PolicyDocument=policy)
    key = iam.create_access_key(UserName="deployer")["AccessKey"]
    yield Credentials(key["AccessKeyId"], key["SecretAccessKey"])
    iam.delete_access_key(UserName="deployer", AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName="deployer", PolicyName="least")
    iam.delete_user(UserName="deployer")


def test_whole_runs_make_the_recorded_calls(
    busy: Example,
    deploy: Deploy,
    nomad_settings: Settings,
    nomad_target: EmbeddedTarget,
    deployer: Credentials,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iam, ec2 = nomad_target.client("iam"), nomad_target.client("ec2")
    policy = iam.create_policy(PolicyName="somebodys", PolicyDocument=json.dumps(POLICY))["Policy"]["Arn"]
    calls = note_calls(nomad_target, monkeypatch, deployer)
    with deploy(busy) as cluster:
        names = [one["RoleName"] for one in iam.list_roles()["Roles"]]
        (role,) = [name for name in names if name.endswith(f"-server-{cluster.run_id}")]
        iam.attach_role_policy(RoleName=role, PolicyArn=policy)  # somebody's hand, not the run's
        # So is a rule that names another group of the run: a sweep has to take it away first.
        servers, clients = (one["GroupId"] for one in security_groups(ec2, cluster.run_id))
        ec2.authorize_security_group_ingress(
            GroupId=servers, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": clients}]}]
        )
        journal = next(run.journal for run in Run.every() if run.run_id == cluster.run_id)
        # As a deployment does whose hosts do not come.
        assert scaling_activities(nomad_target.client, cluster.run_id, "servers") == ""
        evidence.collect(cluster.hosts, tmp_path / "evidence", target=nomad_target, journal=journal)
    with deploy(Example.load(SEPARATE).replace(num_consul_servers=1, num_nomad_servers=1, num_nomad_clients=0)):
        pass
    with launched(
        nomad_settings, nomad_target.own_image, ssh_user="admin", target=nomad_target, progress=print
    ) as host:
        # As Packer makes an image for a run, which deletes it.
        facts = ec2.describe_instances(InstanceIds=[host.instance_id])["Reservations"][0]["Instances"][0]
        tags = [tag for tag in facts["Tags"] if tag["Key"] == RUN_TAG]
        ec2.stop_instances(InstanceIds=[host.instance_id])
        ec2.get_waiter("instance_stopped").wait(InstanceIds=[host.instance_id], WaiterConfig=OFTEN)
        kinds = [{"ResourceType": kind, "Tags": tags} for kind in ("image", "snapshot")]
        image = ec2.create_image(InstanceId=host.instance_id, Name="mine", TagSpecifications=kinds)["ImageId"]
        ec2.get_waiter("image_available").wait(ImageIds=[image], WaiterConfig=OFTEN)
    iam.delete_policy(PolicyArn=policy)
    recorded = set(seen_calls("runs"))
    assert (calls - recorded, recorded - calls) == (set(), set()), "fixtures/recorded/aws-calls.json has others"


def test_faults_and_operations_make_the_recorded_calls(
    deploy: Deploy, nomad_target: EmbeddedTarget, deployer: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = note_calls(nomad_target, monkeypatch, deployer)
    with deploy(Example.load(COLOCATED).replace(num_servers=3, num_clients=1)) as cluster, Faults(cluster) as faults:
        with faults.stop_instance(*cluster.clients):
            pass
        with faults.reboot_instance(*cluster.clients):
            pass
        scale(cluster, "servers", 2)  # the one that leads is protected
    recorded = set(seen_calls("faults"))
    assert calls - recorded - set(seen_calls("runs")) == set(), "fixtures/recorded/aws-calls.json lacks some"
    assert recorded - calls == set(), "fixtures/recorded/aws-calls.json has more"
