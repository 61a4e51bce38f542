"""User data arrives on a host byte for byte, compressed or not; and the hosts of a maker with a narrow umask work."""

from __future__ import annotations

import base64
import gzip
import os
from pathlib import Path

import pytest
from ec2_box import Box, Launch, let_in

from nomad_testkit.ec2.handle import EmbeddedEc2
from nomad_testkit.ec2.machines.layers import LocalImage

CRLF = b"#!/bin/sh\nprintf '%s' 'a\r\nb' > /run/ran # \xc3\xa9\n"


@pytest.mark.parametrize("data", [CRLF, gzip.compress(CRLF, mtime=0)], ids=["plain", "gzip"])
def test_user_data_is_not_touched(launch: Launch, data: bytes) -> None:
    with launch(UserData=data) as box:
        box.await_user_data()
        assert base64.b64decode(box.run("base64 /var/lib/cloud/instance/user-data.txt")) == data
        assert base64.b64decode(box.run("base64 /run/ran")) == b"a\r\nb"


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_a_narrow_umask_of_its_maker_is_not_that_of_the_disk(debian: LocalImage, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with EmbeddedEc2.start(region="us-east-1", images=[debian]) as ec2:
            api = ec2.client("ec2")
            let_in(api, f"{ec2.machine_address}/32")
            key = tmp_path / "id"
            key.write_text(api.create_key_pair(KeyName="narrow", KeyType="ed25519")["KeyMaterial"])
            (made,) = api.run_instances(
                ImageId=debian.image_id, InstanceType="t3.micro", KeyName="narrow", MinCount=1, MaxCount=1
            )["Instances"]
            box = Box(ec2, made["InstanceId"], key)
            box.run("true")
            written = "/ /etc/resolv.conf /etc/hostname /etc/ssl/certs/ca-certificates.crt /usr/local/share"
            modes = box.ssh.run(f"stat -c '%a %n' {written}").stdout
            assert [line.split()[0] for line in modes.splitlines()] == ["755", "644", "644", "644", "755"], modes
            assert box.ssh.run("getent hosts ec2.us-east-1.amazonaws.com && umask").stdout.strip().endswith("0022")
            box.ssh.close()
    finally:
        os.umask(before)
