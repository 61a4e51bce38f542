"""Instances of the image with Consul and Nomad on it, on which the host scripts are run as their users run them."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ec2_box import Box, let_in

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.errors import HostError
from nomad_testkit.modules.bundle import host_scripts
from nomad_testkit.targets.key_pair import write_key_pair
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

TAG_KEY, TAG_VALUE = "consul-servers", "auto join"
TAGS = ("--cluster-tag-key", TAG_KEY, "--cluster-tag-value", TAG_VALUE)
CONSUL, NOMAD = "http://127.0.0.1:8500", "http://127.0.0.1:4646"
RUN_CONSUL, RUN_NOMAD = "/opt/consul/bin/run-consul", "/opt/nomad/bin/run-nomad"
_READS = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["ec2:DescribeInstances", "ec2:DescribeTags", "autoscaling:DescribeAutoScalingGroups"],
            "Resource": "*",
        }
    ],
}


@dataclass(frozen=True)
class File:
    """A file for a host."""

    path: str
    text: str
    mode: int = 0o644
    owner: str = "root"


class ScriptHost(Box):
    """An instance on which a test runs the scripts."""

    def script(self, *words: str) -> str:
        """Run a script as root, which has to succeed; gives what it printed."""
        return self.run(f"{shlex.join(words)} 2>&1")

    def refused(self, *words: str) -> str:
        """Run a script as root, which has to end with another status than 0; gives the status and what it printed."""
        said = self.run(f"{shlex.join(words)} 2>&1 || echo status=$?")
        assert "status=" in said, f"{words} ended well: {said}"
        return said

    def start_script(self, *words: str) -> None:
        """Run a script as root that goes on while the test does other things."""
        self.write("/root/script.sh", f"{shlex.join(words)} >/root/said 2>&1\necho status=$? >/root/ended\n")
        self.run("rm -f /root/ended; systemd-run --quiet --collect --unit=script /bin/sh /root/script.sh")

    def await_script(self) -> None:
        """Wait until the script that was started has ended, which it has to do well."""
        self.await_answer("the script's end", "cat /root/said /root/ended", "status=")
        assert self.run("cat /root/ended").strip() == "status=0", self.run("cat /root/said")

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: str = "root") -> str:
        """Write a file; gives its path."""
        self.put_files([File(path, text, mode, owner)])
        return path

    def put_files(self, files: Iterable[File]) -> None:
        """Write files, into folders that are made where missing."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for file in files:
                data = file.text.encode()
                entry = tarfile.TarInfo(file.path.lstrip("/"))
                entry.size, entry.mode, entry.uname, entry.gname = len(data), file.mode, file.owner, file.owner
                archive.addfile(entry, io.BytesIO(data))
        packed.seek(0)
        self.ssh.ensure(Deadline.after(60))
        self.ssh.run("tar --extract --preserve-permissions --file=- --directory=/", stdin=packed, sudo=True)

    def put_scripts(self) -> str:
        """Bring all scripts to a folder, as the builder of an image does; gives the folder."""
        self.put_files(File(f"/root/kit/{script.name}", script.read_text()) for script in host_scripts())
        return "/root/kit"

    def get(self, url: str, *options: str) -> Any:
        """Get a URL as JSON, on the host itself."""
        return json.loads(self.run(shlex.join(["curl", "-sS", "--fail-with-body", *options, url])))

    def await_answer(self, what: str, command: str, wanted: str, *, seconds: float = 120) -> str:
        """Run a command until its output has `wanted` in it; gives the output."""

        def probe() -> Ok[str] | Pending:
            try:
                said = self.run(f"{{ {command} ; }} 2>&1 || true")
            except HostError as error:  # it may just be going down for a reboot
                return Pending(str(error))
            return Ok(said) if wanted in said else Pending(said[-300:] or "(nothing)")

        return wait_until(what, probe, deadline=Deadline.after(seconds), where=self.instance_id)

    def reset(self) -> None:
        """Stop both agents, and forget what they were and knew."""
        self.run(
            "systemctl kill --signal=KILL script nomad consul 2>/dev/null; pkill -KILL -x nomad;"
            " systemctl disable --now nomad consul 2>/dev/null; systemctl reset-failed 2>/dev/null;"
            " rm -rf /opt/consul/data/* /opt/nomad/data/* /opt/consul/config/* /opt/nomad/config/*"
            " /etc/systemd/system/consul.service /etc/systemd/system/nomad.service /etc/default/run-*;"
            " systemctl daemon-reload"
        )


@contextmanager
def script_hosts(cloud: EmbeddedEc2, image: str, folder: Path, *options: dict[str, Any]) -> Iterator[list[ScriptHost]]:
    """Run an instance with each of some parameters of RunInstances, and with the role by which agents find another."""
    key_path = folder / "id"
    api, iam = cloud.client("ec2"), cloud.client("iam")
    let_in(api, f"{cloud.machine_address}/32")
    api.import_key_pair(KeyName="scripts", PublicKeyMaterial=write_key_pair(key_path).encode())
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}
    trust["Statement"][0]["Principal"] = {"Service": "ec2.amazonaws.com"}  # type: ignore[index]
    iam.create_role(RoleName="scripts", AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName="scripts", PolicyName="reads", PolicyDocument=json.dumps(_READS))
    iam.create_instance_profile(InstanceProfileName="scripts")
    iam.add_role_to_instance_profile(InstanceProfileName="scripts", RoleName="scripts")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": TAG_KEY, "Value": TAG_VALUE}]}]
    usual: dict[str, Any] = {
        "ImageId": image,
        "InstanceType": "t3.micro",
        "KeyName": "scripts",
        "IamInstanceProfile": {"Name": "scripts"},
        "TagSpecifications": tags,
        "MinCount": 1,
        "MaxCount": 1,
    }
    with ExitStack() as stack:
        hosts = []
        for one in options:
            started = api.run_instances(**{**usual, **one})["Instances"][0]
            host = ScriptHost(cloud, started["InstanceId"], key_path)
            stack.callback(host.ssh.close)
            hosts.append(host)
        for host in hosts:
            host.await_status_ok()
        yield hosts
