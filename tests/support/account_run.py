"""A run in moto's account, as `up` leaves one: two servers and a client, which no host stands behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from moto_account import make_client, moto_account

from nomad_testkit import targets
from nomad_testkit.errors import Ec2Error
from nomad_testkit.examples.example import Example
from nomad_testkit.modules.steps import GROUP_TAG, RUN_TAG
from nomad_testkit.runs.run import Run

HERE = {"name": "embedded", "endpoint_url": "http://127.31.255.1", "state_dir": "/run/cloud-0"}
EXAMPLE = "nomad-consul-colocated-cluster"


class AccountTarget:
    """Attached to as a target is."""

    name = "embedded"
    region = "us-east-1"
    gone = False
    here: Mapping[str, Any] = HERE

    @contextmanager
    def attach(self, description: Mapping[str, Any]) -> Iterator[AccountTarget]:
        if self.gone:
            raise Ec2Error("no embedded cloud is at /run/cloud-0")
        assert description == self.here
        yield self

    @property
    def client(self) -> Callable[[str], Any]:
        return make_client

    def address(self, instance: Any) -> str:
        return "127.31." + ".".join(instance.private_ip.split(".")[2:])

    def console(self, instance: Any) -> str:
        return ""

    def describe(self) -> Mapping[str, Any]:
        return self.here


@contextmanager
def account_of_its_own(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[AccountTarget]:
    """Put moto's account in the place of every target, and a folder in that of this machine's runs and cache."""
    for name in [name for name in os.environ if name.startswith(("NOMAD_", "CONSUL_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NOMAD_TESTKIT_STATE", str(folder))
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(folder / "cache"))
    made = AccountTarget()
    monkeypatch.setattr(targets, "attach_target", made.attach)
    with moto_account(monkeypatch):
        yield made


def launch(run: Run, group: str) -> dict[str, Any]:
    """Launch an instance of a run; gives it as run.json has a host."""
    ec2 = make_client("ec2")
    image = ec2.register_image(Name=f"{group}-{len(ec2.describe_instances()['Reservations'])}")["ImageId"]
    tags = [{"Key": RUN_TAG, "Value": run.run_id}, {"Key": GROUP_TAG, "Value": group}]
    specified: Any = [{"ResourceType": "instance", "Tags": tags}]
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specified)["Instances"][0]
    private = made["PrivateIpAddress"]
    return {
        "address": "127.31." + ".".join(private.split(".")[2:]),
        "ssh_port": 22,
        "instance_id": made["InstanceId"],
        "group": group,
        "state": "running",
        "private_ip": private,
        "public_ip": "",
        "availability_zone": "us-east-1a",
        "image_id": image,
    }


def left_up(name: str = "", **facts: Any) -> Run:
    """Leave a run up, with the facts of one that was deployed."""
    run = Run.new(name)
    run.note(
        {
            "run_id": run.run_id,
            "target": HERE,
            "hosts": [launch(run, group) for group in ("clients", "servers", "servers")],
            "roles": {"consul_servers": ["servers"], "nomad_servers": ["servers"], "nomad_clients": ["clients"]},
            "ssh_user": "admin",
            "key_path": str(run.key_path),
            "secrets_path": None,
            "outputs": {},
            "timings": {},
            "example": Example.load(EXAMPLE).replace(num_servers=3, num_clients=1).describe(),
            "kept": True,
            **facts,
        }
    )
    return run
