"""What instances go through: stop and start, reboot, power-off, tokens, images, roles, auto scaling groups."""

from __future__ import annotations

from typing import Any

from ec2_box import Launch

from nomad_testkit.errors import HostError
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

METADATA = "http://169.254.169.254"


def test_stop_and_start_keep_disk_and_address(launch: Launch) -> None:
    with launch(UserData="#!/bin/sh\necho once >> /var/lib/boots\n") as box:
        box.await_status_ok()
        box.await_user_data()
        box.run("echo kept > /var/lib/kept")
        identity = box.run("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub")
        box.api.stop_instances(InstanceIds=[box.instance_id])
        assert box.state in ("stopping", "stopped")
        box.await_state("stopped")
        box.ssh.close()
        box.api.start_instances(InstanceIds=[box.instance_id])
        box.await_state("running")
        box.await_status_ok()
        box.await_user_data()
        assert box.run("cat /var/lib/kept").strip() == "kept"
        assert box.run("cat /var/lib/boots").split() == ["once"]
        assert box.run("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") == identity
        assert box.describe()["PrivateIpAddress"] == box.private_ip


def test_reboot(launch: Launch) -> None:
    with launch() as box:
        box.await_status_ok()
        before = box.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1").split()
        box.api.reboot_instances(InstanceIds=[box.instance_id])

        def probe() -> Ok[None] | Pending:
            box.ssh.close()
            try:
                now = box.run("cat /proc/sys/kernel/random/boot_id; stat -c %Y /proc/1").split()
            except HostError as error:  # it is just going down
                return Pending(str(error))
            return Pending("the same boot") if now[1] == before[1] else Ok(None)

        wait_until("another boot", probe, deadline=Deadline.after(60))
        assert box.state == "running"


def test_power_off_from_inside_stops_it(launch: Launch) -> None:
    with launch() as box:
        box.await_status_ok()
        box.run("systemd-run --quiet systemctl poweroff")
        box.await_state("stopped")
        assert "InstanceInitiatedShutdown" in box.describe()["StateReason"]["Code"]


def test_user_data_that_fails_is_seen(launch: Launch) -> None:
    with launch(UserData="#!/bin/sh\necho about to fail\nexit 1\n") as box:
        box.await_status_ok()
        box.await_user_data()
        assert box.run("cloud-init status || true").strip() == "status: error"
        assert "about to fail" in box.run("cat /var/log/cloud-init-output.log")


def test_an_image_of_an_instance(launch: Launch) -> None:
    with launch(UserData="#!/bin/sh\necho first > /opt/made\n") as origin:
        origin.await_status_ok()
        origin.await_user_data()
        identity = origin.run("cat /etc/machine-id")
        origin.run("rm /usr/bin/curl; rm -f /etc/ssh/ssh_host_*; : > /etc/machine-id; rm -rf /var/lib/cloud")
        origin.api.stop_instances(InstanceIds=[origin.instance_id])
        origin.await_state("stopped")
        image_id = origin.api.create_image(InstanceId=origin.instance_id, Name="made in a test")["ImageId"]

        def probe() -> Ok[dict[str, Any]] | Pending:
            image = origin.api.describe_images(ImageIds=[image_id])["Images"][0]
            return Ok(image) if image["State"] == "available" else Pending(image["State"])

        image = wait_until("the image", probe, deadline=Deadline.after(60))
        assert image["RootDeviceType"] == "ebs"
    with launch(ImageId=image_id, UserData="#!/bin/sh\necho second > /opt/again\n") as copy:
        copy.await_status_ok()
        copy.await_user_data()
        assert copy.run("cat /opt/made /opt/again").split() == ["first", "second"]
        assert copy.run("command -v curl || echo none").strip() == "none"
        assert copy.run("cat /etc/machine-id") != identity
        fetch = f"import urllib.request as u; print(u.urlopen('{METADATA}/latest/meta-data/ami-id').read().decode())"
        assert copy.run(f'python3 -c "{fetch}"').strip() == image_id
    copy.api.deregister_image(ImageId=image_id)
    assert copy.api.describe_images(Filters=[{"Name": "name", "Values": ["made in a test"]}])["Images"] == []
