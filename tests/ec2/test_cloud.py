"""The life of a cloud: it stands alone, several stand side by side, and however one ends, nothing of it is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ec2_box import Box
from pytest_runs import supervisors_of

from nomad_testkit.cli.bench.machine_state import listeners_of
from nomad_testkit.ec2 import handle
from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.layers import LocalImage
from nomad_testkit.errors import Ec2Error
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

NothingLeft = Callable[[], None]


def boot_one(cloud: EmbeddedEc2, image: LocalImage) -> str:
    """Run an instance and wait until it does; gives its private address."""
    api = cloud.client("ec2")
    started = api.run_instances(ImageId=image.image_id, InstanceType="t3.micro", MinCount=1, MaxCount=1)
    instance = started["Instances"][0]

    def probe() -> Ok[None] | Pending:
        found = api.describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"][0]["Instances"][0]
        state = found["State"]["Name"]
        return Ok(None) if state == "running" else Pending(state)

    wait_until("a running instance", probe, deadline=Deadline.after(60))
    return str(instance["PrivateIpAddress"])


def await_end(cloud: EmbeddedEc2) -> None:
    """Wait until the cloud's folder is gone."""

    def probe() -> Ok[None] | Pending:
        return Pending("it is there") if cloud.state_dir.exists() else Ok(None)

    wait_until("the cloud to end", probe, deadline=Deadline.after(20))


def test_shutdown_leaves_nothing(debian: LocalImage, nothing_left: NothingLeft) -> None:
    with EmbeddedEc2.start(region="us-east-1", images=[debian]) as cloud:
        boot_one(cloud, debian)
    nothing_left()


def test_the_last_lease_ends_it(debian: LocalImage, nothing_left: NothingLeft) -> None:
    first = EmbeddedEc2.start(region="us-east-1", images=[debian])
    second = EmbeddedEc2.attach(first.state_dir)
    boot_one(first, debian)
    first.close()
    assert len(second.client("ec2").describe_instances()["Reservations"]) == 1
    second.close()
    await_end(second)
    nothing_left()


def test_a_kept_cloud_outlives_its_leases(debian: LocalImage, nothing_left: NothingLeft) -> None:
    first = EmbeddedEc2.start(region="us-east-1", images=[debian])
    first.keep()
    first.close()
    later = EmbeddedEc2.attach(first.state_dir)
    assert later.client("ec2").describe_images()["Images"][0]["ImageId"] == debian.image_id
    later.shutdown()
    nothing_left()


MAKER = """
import sys

from nomad_testkit.ec2 import handle


def connect(state_dir, timeout):
    print(state_dir, flush=True)
    sys.stdin.read()  # nobody writes


handle.Connection = connect
handle.EmbeddedEc2.start(region="us-east-1", images=[])
"""


def test_it_ends_with_a_maker_that_dies_before_its_first_lease(nothing_left: NothingLeft) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        log = Path(maker.stdout.readline().strip()) / "cloud.log"
        wait_until(
            "an open cloud",
            lambda: Ok(None) if "the cloud is open" in (told := log.read_text()) else Pending(told),
            deadline=Deadline.after(60),
        )
        maker.kill()
    nothing_left()


@pytest.mark.parametrize("victim", ["nomad_testkit.ec2.supervisor", "nomad_testkit.ec2.warden"])
def test_a_killed_process_takes_the_cloud_with_it(
    victim: str, debian: LocalImage, nothing_left: NothingLeft, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = EmbeddedEc2.start(region="us-east-1", images=[debian])
    boot_one(cloud, debian)
    # This cloud's own: another session's on this machine is none of the test's.
    for pid in supervisors_of(cloud.warden_pid) if victim.endswith("supervisor") else [cloud.warden_pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it went with another of them
    cloud.close()
    if victim.endswith("warden"):
        # Its cgroups and its folder are all that the kernel leaves; the next cloud takes them over.
        with EmbeddedEc2.start(region="us-east-1", images=[debian]) as next_one:
            assert next_one.endpoint_url == cloud.endpoint_url
    else:
        await_end(cloud)
    nothing_left()


def test_a_killed_holder_ends_it(debian: LocalImage, nothing_left: NothingLeft, tmp_path: Path) -> None:
    program = tmp_path / "holder.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from nomad_testkit.ec2.handle import EmbeddedEc2\n"
        "from nomad_testkit.ec2.machines.layers import LocalImage\n"
        f"image = LocalImage({debian.image_id!r}, 'debian', (Path({str(debian.layers[0])!r}),))\n"
        "cloud = EmbeddedEc2.start(region='us-east-1', images=[image])\n"
        "cloud.client('ec2').run_instances(ImageId=image.image_id, MinCount=1, MaxCount=1)\n"
        "print(cloud.state_dir, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        state_dir = Path(holder.stdout.readline().strip())
        assert (state_dir / "cloud.json").is_file()
        holder.kill()
    nothing_left()


def test_two_clouds_do_not_meet(debian: LocalImage, nothing_left: NothingLeft) -> None:
    with (
        EmbeddedEc2.start(region="us-east-1", images=[debian]) as one,
        EmbeddedEc2.start(region="eu-west-1", images=[debian]) as other,
    ):
        assert one.endpoint_url != other.endpoint_url
        addresses = {boot_one(one, debian), boot_one(one, debian)}
        assert len(addresses) == 2
        assert other.client("ec2").describe_instances()["Reservations"] == []
        one.shutdown()
        boot_one(other, debian)
    nothing_left()


def test_a_cloud_that_takes_over_an_index_is_not_a_leftover(
    debian: LocalImage, nothing_left: NothingLeft, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EmbeddedEc2.start(region="us-east-1", images=[debian])
    await_exit = handle._await_exit

    def await_exit_and_start_the_next(pid: int, timeout: float) -> None:
        await_exit(pid, timeout)
        monkeypatch.setattr(handle, "_await_exit", await_exit)
        later.append(EmbeddedEc2.start(region="us-east-1", images=[debian]))

    later: list[EmbeddedEc2] = []
    monkeypatch.setattr(handle, "_await_exit", await_exit_and_start_the_next)
    first.shutdown()
    (second,) = later
    assert second.state_dir == first.state_dir
    second.shutdown()
    nothing_left()


def test_what_a_cloud_leaves_is_named(debian: LocalImage, nothing_left: NothingLeft) -> None:
    cloud = EmbeddedEc2.start(region="us-east-1", images=[debian])
    cloud.shutdown()
    cloud.state_dir.mkdir(parents=True)
    try:
        with pytest.raises(Ec2Error, match=f"left {cloud.state_dir}"):
            cloud.shutdown()
    finally:
        cloud.state_dir.rmdir()
    nothing_left()


def test_an_image_without_init_says_so(tmp_path: Path, nothing_left: NothingLeft) -> None:
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/os-release").write_text("ID=nothing\n")
    image = LocalImage("ami-00000000000000bad", "no init", (tmp_path / "root",))
    with EmbeddedEc2.start(region="us-east-1", images=[image]) as cloud:
        api = cloud.client("ec2")
        started = api.run_instances(ImageId=image.image_id, InstanceType="t3.micro", MinCount=1, MaxCount=1)
        instance_id = started["Instances"][0]["InstanceId"]

        def probe() -> Ok[str] | Pending:
            found = api.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
            if found["State"]["Name"] != "terminated":
                return Pending(found["State"]["Name"])
            return Ok(found["StateReason"]["Message"])

        reason = wait_until("the instance to end", probe, deadline=Deadline.after(30))
        assert "its console ends with" in reason
        assert "init" in reason
    nothing_left()


def test_attach_to_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Ec2Error, match="no embedded cloud is at"):
        EmbeddedEc2.attach(tmp_path)


def test_only_root_reaches_the_control_socket(cloud: EmbeddedEc2) -> None:
    assert cloud.state_dir.stat().st_mode & 0o777 == 0o700
    assert (cloud.state_dir / "cloud.log").stat().st_mode & 0o777 == 0o600


def processes_of(cloud: EmbeddedEc2) -> list[int]:
    """List the processes of a cloud: its warden and all below it, its hosts' too."""
    said = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, said.splitlines())}
    found = level = {cloud.warden_pid}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found = found | level
    return sorted(found)


def test_nothing_listens_on_the_machine(cloud: EmbeddedEc2, box: Box) -> None:
    table = json.loads(subprocess.run(["ip", "-json", "addr"], capture_output=True, text=True, check=True).stdout)
    (link,) = (one for one in table if cloud.machine_address in {address["local"] for address in one["addr_info"]})
    assert link["ifname"].startswith("nomadtk")
    assert [address["local"] for address in link["addr_info"]] == [cloud.machine_address]
    listeners = subprocess.run(["ss", "-Hltnu"], capture_output=True, text=True, check=True).stdout
    assert [line for line in listeners.splitlines() if cloud.machine_address in line] == []
    processes = processes_of(cloud)
    assert listeners_of(processes) == []
    # All of them are looked at, and what they have in their own namespace is seen there.
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes]
    assert any(b"systemd-nspawn" in command for command in commands)
    inside = ["nsenter", "--net", f"--target={supervisors_of(cloud.warden_pid)[-1]}", "ss", "-Hltnup"]
    theirs = subprocess.run(inside, capture_output=True, text=True, check=True).stdout
    assert {int(pid) for pid in re.findall(r"pid=(\d+)", theirs)} & set(processes)


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ENDPOINT_URL_EC2": "http://127.0.0.1:9"},
        {"AWS_PROFILE": "production", "AWS_REGION": "ap-south-1", "AWS_DEFAULT_REGION": "ap-south-1"},
        {"AWS_ACCESS_KEY_ID": "AKIAREAL", "AWS_SECRET_ACCESS_KEY": "real", "AWS_SESSION_TOKEN": "real"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "AWS_CA_BUNDLE": "/nowhere"},
        {
            "AWS_USE_FIPS_ENDPOINT": "true",
            "AWS_USE_DUALSTACK_ENDPOINT": "true",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "",
        },
    ],
)
def test_the_environment_redirects_nothing(
    variables: dict[str, str], cloud: EmbeddedEc2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\nregion = ap-south-1\nendpoint_url = http://127.0.0.1:9\n[profile other]\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(config))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    later = EmbeddedEc2.attach(cloud.state_dir)  # whose clients are made with these variables
    api = later.client("ec2")
    assert api.meta.endpoint_url == cloud.endpoint_url
    assert api.meta.region_name == "us-east-1"
    assert api._request_signer._credentials.access_key == cloud.credentials.access_key_id
    assert [zone["ZoneName"] for zone in api.describe_availability_zones()["AvailabilityZones"]][:3] == [
        "us-east-1a",
        "us-east-1b",
        "us-east-1c",
    ]
    later.close()
