"""An instance of the embedded EC2, as a test uses it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ssh import SshConnection
from nomad_testkit.wait import Broken, Deadline, Ok, Pending, wait_until


class Box:
    """An instance under test."""

    def __init__(self, cloud: EmbeddedEc2, instance_id: str, key_path: Path) -> None:
        self.cloud, self.instance_id = cloud, instance_id
        self.api = cloud.client("ec2")
        self.private_ip = str(self.describe()["PrivateIpAddress"])
        self.address = cloud.public_address(self.private_ip)
        self.ssh = SshConnection(self.address, "admin", key_path)

    def describe(self) -> dict[str, Any]:
        """Tell what DescribeInstances says of it."""
        found: dict[str, Any] = self.api.describe_instances(InstanceIds=[self.instance_id])["Reservations"][0][
            "Instances"
        ][0]
        return found

    @property
    def state(self) -> str:
        """Its state now."""
        return str(self.describe()["State"]["Name"])

    def await_state(self, wanted: str, *, seconds: float = 60) -> None:
        """Wait until it is in a state."""

        def probe() -> Ok[None] | Pending:
            return Ok(None) if self.state == wanted else Pending(self.state)

        wait_until(f"state {wanted}", probe, deadline=Deadline.after(seconds), where=self.instance_id)

    def await_status_ok(self) -> None:
        """Wait until its status checks are ok, which is when sshd answers."""

        def probe() -> Ok[None] | Pending | Broken:
            found = self.api.describe_instance_status(InstanceIds=[self.instance_id], IncludeAllInstances=True)
            status = found["InstanceStatuses"][0]
            if status["InstanceState"]["Name"] not in ("pending", "running"):
                return Broken(str(self.describe().get("StateReason")))
            seen = f"{status['InstanceStatus']['Status']}, {status['SystemStatus']['Status']}"
            return Ok(None) if seen == "ok, ok" else Pending(seen)

        wait_until("status checks ok", probe, deadline=Deadline.after(90), where=self.instance_id)

    def run(self, command: str) -> str:
        """Run a command as root; gives what it prints."""
        self.ssh.ensure(Deadline.after(60))
        return self.ssh.run(command, sudo=True).stdout

    def await_user_data(self) -> None:
        """Wait until cloud-init is through with everything."""
        self.run("cloud-init status --wait >/dev/null || true")


def let_in(ec2: Any, *cidrs: str) -> None:
    """Let everything from some blocks into the default security group, which by itself lets in its members only."""
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])["SecurityGroups"]
    ec2.authorize_security_group_ingress(
        GroupId=group["GroupId"], IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": cidr} for cidr in cidrs]}]
    )


Launch = Callable[..., AbstractContextManager[Box]]
