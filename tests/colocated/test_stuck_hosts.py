"""A deployment that does not get ready says where each host got stuck; real hosts, each stuck in another way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from deploying import Deploy, Variant, stuck

from nomad_testkit import Example
from nomad_testkit.errors import BrokenError, UsageError, WaitTimeout
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target

UNKNOWN_PART = (
    'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=="\n\n'
    "--==\nContent-Type: text/plain\n\necho never run\n--==--\n"
)
NOT_UTF_8 = b"#!/bin/sh\n# \xe9\n"
GOSSIP = (
    "/opt/consul/bin/run-consul --server --cluster-tag-key ${cluster_tag_key} --cluster-tag-value ${cluster_tag_value} "
    "--enable-gossip-encryption --gossip-encryption-key $(head -c 32 /dev/urandom | base64)\n"
)
TOO_MANY = """
/opt/consul/bin/run-consul --server --cluster-tag-key ${cluster_tag_key} --cluster-tag-value ${cluster_tag_value}
until curl -sf http://127.0.0.1:8500/v1/status/leader | grep -q :8300; do sleep 0.2; done
runuser -u consul -- prlimit --nofile=8:8 --pid "$(systemctl show --property MainPID --value consul.service)"
for _ in 1 2 3; do curl -s -m 2 "http://$(hostname -I | cut -d ' ' -f 1):8300" || true; done
"""
"""Consul leads, may from then on open no file, and is connected to: on its RPC port it says that it cannot accept."""


def test_a_user_who_cannot_log_in_is_not_ready(
    nomad_settings: Settings, nomad_target: Target, variant: Variant, tmp_path: Path
) -> None:
    example = variant(num_servers=1, num_clients=0, ssh_user="nobody-here")
    said = stuck(nomad_settings, nomad_target, example, tmp_path, error=BrokenError, seconds=300)
    assert "nobody-here is not let in with " in said
    assert "in servers is up, but" in said
    assert "ssh_user" in said


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        (
            '/opt/consul/bin/run-consul --server --cluster-tag-key nobody --cluster-tag-value "${cluster_tag_value}"\n',
            ("servers-0 (i-", "/var/log/user-data.log ends:", "nobody"),
        ),
        (GOSSIP, ("servers-0 (i-", "servers-1", "consul.service warns:", "decrypt")),
        (TOO_MANY, ("servers-0 (i-", "consul.service warns:", "too many open files")),
    ],
    ids=["tag", "gossip key", "files"],
)
def test_each_host_says_where_it_is(
    nomad_settings: Settings,
    nomad_target: Target,
    variant: Variant,
    tmp_path: Path,
    instead: str,
    words: tuple[str, ...],
) -> None:
    example = variant(instead=instead, num_servers=3 if "servers-1" in words else 1, num_clients=0)
    said = stuck(nomad_settings, nomad_target, example, tmp_path, error=WaitTimeout, seconds=60)
    for word in words:
        assert word in said, said
    assert "connection refused" not in said.split("last seen")[0]
    assert len(said.splitlines()) <= 3 * 12 + 2, said


def test_clients_whose_role_may_not_look_for_servers_do_not_form_a_cluster(
    nomad_settings: Settings, nomad_target: Target, variant: Variant, tmp_path: Path
) -> None:
    folder = variant().folder
    described = (folder / "example.toml").read_text()
    assert described.count('"consul-iam-policies", ') == 1
    (folder / "example.toml").write_text(described.replace('"consul-iam-policies", ', ""))
    example = Example.load(folder).replace(num_servers=1, num_clients=1)
    said = stuck(nomad_settings, nomad_target, example, tmp_path, error=WaitTimeout, seconds=60)
    client, _, rest = said.partition("clients-0 (i-")[2].partition("\n")
    assert client, said
    refused, *lines = rest.splitlines()
    role = r"nomad-example-client-nt-\w+-\w+"
    assert re.fullmatch(rf" +UnauthorizedOperation: role {role} may not ec2:DescribeInstances", refused), said
    assert any("discover-aws" in line and "UnauthorizedOperation: You are not" in line for line in lines), said
    assert "servers-0 (i-" not in said


@pytest.mark.parametrize(
    "data",
    [UNKNOWN_PART.encode(), b"echo never run\n", NOT_UTF_8],
    ids=["unknown part", "no header", "not UTF-8"],
)
def test_user_data_that_cloud_init_passes_over_ends_it_at_once(
    nomad_settings: Settings,
    nomad_target: Target,
    variant: Variant,
    tmp_path: Path,
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All but the first would be refused when the example is loaded: the host is to say the same of them.
    monkeypatch.setattr("nomad_testkit.modules.cluster_variables.user_data_fault", lambda data: None)
    example = variant(num_servers=1, num_clients=0)
    (example.folder / "user-data-server.sh").write_bytes(data)
    example = Example.load(example.folder).replace(num_servers=1, num_clients=0)
    said = stuck(nomad_settings, nomad_target, example, tmp_path, error=BrokenError, seconds=300)
    assert "cloud-init passes over its user data" in said
    assert ("Failed calling handler" if data == NOT_UTF_8 else "Unhandled") in said


def test_a_groups_own_limit_ends_it(
    nomad_settings: Settings, nomad_target: Target, variant: Variant, tmp_path: Path
) -> None:
    file = variant(num_servers=1, num_clients=0).folder / "example.toml"
    limit = 'associate_public_ip_address = true\nwait_for_capacity_timeout = "1ms"'
    file.write_text(file.read_text().replace("associate_public_ip_address = true", limit, 1))
    example = Example.load(file).replace(num_servers=1, num_clients=0)
    said = stuck(nomad_settings, nomad_target, example, tmp_path, error=BrokenError, seconds=300)
    assert "0 of 1 servers, 0 of 0 clients are up after 0.001 s, the wait_for_capacity_timeout of servers" in said


def test_a_second_deployment_with_the_same_tag_is_refused(
    deploy: Deploy, nomad_settings: Settings, nomad_target: Target, variant: Variant, tmp_path: Path
) -> None:
    file = variant(num_servers=1, num_clients=0).folder / "example.toml"
    file.write_text(file.read_text().replace('type = "cluster-tag-value"', 'type = "string"'))
    example = Example.load(file).replace(num_servers=1, num_clients=0)
    with deploy(example) as first:
        said = stuck(nomad_settings, nomad_target, example, tmp_path, error=UsageError, seconds=300)
        assert f"nomad-servers = auto-join is in use in us-east-1 by the run {first.run_id}" in said
        assert first.hosts[0].instance_id in said
        assert len(first.consul_servers[0].consul.peers()) == 1
    with deploy(example):
        pass  # once it is gone, its tag is free
