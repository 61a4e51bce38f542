"""run-consul: its options, Consul's configuration and unit, and the order of its work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from consul_options import parse
from consul_tokens import Tokens
from fake_host import FakeHost, FakeMetadata, agent_folder, usage_of, verify_unit
from host_commons import HostFault
from host_systemd import AgentPaths
from run_consul import joins_by_itself, main, render_config, render_service, retry_join, run

KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
TOKEN = "6cdb7d0b-ab20-4d39-9a3c-6dd5ec2a01b5"
TAGS = "--cluster-tag-key consul-servers --cluster-tag-value auto-join"
RPC = "--enable-rpc-encryption --ca-path /tls/ca --cert-file-path /tls/c --key-file-path /tls/k"
GOSSIP = "--server --enable-gossip-encryption"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "one of --server and --client is required"),
        ("--server --client", "--server and --client exclude each other"),
        ("--serv", "unrecognized arguments: --serv"),
        ("--server extra", "unrecognized arguments: extra"),
        ("--server --cluster-tag-key a", "--cluster-tag-value belong together"),
        ("--server --cluster-tag-value a", "--cluster-tag-value belong together"),
        ("--server --cluster-tag-key", "argument --cluster-tag-key: expected one argument"),
        (GOSSIP, "--enable-gossip-encryption needs --gossip-encryption-key"),
        (f"--server --gossip-encryption-key {KEY}", "would do nothing without --enable-gossip-encryption"),
        (f"{GOSSIP} --gossip-encryption-key c2hvcnQ=", "argument --gossip-encryption-key: what was given has 5 bytes"),
        (f"{GOSSIP} --gossip-encryption-key-file /none", "-file: '/none' is refused: No such file or directory"),
        ("--server --enable-rpc-encryption", "needs --ca-path, --cert-file-path, --key-file-path too"),
        (f"--server {RPC.rpartition(' --')[0]}", "--enable-rpc-encryption needs --key-file-path too"),
        ("--server --ca-path /tls", "--ca-path: would do nothing without --enable-rpc-encryption"),
        ("--server --verify-server-hostname", "--verify-server-hostname: would do nothing without"),
        ("--client --raft-multiplier 1", "--raft-multiplier: would do nothing with --client"),
        ("--client --autopilot-max-trailing-logs 0", "--autopilot-max-trailing-logs: would do nothing with --client"),
        ("--client --autopilot-cleanup-dead-servers false", "-cleanup-dead-servers: would do nothing with --client"),
        (
            f"--server --skip-consul-config {TAGS}",
            "-key, --cluster-tag-value: would do nothing with --skip-consul-config",
        ),
        ("--client --endpoint http://10.0.0.1", "--endpoint would do nothing without --cluster-tag-key"),
        ("--client --retry-interval 5s", "--retry-interval would do nothing without"),
        ("--server --environment PLAIN", "argument --environment: there is no ="),
        ("--server --autopilot-last-contact-threshold 200", "'200' is refused; expected a duration"),
        ("--server --datacenter a,b", "argument --datacenter: 'a,b' is refused"),
        ("--server --raft-multiplier 0", "'0' is refused; expected a whole number from 1 to 10"),
        ("--server --enable-https", "--enable-https: would do nothing without --enable-rpc-encryption"),
        (f"--server {RPC} --verify-https-client", "--verify-https-client: would do nothing without --enable-https"),
        (f"--client --acl-agent-token {TOKEN}", "--acl-agent-token: would do nothing without --enable-acl"),
        (
            "--client --enable-acl --acl-initial-management-token-file /f",
            "--acl-initial-management-token-file: would do nothing with --client",
        ),
        (
            f"--server --enable-acl --acl-nomad-token {TOKEN}",
            "--acl-nomad-token: would do nothing without --acl-initial-management-token",
        ),
        (
            "--server --enable-acl --acl-agent-token short",
            "argument --acl-agent-token: what was given has 5 characters; expected a UUID",
        ),
        (
            f"--server --enable-acl --acl-agent-token {TOKEN} --acl-agent-token-file /f",
            "--acl-agent-token and --acl-agent-token-file exclude each other",
        ),
        (
            "--server --skip-consul-config --enable-acl --enable-https",
            "--enable-https, --enable-acl: would do nothing with --skip-consul-config",
        ),
    ],
)
def test_bad_options_end_with_usage(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_of(parse, options, capsys)
    assert said.startswith("usage: run-consul")
    assert message in said


def test_an_option_with_an_optional_value_swallows_no_other_option() -> None:
    options = parse(["--server", "--autopilot-disable-upgrade-migration", "--datacenter", "dc1"])
    assert options.autopilot_disable_upgrade_migration is True
    assert options.datacenter == "dc1"


def config(options: str, expect: int | None = 3) -> Any:
    facts = {"instance_id": "i-0123456789abcdef0", "address": "172.31.16.5", "region": "us-east-1"}
    return json.loads(render_config(parse(options.split()), bootstrap_expect=expect, **facts))


def test_the_configuration_of_a_server() -> None:
    assert config(f"--server {TAGS}") == {
        "advertise_addr": "172.31.16.5",
        "bind_addr": "172.31.16.5",
        "client_addr": "0.0.0.0",
        "datacenter": "us-east-1",
        "node_name": "i-0123456789abcdef0",
        "server": True,
        "retry_join": ["provider=aws region=us-east-1 tag_key=consul-servers tag_value=auto-join"],
        "retry_interval": "2s",
        "bootstrap_expect": 3,
        "ui_config": {"enabled": True},
        "performance": {"raft_multiplier": 1},
        "autopilot": {
            "cleanup_dead_servers": True,
            "last_contact_threshold": "200ms",
            "max_trailing_logs": 250,
            "server_stabilization_time": "10s",
            "redundancy_zone_tag": "az",
            "disable_upgrade_migration": False,
        },
    }


def test_the_configuration_of_a_client() -> None:
    made = config(f"--client {TAGS} --endpoint http://10.0.0.1:5000/", expect=None)
    assert made["retry_join"] == [
        "provider=aws region=us-east-1 tag_key=consul-servers tag_value=auto-join endpoint=http://10.0.0.1:5000"
    ]
    assert made["server"] is False
    assert not {"bootstrap_expect", "ui_config", "autopilot", "performance", "telemetry"} & made.keys()


def test_every_other_option_reaches_the_configuration() -> None:
    made = config(
        f"--server --datacenter dc1 --recursor 10.0.0.2 --recursor 10.0.0.3:53 --raft-multiplier 5 {RPC} "
        f"--enable-gossip-encryption --gossip-encryption-key {KEY} --verify-server-hostname "
        "--autopilot-cleanup-dead-servers false --autopilot-last-contact-threshold 1s "
        "--autopilot-max-trailing-logs 0 --autopilot-server-stabilization-time 1m "
        "--autopilot-redundancy-zone-tag zone --autopilot-upgrade-version-tag v --autopilot-disable-upgrade-migration"
    )
    assert (made["datacenter"], made["recursors"], made["encrypt"]) == ("dc1", ["10.0.0.2", "10.0.0.3:53"], KEY)
    assert made["tls"] == {
        "defaults": {
            "ca_path": "/tls/ca",
            "cert_file": "/tls/c",
            "key_file": "/tls/k",
            "verify_incoming": True,
            "verify_outgoing": True,
        },
        "internal_rpc": {"verify_server_hostname": True},
        "https": {"verify_incoming": False},
    }
    assert "ports" not in made
    assert made["autopilot"] == {
        "cleanup_dead_servers": False,
        "last_contact_threshold": "1s",
        "max_trailing_logs": 0,
        "server_stabilization_time": "1m",
        "redundancy_zone_tag": "zone",
        "disable_upgrade_migration": True,
        "upgrade_version_tag": "v",
    }
    assert made["performance"] == {"raft_multiplier": 5}
    assert "retry_join" not in made


def test_an_api_for_tokens_and_certificates_alone() -> None:
    agent = TOKEN.replace("6", "7")
    tokens = f"--acl-initial-management-token {TOKEN} --acl-agent-token {agent}"
    made = config(f"--server {RPC} --enable-https --verify-https-client --enable-acl {tokens}")
    assert made["ports"] == {"http": -1, "https": 8501}
    assert made["tls"]["https"] == {"verify_incoming": True}
    assert made["acl"] == {
        "enabled": True,
        "default_policy": "deny",
        "tokens": {"initial_management": TOKEN, "agent": agent},
    }
    assert config(f"--client --enable-acl --acl-default-token {TOKEN}")["acl"]["tokens"] == {"default": TOKEN}


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "token").write_text(f"  {TOKEN.upper()}\n")
    files = f"--gossip-encryption-key-file {tmp_path}/key --enable-acl --acl-agent-token-file {tmp_path}/token"
    made = config(f"--client --enable-gossip-encryption {files}")
    assert (made["encrypt"], made["acl"]["tokens"]) == (KEY, {"agent": TOKEN})


@pytest.mark.parametrize("content", [b"hunter2", b"", b"\xff\xfe"])
def test_what_is_no_secret_is_not_shown_either(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(content)
    said = usage_of(parse, f"{GOSSIP} --gossip-encryption-key-file {tmp_path}/key", capsys)
    assert f"argument --gossip-encryption-key-file: '{tmp_path}/key'" in said
    assert "hunter2" not in said


def test_tags_are_quoted_as_go_discover_reads_them() -> None:
    line = retry_join("role of it", 'a "b" \\ =c', "us-east-1", "")
    assert line == 'provider=aws region=us-east-1 tag_key="role of it" tag_value="a \\"b\\" \\\\ =c"'


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    return agent_folder(tmp_path, "consul")


def start(host: FakeHost, opt: Path, options: str) -> str:
    run(parse(options.split()), host, FakeMetadata(), str(opt / "bin" / "run-consul"))
    return (host.unit_dir / "consul.service").read_text()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_a_client_is_configured_validated_and_started(host: FakeHost, opt: Path) -> None:
    unit = start(host, opt, f"--client {TAGS}")
    written = opt / "config" / "default.json"
    assert json.loads(written.read_text())["server"] is False
    assert written.stat().st_mode & 0o777 == 0o640
    assert host.commands == [
        f"{opt}/bin/consul validate {opt}/config {opt}/data.validate.json",
        "systemctl show --property=ActiveState,SubState consul.service",
        "systemctl enable consul.service",
        "systemctl start consul.service",
    ]
    assert not (opt / "data.validate.json").exists()
    assert "Type=notify\nUser=consul\n" in unit
    assert f"ExecStart={opt}/bin/consul agent -config-dir {opt}/config -data-dir {opt}/data\n" in unit


def test_a_second_run_changes_nothing(host: FakeHost, opt: Path) -> None:
    start(host, opt, f"--client {TAGS}")
    host.answers["systemctl show"] = (0, "ActiveState=active\nSubState=running")
    host.commands.clear()
    start(host, opt, f"--client {TAGS}")
    assert not host.ran("systemctl start")
    assert not host.ran("systemctl restart")
    start(host, opt, f"--client {TAGS} --datacenter other")
    assert host.ran("systemctl restart consul.service")


def test_a_refused_configuration_is_told_in_the_agents_words_and_nothing_starts(host: FakeHost, opt: Path) -> None:
    (opt / "config" / "telemetry.json").write_text('{"telemetry": {"disable_compat_1.9": true}}')
    words = "failed to parse telemetry.json: invalid config key telemetry.disable_compat_1.9"
    host.answers[f"{opt}/bin/consul validate"] = (1, words)
    with pytest.raises(HostFault) as caught:
        start(host, opt, f"--client {TAGS}")
    assert str(caught.value).startswith("consul.service is not started: `consul validate` refuses")
    assert words in str(caught.value)
    assert not host.ran("systemctl")


def test_a_host_without_consul_or_the_user_is_a_fault(host: FakeHost, opt: Path) -> None:
    with pytest.raises(HostFault, match="there is no user nobody-here"):
        start(host, opt, "--client --user nobody-here")
    (opt / "bin" / "consul").unlink()
    with pytest.raises(HostFault, match=r"there is no program .*/bin/consul: run install-consul"):
        start(host, opt, f"--client {TAGS}")


def test_a_configuration_of_others_is_left_alone(host: FakeHost, opt: Path) -> None:
    mine = opt / "config" / "mine.hcl"
    mine.write_text('retry_join = ["10.0.0.1"]')
    unit = start(host, opt, "--client --skip-consul-config --environment CONSUL_HTTP_TOKEN=hidden")
    assert [path.name for path in (opt / "config").iterdir()] == ["mine.hcl"]
    assert "Type=notify" in unit
    assert f"EnvironmentFile={host.environment_dir}/run-consul\n" in unit
    assert "hidden" not in unit


def test_only_a_configuration_that_joins_makes_a_unit_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"server": true}')
    (tmp_path / "notes.txt").write_text("retry_join")
    assert not joins_by_itself(tmp_path)
    (tmp_path / "b.json").write_text('{"retry_join": ["10.0.0.1"]}')
    assert joins_by_itself(tmp_path)


def test_not_root_is_status_1(host: FakeHost) -> None:
    host.root = False
    assert main(["--client", *TAGS.split()], host) == 1


def test_a_server_makes_the_tokens_that_it_has(host: FakeHost, opt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    management, agent, nomad = (TOKEN[:-1] + digit for digit in "123")
    asked: list[object] = []
    monkeypatch.setattr(Tokens, "make", lambda _, management, wanted: asked.append((management, wanted)))
    monkeypatch.setattr(Tokens, "adopt", lambda _, secret: asked.append(secret))
    monkeypatch.setattr("run_consul.configure", lambda *_: True)
    tokens = f"--acl-initial-management-token {management} --acl-agent-token {agent} --acl-nomad-token {nomad}"
    start(host, opt, f"--server {TAGS} --enable-acl {tokens}")
    assert asked == [(management, {"consul-agent": agent, "nomad-agent": nomad}), agent]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("joins", [True, False])
def test_systemd_finds_nothing_wrong_with_the_unit(host: FakeHost, opt: Path, joins: bool) -> None:
    options = parse(f"--client --user root --systemd-stdout journal --systemd-stderr append:{opt}/err.log".split())
    place = AgentPaths(host, script=str(opt / "bin" / "run-consul"), agent="consul", options=options)
    path = host.unit_dir / "consul.service"
    path.write_text(render_service(place, options, joins=joins, environment=host.environment_dir / "run-consul"))
    assert verify_unit(path) == (0, "", "")
