"""What the fixtures give that deploy clusters of a test's own, and what is left of these."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from nomad_testkit import Cluster, Example
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.errors import TestkitError
from nomad_testkit.runs.run import Run
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target

Deploy = Callable[..., AbstractContextManager[Cluster]]
Variant = Callable[..., Example]


class Account(Protocol):
    """A target, or an embedded EC2."""

    def client(self, service: Any) -> Any:
        """Give boto3's client for one of its services."""


def everything(account: Account) -> dict[str, list[str]]:
    """List all that there is of what runs and Packer make, whatever tag it bears; others' things may be there too."""
    ec2, iam, scaling = (account.client(service) for service in ("ec2", "iam", "autoscaling"))
    instances = [one for found in ec2.describe_instances()["Reservations"] for one in found["Instances"]]
    found = {
        "instances": ("InstanceId", [one for one in instances if one["State"]["Name"] != "terminated"]),
        "volumes": ("VolumeId", ec2.describe_volumes()["Volumes"]),
        "interfaces": ("NetworkInterfaceId", ec2.describe_network_interfaces()["NetworkInterfaces"]),
        "security groups": ("GroupId", ec2.describe_security_groups()["SecurityGroups"]),
        "key pairs": ("KeyName", ec2.describe_key_pairs()["KeyPairs"]),
        "templates": ("LaunchTemplateName", ec2.describe_launch_templates()["LaunchTemplates"]),
        "AMIs": ("ImageId", ec2.describe_images()["Images"]),
        "snapshots": ("SnapshotId", ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]),
        "scaling groups": ("AutoScalingGroupName", scaling.describe_auto_scaling_groups()["AutoScalingGroups"]),
        "roles": ("RoleName", iam.list_roles()["Roles"]),
        "profiles": ("InstanceProfileName", iam.list_instance_profiles()["InstanceProfiles"]),
    }
    listed = {kind: sorted(one[key] for one in these) for kind, (key, these) in found.items()}
    return listed | {"runs": sorted(run.run_id for run in Run.every())}


def stuck(
    settings: Settings, target: Target, example: Example, folder: Path, *, error: type[TestkitError], seconds: float
) -> str:
    """Deploy what cannot get ready; gives what is said of it."""
    settings = replace(settings, artifacts=folder / "artifacts", timeout=seconds)
    with pytest.raises(error) as caught, deployed(settings, example, target=target, progress=lambda line: None):
        pytest.fail("the deployment was called ready")
    return str(caught.value)
