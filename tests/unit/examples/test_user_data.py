"""User data is bytes: what an example sends as it is, and what it refuses because no host would ever run it."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

import pytest

from nomad_testkit import Example
from nomad_testkit.errors import ExampleError
from nomad_testkit.examples.variables import expand_user_data
from nomad_testkit.modules.auto_scaling_group import Placement, cluster_steps
from nomad_testkit.modules.user_data import user_data_fault


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


SHELL = b"#!/bin/sh\necho hello\n"
PACKED = packed(SHELL)
STORED = gzip.compress(b"#!/bin/sh\necho ${size}\n", compresslevel=0, mtime=0)
"""With its text in plain sight, and a checksum over it."""

EXAMPLE = """
[variables.size]
type = "server-count"
default = 1

[roles]
consul_servers = ["servers"]
nomad_servers = ["servers"]
nomad_clients = ["servers"]

[groups.servers]
module = "consul-cluster"
user_data = "boot"

[groups.servers.inputs]
cluster_name = "mine"
cluster_size = "${size}"
instance_type = "t3.micro"
cluster_tag_key = "own"
allowed_inbound_cidr_blocks = "${inbound_cidr_blocks}"
"""


def load(folder: Path, data: bytes) -> Example:
    (folder / "example.toml").write_text(EXAMPLE)
    (folder / "boot").write_bytes(data)
    return Example.load(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SHELL,
        b"#!/bin/sh\n# LF first, and then\r\necho CRLF\r\n",
        b"#!/usr/bin/env python3\n# \xc3\xa9 is UTF-8\n",
        b"#cloud-config\npackages: [jq]\n",
        b"#cloud-config\r\npackages: [jq]\r\n",
        b"\n  #cloud-config\n",
        b"#Cloud-Config-archive\n[]",
        b"#cloud-boothook\n#!/bin/sh\n",
        b"#include\nhttps://example.org/boot\n",
        b"#include-once\nhttps://example.org/boot\n",
        b"#part-handler\n",
        b"#upstart-job\n",
        b"## template: jinja\n#cloud-config\n",
        b'Content-Type: multipart/mixed; boundary="=="\r\nMIME-Version: 1.0\r\n\r\n--==\r\n',
        PACKED,
        packed(b"#cloud-config\n{}\n"),
    ],
)
def test_what_cloud_init_runs_is_sent_as_it_is(tmp_path: Path, data: bytes) -> None:
    assert user_data_fault(data) is None
    (group,) = load(tmp_path, data).render()
    assert group.module.user_data == data


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"echo hello\n", "b'echo hello', which cloud-init passes over"),
        (b"\x7fELF\x02\x01", "which cloud-init passes over"),
        (b"packages: [jq]\n", "which cloud-init passes over"),
        (b"# cloud-config\n", "which cloud-init passes over"),
        (b"\n#!/bin/sh\n", "white space before #!"),
        (b"#!\n/bin/sh\n", "names no interpreter"),
        (SHELL.replace(b"\n", b"\r\n"), "a first line that ends in CRLF"),
        (b"\xef\xbb\xbf" + SHELL, "a byte order mark of UTF-8"),
        (SHELL.decode().encode("utf-16"), "a byte order mark of UTF-16"),
        (SHELL.decode().encode("utf-32"), "a byte order mark of UTF-32"),
        (packed(b"echo hello\n"), "gzip of b'echo hello'"),
        (packed(b"\xef\xbb\xbf#cloud-config\n"), "gzip of text that begins with a byte order mark of UTF-8"),
        (PACKED[:-9], "gzip that is cut off"),
        (b"\x1f\x8b" + SHELL, "gzip that is damaged"),
        (SHELL + b"# \xff\n", "bytes that are not UTF-8, the first of them 0xff at offset 23"),
        (SHELL + b"# \xc3", "bytes that are not UTF-8, the first of them 0xc3 at offset 23"),
        (b"#cloud-config\n# \xe9\n", "the first of them 0xe9 at offset 16"),
        (b"MIME-Version: 1.0\n\n\xe9", "the first of them 0xe9 at offset 19"),
        (packed(SHELL + b"\xff"), "gzip of bytes that are not UTF-8, the first of them 0xff at offset 21"),
    ],
)
def test_what_can_never_run_is_refused_when_the_example_is_loaded(tmp_path: Path, data: bytes, found: str) -> None:
    with pytest.raises(ExampleError) as caught:
        load(tmp_path, data)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/boot: groups.servers.inputs.user_data: found ")
    assert found in said
    assert "; expected " in said


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (b"#!/bin/sh\necho \x07 ${size}\r\n", b"#!/bin/sh\necho \x07 5\r\n"),
        (b"#!/bin/sh\n# \xc3\xa9 ${size} $${size} ${other}\n", b"#!/bin/sh\n# \xc3\xa9 5 ${size} ${other}\n"),
        (STORED, STORED),
    ],
)
def test_only_the_references_change(tmp_path: Path, data: bytes, sent: bytes) -> None:
    (group,) = load(tmp_path, data).replace(size=5).render()
    assert group.module.user_data == sent


def test_a_character_at_the_end_of_what_is_looked_at_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomad_testkit.modules.user_data._MOST_UNPACKED", len(SHELL) + 1)
    assert user_data_fault(packed(SHELL + "éé".encode())) is None
    assert expand_user_data(b"\xff ${who}", {"who": "é"}) == b"\xff \xc3\xa9"


def test_a_launch_template_has_the_bytes(tmp_path: Path) -> None:
    (group,) = load(tmp_path, PACKED).render(run_id="nt-1")
    network: Any = type("Network", (), {"vpc_id": "vpc-1", "subnets": ()})()
    placement = Placement(network, "ami-1", "/dev/xvda", "nt-1", "servers", "key")
    (template,) = (step for step in cluster_steps(group.module, placement) if step.action == "create_launch_template")
    assert base64.b64decode(template.arguments["LaunchTemplateData"]["UserData"]) == PACKED
